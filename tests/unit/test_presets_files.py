"""Keys set in TOML texts, files changed so that it can be taken back, IAM resources, the filter of fallbacks."""

import asyncio
import importlib.util
import os
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ocd.errors import OcdError
from ocd.settings import backup
from ocd.settings.folders import Folders
from ocd.settings.tomlset import set_keys
from ocd.stack.iam import arns
from ocd.stack.presets import toml_template
from ocd.stack.swap import name_for

# ---- tomlset

TEXTS = (
    "",
    "port = 1",
    "# c\nport = 1 # d\n\n[slots] # e\nopus = 'x' # f\n",
    '[slots]\n#haiku = "q"\n[external]\n\n[proxies.main]\nenabled=true\n',
    'slots.opus = "x"\n',
    toml_template(),
)
KEYS = (
    ("auth",),
    ("slots", "opus"),
    ("slots", "haiku"),
    ("proxies", "main", "enabled"),
    ("external", "base_url"),
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8))


@given(st.sampled_from(TEXTS), st.dictionaries(st.sampled_from(KEYS), VALUES))
@example(TEXTS[3], {("auth",): "\x85", ("proxies", "main", "enabled"): None})
def test_only_the_wanted_keys_change(text: str, wanted: dict[tuple[str, ...], Any]) -> None:
    def at(data: Any, path: tuple[str, ...]) -> Any:
        for part in path:
            data = data.get(part, {} if part != path[-1] else None)
        return data

    try:
        after = set_keys(text, wanted)
    except OcdError:
        # dotted keys beside a section cannot be joined by adding a line; nothing is guessed
        assert text.startswith("slots.opus")
        return
    data, before = tomllib.loads(after), tomllib.loads(text)
    for path in KEYS:
        assert at(data, path) == (wanted[path] if path in wanted else at(before, path))
    comments = [line.partition("#")[2] for line in text.splitlines() if line.startswith("#")]
    assert all(comment in after for comment in comments)
    assert set_keys(after, wanted) == after


def test_a_key_goes_behind_its_commented_default() -> None:
    lines = set_keys(toml_template(), {("slots", "haiku"): "x", ("auth",): "none"}).splitlines()
    assert lines[lines.index('haiku = "x"') - 1].startswith("#haiku")
    assert lines[lines.index('auth = "none"') - 1].startswith("#auth")


@pytest.mark.parametrize("text", ["x = [", 'auth = """\nplan"""\n', "auth = {a = 1}\n"])
def test_what_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(OcdError, match="auth"):
        set_keys(text, {("auth",): "none"})


# ---- backup


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(*(tmp_path / name for name in ("config", "share", "state", "run", "bin")))


def test_change_and_restore(folders: Folders) -> None:
    old, new, linked = (folders.config / name for name in ("old", "new", "link"))
    folders.config.mkdir()
    old.write_bytes(b"\xff old")
    old.chmod(0o640)
    (folders.config / "target").write_text("t")
    linked.symlink_to("target")
    kept = backup.change(folders, "try", {old: "x", new: "y", linked: "z"})
    assert kept is not None and kept.folder.stat().st_mode & 0o777 == 0o700
    assert (old.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o640, 0o600)
    assert linked.is_symlink() and (folders.config / "target").read_text() == "z"
    assert backup.change(folders, "try", {old: "x", new: "y", linked: "z"}) is None
    assert set(backup.restore(folders, backup.latest(folders, "try"))) == {old, new, linked}
    assert old.read_bytes() == b"\xff old" and not new.exists() and linked.is_symlink()
    with pytest.raises(OcdError, match="nothing to take back"):
        backup.latest(folders, "try")


def test_when_one_file_cannot_be_written_none_is_changed(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.config.mkdir()
    first, second, third = (folders.config / name for name in "abc")
    first.write_text("was")
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target) == third:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OcdError, match="No space left on device; nothing was changed"):
        backup.change(folders, "try", {first: "x", second: "y", third: "z"})
    assert first.read_text() == "was" and os.listdir(folders.config) == ["a"]


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param([1_999_999_999, 2_000_000_000], id="over a second's end"),
        pytest.param([5_000_000_000, 3_000_000_000, 1], id="set back"),
        pytest.param([7_000_000_000] * 4, id="standing still"),
    ],
)
def test_the_newest_backup_is_the_latest_whatever_the_clock_says(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, clock: list[int]
) -> None:
    path, made = folders.config / "a", []
    for number, moment in enumerate(clock):
        # Each look at it finds the clock further on, as it is: two looks may be in two seconds.
        looks = iter(range(moment, moment + 1000))
        monkeypatch.setattr(backup.time, "time_ns", lambda looks=looks: next(looks))
        kept = backup.change(folders, "model set", {path: str(number)})
        assert kept is not None
        made.append(kept.folder)
        assert backup.latest(folders, "model set").folder == kept.folder
    assert sorted(made) == made and len(set(made)) == len(made)
    for number in reversed(range(len(clock))):
        backup.restore(folders, backup.latest(folders, "model set"))
        assert not path.exists() if number == 0 else path.read_text() == str(number - 1)


def test_another_verb_that_ends_alike_keeps_its_backups(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "KEPT", 1)
    path = folders.config / "a"
    first = backup.change(folders, "model set", {path: "1"})
    (folders.state / "backups" / "not-one-of-ours-set").mkdir()
    for text in ("2", "3"):
        backup.change(folders, "set", {path: text})
    assert first is not None and first.folder.exists()
    assert (folders.state / "backups" / "not-one-of-ours-set").exists()


def test_a_name_that_somebody_takes_first_is_not_shared(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.mkdir

    def late(self: Path, *args: Any, **options: Any) -> None:
        if self.parent.name == "backups":
            monkeypatch.setattr(Path, "mkdir", real)
            real(self, 0o700)
            (self / "theirs").touch()
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    kept = backup.change(folders, "init", {folders.config / "a": "x"})
    assert kept is not None and not (kept.folder / "theirs").exists()


# ---- names and resources

GOV = "arn:aws-us-gov:bedrock:us-gov-west-1::"
OWN = "arn:aws:bedrock:r:1:application-inference-profile/q"


@pytest.mark.parametrize(
    ("model", "region", "expected"),
    [
        ("bedrock/converse/qwen.x", "us-west-2", ["arn:aws:bedrock:us-west-2::foundation-model/qwen.x"]),
        ("bedrock/us-east-1/meta.y-v1:0", "us-gov-west-1", [f"{GOV}foundation-model/meta.y-v1:0"]),
        (
            "bedrock/invoke/eu.anthropic.z",
            "eu-west-1",
            [
                "arn:aws:bedrock:eu-west-1:*:inference-profile/eu.anthropic.z",
                "arn:aws:bedrock:*::foundation-model/anthropic.z",
            ],
        ),
        (f"bedrock/{OWN}", "r", [OWN]),
    ],
)  # fmt: skip
def test_resources(model: str, region: str, expected: list[str]) -> None:
    assert arns(model, region) == expected


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("bedrock/converse/meta.llama4-scout-17b-16e-instruct-v1:0", "llama4-scout-17b-16e-instruct"),
        ("bedrock/us.anthropic.claude-opus-9-9-v1", "claude-opus-9-9-bedrock"),
        ("bedrock/converse/qwen.qwen3-next-80b-a3b", "qwen3-next-80b-a3b"),
    ],
)
def test_names(model: str, name: str) -> None:
    assert name_for(model) == name


# ---- the filter


def load_filter() -> ModuleType:
    path = Path(__file__).parents[2] / "ocd" / "guest" / "fallbacks.py"
    spec = importlib.util.spec_from_file_location("guest_fallbacks", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fallbacks = load_filter()


class Failed(Exception):
    def __init__(self, status: Any) -> None:
        self.status_code = status


class MidStreamFallbackError(Exception):
    status_code = 503

    def __init__(self, inner: Exception) -> None:
        self.original_exception = inner


class RouterRateLimitError(ValueError):
    pass


class ContextWindowExceededError(Failed):
    pass


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529, "529"])
def test_these_pass(status: Any) -> None:
    assert fallbacks.passes(Failed(status))
    assert fallbacks.passes(MidStreamFallbackError(Failed(status)))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 499])
def test_these_do_not(status: int) -> None:
    assert not fallbacks.passes(Failed(status))
    assert not fallbacks.passes(MidStreamFallbackError(Failed(status))), "not inside a broken stream either"


def test_without_a_status_only_lost_connections_pass() -> None:
    assert fallbacks.passes(ConnectionResetError()) and fallbacks.passes(TimeoutError())
    assert not fallbacks.passes(ValueError("x")) and not fallbacks.passes(Failed("x"))
    import httpx

    assert fallbacks.passes(httpx.ReadError("x")) and not fallbacks.passes(httpx.InvalidURL("x"))


class Router:
    context_window_fallbacks: Any = None


def policy() -> Any:
    told: list[dict[str, Any]] = []
    made = fallbacks._Policy(told.append)
    made.told = told
    return made


def test_a_cooldown_after_a_refused_login_is_no_reason_either() -> None:
    one = policy()
    assert one.due(Router(), RouterRateLimitError(), "g"), "a cooldown after an overload is one"
    assert not one.due(Router(), Failed(401), "g")
    assert not one.due(Router(), RouterRateLimitError(), "g")
    assert one.due(Router(), RouterRateLimitError(), "other")
    assert one.due(Router(), Failed(529), "g") and one.due(Router(), RouterRateLimitError(), "g")


def test_a_list_of_its_own_is_meant() -> None:
    router = Router()
    assert not policy().due(router, ContextWindowExceededError(400), "g")
    router.context_window_fallbacks = [{"g": ["h"]}]
    assert policy().due(router, ContextWindowExceededError(400), "g")


def test_the_seam_in_both_ways_of_calling() -> None:
    one = policy()
    seen: list[Any] = []

    async def original(self: Any, e: Exception, *rest: Any, **more: Any) -> str:
        seen.append(e)
        return "moved"

    wrapped = one.filtered(original)
    refused = Failed(401)
    with pytest.raises(Failed) as found:
        asyncio.run(wrapped(Router(), refused, False, None, None, None, "g", (), {}))
    assert found.value is refused
    with pytest.raises(Failed):
        asyncio.run(wrapped(Router(), e=Failed(403), model_group="g"))
    assert asyncio.run(wrapped(Router(), e=Failed(529), model_group="g")) == "moved" and len(seen) == 1


def test_what_is_taken_is_reported_without_any_message() -> None:
    one = policy()

    async def good(**_: Any) -> str:
        return "answer"

    async def bad(**_: Any) -> str:
        raise Failed(500)

    kind = {"original_model_group": "a", "fallback_model_group": ["b", {"model": "c", "api_key": "sk-secret"}],
            "original_exception": Failed(529)}  # fmt: skip
    assert asyncio.run(one.reported(good)(**kind)) == "answer"
    with pytest.raises(Failed):
        asyncio.run(one.reported(bad)(**kind))
    assert [told["where"] for told in one.told] == [
        "a to b or c (529 Failed): answered",
        "a to b or c (529 Failed): failed",
    ]
    assert "sk-secret" not in str(one.told)


def test_installed_where_the_method_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in LiteLLM 1.109: the class is offered by one module, its methods look names up in another."""
    import sys

    told: list[dict[str, Any]] = []
    core: dict[str, Any] = {}
    exec(
        "async def run_async_fallback(**kwargs):\n    return 'moved'\n"
        "class Router:\n    async def async_function_with_fallbacks_common_utils(self, e, *rest, **more):\n"
        "        return await run_async_fallback(original_model_group='a', fallback_model_group=['b'],"
        " original_exception=e)\n",
        core,
    )
    package, router = ModuleType("litellm"), ModuleType("litellm.router")
    router.Router = core["Router"]  # type: ignore[attr-defined]
    package.router = router  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", package)
    monkeypatch.setitem(sys.modules, "litellm.router", router)
    assert fallbacks.install(told.append) is True
    one = core["Router"]()
    assert asyncio.run(one.async_function_with_fallbacks_common_utils(Failed(529))) == "moved"
    with pytest.raises(Failed):
        asyncio.run(one.async_function_with_fallbacks_common_utils(Failed(401)))
    assert [said["where"] for said in told] == ["a to b (529 Failed): answered"]


def test_a_litellm_without_the_seam_serves_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    told: list[dict[str, Any]] = []
    package = ModuleType("litellm")
    router = ModuleType("litellm.router")
    router.Router = Router  # type: ignore[attr-defined]
    package.router = router  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", package)
    monkeypatch.setitem(sys.modules, "litellm.router", router)
    config = tmp_path / "c.yaml"
    config.write_text("model_list: []\n")
    assert fallbacks.install(told.append, str(config)) is False and told == []
    config.write_text("router_settings: {fallbacks: []}\n")
    assert fallbacks.install(told.append, str(config)) is False
    assert [one["kind"] for one in told] == ["fallback-unfiltered"]
