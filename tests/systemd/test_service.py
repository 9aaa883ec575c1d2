"""Under a real systemd user manager: what an administrator expects of a service, in the order of its life."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
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
    print(
        running.run("systemd-analyze", "--user", "--no-pager", "security", "ocd.service").stdout.splitlines()[
            -1:
        ]
    )


def test_the_sandbox_is_effective_and_the_path_is_the_users(running: Machine) -> None:
    pid = running.proxy()["pid"]
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Umask"].strip() == "0077"
    main = psutil.Process(running.main_pid())
    assert str(running.bin) in main.environ()["PATH"]
    assert main.num_fds() < 200 and main.rlimit(psutil.RLIMIT_NOFILE)[0] == 8192


def test_reload_waits_for_the_outcome_and_keeps_open_streams(running: Machine, upstreams: Upstreams) -> None:
    upstreams.behave(Behaviour(chunks=30, delay=0.1))
    load = Load()
    thread = threading.Thread(target=stream, args=(running.port, running.headers(), "claude-opus-4-6", load))
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
    refused: list[str] = []
    answered = threading.Event()

    def knock() -> None:
        # New connections every 10 ms from before the kill until one is answered: none may be refused.
        while not answered.is_set():
            try:
                socket.create_connection(("127.0.0.1", running.port), 60).close()
            except ConnectionRefusedError as error:
                refused.append(repr(error))
            answered.wait(0.01)

    thread = threading.Thread(target=knock)
    thread.start()
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def served() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (
                httpx.get(
                    f"http://127.0.0.1:{running.port}/health/liveliness", timeout=60, trust_env=False
                ).status_code
                == 200
            )
        return False

    eventually(served, 60)
    print(f"serving again {time.monotonic() - killed:.1f} s after the keeper's death")
    answered.set()
    thread.join(70)
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


def test_a_hung_keeper_is_noticed_by_the_watchdog(running: Machine) -> None:
    folder = running.home / ".config/systemd/user/ocd.service.d"
    folder.mkdir()
    (folder / "watchdog.conf").write_text("[Service]\nWatchdogSec=8\nTimeoutAbortSec=2\n")
    running.systemctl("daemon-reload")
    running.systemctl("restart", "ocd.service")
    eventually(running.ready, 90)
    pid = running.main_pid()
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: running.main_pid() not in (0, pid), 60)
    eventually(running.ready, 90)
    (folder / "watchdog.conf").unlink()
    folder.rmdir()
    running.systemctl("daemon-reload")


def test_openclaude_starts_the_daemon_by_connecting(running: Machine) -> None:
    running.systemctl("stop", "ocd.service")
    assert running.show("ActiveState") == "inactive"
    assert running.show("ActiveState", "ocd.socket") == "active"
    done = running.run(str(running.bin / "openclaude"), "-p", "hello", OPENCLAUDE_CLAUDE="/bin/echo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--settings ") and done.stdout.endswith("-p hello\n")
    eventually(lambda: running.show("ActiveState") == "active", 30)


def test_stop_drains_and_leaves_no_orphan(running: Machine, upstreams: Upstreams) -> None:
    eventually(running.ready, 90)
    upstreams.reset()
    upstreams.behave(Behaviour(chunks=20, delay=0.1))
    load = Load()
    thread = threading.Thread(target=stream, args=(running.port, running.headers(), "claude-opus-4-6", load))
    thread.start()
    eventually(lambda: upstreams.seen("anthropic"), 20)
    group = running.cgroup()
    assert running.systemctl("stop", "ocd.socket", "ocd.service").returncode == 0
    thread.join(60)
    assert load.streams == 1 and not load.cut, load.cut
    assert running.show("Result") == "success"
    assert not [pid for pid in group if psutil.pid_exists(pid)]
    upstreams.behave()


def test_many_crashes_do_not_end_the_service_for_good(running: Machine) -> None:
    for _ in range(6):
        pid = eventually(lambda: running.main_pid() or None, 30)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: running.main_pid() not in (0, pid), 30)
    eventually(running.ready, 90)
    assert running.show("ActiveState", "ocd.socket") == "active"


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
