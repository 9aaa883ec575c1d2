"""A stand-in for Bedrock's Converse that says exactly what a test tells it to, and sees when its client goes.

``steps`` of a streamed answer are ``("event", kind, payload)``, ``("exception", kind, message)``, a number (seconds of
silence), "cut" (the connection is reset) and "end" (it ends cleanly, here and now).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ocd.selftest import eventstream

Step = Any


@dataclass
class Reply:
    """One answer: ``steps`` for a stream, ``plain`` for a call that is not one, or an error."""

    steps: list[Step] = field(default_factory=list)
    plain: dict[str, Any] | None = None
    status: int = 200
    kind: str = ""
    message: str = ""
    first: float = 0.0


@dataclass
class Call:
    """One request, and when its client went away while it was being answered (None: it stayed)."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    gone: float | None = None
    done: bool = False

    @property
    def model(self) -> str:
        return unquote(unquote(self.path.split("/")[2]))


def text(*parts: str, index: int = 0) -> list[Step]:
    """A block of text."""
    pieces = [event("contentBlockDelta", index, delta={"text": part}) for part in parts]
    return [*pieces, event("contentBlockStop", index)]


def tool(name: str, *parts: str, index: int = 0, identity: str = "tooluse_1") -> list[Step]:
    """A tool's call, its input in ``parts``."""
    begin = event("contentBlockStart", index, start={"toolUse": {"toolUseId": identity, "name": name}})
    pieces = [event("contentBlockDelta", index, delta={"toolUse": {"input": part}}) for part in parts]
    return [begin, *pieces, event("contentBlockStop", index)]


def thinking(*parts: str, signature: str = "", index: int = 0) -> list[Step]:
    pieces = [event("contentBlockDelta", index, delta={"reasoningContent": {"text": part}}) for part in parts]
    if signature:
        pieces.append(event("contentBlockDelta", index, delta={"reasoningContent": {"signature": signature}}))
    return [*pieces, event("contentBlockStop", index)]


def event(kind: str, index: int | None = None, **more: Any) -> Step:
    return ("event", kind, more if index is None else {"contentBlockIndex": index, **more})


START: Step = ("event", "messageStart", {"role": "assistant"})
USAGE = {"inputTokens": 4242, "outputTokens": 7, "totalTokens": 4249}


def stop(reason: str = "end_turn", usage: dict[str, int] | None = None) -> list[Step]:
    """How an answer ends."""
    counted = USAGE if usage is None else usage
    return [
        event("messageStop", stopReason=reason),
        event("metadata", usage=counted, metrics={"latencyMs": 1}),
    ]


HELLO = [START, *text("Hel", "lo."), *stop()]


def plain(*content: dict[str, Any], reason: str = "end_turn") -> dict[str, Any]:
    """A whole answer, not streamed."""
    message = {"role": "assistant", "content": list(content)}
    return {"output": {"message": message}, "stopReason": reason, "usage": USAGE, "metrics": {"latencyMs": 1}}


class Bedrock:
    """``reply`` is what is answered, after those of ``queue``; ``calls`` is what came."""

    def __init__(self) -> None:
        self.queue: list[Reply] = []
        self.reply = Reply(HELLO, plain({"text": "Hello."}))
        self.calls: list[Call] = []
        self.url = ""

    def say(self, *steps: Step, **more: Any) -> None:
        self.calls.clear()
        self.reply = Reply(list(steps), **more)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.one(reader, writer):
                pass
        writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        call = Call(head[0].split(" ")[1], headers, json.loads(raw or b"{}"))
        self.calls.append(call)
        going = asyncio.ensure_future(self.watch(reader, call))
        try:
            await self.answer(call, writer)
        finally:
            call.done = True
            going.cancel()
        return False

    async def watch(self, reader: asyncio.StreamReader, call: Call) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        call.gone = time.monotonic()

    async def answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        how = self.queue.pop(0) if self.queue else self.reply
        await self.pause(call, how.first)
        if how.status != 200 or not call.path.endswith("-stream"):
            value = {"message": how.message} if how.status != 200 else how.plain or plain({"text": "Hello."})
            body = json.dumps(value).encode()
            lines = [
                f"HTTP/1.1 {how.status} Whatever",
                "content-type: application/json",
                "x-amzn-requestid: req-1",
            ]
            if how.kind:
                lines.append(f"x-amzn-errortype: {how.kind}:http://internal.amazon.com/coral/")
            lines += [f"content-length: {len(body)}", "connection: close"]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await writer.drain()
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\nx-amzn-requestid: req-1\r\n"
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        for step in how.steps:
            if isinstance(step, (int, float)):
                await self.pause(call, step)
                continue
            if step == "cut":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            if step == "end":
                break
            form, kind, value = step
            data = eventstream.event(kind, value) if form == "event" else eventstream.exception(kind, value)
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def pause(self, call: Call, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and call.gone is None:
            await asyncio.sleep(min(0.005, seconds))
        if call.gone is not None:
            raise ConnectionResetError


@contextlib.contextmanager
def in_thread() -> Iterator[Bedrock]:
    """The stand-in in a thread of its own."""
    bedrock = Bedrock()
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Server:
        server = await asyncio.start_server(bedrock.serve, "127.0.0.1", 0)
        bedrock.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    thread = threading.Thread(target=loop.run_forever, name="stand-in Converse", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield bedrock
    finally:

        async def end() -> None:
            server.close()
            mine = asyncio.current_task()
            for task in asyncio.all_tasks():
                if task is not mine:
                    task.cancel()

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
