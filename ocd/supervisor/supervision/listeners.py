"""The listening sockets that the keeper holds, and our copies of their descriptors."""

import os
import socket
from collections.abc import Callable
from typing import Any


class Listeners:
    """By name: ``control``, or ``PROXY:PORT:HOST``. ``send`` gives the keeper an order."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self.sockets: dict[str, socket.socket] = {}
        #: told a descriptor before it is closed: nobody may go on watching it
        self.closing: list[Callable[[int], None]] = []

    def ask(self, name: str, **where: Any) -> None:
        """Have the keeper listen; its answer comes as ``listening`` or ``listen-failed``."""
        self._send("listen", name=name, **where)

    def adopt(self, held: dict[str, int]) -> None:
        """What the keeper held before this supervisor began."""
        for name, fd in held.items():
            self.sockets[name] = socket.socket(fileno=fd)

    def take(self, name: str, fds: list[int]) -> bool:
        """The keeper listens: keep the descriptor; returns whether there was one."""
        for fd in fds[1:]:
            os.close(fd)
        if not fds:
            return False
        self._forget(name)
        self.sockets[name] = socket.socket(fileno=fds[0])
        return True

    def close(self, name: str) -> None:
        """Close ours and have the keeper close its own."""
        self._forget(name)
        self._send("unlisten", name=name)

    def _forget(self, name: str) -> None:
        sock = self.sockets.pop(name, None)
        if sock is not None:
            for told in self.closing:
                told(sock.fileno())
            sock.close()

    def of(self, proxy: str) -> list[str]:
        """The names of all that the keeper holds for a proxy, an earlier port's included."""
        return [name for name in self.sockets if name.startswith(f"{proxy}:")]


def listener_name(proxy: str, port: int, host: str) -> str:
    """``main:4000:::1``"""
    return f"{proxy}:{port}:{host}"


def port_of(listener: str) -> int:
    """The port in a listener's name."""
    return int(listener.split(":")[1])
