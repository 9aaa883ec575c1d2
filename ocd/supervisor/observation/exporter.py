"""``GET /metrics`` on a loopback port, for Prometheus, where ``[metrics] port`` asks for one."""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
from starlette.types import Receive, Scope, Send

from ocd.adapters import ports
from ocd.core import state as core
from ocd.errors import EX_CONFIG
from ocd.supervisor.observation import metrics
from ocd.supervisor.observation.openmetrics import CONTENT_TYPE
from ocd.wire.messages import Problem

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

HOST = "127.0.0.1"
_OUR_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Exporter:
    """Follows the setting; a port that somebody else has is a problem of ours alone, and looked at again."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.port = 0
        self.server: uvicorn.Server | None = None
        self.task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Serve on the port that the settings name now; called when they may have changed, and now and then."""
        wanted = self.daemon.settings.metrics.port
        if wanted == self.port and (self.server is not None or not wanted):
            return
        self.close()
        if wanted != self.port:
            self.daemon.problems.pop("metrics", None)
        self.port = wanted
        if not wanted:
            return
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, wanted))
            sock.listen(16)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            if "metrics" not in self.daemon.problems:
                self.daemon.problems["metrics"] = self._taken(wanted, error)
            return
        self.daemon.problems.pop("metrics", None)
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
        from ocd.supervisor.api.control import QuietServer

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
        from ocd.supervisor.api.control import QuietServer

        if isinstance(self.server, QuietServer):
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
        return 200, CONTENT_TYPE, metrics.exposition(self.daemon).encode()


def is_local(host: str) -> bool:
    """Whether a Host header names this machine; none at all does (HTTP/1.0)."""
    if not host:
        return True
    try:
        return (urlsplit(f"//{host}").hostname or "") in _OUR_NAMES
    except ValueError:
        return False
