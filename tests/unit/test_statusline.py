"""The status line: what the supervisor writes, what is shown of it, and the switch in Claude Code's settings."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.claude import configure
from ocd.client import statusline
from ocd.core.state import State
from ocd.ctl.__main__ import main
from ocd.errors import OcdError
from ocd.settings.schema import StatusLine
from ocd.supervisor.observation import statusfile
from ocd.supervisor.observation.exchanges import MEANINGS, Exchanges
from ocd.supervisor.observation.statusfile import SHORT, StatusFile, compose
from ocd.wire.messages import Problem, ProxyStatus, Session, Status

ROOT = Path(__file__).resolve().parents[2]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


class Told:
    """What the daemon knows, and what the file says of it."""

    def __init__(self) -> None:
        self.exchanges = Exchanges(lambda *a, **k: None, lambda: {"opus": "claude-opus-9-9"})
        self.problems: dict[str, Problem] = {}
        self.external = ""
        self.state = State.IDLE
        self.last_fallback, self.last_fallback_at = "", 0.0
        self.parts: list[str] = list(statusline.DEFAULT_PARTS)
        self.tracing = 0.0

    def text(self) -> str:
        tallies = self.exchanges.sessions
        sessions = []
        for pid in (77, 78):
            last = tallies[pid].latest if pid in tallies else None
            slot, upstream = (last.slot or last.model, last.upstream) if last else ("", "")
            sessions.append(Session(pid=pid, cwd="/", since=0.0, last_slot=slot, last_upstream=upstream))
        proxy = ProxyStatus(
            state=self.state,
            wanted="idle",
            port=4000,
            since=0.0,
            config="main.yaml",
            last_fallback=self.last_fallback,
            last_fallback_at=self.last_fallback_at or None,
            troubles=self.exchanges.troubles("main"),
        )
        status = Status(
            version="1",
            pid=2,
            keeper_pid=os.getpid(),
            since=0.0,
            mode="fork",
            proxies={"main": proxy},
            sessions=sessions,
            external=self.external,
            trace_until=self.tracing or None,
        )
        return compose(status, tallies, self.problems.values(), [75, 90], self.parts)


def say(of: Told, **fields: Any) -> None:
    message = {
        "time": time.time(),
        "path": "/v1/messages",
        "model": "claude-opus-9-9",
        "status": 200,
        "seconds": 1.0,
        "upstream": "api.anthropic.com",
        "session": 77,
    }
    assert of.exchanges.take("main", 1, {**message, **fields}) is not None


def shown(of: Told, pid: int = 77) -> str:
    return plain(statusline.line(of.text(), pid, time.time()))


def test_slot_upstream_and_tokens_of_the_own_session(tmp_path: Path) -> None:
    of = Told()
    assert shown(of) == "ocd"
    say(of, input_tokens=12_000, output_tokens=345)
    say(of, session=78, model="qwen")
    assert shown(of) == "opus → api.anthropic.com | 12.3k tok, 1 req"
    assert shown(of, 78) == "qwen → api.anthropic.com"
    assert shown(of, 1) == "ocd"


def test_a_proxy_that_does_not_serve_stands_first(tmp_path: Path) -> None:
    of = Told()
    say(of)
    of.state = State.STOPPED
    assert shown(of) == "main stopped | opus → api.anthropic.com"
    of.external = "https://llm.example:8443/x"
    assert shown(of, 0) == "ocd: llm.example:8443"


def test_a_fallback_is_seen_for_a_while(tmp_path: Path) -> None:
    of = Told()
    say(of, fallback="claude-opus-9-9 to claude-opus-9-9-bedrock (529)")
    say(of)
    assert shown(of).endswith("| fell back: claude-opus-9-9 to claude-opus-9-9-bedrock (529)")
    of.last_fallback, of.last_fallback_at = "opus to elsewhere", time.time()
    assert shown(of).count("fell back") == 1 and "elsewhere" not in shown(of), "its own goes before others'"
    assert shown(of, 0) == "fell back: opus to elsewhere"
    later = time.time() + statusline.FALLBACK_SHOWN + 1
    assert "fell back" not in statusline.line(of.text(), 77, later)


def test_troubles_and_problems_come_with_what_to_do_until_they_pass(tmp_path: Path) -> None:
    of = Told()
    say(of, trouble="aws-expired", status=403)
    assert shown(of, 0) == "opus: AWS login expired: occtl aws login"
    say(of)
    of.problems["log"] = Problem(code="log", what="logs cannot be written")
    assert shown(of, 0) == "logs cannot be written: occtl status"
    assert set(SHORT) == set(MEANINGS)


def test_the_parts_that_the_user_picked_in_their_order() -> None:
    of = Told()
    say(of, input_tokens=12_000, output_tokens=345)
    say(of, model="qwen", upstream="bedrock", provider="bedrock", cost=1.234)
    say(of, provider="anthropic", cost=9.0)
    of.state = State.STOPPED
    of.parts = ["cost", "route"]
    assert shown(of) == "AWS $1.23 | opus → api.anthropic.com"
    of.parts = ["tokens", "state"]
    assert shown(of) == "12.3k tok, 3 req | main stopped"
    of.parts = []
    assert shown(of) == "ocd"
    of.tracing = time.time() + 60
    assert shown(of).startswith("tracing until "), "no choice hides that"
    with pytest.raises(ValueError, match="named twice"):
        StatusLine(parts=["route", "route"])
    with pytest.raises(ValueError, match="'route', 'tokens'"):
        StatusLine(parts=["weather"])
    assert get_args(get_args(StatusLine.model_fields["parts"].annotation)[0]) == statusline.PARTS
    assert StatusLine().parts == list(statusline.DEFAULT_PARTS)


def test_what_a_session_cost_outlives_the_supervisor() -> None:
    of = Told()
    say(of, provider="bedrock", cost=0.5)
    after = Told()
    after.exchanges.restore(of.exchanges.notes())
    after.parts = ["cost"]
    assert shown(after) == "AWS $0.50"


def test_nothing_that_came_from_outside_breaks_the_line(tmp_path: Path) -> None:
    of = Told()
    say(of, model="a\x1b]0;t\tb" + "x" * 500, upstream="h\r\n\x07", fallback="f\nproblem\tfake\n" * 300)
    text = statusline.line(of.text(), 77, time.time())
    assert "\n" not in text and "\t" not in text and "\x07" not in text and len(plain(text)) < 400
    assert set(re.findall(r"\x1b\[\d*m", text)) <= {"\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"}
    assert "\x1b" not in plain(text) and of.text().count("\n") == 2, "nobody adds a line of his own"


@given(st.text(max_size=300), st.integers(0, 99))
def test_any_file_makes_a_line(text: str, pid: int) -> None:
    assert isinstance(statusline.line(text, pid, 0.0), str)
    assert isinstance(statusline.line("ocd\t1\t1\n" + text, pid, 0.0), str)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (999_949, "999.9k"), (999_950, "1.0M"), (45_600_000, "45.6M")],
)
def test_counts(number: int, text: str) -> None:
    assert statusline._count(number) == text


# ---- the file


def test_it_is_written_when_something_changed_and_not_more_than_once_a_second(tmp_path: Path) -> None:
    of = Told()

    async def story() -> None:
        file = StatusFile(tmp_path, of.text)
        made = tmp_path / "statusline"
        file.news()
        assert file._timer is not None
        file._timer.cancel()
        file._write()
        assert stat.S_IMODE(made.stat().st_mode) == 0o600 and made.read_text() == of.text()
        before = made.stat().st_ino
        file._write()
        assert made.stat().st_ino == before, "no change, no write"
        say(of)
        file.news()
        file.news()
        assert file._timer is not None
        due = file._timer.when() - asyncio.get_running_loop().time()
        assert statusfile.PAUSE * 0.5 < due <= statusfile.PAUSE
        file._timer.cancel()
        file._write()
        assert "api.anthropic.com" in made.read_text() and os.listdir(tmp_path) == ["statusline"]
        made.unlink()
        file.look()
        file._timer.cancel()
        file._write()
        assert made.exists(), "somebody removed it"
        file.remove()
        assert not made.exists()
        StatusFile(tmp_path / "gone", of.text)._write()

    asyncio.run(story())


def test_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCD_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "statusline"
    assert statusline.read() == ""
    file.write_text(f"ocd\t1\t{os.getpid()}\n")
    assert statusline.read() == file.read_text()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    file.write_text(f"ocd\t1\t{gone.pid}\n")
    assert statusline.read() == "", "the daemon was killed"
    for text in ("", "ocd", "ocd\t1\tx\n", "ocd\t1\t99999999999999999999\n", "\0\0"):
        file.write_text(text)
        assert statusline.read() == ""
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert statusline.read() == ""
    assert plain(statusline.line("", 0, 0.0)) == "ocd: not running"


def _run(env: dict[str, str], said: bytes, *more: str) -> bytes:
    arguments = ["statusline", *more]
    code = f"import sys; from ocd.ctl.__main__ import main; sys.argv[1:] = {arguments!r}; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code],
        input=said,
        env={"PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        check=True,
    ).stdout


def test_as_claude_code_runs_it(tmp_path: Path) -> None:
    (tmp_path / "statusline").write_text(
        f"ocd\t1\t{os.getpid()}\nsession\t77\topus\tapi.anthropic.com\t1\t5\t0\t\n", encoding="utf-8"
    )
    env = {"OCD_RUNTIME_DIR": str(tmp_path), "OCD_SESSION_PID": "77", "NO_COLOR": "1", "LC_ALL": "C"}
    for said in (b'{"model": {"id": "claude-opus-9-9"}}', b"", b"\xff garbage", b"x" * 300_000):
        assert _run(env, said).decode() == "opus → api.anthropic.com | 5 tok, 1 req\n"
    (tmp_path / "statusline").unlink()
    assert _run({**env, "NO_COLOR": ""}, b"{}") == b"\x1b[31mocd: not running\x1b[0m\n"


def test_behind_a_line_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "statusline").write_text(f"ocd\t1\t{os.getpid()}\n")
    env = {"OCD_RUNTIME_DIR": str(tmp_path), "NO_COLOR": "1", "PATH": os.environ["PATH"]}
    said = b'{"model": {"id": "claude-opus-9-9"}}'
    assert _run(env, said, "--with", "tr a-z A-Z; echo second") == said.upper() + b"second | ocd\n"
    assert _run(env, b"x" * 300_000, "--with", "echo mine") == b"mine | ocd\n"
    assert _run(env, said, "--with", "echo mine; exit 3") == b"ocd\n", "one that failed says nothing"
    assert _run(env, said, "--with", "no-such-command-anywhere") == b"ocd\n"


def test_a_line_of_the_users_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statusline, "PATIENCE", 0.2)
    noted = tmp_path / "pid"
    assert statusline._theirs(f"sleep 60 & echo $! > {noted}; wait") == ""
    pid = int(noted.read_text())

    def gone() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    deadline = time.monotonic() + 5
    while not gone() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(), "with what it started"


def test_on_shows_both_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_bytes(MINE)
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path / "ocd"))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(settings.parent))
    for _ in range(2):
        assert main(["claude", "statusline", "on", "--wrap"]) == 0
        assert json.loads(settings.read_bytes())["statusLine"]["command"].endswith("statusline --with mine")
    assert main(["claude", "statusline", "on"]) == 0
    assert json.loads(settings.read_bytes())["statusLine"]["command"].endswith("statusline")
    assert main(["claude", "statusline", "off"]) == 0 and settings.read_bytes() == MINE


def test_the_short_way_imports_next_to_nothing() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        "sys.argv = ['occtl', 'statusline']\nfrom ocd.ctl.__main__ import main\nmain()\n"
        "print(sorted(set(sys.modules) - before - set(sys.builtin_module_names)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True, input=""
    )
    standard = {"os", "os.path", "stat", "posixpath", "genericpath", "_collections_abc"}
    assert set(json.loads(done.stderr.replace("'", '"'))) - standard == {
        "ocd",
        "ocd.ctl",
        "ocd.ctl.__main__",
        "ocd.client",
        "ocd.client.statusline",
        "ocd.errors",
        "ocd.paths",
    }


# ---- the switch

MINE = b'{\n\t"statusLine": {"type": "command", "command": "mine"},\n\t"x": 1}'
OVERLAY = {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4000"}, "model": "opus"}


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "state").mkdir()
    return tmp_path / "settings.json", tmp_path / "state"


@pytest.mark.parametrize("before", [MINE, b'{"x": 1}\n', None])
def test_on_and_off_leave_every_byte(place: tuple[Path, Path], before: bytes | None) -> None:
    path, state = place
    if before is not None:
        path.write_bytes(before)
        path.chmod(0o644)
    assert configure.status_line_on(path, state, "occtl statusline").changed
    written = json.loads(path.read_bytes())
    assert written["statusLine"]["command"] == "occtl statusline" and set(written) <= {"statusLine", "x"}
    assert stat.S_IMODE(path.stat().st_mode) == (0o644 if before else 0o600)
    assert not configure.status_line_on(path, state, "occtl statusline").changed
    with pytest.raises(OcdError) as wrong:
        configure.remove(path, state)
    assert wrong.value.exit_code == 66
    assert configure.status_line_off(path, state).exact
    assert (path.read_bytes() if path.exists() else None) == before
    with pytest.raises(OcdError) as wrong:
        configure.status_line_off(path, state)
    assert wrong.value.exit_code == 66 and os.listdir(state) == []


@pytest.mark.parametrize("order", ["line first", "line last"])
@pytest.mark.parametrize("back", ["line first", "line last"])
def test_it_goes_with_configure_in_any_order(place: tuple[Path, Path], order: str, back: str) -> None:
    path, state = place
    path.write_bytes(MINE)
    steps = [
        lambda: configure.status_line_on(path, state, "occtl statusline"),
        lambda: configure.configure(path, state, OVERLAY),
    ]
    for step in steps if order == "line first" else reversed(steps):
        step()
    both = json.loads(path.read_bytes())
    assert both["statusLine"]["command"] == "occtl statusline" and both["model"] == "opus"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if back == "line first":
        configure.status_line_off(path, state)
        left = json.loads(path.read_bytes())
        assert left["statusLine"]["command"] == "mine" and left["model"] == "opus"
        assert configure.remove(path, state).exact
    else:
        configure.remove(path, state)
        left = json.loads(path.read_bytes())
        assert (
            left["statusLine"]["command"] == "occtl statusline" and "model" not in left and "env" not in left
        )
        assert configure.status_line_off(path, state).exact
    assert path.read_bytes() == MINE


def test_what_the_user_changed_since_stays(place: tuple[Path, Path]) -> None:
    path, state = place
    path.write_bytes(MINE)
    configure.configure(path, state, OVERLAY)
    changed = json.loads(path.read_bytes())
    changed["model"] = "sonnet"
    path.write_text(json.dumps(changed))
    configure.status_line_on(path, state, "occtl statusline")
    assert json.loads(path.read_bytes())["model"] == "sonnet"
    mine = json.loads(path.read_bytes())
    mine["statusLine"] = {"type": "command", "command": "a newer one of mine"}
    path.write_text(json.dumps(mine))
    configure.status_line_off(path, state)
    after = json.loads(path.read_bytes())
    assert after["statusLine"]["command"] == "a newer one of mine" and after["model"] == "sonnet"


def test_another_settings_file_has_its_own_line(place: tuple[Path, Path], tmp_path: Path) -> None:
    path, state = place
    configure.configure(path, state, OVERLAY)
    before = path.read_bytes()
    configure.status_line_on(tmp_path / "other.json", state, "occtl statusline")
    assert path.read_bytes() == before
    assert configure.status_line_off(tmp_path / "other.json", state).exact
    assert not (tmp_path / "other.json").exists()


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    (tmp_path / ".claude").mkdir()
    file = tmp_path / ".claude" / "settings.json"
    file.write_bytes(MINE)
    assert main(["claude", "statusline", "on", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["changed"] and said["keys"] == ["statusLine"] and said["notices"]
    command = json.loads(file.read_bytes())["statusLine"]["command"]
    assert command.endswith(" statusline") and os.path.isabs(command.split()[0].strip("'"))
    assert main(["claude", "statusline", "off"]) == 0
    assert "as it was" in capsys.readouterr().out and file.read_bytes() == MINE
    assert main(["claude", "statusline", "off"]) == 66
    capsys.readouterr()
