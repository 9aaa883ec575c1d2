"""Asks the control API within the process: an ASGI application is called, no socket is in between."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def ask(app: App, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
    """One request and its whole answer: status and body."""
    pieces: list[bytes] = []
    status = await _call(app, method, path, query, body, pieces.append)
    return status, b"".join(pieces)


async def follow(app: App, path: str, query: str, take: Callable[[str], None]) -> None:
    """Hand each line of an answer that does not end to ``take``, until cancelled."""
    rest = b""

    def piece(data: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line:
                take(line.decode("utf-8", "replace"))

    await _call(app, "GET", path, query, b"", piece)


async def _call(
    app: App, method: str, path: str, query: str, body: bytes, take: Callable[[bytes], None]
) -> int:
    scope: Scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"},
        **{"method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode()},
        **{"headers": [(b"host", b"ocd")], "client": None, "server": None, "root_path": ""},
    }
    status = 500
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        # Nobody goes away: who does not want any more cancels the whole call.
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = int(message["status"])
        elif message["type"] == "http.response.body" and message.get("body"):
            take(message["body"])

    await app(scope, receive, send)
    return status
