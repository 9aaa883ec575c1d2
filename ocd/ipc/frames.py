"""Messages over a UNIX stream socket: one JSON object a line, with file descriptors beside it. Standard library only.

A message that carries descriptors says how many in ``"fds"``; they travel as SCM_RIGHTS with the message's first
byte, all of them at once (unix(7): one read never crosses the next such message). The receiver gives each message
the descriptors that came with its own bytes, so that one message's loss is never another one's wrong socket.

What is no message is dropped and reported: a line that is too long, is not JSON, or is not an object. Descriptors
that no message claims are closed at once, however malformed what came with them was.
"""

import array
import contextlib
import errno
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Message = dict[str, Any]

#: seconds to wait for room on a non-blocking socket before the other side counts as gone
PATIENCE = 2.0
#: descriptors with one message; Linux takes 253 (SCM_MAX_FD)
MAX_FDS = 200
#: bytes of one message
MAX_LINE = 4 * 1024 * 1024
_READ = 262144
_LAST = sys.platform.startswith("linux")
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: what the system says when it is short of something for a moment: no end of the conversation
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EMSGSIZE, errno.ETOOMANYREFS)


def encode(message: Message) -> bytes:
    """One message as it travels. Raises ValueError when it is longer than a receiver would take."""
    data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(data) > MAX_LINE:
        raise ValueError(f"a message of {len(data)} bytes is too long")
    return data


def has_room(sock: socket.socket, patience: float = 0.0) -> bool:
    """Whether the kernel takes something for the other side, waiting at most ``patience`` seconds.

    Not select(2), which knows no descriptor above 1023.
    """
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return any(events & (select.POLLOUT | select.POLLERR) for _fd, events in poll.poll(patience * 1000))


def send(sock: socket.socket, message: Message, fds: Iterable[int] = ()) -> None:
    """Send one message, waiting until the kernel has taken all of it.

    Raises OSError (BrokenPipeError and the like) when the other side is gone or takes nothing for PATIENCE seconds,
    ValueError for more descriptors or bytes than one message may have.
    """
    fds = list(fds)
    if len(fds) > MAX_FDS:
        raise ValueError(f"{len(fds)} descriptors are too many for one message")
    if fds:
        message = {**message, "fds": len(fds)}
    data = encode(message)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = 0
    deadline = time.monotonic() + PATIENCE
    while sent < len(data):
        try:
            sent += sock.sendmsg([data[sent:]], rights)
        except BlockingIOError:
            if not has_room(sock, PATIENCE):
                raise TimeoutError(f"the other side has taken nothing for {PATIENCE} s") from None
        except OSError as error:
            # Others' descriptors on their way count too (unix(7), ETOOMANYREFS): it passes.
            if error.errno not in _SHORTAGE or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            # They went with the first byte; with the next ones they would arrive a second time.
            rights = []
            deadline = time.monotonic() + PATIENCE


class Reader:
    """Cuts what arrives on a socket into messages.

    ``feed`` reads once and returns the complete messages with their descriptors; an empty list means that nothing
    is complete yet. ``eof`` is true when the other side is gone. A message whose descriptors were lost on the way (we
    are out of them) comes with none and keeps its ``"fds"``. ``fault`` is told what was dropped.
    """

    def __init__(self, sock: socket.socket, fault: Callable[[str], object] | None = None) -> None:
        self.sock = sock
        self.eof = False
        self.fault = fault or (lambda _text: None)
        self._buffer = b""
        #: how many bytes of the conversation came before the buffer
        self._position = 0
        #: descriptors that arrived, with the first and the last byte of the read that brought them
        self._batches: list[tuple[int, int, list[int]]] = []
        self._skipping = False

    def feed(self) -> list[tuple[Message, list[int]]]:
        try:
            data, ancillary, flags, _address = self.sock.recvmsg(
                _READ, socket.CMSG_SPACE(MAX_FDS * 4), _CLOEXEC
            )
        except (BlockingIOError, InterruptedError, TimeoutError):
            return []
        except OSError as error:
            if error.errno in _SHORTAGE:
                self.fault(f"nothing can be received just now: {os.strerror(error.errno or 0)}")
                return []
            data, ancillary, flags = b"", [], 0
        batch: list[int] = []
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                batch.extend(numbers)
        for fd in batch:
            os.set_inheritable(fd, False)
        if not data:
            self.eof = True
            _close(batch)
            return []
        if flags & socket.MSG_CTRUNC:
            # Some are missing, and nothing says which: none can be used.
            _close(batch)
            batch = []
        if batch:
            start = self._position + len(self._buffer)
            self._batches.append((start, start + len(data), batch))
        self._buffer += data
        found = list(self._messages())
        self._close_unclaimed()
        return found

    def _messages(self) -> Iterator[tuple[Message, list[int]]]:
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > MAX_LINE:
                    if not self._skipping:
                        self.fault(f"a message of more than {MAX_LINE} bytes was dropped")
                    self._skipping = True
                if self._skipping:
                    self._forward(len(self._buffer))
                return
            start, line = self._position, self._buffer[:end]
            self._forward(end + 1)
            if self._skipping:
                self._skipping = False
                continue
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                # Nothing of it is repeated: it may be a piece of a message with a secret in it.
                self.fault(f"{len(line)} bytes that are not a message were dropped")
                continue
            declared = message.get("fds", 0)
            fds = self._claim(start, start + end + 1, bool(declared))
            if fds and len(fds) == declared:
                del message["fds"]
                yield message, fds
                continue
            _close(fds)
            if fds or declared:
                self.fault(f"a message should have brought {declared!s:.20} descriptors, {len(fds)} arrived")
            yield message, []

    def _forward(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._position += count

    def _claim(self, start: int, end: int, declared: bool) -> list[int]:
        """The descriptors that came with the first byte of the message from ``start`` to ``end``.

        Linux ends a read after the piece that brought some: they are the last message's of that read. Elsewhere a
        read begins with that piece: they are the first one's that says so.
        """
        for batch in self._batches:
            mine = batch[0] <= start < batch[1]
            if mine and (batch[1] <= end if _LAST else declared):
                self._batches.remove(batch)
                return batch[2]
        return []

    def _close_unclaimed(self) -> None:
        """What came with no message's first byte belongs to nobody; only the line under way may still claim."""
        for batch in list(self._batches):
            if not batch[0] <= self._position < batch[1]:
                self._batches.remove(batch)
                _close(batch[2])

    def close(self) -> None:
        """Close the socket and every descriptor that no message has claimed."""
        for batch in self._batches:
            _close(batch[2])
        self._batches = []
        self.sock.close()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
