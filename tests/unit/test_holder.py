"""The holder: a port that living sessions were told of is nobody else's when the daemon has gone."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocd.keeper import holder, holding, lock
from ocd.keeper.holding import Holding

SLOW = 30.0


def eventually(condition: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + SLOW
    while not condition():
        assert time.monotonic() < deadline, what or condition
        time.sleep(0.02)


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as found:
        yield found
        with contextlib.suppress(BrokenPipeError, ValueError):
            found.communicate(b"\n")


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.setblocking(False)
        yield found


class Gone:
    """A keeper that is about to go: it has the lock, and somebody holds for it."""

    def __init__(self, tmp_path: Path, port: socket.socket) -> None:
        self.lock = str(tmp_path / "lock")
        self.fd = lock.take(self.lock)
        self.holding = Holding(self.lock, {**os.environ, "OCD_RUNTIME_DIR": os.environ["OCD_RUNTIME_DIR"]})
        self.listeners = {"main:4000:127.0.0.1": port}
        self.number = port.getsockname()[1]

    def go(self) -> None:
        """As a process ends: the link, the sockets and the lock are closed."""
        self.holding.finish(self.listeners)
        for sock in self.listeners.values():
            sock.close()
        os.close(self.fd)
        self.fd = -1

    def ask(self, head: bytes = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
        with socket.create_connection(("127.0.0.1", self.number), 10) as conn:
            conn.sendall(head)
            said = b""
            while piece := conn.recv(65536):
                said += piece
            return said

    def taken(self) -> bool:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                other.bind(("127.0.0.1", self.number))
            except OSError as error:
                assert error.errno == errno.EADDRINUSE
                return True
        return False

    def holder_ended(self) -> bool:
        if not self.holding.pid:
            return True
        pid, _status = os.waitpid(self.holding.pid, os.WNOHANG)
        if pid:
            self.holding.pid = 0
        return bool(pid)


@pytest.fixture
def gone(tmp_path: Path, port: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gone]:
    # A socket's name may have a hundred letters.
    with tempfile.TemporaryDirectory(prefix="ocdh-", dir="/tmp") as short:
        monkeypatch.setenv("OCD_RUNTIME_DIR", f"{short}/run")
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        made = Gone(tmp_path, port)
        yield made
        if made.fd >= 0:
            os.close(made.fd)
        made.holding._drop()
        holding.let_go()
        eventually(made.holder_ended, "the holder stays")


def test_the_port_answers_and_stays_ours_until_the_session_ends(
    gone: Gone, session: subprocess.Popen[bytes]
) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    assert gone.holding.pid
    gone.go()
    assert gone.taken()
    said = gone.ask()
    assert said.startswith(b"HTTP/1.1 503 ") and b"occtl start" in said
    session.communicate(b"\n")
    eventually(gone.holder_ended, "nobody lives any more")
    assert not gone.taken() and not holding.is_held()


def test_the_next_daemon_gets_the_sockets(gone: Gone, session: subprocess.Popen[bytes]) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    gone.go()
    eventually(holding.is_held)
    ((name, sock),) = holding.take_over()
    with sock:
        assert name == "main:4000:127.0.0.1" and sock.getsockname()[1] == gone.number
        eventually(gone.holder_ended)
        assert gone.taken(), "not for one moment"
    assert holding.take_over() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_daemon_finds_it_though_the_runtime_folder_was_removed(
    gone: Gone, session: subprocess.Popen[bytes], when: str
) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    eventually(holding.is_held)
    if when == "after":
        gone.go()
    shutil.rmtree(os.environ["OCD_RUNTIME_DIR"])
    eventually(holding.is_held, "its door is there again")
    if when == "before":
        gone.go()
    assert stat.S_IMODE(os.stat(os.environ["OCD_RUNTIME_DIR"]).st_mode) == 0o700
    ((_name, sock),) = holding.take_over()
    sock.close()


def test_the_door_of_a_later_holder_stays(
    gone: Gone, session: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    eventually(holding.is_held)
    door = Path(os.environ["OCD_RUNTIME_DIR"], holding.DOOR)
    (tmp_path / "other").write_text("another's")
    os.replace(tmp_path / "other", door)
    gone.go()
    session.communicate(b"\n")
    eventually(gone.holder_ended)
    assert door.read_text() == "another's"


def test_while_there_is_a_daemon_nobody_is_answered_by_another(
    gone: Gone, session: subprocess.Popen[bytes]
) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    eventually(holding.is_held)
    assert holding.take_over() == [], "its keeper lives"
    # The link is lost, but the lock is held: whoever connects is the daemon's.
    gone.holding._drop()
    with socket.create_connection(("127.0.0.1", gone.number), 10) as conn:
        conn.sendall(b"GET / HTTP/1.1\r\n\r\n")
        eventually(lambda: _accepted(gone.listeners["main:4000:127.0.0.1"]))


def _accepted(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        sock.accept()[0].close()
        return True
    return False


def test_it_ends_with_the_last_session_while_the_keeper_lives(
    gone: Gone, session: subprocess.Popen[bytes]
) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    gone.holding.follow(gone.listeners, [])
    eventually(gone.holder_ended)
    gone.holding.ended(gone.listeners)
    assert gone.holding.pid == 0, "nobody needs another"


def test_a_port_that_was_closed_is_not_held(gone: Gone, session: subprocess.Popen[bytes]) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    sock = gone.listeners.pop("main:4000:127.0.0.1")
    gone.holding.follow(gone.listeners)
    sock.close()
    eventually(lambda: not gone.taken())


def test_who_says_nothing_half_or_too_much_holds_up_nobody(
    gone: Gone, session: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone.holding.follow(gone.listeners, [session.pid])
    gone.go()
    with contextlib.ExitStack() as stack:
        for number in range(holder.MOST + 10):
            conn = stack.enter_context(socket.create_connection(("127.0.0.1", gone.number), 10))
            with contextlib.suppress(OSError):
                conn.sendall(b"POST / HTT" if number % 2 else b"")
        assert b" 503 " in gone.ask()
        large = gone.ask(b"POST / HTTP/1.1\r\nx: " + b"y" * (holder.LARGEST_HEAD + 10))
        assert b" 503 " in large


def test_under_systemd_it_is_started_when_the_keeper_ends(
    gone: Gone, session: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a scope of its own: what a stopped service leaves in its unit is killed."""
    program = tmp_path / "systemd-run"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    gone.holding.follow(gone.listeners, [session.pid])
    assert not gone.holding.pid, "systemd keeps the sockets while the service is up"
    gone.go()
    assert "--scope" in (tmp_path / "said").read_text() and gone.taken()
    assert b" 503 " in gone.ask()


def test_without_sessions_nobody_holds_anything(gone: Gone) -> None:
    gone.holding.follow(gone.listeners, [])
    gone.go()
    assert not gone.holding.pid and not gone.taken()
