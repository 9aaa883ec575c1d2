"""macOS without a Mac: each branch for it, run here with what macOS has and without what it lacks."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ocd import paths
from ocd.adapters import desktop, memory, ports
from ocd.errors import EX_CONFIG, EX_NOPERM, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE
from ocd.guest import confine
from ocd.ipc import frames, parent_death
from ocd.keeper import folders, launchd, lock, reexec, system
from ocd.service.launchd import Launchd
from ocd.service.manager import current
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor import health, litellm_env, spec
from tests.unit.test_install_parts import install


@pytest.fixture(autouse=True)
def darwin(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every module asks for, and what Python lacks there."""
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("memfd_create", "waitid", "pidfd_open", "O_PATH"):
        monkeypatch.delattr(os, name, raising=False)


class Clocks:
    """clock_gettime(3) of macOS: CLOCK_MONOTONIC counts sleep, CLOCK_UPTIME_RAW and ``time.monotonic`` do not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.awake, self.slept = 1000.0, 0.0
        monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
        monkeypatch.setattr(time, "CLOCK_UPTIME_RAW", 8, raising=False)
        monkeypatch.setattr(time, "clock_gettime", self.read)
        monkeypatch.setattr(time, "monotonic", lambda: self.awake)

    def read(self, clock: int) -> float:
        return self.awake + (self.slept if clock == time.CLOCK_MONOTONIC else 0.0)


def test_sleep_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        clocks = Clocks(patched)
        before = health.sleep_clock()
        clocks.awake += 50
        awake = health.sleep_clock() - before
        clocks.slept += 3600
        slept = health.sleep_clock() - before
    assert (awake, slept) == (0, 3600)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0")])
def test_whether_a_port_is_taken_is_asked_of_the_port_alone(
    monkeypatch: pytest.MonkeyPatch, family: int, host: str
) -> None:
    for name in ("process_iter", "net_connections"):
        monkeypatch.setattr(f"psutil.{name}", lambda *_, **__: pytest.fail("the table of processes was read"))
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ports.busy(port)
        taken.setblocking(False)
        with pytest.raises(BlockingIOError):
            taken.accept()
    assert not ports.busy(port)


def test_connections_that_are_over_do_not_take_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            # Who closes first keeps the port in TIME_WAIT.
            server.accept()[0].close()
    assert not ports.busy(port)


def test_a_spare_that_shares_nothing_is_there_for_who_asks() -> None:
    asked = Settings.model_validate({"proxies": {"main": {"spare": True}}})
    assert litellm_env.mode(asked) == "spawn"
    assert (spec.limits(asked, "main").spares, spec.limits(asked, "bedrock").spares) == (1, 0)
    forked = Settings.model_validate({"litellm": {"mode": "fork"}})
    assert spec.limits(forked, "main").spares == 1


@pytest.mark.parametrize("code", [EX_TEMPFAIL, EX_NOPERM, EX_CONFIG])
def test_what_no_restart_mends_is_not_started_again_for_ever(code: int) -> None:
    assert launchd.exit_code(code, {"XPC_SERVICE_NAME": "io.github.ocd"}) == 0
    for elsewhere in ({}, {"XPC_SERVICE_NAME": "0"}, {"XPC_SERVICE_NAME": "application.com.apple.Terminal"}):
        assert launchd.exit_code(code, elsewhere) == code


@pytest.mark.parametrize("code", [0, 1, EX_UNAVAILABLE, EX_SOFTWARE])
def test_what_a_restart_may_mend_is_started_again(code: int) -> None:
    assert launchd.exit_code(code, {"XPC_SERVICE_NAME": "io.github.ocd"}) == code


def test_the_daemon_ends_with_that_code(tmp_path: Path) -> None:
    """Through the entry itself: another daemon that runs is one of the three."""
    (tmp_path / "state").mkdir(0o700)
    held = lock.take(str(tmp_path / "state" / "lock"))
    lock.write(held)
    codes = []
    for name in ("io.github.ocd", "0"):
        env = {
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "OCD_PREFIX": str(tmp_path),
            "PYTHONPATH": folders.package_root(),
            "XPC_SERVICE_NAME": name,
        }
        command = [sys.executable, "-P", "-m", "ocd"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
        assert done.stderr.startswith("ocd: ")
        codes.append(done.returncode)
    os.close(held)
    assert codes == [0, EX_TEMPFAIL]


class Libproc:
    """libproc.h: bytes written, 0 with errno for an error."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids

    def proc_listpids(self, kind: int, parent: int, room: Any, size: int) -> int:
        assert (kind, parent) == (6, os.getpid()) and size == ctypes.sizeof(room)
        for number, pid in enumerate(self.pids):
            room[number] = pid
        return len(self.pids) * 4


def test_children_are_found_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Libproc(501, 502, 0))
    assert system.children() == [501, 502]
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Libproc())
    assert system.children() == []
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert system.children() == []


@pytest.mark.parametrize("refusal", [NotImplementedError(), OSError(errno.EINVAL, "Invalid argument")])
def test_without_setsid_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    asked = []

    def posix_spawn(*_: Any, **options: Any) -> int:
        asked.append("setsid" if "setsid" in options else "setpgroup")
        if "setsid" in options:
            raise refusal
        return 4711

    monkeypatch.setattr(os, "posix_spawn", posix_spawn)
    assert system.spawn(["/bin/true"], {}, []) == 4711
    assert asked == ["setsid", "setpgroup"]


def test_another_error_of_spawn_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def posix_spawn(*_: Any, **options: Any) -> int:
        assert "setsid" in options
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", posix_spawn)
    with pytest.raises(BlockingIOError):
        system.spawn(["/bin/true"], {}, [])


def test_an_exit_is_reaped_without_waitid() -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "kill -9 $$"], {})
    told: list[int] = []
    until = time.monotonic() + 10
    while (ended := system.next_exit(told.append)) is None and time.monotonic() < until:
        time.sleep(0.005)
    assert ended == (pid, -signal.SIGKILL) and told == [pid]
    assert system.next_exit(told.append) is None


def test_the_state_of_a_reexec_needs_no_memfd() -> None:
    fd = reexec.write_state({"a": ["b"] * 100_000})
    assert reexec.read_state(fd) == {"a": ["b"] * 100_000}


def test_there_is_no_subreaper_and_the_control_socket_tells_the_parents_end() -> None:
    assert not parent_death.become_subreaper()
    assert parent_death.die_with_parent(os.getppid())


def test_nothing_is_confined_that_cannot_be() -> None:
    assert confine.version() == 0
    assert "no Landlock" in confine.confine({"read": ["/"], "write": [], "sockets": [], "connect": []})


def test_memory_without_smaps_rollup_is_resident_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    class Process:
        pid = 1

        def memory_info(self) -> Any:
            return type("Info", (), {"rss": 300})()

        def children(self, recursive: bool) -> list[Any]:
            return [type(self)()] if recursive else []

    monkeypatch.setattr("builtins.open", no_proc)
    monkeypatch.setattr("psutil.Process", lambda _pid: Process())
    assert memory.of_tree(7) == memory.Used(600, False)
    assert memory.of_tree(1) == memory.Used(300, False), "counted twice"


def test_messages_pass_buffers_of_eight_kilobytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """net.local.stream.sendspace is 8 KiB there, and a message may be larger."""
    monkeypatch.setattr(frames, "_LAST", False)
    ours, theirs = socket.socketpair()
    message = {"op": "x", "text": "a" * 300_000}
    with ours, theirs:
        ours.setblocking(False)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sender = threading.Thread(target=frames.send, args=(ours, message, [0, 1]))
        sender.start()
        reader, got = frames.Reader(theirs), []
        while not got and not reader.eof:
            got = reader.feed()
        sender.join(10)
    [(text, fds)] = got
    for fd in fds:
        os.close(fd)
    assert text["text"] == message["text"] and len(fds) == 2


def test_socket_paths_have_room_for_103_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / ("h" * 120)))
    for name in ("OCD_PREFIX", "OCD_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert len(paths.control_socket().encode()) <= 103


def test_install_keeper_and_daemon_mean_the_same_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    macos = pytest.importorskip("platformdirs.macos").MacOS(appname="ocd", appauthor=False)
    for kind in ("config", "data", "state"):
        folder = getattr(macos, f"user_{kind}_path")
        monkeypatch.setattr(f"platformdirs.user_{kind}_path", lambda *_, found=folder, **__: found)
    for name in ("OCD_PREFIX", "OCD_CONFIG_DIR", "OCD_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    found, places = Folders.find(), install.Places("")
    assert str(found.config).endswith("Library/Application Support/ocd")
    assert folders.state_dir() == str(found.state) == str(places.state)
    assert (places.config, places.data, places.bin) == (found.config, found.data, found.bin)
    assert str(found.runtime) in map(str, places.runtime)


def test_the_service_manager_is_launchd() -> None:
    assert isinstance(current(), Launchd)


def test_a_notification_is_one_of_osascript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    made = desktop.command("a", "b", "darwin")
    assert made is not None and made[0].endswith("osascript")
