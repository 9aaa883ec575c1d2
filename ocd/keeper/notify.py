"""The service manager's side: sd_notify(3), sd_listen_fds(3) and the file-descriptor store; launchd's sockets.

Standard library only. Without a service manager every function does nothing.
"""

import array
import contextlib
import os
import socket
import sys

_FIRST = 3
_stored: set[str] = set()
_given: set[str] = set()


def _address() -> str | None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return None
    return "\0" + path[1:] if path[0] == "@" else path


def send(text: str, fds: list[int] | None = None) -> bool:
    """Pass a message to the service manager; returns whether there was one that took it."""
    address = _address()
    if address is None:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([text.encode()], rights, 0, address)
        return True
    return False


def store(name: str, fd: int) -> None:
    """Have the service manager keep a listening socket over our own death."""
    if name in _given or name in _stored:
        return
    if send(f"FDSTORE=1\nFDNAME={_stored_name(name)}", [fd]):
        _stored.add(name)


def forget(name: str) -> None:
    """A socket that is closed for good: not kept any more, and what has its name next is ours."""
    _given.discard(name)
    if name in _stored:
        _stored.discard(name)
        send(f"FDSTOREREMOVE=1\nFDNAME={_stored_name(name)}")


def _stored_name(name: str) -> str:
    """systemd allows no colon in a name (sd_pid_notify_with_fds(3)); ours have no plus sign."""
    return name.replace(":", "+")


def watchdog_seconds() -> float:
    """How long the service manager waits for a sign of life (sd_watchdog_enabled(3)); 0: it does not."""
    # A daemon that was started by hand below some other service has inherited variables that are not for it.
    if os.environ.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return 0.0
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() else 0.0


def watchdog() -> None:
    """Tell the service manager that the supervisor lives, if it wants to know."""
    if watchdog_seconds():
        send("WATCHDOG=1")


def remembered() -> dict[str, list[str]]:
    """What a re-executed keeper must know of its sockets (``remember``)."""
    return {"stored": sorted(_stored), "given": sorted(_given)}


def remember(sockets: dict[str, list[str]]) -> None:
    _stored.update(sockets["stored"])
    _given.update(sockets.get("given", []))


def from_manager(name: str) -> bool:
    """Whether the service manager made this socket (socket activation): its file is not ours to remove."""
    return name in _given


def inherited() -> list[tuple[str, socket.socket]]:
    """The sockets that the service manager passed to us, with their names; the variables are taken away.

    ``control`` comes from ``ocd.socket`` or the plist; the rest is what an earlier keeper had stored.
    """
    if sys.platform == "darwin":
        from ocd.keeper.activation import launchd_sockets

        passed = [(fd, "control") for fd in launchd_sockets("control")]
    else:
        passed = _listen_fds()
    found = []
    for fd, name in passed:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        if _unreachable(sock):
            sock.close()
            continue
        if name == "control":
            _given.add(name)
        else:
            _stored.add(name)
        found.append((name, sock))
    return found


def turn_away() -> int:
    """Take whoever waits at the control socket that we were given, and hang up; returns how many there were.

    For a daemon that cannot start: a connection left waiting starts it again, systemd at once, launchd each ten
    seconds, for as long as its socket is there, although nothing is better than before.
    """
    count = 0
    for name, sock in inherited():
        while name == "control":
            try:
                link, _ = sock.accept()
            except OSError:
                break
            link.close()
            count += 1
    return count


def _listen_fds() -> list[tuple[int, str]]:
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    words = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return [
        (_FIRST + index, words[index].replace("+", ":") if index < len(words) else "")
        for index in range(int(count))
    ]


def _unreachable(sock: socket.socket) -> bool:
    """Whether a UNIX socket's file is gone or belongs to another socket: then nobody can connect to this one.

    Somebody removed the runtime folder; the service manager still holds the socket that was there.
    """
    if sock.family != socket.AF_UNIX:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(sock.getsockname())
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False
