"""What the keeper is given by a service manager: systemd's descriptors and store, launchd's sockets, the watchdog."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd.keeper import activation, notify

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_stored", set())
    monkeypatch.setattr(notify, "_given", set())
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """A service manager's notification socket; the function returns what has arrived."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def arrived() -> list[str]:
            found = []
            while True:
                try:
                    data, fds, _flags, _address = socket.recv_fds(sock, 4096, 8)
                except BlockingIOError:
                    return found
                for fd in fds:
                    os.close(fd)
                found.append(data.decode())

        yield arrived


def test_who_waits_is_turned_away_by_a_daemon_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.settimeout(10)
        client.connect(str(tmp_path / "s"))
        client.sendall(b"GET / HTTP/1.1")
        monkeypatch.setattr(notify, "inherited", lambda: [("control", server), ("main", server)])
        server.setblocking(False)
        assert notify.turn_away() == 1 and notify.turn_away() == 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)


# ---- launchd


def library(code: int, given: list[int]) -> tuple[Callable[[], tuple[Any, Any]], list[int]]:
    """A C function with launch_activate_socket's signature, so that the real marshalling is what is tested."""
    kept: list[Any] = []
    freed: list[int] = []
    integers = ctypes.POINTER(ctypes.c_int)
    signature = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(integers), ctypes.POINTER(ctypes.c_size_t)
    )

    def activate(name: bytes, fds: Any, count: Any) -> int:
        assert name == b"control"
        if code == 0:
            array = (ctypes.c_int * max(1, len(given)))(*given)
            kept.append(array)
            fds[0] = ctypes.cast(array, integers)
            count[0] = len(given)
        return code

    def free(pointer: Any) -> None:
        freed.append(ctypes.cast(pointer, ctypes.c_void_p).value or 0)

    function = signature(activate)
    kept.append(function)
    return lambda: (function, free), freed


@pytest.mark.parametrize("given", [[], [7], [7, 9, 12]])
def test_launchd_hands_over_its_sockets_and_the_list_is_freed(given: list[int]) -> None:
    made, freed = library(0, given)
    assert activation.launchd_sockets("control", made) == given
    assert len(freed) == 1 and freed[0]


@pytest.mark.parametrize("code", [errno.ESRCH, errno.ENOENT, errno.EALREADY])
def test_no_socket_of_launchds_is_no_failure(code: int, capfd: pytest.CaptureFixture[str]) -> None:
    made, freed = library(code, [])
    assert activation.launchd_sockets("control", made) == [] and not freed
    assert capfd.readouterr().err == ""


def test_another_error_of_launchds_is_said_and_survived(capfd: pytest.CaptureFixture[str]) -> None:
    made, _freed = library(errno.EPERM, [])
    assert activation.launchd_sockets("control", made) == []
    assert "EPERM" in capfd.readouterr().err


def test_where_there_is_no_such_function_there_are_no_sockets() -> None:
    if sys.platform != "darwin":
        assert activation.launchd_sockets("control") == []


def test_on_macos_the_control_socket_is_launchds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "control.sock"))
    listener.listen()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(activation, "launchd_sockets", lambda name: [listener.detach()])
    [(name, found)] = notify.inherited()
    with found:
        assert name == "control" and notify.from_manager("control")
        assert not found.getblocking() and not os.get_inheritable(found.fileno())


# ---- systemd

CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
os.environ["LISTEN_PID"] = os.environ.get("LISTEN_PID") or str(os.getpid())
from ocd.keeper import notify
for name, sock in notify.inherited():
    print(name, notify.from_manager(name), os.get_inheritable(sock.fileno()))
print(sorted(k for k in os.environ if k.startswith("LISTEN")))
"""


def child(fds: list[int], names: str, **env: str) -> list[str]:
    """A process with these descriptors at 3 and up, as sd_listen_fds(3) has it; what it says."""
    base = 200
    copies = [os.dup2(fd, base + index) for index, fd in enumerate(fds)]
    actions = [(os.POSIX_SPAWN_DUP2, fd, 3 + index) for index, fd in enumerate(copies)]
    read, write = os.pipe()
    actions.append((os.POSIX_SPAWN_DUP2, write, 1))
    environ = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names, **env}
    argv = [sys.executable, "-c", CHILD, str(ROOT)]
    pid = os.posix_spawn(sys.executable, argv, environ, file_actions=actions)
    os.close(write)
    for fd in copies:
        os.close(fd)
    with os.fdopen(read) as out:
        said = out.read().splitlines()
    assert os.waitpid(pid, 0)[1] == 0
    return said


def test_systemds_sockets_arrive_by_name_and_the_variables_go(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as control, socket.create_server(("127.0.0.1", 0)) as port:
        control.bind(str(tmp_path / "control.sock"))
        control.listen()
        fds = [control.fileno(), port.fileno()]
        assert child(fds, "control:main+4000+127.0.0.1") == [
            "control True False",
            "main:4000:127.0.0.1 False False",
            "[]",
        ]
        assert child(fds, "control:main", LISTEN_PID="1") == ["[]"], "meant for another process"


def test_a_control_socket_whose_file_is_gone_or_anothers_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
        old.listen()
        path.unlink()
        assert child([old.fileno()], "control") == ["[]"]
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert child([old.fileno()], "control") == ["[]"], "a file that nobody listens on"


def test_only_our_own_sockets_are_stored_and_taken_out(manager: Callable[[], list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        notify.store("main:4000:127.0.0.1", sock.fileno())
        notify.store("main:4000:127.0.0.1", sock.fileno())
        assert manager() == ["FDSTORE=1\nFDNAME=main+4000+127.0.0.1"]
        notify.remember({"stored": [], "given": ["control"]})
        notify.store("control", sock.fileno())
        assert manager() == [], "that one is ocd.socket's"
        notify.forget("main:4000:127.0.0.1")
        notify.forget("control")
        assert manager() == ["FDSTOREREMOVE=1\nFDNAME=main+4000+127.0.0.1"]
        assert not notify.from_manager("control"), "one that is opened anew is ours to remove"


def test_what_is_known_of_the_sockets_survives_a_re_exec(manager: Callable[[], list[str]]) -> None:
    notify.remember({"stored": ["a"], "given": ["control"]})
    kept = notify.remembered()
    notify._stored.clear()
    notify._given.clear()
    notify.remember(kept)
    assert notify.from_manager("control") and notify.remembered() == kept
    notify.remember({"stored": ["b"]})
    assert notify.remembered()["stored"] == ["a", "b"], "a version before this one said no more"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", "", 60.0),
        ("60000000", "own", 60.0),
        ("60000000", "1", 0.0),
        ("", "", 0.0),
        ("x", "", 0.0),
    ],
)
def test_the_watchdog_is_fed_only_by_the_process_that_is_asked(
    usec: str, pid: str, seconds: float, manager: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_seconds() == seconds
    notify.watchdog()
    assert manager() == (["WATCHDOG=1"] if seconds else [])


@pytest.mark.parametrize(
    ("usec", "limit"), [("", 30.0), ("60000000", 30.0), ("10000000", 5.0), ("600000000", 30.0)]
)
def test_a_hung_supervisor_is_replaced_before_the_service_manager_loses_patience(
    usec: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ocd.keeper.main import Keeper

    if usec:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    assert Keeper(["none"], {}).heartbeat_limit == limit


def test_without_a_service_manager_nothing_is_said_and_nothing_fails() -> None:
    assert not notify.send("READY=1")
    notify.store("x", 0)
    notify.forget("x")
    notify.watchdog()
    assert notify.remembered() == {"stored": [], "given": []}


def test_the_keeper_needs_no_ctypes_where_there_is_no_launchd() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ocd.keeper.main; print('ctypes' in sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
