"""What the keeper asks of the operating system: sockets, pipes, processes. Standard library only."""

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from ocd.ipc.messages import Listen
from ocd.ipc.sockets import listen_unix
from ocd.text import printable

BACKLOG = 1024
PIPE_SIZE = 1024 * 1024
F_SETPIPE_SZ = 1031
#: sys/proc_info.h of macOS
PROC_PPID_ONLY = 6


#: signals that mean something else to a program of ours than to its children
DEFAULT = (
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def open_listener(order: Listen) -> socket.socket:
    """A listening socket: TCP on one loopback address, or a UNIX socket with mode 0600.

    IPv6 sockets are IPv6-only, so that 127.0.0.1 and ::1 are two names with two sockets. Raises OSError; ValueError
    for what is no address.
    """
    if order.path:
        # We hold the instance lock: a socket file that is there already is stale.
        return listen_unix(order.path, BACKLOG)
    family = socket.AF_INET6 if ":" in order.host else socket.AF_INET
    try:
        # A name would be asked for in the DNS, and we would wait for the answer.
        socket.inet_pton(family, order.host)
    except OSError:
        raise ValueError("not the number of an address") from None
    if not 0 < order.port < 65536:
        raise ValueError("not a port")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without this a restart would wait for connections in TIME_WAIT; it does not let two of us listen.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((order.host, order.port))
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


class Ends:
    """Both sides of what connects us with a child: a control socket, then pipes for its stdout and stderr."""

    def __init__(self) -> None:
        """Raises OSError; nothing is left open then."""
        self.ours: list[int] = []
        self.theirs: list[int] = []
        try:
            control, theirs = socket.socketpair()
            self.ours.append(control.detach())
            self.theirs.append(theirs.detach())
            for _ in ("stdout", "stderr"):
                read, write = log_pipe()
                self.ours.append(read)
                self.theirs.append(write)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        close_all(self.ours + self.theirs)


def spawn(
    argv: list[str],
    env: dict[str, str],
    keep: list[int],
    streams: tuple[int, int] | None = None,
) -> int:
    """Start a program with exactly this environment, in a session of its own; returns its pid.

    A session of its own: Ctrl-C and a hang-up of the terminal are the keeper's alone to deal with. ``keep`` stay open
    in it under the same numbers; ``streams`` become its stdout and stderr, stdin is empty. Raises OSError, ValueError
    for arguments that no program can have.
    """
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    if streams:
        actions += [(os.POSIX_SPAWN_DUP2, streams[0], 1), (os.POSIX_SPAWN_DUP2, streams[1], 2)]
    more: dict[str, Any] = {"file_actions": actions, "setsigdef": DEFAULT, "setsigmask": ()}
    for fd in keep:
        os.set_inheritable(fd, True)
    try:
        try:
            return os.posix_spawn(argv[0], argv, env, setsid=True, **more)
        except (NotImplementedError, OSError) as error:
            # macOS before 10.15: a Python made there does not have the flag, one made for newer ones is refused it
            # (EINVAL). A group of its own keeps Ctrl-C away as well.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            return os.posix_spawn(argv[0], argv, env, setpgroup=0, **more)
    finally:
        for fd in keep:
            os.set_inheritable(fd, False)


def next_exit(before: Callable[[int], None]) -> tuple[int, int] | None:
    """Reap one child that ended: its pid and its exit code (minus the signal); None when there is none.

    ``before`` is called with the pid while the child is still a zombie and its pid so nobody else's, where the system
    allows it (waitid(2), WNOWAIT); elsewhere just after.
    """
    try:
        if hasattr(os, "waitid"):
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or not found.si_pid:
                return None
            before(found.si_pid)
            pid, status = os.waitpid(found.si_pid, 0)
        else:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return None
            before(pid)
    except ChildProcessError:
        return None
    return pid, os.waitstatus_to_exitcode(status)


def is_child(pid: int) -> bool:
    """Whether ``pid`` is a child of ours that has not been reaped: alive, or a zombie."""
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def children() -> list[int]:
    """Our direct children, adopted ones included (Linux: proc(5), macOS: libproc; empty where neither tells)."""
    if sys.platform == "darwin":
        return _children_by_libproc()
    found: list[int] = []
    with (
        contextlib.suppress(OSError),
        open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file,
    ):
        found = [int(word) for word in file.read().split()]
    return found


def _children_by_libproc() -> list[int]:
    """As proc_listpids(PROC_PPID_ONLY) of macOS's libproc.h tells: it returns bytes, 0 or less for an error."""
    import ctypes  # a megabyte, for macOS alone

    library = ctypes.CDLL(None)
    room = (ctypes.c_int * 4096)()
    try:
        size = library.proc_listpids(PROC_PPID_ONLY, os.getpid(), room, ctypes.sizeof(room))
    except AttributeError:
        return []
    return [pid for pid in room[: max(0, size) // ctypes.sizeof(ctypes.c_int)] if pid > 0]


def close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def say(text: str) -> None:
    """One line for the journal or the terminal; a closed stream is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, f"ocd keeper: {printable(text, 4000, lines=True)}\n".encode())
