"""Who listens on a port. Looks before binding: a more specific bind succeeds beside a wildcard one on some systems.

Linux: ``/proc/net/tcp`` and ``tcp6`` name every listening socket with its owner, also those of other users;
which process holds it is known for our own processes only (root: for all). Elsewhere psutil's view, which on macOS
covers our own processes; a socket that cannot be seen shows itself when binding fails.
"""

import contextlib
import errno
import ipaddress
import os
import pwd
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from ocd.core.state import Holder
from ocd.mask import mask
from ocd.text import printable

_LISTEN = "0A"
_PLACES = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::"),
)
#: characters of a command line; the kernel allows two million
_LOOKED_AT = 4096


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket: address, the owner's uid and the kernel's inode number."""

    address: str
    uid: int
    inode: int


def parse_proc_net(text: str, port: int) -> list[Listener]:
    """The listeners on ``port`` in the text of ``/proc/net/tcp`` or ``tcp6`` (proc(5)); bad lines are passed over."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 10 or words[3] != _LISTEN:
            continue
        host, _, number = words[1].rpartition(":")
        with contextlib.suppress(ValueError):
            if int(number, 16) == port:
                found.append(Listener(_address(host), int(words[7]), int(words[9])))
    return found


def _address(text: str) -> str:
    """An address as the kernel prints it: 32-bit words in the machine's byte order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return str(ipaddress.ip_address(raw))


def busy(port: int) -> bool:
    """Whether anybody listens on ``port``, on any address. Cheap: asked several times a second while blocked."""
    if sys.platform.startswith("linux"):
        return bool(_linux(port))
    return _occupied(port)


def holder(port: int) -> Holder | None:
    """Who listens on ``port``, on any address, or None. The caller does not listen there itself."""
    if not sys.platform.startswith("linux"):
        return _other(port)
    listeners = _linux(port)
    if not listeners:
        return None
    first = listeners[0]
    pid = _owner(first.inode)
    return _describe(pid, f"{_shown(first.address)}:{port}", _user(first.uid))


def connected(pid: int, ports: frozenset[int]) -> bool:
    """Whether a process has connections on any of the ports; True when that cannot be known. Asks the system alone, so
    it answers for a process that hangs."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, MemoryError):
        return True
    return any(c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port in ports for c in connections)


def _linux(port: int) -> list[Listener]:
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}", encoding="ascii") as file:
            found += parse_proc_net(file.read(), port)
    return found


def _owner(inode: int) -> int | None:
    wanted = f"socket:[{inode}]"
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{name}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{name}/fd/{fd}") == wanted:
                        return int(name)
    return None


def _occupied(port: int) -> bool:
    """Whether the port cannot be had on loopback or on all addresses, by trying each (bind, and at once close).

    With SO_REUSEADDR what is refused is exactly an address that another socket has; connections in TIME_WAIT do not
    count. Nothing is connected to, and no table of processes is read.
    """
    for family, host in _PLACES:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
    return False


def _other(port: int) -> Holder | None:
    with contextlib.suppress(psutil.Error):
        return _listening_among(((c, c.pid) for c in psutil.net_connections("tcp")), port)
    # Without root, macOS shows sockets of our own processes only, one process at a time.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found = _listening_among(((c, process.pid) for c in process.net_connections("tcp")), port)
            if found is not None:
                return found
    return None


def _listening_among(connections: Iterable[tuple[Any, int | None]], port: int) -> Holder | None:
    for connection, pid in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return _describe(pid, f"{_shown(connection.laddr.ip)}:{port}", "")
    return None


def _describe(pid: int | None, address: str, user: str) -> Holder:
    command, since = "", None
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            user = process.username()
            since = process.create_time()
            command = " ".join(process.cmdline()) or process.name()
    # Bytes that somebody else chose; masked first, so that nothing is cut in the middle of what is to be hidden.
    command = printable(mask(command[:_LOOKED_AT]), 300)
    return Holder(pid=pid, user=printable(user, 100), command=command, since=since, address=address)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address
