"""Connections whose client has not shown the proxy's key: so many at most, and each for so long.

Anybody on the machine can open connections to a loopback port and stay silent, send half a request, or ask what needs
no key. None of that may cost the owner a descriptor: the oldest stranger goes when there are too many, and whoever has
not shown the key in time goes as well. Connections on which it was shown are left alone. Standard library only.
"""

import asyncio
import time
from typing import Any

#: strangers at once; Claude Code shows the key with the first bytes of a connection
MOST = 512
#: seconds until a stranger must have shown it
PATIENCE = 20.0
#: seconds between two looks
_PAUSE = 1.0


class Door:
    """``watch`` each protocol object before its connection is made, ``known`` each client that showed the key."""

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self.most = most
        self.patience = patience
        #: by the client's address, oldest first
        self.strangers: dict[Any, tuple[Any, float]] = {}
        self._look: asyncio.TimerHandle | None = None

    def watch(self, protocol: Any) -> Any:
        """Have ``protocol`` (asyncio's) counted from the moment when it is connected; returns it."""
        connected = protocol.connection_made

        def connection_made(transport: Any) -> None:
            connected(transport)
            client = transport.get_extra_info("peername")
            if client:
                # As uvicorn names it in a request's scope.
                self.came((str(client[0]), int(client[1])), transport)

        protocol.connection_made = connection_made
        return protocol

    def known(self, client: Any) -> None:
        """The client (a scope's ``client``) has shown the key."""
        self.strangers.pop(client and tuple(client), None)

    def came(self, client: tuple[str, int], transport: Any) -> None:
        # An address that comes again is another connection: its predecessor is gone.
        self.strangers.pop(client, None)
        self.strangers[client] = (transport, time.monotonic())
        if len(self.strangers) > self.most:
            self.forget_closed()
        while len(self.strangers) > self.most:
            self._end(next(iter(self.strangers)))
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_PAUSE, self.look)

    def look(self) -> None:
        """End those whose time is over; look again while there are any."""
        self._look = None
        self.forget_closed()
        over = time.monotonic() - self.patience
        for client in [one for one, (_transport, since) in self.strangers.items() if since <= over]:
            self._end(client)
        if self.strangers:
            self._look = asyncio.get_running_loop().call_later(_PAUSE, self.look)

    def forget_closed(self) -> None:
        self.strangers = {
            client: found for client, found in self.strangers.items() if not found[0].is_closing()
        }

    def _end(self, client: Any) -> None:
        transport, _since = self.strangers.pop(client)
        # Not close(): that waits for a reader that may never read.
        transport.abort()
