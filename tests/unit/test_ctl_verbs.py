"""occtl's verbs against a stand-in for the control API on a real UNIX socket: output, JSON, exit codes."""

import json
import os
import pty
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ocd import __version__, paths
from ocd.ctl import daemon as line
from ocd.ctl import follow, lifecycle
from ocd.ctl.__main__ import main
from ocd.ctl.look import status as status_module
from ocd.keeper import lock
from ocd.keeper.folders import state_dir
from ocd.wire.messages import LogLine

ROOT = Path(__file__).resolve().parents[2]
Answer = Callable[["Request"], tuple[int, bytes]]


class Request:
    def __init__(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.query, self.body = method, path, query, body


class FakeDaemon:
    """Answers what a test tells it to; ``requests`` are those that came."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = str(folder / "control.sock")
        self.routes: dict[tuple[str, str], Answer] = {}
        self.requests: list[Request] = []
        self.release = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, parts.path, query, body)
                fake.requests.append(request)
                route = fake.routes.get((self.command, parts.path))
                if route is None:
                    status, content = problem(404, code="unknown", what=f"No call {parts.path}", exit=64)
                else:
                    status, content = route(request)
                try:
                    if status:
                        self.send_response(status)
                        self.send_header("Content-Type", "application/json")
                        self.end_headers()
                    self.wfile.write(content)
                    if query.get("follow") == "1":
                        self.wfile.flush()
                        fake.release.wait(30)
                except BrokenPipeError:
                    pass

            do_GET = do_POST = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(self.path, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def on(self, method: str, path: str, *answers: Any) -> None:
        """Answer with these one after the other, the last one for ever. Dicts become JSON with status 200."""
        left = list(answers)

        def answer(request: Request) -> tuple[int, bytes]:
            found = left.pop(0) if len(left) > 1 else left[0]
            if callable(found):
                found = found(request)
            if isinstance(found, dict):
                return 200, json.dumps(found).encode()
            if isinstance(found, list):
                return 200, b"".join(json.dumps(line).encode() + b"\n" for line in found)
            assert isinstance(found, tuple)
            return found

        self.routes[method, path] = answer

    def calls(self, method: str = "POST") -> list[str]:
        return [request.path for request in self.requests if request.method == method]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        Path(self.path).unlink(missing_ok=True)


def problem(status: int, **fields: Any) -> tuple[int, bytes]:
    return status, json.dumps({"error": fields}).encode()


def proxy(**changes: Any) -> dict[str, Any]:
    made = {
        "state": "ready",
        "pid": 4242,
        "port": 4000,
        "generation": 3,
        "restarts": 1,
        "since": time.time() - 7505,
        "memory": 139_460_608,
        "config": "/home/u/.config/ocd/litellm.yaml",
    }
    return made | changes


def a_status(
    main: dict[str, Any] | None = None, bedrock: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    made = {
        "version": __version__,
        "pid": 11,
        "keeper_pid": 10,
        "since": time.time() - 90,
        "litellm": "1.106.2",
        "proxies": {
            "main": main or proxy(),
            "bedrock": bedrock
            or proxy(port=4001, pid=4243, config="/home/u/.config/ocd/litellm-bedrock.yaml"),
        },
    }
    return made | top


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # not tmp_path: its names are too long for a socket
    folder = Path(tempfile.mkdtemp(prefix="ocdctl", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")) or name == "NO_COLOR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCD_PREFIX", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fake(prefix: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(prefix / "run")
    made.on("GET", "/v1/status", a_status())
    made.on("GET", "/v1/version", {"version": __version__, "pid": 11, "litellm": "1.106.2"})
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_pause", lambda seconds: None)


Capture = pytest.CaptureFixture[str]


def occtl(*args: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ocd.ctl", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **more)


# ---- status


def test_status_shows_both_proxies_in_full_width(fake: FakeDaemon, capsys: Capture) -> None:
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    rows = {row.split()[0]: row.split() for row in out.splitlines() if row.strip()}
    assert rows["proxy"] == [
        "proxy",
        "state",
        "since",
        "pid",
        "port",
        "memory",
        "restarts",
        "gen",
        "config",
    ]
    assert rows["main"][:9] == ["main", "ready", "2h", "05m", "4242", "4000", "133", "MiB", "1"]
    assert rows["main"][9:] == ["3", "/home/u/.config/ocd/litellm.yaml"]
    assert rows["bedrock"][-1] == "/home/u/.config/ocd/litellm-bedrock.yaml"
    assert "LiteLLM 1.106.2" in out and "\x1b" not in out


def test_status_json_has_the_issues_shape(fake: FakeDaemon, capsys: Capture) -> None:
    assert main(["status", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["running"] is True and said["version"] == __version__
    wanted = {"state", "pid", "port", "generation", "restarts", "since", "reason", "holder"}
    assert set(said["proxies"]) == {"main", "bedrock"} and wanted <= set(said["proxies"]["main"])


def test_status_tells_who_blocks_the_port_and_what_to_do(fake: FakeDaemon, capsys: Capture) -> None:
    holder = {"pid": 99, "user": "bob", "command": "python3 -m http.server\x1b[2J 4000", "address": "0.0.0.0"}
    blocked = proxy(
        state="blocked", pid=None, reason="another program listens", holder=holder, next_step="Run kill 99"
    )
    fake.on("GET", "/v1/status", a_status(main=blocked))
    assert main(["status"]) == 3
    out = capsys.readouterr().out
    assert (
        "main is blocked: another program listens; port 4000 0.0.0.0 is held by python3 -m http.server" in out
    )
    assert "(pid 99, user bob)" in out and "next: Run kill 99" in out and "\x1b" not in out


def test_status_shows_a_refused_configuration_and_problems_but_is_fit(
    fake: FakeDaemon, capsys: Capture
) -> None:
    trouble = [{"code": "disk", "what": "Logging stopped", "why": "disk full", "next": "Free some space"}]
    fake.on("GET", "/v1/status", a_status(main=proxy(rejected="line 3 is wrong"), problems=trouble))
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "main keeps serving with its earlier configuration: line 3 is wrong." in out
    assert "Logging stopped: disk full." in out and "Free some space" in out


@pytest.mark.parametrize(
    ("state", "wanted", "code"),
    [
        ("ready", "up", 0),
        ("idle", "up", 0),
        ("stopped", "down", 0),
        ("starting", "up", 3),
        ("crash-loop", "up", 3),
    ],
)
def test_status_exit_code(fake: FakeDaemon, capsys: Capture, state: str, wanted: str, code: int) -> None:
    fake.on("GET", "/v1/status", a_status(bedrock=proxy(state=state, wanted=wanted)))
    assert main(["status"]) == code


def test_status_without_a_daemon(prefix: Path, capsys: Capture) -> None:
    assert main(["status"]) == 3
    said = capsys.readouterr().out
    assert said.startswith("ocd is not running: ") and "occtl start" in said
    assert main(["status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_status_says_that_the_daemon_is_of_another_version(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("GET", "/v1/status", a_status(version="9.9.9") | {"later": 1})
    assert main(["status"]) == 0
    assert f"This is occtl {__version__}, the daemon is 9.9.9. Run `occtl reexec`" in capsys.readouterr().out


def test_watch_in_a_pipe_prints_changes_only(
    fake: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = a_status(), a_status(main=proxy(state="draining"))
    fake.on("GET", "/v1/status", first, first, second, second)
    looks = iter(range(4))

    def pause(seconds: float) -> None:
        if next(looks, None) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status_module, "_pause", pause)
    assert main(["status", "--watch", "--json"]) == 130
    states = [
        json.loads(line)["proxies"]["main"]["state"] for line in capsys.readouterr().out.splitlines() if line
    ]
    assert states == ["ready", "draining"]


# ---- the line to the daemon


@pytest.mark.parametrize(
    "answer",
    [b"", b"no json", b"[]", b'{"version": 1}', b'{"proxies": "\xff"}', b"{" * 100_000],
    ids=["empty", "text", "list", "fields", "bytes", "deep"],
)
def test_a_malformed_answer_is_one_clear_error(fake: FakeDaemon, capsys: Capture, answer: bytes) -> None:
    fake.on("GET", "/v1/status", (200, answer))
    assert main(["status"]) == 76
    err = capsys.readouterr().err
    assert "Cannot understand the daemon" in err and "next:" in err and "Traceback" not in err


def test_an_answer_that_is_no_http_and_one_that_is_cut_off(fake: FakeDaemon, capsys: Capture) -> None:
    for raw in (b"SSH-2.0-OpenSSH\r\n", b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"ver'):
        fake.on("GET", "/v1/status", (0, raw))
        assert main(["status"]) == 76
        assert "The daemon broke off its answer" in capsys.readouterr().err


def test_what_an_incompatible_daemon_cannot_answer_names_the_cure(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("GET", "/v1/version", {"version": "7.0.0", "api": 7, "pid": 1})
    fake.on("POST", "/v1/reload", (404, b"Not Found"))
    assert main(["reload"]) == 76
    err = capsys.readouterr().err
    assert "the daemon is 7.0.0 (API 7, not 1)" in err and "occtl reexec" in err


def test_the_daemons_problem_is_passed_on_with_its_exit_code(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on(
        "POST",
        "/v1/reload",
        problem(409, code="busy", what="A reload runs", why="since 3 s", next="Wait", exit=75),
    )
    assert main(["reload", "--json"]) == 75
    said = capsys.readouterr()
    assert "error: A reload runs\n  why:  since 3 s\n  next: Wait\n" in said.err
    assert json.loads(said.out)["error"] == {
        "code": "busy",
        "what": "A reload runs",
        "why": "since 3 s",
        "next": "Wait",
        "exit": 75,
    }


def test_a_socket_of_somebody_else_is_never_spoken_to(
    fake: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "_uid", lambda: os.getuid() + 1)
    for verb in (["status"], ["start"], ["reload"], ["stop"]):
        assert main(verb) == 77
        assert f"belongs to user {os.getuid()}" in capsys.readouterr().err
    assert fake.requests == []


def test_a_process_of_somebody_else_behind_our_socket_is_refused(
    fake: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "_own", lambda *_: None)
    monkeypatch.setattr(line, "_uid", lambda: os.getuid() + 1)
    assert main(["status"]) == 77
    assert "listens on it" in capsys.readouterr().err and fake.requests == []


def test_a_folder_that_others_may_write_to_is_refused(fake: FakeDaemon, capsys: Capture) -> None:
    os.chmod(Path(fake.path).parent, 0o777)
    assert main(["status"]) == 77
    assert "others may write to it" in capsys.readouterr().err


def test_a_stale_socket_and_a_file_in_its_place(prefix: Path, capsys: Capture) -> None:
    (prefix / "run").mkdir(mode=0o700)
    path = prefix / "run" / "control.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert main(["reload"]) == 69
    assert "The daemon is not running" in capsys.readouterr().err
    path.unlink()
    path.write_text("")
    assert main(["reload"]) == 77
    assert "it is not a socket" in capsys.readouterr().err


# ---- reload, restart, stop, start, wait


def test_reload_reports_each_proxy_and_sends_what_was_asked(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("POST", "/v1/reload", {"ok": True, "changed": True, "proxies": {"main": "generation 4 serves"}})
    assert main(["reload", "main", "--dry-run"]) == 0
    assert capsys.readouterr().out == "main: generation 4 serves\n"
    assert json.loads(fake.requests[-1].body) == {"proxy": "main", "dry_run": True}
    fake.on("POST", "/v1/reload", {"ok": True})
    assert main(["reload"]) == 0
    assert capsys.readouterr().out == "Nothing has changed.\n"


def test_a_refused_reload_says_why_and_ends_with_78(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("POST", "/v1/reload", {"ok": False, "reason": "litellm.yaml:3: no such key"})
    assert main(["reload"]) == 78
    assert "litellm.yaml:3: no such key" in capsys.readouterr().err
    assert main(["reload", "--json"]) == 78
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_reload_has_no_limit_of_its_own(
    fake: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "QUICK", 0.05)
    arrived, held = threading.Event(), threading.Event()

    def slow(request: Request) -> dict[str, Any]:
        # outlasts the limit of quick calls: held until one that began later has run into it
        arrived.set()
        assert held.wait(30)
        return {"ok": True, "reason": "done"}

    def never(request: Request) -> dict[str, Any]:
        fake.release.wait(30)
        return a_status()

    fake.on("POST", "/v1/reload", slow)
    fake.on("GET", "/v1/status", never)
    codes: list[int] = []
    reload = threading.Thread(target=lambda: codes.append(main(["reload"])))
    reload.start()
    assert arrived.wait(30)
    assert main(["status"]) == 75
    held.set()
    reload.join(30)
    assert codes == [0]
    assert "The daemon does not answer" in capsys.readouterr().err


def test_restart_without_a_name_takes_all_in_turn(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("POST", "/v1/proxies/main/restart", {"ok": True, "proxies": {"main": "ready"}})
    fake.on("POST", "/v1/proxies/bedrock/restart", {"ok": False, "reason": "it did not boot"})
    assert main(["restart"]) == 69
    said = capsys.readouterr()
    assert (
        said.out == "main: restarted, ready\nbedrock: it did not boot\n"
        and "why:  it did not boot" in said.err
    )
    assert fake.calls() == ["/v1/proxies/main/restart", "/v1/proxies/bedrock/restart"]


@pytest.mark.parametrize("verb", ["restart", "start", "stop", "wait", "logs"])
def test_an_unknown_name_is_a_usage_error(fake: FakeDaemon, capsys: Capture, verb: str) -> None:
    assert main([verb, "mian"]) == 64
    assert "there are main and bedrock" in capsys.readouterr().err and fake.calls() == []


def test_stop_of_one_proxy_is_idempotent(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("POST", "/v1/proxies/main/stop", {"ok": True, "changed": True})
    assert main(["stop", "main"]) == 0
    assert capsys.readouterr().out == "main: stopped\n"
    fake.on("GET", "/v1/status", a_status(main=proxy(state="stopped", wanted="down")))
    assert main(["stop", "main"]) == 0
    assert capsys.readouterr().out == "main: already stopped\n"
    assert fake.calls() == ["/v1/proxies/main/stop"]


def test_stop_ends_the_daemon_and_waits_until_it_is_gone(fake: FakeDaemon, capsys: Capture) -> None:
    keeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert keeper.stdin is not None
    looks = 0

    def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            keeper.stdin.close()  # type: ignore[union-attr]
            # it stays a zombie: whoever started the daemon may never ask for its exit code
            os.waitid(os.P_PID, keeper.pid, os.WEXITED | os.WNOWAIT)

    try:
        lifecycle._pause = pause
        fake.on("GET", "/v1/status", a_status(keeper_pid=keeper.pid))
        fake.on("POST", "/v1/shutdown", {"ok": True})
        assert main(["stop"]) == 0
        assert looks == 3 and capsys.readouterr().out.startswith("Stopped; ")
    finally:
        keeper.kill()
        keeper.wait()


def test_stop_that_takes_too_long_says_so(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("GET", "/v1/status", a_status(keeper_pid=os.getppid()))
    fake.on("POST", "/v1/shutdown", {"ok": True})
    assert main(["stop", "--timeout", "0"]) == 75
    assert "still finishing" in capsys.readouterr().err


def test_stop_without_a_daemon_is_done_already(prefix: Path, capsys: Capture) -> None:
    assert main(["stop"]) == 0
    assert capsys.readouterr().out == "The daemon is not running.\n"
    assert main(["stop", "nobody"]) == 64


def test_start_waits_until_all_are_ready(fake: FakeDaemon, capsys: Capture) -> None:
    down, coming = (
        a_status(main=proxy(state="stopped", wanted="down")),
        a_status(main=proxy(state="starting")),
    )
    fake.on("GET", "/v1/status", down, coming, coming, a_status())
    fake.on("POST", "/v1/proxies/main/start", {"ok": True})
    assert main(["start"]) == 0
    assert capsys.readouterr().out == "bedrock: already running\nmain: ready\n"
    assert fake.calls() == ["/v1/proxies/main/start"]


def test_start_ends_as_soon_as_a_proxy_is_stuck(fake: FakeDaemon, capsys: Capture) -> None:
    loop = proxy(state="crash-loop", reason="exit 3: bad key", next_step="Run occtl config check")
    fake.on("GET", "/v1/status", a_status(main=proxy(state="starting")), a_status(main=loop))
    assert main(["start", "--json"]) == 69
    said = capsys.readouterr()
    assert json.loads(said.out)["proxies"]["main"] == "crash-loop: exit 3: bad key"
    assert "main is crash-loop" in said.err and "occtl config check" in said.err


def test_what_the_configuration_switched_off_is_nobody_s_business_unless_it_is_named(
    fake: FakeDaemon, capsys: Capture
) -> None:
    off = proxy(state="disabled", wanted="stopped", reason="enabled = false")
    fake.on("GET", "/v1/status", a_status(main=off))
    assert main(["start"]) == 0 and main(["status"]) == 0
    assert fake.calls() == []
    problem = {"code": "disabled", "what": "the main proxy is switched off", "next": "Set it", "exit": 78}
    fake.on("POST", "/v1/proxies/main/start", (409, json.dumps({"error": problem}).encode()))
    assert main(["start", "main"]) == 78
    assert "switched off" in capsys.readouterr().err


def test_start_is_bounded(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("GET", "/v1/status", a_status(main=proxy(state="starting")))
    assert main(["start", "main", "--timeout", "0"]) == 75
    assert "main did not get ready" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_start_brings_the_daemon_up(
    prefix: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    from ocd.client import start

    made: list[FakeDaemon] = []

    def start_daemon(timeout: float = 30.0) -> None:
        made.append(FakeDaemon(prefix / "run"))
        made[0].on("GET", "/v1/status", a_status(main=proxy(state="starting")), a_status())

    monkeypatch.setattr(start, "start_daemon", start_daemon)
    try:
        assert main([verb]) == 0
        assert capsys.readouterr().out == "bedrock: ready\nmain: ready\n"
        assert made[0].calls() == []
    finally:
        made[0].close()


def test_wait_asks_for_each_and_reports_a_timeout(fake: FakeDaemon, capsys: Capture) -> None:
    for name in ("main", "bedrock"):
        fake.on("GET", f"/v1/proxies/{name}/wait", {"ok": True})
    assert main(["wait", "--for", "idle", "--timeout", "30"]) == 0
    assert capsys.readouterr().out == "main: idle\nbedrock: idle\n"
    asked = fake.requests[-1].query
    assert asked["for"] == "idle" and 0 < float(asked["timeout"]) <= 30
    fake.on("GET", "/v1/proxies/main/wait", {"ok": False, "reason": "still starting"})
    assert main(["wait", "main"]) == 75
    assert "still starting (waited 60 s)" in capsys.readouterr().err


def test_wait_without_a_daemon(prefix: Path, capsys: Capture) -> None:
    assert main(["wait", "--for", "stopped"]) == 0
    assert main(["wait", "--timeout", "0"]) == 75
    assert "The daemon is not running" in capsys.readouterr().err


# ---- logs and events


def a_line(moment: float, name: str, text: str, stream: str = "stdout") -> dict[str, Any]:
    return {"time": moment, "proxy": name, "generation": 2, "pid": 5, "stream": stream, "text": text}


def test_logs_of_both_are_merged_by_time_and_cut(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on(
        "GET", "/v1/logs/main", [a_line(10.0, "main", "a"), a_line(30.0, "main", "c\x1b]0;title\x07\x1b[2Jd")]
    )
    fake.on("GET", "/v1/logs/bedrock", [a_line(20.0, "bedrock", "b")])
    assert main(["logs", "-n", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(20.0))
    assert shown == [f"{clock} bedrock#2  b", f"{shown[1][:19]} main#2     cd"]


def test_lines_of_one_log_stay_in_order_when_the_clock_was_set_back(
    fake: FakeDaemon, capsys: Capture
) -> None:
    fake.on(
        "GET",
        "/v1/logs/main",
        [a_line(50.0, "main", "a"), a_line(10.0, "main", "b"), a_line(60.0, "main", "d")],
    )
    fake.on("GET", "/v1/logs/bedrock", [a_line(55.0, "bedrock", "c")])
    assert main(["logs", "--json"]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == list("abcd")


@pytest.mark.parametrize(
    ("first", "again", "shown"),
    [
        ([10.0, 20.0], [10.0, 20.0, 30.0], [10.0, 20.0, 30.0]),
        # The clock was set back before the successor came, or while the first told.
        ([10.0, 20.0], [10.0, 20.0, 5.0, 6.0], [10.0, 20.0, 5.0, 6.0]),
        ([10.0, 5.0], [10.0, 5.0, 6.0], [10.0, 5.0, 6.0]),
        # Our last line is not among what it still knows.
        ([10.0, 20.0], [15.0, 30.0], [10.0, 20.0, 30.0]),
    ],
)
def test_a_successor_loses_and_repeats_nothing_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch, first: list[float], again: list[float], shown: list[float]
) -> None:
    told = iter([first, again])
    more = iter([True, False])

    class Told:
        def __enter__(self) -> "Told":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def lines(self, model: Any, path: str, **query: int) -> list[LogLine]:
            return [LogLine(**a_line(moment, "main", str(moment))) for moment in next(told)]

    monkeypatch.setattr(follow, "Daemon", Told)
    monkeypatch.setattr(follow, "_pid", lambda daemon: 1)
    monkeypatch.setattr(follow, "_successor", lambda pid: next(more))
    assert [line.time for line in follow._followed(LogLine, "/v1/logs/main", 100)] == shown


def test_the_daemons_own_log(fake: FakeDaemon, capsys: Capture) -> None:
    record = {"time": 20.0, "level": "info", "event": "reload", "proxy": "main", "text": "a\x1b[2Jb"}
    fake.on("GET", "/v1/logs/daemon", (200, json.dumps(record).encode() + b"\nno json\n"))
    assert main(["logs", "daemon"]) == 0
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(20.0))
    assert capsys.readouterr().out == f"{clock} info reload ab proxy=main\nno json\n"
    assert main(["logs", "daemon", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == record


def test_logs_of_one_as_json_lines(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("GET", "/v1/logs/main", [a_line(1.0, "main", "ü"), a_line(2.0, "main", "y")])
    assert main(["logs", "main", "--json"]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["ü", "y"]


def test_the_past_of_several_followed_logs_is_sorted_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_SETTLED", 60.0)
    lines = {
        name: [LogLine(**a_line(moment, name, str(moment))) for moment in moments]
        for name, moments in {"main": (1.0, 3.0, 2.0), "bedrock": (0.5, 2.5)}.items()
    }
    streams = [iter(some) for some in lines.values()]
    assert [line.text for line in follow._merged(streams, 4)] == ["1.0", "2.5", "3.0", "2.0"]


def test_following_prints_at_once_and_ctrl_c_ends_with_130(fake: FakeDaemon, prefix: Path) -> None:
    fake.on("GET", "/v1/logs/main", [a_line(10.0, "main", "first")])
    fake.on("GET", "/v1/logs/bedrock", [a_line(20.0, "bedrock", "second")])
    command = [sys.executable, "-m", "ocd.ctl", "logs", "-f"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None and follower.stderr is not None
        # Which comes first is another test's: on a busy machine one log may tell its past long after the other.
        shown = {follower.stdout.readline().split()[-1] for _ in range(2)}
        assert shown == {"first", "second"}
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
        assert "Traceback" not in follower.stderr.read()


def test_a_reader_that_has_enough_ends_it_silently(fake: FakeDaemon, prefix: Path) -> None:
    fake.on("GET", "/v1/logs/main", [a_line(1.0, "main", "x" * 1000)] * 2000)
    command = [sys.executable, "-m", "ocd.ctl", "logs", "main"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.wait(30) == 141
        assert writer.stderr.read() == ""


def test_events_for_people_and_programs(fake: FakeDaemon, capsys: Capture) -> None:
    said = [
        {"time": 5.0, "kind": "crashed", "proxy": "main", "generation": 3, "text": "signal 9"},
        {"time": 6.0, "kind": "daemon-stopping"},
    ]
    fake.on("GET", "/v1/events", said)
    assert main(["events", "-n", "5"]) == 0
    rows = [row.split(None, 2)[2] for row in capsys.readouterr().out.splitlines()]
    assert rows == ["main#3     crashed            signal 9", "daemon     daemon-stopping"]
    assert main(["events", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["kind"] == "crashed"


def test_a_stream_with_garbage_is_one_clear_error(fake: FakeDaemon, capsys: Capture) -> None:
    fake.on("GET", "/v1/events", (200, b'{"time": 1, "kind": "ready"}\nnot json\n'))
    assert main(["events"]) == 76
    said = capsys.readouterr()
    assert "not a Event" in said.err.replace("an Event", "a Event")


# ---- version, completion, usage, terminals


def test_version_names_three_and_the_cure(fake: FakeDaemon, prefix: Path, capsys: Capture) -> None:
    assert main(["version"]) == 0
    said = capsys.readouterr()
    assert (
        said.out.split() == ["occtl", __version__, "ocd", __version__, "LiteLLM", "1.106.2"] and not said.err
    )
    fake.on("GET", "/v1/version", {"version": "0.0.9", "pid": 1})
    assert main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["daemon"] == "0.0.9" and found["differ"] is True and "occtl reexec" in found["next"]


def test_version_without_a_daemon(prefix: Path, capsys: Capture) -> None:
    assert main(["version"]) == 0
    assert "not running" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(prefix: Path, capsys: Capture, shell: str) -> None:
    assert main(["completion", shell]) == 0
    assert "_OCCTL_COMPLETE" in capsys.readouterr().out


def test_completion_knows_verbs_and_names_without_a_daemon(prefix: Path) -> None:
    def completed(words: str, place: int) -> set[str]:
        more = {"_OCCTL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        return {row.split(",")[1] for row in occtl(env=os.environ | more).stdout.splitlines() if row}

    assert completed("occtl st", 1) == {"status", "statusline", "start", "stop"}
    assert completed("occtl restart ", 2) == {"main", "bedrock"}
    assert completed("occtl logs ", 2) == {"main", "bedrock", "daemon"}
    assert completed("occtl explain ", 2) == set(), "there is no configuration yet"
    config = prefix / "config"
    config.mkdir(mode=0o700, exist_ok=True)
    for name in ("litellm.yaml", "litellm-bedrock.yaml"):
        (config / name).write_text(
            "model_list:\n- model_name: my-model\n  litellm_params: {model: anthropic/claude-opus-9-9}\n"
        )
    assert completed("occtl explain m", 2) == {"my-model"}
    assert completed("occtl model set haiku my", 4) == {"my-model"}
    (config / "litellm.yaml").write_text("model_list: [")
    assert completed("occtl explain m", 2) == set()
    for version in ("1.99.4", "1.106.2"):
        (prefix / "share" / "envs" / f"litellm-{version}-abc").mkdir(parents=True)
        (prefix / "share" / "envs" / f"litellm-{version}-abc" / ".complete").touch()
    assert completed("occtl litellm use 1.9", 3) == {"1.99.4"}


def test_bash_completes_what_the_script_says(prefix: Path) -> None:
    """The script itself, in a real bash; zsh and fish have click's own, which differ in their shells' words alone."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    script = occtl("completion", "bash").stdout
    folder = prefix / "path"
    folder.mkdir()
    (folder / "occtl").write_text(f'#!/bin/sh\nexec {sys.executable} -m ocd.ctl "$@"\n')
    (folder / "occtl").chmod(0o755)
    asked = f"{script}\nCOMP_WORDS=(occtl restart b); COMP_CWORD=2\n_occtl_completion occtl\n"
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"'
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "--norc", "-c", asked], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["bedrock"], done.stderr


def test_a_litellm_that_does_not_serve_is_removed(prefix: Path, capsys: Capture) -> None:
    envs = prefix / "share" / "envs"
    for version in ("1.99.4", "1.106.2"):
        (envs / f"litellm-{version}-abc").mkdir(parents=True)
        (envs / f"litellm-{version}-abc" / ".complete").touch()
    (prefix / "share" / "litellm").symlink_to(envs / "litellm-1.106.2-abc")
    assert (
        main(["litellm", "remove", "1.106.2"]) == 64 and "is the one that serves" in capsys.readouterr().err
    )
    assert main(["litellm", "remove", "1.99.4"]) == 0
    assert [path.name for path in envs.iterdir()] == ["litellm-1.106.2-abc"]
    assert main(["litellm", "remove", "1.99.4"]) == 0 and "not installed" in capsys.readouterr().out


def test_usage_errors_end_with_64_and_suggest(prefix: Path, capsys: Capture) -> None:
    assert main(["relod"]) == 64
    assert "Did you mean reload?" in capsys.readouterr().err
    assert main(["reload", "--dyr-run", "--json"]) == 64
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["exit"] == 64 and "--dry-run" in said.err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_every_verb_and_examples(prefix: Path, capsys: Capture, flag: str) -> None:
    assert main([flag]) == 0
    out = capsys.readouterr().out
    for verb in [
        "status",
        "reload",
        "restart",
        "stop",
        "start",
        "wait",
        "logs",
        "events",
        "config",
        "version",
        "selftest",
        "completion",
    ]:
        assert f"\n  {verb} " in out
        assert main([verb, flag]) == 0
    assert "Examples:" in out


def on_terminal(*args: str, **environ: str) -> str:
    """Standard output of occtl on a pseudo-terminal of 100 columns."""
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environ}
    try:
        command = [sys.executable, "-m", "ocd.ctl", *args]
        with subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=follower, stderr=subprocess.DEVNULL
        ) as run:
            os.close(follower)
            said = b""
            while True:
                try:
                    more = os.read(leader, 65536)
                except OSError:  # Linux says EIO when the last writer is gone
                    break
                if not more:
                    break
                said += more
            run.wait(30)
        return said.decode()
    finally:
        os.close(leader)


def test_watch_draws_on_a_page_of_its_own_and_ctrl_c_gives_the_terminal_back(fake: FakeDaemon) -> None:
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "4"}
    command = [sys.executable, "-m", "ocd.ctl", "status", "-w", "--every", "0.1"]
    try:
        with subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=follower, stderr=subprocess.DEVNULL
        ) as watching:
            os.close(follower)
            said = b""
            while said.count(b"\x1b[H") < 2:
                said += os.read(leader, 65536)
            watching.send_signal(signal.SIGINT)
            while True:
                try:
                    more = os.read(leader, 65536)
                except OSError:  # Linux says EIO when the last writer is gone
                    break
                if not more:
                    break
                said += more
            assert watching.wait(30) == 130
    finally:
        os.close(leader)
    assert said.startswith(b"\x1b[?1049h") and said.rstrip().endswith(b"\x1b[?25h\x1b[?1049l")
    first = said.split(b"\x1b[H")[1]
    assert b"proxy" in first and b"bedrock" not in first, "four lines are what the terminal has"


def test_colours_only_where_they_are_wanted(fake: FakeDaemon) -> None:
    assert "\x1b[32mready" in on_terminal("status")
    assert "\x1b[32m" not in on_terminal("status", NO_COLOR="1")
    assert "\x1b[32m" not in on_terminal("--no-color", "status")
    assert "\x1b" not in on_terminal("status", TERM="dumb")
    fake.on("GET", "/v1/logs/main", [a_line(1.0, "main", "x")])
    assert "\x1b[36mmain#2" in on_terminal("logs", "main")
    assert "\x1b" not in on_terminal("logs", "main", NO_COLOR="1")


@pytest.mark.parametrize("columns", ["80", "200"])
def test_nothing_is_cut_off_on_a_narrow_terminal(fake: FakeDaemon, columns: str) -> None:
    fake.on("GET", "/v1/status", a_status(main=proxy(state="crash-loop", pid=1234567)))
    said = on_terminal("status", NO_COLOR="1", COLUMNS=columns)
    for word in ("bedrock", "crash-loop", "1234567", "2h 05m", "133 MiB", "restarts", "litellm-bedrock.yaml"):
        assert word in said
    assert "…" not in said


def test_a_narrow_encoding_costs_a_letter_not_the_message(fake: FakeDaemon, prefix: Path) -> None:
    fake.on("GET", "/v1/logs/main", [a_line(1.0, "main", "grün")])
    done = occtl("logs", "main", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.endswith("grun\n")


#: what a look must not import; each of them takes longer than all the rest of it
HEAVY = (
    *("click", "rich", "httpx", "pydantic", "platformdirs", "ruamel", "psutil", "litellm", "asyncio"),
    *("inspect", "typing", "dataclasses", "email", "http", "logging", "socket", "subprocess", "shutil"),
    *("pathlib", "difflib", "textwrap", "datetime", "tomllib", "importlib.metadata"),
)


def imported(*args: str, **environ: str) -> set[str]:
    """Which modules a command has imported at its end, in an interpreter without site-packages' own start-up code."""
    probe = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        f"from ocd.ctl.__main__ import main; main({list(args)!r})\n"
        "print('\\n' + ' '.join(sorted(set(sys.modules) - before)))"
    )
    command = [sys.executable, "-IS", "-c", probe]
    done = subprocess.run(
        command, env=os.environ | environ, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "verb",
    [
        "status",
        "status main --json",
        "version",
        "sessions",
        "logs",
        "logs main -n 3 --json",
        "events",
        "config path",
    ],
)
def test_looking_imports_next_to_nothing(fake: FakeDaemon, verb: str) -> None:
    session = {"pid": 7, "cwd": "/home/u/x", "since": 5.0, "requests": 3, "last_request": 6.0}
    fake.on("GET", "/v1/status", a_status(main=proxy(state="blocked", reason="taken"), sessions=[session]))
    fake.on("GET", "/v1/logs/main", [a_line(1.0, "main", "x")])
    fake.on("GET", "/v1/logs/bedrock", [a_line(1.0, "bedrock", "x")])
    fake.on("GET", "/v1/events", [{"time": 5.0, "kind": "ready", "proxy": "main"}])
    loaded = imported(*verb.split())
    assert "ocd.ctl.quick" in loaded and not loaded & set(HEAVY)
    # without click, and whatever it brings, the other way round too: `-IS` finds no site-packages
    assert not {name for name in loaded if name.partition(".")[0] not in {"ocd", *sys.stdlib_module_names}}


def test_completion_imports_next_to_nothing(prefix: Path) -> None:
    asked = {"_OCCTL_COMPLETE": "bash_complete", "COMP_WORDS": "occtl restart ", "COMP_CWORD": "2"}
    assert not imported(**asked) & {*HEAVY, "json", "ocd.ctl.daemon"}


def test_help_imports_no_verb(prefix: Path) -> None:
    probe = (
        "import sys; from ocd.ctl.__main__ import main; main(['--help']);"
        "print([name for name in ('rich', 'httpx', 'pydantic', 'litellm', 'asyncio', 'ocd.ctl.init', 'difflib') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_looking_does_not_connect_where_a_service_manager_would_start_the_daemon(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = prefix / "config" / "systemd" / "user" / "ocd.socket"
    unit.parent.mkdir(parents=True)
    agent = prefix / "Library" / "LaunchAgents" / "io.github.ocd.plist"
    agent.parent.mkdir(parents=True)
    runtime = prefix / "run"
    runtime.mkdir(mode=0o700)
    state = prefix / "state"
    for name, value in (
        ("HOME", prefix),
        ("XDG_CONFIG_HOME", unit.parents[2]),
        ("OCD_RUNTIME_DIR", runtime),
        ("XDG_STATE_HOME", state),
    ):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("OCD_PREFIX", raising=False)
    with socket.socket(socket.AF_UNIX) as manager:
        path = paths.control_socket()
        manager.bind(path)
        manager.listen()
        manager.setblocking(False)
        assert line.find_socket() == path, "nobody starts anything on this machine"
        manager.accept()[0].close()
        unit.touch()
        agent.touch()
        with pytest.raises(line.NotRunning):
            line.find_socket()
        with pytest.raises(BlockingIOError):
            manager.accept()
        assert line.find_socket(starts=True) == path
        state_folder = Path(state_dir())
        state_folder.mkdir(parents=True)
        held_lock = lock.take(str(state_folder / "lock"))
        try:
            assert line.find_socket() == path
        finally:
            os.close(held_lock)
