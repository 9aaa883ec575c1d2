"""Connections on which nothing was said yet. Each costs a descriptor and an entry in the loop, no more.

A client of ours sends its first bytes with the connection. So who is silent waits here, before any protocol is made for
it: ten thousand of them (another user's, say) are held as cheaply as the kernel allows, instead of being hung up on,
which would have them come again at once. Each may wait so long, and there are so many at most; the oldest goes first.
Standard library only.
"""

import asyncio
import itertools
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from .door import PATIENCE

#: at most so many, and no more than half of what descriptors there are
MOST = 16384
#: connections that are taken in one turn of the loop: the others' bytes come in between
_TURN = 64
#: seconds between two looks, and without new connections when there is no descriptor left
_PAUSE = 1.0
#: what goes at once then
_ROOM = 100
#: whose time is over at a look: who is hung up on may come again at once
_LEAVE = 500


def most() -> int:
    """How many may wait in this process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else max(64, min(MOST, soft // 2))


class Waiting:
    """A listening socket's clients until they speak; then ``protocol`` is made for them. As much of asyncio's
    ``Server`` as uvicorn uses. ``patience`` in seconds."""

    def __init__(
        self, sock: socket.socket, protocol: Callable[[], Any], limit: int, patience: float = PATIENCE
    ) -> None:
        self.sockets: tuple[socket.socket, ...] = (sock,)
        self._protocol = protocol
        self._limit = limit
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        #: oldest first: connection → when it came
        self._silent: dict[socket.socket, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        #: connections that are being given to their protocol
        self._work: set[asyncio.Task[Any]] = set()
        self._listen()

    def __len__(self) -> int:
        return len(self._silent)

    def _listen(self) -> None:
        self._again = None
        for sock in self.sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_TURN):
            try:
                client, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError:
                # No descriptor, no memory: the kernel would say so again and again.
                self._make_room()
                self._loop.remove_reader(sock.fileno())
                self._again = self._again or self._loop.call_later(_PAUSE, self._listen)
                return
            client.setblocking(False)
            self._silent[client] = time.monotonic()
            self._loop.add_reader(client.fileno(), self._speaks, client)
        while len(self._silent) > self._limit:
            self._hang_up(next(iter(self._silent)))
        if self._timer is None and self._silent:
            self._timer = self._loop.call_later(_PAUSE, self._look)

    def _make_room(self) -> None:
        for client in list(self._silent)[:_ROOM]:
            self._hang_up(client)

    def _speaks(self, client: socket.socket) -> None:
        """Its first bytes, or its end, are there."""
        del self._silent[client]
        self._loop.remove_reader(client.fileno())
        task = self._loop.create_task(self._hand_over(client))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _hand_over(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, client)
        except OSError:
            client.close()

    def _look(self) -> None:
        self._timer = None
        over = time.monotonic() - self._patience
        for client, since in list(itertools.islice(self._silent.items(), _LEAVE)):
            if since > over:
                break
            self._hang_up(client)
        if self._silent:
            self._timer = self._loop.call_later(_PAUSE, self._look)

    def _hang_up(self, client: socket.socket) -> None:
        del self._silent[client]
        self._loop.remove_reader(client.fileno())
        client.close()

    # ------------------------------------------------------------------------------------ as asyncio's Server

    def close(self) -> None:
        """Listen no more. Who came in time may still speak: they get their protocol now, the newest at least."""
        for sock in self.sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self.sockets = ()
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        while len(self._silent) > _ROOM:
            self._hang_up(next(iter(self._silent)))
        for client in list(self._silent):
            self._speaks(client)

    def is_serving(self) -> bool:
        return bool(self.sockets)

    async def wait_closed(self) -> None:
        """Nothing to wait for: its connections are the server's."""
