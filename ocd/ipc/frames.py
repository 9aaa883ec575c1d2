"""Messages over a UNIX stream socket: one JSON object a line, with file descriptors beside it. Standard library only.

A message that carries descriptors says how many in ``"fds"``; they travel as SCM_RIGHTS with the message's first
byte. The receiver keeps descriptors in the order of arrival and hands each message its own, so it does not matter
how the kernel cuts the stream into reads.
"""

import array
import json
import os
import select
import socket
from collections.abc import Iterable, Iterator
from typing import Any

Message = dict[str, Any]

#: seconds to wait for room on a non-blocking socket before the other side counts as gone
PATIENCE = 2.0
_MAX_FDS = 32
_MAX_LINE = 4 * 1024 * 1024


def encode(message: Message) -> bytes:
    """One message as it travels."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def send(sock: socket.socket, message: Message, fds: Iterable[int] = ()) -> None:
    """Send one message, waiting until the kernel has taken all of it.

    Raises OSError (BrokenPipeError and the like) when the other side is gone.
    """
    fds = list(fds)
    if fds:
        message = {**message, "fds": len(fds)}
    data = encode(message)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = 0
    while sent < len(data):
        try:
            sent += sock.sendmsg([data[sent:]], rights)
            rights = []
        except BlockingIOError:
            _readable, writable, _error = select.select([], [sock], [], PATIENCE)
            if not writable:
                raise TimeoutError(f"the other side has taken nothing for {PATIENCE} s") from None


class Reader:
    """Cuts what arrives on a socket into messages.

    ``feed`` reads once and returns the complete messages with their descriptors; an empty list means that nothing
    is complete yet. ``eof`` is true when the other side is gone. A line that is no JSON object is dropped: a
    successor may join the conversation in the middle of a line that its predecessor had begun to read.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.eof = False
        self._buffer = b""
        self._fds: list[int] = []

    def feed(self) -> list[tuple[Message, list[int]]]:
        try:
            data, ancillary, _flags, _address = self.sock.recvmsg(262144, socket.CMSG_SPACE(_MAX_FDS * 4))
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data, ancillary = b"", []
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                self._fds.extend(numbers)
        if not data:
            self.eof = True
            return []
        self._buffer += data
        return list(self._messages())

    def _messages(self) -> Iterator[tuple[Message, list[int]]]:
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                if len(self._buffer) > _MAX_LINE:
                    self._buffer = b""
                return
            self._buffer = rest
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if not isinstance(message, dict):
                continue
            count = message.pop("fds", 0)
            taken, self._fds = self._fds[:count], self._fds[count:]
            yield message, taken

    def close(self) -> None:
        """Close the socket and every descriptor that no message has claimed."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self.sock.close()
