"""A cheap upstream in its own process: Anthropic's Messages and Bedrock's Converse, nothing looked at that costs time.

``python -m bench.standin`` prints its port and serves until its standard input ends. A request says itself how it is
answered, in any text of it: ``bench:texts,rate,first,name`` (pieces of text, pieces a second or 0 for at once, seconds
before the first byte, a name of more than a letter to be noted by), so that every proxy passes it on. Each piece of a
stream carries the clock, each request that loses its client is noted with the time; ``GET /seen`` tells.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

from ocd.selftest import eventstream

MARK = re.compile(rb"bench:(\d+),([\d.]+),([\d.]+),(\w+)")
USAGE = {"input_tokens": 10, "output_tokens": 5}
DONE: dict[str, float] = {}
LOST: dict[str, float] = {}
ARRIVED: dict[str, float] = {}


def sse(kind: str, **more: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **more}).encode())


MESSAGE = {
    "id": "msg_bench",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-9-9",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": USAGE,
}
PLAIN = json.dumps(
    {**MESSAGE, "content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn"}
).encode()
HEAD = sse("message_start", message=MESSAGE) + sse(
    "content_block_start", index=0, content_block={"type": "text", "text": ""}
)
TAIL = (
    sse("content_block_stop", index=0)
    + sse("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=USAGE)
    + sse("message_stop")
)
CONVERSE = json.dumps(
    {
        "output": {"message": {"role": "assistant", "content": [{"text": "ok"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
        "metrics": {"latencyMs": 1},
    }
).encode()
CONVERSE_HEAD = eventstream.event("messageStart", {"role": "assistant"})
CONVERSE_TAIL = (
    eventstream.event("contentBlockStop", {"contentBlockIndex": 0})
    + eventstream.event("messageStop", {"stopReason": "end_turn"})
    + eventstream.event(
        "metadata",
        {"usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}, "metrics": {"latencyMs": 1}},
    )
)


def delta(converse: bool) -> bytes:
    """One piece of text; it says when it left."""
    text = f"t={time.monotonic_ns()} "
    if converse:
        return eventstream.event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"%s"}}\n\n' % text.encode()
    )


class Upstream(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.answer: asyncio.Task[None] | None = None
        self.name = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            LOST[self.name] = time.monotonic()
            self.answer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end])
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            if not self.buffer.endswith(b"0\r\n\r\n"):
                return
            whole = len(self.buffer)
        else:
            found = re.search(rb"content-length: *(\d+)", lower)
            whole = end + 4 + (int(found.group(1)) if found else 0)
            if len(self.buffer) < whole:
                return
        body = bytes(self.buffer[end + 4 : whole])
        del self.buffer[:whole]
        if head.startswith(b"GET /seen"):
            seen = json.dumps({"done": DONE, "lost": LOST, "arrived": ARRIVED}).encode()
            self.plain(seen)
            return
        mark = MARK.search(body)
        texts, rate, first = (int(mark[1]), float(mark[2]), float(mark[3])) if mark else (1, 0.0, 0.0)
        self.name = mark[4].decode() if mark else ""
        if len(self.name) > 1:
            ARRIVED[self.name] = time.monotonic()
        converse = b"/converse" in head.split(b"\r\n", 1)[0]
        streamed = (
            b"converse-stream" in head if converse else re.search(rb'"stream": ?true', body) is not None
        )
        if not streamed and not first:
            self.plain(CONVERSE if converse else PLAIN)
        elif streamed and not rate and not first:
            self.begin(converse)
            pieces = b"".join(delta(converse) for _ in range(texts))
            self.piece(
                (CONVERSE_HEAD if converse else HEAD) + pieces + (CONVERSE_TAIL if converse else TAIL), True
            )
        else:
            self.answer = asyncio.get_running_loop().create_task(
                self.slowly(converse, streamed, texts, rate, first)
            )

    async def slowly(self, converse: bool, streamed: bool, texts: int, rate: float, first: float) -> None:
        await asyncio.sleep(first)
        if not streamed:
            self.plain(CONVERSE if converse else PLAIN)
        else:
            self.begin(converse)
            self.piece(CONVERSE_HEAD if converse else HEAD)
            began = time.monotonic()
            for number in range(texts):
                if rate:
                    await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                self.piece(delta(converse))
            self.piece(CONVERSE_TAIL if converse else TAIL, True)
        DONE[self.name] = time.monotonic()

    def plain(self, body: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )

    def begin(self, converse: bool) -> None:
        kind = eventstream.CONTENT_TYPE.encode() if converse else b"text/event-stream; charset=utf-8"
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n" % kind
        )

    def piece(self, data: bytes, last: bool = False) -> None:
        self.transport.write(b"%x\r\n%s\r\n%s" % (len(data), data, b"0\r\n\r\n" if last else b""))


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
