"""What changes, to everybody who looks: one look at the status a second for all of them, none without anybody."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from ocd.dashboard.asking import Api, Gone
from ocd.dashboard.status import Look

#: seconds between two looks at the status
LOOK = 1.0
#: messages that wait for one who reads slowly; the oldest go
QUEUE = 500
#: seconds without any news until a sign of life
SIGN = 15.0
MOST_VIEWERS = 16


class Live:
    def __init__(self, api: Api, look: Look) -> None:
        self.api = api
        self.look = look
        self.viewers: set[asyncio.Queue[str]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        #: what was told last, and its name
        self._status = ""
        self._name = "status"

    async def events(self) -> AsyncGenerator[str, None]:
        """Server-Sent Events for one viewer: ``status``, ``request``, ``event``; ``gone``: why there is no status."""
        queue: asyncio.Queue[str] = asyncio.Queue(QUEUE)
        self.viewers.add(queue)
        try:
            if not self._tasks:
                self._begin()
            elif self._status:
                queue.put_nowait(_event(self._name, self._status))
            while True:
                try:
                    async with asyncio.timeout(SIGN):
                        yield await queue.get()
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self.viewers.discard(queue)
            if not self.viewers:
                self.close()

    def _begin(self) -> None:
        self._tasks = [
            asyncio.ensure_future(self._look()),
            asyncio.ensure_future(self._follow("request", "/v1/requests")),
            asyncio.ensure_future(self._follow("event", "/v1/events")),
        ]

    def close(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._status = ""

    async def _look(self) -> None:
        while True:
            try:
                name, text = "status", json.dumps(await self.look.status())
            except Gone as error:
                # It is stopped, or takes over from another: the next look finds out.
                name, text = "gone", json.dumps({"why": str(error)})
            if text != self._status:
                self._status, self._name = text, name
                self._tell(name, text)
            await asyncio.sleep(LOOK)

    async def _follow(self, name: str, path: str) -> None:
        while True:
            with contextlib.suppress(Gone):
                await self.api.follow(path, "lines=0&follow=1", lambda line: self._tell(name, line))
            await asyncio.sleep(LOOK)

    def _tell(self, name: str, data: str) -> None:
        message = _event(name, data)
        for queue in self.viewers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)


def _event(name: str, data: Any) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    # JSON on one line has no line end; what has one would begin another field.
    return f"event: {name}\ndata: {text.replace(chr(10), ' ').replace(chr(13), ' ')}\n\n"
