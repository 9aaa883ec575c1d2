"""The page's server: a loopback port of its own, open while somebody looks.

It runs in the process of ``occtl dashboard``; the supervisor has no part in it. What it shows and does is the control
API's (``asking``) and ``occtl``'s (``programs``); what it lets through is a closed list. ``access`` says who may ask.
"""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from ocd import atomic
from ocd.adapters import peer
from ocd.adapters.quiet_server import QuietServer
from ocd.dashboard.access import HEADER, LINK_SECONDS, Access, cookie_name, cookie_of, refusal
from ocd.dashboard.asking import Api, Gone, Message, Scope
from ocd.dashboard.live import MOST_VIEWERS, Live
from ocd.dashboard.programs import LOOKS, SWITCHES, Programs
from ocd.dashboard.status import Look

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HOST = "127.0.0.1"
#: seconds without anybody who looks until the port is closed
LINGER = 30.0
#: seconds between two looks whether anybody does
TURN = 1.0
#: bytes and seconds of a request's body
LARGEST_BODY, BODY_PATIENCE = 4096, 10.0
#: lines of a log that are asked for at once
MOST_LINES = 1000
ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/vendor/uPlot.iife.min.js": ("vendor/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/vendor/uPlot.min.css": ("vendor/uPlot.min.css", "text/css; charset=utf-8"),
}
#: what is needed to open the page; there is nothing in it
OPEN_SCRIPT = "/open.js"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
]
_LOGS = ("main", "bedrock", "daemon")


class Taken(Exception):
    """The port cannot be had."""


class Dashboard:
    """``api`` is the control API, ``usage`` the file with the figures; ``folder`` is the runtime folder (0700), in
    which the file that opens the page stands. Use it in an event loop: ``open``, ``link``, ``wait``."""

    def __init__(
        self, api: Api, usage: Path, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.api = api
        self.folder = folder
        self.clock = clock
        self.access = Access(clock)
        self.look = Look(api)
        self.live = Live(api, self.look)
        self.programs = Programs(usage)
        self.port = 0
        #: whether anybody came in
        self.visited = False
        self._file: Path | None = None
        self._server: QuietServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_look = 0.0

    # ------------------------------------------------------------------------------------------------ the port

    def open(self, port: int = 0) -> None:
        """Listen on ``port`` of 127.0.0.1; 0: any that is free. Raises Taken."""
        # With its protocol named: without, asyncio leaves Nagle's algorithm on, which costs 40 ms an answer.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
            sock.listen(64)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise Taken(f"port {port} of {HOST}: {error.strerror or error}") from None
        self.port = sock.getsockname()[1]
        config = uvicorn.Config(
            self.answer,
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            limit_concurrency=64,
            timeout_keep_alive=75,
        )
        self._server = QuietServer(config)
        self._task = asyncio.ensure_future(self._server.serve(sockets=[sock]))
        self._last_look = self.clock()

    def link(self) -> str:
        """An address that opens the page once, within a minute."""
        return f"http://{HOST}:{self.port}/open?once={self.access.link()}"

    def file(self) -> Path:
        """A file (0600) that opens the page once, within a minute; it goes with its use. Raises OSError."""
        self._file = self.folder / f"dashboard-{self.port}.html"
        atomic.replace(self._file, opener(self.port, self.access.link()), durable=False)
        return self._file

    async def wait(self) -> None:
        """Until nobody has looked for half a minute, or ``close``; then the port is closed."""
        while self._server is not None:
            if self.live.viewers or self.access.waiting():
                self._last_look = self.clock()
            elif self.clock() - self._last_look > LINGER:
                self.close()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN):
                    await self._server.over.wait()
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, 3)

    def close(self) -> None:
        """Close the port; nobody may see anything any more."""
        self._spent()
        self.access.forget()
        self.live.close()
        if self._server is not None:
            self._server.end()
            self._server = None

    def _spent(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
            self._file = None

    # ------------------------------------------------------------------------------------------------- answers

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole application."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", HEADER):
                return await _say(send, 400, b"a header twice\n")
            headers[name] = b"; ".join([headers[name], value]) if name in headers else value
        method, path = scope["method"], scope["path"]
        why = refusal(method, headers, self.port, opening=path == "/open") or self._foreign(scope)
        if why:
            return await _say(send, 403, f"{why}\n".encode())
        if path == "/open" and method in ("GET", "POST"):
            return await self._visit(scope, receive, send)
        if path == OPEN_SCRIPT and method == "GET":
            return await self._asset("open.js", "text/javascript; charset=utf-8", send)
        cookie = cookie_of(headers, self.port)
        if path in ASSETS and method in ("GET", "HEAD"):
            if not self.access.may_load(cookie):
                return await _say(send, 403, _STALE, "text/html; charset=utf-8")
            return await self._asset(*ASSETS[path], send)
        if not self.access.may_ask(cookie, headers.get(HEADER, b"").decode("latin-1")):
            return await _say(send, 403, b"run `occtl dashboard` again\n")
        self._last_look = self.clock()
        query = {
            name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()
        }
        if path == "/api/live" and method == "GET":
            return await self._live(receive, send)
        try:
            if method == "GET":
                return await self._get(path, query, send)
            if method == "POST" and path == "/api/act":
                return await self._act(await _body(receive), send)
        except Gone as error:
            return await _json(send, 503, {"error": {"what": str(error)}})
        return await _say(send, 404, b"there is nothing\n")

    def _foreign(self, scope: Scope) -> str:
        """Why whoever is at the other end is refused: another user, where the kernel tells; root may do all anyway."""
        client = scope.get("client")
        owner = peer.uid(self.port, client[1]) if client else None
        return "" if owner in (None, 0, os.getuid()) else "this page is another user's"

    async def _visit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A link: make its bearer a visitor. The answer has the page's word, and the cookie beside it."""
        raw = scope["query_string"] if scope["method"] == "GET" else await _body(receive)
        word = parse_qs(raw.decode("latin-1")).get("once", [""])[-1]
        visitor = self.access.redeem(word)
        if visitor is None:
            return await _say(send, 403, _STALE, "text/html; charset=utf-8")
        self.visited = True
        self._spent()
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>ocd</title>"
            f'<meta name=ocd-page content="{visitor.word}"><script src="{OPEN_SCRIPT}"></script>'
            "<p>Opening the dashboard…</p></html>\n"
        )
        cookie = f"{cookie_name(self.port)}={visitor.cookie}; Path=/; HttpOnly; SameSite=Strict"
        await _say(send, 200, page.encode(), "text/html; charset=utf-8", [(b"set-cookie", cookie.encode())])

    async def _asset(self, name: str, kind: str, send: Send) -> None:
        body = resources.files("ocd.dashboard").joinpath("assets", *name.split("/")).read_bytes()
        await _say(send, 200, body, kind)

    async def _get(self, path: str, query: dict[str, str], send: Send) -> None:
        lines = query.get("lines", "200")
        lines = lines if lines.isdigit() and int(lines) <= MOST_LINES else str(MOST_LINES)
        ways = {
            "/api/requests": ("/v1/requests", f"lines={lines}"),
            "/api/events": ("/v1/events", f"lines={lines}"),
            **{f"/api/logs/{name}": (f"/v1/logs/{name}", f"lines={lines}") for name in _LOGS},
        }
        if path == "/api/status":
            return await _json(send, 200, await self.look.status())
        if path in ways:
            status, body = await self.api.ask("GET", *ways[path])
            return await _say(send, status, body, "application/json")
        if path == "/api/usage":
            # What is not in the file yet belongs to it; the file is there without a daemon, too.
            with contextlib.suppress(Gone):
                await self.api.ask("POST", "/v1/usage/write")
            keys = [key for key in query.get("by", "").split(",") if key]
            return await _json(send, *await self.programs.figures(keys, query.get("since", "")))
        name = path.removeprefix("/api/")
        if name in LOOKS:
            return await _json(send, *await self.programs.look(name))
        return await _say(send, 404, b"there is nothing\n")

    async def _act(self, body: bytes, send: Send) -> None:
        """``{"verb": "reload" | "restart" | "spill-on" | "spill-off", "proxy": NAME}``."""
        try:
            order = json.loads(body)
            verb, proxy = str(order["verb"]), str(order.get("proxy") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            return await _say(send, 400, b"the order is not understood\n")
        if verb in SWITCHES and not proxy:
            return await _json(send, *await self.programs.switch(verb))
        if verb == "reload" and not proxy:
            status, said = await self.api.ask("POST", "/v1/reload", body=b"{}")
        elif verb == "restart" and proxy in ("main", "bedrock"):
            status, said = await self.api.ask("POST", f"/v1/proxies/{proxy}/restart")
        else:
            return await _say(send, 400, b"there is no such verb\n")
        return await _say(send, status, said, "application/json")

    async def _live(self, receive: Receive, send: Send) -> None:
        if len(self.live.viewers) >= MOST_VIEWERS:
            return await _say(send, 503, b"too many look at once\n")
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *SAFE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        passing = asyncio.ensure_future(self._pass(send))
        leaving = asyncio.ensure_future(_left(receive))
        ending = asyncio.ensure_future(self._server.over.wait() if self._server else asyncio.sleep(0))
        tasks = {passing, leaving, ending}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, send: Send) -> None:
        async with contextlib.aclosing(self.live.events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})


_STALE = (
    b"<!doctype html><html lang=en><meta charset=utf-8><title>ocd</title><p>This link was used already, or is too old. "
    b"Run <code>occtl dashboard</code> again.</p></html>\n"
)


def opener(port: int, word: str) -> str:
    """A page that a browser opens from the disk (0600): the word is in no command line and in no address."""
    seconds = int(LINK_SECONDS)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>ocd</title>"
        "<meta name=referrer content=no-referrer>"
        f'<form method=post action="http://{HOST}:{port}/open"><input type=hidden name=once value="{word}">'
        f"<button>Open the dashboard</button> (within {seconds} seconds)</form>"
        "<script>document.forms[0].submit()</script></html>\n"
    )


async def _left(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


async def _body(receive: Receive) -> bytes:
    """A request's body, bounded in size and time; what is larger or slower is nothing."""
    body = b""
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            while True:
                message: Message = await receive()
                if message["type"] != "http.request":
                    return b""
                body += bytes(message.get("body", b""))
                if len(body) > LARGEST_BODY:
                    return b""
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        return b""


async def _json(send: Send, status: int, said: Any) -> None:
    await _say(send, status, json.dumps(said).encode(), "application/json")


async def _say(
    send: Send,
    status: int,
    body: bytes,
    kind: str = "text/plain; charset=utf-8",
    more: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        *SAFE,
        *(more or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    with contextlib.suppress(OSError):
        await send({"type": "http.response.body", "body": body, "more_body": False})
