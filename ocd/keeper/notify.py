"""The service manager's side: sd_notify(3), sd_listen_fds(3) and the file-descriptor store. Standard library only.

Without a service manager every function does nothing.
"""

import array
import contextlib
import os
import socket

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
    if name in _stored:
        _stored.discard(name)
        send(f"FDSTOREREMOVE=1\nFDNAME={_stored_name(name)}")


def _stored_name(name: str) -> str:
    """systemd allows no colon in a name (sd_pid_notify_with_fds(3)); ours have no plus sign."""
    return name.replace(":", "+")


def watchdog() -> None:
    """Tell the service manager that the supervisor lives, if it wants to know (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_USEC"):
        send("WATCHDOG=1")


def names() -> list[str]:
    return sorted(_stored)


def restore_names(stored: list[str]) -> None:
    _stored.update(stored)


def from_manager(name: str) -> bool:
    """Whether the service manager made this socket (socket activation): its file is not ours to remove."""
    return name in _given


def inherited() -> list[tuple[str, socket.socket]]:
    """The sockets that the service manager passed to us, with their names; the variables are taken away.

    ``control`` comes from ``ocd.socket``; the rest is what an earlier keeper had stored.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    words = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for index in range(int(count)):
        fd = _FIRST + index
        name = words[index].replace("+", ":") if index < len(words) else ""
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        if name == "control":
            _given.add(name)
        else:
            _stored.add(name)
        found.append((name, sock))
    return found
