"""The HTTP side of ``ocd serve --team``: whose key is that, may they, and what did it come to. An ASGI application.

Open are ``POST /v1/messages`` and ``/v1/messages/count_tokens``, and what an engine asks (``/health/liveness``,
``/health/readiness``). The rest is 404. Bytes of requests and answers pass as they are; what belongs to one connection
and the personal key stay here.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge

from ocd.core.budget import to_units
from ocd.stack.prices import Price
from ocd.team.gate import Admitted, Gate, Unavailable
from ocd.team.proxy import Proxy
from ocd.team.store import Refused, hash_of

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LARGEST = 64 * 1024 * 1024
#: seconds until the meter must have told what a request cost that has been answered
FIGURES = 5.0
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
LIVE = ("/health/liveness", "/health/liveliness")
_ONE_CONNECTION = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade "
    b"proxy-connection expect http2-settings host content-length date server".split()
)
_KEYS = frozenset((b"authorization", b"x-api-key", b"x-litellm-api-key", b"cookie"))
#: fields of LiteLLM's that choose another model than ``model``
_OTHER_MODELS = frozenset(
    ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks", "models")
)
#: bytes of JSON a token, at least, and output bytes of a stream a token
_IN, _OUT = 3, 4
#: status, Anthropic's type; 401 would renew a login, 429 would be tried again (docs/decisions/0009)
_ANSWERS = {
    "key": (403, "permission_error"),
    "revoked": (403, "permission_error"),
    "ended": (403, "permission_error"),
    "model": (403, "permission_error"),
    "budget": (424, "invalid_request_error"),
    "credential": (400, "invalid_request_error"),
    "body": (400, "invalid_request_error"),
    "large": (413, "request_too_large"),
    "route": (404, "not_found_error"),
}


class Figures:
    """What Prometheus reads: people and models, never a key."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of = ("person", "model")
        self.requests = Counter(
            "ocd_team_requests", "Answered requests.", (*of, "status"), registry=self.registry
        )
        self.cost = Counter("ocd_team_cost_dollars", "List price in US dollars.", of, registry=self.registry)
        self.tokens = Counter("ocd_team_tokens", "Tokens.", (*of, "kind"), registry=self.registry)
        self.refused = Counter("ocd_team_refused", "Refused requests.", ("why",), registry=self.registry)
        self.open = Gauge("ocd_team_requests_open", "Requests being answered.", registry=self.registry)
        self.database = Gauge("ocd_team_database_up", "Whether the database answers.", registry=self.registry)
        self.queue = Gauge("ocd_team_queue", "What the database has not been told.", registry=self.registry)


class Front:
    """``proxy`` is asked, ``gate`` decides, ``tell(what, **fields)`` takes news for the log, ``known`` each client (a
    scope's) that has shown a good key."""

    def __init__(
        self,
        proxy: Proxy,
        gate: Gate,
        figures: Figures,
        tell: Callable[..., None],
        known: Callable[[Any], None] = lambda _client: None,
    ) -> None:
        self.proxy = proxy
        self.gate = gate
        self.figures = figures
        self.tell = tell
        self.known = known
        #: no new requests are wanted
        self.draining = False
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        timeout = httpx.Timeout(None, connect=5.0)
        # Below the proxy's own 5 s (uvicorn): a connection is not used in the moment in which it is closed.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0)
        self._client = httpx.AsyncClient(
            timeout=timeout, limits=limits, trust_env=False, follow_redirects=False
        )
        self.bookings: set[asyncio.Task[None]] = set()
        figures.open.set_function(lambda: len(gate.open))
        figures.database.set_function(lambda: float(gate.up))
        figures.queue.set_function(lambda: len(gate.queue))

    @property
    def ready(self) -> bool:
        return bool(self.proxy.port) and not self.draining and self.gate.known

    def on_request(self, fields: dict[str, Any]) -> None:
        """The meter's figures."""
        waiting = self._waiting.pop(str(fields.get("request", "")), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(fields)

    async def close(self) -> None:
        if self.bookings:
            await asyncio.wait(self.bookings, timeout=FIGURES + 1)
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD") and path in LIVE:
            return await _say(send, 200, {"status": "alive"})
        if method in ("GET", "HEAD") and path == "/health/readiness":
            return await _say(
                send, 200 if self.ready else 503, {"status": "ready" if self.ready else "not ready"}
            )
        try:
            if method != "POST" or path not in (MESSAGES, COUNT):
                raise Refused("route", "There is no such route here: POST /v1/messages is.")
            await self._answer(scope, receive, send)
        except Refused as refusal:
            self.figures.refused.labels(refusal.why).inc()
            status, kind = _ANSWERS[refusal.why]
            await _error(send, status, kind, str(refusal))
        except Unavailable:
            self.figures.refused.labels("database").inc()
            await _error(send, 503, "overloaded_error", "The team's server does not reach its database.")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        key_hash, headers = _take_key(scope["headers"])
        # Before the body is read: strangers cost no memory.
        await self.gate.look_up(key_hash, "")
        self.known(scope.get("client"))
        body = await _read(receive)
        if body is None:
            return
        asked = _asked(body)
        model = asked["model"]
        if not self.proxy.port:
            return await _error(send, 503, "overloaded_error", "The team's server is starting. Try again.")
        request = secrets.token_hex(16)
        headers += [
            (b"authorization", f"Bearer {self.proxy.key}".encode()),
            (b"x-ocd-request", request.encode()),
        ]
        query = scope.get("query_string") or b""
        url = httpx.URL(f"http://127.0.0.1:{self.proxy.port}{scope['path']}", query=query or None)
        # Not the client's build_request: it would ask for encodings that whoever asks us may not understand.
        outgoing = httpx.Request("POST", url, headers=headers, content=body)
        if scope["path"] == COUNT:
            await self.gate.look_up(key_hash, model)
            await self._pass(outgoing, receive, send)
            return
        price = self.proxy.prices.get(model)
        put, most = _estimate(asked, len(body), price)
        admitted = await self.gate.admit(request, key_hash, model, put + most)
        told = self._waiting[request] = asyncio.get_running_loop().create_future()
        passed = Passed()
        try:
            await self._pass(outgoing, receive, send, passed)
        finally:
            written = to_units(passed.bytes / _OUT * price.output) if price else 0
            unknown = put + min(most, written) if 0 < passed.status < 400 else 0
            task = asyncio.ensure_future(self._book(admitted, told, passed, unknown))
            self.bookings.add(task)
            task.add_done_callback(self.bookings.discard)

    async def _book(
        self, admitted: Admitted, told: "asyncio.Future[dict[str, Any]]", passed: "Passed", unknown: int
    ) -> None:
        """Book what the meter tells; ``unknown`` units where it cannot tell (the client left before the figures came,
        or the proxy was killed)."""
        fields: dict[str, Any] = {}
        if passed.status:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIGURES):
                    fields = await told
        self._waiting.pop(admitted.id, None)
        cost = fields.get("cost")
        units = to_units(cost) if isinstance(cost, int | float) and 0 <= cost < 1e6 else unknown
        who = (admitted.name, admitted.model)
        self.figures.requests.labels(*who, str(passed.status)).inc()
        self.figures.cost.labels(*who).inc(units / 1e8)
        for kind in ("input", "output", "cache_read", "cache_write"):
            self.figures.tokens.labels(*who, kind).inc(int(fields.get(f"{kind}_tokens") or 0))
        self.tell(
            "request",
            request=admitted.id,
            person=admitted.name,
            model=admitted.model,
            status=passed.status,
            units=units,
            trouble=fields.get("trouble", ""),
            seconds=round(time.time() - admitted.at, 3),
        )
        await self.gate.book(admitted, units)

    async def _pass(
        self, outgoing: httpx.Request, receive: Receive, send: Send, passed: "Passed | None" = None
    ) -> None:
        """Ask the proxy and hand its answer on, until it ends or the client has gone."""
        passed = passed or Passed()
        work = asyncio.ensure_future(self._stream(outgoing, send, passed))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            if not gone.done():
                raise
        except httpx.HTTPError as error:
            self.tell("proxy-broke", why=type(error).__name__)
            if not passed.status:
                await _error(send, 503, "overloaded_error", "The team's server was interrupted. Try again.")

    async def _stream(self, outgoing: httpx.Request, send: Send, passed: "Passed") -> None:
        answer = await self._client.send(outgoing, stream=True)
        try:
            passed.status = answer.status_code
            headers = [(name.lower(), value) for name, value in answer.headers.raw]
            kept = [
                (name, value)
                for name, value in headers
                if name not in _ONE_CONNECTION or name == b"content-length"
            ]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for piece in answer.aiter_raw():
                passed.bytes += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


class Passed:
    """What went to the client: the status (0: nothing yet) and how many bytes of the body."""

    def __init__(self) -> None:
        self.status = 0
        self.bytes = 0


def _take_key(headers: list[tuple[bytes, bytes]]) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The hash of the personal key, and the headers that go on. Raises Refused; no value of a header is told."""
    keys = []
    kept = []
    dropped = {b"x-ocd-request", b"x-ocd-session"}
    for name, value in headers:
        if name == b"connection":
            dropped |= {one.strip().lower() for one in value.split(b",")}
    for name, value in headers:
        if b"sk-ant-" in value:
            raise Refused("credential", "A login of Anthropic's has no business here; it was not passed on.")
        if name == b"authorization":
            keys.append(value[7:].strip() if value[:7].lower() == b"bearer " else b"")
        elif name not in _KEYS and name not in _ONE_CONNECTION and name not in dropped:
            kept.append((name, value))
    if len(keys) != 1 or not keys[0]:
        raise Refused("key", "The request has no key: `Authorization: Bearer KEY` belongs there.")
    return hash_of(keys[0].decode("utf-8", "surrogateescape")), kept


async def _read(receive: Receive) -> bytes | None:
    """The body; None when the client left. Raises Refused."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > LARGEST:
            raise Refused("large", f"The request is larger than {LARGEST >> 20} MiB.")
        if not message.get("more_body"):
            return b"".join(pieces)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _asked(body: bytes) -> dict[str, Any]:
    """The request as JSON, with a model's name. Raises Refused."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get("model"), str) or not asked["model"]:
        raise Refused("body", "The request is no JSON object with a model.")
    if named := sorted(_OTHER_MODELS & asked.keys()):
        raise Refused("body", f"{named[0]} in a request is not taken here.")
    return asked


def _estimate(asked: dict[str, Any], size: int, price: Price | None) -> tuple[int, int]:
    """Units that the request's input and its longest answer may cost; 0 where nobody knows the price."""
    if price is None:
        return 0, 0
    most = asked.get("max_tokens")
    tokens = most if isinstance(most, int) and 0 <= most <= 10**6 else 4096
    return to_units(size / _IN * max(price.input, price.cache_write)), to_units(tokens * price.output)


async def _error(send: Send, status: int, kind: str, text: str) -> None:
    await _say(send, status, {"type": "error", "error": {"type": kind, "message": text}})


async def _say(send: Send, status: int, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
