"""``GET /metrics`` on a loopback port, for Prometheus, where ``[metrics] port`` asks for one."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import uvicorn
from starlette.types import Receive, Scope, Send

from ocd.adapters import ports
from ocd.adapters.quiet_server import QuietServer
from ocd.core import state as core
from ocd.errors import EX_CONFIG
from ocd.supervisor.observation.metrics import CONTENT_TYPE
from ocd.wire.messages import Problem

HOST = "127.0.0.1"
_OUR_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Exporter:
    """``exposition`` says the figures as text. A port that somebody else has is a problem of ours alone, and looked at
    again."""

    def __init__(self, exposition: Callable[[], str], problems: dict[str, Problem]) -> None:
        self._exposition = exposition
        self._problems = problems
        self.port = 0
        self.server: QuietServer | None = None
        self.task: asyncio.Task[None] | None = None

    def follow(self, wanted: int) -> None:
        """Serve on that port (0: none); called when the setting may have changed, and now and then."""
        if wanted == self.port and (self.server is not None or not wanted):
            return
        self.close()
        if wanted != self.port:
            self._problems.pop("metrics", None)
        self.port = wanted
        if not wanted:
            return
        # With its protocol named: without, asyncio leaves Nagle's algorithm on, which costs 40 ms an answer.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, wanted))
            sock.listen(16)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            if "metrics" not in self._problems:
                self._problems["metrics"] = self._taken(wanted, error)
            return
        self._problems.pop("metrics", None)
        self._serve(sock)

    def _taken(self, port: int, error: OSError) -> Problem:
        holder = ports.holder(port)
        why = (
            f"it is taken: {core.describe_holder(holder)}"
            if holder is not None
            else error.strerror or str(error)
        )
        return Problem(
            code="metrics-port",
            what=f"metrics are not served on port {port}",
            why=why,
            next="Choose another port under [metrics] in ocd.toml, or end that program; `occtl metrics` works",
            exit=EX_CONFIG,
        )

    def _serve(self, sock: socket.socket) -> None:
        config = uvicorn.Config(
            self.answer,
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            limit_concurrency=32,
            timeout_keep_alive=75,
        )
        self.server = QuietServer(config)
        self.task = asyncio.ensure_future(self.server.serve(sockets=[sock]))

    def close(self) -> None:
        """Stop serving; open requests are answered."""
        if self.server is not None:
            self.server.end()
        self.server = None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole application: one page, for this machine."""
        if scope["type"] != "http":
            return
        status, kind, body = self._answer(scope)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": body})

    def _answer(self, scope: Scope) -> tuple[int, str, bytes]:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        if not is_local(host.decode("latin-1")):
            # A web page whose name was made to lead here (DNS rebinding).
            return 403, "text/plain", b"only for this machine\n"
        if scope["path"] not in ("/metrics", "/"):
            return 404, "text/plain", b"there is only /metrics\n"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "text/plain", b"GET only\n"
        return 200, CONTENT_TYPE, self._exposition().encode()


def is_local(host: str) -> bool:
    """Whether a Host header names this machine; none at all does (HTTP/1.0)."""
    if not host:
        return True
    try:
        return (urlsplit(f"//{host}").hostname or "") in _OUR_NAMES
    except ValueError:
        return False
