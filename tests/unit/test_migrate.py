"""``occtl migrate``: the seeds' layouts come in, pass the check, and go again; the originals stay."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl.__main__ import main

SEEDS = Path(__file__).parent / "seeds_configs"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    prefix = Path(tempfile.mkdtemp(prefix="ocdmig", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_", "LITELLM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCD_PREFIX", str(prefix))
    monkeypatch.setenv("HOME", str(prefix))
    (prefix / ".litellm").mkdir()
    yield prefix
    shutil.rmtree(prefix)


def seed(home: Path, main_file: str, bedrock: str = "", **slots: str) -> dict[str, bytes]:
    shutil.copy(SEEDS / main_file, home / ".litellm" / "config.yaml")
    if bedrock:
        shutil.copy(SEEDS / bedrock, home / ".litellm" / "config-bedrock.yaml")
    if slots:
        (home / ".openClaude").mkdir()
        (home / ".openClaude" / "settings.json").write_text(json.dumps({"env": slots}))
    return originals(home)


def originals(home: Path) -> dict[str, bytes]:
    files = [path for folder in (".litellm", ".openClaude") for path in (home / folder).rglob("*")]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def run(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def ways(capsys: Capture, slot: str) -> list[str]:
    return [hop["model"] for hop in run(capsys, "explain", slot)[1]["ways"][0]["hops"]]


@pytest.mark.parametrize(
    ("files", "haiku"),
    [
        (("mixed.yaml",), "bedrock/converse/qwen.qwen3-next-80b-a3b"),
        (("dual-main.yaml", "dual-bedrock.yaml"), "bedrock/converse/qwen.qwen3-next-80b-a3b"),
        (("bedrock-opus.yaml",), "bedrock/converse/qwen.qwen3-next-80b-a3b"),
        (("fallback.yaml",), "bedrock/converse/qwen.qwen3-next-80b-a3b"),
    ],
)
def test_each_seed_comes_in_and_goes_again(
    home: Path, capsys: Capture, files: tuple[str, ...], haiku: str
) -> None:
    before = seed(home, *files)
    assert run(capsys, "migrate", "--dry-run")[0] == 0 and not (home / "config").exists()
    code, said = run(capsys, "migrate")
    assert code == 0 and said["ok"] and len(said["written"]) == 3
    assert [one for one in said["findings"] if one["severity"] == "error"] == []
    assert run(capsys, "config", "check")[0] == 0
    assert ways(capsys, "haiku")[-1] == haiku
    assert all("bedrock/" not in model for slot in ("opus", "sonnet") for model in ways(capsys, slot))
    assert run(capsys, "migrate")[1]["written"] == []
    assert originals(home) == before
    assert run(capsys, "migrate", "--undo")[0] == 0
    assert list((home / "config").iterdir()) == [] and originals(home) == before


def test_region_profile_slots_and_own_model_come_along(home: Path, capsys: Capture) -> None:
    text = (SEEDS / "mixed.yaml").read_text().replace("us-west-2", "eu-west-1\n      aws_profile_name: work")
    seed(
        home,
        "mixed.yaml",
        ANTHROPIC_DEFAULT_OPUS_MODEL="claude-sonnet-4-5[1m]",
        ANTHROPIC_SMALL_FAST_MODEL="gone",
    )
    (home / ".litellm" / "config.yaml").write_text(text.replace("qwen.qwen3-next-80b-a3b", "meta.llama-x"))
    code, said = run(capsys, "migrate")
    assert code == 0 and any("gone" in line for line in said["notes"])
    toml = (home / "config" / "ocd.toml").read_text()
    assert 'aws_region = "eu-west-1"' in toml and 'aws_profile = "work"' in toml
    assert 'opus = "claude-sonnet-4-5"' in toml
    last = run(capsys, "explain", "haiku")[1]["ways"][0]["hops"][-1]
    assert last["model"] == "bedrock/converse/meta.llama-x"
    assert (last["upstream"], last["credential"]) == (
        "https://bedrock-runtime.eu-west-1.amazonaws.com",
        "AWS profile work",
    )


def test_code_comes_along_but_not_the_callback_that_gives_the_login_away(home: Path, capsys: Capture) -> None:
    seed(home, "fallback.yaml")
    (home / ".litellm" / "oauth_passthrough.py").write_text(
        "class Handler:\n    async def async_pre_call_hook(self, user, cache, data, kind):\n"
        "        data['api_key'] = user.metadata['raw_token']\n        return data\n\n"
        "proxy_handler_instance = Handler()\n"
    )
    (home / ".litellm" / "custom_auth.py").write_text("async def user_api_key_auth(request, api_key): ...\n")
    code, said = run(capsys, "migrate")
    assert code == 0, said
    assert any("oauth_passthrough.proxy_handler_instance was left out" in line for line in said["notes"])
    text = (home / "config" / "litellm.yaml").read_text()
    assert "oauth_passthrough" not in text and "custom_auth: custom_auth.user_api_key_auth" in text
    assert (home / "config" / "custom_auth.py").exists()


def test_own_work_and_what_cannot_be_mended_need_force(home: Path, capsys: Capture) -> None:
    seed(home, "mixed.yaml")
    main(["init"])
    capsys.readouterr()
    assert run(capsys, "migrate")[0] == 0, "shipped files are nobody's work"
    file = home / "config" / "litellm.yaml"
    file.write_text(file.read_text() + "# mine\n")
    code, said = run(capsys, "migrate")
    assert code == 78 and said["error"]["code"] == "own-files" and file.read_text().endswith("# mine\n")
    assert run(capsys, "migrate", "--force")[0] == 0 and not file.read_text().endswith("# mine\n")
    text = (SEEDS / "mixed.yaml").read_text()
    elsewhere = "\n      api_base: https://llm.example.com"
    old = home / ".litellm" / "config.yaml"
    old.write_text(
        text.replace("anthropic/claude-opus-4-6-20250514", "anthropic/claude-opus-4-6" + elsewhere)
    )
    now = (home / "config" / "litellm.yaml").read_bytes()
    main(["init", "--preset", "mixed", "--force"])
    capsys.readouterr()
    shipped = (home / "config" / "litellm.yaml").read_bytes()
    code, said = run(capsys, "migrate")
    assert code == 78 and not said["ok"] and said["backup"] is None
    assert any(one["code"] == "anthropic-elsewhere" for one in said["findings"])
    assert (home / "config" / "litellm.yaml").read_bytes() == shipped != now
    assert run(capsys, "migrate", "--force")[0] == 78
    assert b"llm.example.com" in (home / "config" / "litellm.yaml").read_bytes()


def test_nothing_there_and_a_port_that_is_held(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run(capsys, "migrate")
    assert code == 66 and said["error"]["code"] == "nothing-to-migrate"
    assert run(capsys, "migrate", "--undo")[0] == 66
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        monkeypatch.setenv("OCD_PORT", str(port))
        seed(home, "mixed.yaml")
        code, said = run(capsys, "migrate", "--dry-run")
        assert code == 0 and f"port {port} is held by" in said["running"][0]
