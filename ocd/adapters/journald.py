"""systemd's journal with fields, where our standard error goes to it: ``journalctl --user -u ocd OCD_PROXY=main``.

The native protocol is one datagram an entry (systemd.io, Native Journal Protocol). Nothing here raises: what the
journal does not take is said on standard error, as text.
"""

import os
import re
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_NAME = re.compile(r"[^A-Z0-9_]")
#: bytes; a datagram has to fit into the socket's buffer
LONGEST = 32_000


def connected(stream: int = 2, told: str | None = None) -> bool:
    """Whether a descriptor goes to the journal: ``JOURNAL_STREAM`` names its device and inode (systemd.exec(5))."""
    told = os.environ.get("JOURNAL_STREAM", "") if told is None else told
    try:
        status = os.fstat(stream)
    except OSError:
        return False
    return told == f"{status.st_dev}:{status.st_ino}"


def entry(message: str, level: str, fields: Mapping[str, object]) -> bytes:
    """One entry as it travels. Fields are named ``OCD_…`` in capitals."""
    pairs = {
        "MESSAGE": message,
        "PRIORITY": str(PRIORITIES.get(level, 6)),
        "SYSLOG_IDENTIFIER": "ocd",
    }
    for name, value in fields.items():
        pairs["OCD_" + _NAME.sub("_", name.upper())[:60]] = str(value)
    made = b""
    for name, text in pairs.items():
        value = text.encode("utf-8", "replace")[:LONGEST]
        if b"\n" in value:
            made += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            made += name.encode() + b"=" + value + b"\n"
    return made


class Journal:
    """The way to the journal; made where ``connected()``."""

    def __init__(self, path: str = SOCKET) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setblocking(False)

    def send(self, message: str, level: str, fields: Mapping[str, object]) -> bool:
        """False when the journal did not take it."""
        try:
            self.sock.sendto(entry(message, level, fields), self.path)
        except OSError:
            return False
        return True
