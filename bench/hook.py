"""What the request meter itself takes of one request, in this process: with it and without, nothing else different."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ocd.guest.layers import meter

App = Callable[[Any, Any, Any], Awaitable[None]]
TEXTS = 40
#: as long as a conversation that has been going on for a while
BODY = json.dumps(
    {
        "model": "claude-opus-9-9",
        "max_tokens": 64000,
        "stream": True,
        "messages": [{"role": "user", "content": "x" * 1000} for _ in range(100)],
    }
).encode()
LOGIN = [(b"authorization", b"Bearer sk-ant-oat01-canary")]


def _pieces() -> list[bytes]:
    usage = {"input_tokens": 4242, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "claude-opus-9-9", "usage": usage}},
        *({"type": "content_block_delta", "delta": {"text": f"word {number}"}} for number in range(TEXTS)),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": TEXTS}},
        {"type": "message_stop"},
    ]
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events]


async def _ask(app: App, times: int) -> list[float]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(_message: Any) -> None:
        pass

    taken = []
    for _ in range(times):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/messages",
            "query_string": b"beta=true",
            "headers": [*LOGIN, (b"x-ocd-session", b"7")],
            "client": ("127.0.0.1", 1),
        }
        began = time.perf_counter()
        await app(scope, receive, send)
        taken.append(time.perf_counter() - began)
    return taken


def seconds(times: int = 500) -> float:
    """Seconds that the meter takes of a stream of forty texts."""
    pieces = _pieces()
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/event-stream")],
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(dict(start))
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    one = meter.Meter(lambda fields: None)
    one.prices[("claude-opus-9-9", "")] = (1e-6, 1e-6, 0.0, 0.0, 0.0)

    async def both() -> float:
        bare = statistics.median(await _ask(app, times))
        return statistics.median(await _ask(one.outside(one.inside(app)), times)) - bare

    return asyncio.run(both())
