"""What the control API's verbs share: messages as bodies, errors as answers, followed logs as streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocd.errors import EX_DATAERR, EX_UNAVAILABLE, EX_USAGE, OcdError
from ocd.text import printable
from ocd.wire.messages import ErrorReply, Problem

#: bytes; the largest request is a launch with the user's own --settings in it
LARGEST_BODY = 2 * 1024 * 1024
#: seconds for a request's body to arrive: one that is cut off half-way must not stay
BODY_PATIENCE = 10.0
#: lines of a log that are sent in one piece
PIECE = 200
FOLLOW_QUEUE = 1000


def json_response(message: Any, status: int = 200) -> Response:
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
    codes = {"not-found": 404, "bad-request": 400, "too-large": 413, "version": 426}
    status = status or codes.get(error.code, 503 if error.exit_code == EX_UNAVAILABLE else 409)
    return json_response(ErrorReply(error=Problem.of(error)), status)


def guarded(call: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await call(request)
        except OcdError as error:
            return problem_response(error)

    return guarded


async def message_of(request: Request, kind: Any) -> Any:
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


def number(request: Request, name: str, default: float) -> float:
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


async def lines(first: list[str], follow: list[Callable[[str], None]] | None) -> AsyncIterator[str]:
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
            news = [await queue.get()]
            while not queue.empty():
                news.append(queue.get_nowait())
            yield "\n".join([*news, ""])
    finally:
        if follow is not None:
            follow.remove(take)


def stream(text: AsyncIterator[str]) -> Response:
    return StreamingResponse(text, media_type="application/x-ndjson")


class Bounded:
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
