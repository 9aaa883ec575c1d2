"""Several logins: their folders, their limits side by side, and what openclaude makes of ``--account``."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd import paths
from ocd.claude import accounts, launch
from ocd.claude.overlay import Slots
from ocd.client import account
from ocd.core import accounts as core
from ocd.core import limits as plan
from ocd.ctl import screen
from ocd.ctl.__main__ import main
from ocd.ctl.control_room import picture
from ocd.ctl.look.sessions import _which
from ocd.ctl.look.status import limit_lines
from ocd.errors import OcdError
from ocd.supervisor.observation.limits import PlanLimits
from ocd.supervisor.observation.statusfile import limit_rows
from ocd.wire.messages import Exchange, LaunchRequest, PlanLimit, PlanWindow, Status

NOW = 1_795_000_000.0


# ---- folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path / "ocd"))
    own = tmp_path / ".claude"
    (own / "agents").mkdir(parents=True)
    (own / "projects").mkdir()
    (own / "sessions").mkdir()
    (own / "settings.json").write_text('{"model": "opus"}')
    (own / ".credentials.json").write_text('{"token": "canary"}')
    (tmp_path / ".claude.json").write_text(
        json.dumps({"theme": "dark", "oauthAccount": {"x": 1}, "mcpServers": {"a": {"command": "x"}}})
    )
    return tmp_path


def test_an_account_shares_what_is_asked_for_and_never_a_login(home: Path) -> None:
    made, done = accounts.add(home, "work", accounts.SHARED)
    assert {one.name for one in made.folder.iterdir() if one.is_symlink()} == {
        "settings.json",
        "agents",
        "projects",
    }
    assert json.loads((made.folder / ".claude.json").read_text()) == {
        "theme": "dark",
        "mcpServers": {"a": {"command": "x"}},
    }
    assert made.login is not True and "canary" not in "".join(map(str, done))
    assert {stat.S_IMODE(one.stat().st_mode) for one in (made.folder, made.folder.parent)} == {0o700}
    assert stat.S_IMODE((made.folder / ".claude.json").stat().st_mode) == 0o600
    assert [one.name for one in accounts.known(home)] == ["default", "work"]
    assert accounts.known(home)[1].shared == ("settings", "tools", "history")


def test_add_again_takes_along_what_is_new_and_leaves_what_is_its_own(home: Path) -> None:
    folder = accounts.add(home, "work", ["settings", "mcp"])[0].folder
    assert not (folder / "agents").exists()
    (folder / "settings.json").unlink()
    (folder / "settings.json").write_text("{}")
    (folder / ".claude.json").write_text(
        '{"oauthAccount": {"mine": 1}, "mcpServers": {"a": {"command": "own"}}}'
    )
    (home / ".claude" / "rules").mkdir()
    (home / ".claude.json").write_text('{"mcpServers": {"a": {"command": "x"}, "b": {"command": "y"}}}')
    done = accounts.add(home, "work", accounts.SHARED)[1]
    assert not (folder / "settings.json").is_symlink() and (folder / "rules").is_symlink()
    assert json.loads((folder / ".claude.json").read_text()) == {
        "oauthAccount": {"mine": 1},
        "mcpServers": {"a": {"command": "own"}, "b": {"command": "y"}},
    }
    assert any("MCP server b" in line for line in done)
    assert accounts.add(home, "work", accounts.SHARED)[1] == []


@pytest.mark.parametrize("name", ["default", "", "..", "a/b", ".x", "-x", "a b", "x" * 41, "ä", "a\n"])
def test_names_that_cannot_be(home: Path, name: str) -> None:
    with pytest.raises(OcdError) as caught:
        accounts.add(home, name, [])
    assert caught.value.exit_code == 64
    with pytest.raises(OcdError):
        accounts.remove(home, name)
    assert not (home / paths.ACCOUNTS).exists()


def test_remove_asks_and_deletes_nothing_that_is_only_linked(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = accounts.add(home, "work", accounts.SHARED)[0].folder
    (folder / ".credentials.json").write_text("{}")
    assert main(["account", "remove", "work"]) == 64
    assert "--yes" in capsys.readouterr().err and (folder / ".credentials.json").exists()
    assert main(["account", "remove", "work", "--yes"]) == 0
    assert not folder.exists()
    assert (home / ".claude" / "agents").is_dir() and (home / ".claude" / "settings.json").exists()
    assert main(["account", "remove", "work", "--yes"]) == 66


def test_remove_refuses_a_link_and_a_living_session(home: Path) -> None:
    (home / paths.ACCOUNTS).mkdir()
    (home / paths.ACCOUNTS / "work").symlink_to(home / ".claude")
    assert main(["account", "remove", "work", "--yes"]) == 77
    assert (home / ".claude" / ".credentials.json").exists()
    folder = accounts.add(home, "other", [])[0].folder
    (folder / "sessions").mkdir()
    (folder / "sessions" / f"{os.getpid()}.json").write_text("{}")
    assert main(["account", "remove", "other", "--yes"]) == 75
    assert folder.is_dir()


def test_list_says_what_is_known(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts.add(home, "work", ["settings"])
    assert main(["account", "list", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["account"], first["login"]) == ("default", True)
    assert (second["account"], second["shared"], second["limit"]) == ("work", ["settings"], None)
    assert "canary" not in json.dumps([first, second])


# ---- the client


def chosen(home: Path, name: bytes, **more: bytes) -> tuple[dict[bytes, bytes], str]:
    environ = {b"HOME": os.fsencode(home), **{key.encode(): value for key, value in more.items()}}
    said = account.choose(name, environ)
    return environ, said


def test_the_client_takes_the_accounts_folder(home: Path) -> None:
    folder = accounts.add(home, "work", [])[0].folder
    environ, said = chosen(home, b"work", CLAUDE_CONFIG_DIR=b"/elsewhere")
    assert environ[b"CLAUDE_CONFIG_DIR"] == os.fsencode(folder) and not said
    environ, _ = chosen(home, b"default", CLAUDE_CONFIG_DIR=b"/elsewhere")
    assert b"CLAUDE_CONFIG_DIR" not in environ
    _, said = chosen(home, b"work", CLAUDE_CODE_OAUTH_TOKEN=b"sk-ant-canary")
    assert "CLAUDE_CODE_OAUTH_TOKEN" in said and "canary" not in said


@pytest.mark.parametrize(("name", "code"), [(b"nobody", 66), (b"../x", 64), (b"\xff", 64), (b"", 64)])
def test_the_client_refuses_what_is_no_account(home: Path, name: bytes, code: int) -> None:
    with pytest.raises(OcdError) as caught:
        chosen(home, name)
    assert caught.value.exit_code == code


def test_the_client_refuses_a_folder_that_others_may_write_to(home: Path) -> None:
    folder = accounts.add(home, "work", [])[0].folder
    folder.chmod(0o770)
    with pytest.raises(OcdError) as caught:
        chosen(home, b"work")
    assert caught.value.exit_code == 77


@given(st.text(max_size=60))
def test_every_name_that_is_one_leads_below_the_folder_of_accounts(text: str) -> None:
    if paths.is_name(text):
        folder = paths.account_folder("/home/u", text)
        assert (
            os.path.normpath(folder) == folder == f"/home/u/{paths.ACCOUNTS}/{text}" or text == paths.ORDINARY
        )
        assert paths.account_of("/home/u", folder or "/home/u/.claude") == text


# ---- whose session it is


def test_the_overlay_names_the_account_to_our_own_proxy_alone(home: Path) -> None:
    folder = accounts.add(home, "work", [])[0].folder
    where = {"HOME": str(home)}

    def headers(ours: bool, **env: str) -> str:
        served = launch.Served(
            Slots("", "", "q"), "http://127.0.0.1:4000", "sk-k", known_models=["q"], ours=ours
        )
        request = LaunchRequest(pid=1, cwd="/", env={**where, **env})
        reply = launch.prepare(request, folder=str(home / "o"), served=served, managed_root=str(home))
        return str(json.loads(Path(reply.args[1]).read_text())["env"]["ANTHROPIC_CUSTOM_HEADERS"])

    assert "x-ocd-account: work\n" in headers(True, CLAUDE_CONFIG_DIR=str(folder))
    assert "x-ocd-account: default\n" in headers(True)
    assert "x-ocd-account" not in headers(True, CLAUDE_CONFIG_DIR=str(home / "mine"))
    assert "x-ocd-account" not in headers(False)
    forged = headers(True, ANTHROPIC_CUSTOM_HEADERS="X-Ocd-Account: other")
    assert forged.count("ocd-account") == 1 and "other" not in forged


def test_an_account_keeps_its_folder_with_separate_isolation(home: Path) -> None:
    folder = accounts.add(home, "work", [])[0].folder
    request = LaunchRequest(pid=1, cwd="/", env={"HOME": str(home), "CLAUDE_CONFIG_DIR": str(folder)})
    served = launch.Served(Slots("", "", ""), "http://127.0.0.1:4000", "sk-k")
    reply = launch.prepare(
        request, folder=str(home / "o"), served=served, managed_root=str(home), isolation="separate"
    )
    assert "CLAUDE_CONFIG_DIR" not in reply.set and not (home / ".openClaude").exists()


# ---- limits


def said(used: float, reset: float = NOW + 3600, status: str = "allowed") -> dict[str, str]:
    return {
        "representative-claim": "five_hour",
        "5h-utilization": str(used),
        "5h-reset": str(int(reset)),
        "5h-status": status,
    }


def test_an_account_has_one_login_the_one_that_was_used_last() -> None:
    state = plan.Limits()
    state, _ = plan.take(state, "a" * 16, said(0.3), NOW, account="default")
    state, _ = plan.take(state, "b" * 16, said(0.9), NOW, account="work")
    assert [one.accounts for one in state.logins] == [("default",), ("work",)]
    # the token of work was renewed: its hash is another, the login before it is gone
    state, _ = plan.take(state, "c" * 16, said(0.95), NOW + 1, account="work")
    assert {one.key[0]: one.accounts for one in state.logins} == {"a": ("default",), "c": ("work",)}
    # both accounts with one login
    state, _ = plan.take(state, "a" * 16, said(0.4), NOW + 2, account="work")
    assert {one.key[0]: one.accounts for one in state.logins} == {"a": ("default", "work")}
    # what names no account changes nothing of that, and is not forgotten for one that does
    state, _ = plan.take(state, "a" * 16, said(0.5), NOW + 3)
    state, _ = plan.take(state, "d" * 16, said(0.1), NOW + 4)
    state, _ = plan.take(state, "e" * 16, said(0.1), NOW + 4, account="work")
    assert {one.key[0]: one.accounts for one in state.logins} == {"a": ("default",), "d": (), "e": ("work",)}


def test_a_successor_knows_the_accounts_and_reads_a_former_versions_notes(monkeypatch: Any) -> None:
    def parts() -> PlanLimits:
        return PlanLimits(lambda *a, **k: None, lambda order: None, tuple, lambda: None, dict)

    monkeypatch.setattr("time.time", lambda: NOW)
    one, other = parts(), parts()
    exchange = Exchange(time=NOW, proxy="main", generation=1, path="/v1/messages", status=200, seconds=1.0)
    one.take(exchange.model_copy(update={"login": "a" * 16, "account": "work", "limits": said(0.3)}))
    assert one.messages()[0].accounts == ["work"]
    other.restore(json.loads(json.dumps(one.notes())))
    assert other.messages() == one.messages()
    former = [note[:6] for note in one.notes()]
    other.restore(former)
    assert other.messages()[0].login == "a" * 16 and other.messages()[0].accounts == []


def limit(name: str, used: float, reset: float = NOW + 3600, status: str = "") -> PlanLimit:
    window = PlanWindow(name="5h", used=used, reset=reset, status=status)
    return PlanLimit(login=name, accounts=[name], windows=[window], binding="5h", seen=NOW)


def at(moment: float) -> str:
    return f"<{moment - NOW:g}>"


Limit = Callable[..., PlanLimit]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ([limit("default", 0.99), limit("work", 0.3)], ""),
        ([limit("work", 0.3)], ""),
        ([], ""),
        ([limit("default", 1.0)], "the account default is at its limit until <3600>"),
        (
            [limit("default", 1.0), limit("work", 0.3)],
            "the account default is at its limit until <3600>; work is at 30 %: openclaude --account work",
        ),
        (
            [limit("default", 0.97, status="rejected"), limit("b", 0.9), limit("c", 0.1)],
            "the account default is at its limit until <3600>; c is at 10 %, b is at 90 %: openclaude --account c",
        ),
        (
            [limit("default", 1.2), limit("work", 1.0)],
            "the account default is at its limit until <3600>",
        ),
        ([limit("default", 1.0, NOW - 1), limit("work", 0.3)], ""),
    ],
)
def test_what_openclaude_says_at_its_start(limits: list[PlanLimit], told: str) -> None:
    assert core.advice(limits, "default", NOW, at) == told


def test_states_in_words() -> None:
    assert core.state(None, NOW, at) == ""
    assert core.state(limit("a", 0.304), NOW, at) == "at 30 %"
    assert core.state(limit("a", 0.999), NOW, at) == "at 99 %"
    assert core.state(limit("a", 1.0), NOW, at) == "at its limit until <3600>"
    assert core.of([limit("a", 0.1)], "") is None


def test_lines_name_the_account_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    several = Status(
        version="1",
        pid=1,
        keeper_pid=1,
        since=NOW,
        proxies={},
        limits=[limit("work", 0.3), limit("default", 1.0)],
    )
    (first, _), (second, style) = limit_lines(several, NOW)
    assert first.startswith("plan work: 5h 30 % used")
    assert second.startswith("plan default: at its limit until ") and style
    assert limit_rows(several.limits, 75) == [("limit", "plan work 5h 30 %", "")]
    assert picture.limits(several, NOW)[1].startswith("plan default 5h 100 %")
    alone = several.model_copy(update={"limits": [limit("default", 0.3)]})
    assert limit_lines(alone, NOW)[0][0].startswith("plan: 5h 30 % used")
    assert limit_rows(alone.limits, 75) == [("limit", "plan 5h 30 %", "")]


def test_a_session_is_shown_with_its_account_unless_it_is_the_ordinary_one() -> None:
    assert _which("", "") == _which("", "default") == ""
    assert _which("background", "work") == " (background, work)"
    assert _which("", "w\x1b") == f" ({screen.plain('w' + chr(27))})" and "\x1b" not in _which("", "w\x1b")
