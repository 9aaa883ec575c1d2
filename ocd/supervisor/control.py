"""The control API: one function a verb (``ocd/wire/messages.py`` has the table). HTTP/1.1 and JSON on a UNIX socket."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocd import __version__, paths
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.errors import EX_CONFIG, EX_DATAERR, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE, OcdError
from ocd.supervisor import configuration
from ocd.supervisor.launching import Launching
from ocd.text import printable
from ocd.wire.messages import ConfigReply, ErrorReply, Outcome, Problem, ReloadRequest, Version

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

#: bytes; the largest request is a launch with the user's own --settings in it
LARGEST_BODY = 2 * 1024 * 1024
#: seconds for a request's body to arrive: one that is cut off half-way must not stay
BODY_PATIENCE = 10.0
#: lines of a log that are sent in one piece
PIECE = 200
FOLLOW_QUEUE = 1000
#: seconds between two questions to the processes that serve, however often the status is looked at
ASK_PAUSE = 0.5


class Control:
    """Serves the API on the listener that the keeper holds."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.path = paths.control_socket(str(daemon.folders.runtime))
        self.launching = Launching(daemon)
        self.server: QuietServer | None = None
        self.task: asyncio.Task[None] | None = None
        self.opened = asyncio.Event()
        self.error = ""
        self.asked = 0.0
        self.app = _Bounded(Starlette(routes=self._routes()))

    # ---------------------------------------------------------------------------------------------- socket

    async def open(self) -> None:
        """Serve. Raises OcdError when the socket cannot be made."""
        if "control" in self.daemon.listeners:
            self.on_listening()
            self.check()
            return
        self.daemon.link.send("listen", name="control", path=self.path)
        await self.opened.wait()
        if self.error:
            raise OcdError(
                f"the control socket {self.path} cannot be made", self.error, exit_code=EX_SOFTWARE
            )

    def on_listening(self) -> None:
        self._serve(self.daemon.listeners["control"].dup())
        self.opened.set()

    def on_failed(self, error: str) -> None:
        self.error = error
        self.opened.set()

    def _serve(self, sock: Any) -> None:
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            backlog=1024,
        )
        self.server = QuietServer(config)
        self.task = asyncio.ensure_future(self.server.serve(sockets=[sock]))

    def check(self) -> None:
        """The socket's file may have been removed with its folder: then listen anew under the same name."""
        if not self.opened.is_set() or os.path.exists(self.path):
            return
        self.daemon.event("control-reopened", text=self.path)
        self.opened.clear()
        old, self.server = self.server, None
        if old is not None:
            old.end()
        self.daemon.close_listener("control")
        self.daemon.link.send("listen", name="control", path=self.path)

    async def close(self) -> None:
        if self.server is not None and self.task is not None:
            self.server.end()
            with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self.task, 3)

    # ---------------------------------------------------------------------------------------------- routes

    def _routes(self) -> list[Route]:
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/v1/version", self.version),
            ("GET", "/v1/status", self.status),
            ("POST", "/v1/launch", self.launching.launch),
            ("POST", "/v1/reload", self.reload),
            ("POST", "/v1/proxies/{name}/{verb}", self.proxy_verb),
            ("GET", "/v1/proxies/{name}/wait", self.wait),
            ("GET", "/v1/logs/{name}", self.logs),
            ("GET", "/v1/events", self.events),
            ("GET", "/v1/requests", self.requests),
            ("POST", "/v1/usage/write", self.write_usage),
            ("GET", "/v1/config", self.config),
            ("GET", "/metrics", self.metrics),
            ("POST", "/v1/shutdown", self.shutdown),
            ("POST", "/v1/reexec", self.reexec),
        ]
        return [Route(path, _guarded(call), methods=[method]) for method, path, call in table]

    async def version(self, _request: Request) -> Response:
        return _json(Version(version=__version__, pid=os.getpid(), litellm=self.daemon.litellm_version))

    async def status(self, _request: Request) -> Response:
        self._ask_members()
        return _json(self.daemon.status())

    def _ask_members(self) -> None:
        """Have who serves tell its numbers anew: whoever looks again soon sees what is in flight now."""
        now = time.monotonic()
        if now - self.asked < ASK_PAUSE:
            return
        self.asked = now
        for unit in self.daemon.units.values():
            for member in unit.state.members:
                channel = unit.by_generation.get(member.generation)
                if member.phase_is(core.Serving) and channel is not None and channel.has_room():
                    channel.send("status")

    async def reload(self, request: Request) -> Response:
        order = await _body(request, ReloadRequest)
        if order.proxy is not None:
            self._unit(order.proxy)
        if order.dry_run:
            return _json(await self.daemon.reload("dry run", order.proxy, dry_run=True))
        return _json(await self.daemon.reload_and_wait(order.proxy))

    async def proxy_verb(self, request: Request) -> Response:
        unit = self._unit(request.path_params["name"])
        verb = request.path_params["verb"]
        limit = self.daemon.settings.supervision.start_timeout * 2 + 30
        drain = (
            self.daemon.settings.supervision.drain_timeout + 2 * self.daemon.settings.supervision.stop_timeout
        )
        before = unit.state
        if not before.enabled and verb in ("start", "restart"):
            status = unit.status()
            raise OcdError(
                f"the {unit.name} proxy is switched off",
                status.reason,
                status.next_step,
                exit_code=EX_CONFIG,
                code="disabled",
            )
        if verb == "stop":
            unit.feed(transitions.Want(core.Wanted.STOPPED))
            done = await unit.wait(lambda p: not p.members or p.wanted is not core.Wanted.STOPPED, drain)
        elif verb in ("start", "restart"):
            if verb == "restart" and before.members:
                unit.feed(transitions.Restart())
            else:
                unit.feed(transitions.Want(core.Wanted.UP))
            done = await unit.wait(
                lambda p: core.settled(p) or core.state_of(p).hopeless or p.wanted is not core.Wanted.UP,
                limit,
            )
            done = done and core.settled(unit.state) and unit.state.wanted is core.Wanted.UP
        else:
            raise OcdError(
                f"there is no verb {verb!r}",
                "known are start, stop, restart",
                exit_code=EX_USAGE,
                code="not-found",
            )
        state = core.state_of(unit.state)
        status = unit.status()
        changed = before.members != unit.state.members
        outcome = Outcome(ok=done, changed=changed, reason="" if done else status.reason or f"it is {state}")
        outcome.proxies[unit.name] = state
        return _json(outcome)

    async def wait(self, request: Request) -> Response:
        unit = self._unit(request.path_params["name"])
        wanted = request.query_params.get("for", "ready")
        limit = _number(request, "timeout", 60.0)
        met = await unit.wait(lambda p: core.state_of(p) == wanted, limit)
        state = core.state_of(unit.state)
        reason = "" if met else f"after {limit:g} s it is {state}. {unit.status().reason}".strip()
        return _json(Outcome(ok=met, reason=reason, proxies={unit.name: state}))

    async def logs(self, request: Request) -> Response:
        name = request.path_params["name"]
        lines = int(_number(request, "lines", 100))
        log = self.daemon.log_file if name == "daemon" else self._unit(name).log
        follow = request.query_params.get("follow", "0") not in ("", "0", "false")
        return _stream(_lines(log.last(lines), log.listeners if follow else None))

    async def events(self, request: Request) -> Response:
        lines = int(_number(request, "lines", 100))
        follow = request.query_params.get("follow", "0") not in ("", "0", "false")
        log = self.daemon.history.log
        return _stream(_lines(log.last(lines), log.listeners if follow else None))

    async def requests(self, request: Request) -> Response:
        lines = int(_number(request, "lines", 100))
        follow = request.query_params.get("follow", "0") not in ("", "0", "false")
        exchanges = self.daemon.exchanges
        return _stream(_lines(exchanges.last(lines), exchanges.followers if follow else None))

    async def write_usage(self, _request: Request) -> Response:
        reason = await self.daemon.usage.write()
        return _json(Outcome(ok=not reason, reason=reason))

    async def metrics(self, _request: Request) -> Response:
        from ocd.supervisor import metrics, openmetrics

        return Response(metrics.exposition(self.daemon), headers={"content-type": openmetrics.CONTENT_TYPE})

    async def config(self, _request: Request) -> Response:
        d = self.daemon
        files = {"ocd": str(d.folders.config / "ocd.toml")}
        files |= {name: str(configuration.config_path(d.folders, d.settings, name)) for name in d.units}
        return _json(
            ConfigReply(
                folder=str(d.folders.config), files=files, settings=d.settings.model_dump(mode="json")
            )
        )

    async def shutdown(self, _request: Request) -> Response:
        self.daemon.start(self.daemon.shutdown())
        return _json(Outcome(ok=True, changed=True, reason="draining, then the daemon ends"))

    async def reexec(self, _request: Request) -> Response:
        asyncio.get_running_loop().call_later(0.1, self.daemon.reexec)
        return _json(Outcome(ok=True, changed=True, reason="the daemon replaces its code; the proxies go on"))

    def _unit(self, name: str) -> Any:
        unit = self.daemon.units.get(name)
        if unit is None:
            known = ", ".join(self.daemon.units)
            raise OcdError(
                f"there is no proxy {name!r}", f"there are {known}", exit_code=EX_USAGE, code="not-found"
            )
        return unit


# --------------------------------------------------------------------------------------------------- helpers


class QuietServer(uvicorn.Server):
    """Signals are the keeper's business, and nothing here needs uvicorn's ten looks a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.over = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self.over.set()

    async def main_loop(self) -> None:
        await self.over.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _json(message: Any, status: int = 200) -> Response:
    try:
        body = message.model_dump_json()
    except ValueError:
        # The last guard: what entered without being made printable breaks no answer.
        body = json.dumps(_whole(message.model_dump(mode="python")), default=str)
    return Response(body, status, media_type="application/json")


def _whole(value: Any) -> Any:
    """The same with every string printable."""
    if isinstance(value, str):
        return printable(value, len(value) * 10, lines=True)
    if isinstance(value, dict):
        return {_whole(k): _whole(v) for k, v in value.items()}
    return [_whole(v) for v in value] if isinstance(value, (list, tuple)) else value


def problem_response(error: OcdError, status: int = 0) -> Response:
    """An OcdError as the API answers it."""
    problem = Problem(
        code=error.code, what=error.what, why=error.why, next=error.next_step, exit=error.exit_code
    )
    codes = {"not-found": 404, "bad-request": 400, "too-large": 413, "version": 426}
    status = status or codes.get(error.code, 503 if error.exit_code == EX_UNAVAILABLE else 409)
    return _json(ErrorReply(error=problem), status)


def _guarded(call: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await call(request)
        except OcdError as error:
            return problem_response(error)

    return guarded


async def _body(request: Request, kind: Any) -> Any:
    """The request's body as a message. Raises OcdError for anything else."""
    raw = await read_body(request)
    try:
        return kind.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise OcdError(
            "the request is not understood",
            f"{place}: {first['msg']}" if place else first["msg"],
            "See docs/api.md for the message's form",
            exit_code=EX_DATAERR,
            code="bad-request",
        ) from None


async def read_body(request: Request) -> bytes:
    """The whole body, bounded in size and time."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > LARGEST_BODY:
                    raise OcdError(
                        "the request is too large",
                        f"more than {LARGEST_BODY} bytes",
                        exit_code=EX_DATAERR,
                        code="too-large",
                    )
                parts.append(part)
    except TimeoutError:
        raise OcdError(
            "the request is not complete",
            f"its body did not arrive within {BODY_PATIENCE:g} s",
            exit_code=EX_DATAERR,
            code="bad-request",
        ) from None
    return b"".join(parts)


def _number(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise OcdError(
            f"{name}={text!r} is no number between 0 and a million", exit_code=EX_USAGE, code="bad-request"
        )
    return value


async def _lines(first: list[str], follow: list[Callable[[str], None]] | None) -> AsyncIterator[str]:
    """The lines that are there; then, with ``follow``, those to come. A slow reader loses lines, nobody waits."""
    queue: asyncio.Queue[str] = asyncio.Queue(FOLLOW_QUEUE)

    def take(line: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            queue.put_nowait(line)

    if follow is not None:
        follow.append(take)
    try:
        # In large pieces: each send to a client that has gone is a warning in the log that it may be following.
        for start in range(0, len(first), PIECE):
            yield "\n".join([*first[start : start + PIECE], ""])
        while follow is not None:
            lines = [await queue.get()]
            while not queue.empty():
                lines.append(queue.get_nowait())
            yield "\n".join([*lines, ""])
    finally:
        if follow is not None:
            follow.remove(take)


def _stream(lines: AsyncIterator[str]) -> Response:
    return StreamingResponse(lines, media_type="application/x-ndjson")


class _Bounded:
    """The last guard: whatever goes wrong in a verb is an answer, not a stack trace to the client."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started:
                raise
            problem = Problem(code="internal", what="the daemon made a mistake", why=type(error).__name__)
            body = json.dumps({"error": problem.model_dump()})
            await JSONResponse(json.loads(body), 500)(scope, receive, send)
            raise
