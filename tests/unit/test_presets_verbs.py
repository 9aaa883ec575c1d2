"""``occtl init``, ``model``, ``models``, ``explain``: what they write, keep, say, and end with; without a daemon."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl.__main__ import main
from ocd.stack.families import SLOTS
from ocd.stack.presets import PRESETS, files, inference_prefix

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    prefix = Path(tempfile.mkdtemp(prefix="ocdpre", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_", "LITELLM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCD_PREFIX", str(prefix))
    monkeypatch.setenv("HOME", str(prefix))
    yield prefix / "config"
    shutil.rmtree(prefix)


def run(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def contents(config: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in config.iterdir()}


@pytest.mark.parametrize("preset", ["mixed", "fallback", "bedrock"])
def test_each_preset_passes_the_check_and_leads_somewhere(config: Path, capsys: Capture, preset: str) -> None:
    code, said = run(capsys, "init", "--preset", preset)
    assert code == 0 and said["ok"] and said["backup"] is None
    assert [one for one in said["findings"] if one["severity"] != "note"] == []
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in config.iterdir())
    code, said = run(capsys, "models")
    assert code == 0
    slots = {slot: row for row in said["models"] for slot in row["slot"].split(", ")}
    assert {slot: row["pinned"] for slot, row in slots.items() if slot} == {
        slot: slot == "haiku" and preset == "mixed" for slot in SLOTS
    }
    upstreams = {slot: slots[slot]["upstream"] for slot in SLOTS}
    anthropic, aws = "https://api.anthropic.com", "https://bedrock-runtime.us-west-2.amazonaws.com"
    expected = {
        "mixed": (anthropic, anthropic, aws, anthropic),
        "fallback": (anthropic, anthropic, anthropic, anthropic),
        "bedrock": (aws, aws, aws, aws),
    }[preset]
    assert tuple(upstreams.values()) == expected
    falls = [slots[slot]["fallbacks"] for slot in SLOTS]
    assert all(bool(one) == (preset == "fallback") for one in falls)
    if preset == "bedrock":
        assert all(row["upstream"] == aws for row in said["models"]), "nothing goes to Anthropic"


def test_init_is_idempotent_and_never_loses_a_file(config: Path, capsys: Capture) -> None:
    run(capsys, "init")
    assert run(capsys, "init")[1]["written"] == []
    toml = config / "ocd.toml"
    toml.write_text("# mine\nport = 5123  # because\n" + toml.read_text())
    code, said = run(capsys, "init", "--preset", "fallback")
    assert code == 0 and len(said["written"]) == 3
    assert toml.read_text().startswith("# mine\nport = 5123  # because\n")
    assert '\nhaiku = ""\n' in toml.read_text()
    assert run(capsys, "init", "--preset", "fallback")[1]["written"] == []
    own = (config / "litellm.yaml").read_text() + "# my own work\n"
    (config / "litellm.yaml").write_text(own)
    before = contents(config)
    code, said = run(capsys, "init", "--preset", "mixed")
    assert code == 78 and said["error"]["code"] == "own-files" and contents(config) == before
    assert run(capsys, "init", "--preset", "mixed", "--dry-run", "--force")[0] == 0
    assert contents(config) == before, "a dry run writes nothing"
    code, said = run(capsys, "init", "--preset", "mixed", "--force")
    assert code == 0
    kept = [path.read_text() for path in Path(said["backup"]).glob("*-litellm.yaml")]
    assert kept == [own]
    assert "haiku" not in "".join(line for line in toml.read_text().splitlines() if not line.startswith("#"))
    code, said = run(capsys, "init", "--undo")
    assert code == 0 and contents(config) == before


def test_undo_refuses_what_was_changed_since_and_force_keeps_it(config: Path, capsys: Capture) -> None:
    run(capsys, "init")
    run(capsys, "init", "--preset", "bedrock")
    file = config / "litellm.yaml"
    file.write_text(file.read_text() + "# later\n")
    code, said = run(capsys, "init", "--undo")
    assert code == 78 and said["error"]["code"] == "changed-since"
    assert run(capsys, "init", "--undo", "--force")[0] == 0
    kept = [path.read_text() for path in (config.parent / "state" / "backups").glob("*-undo/*litellm.yaml")]
    assert len(kept) == 1 and kept[0].endswith("# later\n")


def test_external_needs_address_and_key_and_shows_neither_key(
    config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, "init", "--preset", "external")[1]["error"]["code"] == "no-external-address"
    monkeypatch.setenv("LITELLM_BASE_URL", "https://llm.example.com/v1/")
    code, said = run(capsys, "init", "--preset", "external")
    assert (code, said["error"]["code"]) == (78, "no-external-key") and not config.exists()
    monkeypatch.setenv("LITELLM_API_KEY", "sk-canary-77")
    code, said = run(capsys, "init", "--preset", "external")
    assert code == 0 and [Path(path).name for path in said["written"]] == ["ocd.toml"]
    assert "sk-canary-77" not in json.dumps(said) + (config / "ocd.toml").read_text()
    key = config.parent / "state" / "external-key"
    assert key.read_text() == "sk-canary-77" and stat.S_IMODE(key.stat().st_mode) == 0o600
    monkeypatch.delenv("LITELLM_API_KEY")
    monkeypatch.delenv("LITELLM_BASE_URL")
    assert run(capsys, "init", "--preset", "external")[0] == 0, "both are stored"
    row = run(capsys, "models")[1]["models"][0]
    assert row["upstream"] == "https://llm.example.com"
    key.chmod(0o644)
    assert run(capsys, "init", "--preset", "external")[0] == 77
    assert run(capsys, "init", "--preset", "mixed")[0] == 0
    assert run(capsys, "models")[1]["models"][0]["upstream"] == "https://api.anthropic.com"


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://x", "https://", "https://u:p@x", "http://x?key=1", "http://x:99999"]
)
def test_no_address(config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LITELLM_BASE_URL", url)
    monkeypatch.setenv("LITELLM_API_KEY", "k")
    code, said = run(capsys, "init", "--preset", "external")
    assert code == 78 and "u:p" not in json.dumps(said)


@pytest.mark.parametrize(
    ("region", "prefix"),
    [("us-east-1", "us."), ("eu-north-1", "eu."), ("ap-south-1", "global."), ("us-gov-west-1", "us-gov.")],
)
def test_the_inference_profiles_fit_the_region(region: str, prefix: str) -> None:
    assert inference_prefix(region) == prefix
    text = files(PRESETS["bedrock"], region)["litellm-bedrock.yaml"]
    assert text.count(f"/{prefix}anthropic.") == 4 == text.count("anthropic.claude")


# ---- model


LLAMA = "bedrock/converse/meta.llama4-scout-17b-16e-instruct-v1:0"


def test_the_haiku_slot_gets_another_model_and_nothing_else_changes(config: Path, capsys: Capture) -> None:
    run(capsys, "init")
    before = contents(config)
    assert run(capsys, "model", "set", "haiku", LLAMA, "--dry-run")[1]["changed"]
    assert contents(config) == before
    code, said = run(capsys, "model", "set", "haiku", LLAMA)
    assert code == 0 and [Path(path).name for path in said["changed"]] == ["litellm-bedrock.yaml"]
    assert said["iam"] == {
        "actions": ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"],
        "resources": ["arn:aws:bedrock:us-west-2::foundation-model/meta.llama4-scout-17b-16e-instruct-v1:0"],
    }
    old, new = (
        before["litellm-bedrock.yaml"].decode().splitlines(),
        (config / "litellm-bedrock.yaml").read_text().splitlines(),
    )
    assert [(a.strip(), b.strip()) for a, b in zip(old, new, strict=True) if a != b] == [
        ("model: bedrock/converse/qwen.qwen3-next-80b-a3b", f'model: "{LLAMA}"')
    ]
    assert run(capsys, "model", "set", "haiku", LLAMA)[1]["changed"] == []
    code, said = run(capsys, "model", "set", "haiku", "bedrock/us.amazon.nova-pro-v1:0", "--name", "nova")
    assert code == 0 and len(said["changed"]) == 3 and len(said["iam"]["resources"]) == 2
    assert (
        run(capsys, "explain", "haiku")[1]["ways"][0]["hops"][1]["model"] == "bedrock/us.amazon.nova-pro-v1:0"
    )
    assert run(capsys, "model", "undo")[0] == 0
    assert run(capsys, "model", "undo")[0] == 0
    assert contents(config) == before
    assert run(capsys, "model", "undo")[0] == 66


def test_a_slot_of_anthropics_moves_to_bedrock_under_a_new_name(config: Path, capsys: Capture) -> None:
    run(capsys, "init")
    code, said = run(capsys, "model", "set", "sonnet", "bedrock/converse/us.anthropic.claude-sonnet-9-9")
    assert code == 0 and said["group"] == "claude-sonnet-9-9-bedrock"
    ways = run(capsys, "explain", "sonnet")[1]["ways"]
    assert [hop["proxy"] for hop in ways[0]["hops"]] == ["main", "bedrock"]
    assert (
        run(capsys, "explain", "claude-sonnet-9-9")[1]["ways"][0]["hops"][0]["upstream"]
        == "https://api.anthropic.com"
    )
    code, said = run(capsys, "model", "set", "sonnet", "claude-sonnet-9-9")
    assert code == 0 and said["iam"] is None and [Path(path).name for path in said["changed"]] == ["ocd.toml"]
    code, said = run(capsys, "model", "set", "haiku", "anthropic/claude-haiku-9-9")
    assert (
        code == 0
        and run(capsys, "explain", "haiku")[1]["ways"][0]["hops"][0]["model"] == "anthropic/claude-haiku-9-9"
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("opus", "nonsense"), 64),
        (("opus", "vertex_ai/x"), 64),
        (("opus", "bedrock/"), 64),
        (("haiku", LLAMA, "--name", "a b"), 64),
        (("haiku", LLAMA, "--name", "claude-*"), 64),
        (("best", LLAMA), 64),
    ],
)
def test_what_cannot_be_set_changes_nothing(
    config: Path, capsys: Capture, words: tuple[str, ...], code: int
) -> None:
    run(capsys, "init")
    before = contents(config)
    assert run(capsys, "model", "set", *words)[0] == code
    assert contents(config) == before


def test_a_group_that_two_slots_share_is_not_changed_under_the_other(config: Path, capsys: Capture) -> None:
    run(capsys, "init")
    toml = config / "ocd.toml"
    toml.write_text(toml.read_text().replace("[slots]\n", '[slots]\nsonnet = "qwen-3-coder"\n', 1))
    assert run(capsys, "model", "set", "haiku", LLAMA)[1]["group"] == "llama4-scout-17b-16e-instruct"
    assert "qwen" in run(capsys, "explain", "sonnet")[1]["ways"][0]["hops"][1]["model"]


# ---- explain


@pytest.mark.parametrize(
    "asked",
    ["claude-opus-9-9", "claude-opus-9-9[1m]", "litellm@claude-opus-9-9", "ll@claude-opus-9-9"],
)
def test_all_forms_of_a_name_take_one_way(config: Path, capsys: Capture, asked: str) -> None:
    run(capsys, "init", "--preset", "fallback")
    code, said = run(capsys, "explain", asked)
    assert code == 0 and said["name"] == "claude-opus-9-9" and len(said["ways"]) == 1
    way = said["ways"][0]
    assert [hop["model"] for hop in way["hops"]] == ["anthropic/claude-opus-9-9"]
    (fallback,) = way["fallbacks"]
    assert "529" in fallback["when"] and "401" not in fallback["when"]
    assert [hop["credential"] for hop in fallback["ways"][0]["hops"]][1] == "AWS's default credentials"


def test_wildcards_broken_ways_and_unknown_names(config: Path, capsys: Capture) -> None:
    run(capsys, "init")
    assert (
        run(capsys, "explain", "claude-next-9")[1]["ways"][0]["hops"][0]["model"] == "anthropic/claude-next-9"
    )
    code, said = run(capsys, "explain", "qwen-3-codr")
    assert code == 64 and "qwen-3-coder" in said["error"]["next"]
    file = config / "litellm-bedrock.yaml"
    file.write_text(file.read_text().replace("model_name: qwen-3-coder", "model_name: qwen"))
    code, said = run(capsys, "explain", "haiku")
    assert code == 78 and "no model_name qwen-3-coder" in said["ways"][0]["broken"]
    assert run(capsys, "models")[0] == 78
    assert main(["explain", "haiku"]) == 78
    assert "there it ends" in capsys.readouterr().out
