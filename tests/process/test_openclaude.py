"""openclaude as a process of its own: a real UNIX socket, a stand-in daemon, a stub ``claude``."""

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ocd.claude import launch
from ocd.claude.overlay import Slots
from ocd.claude.plan import CONTENT_TYPE, encode_plan, encode_problem, encode_progress
from ocd.client import places
from ocd.errors import OcdError
from ocd.wire.messages import LaunchRequest

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "helpers" / "stub_claude.py"
MAIN = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ocd.client.__main__ import main; sys.exit(main())"
)
CANARY = "canary-58d1f0"
KEY = "sk-proxy-key-for-tests"


@pytest.fixture
def box():
    """A short folder (a socket's path has at most about a hundred bytes) with a home and a stub on a PATH."""
    folder = Path(tempfile.mkdtemp(prefix="oc"))
    for name in ("home", "bin", "work"):
        (folder / name).mkdir()
    (folder / "run").mkdir(mode=0o700)
    stub = folder / "bin" / "claude"
    stub.write_text(f"#!{sys.executable} -IS\n{STUB.read_text()}")
    stub.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def environment(box, **more):
    return {
        "PATH": f"{box}/bin:/usr/bin:/bin",
        "HOME": f"{box}/home",
        "OCD_RUNTIME_DIR": f"{box}/run",
        "OCD_STUB_RECORD": f"{box}/record",
        "OPENCLAUDE_START_TIMEOUT": "60",
        "NO_COLOR": "1",
        **more,
    }


def openclaude(box, *arguments, command=(sys.executable, "-IS", "-c", MAIN), **more):
    """Run openclaude to its end; what it printed and its exit code."""
    return subprocess.run(
        [*command, *arguments],
        env=environment(box, **more),
        cwd=box / "work",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
    )


def record(box):
    return json.loads((box / "record").read_text())


class Daemon:
    """Answers POST /v1/launch on the control socket with the given answers, the last one again and again.

    An answer is (status, content type, body), a function of the request that returns one, or None: hang up.
    """

    def __init__(self, box, *answers, path="run/control.sock"):
        self.requests = []
        self.asked = threading.Event()
        self._box = box
        self._answers = list(answers) or [self.plan]
        self._path = str(box / path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._path)
        self._socket.listen(100)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        os.unlink(self._path)

    def plan(self, request):
        try:
            reply = launch.prepare(
                LaunchRequest.model_validate_json(request.partition(b"\r\n\r\n")[2]),
                folder=str(self._box / "run" / "sessions"),
                served=launch.Served(
                    Slots("claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder"),
                    "http://127.0.0.1:4000",
                    KEY,
                    known_models=["claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder", "bedrock-opus"],
                ),
                managed_root=str(self._box),
            )
        except OcdError as error:
            return 400, CONTENT_TYPE, encode_problem(error.exit_code, error.sentence())
        return 200, CONTENT_TYPE, encode_plan(reply)

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(1 << 20)
                head, _, body = request.partition(b"\r\n\r\n")
                length = int(
                    next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))[
                        15:
                    ]
                )
                while len(body) < length:
                    body += connection.recv(1 << 20)
                request = head + b"\r\n\r\n" + body
                self.requests.append(request)
                self.asked.set()
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if callable(answer):
                    answer = answer(request)
                if answer is None:
                    continue
                status, kind, content = answer
                head = (
                    f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n"
                )
                with contextlib.suppress(OSError):  # openclaude was interrupted
                    connection.sendall(head.encode() + content)


def test_becomes_claude_with_the_overlay(box):
    with Daemon(box) as daemon:
        arguments = [b"-p", b"s\xff", b"--model", b"sonnet", b"--", b"--settings", b"x"]
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", MAIN, *arguments],
            env=environment(
                box, OCD_STUB_EXIT="7", ANTHROPIC_API_KEY=CANARY, ANTHROPIC_BASE_URL=CANARY, KEPT="yes"
            ),
            cwd=box / "work",
            stderr=subprocess.PIPE,
        )
        _, printed = process.communicate(timeout=90)
    assert process.returncode == 7
    assert printed == b""
    found = record(box)
    assert found["pid"] == process.pid
    assert found["cwd"] == os.path.realpath(box / "work")
    assert found["argv"][0] == "--settings"
    assert [os.fsencode(argument) for argument in found["argv"][2:]] == arguments
    assert found["overlay_mode"] == 0o600
    assert found["overlay"]["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert found["overlay"]["env"]["ANTHROPIC_CUSTOM_HEADERS"] == f"x-litellm-api-key: Bearer {KEY}"
    assert not {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"} & set(found["environ"])
    assert found["environ"]["KEPT"] == "yes"
    assert found["environ"]["NO_PROXY"] == "127.0.0.1,localhost,::1"
    # Neither the value of a credential nor our key travels where it need not.
    (request,) = daemon.requests
    assert CANARY.encode() not in request
    assert b'"ANTHROPIC_API_KEY":""' in request
    assert KEY not in json.dumps(found["argv"]) + json.dumps(found["environ"])


def test_the_users_settings_option_and_model_options(box):
    (box / "work" / "own.json").write_text('{"env": {"MINE": "1"}}')
    with Daemon(box):
        done = openclaude(
            box, "--settings", "own.json", "--default-provider", "litellm", "--model", "bedrock-opus",
            "--model-haiku", "ll@claude-sonnet-9-9", "Say ok only",
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    found = record(box)
    assert found["argv"][2:] == ["--model", "bedrock-opus", "Say ok only"]
    assert found["overlay"]["env"]["MINE"] == "1"
    assert found["overlay"]["env"]["ANTHROPIC_SMALL_FAST_MODEL"] == "claude-sonnet-9-9"


def test_an_unknown_model_fails_before_claude_starts(box):
    with Daemon(box):
        done = openclaude(box, "--model", "litellm@bedrock-opsu", "hi")
    assert done.returncode == 64
    assert b"bedrock-opus" in done.stderr
    assert not (box / "record").exists()


def test_conflicts_are_named_on_request(box):
    with Daemon(box):
        done = openclaude(box, OPENCLAUDE_VERBOSE="1", ANTHROPIC_AUTH_TOKEN=CANARY)
    assert done.stderr == b"openclaude: set aside for this session: ANTHROPIC_AUTH_TOKEN (environment)\n"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_need_no_daemon(box, argument):
    done = openclaude(box, argument)
    assert (done.returncode, done.stderr) == (0, b"")
    assert record(box)["argv"] == [argument]


@pytest.mark.parametrize(
    "words", [["stop", "deadbeef"], ["daemon", "status"], ["update"], ["mcp", "--help"], ["--bg-spare", "x"]]
)
def test_verbs_that_take_no_settings_need_no_daemon(box, words):
    """A11, A20: behind --settings they became prompts."""
    done = openclaude(box, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert record(box)["argv"] == words


def test_what_cannot_work_is_refused_before_anything_starts(box):
    for words in (["remote-control"], ["rc", "--name", "x"], ["--desktop"]):
        done = openclaude(box, *words)
        assert done.returncode == 69 and b"Run: claude " in done.stderr and b"--settings" not in done.stderr
    assert not (box / "record").exists()


def test_the_wrapper_form(box):
    """VS Code's claudeProcessWrapper and CLAUDE_CODE_PROCESS_WRAPPER: the program that they name is started."""
    other = box / "native" / "claude"
    other.parent.mkdir()
    shutil.copy(box / "bin" / "claude", other)
    (box / "bin" / "claude").unlink()
    launcher = box / "bin" / "openclaude"
    launcher.write_text(f"#!{sys.executable} -IS\n{MAIN}\n")
    launcher.chmod(0o755)
    with Daemon(box):
        done = openclaude(box, other, "-p", "hi", command=(launcher,), KEPT="yes")
        assert (done.returncode, done.stderr) == (0, b"")
        found = record(box)
        assert found["argv"][0] == "--settings" and found["argv"][2:] == ["-p", "hi"]
        assert found["environ"]["KEPT"] == "yes"
        # nested: started by a Claude Code that came through openclaude, wrapped twice, as the same process
        inner = found["environ"]
        again = 'exec "$0" "$@"'
        done = subprocess.run(
            ["/bin/sh", "-c", f"OCD_SESSION_PID=$$ {again}", launcher, launcher, other, "-p", "hi"],
            env={
                **environment(box),
                "OCD_NOTICE": "old",
                **{k: v for k, v in inner.items() if k.startswith("OCD_")},
            },
            cwd=box / "work",
            capture_output=True,
            timeout=90,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert record(box)["argv"][2:] == ["-p", "hi"] and "OCD_NOTICE" not in record(box)["environ"]
        # an interpreter and its script
        script = box / "native" / "cli.js"
        shutil.copy(other, script)
        node = box / "native" / "node"
        node.symlink_to(sys.executable)
        done = openclaude(box, node, script, "--verbose", command=(launcher,))
        assert (done.returncode, done.stderr) == (0, b"")
        assert record(box)["argv"][2:] == ["--verbose"]
        done = openclaude(box, box / "native" / "gone" / "claude", "-p", "hi", command=(launcher,))
        assert done.returncode == 69 and b"cannot be run" in done.stderr
    # Claude Code's own processes are not kept waiting for a daemon
    done = openclaude(box, other, "--bg-pty-host", "x", command=(launcher,))
    assert (done.returncode, record(box)["argv"]) == (0, ["--bg-pty-host", "x"])


def test_found_where_it_usually_is_when_the_path_lacks_it(box):
    place = box / "home" / ".claude" / "local" / "claude"
    place.parent.mkdir(parents=True)
    os.rename(box / "bin" / "claude", place)
    done = openclaude(box, "--version", PATH="/nonexistent")
    assert (done.returncode, record(box)["argv"]) == (0, ["--version"])


def test_notices_reach_a_full_screen_terminal(box):
    """A18: a hook in the overlay prints what openclaude had to say; on a pipe there is no hook, stderr is seen."""
    with Daemon(box):
        openclaude(box, OPENCLAUDE_VERBOSE="1", ANTHROPIC_AUTH_TOKEN=CANARY)
        assert "hooks" not in record(box)["overlay"] and "OCD_NOTICE" not in record(box)["environ"]
        terminal, side = pty.openpty()
        subprocess.run(
            [sys.executable, "-IS", "-c", MAIN],
            env=environment(box, OPENCLAUDE_VERBOSE="1", ANTHROPIC_AUTH_TOKEN=CANARY),
            cwd=box / "work",
            stdin=subprocess.DEVNULL,
            stdout=side,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=90,
        )
        os.close(side)
        os.close(terminal)
    found = record(box)
    (hook,) = found["overlay"]["hooks"]["SessionStart"][0]["hooks"]
    for environ, text in ((found["environ"], None), ({"PATH": "/usr/bin:/bin"}, b"")):
        done = subprocess.run(
            ["/bin/sh", "-c", hook["command"]], env=environ, capture_output=True, check=True
        )
        if text is None:
            said = json.loads(done.stdout)["systemMessage"]
            assert said == "openclaude: set aside for this session: ANTHROPIC_AUTH_TOKEN (environment)"
        else:
            assert done.stdout == text


def test_asks_again_until_ready_and_is_quiet_on_a_pipe(box):
    def ready(request):
        return daemon.plan(request)

    progress = (503, CONTENT_TYPE, encode_progress("main boots"))
    daemon = Daemon(box, progress, None, progress, ready)
    with daemon:
        done = openclaude(box, "-p", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(daemon.requests) == 4


def test_gives_up_with_the_last_reason(box):
    with Daemon(box, (503, CONTENT_TYPE, encode_progress("main boots, 3 s"))):
        done = openclaude(box, OPENCLAUDE_START_TIMEOUT="0")
    assert done.returncode == 69
    assert b"main boots, 3 s" in done.stderr
    assert not (box / "record").exists()


def test_a_refusal_is_printed_with_its_exit_code(box):
    sentence = "Port 4000 is taken by nginx (pid 12, user root)."
    with Daemon(box, (409, CONTENT_TYPE, encode_problem(69, sentence))):
        done = openclaude(box)
    assert (done.returncode, done.stderr.decode()) == (69, f"openclaude: {sentence}\n")


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ((426, CONTENT_TYPE, encode_problem(76, "Run: occtl restart.")), 76, "Run: occtl restart"),
        (
            (422, "application/json", b'{"error": {"code": "x", "what": "Old daemon", "exit": 76}}'),
            76,
            "Old daemon",
        ),
        ((200, CONTENT_TYPE, b"set A=1"), 76, "occtl version"),
        ((200, CONTENT_TYPE, b"frobnicate 1\0"), 76, "occtl version"),
        ((200, "text/html", b"<html>"), 76, "status 200"),
    ],
)
def test_answers_of_other_versions(box, answer, code, text):
    with Daemon(box, answer):
        done = openclaude(box)
    assert done.returncode == code
    assert text in done.stderr.decode()
    assert not (box / "record").exists()


def test_one_progress_line_on_a_terminal_erased_at_the_end(box):
    def ready(request):
        return daemon.plan(request)

    daemon = Daemon(box, *[(503, CONTENT_TYPE, encode_progress("main boots"))] * 3, ready)
    terminal, side = pty.openpty()
    with daemon:
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", MAIN], env=environment(box), cwd=box / "work", stderr=side
        )
        os.close(side)
        shown = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                part = os.read(terminal, 1000)
            except OSError:  # Linux's end of file on a terminal
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
    os.close(terminal)
    line = b"openclaude: main boots"
    assert shown == b"\r" + line + b"\r" + b" " * len(line) + b"\r"


def test_interrupt_while_waiting(box):
    with Daemon(box, (503, CONTENT_TYPE, encode_progress("main boots"))) as daemon:
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", MAIN],
            env=environment(box),
            cwd=box / "work",
            stderr=subprocess.PIPE,
        )
        assert daemon.asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_signals_that_python_ignores_are_not_ignored_in_claude(box):
    (box / "bin" / "claude").write_text("#!/bin/sh\nexec grep SigIgn /proc/self/status\n")
    with Daemon(box):
        done = openclaude(box)
    assert int(done.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


@pytest.mark.skipif(
    any(os.path.exists(folder + b"/claude") for folder in places.SYSTEM),
    reason="this machine has Claude Code",
)
def test_missing_claude(box):
    (box / "bin" / "claude").unlink()
    done = openclaude(box, PATH=f"{box}/bin")
    assert done.returncode == 69
    assert b"npm install -g" in done.stderr


def test_claude_that_cannot_be_executed(box):
    (box / "bin" / "claude").write_text("#!/nonexistent/interpreter\n")
    with Daemon(box):
        done = openclaude(box)
    assert done.returncode == 71
    assert str(box / "bin" / "claude").encode() in done.stderr


def test_a_claude_that_leads_back_here_does_not_go_round_for_ever(box):
    inner = box / "inner.py"
    inner.write_text(MAIN)
    (box / "bin" / "claude").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {inner} "$@"\n')
    with Daemon(box) as daemon:
        done = openclaude(box)
    assert done.returncode == 69
    assert b"leads back" in done.stderr
    assert len(daemon.requests) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("what", ["run", "run/control.sock"])
def test_what_belongs_to_somebody_else_is_not_trusted(box, what):
    with Daemon(box) as daemon:
        os.chown(box / what, 65534, 65534)
        done = openclaude(box)
    assert done.returncode == 77
    assert str(box / "run").encode() in done.stderr
    assert daemon.requests == []


def test_a_runtime_folder_that_others_can_write_is_not_trusted(box):
    (box / "run").chmod(0o777)
    with Daemon(box) as daemon:
        done = openclaude(box)
    assert done.returncode == 77
    assert daemon.requests == []


# ---- the daemon is not running

FAKE_OCD = f"""
import fcntl, os, socket, sys
run = sys.argv[1]
with open(run + "/tried", "a") as file:
    file.write("x")
lock = open(run + "/ocd.lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(75)
with open(run + "/started", "a") as file:
    file.write(f"{{os.getpid()}} {{os.getppid()}} {{os.getsid(0)}} {{sorted(os.environ)}}\\n")
server = socket.socket(socket.AF_UNIX)
try:
    os.unlink(run + "/control.sock")
except FileNotFoundError:
    pass
server.bind(run + "/control.sock")
server.listen(100)
while True:
    client, _ = server.accept()
    try:
        client.recv(65536)
        body = b"set FROM_DAEMON=yes\\0"
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: {CONTENT_TYPE}\\r\\n")
        client.sendall(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    except OSError:  # somebody only looked whether anybody listens
        pass
    client.close()
"""


@pytest.fixture
def installed(box):
    """The commands openclaude and ocd side by side, ocd being a stand-in; it is ended after the test."""
    (box / "ocd.py").write_text(FAKE_OCD)
    launcher = box / "bin" / "openclaude"
    launcher.write_text(f"#!{sys.executable} -IS\n{MAIN}\n")
    launcher.chmod(0o755)
    daemon = box / "bin" / "ocd"
    daemon.write_text(f"#!/bin/sh\nexec {sys.executable} -IS {box}/ocd.py {box}/run\n")
    daemon.chmod(0o755)
    yield box
    for line in starts(box):
        pid = int(line.split()[0])
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def starts(box):
    path = box / "run" / "started"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("stale", [False, True])
def test_starts_the_daemon_detached(installed, stale):
    if stale:
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(installed / "run" / "control.sock"))
    done = openclaude(
        installed,
        command=[installed / "bin" / "openclaude"],
        ANTHROPIC_API_KEY=CANARY,
        AWS_PROFILE="openclaude",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert record(installed)["environ"]["FROM_DAEMON"] == "yes"
    (line,) = starts(installed)
    pid, _, session, names = line.split(" ", 3)
    assert session == pid
    assert not record(installed)["children"]
    assert "ANTHROPIC_API_KEY" not in names
    assert "AWS_PROFILE" in names and "OCD_DETACHED" in names
    # Nobody's child but init's (or a subreaper's): not of the Claude Code that openclaude became.
    with open(f"/proc/{pid}/stat") as file:
        assert int(file.read().rpartition(")")[2].split()[1]) != record(installed)["pid"]


def test_fifty_first_launches_at_once_start_one_daemon(installed):
    processes = [
        subprocess.Popen(
            [installed / "bin" / "openclaude"],
            env=environment(installed, OCD_STUB_RECORD=""),
            cwd=installed / "work",
            stderr=subprocess.PIPE,
        )
        for _ in range(50)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert ended == [(b"", 0)] * 50
    assert len(starts(installed)) == 1
    assert (installed / "run" / "tried").read_text() == "x"


def test_a_daemon_that_cannot_start_says_why(installed):
    (installed / "bin" / "ocd").write_text(
        "#!/bin/sh\necho 'ocd.toml, line 3: no such key: prot' >&2\nexit 78\n"
    )
    done = openclaude(installed, command=[installed / "bin" / "openclaude"])
    assert done.returncode == 78
    assert b"line 3: no such key: prot" in done.stderr
    assert not (installed / "record").exists()


def test_a_daemon_that_found_another_one_is_no_error(installed):
    # The first one loses the race and ends with 75, the next one comes up.
    (installed / "bin" / "ocd").write_text(
        f"#!/bin/sh\n[ -e {installed}/once ] || {{ : > {installed}/once; exit 75; }}\n"
        f"exec {sys.executable} -IS {installed}/ocd.py {installed}/run\n"
    )
    done = openclaude(installed, command=[installed / "bin" / "openclaude"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(starts(installed)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
def test_the_service_manager_starts_it_where_it_knows_it(installed):
    runtime = installed / "xdg"
    (runtime / "ocd").mkdir(parents=True, mode=0o700)
    shutil.rmtree(installed / "run")
    (installed / "run").symlink_to(runtime / "ocd")
    systemctl = installed / "bin" / "systemctl"
    systemctl.write_text(
        f'#!/bin/sh\necho "$*" >> {installed}/systemctl.log\n'
        f'case "$*" in *start*) exec setsid {installed}/bin/ocd >/dev/null 2>&1 & esac\n'
        'case "$*" in *is-failed*) exit 1; esac\n'
    )
    systemctl.chmod(0o755)
    done = openclaude(
        installed,
        command=[installed / "bin" / "openclaude"],
        OCD_RUNTIME_DIR="",
        XDG_RUNTIME_DIR=str(runtime),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    log = (installed / "systemctl.log").read_text().splitlines()
    assert log[:2] == ["--user cat ocd.service", "--user --no-block start ocd.service"]
    assert len(starts(installed)) == 1
