"""The pipe over real sockets, in one event loop: a raw stand-in upstream, uvicorn with the layers, a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from ocd.guest.layers import boundary, upstream
from ocd.guest.layers import meter as meters
from ocd.guest.layers import pipe as pipes

KEY = "sk-main-0123456789abcdef"
HOP_KEY = "sk-bedrock-0123456789abcdef"
SECRET = "canary-7f3a9c5e1b"
TOKEN = f"sk-ant-oat01-{SECRET}"
#: seconds that anything in these tests may take
PATIENCE = 20.0

try:
    import httptools  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401

    SERVERS = ["h11", "httptools"]
except ImportError:
    SERVERS = ["h11"]


@dataclass
class Asked:
    """One request as a stand-in got it."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        pairs = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:] if line]
        return [(name, value) for name, _colon, value in pairs]

    def header(self, name: bytes) -> bytes | None:
        return next((value for known, value in self.headers if known == name), None)


Play = Callable[["Standin", Asked, asyncio.StreamWriter], Awaitable[None]]


class Standin:
    """An upstream that says what it is told to, byte for byte."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.asked: list[Asked] = []
        self.connections = 0
        self.ended = asyncio.Event()
        self.arrived = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self, ssl: Any = None, path: str = "") -> AsyncIterator[Standin]:
        if path:
            server = await asyncio.start_unix_server(self.connected, path)
            self.url = f"unix:{path}"
        else:
            server = await asyncio.start_server(self.connected, "127.0.0.1", 0, ssl=ssl)
            scheme = "https" if ssl else "http"
            self.port = server.sockets[0].getsockname()[1]
            self.url = f"{scheme}://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            server.close()
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio's complains about one that is cancelled.
        self.tasks.add(asyncio.ensure_future(self.serve(reader, writer)))
        self.connections += 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                one = Asked(head, b"")
                length = int(one.header(b"content-length") or b"0")
                one.body = await reader.readexactly(length)
                self.asked.append(one)
                self.arrived.set()
                playing = asyncio.ensure_future(self.play(self, one, writer))
                watching = asyncio.ensure_future(reader.read(1))
                self.tasks |= {playing, watching}
                await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done() and not playing.done():
                    self.ended.set()
                    playing.cancel()
                    return
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
                await playing
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
        finally:
            writer.close()


def saying(*pieces: bytes, close: bool = False) -> Play:
    """Send these pieces, each as a segment of its own, then close or keep the connection."""

    async def play(_standin: Standin, _asked: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return play


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def answer(status: int, body: bytes, *headers: tuple[bytes, bytes], reason: bytes = b"X") -> bytes:
    """A whole answer with its length."""
    lines = b"".join(b"%b: %b\r\n" % one for one in headers)
    return b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, reason, lines, len(body), body)


def chunked(*pieces: bytes, status: int = 200, kind: bytes = b"text/event-stream") -> list[bytes]:
    """An answer in chunks: the head, each chunk, the end."""
    head = b"HTTP/1.1 %d OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % (status, kind)
    return [head, *(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces), b"0\r\n\r\n"]


@dataclass
class Answer:
    """What a raw client got. ``whole``: the framing says that nothing is missing."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool
    raw: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        return next((value for known, value in self.headers if known.lower() == name), None)


def parse(raw: bytes) -> Answer:
    head, _, rest = raw.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    headers = [(n, v.strip()) for n, _c, v in (one.partition(b":") for one in lines)]
    found = Answer(int(line.split(b" ")[1]), headers, rest, True, raw)
    if (found.header(b"transfer-encoding") or b"") == b"chunked":
        body, found.whole = b"", False
        while rest:
            size, sep, rest = rest.partition(b"\r\n")
            if not sep:
                break
            count = int(size, 16)
            if count == 0:
                found.whole = rest == b"\r\n"
                break
            body += rest[:count]
            rest = rest[count + 2 :]
        found.body = body
    elif (length := found.header(b"content-length")) is not None:
        found.whole = len(rest) == int(length)
    return found


@dataclass
class Setup:
    """A running server and what it told."""

    port: int
    pipe: pipes.Pipe
    meter: meters.Meter
    told: list[dict[str, Any]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        return reader, writer

    async def ask(self, raw: bytes) -> Answer:
        """Send a request that says ``connection: close``; all of what comes back."""
        reader, writer = await self.send(raw)
        try:
            got = b""
            with contextlib.suppress(ConnectionError):
                while piece := await asyncio.wait_for(reader.read(65536), PATIENCE):
                    got += piece
            return parse(got)
        finally:
            writer.close()

    async def heard(self, count: int = 1) -> dict[str, Any]:
        """The latest exchange, once there are ``count``."""
        await until(lambda: len(self.told) >= count)
        return self.told[-1]


async def until(fulfilled: Callable[[], bool], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not fulfilled():
            await asyncio.sleep(0.002)


def request(
    model: str = "claude-opus-9-9",
    *,
    path: bytes = b"/v1/messages?beta=true",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes | None = None,
    login: str = TOKEN,
    method: bytes = b"POST",
    close: bool = True,
) -> bytes:
    if body is None:
        body = json.dumps({"model": model, "max_tokens": 9, "messages": []}).encode()
    lines = [
        b"%b %b HTTP/1.1" % (method, path),
        b"Host: 127.0.0.1",
        b"x-litellm-api-key: Bearer " + KEY.encode(),
        *([b"authorization: Bearer " + login.encode()] if login else []),
        *(b"%b: %b" % one for one in headers),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        *([b"connection: close"] if close else []),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def litellm(scope: Any, receive: Any, send: Any) -> None:
    """In LiteLLM's place: says that it was asked, and what for."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    said = json.dumps({"litellm": json.loads(body or b"{}").get("model"), "body": body.decode()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@contextlib.asynccontextmanager
async def serving(
    table: dict[str, Any],
    *,
    environ: dict[str, str] | None = None,
    app: Any = litellm,
    http: str = "h11",
    spill: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
    client: upstream.Client | None = None,
) -> AsyncIterator[Setup]:
    """The layers as a guest has them, in front of ``app``."""
    environ = environ or {}
    routes = pipes.Table(table, environ)
    setup: Setup

    def told(fields: dict[str, Any]) -> None:
        setup.told.append(fields)

    meter = meters.Meter(told, routes.names, KEY, "salt")
    meter.prices = dict.fromkeys([("claude-opus-9-9", ""), ("claude-opus-9-9", "bedrock")])
    client = client or upstream.Client(environ)
    pipe = pipes.Pipe(
        app, routes, client, lambda event: setup.reports.append(event), key=KEY, hop_key=HOP_KEY
    )
    pipe.spill.take(spill or {})
    pipe.budget.take(budget or {})
    layers: Any = boundary.wrap(meter.inside(pipe), {"role": "main", "key": KEY}, setup_report, pipe.direct)
    config = uvicorn.Config(
        meter.outside(layers),
        http=http,
        lifespan="off",
        log_config=None,
        ws="none",
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    setup = Setup(sock.getsockname()[1], pipe, meter)
    running = asyncio.ensure_future(server.serve(sockets=[sock]))
    try:
        await until(lambda: server.started)
        yield setup
    finally:
        server.should_exit = True
        server.force_exit = True
        await running
        client.close()
        sock.close()


def setup_report(_event: dict[str, Any]) -> None:
    """The boundary's refusals: not looked at here."""


def anthropic(url: str, **more: Any) -> dict[str, Any]:
    return {"way": "anthropic", "base": url, "model": "", "provider": "anthropic", **more}


def run(scenario: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """One scenario in an event loop of its own, with nothing of it left afterwards."""

    async def bounded() -> Any:
        async with asyncio.timeout(3 * PATIENCE):
            try:
                return await scenario(*args)
            finally:
                # What was closed is gone a few turns later.
                for _ in range(4):
                    await asyncio.sleep(0)

    return asyncio.run(bounded())
