"""Slots that follow Claude Code, models that go away, and files of former versions that are brought to today's."""

import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ocd.adapters import usage_file
from ocd.claude.overlay import Overlay, Slots, build
from ocd.errors import OcdError
from ocd.settings import backup
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.settings.tomlset import set_keys
from ocd.stack import former, presets, renew
from ocd.stack.check import check
from ocd.stack.families import SLOTS, family, group_of, made_up, slot_of
from ocd.stack.models import ModelIds, load_ids, site_packages
from ocd.stack.retire import Retirement, due, from_dicts
from ocd.stack.rules.retire import findings, retirements
from ocd.stack.swap import read_stack, unpin
from ocd.wire.messages import LaunchRequest

ROOT = Path(__file__).resolve().parents[2]
TODAY = datetime.date(2031, 3, 1)
FREE = ["claude-*", "qwen-3-coder"]


# ---- families


@pytest.mark.parametrize(
    ("model", "slot"),
    [
        ("claude-opus-9-9", "opus"),
        ("claude-sonnet-9-9-20310101", "sonnet"),
        ("claude-haiku-9", "haiku"),
        ("claude-fable-9-2[1m]", "fable"),
        ("claude-3-5-sonnet-20241022", "sonnet"),
        ("claude-3-opus-20240229", "opus"),
        ("us.anthropic.claude-opus-9-9-v1:0", "opus"),
        ("claude-sonnet-9@20310101", "sonnet"),
        ("claude-opus-*", "opus"),
        ("claude-*", ""),
        ("claude-opusx-9", ""),
        ("my-claude-opus-9", ""),
        ("qwen-3-coder", ""),
        ("", ""),
        ("claude-" + "1-" * 5000, ""),
    ],
)
def test_the_family_of_a_name(model: str, slot: str) -> None:
    assert family(model) == slot


def test_a_pinned_name_counts_before_the_family() -> None:
    slots = {"opus": "", "sonnet": "claude-opus-9-9", "haiku": "qwen-3-coder", "fable": ""}
    assert slot_of("claude-opus-9-9", slots) == "sonnet"
    assert slot_of("claude-opus-9-8[1m]", slots) == "opus"
    assert slot_of("qwen-3-coder[1m]", slots) == "haiku"
    assert slot_of("claude-haiku-9-9", slots) == "haiku", (
        "asked of Anthropic, but Claude Code's haiku all the same"
    )
    assert slot_of("", slots) == ""


def test_a_slot_without_a_route_for_new_names_stays_with_the_one_that_there_is() -> None:
    old = ["claude-opus-9-1", "claude-opus-9-2", "qwen"]
    assert group_of("opus", "", old) == "claude-opus-9-1"
    assert group_of("opus", "", [*old, "claude-opus-*"]) == "" == group_of("opus", "", [*old, "claude-*"])
    assert group_of("sonnet", "", old) == "" == group_of("opus", "", [])
    assert group_of("opus", "mine", FREE) == "mine"


# ---- the overlay


def overlay(
    slots: Slots | None = None,
    known: list[str] = FREE,
    env: dict[str, str] | None = None,
    user: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> Overlay:
    return build(
        LaunchRequest(pid=1, cwd="/", env=env or {}),
        user_settings=user or {},
        extra_settings=extra,
        managed={},
        slots=slots or Slots("", "", "qwen-3-coder"),
        base_url="http://127.0.0.1:4000",
        key="sk-x",
        known_models=known,
    )


def test_nothing_is_pinned_by_default() -> None:
    made = overlay()
    named = {name for name in made.settings["env"] if "_MODEL" in name and made.settings["env"][name]}
    assert named == {
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "ANTHROPIC_SMALL_FAST_MODEL",
        "CLAUDE_CODE_MODEL_CAPABILITIES",
    }
    assert "model" not in made.settings and made.notices == [] and made.args == []
    assert not [name for name in made.unset if re.search("OPUS|SONNET|FABLE", name)]


def test_a_name_pins_each_slot() -> None:
    made = overlay(Slots("a", "b", "c", "d"), known=[])
    env = made.settings["env"]
    assert [env[f"ANTHROPIC_DEFAULT_{slot.upper()}_MODEL"] for slot in SLOTS] == ["a", "b", "c", "d"]
    assert "ANTHROPIC_DEFAULT_FABLE_MODEL" in made.unset


@pytest.mark.parametrize("place", ["env", "user", "extra"])
@pytest.mark.parametrize("slot", ["opus", "sonnet", "fable"])
@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("claude-opus-9-1", True),
        ("claude-opus-9-1[1m]", True),
        ("qwen-3-coder", True),
        ("arn:aws:bedrock:us-west-2:1:inference-profile/x", False),
        ("us.anthropic.claude-opus-9-1-v1:0", False),
        ("anthropic/claude-opus-9-1", False),
        ("gpt-9", False),
    ],
)
def test_the_users_own_pin_stays_where_main_has_a_route(place: str, slot: str, own: str, kept: bool) -> None:
    name = f"ANTHROPIC_DEFAULT_{slot.upper()}_MODEL"
    given = {name: own} if place == "env" else {"env": {name: own}}
    made = overlay(**{place: given})  # type: ignore[arg-type]
    assert made.settings["env"].get(name) == ((own if place == "extra" else None) if kept else "")
    assert (name in made.unset) == (not kept) == bool(made.notices)
    pinned = overlay(Slots(*(["claude-opus-9-9"] * 4)), **{place: given})  # type: ignore[arg-type]
    assert pinned.settings["env"][name] == "claude-opus-9-9" and pinned.notices == []


def test_a_pin_that_configure_wrote_at_another_time_is_nobodys_choice() -> None:
    name = "ANTHROPIC_DEFAULT_SONNET_MODEL"
    user = {"env": {name: "claude-sonnet-9-1", "ANTHROPIC_BASE_URL": "http://127.0.0.1:4000"}}
    made = overlay(user=user)
    assert made.settings["env"][name] == "" and made.notices == []


def test_a_main_file_without_patterns_pins_what_it_has() -> None:
    made = overlay(known=["claude-opus-9-1", "qwen-3-coder"])
    assert made.settings["env"]["ANTHROPIC_DEFAULT_OPUS_MODEL"] == "claude-opus-9-1"
    assert "ANTHROPIC_DEFAULT_SONNET_MODEL" not in made.settings["env"]


# ---- models that go away


def ids(**ends: str) -> ModelIds:
    names = {name.replace("__", ".").replace("_", "-"): day for name, day in ends.items()}
    return ModelIds(dict.fromkeys([*names, "claude-sonnet-9-9", "qwen.x"], "p"), names)


def test_the_end_of_a_model_by_all_its_names() -> None:
    known = ids(claude_opus_9_1="2031-04-01", anthropic__claude_opus_9_1="2031-05-01")
    assert known.retires("anthropic/claude-opus-9-1") == "2031-04-01"
    assert known.retires("bedrock/converse/us.anthropic.claude-opus-9-1") == "2031-05-01"
    own = ModelIds(dict.fromkeys(["us.a.m", "a.m"], "p"), {"a.m": "2031-05-01"})
    assert own.retires("bedrock/us.a.m") == "", "an entry of its own counts"
    assert known.retires("claude-sonnet-9-9") == known.retires("gone") == ""


@pytest.mark.parametrize(
    ("date", "spoken", "word"),
    [("2031-04-30", True, "in 60 days"), ("2031-05-01", False, ""), ("2031-03-01", True, "today"),
     ("2031-02-28", True, "was retired"), ("2031-03-02", True, "in 1 day)")],
)  # fmt: skip
def test_it_is_told_sixty_days_ahead(date: str, spoken: bool, word: str) -> None:
    one = Retirement("m", date, "g", "", "f", 1, "k")
    assert bool(due([one], TODAY)) == spoken
    assert [word in found.what for found in findings([one], TODAY)] == [True] * spoken
    assert all(found.severity == "warning" for found in findings([one], TODAY)), "what serves goes on serving"


def test_what_is_no_retirement_is_left_out() -> None:
    good = Retirement("m", "2031-03-01", "g", "opus", "f", None, "k")
    odd = [good.as_dict(), {}, 3, None, good.as_dict() | {"date": "soon"}, good.as_dict() | {"more": 1}]
    assert from_dicts(json.loads(json.dumps(odd))) == [good]
    assert from_dicts(None) == from_dicts({}) == []


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = Folders(*(tmp_path / name for name in ("config", "share", "state", "run", "bin")))
    found.config.mkdir()
    return found


def write(folders: Folders, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folders.config / name).write_text(text)


def now(preset: str, region: str = "us-west-2") -> dict[str, str]:
    toml = set_keys(presets.toml_template(), dict(presets.PRESETS[preset].settings))
    return {**presets.files(presets.PRESETS[preset], region), "ocd.toml": toml}


def test_slots_and_groups_of_both_files_are_looked_at(folders: Folders) -> None:
    write(folders, now("mixed"))
    write(folders, {"ocd.toml": '# mine\n[slots]\nsonnet = "claude-sonnet-9-1[1m]"\nopus = "named"\n'})
    main = (folders.config / "litellm.yaml").read_text()
    named = (
        "model_list:\n  - model_name: named\n    litellm_params:\n      model: anthropic/claude-opus-9-1\n"
    )
    write(folders, {"litellm.yaml": main.replace("model_list:\n", named, 1)})
    aws = (folders.config / "litellm-bedrock.yaml").read_text()
    write(folders, {"litellm-bedrock.yaml": aws.replace("qwen.qwen3-next-80b-a3b", "eu.qwen.y")})
    stack = read_stack(folders, load(folders, {}))
    known = ModelIds(
        dict.fromkeys(["claude-opus-9-1", "claude-sonnet-9-1", "qwen.y"], "p"),
        {"claude-opus-9-1": "2031-03-09", "claude-sonnet-9-1": "2031-03-08", "qwen.y": "2031-03-10"},
    )
    from dataclasses import replace

    found = due(retirements(replace(stack, ids=known)), TODAY)
    assert [(one.slot, one.name, Path(one.file).name) for one in found] == [
        ("sonnet", "claude-sonnet-9-1", "ocd.toml"),
        ("opus", "named", "litellm.yaml"),
        ("", "qwen-3-coder", "litellm-bedrock.yaml"),
    ]
    assert found[0].line == 3 and "occtl model unpin sonnet" in found[0].fix()
    assert "eu.qwen.y" in found[2].what(TODAY)


def litellm() -> Path:
    site = site_packages(
        os.environ.get("OCD_TEST_LITELLM_PYTHON") or ROOT / ".venv-litellm" / "bin" / "python"
    )
    if site is None:
        pytest.skip("no LiteLLM environment here")
    return site


@pytest.mark.parametrize("region", ["us-west-2", "eu-west-1", "us-gov-west-1", "ap-northeast-1"])
@pytest.mark.parametrize("preset", ["mixed", "fallback", "bedrock"])
def test_the_presets_name_models_that_stay(folders: Folders, preset: str, region: str) -> None:
    """By the table of the installed LiteLLM: each model is known, none ends within a year, no finding is left."""
    site = litellm()
    write(folders, now(preset, region))
    known = load_ids(site)
    assert known is not None
    within = datetime.date.today() + datetime.timedelta(days=365)
    models = re.findall(r"model: (bedrock/\S+)", (folders.config / "litellm-bedrock.yaml").read_text())
    assert len(models) == (1 if preset == "mixed" else len(SLOTS))
    for model in models:
        bare = model.rpartition("/")[2]
        assert bare in known.providers or preset == "mixed", f"{bare} is not in LiteLLM's table"
        assert known.knows(model) and not "" < known.retires(model) <= within.isoformat(), model
    assert "anthropic/claude-" not in re.sub(r"claude-\*", "", (folders.config / "litellm.yaml").read_text())
    assert [one.code for one in check(folders, load(folders, {}), site) if one.severity != "note"] == []


def test_no_file_of_the_product_names_a_model_that_retires() -> None:
    """Only the presets' Bedrock ids, which the test above holds against LiteLLM's table, and hashes of old texts."""
    old = re.compile(r"claude-(?:opus|sonnet|haiku|fable)-\d[\w.-]*")
    allowed = {made_up(slot) for slot in SLOTS}
    here = [*(ROOT / "ocd").rglob("*.py"), *(ROOT / "ocd").rglob("*.yaml"), *(ROOT / "ocd").rglob("*.toml")]
    here += [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "ocd" / "man").glob("*")]
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in here
        if path.name not in ("litellm-bedrock.yaml", "seeds.md", "CHANGELOG.md")
        for name in old.findall(path.read_text("utf-8", "replace").replace("\\-", "-"))
        if not any(name.startswith(one) for one in allowed)
    }
    assert found == set()


# ---- unpin


def test_unpin_takes_the_name_out_and_wants_a_route_for_any(folders: Folders) -> None:
    write(folders, now("mixed"))
    write(folders, {"ocd.toml": '[slots]\nsonnet = "claude-sonnet-9-1" # why\nopus = "x"\n'})
    toml = folders.config / "ocd.toml"
    plan = unpin(folders, load(folders, {}), "sonnet")
    assert plan.texts == {toml: '[slots]\nopus = "x"\n'}
    assert unpin(folders, load(folders, {}), "fable").texts == {}
    assert 'haiku = ""' in unpin(folders, load(folders, {}), "haiku").texts[toml]
    text = (folders.config / "litellm.yaml").read_text()
    write(folders, {"litellm.yaml": text.replace('"claude-*"', "claude-sonnet-9-1", 1)})
    with pytest.raises(OcdError, match="no route for what Claude Code chooses"):
        unpin(folders, load(folders, {}), "sonnet")


# ---- the model last seen


def test_the_model_last_seen_in_each_slot(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    assert usage_file.last_seen(path) == {}
    rest = [0, 0, 0, 0, 0.0, 0]
    usage_file.add(
        path,
        "1",
        [
            ["2031-01-01", "claude-opus-9-8", "opus", 50, 0, *rest],
            ["2031-01-02", "claude-opus-9-9", "opus", 2, 0, *rest],
            ["2031-01-02", "claude-opus-9-7", "opus", 9, 8, *rest],
            ["2031-01-03", "claude-opus-9-1", "opus", 3, 3, *rest],
            ["2031-01-03", "other", "", 3, 0, *rest],
        ],
        now=datetime.datetime(2031, 1, 3).timestamp(),
    )
    assert usage_file.last_seen(path) == {"opus": "claude-opus-9-9"}
    Path(path).write_bytes(b"no database at all")
    assert usage_file.last_seen(path) == {}


# ---- files of former versions


def test_the_table_of_former_files_has_none_of_todays() -> None:
    assert len(former.FORMER) > 20 and all(re.fullmatch("[0-9a-f]{64}", one) for one in former.FORMER)
    for preset in ("mixed", "fallback", "bedrock"):
        assert former.of(now(preset)["litellm.yaml"]) is None and former.of(now(preset)["ocd.toml"]) is None
    assert presets.is_shipped(now("fallback", "eu-west-1")["litellm-bedrock.yaml"])
    assert not presets.is_shipped("mine")


def was(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, preset: str, prefix: str = "us."
) -> dict[str, str]:
    """An installation of a former version, whose texts are made up here: the table is told their hashes."""
    toml = f"# former {preset}\n" + ('[slots]\nhaiku = "claude-haiku-9-1"\n' if preset != "mixed" else "")
    texts = {
        "ocd.toml": toml,
        "litellm.yaml": f"# former {preset}\nmodel_list: []\n",
        "litellm-bedrock.yaml": f"# former {prefix}\nmodel_list: []\n",
    }
    kinds = {
        "ocd.toml": (preset,),
        "litellm.yaml": (preset,),
        "litellm-bedrock.yaml": ("bedrock", "fallback"),
    }
    table = {
        hashlib.sha256(text.encode()).hexdigest(): former.Former(name, kinds[name], prefix)
        for name, text in texts.items()
        if not (preset == "mixed" and "bedrock" in name)
    }
    monkeypatch.setattr(former, "FORMER", table)
    write(folders, texts)
    return texts


def here(folders: Folders) -> dict[str, str]:
    return {path.name: path.read_text() for path in folders.config.iterdir()}


@pytest.mark.parametrize(
    ("preset", "prefix", "region"),
    [("mixed", "", "us-west-2"), ("fallback", "us.", "us-west-2"), ("fallback", "eu.", "eu-west-1"),
     ("bedrock", "us-gov.", "us-gov-west-1"), ("bedrock", "global.", "ap-northeast-1")],
)  # fmt: skip
def test_untouched_files_are_renewed_once_and_given_back(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, preset: str, prefix: str, region: str
) -> None:
    before = was(folders, monkeypatch, preset, prefix)
    said = renew.renew(folders)
    assert "litellm.yaml" in said and "occtl init --undo" in said
    wanted = now(preset, region)
    if preset == "mixed":
        wanted["litellm-bedrock.yaml"] = before["litellm-bedrock.yaml"]
    assert here(folders) == wanted
    assert (folders.state / renew.MARK).read_text() == said
    assert renew.renew(folders) == ""
    backup.restore(folders, backup.latest(folders, "init"))
    assert here(folders) == before
    assert renew.renew(folders) == "" and here(folders) == before, "who takes it back means it"


@pytest.mark.parametrize("changed", ["litellm.yaml", "litellm-bedrock.yaml", "ocd.toml"])
@pytest.mark.parametrize("preset", ["mixed", "fallback"])
def test_a_changed_file_is_not_touched(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, preset: str, changed: str
) -> None:
    before = was(folders, monkeypatch, preset)
    write(folders, {changed: before[changed] + "# mine\n"})
    before = here(folders)
    renew.renew(folders)
    after = here(folders)
    assert after[changed] == before[changed]
    if changed == "litellm.yaml" or (preset == "fallback" and changed != "ocd.toml"):
        assert after == before, "the files name each other's groups"
    else:
        assert after["litellm.yaml"] == now(preset)["litellm.yaml"]


def test_a_slot_on_bedrock_by_name_keeps_its_files(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    before = was(folders, monkeypatch, "fallback")
    write(folders, {"ocd.toml": before["ocd.toml"] + 'opus = "claude-opus-9-1-bedrock"\n'})
    before = here(folders)
    assert renew.renew(folders) == "" and here(folders) == before


def test_what_cannot_be_read_or_written_serves_on(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    before = was(folders, monkeypatch, "mixed")

    def full(*_: Any) -> None:
        raise OcdError("Cannot keep a copy", "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(backup, "change", full)
        assert renew.renew(folders) == "" and here(folders) == before
    write(folders, {"ocd.toml": "port = ["})
    assert renew.renew(folders) == "" and not (folders.state / renew.MARK).exists()
    write(folders, before)
    assert renew.renew(folders) != "", "tried again"


def test_a_new_installation_has_nothing_to_renew(folders: Folders) -> None:
    write(folders, now("mixed"))
    before = here(folders)
    assert renew.renew(folders) == "" and here(folders) == before and (folders.state / renew.MARK).exists()


#: what 0.1.0 shipped, as it was
FIRST = Path(__file__).parent / "former_0_1_0"


def first(preset: str, prefix: str) -> dict[str, str]:
    """What 0.1.0's `occtl init --preset` wrote."""
    folder = FIRST if preset == "mixed" else FIRST / preset
    keys: dict[tuple[str, ...], str] = {} if preset == "mixed" else {("slots", "haiku"): "claude-haiku-4-5"}
    if preset == "bedrock":
        keys = {("auth",): "none", **keys}
    texts = {
        name: (folder / name).read_text().replace("/us.anthropic.", f"/{prefix}anthropic.")
        for name in presets.LITELLM_FILES
    }
    return {**texts, "ocd.toml": set_keys((FIRST / "ocd.toml").read_text(), keys)}


@pytest.mark.parametrize("prefix", presets.PREFIXES)
@pytest.mark.parametrize("preset", ["mixed", "fallback", "bedrock"])
def test_an_installation_of_0_1_0_comes_over(folders: Folders, preset: str, prefix: str) -> None:
    regions = dict(
        zip(presets.PREFIXES, ("us-east-1", "eu-west-1", "us-gov-west-1", "sa-east-1"), strict=True)
    )
    texts = first(preset, prefix)
    assert all(presets.is_shipped(text) for name, text in texts.items() if name != "ocd.toml")
    write(folders, texts)
    assert renew.renew(folders) != ""
    assert here(folders) == now(preset, regions[prefix])
    write(folders, {"ocd.toml": texts["ocd.toml"].replace("#port = 4000", "port = 4123")})
    assert load(folders, {}).port == 4123


# ---- fallbacks by pattern


def loaded() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "fallbacks_by_path", ROOT / "ocd" / "guest" / "fallbacks.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("asked", "targets"),
    [
        ("claude-opus-9-9", ["opus-b"]),
        ("claude-opus-9-1", ["exact"]),
        ("claude-opus-special-1", ["special"]),
        ("claude-opus-b", ["anything"]),
        ("other", ["anything"]),
    ],
)
def test_fallbacks_by_pattern(asked: str, targets: list[str]) -> None:
    fallbacks = [
        {"*": ["anything"]},
        {"claude-opus-*": ["opus-b", "claude-opus-b"] if asked == "claude-opus-b" else ["opus-b"]},
        {"claude-opus-special-*": ["special"]},
        {"claude-opus-9-1": ["exact"]},
    ]

    def theirs(fallbacks: list[Any], model_group: str) -> tuple[list[str] | None, int | None]:
        general = next((n for n, one in enumerate(fallbacks) if "*" in one), None)
        exact = next((one[model_group] for one in fallbacks if model_group in one), None)
        return (exact or (fallbacks[general]["*"] if general is not None else None), general)

    ours = loaded().by_pattern(theirs)
    assert ours(fallbacks=fallbacks, model_group=asked)[0] == targets
    assert ours(fallbacks=fallbacks[1:2], model_group="other") == (None, None)
