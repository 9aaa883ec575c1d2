"""Under a real systemd user manager: what an administrator expects of a service, in the order of its life."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers import stub_claude
from tests.helpers.daemon import eventually
from tests.helpers.load import Load, stream
from tests.systemd.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture
def running(machine: Machine) -> Machine:
    """The service, installed and ready."""
    done = machine.occtl("service", "install", "--json")
    assert done.returncode == 0, done.stderr
    eventually(machine.ready, 90)
    return machine


@contextlib.contextmanager
def knocking(port: int) -> Iterator[list[str]]:
    """New connections every 10 ms while the block runs; the list holds those that were refused."""
    refused: list[str] = []
    done = threading.Event()

    def knock() -> None:
        while not done.is_set():
            try:
                socket.create_connection(("127.0.0.1", port), 60).close()
            except ConnectionRefusedError as error:
                refused.append(repr(error))
            done.wait(0.01)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield refused
    finally:
        done.set()
        thread.join(70)


def answers(port: int) -> bool:
    """Whether a request is answered now; it may have to wait in the backlog."""
    with contextlib.suppress(httpx.TransportError):
        url = f"http://127.0.0.1:{port}/health/liveliness"
        return httpx.get(url, timeout=60, trust_env=False).status_code == 200
    return False


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def drop_in(machine: Machine, text: str) -> Iterator[None]:
    folder = machine.home / ".config/systemd/user/ocd.service.d"
    folder.mkdir()
    (folder / "test.conf").write_text(f"[Service]\n{text}")
    machine.systemctl("daemon-reload")
    try:
        yield
    finally:
        (folder / "test.conf").unlink()
        folder.rmdir()
        machine.systemctl("daemon-reload")


def test_install_enables_starts_and_is_idempotent(machine: Machine) -> None:
    dry = machine.occtl("service", "install", "--dry-run")
    assert "would write" in dry.stdout and not (machine.home / ".config/systemd").exists()
    done = machine.occtl("service", "install")
    assert done.returncode == 0, done.stderr + machine.systemctl("status", "ocd.service").stdout
    assert machine.systemctl("is-enabled", "ocd.service", "ocd.socket").stdout.split() == [
        "enabled",
        "enabled",
    ]
    assert machine.show("ActiveState") == "active"
    assert "main ready on" in machine.show("StatusText"), "Type=notify: started means serving"
    assert "Nothing to do" in machine.occtl("service", "install").stdout
    eventually(machine.ready, 60)


def test_the_units_are_clean_and_every_directive_is_known(running: Machine) -> None:
    folder = running.home / ".config/systemd/user"
    done = running.run(
        "systemd-analyze",
        "--user",
        "--man=no",
        "verify",
        str(folder / "ocd.service"),
        str(folder / "ocd.socket"),
    )
    lines = [line for line in done.stderr.splitlines() if "ocd" in line]
    assert not lines, lines
    last = running.run(
        "systemd-analyze", "--user", "--no-pager", "security", "ocd.service"
    ).stdout.splitlines()[-1]
    exposure = float(re.findall(r"(\d+\.\d)", last)[0])
    said = (Path(__file__).parents[2] / "docs/security.md").read_text("utf-8")
    recorded = float(re.findall(r"exposure of (\d+\.\d)", said)[0])
    # Another systemd weighs a little differently.
    assert exposure <= recorded + 0.3, last


def test_the_sandbox_is_effective_and_the_path_is_the_users(running: Machine) -> None:
    pid = running.proxy()["pid"]
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Umask"].strip() == "0077"
    main = psutil.Process(running.main_pid())
    assert str(running.bin) in main.environ()["PATH"]
    assert main.num_fds() < 200 and main.rlimit(psutil.RLIMIT_NOFILE)[0] == min(
        65536, main.rlimit(psutil.RLIMIT_NOFILE)[1]
    )


def test_reload_waits_for_the_outcome_and_keeps_open_streams(running: Machine, upstreams: Upstreams) -> None:
    upstreams.behave(Behaviour(chunks=30, delay=0.1))
    load = Load()
    thread = threading.Thread(target=stream, args=(running.port, running.headers(), "claude-opus-9-9", load))
    upstreams.reset()
    upstreams.behave(Behaviour(chunks=30, delay=0.1))
    thread.start()
    eventually(lambda: upstreams.seen("anthropic"), 20)
    path = running.config / "litellm.yaml"
    good, before = path.read_text(), running.proxy()
    path.write_text(good + "\n# reloaded\n")
    assert running.systemctl("reload", "ocd.service").returncode == 0
    assert running.proxy()["revision"] != before["revision"], "reload returns when the new one serves"
    path.write_text("model_list: [\n")
    assert running.systemctl("reload", "ocd.service").returncode != 0
    assert running.show("ActiveState") == "active"
    path.write_text(good)
    assert running.systemctl("reload", "ocd.service").returncode == 0
    thread.join(60)
    assert load.streams == 1 and not load.cut, load.cut
    upstreams.behave()
    eventually(running.ready, 60)


def test_the_keepers_death_refuses_no_connection_and_leaves_nothing(running: Machine) -> None:
    old = running.cgroup()
    assert len(old) >= 6, old
    pid = running.main_pid()
    with knocking(running.port) as refused:
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: answers(running.port), 60)
        print(f"serving again {time.monotonic() - killed:.1f} s after the keeper's death")
    assert not refused, refused[:3]
    eventually(running.ready, 60)
    assert running.main_pid() != pid
    now = running.cgroup()
    assert not old & now, "nothing of the old one is left"
    assert not [p for p in old if psutil.pid_exists(p)]


def test_one_proxy_killed_as_for_memory_does_not_fail_the_service(running: Machine) -> None:
    before = running.main_pid()
    os.kill(int(running.proxy()["pid"]), signal.SIGKILL)  # type: ignore[call-overload]
    eventually(running.ready, 60)
    assert running.main_pid() == before
    assert running.show("OOMPolicy") == "continue" and running.show("NRestarts") is not None


def test_a_restart_refuses_no_connection_and_whoever_hangs_is_replaced(running: Machine) -> None:
    with drop_in(running, "WatchdogSec=6\nTimeoutAbortSec=2\n"):
        before = running.main_pid()
        with knocking(running.port) as refused:
            assert running.systemctl("restart", "ocd.service").returncode == 0
        assert not refused, f"the sockets stay in the store over a restart: {refused[:3]}"
        eventually(running.ready, 90)
        keeper, proxy = running.main_pid(), running.proxy()["pid"]
        assert keeper != before and running.show("StatusText").startswith("main ready on")

        supervisor = int(str(running.status()["pid"]))
        os.kill(supervisor, signal.SIGSTOP)
        eventually(lambda: not psutil.pid_exists(supervisor), 60, "the keeper ends a supervisor that hangs")
        eventually(running.ready, 60)
        assert running.main_pid() == keeper and running.proxy()["pid"] == proxy, "nothing else was touched"

        os.kill(keeper, signal.SIGSTOP)
        eventually(lambda: running.main_pid() not in (0, keeper), 60, "systemd ends a keeper that hangs")
        eventually(running.ready, 90)


def test_openclaude_starts_the_daemon_by_connecting(running: Machine) -> None:
    # Replaced code must still know that the socket's file is not its own to remove.
    assert running.occtl("reexec").returncode == 0
    eventually(running.ready, 60)
    assert running.show("ActiveState") == "active"
    running.systemctl("stop", "ocd.service")
    assert running.show("ActiveState") == "inactive" and not listens(running.port)
    assert running.show("ActiveState", "ocd.socket") == "active"
    record = running.root / "record.json"
    claude = stub_claude.install(str(running.bin))
    done = running.run(
        str(running.bin / "openclaude"), "-p", "hello", OPENCLAUDE_CLAUDE=claude, OCD_STUB_RECORD=str(record)
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(record.read_text())
    assert found["argv"][0] == "--settings" and found["argv"][2:] == ["-p", "hello"]
    assert found["overlay"]["env"]["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:{running.port}"
    assert found["overlay_mode"] == 0o600 and found["children"] == []
    assert found["pid"] not in running.cgroup(), "Claude Code is the user's, not the service's"
    eventually(lambda: running.show("ActiveState") == "active", 30)


LOOKS = (
    *(
        "status",
        "sessions",
        "logs",
        "events",
        "usage",
        "version",
        "metrics",
        "doctor",
        "models",
        "explain opus",
    ),
    *("aws status", "config show", "config path", "config check", "claude status", "spill", "stop"),
)


def test_looking_starts_nothing(running: Machine) -> None:
    running.systemctl("stop", "ocd.service")
    begun = running.show("InvocationID")
    for words in LOOKS:
        done = running.occtl(*words.split())
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert running.show("ActiveState") == "inactive", words
    assert running.show("InvocationID") == begun
    assert running.show("ActiveState", "ocd.socket") == "active", "which openclaude connects to"
    assert running.occtl("start").returncode == 0
    # The client hears of it over the socket, the manager by a datagram of its own: either may be first.
    eventually(lambda: running.show("ActiveState") == "active", 10)
    eventually(running.ready, 90)


def test_a_start_that_cannot_serve_is_over_and_says_why(running: Machine) -> None:
    assert running.systemctl("stop", "ocd.service").returncode == 0
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", running.port))
        foreign.listen()
        assert running.systemctl("start", "ocd.service").returncode == 0
        assert "main blocked on" in running.show("StatusText"), running.show("StatusText")
        assert running.show("ActiveState") == "active"
    eventually(running.ready, 90)
    eventually(lambda: "main ready on" in running.show("StatusText"), 20)


def test_stop_drains_for_as_long_as_it_takes_and_leaves_no_orphan(
    running: Machine, upstreams: Upstreams
) -> None:
    eventually(running.ready, 90)
    upstreams.reset()
    upstreams.behave(Behaviour(chunks=40, delay=0.1))
    load = Load()
    thread = threading.Thread(target=stream, args=(running.port, running.headers(), "claude-opus-9-9", load))
    with drop_in(running, "TimeoutStopSec=1\n"):
        thread.start()
        eventually(lambda: upstreams.seen("anthropic"), 20)
        group = running.cgroup()
        assert running.systemctl("stop", "ocd.socket", "ocd.service").returncode == 0
        thread.join(60)
        assert load.streams == 1 and not load.cut, "a drain is longer than TimeoutStopSec, and says so"
        assert running.show("Result") == "success"
    assert not [pid for pid in group if psutil.pid_exists(pid)]
    assert not listens(running.port), "the store is empty after a stop"
    assert running.show("NFileDescriptorStore") == "0"
    assert not (running.runtime / "ocd/control.sock").exists()
    upstreams.behave()


def test_a_stop_leaves_the_port_of_a_living_session_to_nobody_else(running: Machine) -> None:
    """systemd 252 lets go of what it stored, and kills what a service leaves in its unit."""
    eventually(running.ready, 90)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as session:
        body = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(running.home)}, "wait": 5}
        assert running.post("/v1/launch", body)["ready"]
        assert running.systemctl("stop", "ocd.service").returncode == 0
        assert running.show("ActiveState") == "inactive"
        with socket.socket() as other, pytest.raises(OSError):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", running.port))
        said = httpx.post(f"http://127.0.0.1:{running.port}/v1/messages", content=b"{}", trust_env=False)
        assert said.status_code == 503 and "occtl start" in said.text
        assert running.systemctl("start", "ocd.service").returncode == 0
        eventually(running.ready, 90)
        assert running.systemctl("stop", "ocd.service").returncode == 0
        assert listens(running.port)
        session.communicate(b"\n")
        eventually(lambda: not listens(running.port), 30)
    assert running.systemctl("start", "ocd.service").returncode == 0
    eventually(running.ready, 90)


def test_many_crashes_do_not_end_the_service_for_good(running: Machine) -> None:
    for _ in range(6):
        pid = eventually(lambda: running.main_pid() or None, 30)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: running.main_pid() not in (0, pid), 30)
    eventually(running.ready, 90)
    assert running.show("ActiveState", "ocd.socket") == "active"


def test_disabled_it_stays_down(running: Machine) -> None:
    group = running.cgroup()
    assert running.systemctl("disable", "--now", "ocd.socket", "ocd.service").returncode == 0
    enabled = running.systemctl("is-enabled", "ocd.service", "ocd.socket").stdout.split()
    assert enabled == ["disabled", "disabled"]
    assert not [pid for pid in group if psutil.pid_exists(pid)]
    assert not (running.runtime / "ocd/control.sock").exists() and not listens(running.port)


def test_uninstall_leaves_nothing(running: Machine) -> None:
    group = running.cgroup()
    done = running.occtl("service", "uninstall")
    assert done.returncode == 0, done.stderr
    assert not (running.home / ".config/systemd").exists()
    assert not [pid for pid in group if psutil.pid_exists(pid)]
    assert "could not be found" in running.systemctl("status", "ocd.service").stderr
    assert "Nothing to do" in running.occtl("service", "uninstall").stdout
    assert running.run("pgrep", "-f", str(running.root)).stdout.count("\n") <= 4


def test_without_a_manager_the_cure_is_named(machine: Machine) -> None:
    env = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere", "XDG_RUNTIME_DIR": str(machine.root / "nobody")}
    done = subprocess.run(
        [str(machine.bin / "occtl"), "service", "install"],
        env={**machine.env, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 69
    assert "occtl start" in done.stderr
