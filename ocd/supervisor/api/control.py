"""The control API's socket: HTTP/1.1 and JSON on a UNIX socket that the keeper listens on."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from ocd import paths
from ocd.adapters.quiet_server import QuietServer
from ocd.errors import EX_SOFTWARE, OcdError
from ocd.supervisor.api.http import Bounded
from ocd.supervisor.supervision.listeners import Listeners


class Control:
    """Serves ``routes`` on the listener that the keeper holds; ``event`` records an event."""

    def __init__(
        self, runtime: str, routes: list[Route], listeners: Listeners, event: Callable[..., None]
    ) -> None:
        self.path = paths.control_socket(runtime)
        self._listeners = listeners
        self._event = event
        self._app = Bounded(Starlette(routes=routes))
        self._server: QuietServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._error = ""

    async def open(self) -> None:
        """Serve. Raises OcdError when the socket cannot be made."""
        if "control" in self._listeners.sockets:
            self.on_listening()
            self.check()
            return
        self._listeners.ask("control", path=self.path)
        await self._opened.wait()
        if self._error:
            raise OcdError(
                f"the control socket {self.path} cannot be made", self._error, exit_code=EX_SOFTWARE
            )

    def on_listening(self) -> None:
        """The keeper listens."""
        self._serve(self._listeners.sockets["control"].dup())
        self._opened.set()

    def on_failed(self, error: str) -> None:
        """The keeper cannot listen."""
        self._error = error
        self._opened.set()

    def _serve(self, sock: Any) -> None:
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            backlog=1024,
        )
        self._server = QuietServer(config)
        self._task = asyncio.ensure_future(self._server.serve(sockets=[sock]))

    def check(self) -> None:
        """The socket's file may have been removed with its folder: then listen again under the same name."""
        if not self._opened.is_set() or os.path.exists(self.path):
            return
        self._event("control-reopened", text=self.path)
        self._opened.clear()
        old, self._server = self._server, None
        if old is not None:
            old.end()
        self._listeners.close("control")
        self._listeners.ask("control", path=self.path)

    async def close(self) -> None:
        """Answer what is being asked, then end; at most 3 s."""
        if self._server is not None and self._task is not None:
            self._server.end()
            with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, 3)
