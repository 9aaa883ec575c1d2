"""What the keeper asks of the operating system: sockets, pipes, processes. Standard library only."""

import contextlib
import os
import signal
import socket
import sys
from typing import Any

from ocd.ipc.sockets import listen_unix

BACKLOG = 1024
PIPE_SIZE = 1024 * 1024
F_SETPIPE_SZ = 1031


def open_listener(message: dict[str, Any]) -> socket.socket:
    """A listening socket: TCP on one loopback address, or a UNIX socket with mode 0600.

    IPv6 sockets are IPv6-only, so that 127.0.0.1 and ::1 are two names with two sockets. Raises OSError.
    """
    if "path" in message:
        # We hold the instance lock: a socket file that is there already is stale.
        return listen_unix(message["path"], BACKLOG)
    family = socket.AF_INET6 if ":" in message["host"] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without this a restart would wait for connections in TIME_WAIT; it does not let two of us listen.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((message["host"], message["port"]))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def log_pipe() -> tuple[int, int]:
    """A pipe for a child's output, as large as the system allows: it bridges the time without a supervisor."""
    read, write = os.pipe()
    if sys.platform.startswith("linux"):
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(read, F_SETPIPE_SZ, PIPE_SIZE)
    os.set_blocking(read, False)
    return read, write


def spawn(
    argv: list[str],
    env: dict[str, str],
    keep: list[int],
    streams: tuple[int, int] | None = None,
    session: bool = True,
) -> int:
    """Start a program with exactly this environment; returns its pid. Raises OSError.

    ``keep`` stay open in it under the same numbers; ``streams`` become its stdout and stderr, stdin is empty.
    """
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    if streams:
        actions += [(os.POSIX_SPAWN_DUP2, streams[0], 1), (os.POSIX_SPAWN_DUP2, streams[1], 2)]
    for fd in keep:
        os.set_inheritable(fd, True)
    try:
        return os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=actions,
            setsid=session,
            setsigdef=[signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE],
        )
    finally:
        for fd in keep:
            os.set_inheritable(fd, False)


def children() -> list[int]:
    """Our direct children, adopted ones included (Linux: proc(5); elsewhere unknown and so empty)."""
    found: list[int] = []
    with (
        contextlib.suppress(OSError),
        open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file,
    ):
        found = [int(word) for word in file.read().split()]
    return found


def close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def say(text: str) -> None:
    """One line for the journal or the terminal; a closed stream is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, f"ocd keeper: {text}\n".encode())
