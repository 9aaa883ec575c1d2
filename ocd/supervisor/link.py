"""The supervisor's end of the link to the keeper."""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from ocd.ipc import frames

Handler = Callable[[dict[str, Any], list[int]], None]


class KeeperLink:
    """Sends orders to the keeper and hands its news to ``on_message`` (message, descriptors).

    The descriptors belong to the handler. When the keeper is gone ``on_end`` is called: a supervisor without its
    keeper has nothing to supervise.
    """

    def __init__(self, sock: socket.socket, on_message: Handler, on_end: Callable[[], None]) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.reader = frames.Reader(sock)
        self.on_message = on_message
        self.on_end = on_end

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self._read)

    def _read(self) -> None:
        for message, fds in self.reader.feed():
            self.on_message(message, fds)
        if self.reader.eof:
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
            self.on_end()

    def send(self, op: str, **fields: Any) -> None:
        """Give an order. A keeper that is gone is noticed by the reader."""
        with contextlib.suppress(OSError):
            frames.send(self.sock, {"op": op, **fields})


class GuestChannel:
    """Our ends of one guest's control socket and output pipes."""

    def __init__(
        self,
        generation: int,
        pid: int,
        fds: list[int],
        on_message: Callable[["GuestChannel", dict[str, Any]], None],
        on_output: Callable[["GuestChannel", str, bytes], None],
    ) -> None:
        self.generation = generation
        self.pid = pid
        self.control = socket.socket(fileno=fds[0])
        self.control.setblocking(False)
        self.reader = frames.Reader(self.control)
        self.streams = {"stdout": fds[1], "stderr": fds[2]}
        self.on_message = on_message
        self.on_output = on_output
        self.closed = False
        #: names of the listeners that it has been given
        self.given: set[str] = set()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.control.fileno(), self._read_control)
        for name, fd in self.streams.items():
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._read_stream, name, fd)

    def send(self, op: str, fds: list[int] | None = None, **fields: Any) -> bool:
        """Tell the guest; returns False when it is gone."""
        try:
            frames.send(self.control, {"op": op, **fields}, fds or [])
        except OSError:
            return False
        return True

    def has_room(self) -> bool:
        """Whether a message would be taken at once: one that hangs stops reading, and what can wait, does."""
        try:
            return bool(select.select([], [self.control], [], 0)[1])
        except (OSError, ValueError):
            return False

    def _read_control(self) -> None:
        for message, fds in self.reader.feed():
            for fd in fds:
                os.close(fd)
            self.on_message(self, message)
        if self.reader.eof and not self.closed:
            asyncio.get_running_loop().remove_reader(self.control.fileno())

    def _read_stream(self, name: str, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.on_output(self, name, data)
        else:
            asyncio.get_running_loop().remove_reader(fd)

    def drain_output(self) -> None:
        """Read what a guest that is gone has left in its pipes (bounded: a pipe holds a megabyte)."""
        for name, fd in self.streams.items():
            for _ in range(64):
                try:
                    data = os.read(fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                self.on_output(self, name, data)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.control.fileno())
        for fd in self.streams.values():
            loop.remove_reader(fd)
            os.close(fd)
        self.reader.close()
