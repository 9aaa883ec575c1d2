"""One client meets an upstream that behaves badly, while a neighbour's stream goes on over the same server."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tests.attack.ways import ENDLESS_WAYS, SSE_HEAD, WAYS, chunk, event, placed
from tests.helpers.pipes import (
    HOP_KEY,
    KEY,
    PATIENCE,
    SECRET,
    Asked,
    Standin,
    answer,
    anthropic,
    request,
    saying,
    serving,
    until,
)

#: bytes after which a client has enough of an answer that has no end
ENOUGH = 1024 * 1024
#: seconds of nothing after which it leaves, and of everything
QUIET, LONG = 0.3, 1.0


@dataclass
class Met:
    """What came of it. ``raw``: what the client got; ``gone``: it left first; ``elsewhere``: what arrived where a
    redirect led; ``neighbour``: that stream's events, and whether it ended as its framing promises."""

    raw: bytes
    gone: bool
    elsewhere: list[Asked]
    neighbour: int
    neighbour_whole: bool
    told: str
    upstream_closed: bool


async def meet(name: str, http: str, fallbacks: bool) -> Met:
    """``fallbacks``: another group stands ready, so that failed answers are kept for comparison."""
    over = asyncio.Event()

    async def plays(_standin: Standin, _asked: Asked, writer: asyncio.StreamWriter) -> None:
        await placed(WAYS[name], elsewhere.port)(writer)

    async def good(_standin: Standin, _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        while not over.is_set():
            writer.write(chunk(event("ping")))
            await writer.drain()
            await asyncio.sleep(0.002)
        writer.write(chunk(event("message_stop")) + b"0\r\n\r\n")

    async def takes(_standin: Standin, _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen")

    bad, kind, elsewhere = Standin(plays), Standin(good), Standin(takes)
    second = Standin(saying(answer(200, b'{"second":1}')))
    async with bad.serving(), kind.serving(), elsewhere.serving(), second.serving():
        table = {
            "groups": {
                "claude-opus-9-9": anthropic(bad.url),
                "claude-good-1": anthropic(kind.url),
                "claude-second": anthropic(second.url),
            },
            "fallbacks": {"claude-opus-9-9": ["claude-second"]} if fallbacks else {},
        }
        async with serving(table, http=http) as setup:
            reader, writer = await setup.send(request("claude-good-1"))
            counting = asyncio.ensure_future(_count(reader))
            raw, gone = await _ask(setup.port, request("claude-opus-9-9"))
            closed = True
            if name in ENDLESS_WAYS and gone:
                try:
                    await until(lambda: bad.ended.is_set() or not bad.connections, PATIENCE)
                except TimeoutError:
                    closed = False
            over.set()
            events, whole = await asyncio.wait_for(counting, PATIENCE)
            writer.close()
            told = repr(setup.told) + repr(setup.reports)
    return Met(raw, gone, elsewhere.asked, events, whole, told, closed)


async def _ask(port: int, raw: bytes) -> tuple[bytes, bool]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    got, size = [], 0
    began = asyncio.get_running_loop().time()
    try:
        with contextlib.suppress(ConnectionError):
            while True:
                try:
                    piece = await asyncio.wait_for(reader.read(65536), LONG if not got else QUIET)
                except TimeoutError:
                    return b"".join(got), True
                if not piece:
                    break
                got.append(piece)
                size += len(piece)
                if size > 20 * ENOUGH or asyncio.get_running_loop().time() - began > LONG:
                    return b"".join(got), True
        return b"".join(got), False
    finally:
        writer.transport.abort()


async def _count(reader: asyncio.StreamReader) -> tuple[int, bool]:
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            got += piece
    return got.count(b"event: ping"), got.endswith(b"0\r\n\r\n") and b"message_stop" in got


def judge(name: str, met: Met) -> list[str]:
    """What must not have happened, as sentences; empty: nothing did."""
    wrong = []
    if met.elsewhere:
        wrong.append("a redirect was followed")
    for secret in (KEY, HOP_KEY, SECRET):
        if secret.encode() in met.raw:
            wrong.append("a secret came back to the client")
        if secret in met.told:
            wrong.append("a secret stands in a report")
    if not met.neighbour_whole or not met.neighbour:
        wrong.append("another client's stream was cut")
    if met.raw and not met.raw.startswith(b"HTTP/1.1 "):
        wrong.append("the client got no HTTP")
    if met.raw.count(b"evil") or b"set-cookie: b" in met.raw:
        wrong.append("what follows an answer was taken for another")
    if not met.upstream_closed:
        wrong.append("the upstream's connection outlives the client's")
    if met.gone and name not in ENDLESS_WAYS:
        wrong.append(f"the client had to leave: {met.raw[-80:]!r}")
    if not met.gone and not met.raw:
        wrong.append("the client was not answered at all")
    return wrong
