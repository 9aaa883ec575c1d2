"""The way of a request of ``/v1/messages``: bytes to Anthropic, bytes to the bedrock proxy, or LiteLLM.

An ASGI layer between the boundary and LiteLLM. The table of routes is computed outside (``ocd/config/pipe.py``) from
the user's plain LiteLLM file and comes with the boot message; here nothing of that file is read.

*To Anthropic*, when the group's route is and the request carries the client's own login: path, query, headers and body
go up as they came, but for what belongs to one connection (``_HOP_BY_HOP``), our own headers and our own key; status,
headers and bytes come back as they come. Nothing else is looked at, so nothing can be missing from a list.

*To the bedrock proxy*, when the route leads there: to its own ``/v1/messages`` with its own key, and of the headers
only what ``_TO_HOP`` names: no credential of the client's can be among them.

*To LiteLLM* everything else.

Fallbacks and spill are decided here, before the first byte: another group answers when an upstream is overloaded,
limits, fails or cannot be reached (``due``), and never because a login or a request was refused. When nobody answers
well, the client gets the first upstream's own answer.

A client that goes away ends its request upstream at once; an upstream that breaks off in mid-answer ends the client's
connection without the end that the framing promises, as if the client had been connected to it.

Messages of the supervisor over the guest's control socket, and the ``spill`` of the boot message::

    {"op": "spill", "groups": {NAME: TARGET}, "until": SECONDS, "why": TEXT}

Requests whose model (as asked for; wildcards may stand in NAME) is NAME go to the model group TARGET first, until the
given time (seconds since 1970; 0 or missing: until the next message). Without ``groups``, or with none, nothing spills.
"""

import asyncio
import contextlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

from . import model_field
from .meter import EXCHANGE, TROUBLE, UPSTREAM, Exchange, classify
from .upstream import Client, Origin, Response, UpstreamError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Report = Callable[[dict[str, Any]], None]
Headers = list[tuple[bytes, bytes]]

MESSAGES = "/v1/messages"
PATHS = frozenset({MESSAGES, f"{MESSAGES}/count_tokens"})
#: requests that LiteLLM's router might move to another group by itself
ROUTED = frozenset(
    prefix + path
    for prefix in ("", "/v1")
    for path in ("/chat/completions", "/completions", "/responses", "/embeddings")
)
ANTHROPIC = "https://api.anthropic.com"
ENVIRON = "os.environ/"
#: where the decision about a request stands between the boundary's look at it and its answer
_DECIDED = "ocd.decided"
#: bytes of a failed answer that is kept in case nobody does better
KEPT_ERROR = 1024 * 1024
#: model groups that are tried for one request
MOST_TRIES = 6

#: what belongs to one connection (RFC 9110, section 7.6.1; RFC 9112), or is written anew for the next one
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_UP = _HOP_BY_HOP | {b"host", b"content-length", b"expect", b"http2-settings"}
_OURS = (b"x-litellm-", b"x-ocd-")
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
#: what the bedrock proxy is told of a request: all of it describes the request, nothing of it the user
_TO_HOP = frozenset(
    {
        *(b"accept", b"accept-language", b"anthropic-version", b"content-type", b"user-agent", b"x-app"),
        *(b"idempotency-key", b"traceparent", b"tracestate"),
    }
)
_TO_HOP_STARTS = (b"x-claude-code-", b"x-stainless-")
_SECRET = b"sk-ant-"
#: LiteLLM's own sign of an answer that another group gave
_MOVED = (b"x-litellm-attempted-fallbacks", b"1")

#: for whoever fails: an answer that Claude Code tries again after (GATEWAY: 5xx), and one that it does not
_ERRORS = {
    "dns": (503, "api_error", True),
    "connect": (503, "api_error", True),
    "timeout": (504, "timeout_error", True),
    "proxy": (503, "api_error", True),
    "busy": (529, "overloaded_error", True),
    "lost": (502, "api_error", True),
    "nonsense": (502, "api_error", True),
    "tls": (502, "api_error", True),
    "certificate": (502, "api_error", False),
}


class Route(NamedTuple):
    """``way``: anthropic, hop or litellm; ``model``: what to ask for there; ``group``: LiteLLM's name for it."""

    group: str
    way: str
    origin: Origin | None
    model: str
    timeout: float | None


class Try(NamedTuple):
    """One group to ask, and why it is asked instead of the one that was wanted (empty: it is that one)."""

    route: Route
    why: str = ""


class Gone(Exception):
    """The client went away."""


class Kept(NamedTuple):
    """A failed answer, whole, and the exchange's word for it."""

    status: int
    headers: Headers
    body: bytes
    failure: str
    upstream: str


def due(status: int) -> bool:
    """Whether another group may answer instead of one that answered so: overload, a limit, the server's own fault."""
    return status >= 500 or status in (408, 429)


class Table:
    """The routes of ``spec["pipe"]``. An address that cannot be used makes its route LiteLLM's; never raises."""

    def __init__(self, table: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.aliases: dict[str, str] = dict(table.get("aliases") or {})
        self.entries: dict[str, Mapping[str, Any]] = dict(table.get("groups") or {})
        self.patterns = [
            (re.compile("(.*)".join(map(re.escape, name.split("*")))), name)
            for name in self.entries
            if "*" in name
        ]
        # LiteLLM asks the most specific pattern first.
        self.patterns.sort(key=lambda one: -len(one[1]))
        self.fallbacks: dict[str, list[str]] = dict(table.get("fallbacks") or {})
        self.routes: dict[str, Route] = {}
        self.origins: dict[str, Origin | None] = {}

    def entry(self, name: str) -> tuple[str, str]:
        """The group that serves a name, and what its wildcard stands for; an empty group: none does."""
        name = self.aliases.get(name, name)
        if name in self.entries and "*" not in name:
            return name, ""
        for pattern, group in self.patterns:
            if found := pattern.fullmatch(name):
                return group, found[1]
        return "", ""

    def find(self, name: str) -> Route | None:
        """The route for a name that a client asked for; None: LiteLLM knows better."""
        route = self.routes.get(name)
        if route is None:
            group, filling = self.entry(name)
            if not group:
                return None
            entry = self.entries[group]
            model = str(entry.get("model") or "").replace("*", filling, 1)
            way = str(entry.get("way"))
            origin = None
            if way == "hop":
                origin = self.origin(self.hop())
            elif way == "anthropic":
                origin = self.origin(str(entry.get("base") or ANTHROPIC))
            way = way if origin is not None else "litellm"
            timeout = entry.get("timeout")
            route = Route(
                self.aliases.get(name, name) if "*" in group else group,
                way,
                origin,
                model or name,
                float(timeout) if timeout else None,
            )
            if len(self.routes) < 1000:
                self.routes[name] = route
        return route

    def hop(self) -> str:
        """The bedrock proxy's address: its private socket where we are told of one, else its port."""
        path = self.environ.get("OCD_BEDROCK_SOCKET", "")
        return f"unix:{path}" if path else self.environ.get("OCD_BEDROCK_URL", "").removesuffix("/v1")

    def origin(self, base: str) -> Origin | None:
        if base.startswith(ENVIRON):
            base = self.environ.get(base.removeprefix(ENVIRON), "")
        if base not in self.origins:
            try:
                plain = base.rstrip("/").removesuffix(MESSAGES) if "://" in base else base
                self.origins[base] = Origin.parse(plain)
            except ValueError:
                self.origins[base] = None
        return self.origins[base]

    def chain(self, group: str, asked: str) -> list[str]:
        """The groups that may answer instead, in LiteLLM's order: a target's own come right behind it."""
        found: list[str] = []
        seen = {group, asked}

        def follow(name: str) -> None:
            for target in self.targets(name):
                if target not in seen and len(found) < MOST_TRIES:
                    seen.add(target)
                    found.append(target)
                    follow(target)

        follow(asked if asked in self.fallbacks else group)
        return found

    def targets(self, name: str) -> list[str]:
        """A group's own list, else that of the longest pattern that matches it, else that of all others. A pattern that
        matches a target of its own list does not move that target."""
        if name in self.fallbacks:
            return self.fallbacks[name]
        best = ""
        for pattern, listed in self.fallbacks.items():
            if (
                len(best) < len(pattern) > 1
                and "*" in pattern
                and name not in listed
                and _matches(pattern, name)
            ):
                best = pattern
        return self.fallbacks.get(best or "*", [])

    def names(self, asked: str) -> dict[str, str]:
        """What the configuration says of the upstream of a group that LiteLLM routes; for the meter."""
        group, filling = self.entry(asked)
        entry = self.entries.get(group, {})
        model = str(entry.get("asks") or "").replace("*", filling, 1)
        return {
            "provider": str(entry.get("provider") or ""),
            "host": str(entry.get("host") or ""),
            "model": model,
        }


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


class Spill:
    """Which groups go elsewhere first, and until when."""

    def __init__(self) -> None:
        self.groups: dict[str, str] = {}
        self.until = 0.0
        self.why = ""

    def take(self, message: Mapping[str, Any]) -> None:
        groups = message.get("groups")
        self.groups = {str(k): str(v) for k, v in groups.items()} if isinstance(groups, dict) else {}
        until = message.get("until")
        self.until = float(until) if isinstance(until, int | float) else 0.0
        self.why = str(message.get("why") or "the plan's limit")[:200]

    def target(self, asked: str, group: str) -> str:
        if not self.groups:
            return ""
        if self.until and time.time() > self.until:
            self.groups = {}
            return ""
        for name in (asked, group):
            if name in self.groups:
                return self.groups[name]
        for name, target in self.groups.items():
            if "*" in name and _matches(name, asked):
                return target
        return ""


class Pipe:
    """``app``: LiteLLM, and what stands before it. ``table``: ``spec["pipe"]``; ``key``: the main proxy's own key,
    ``hop_key``: the bedrock proxy's. ``report`` gets ``{"kind": "fallback", …}`` for each fallback that is taken."""

    def __init__(
        self,
        app: App,
        table: Table,
        client: Client,
        report: Report,
        *,
        key: str = "",
        hop_key: str = "",
    ) -> None:
        self.app = app
        self.table = table
        self.client = client
        self.report = report
        self.spill = Spill()
        self.key = key.encode()
        self.hop_key = hop_key.encode()

    def prepare(self) -> None:
        """Read the certificates now, so that no request waits for that. A mistake in them is told to who asks."""
        if any(entry.get("way") == "anthropic" for entry in self.table.entries.values()):
            with contextlib.suppress(UpstreamError):
                self.client.context()

    def direct(self, scope: Scope, body: bytes) -> bool:
        """Whether a request goes to Anthropic as it is, or to the other proxy, whose own boundary looks at it: then
        nothing in its body is an order to the LiteLLM of this process."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            return False
        asked = model_field.first(body)
        route = self.table.find(asked) if asked else None
        if route is None or route.way == "litellm":
            return False
        request = _Request(self, scope, _nobody, _nobody, body, asked)
        request.decided = request.tries(route)
        if any(one.route.way == "litellm" for one in request.decided):
            return False
        scope[_DECIDED] = request
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, method = scope["path"], scope["method"]
        if path == "/api/hello" and method in ("GET", "HEAD"):
            return await _say(send, 200, b"{}", head=method == "HEAD")
        if method != "POST" or not self.table.entries:
            return await self.app(scope, receive, send)
        if path not in PATHS and not (self.table.fallbacks and path in ROUTED):
            return await self.app(scope, receive, send)
        body = await _body(receive)
        if body is None:
            return None
        known: _Request | None = scope.pop(_DECIDED, None)
        if known is not None and known.body is body:
            known.receive, known.send = receive, send
            return await known.run(known.decided)
        asked = model_field.first(body)
        route = self.table.find(asked)
        if route is None or (route.way == "litellm" and not self.table.fallbacks):
            return await self.app(scope, _replay(body, receive), send)
        request = _Request(self, scope, receive, send, body, asked)
        tries = request.tries(route, path not in PATHS)
        if len(tries) == 1 and tries[0].route.way == "litellm":
            return await self.app(
                scope, _replay(_no_fallbacks(body) if self.table.fallbacks else body, receive), send
            )
        await request.run(tries)
        return None


class _Request:
    """One request on its way."""

    def __init__(
        self, pipe: Pipe, scope: Scope, receive: Receive, send: Send, body: bytes, asked: str
    ) -> None:
        self.pipe = pipe
        self.scope = scope
        self.receive = receive
        self.send = send
        self.body = body
        self.asked = asked
        self.exchange: Exchange = scope.get(EXCHANGE) or Exchange(scope["path"])
        self.exchange.model = asked[:200]
        self.gone = False
        self.done = False
        self.begun = False
        self.watcher: asyncio.Task[None] | None = None
        #: what ``direct`` decided for this very request
        self.decided: list[Try] = []

    def tries(self, route: Route, translated: bool = False) -> list[Try]:
        """Whom to ask, in order. ``translated``: it is no request of the Messages API, so only LiteLLM can be asked."""
        pipe = self.pipe
        found = [Try(route)]
        if not translated and pipe.spill.groups and (target := pipe.spill.target(self.asked, route.group)):
            other = pipe.table.find(target)
            if other is not None and other.group != route.group:
                found.insert(0, Try(other, f"spill: {pipe.spill.why}"))
        if pipe.table.fallbacks:
            names = {one.route.group for one in found}
            for name in pipe.table.chain(route.group, self.asked):
                other = pipe.table.find(name)
                if other is not None and other.group not in names:
                    found.append(Try(other, "fallback"))
        # Without a login of its own, what goes to Anthropic goes with LiteLLM's key, if there is one.
        through = translated, translated or not self.has_login()
        return [
            Try(one.route._replace(way="litellm"), one.why) if through[one.route.way == "anthropic"] else one
            for one in found
        ]

    def has_login(self) -> bool:
        return any(
            name in _CREDENTIALS and value and not _is_key(value, self.pipe.key)
            for name, value in self.scope["headers"]
        )

    # ------------------------------------------------------------------------------------- the client's end

    async def run(self, tries: list[Try]) -> None:
        """Answer, unless the client goes away first; then everything upstream ends within the same turn."""
        self.task = asyncio.current_task()
        self.watch()
        try:
            if len(tries) == 1:
                await self.only(tries[0].route)
            else:
                await self.first_that_answers(tries)
        except asyncio.CancelledError:
            if not self.gone or self.task is None:
                raise
            self.task.uncancel()
        finally:
            self.done = True
            self.unwatch()

    def watch(self) -> None:
        if self.watcher is None:
            self.watcher = asyncio.ensure_future(self.watching())

    def unwatch(self) -> None:
        if self.watcher is not None:
            self.watcher.cancel()
            self.watcher = None

    async def watching(self) -> None:
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                if not self.done and self.task is not None:
                    self.gone = True
                    self.task.cancel()
                return

    # ------------------------------------------------------------------------------------------- answering

    async def only(self, route: Route) -> None:
        """One upstream, whose answer is passed on whatever it is."""
        try:
            response = await self.ask(route)
        except UpstreamError as error:
            return await self.refuse(error, route)
        try:
            await self.relay(response, self.back(response, route), None)
        except UpstreamError as error:
            self.cut(error)
        finally:
            response.close()
        return None

    async def first_that_answers(self, tries: list[Try]) -> None:
        """The first that answers well; else what the wanted one said (of a spill: what the plan's upstream said)."""
        kept: Kept | None = None
        failure: tuple[UpstreamError, Route] | None = None
        why, wanted = "", next(one.route for one in tries if one.why in ("", "fallback"))
        for number, one in enumerate(tries):
            route, spilled = one.route, one.why.startswith("spill")
            instead = bool(one.why)
            last = number == len(tries) - 1
            if one.why == "fallback" and not why:
                # Nothing that a fallback is for has happened.
                break
            if route.way == "litellm":
                note = self.note(route, one.why if spilled else why) if instead else ""
                answer = await self.through_litellm(route, note, wait=not last or instead)
                if answer is None:
                    if instead:
                        self.tell(wanted, route, note, spilled, "answered")
                    return
                if route is wanted:
                    kept = answer
                    if not due(answer.status):
                        break
                    why = str(answer.status)
                elif instead:
                    self.tell(wanted, route, note, spilled, "failed")
                continue
            note = self.note(route, one.why if spilled else why) if instead else ""
            try:
                response = await self.ask(route)
            except UpstreamError as error:
                if route is wanted:
                    failure, why = (error, route), error.kind
                elif instead:
                    self.tell(wanted, route, note, spilled, "failed")
                continue
            try:
                status = response.status
                may_fall = due(status) if not instead else status >= 400
                if may_fall and (instead or not last):
                    answer = await self.keep(response, route)
                    if route is wanted:
                        if answer is None:
                            return await self.relay(response, self.back(response, route), None)
                        kept, why = answer, str(status)
                    else:
                        self.tell(wanted, route, note, spilled, "failed")
                    continue
                try:
                    # An upstream that breaks off before its first byte has not answered.
                    piece = await response.read() if status < 400 else None
                except UpstreamError as error:
                    if route is wanted:
                        failure, why = (error, route), error.kind
                    else:
                        self.tell(wanted, route, note, spilled, "failed")
                    continue
                headers = self.back(response, route)
                if instead:
                    headers.append(_MOVED)
                    self.tell(wanted, route, note, spilled, "answered")
                return await self.relay(response, headers, piece)
            except UpstreamError as error:
                return self.cut(error)
            finally:
                response.close()
        if kept is not None:
            await self.give(kept)
        elif failure is not None:
            await self.refuse(*failure)
        else:
            await self.refuse(UpstreamError("busy", "nobody answers for this model"), wanted)

    def note(self, route: Route, why: str) -> str:
        return f"{self.asked[:200]} to {route.group[:200]} ({why})"

    def tell(self, wanted: Route, route: Route, note: str, spilled: bool, outcome: str) -> None:
        """Make a fallback visible; a spill is in each exchange and announced by who ordered it."""
        if outcome == "answered":
            self.exchange.fallback = f"{note}: {outcome}"
        if not spilled:
            why = note.rpartition("(")[2].rstrip(")")
            self.pipe.report(
                {
                    "kind": "fallback",
                    "where": f"{note}: {outcome}",
                    "from": wanted.group[:200],
                    "to": [route.group[:200]],
                    "why": why,
                    "outcome": outcome,
                }
            )

    async def ask(self, route: Route) -> Response:
        """The head of an upstream's answer. Raises UpstreamError."""
        assert route.origin is not None
        scope, exchange = self.scope, self.exchange
        body = self.body
        if route.model != self.asked:
            body = model_field.replace(body, route.model) or body
        exchange.piped = True
        exchange.failure = ""
        exchange.upstream_model = ""
        exchange.upstream = route.origin.host
        target = scope["path"].encode("latin-1")
        if query := scope.get("query_string"):
            target += b"?" + query
        if route.way == "anthropic":
            exchange.aws = False
            lines = _headers_up(scope["headers"], len(body), self.pipe.key)
        else:
            exchange.aws = True
            exchange.upstream = "bedrock"
            lines = _headers_to_hop(scope["headers"], len(body), self.pipe.hop_key, exchange.probe)
        return await self.pipe.client.ask(route.origin, b"POST", target, lines, body, route.timeout)

    def back(self, response: Response, route: Route) -> Headers:
        """The headers of an answer as the client gets them; notes what they say of the upstream."""
        exchange = self.exchange
        headers = _end_to_end(response.headers)
        if route.way == "anthropic":
            exchange.take_limits(headers)
            return headers
        kept: Headers = []
        word = b""
        for name, value in headers:
            lower = name.lower()
            if lower == UPSTREAM:
                host, _, model = value.decode("latin-1").partition(" ")
                exchange.upstream, exchange.upstream_model = host, model
            elif lower == TROUBLE:
                word = value
            elif not lower.startswith(b"x-ocd-"):
                kept.append((name, value))
        if response.status >= 400:
            known = re.fullmatch(rb"[a-z-]{1,30}", word)
            exchange.failure = word.decode() if known else ""
        return kept

    def status(self, status: int, route: Route) -> int:
        """A login's refusal is the client's own affair only where its own login was used."""
        return 424 if route.way == "hop" and status in (401, 403) else status

    async def relay(self, response: Response, headers: Headers, piece: bytes | None) -> None:
        """Pass an answer on as it comes. Raises UpstreamError when it breaks off."""
        send, read = self.send, response.read
        status = response.status
        if self.exchange.aws:
            status = 424 if status in (401, 403) else status
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self.begun = True
        if piece is None:
            piece = await read()
        writer = _Writer(self.exchange, send, response.interrupt)
        try:
            while True:
                stalled = writer.begun is not None
                if stalled:
                    await writer.rest()
                if piece:
                    if response.ended:
                        await send({"type": "http.response.body", "body": piece, "more_body": False})
                        return
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                elif not stalled:
                    break
                response.hand_over(writer.take)
                piece = await read()
                response.hand_over(None)
        finally:
            response.hand_over(None)
            writer.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def cut(self, error: UpstreamError) -> None:
        """The answer broke off. Without its end the server closes the client's connection, and nothing is made up."""
        self.exchange.failure = "cut"

    async def keep(self, response: Response, route: Route) -> Kept | None:
        """A failed answer, whole; None: it is too large to be kept, and still unread."""
        headers = self.back(response, route)
        length = next((v for n, v in headers if n.lower() == b"content-length"), b"0")
        if int(length) > KEPT_ERROR:
            return None
        body = b""
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(10):
                body = await response.rest(KEPT_ERROR) or b""
        exchange = self.exchange
        headers = [(n, v) for n, v in headers if n.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        status = self.status(response.status, route)
        word = exchange.failure or classify(response.status, (), body, exchange.aws)
        return Kept(status, headers, body, word, exchange.upstream)

    async def give(self, kept: Kept) -> None:
        exchange = self.exchange
        exchange.piped = True
        exchange.failure, exchange.upstream, exchange.upstream_model = kept.failure, kept.upstream, ""
        await self.send({"type": "http.response.start", "status": kept.status, "headers": kept.headers})
        await self.send({"type": "http.response.body", "body": kept.body, "more_body": False})

    async def refuse(self, error: UpstreamError, route: Route) -> None:
        """No upstream answered: an error in Anthropic's form, with what happened and what to do."""
        exchange = self.exchange
        exchange.piped = True
        status, kind, again = _ERRORS.get(error.kind, (502, "api_error", True))
        exchange.failure = (
            "upstream-error" if error.kind in ("timeout", "busy", "nonsense") else "unreachable"
        )
        if route.way == "hop":
            exchange.upstream = "bedrock"
        what = "the bedrock proxy" if route.way == "hop" else "Anthropic"
        text = f"ocd: {what} did not answer: {error}. {_STEPS.get(error.kind, '')}".rstrip()
        said = json.dumps({"type": "error", "error": {"type": kind, "message": text}}).encode()
        extra = [] if again else [(b"x-should-retry", b"false")]
        await _say(self.send, status, said, extra)

    # -------------------------------------------------------------------------------------------- LiteLLM

    async def through_litellm(self, route: Route, note: str, wait: bool) -> Kept | None:
        """Ask LiteLLM in this process; None: its answer was passed on. Otherwise its failed answer.

        ``wait``: an answer that failed is not passed on.
        """
        self.unwatch()
        exchange = self.exchange
        exchange.piped = False
        exchange.upstream = exchange.upstream_model = exchange.failure = ""
        if note:
            exchange.fallback = f"{note}: answered"
        body = self.body
        if route.group != self.asked:
            body = model_field.replace(body, route.group) or body
        body = _no_fallbacks(body)
        scope = dict(self.scope)
        scope["headers"] = [
            (n, v) if n != b"content-length" else (n, str(len(body)).encode()) for n, v in scope["headers"]
        ]
        status = 0
        headers: Headers = []
        pieces: list[bytes] = []
        passing = False

        async def write(message: Message) -> None:
            nonlocal status, headers, passing
            if message["type"] == "http.response.start":
                status, headers = int(message["status"]), list(message.get("headers", ()))
                passing = not (wait and status >= 400)
                if passing and note:
                    message["headers"] = [
                        *headers,
                        _MOVED,
                    ]
            if passing:
                self.begun = True
                await self.send(message)
            elif message["type"] == "http.response.body" and sum(map(len, pieces)) < KEPT_ERROR:
                pieces.append(message.get("body", b""))

        try:
            await self.pipe.app(scope, _replay(body, self.receive), write)
        except Exception:
            if passing or not wait:
                raise
            status = status or 500
        if passing:
            return None
        if note:
            exchange.fallback = ""
        self.watch()
        theirs = exchange.own and self.pipe.table.names(self.asked).get("provider") == "anthropic"
        status = 424 if status in (401, 403) and not theirs else status or 500
        text = b"".join(pieces)
        headers = [(n, v) for n, v in headers if n.lower() != b"content-length"]
        headers.append((b"content-length", str(len(text)).encode()))
        return Kept(status, headers, text, classify(status, (), text, not theirs), "")


class _Writer:
    """Passes pieces on from inside the upstream's callback: a stream of small events then costs no task a turn.

    ``send`` of an ASGI server suspends only while the client does not read. Then what it has begun is finished by the
    request's own task (``rest``), and pieces wait until it is.
    """

    def __init__(self, exchange: Exchange, send: Send, interrupt: Callable[[], None]) -> None:
        self.exchange = exchange
        self.interrupt = interrupt
        # The meter's own part is done here: one coroutine less for each piece.
        self.send: Any = exchange.send or send
        self.looks = exchange.send is not None
        self.begun: Any = None
        self.waits_for: Any = None
        self.error: BaseException | None = None

    def take(self, piece: bytes) -> bool:
        if self.begun is not None:
            return False
        if self.looks:
            try:
                self.exchange.look(piece)
            except Exception:
                self.looks = False
        step = self.send({"type": "http.response.body", "body": piece, "more_body": True})
        try:
            self.waits_for = step.send(None)
        except StopIteration:
            return True
        except BaseException as error:
            self.error = error
        self.begun = step
        self.interrupt()
        return True

    async def rest(self) -> None:
        """Finish what was begun. Raises what ``send`` raised."""
        if self.error is not None:
            raise self.error
        await _Begun(self.begun, self.waits_for)
        self.begun = self.waits_for = None

    def close(self) -> None:
        if self.begun is not None and self.error is None:
            self.begun.close()
        self.begun = None


class _Begun:
    """The rest of a coroutine that was begun outside of a task; its first awaited future is known already."""

    def __init__(self, step: Any, waits_for: Any) -> None:
        self.step = step
        self.waits_for = waits_for

    def __await__(self) -> Any:
        waits_for = self.waits_for
        while True:
            try:
                result = yield waits_for
            except BaseException as error:
                try:
                    waits_for = self.step.throw(error)
                except StopIteration:
                    return
            else:
                try:
                    waits_for = self.step.send(result)
                except StopIteration:
                    return


_STEPS = {
    "dns": "Check the network connection; Claude Code tries again by itself",
    "connect": "Check the network connection, then `occtl status`; Claude Code tries again by itself",
    "timeout": "Check the network connection; Claude Code tries again by itself",
    "proxy": "Check HTTPS_PROXY and NO_PROXY under [proxies.main.env] in ocd.toml",
    "certificate": "Name your company's certificates under [proxies.main.env] in ocd.toml: "
    "NODE_EXTRA_CA_CERTS or SSL_CERT_FILE",
    "tls": "Check HTTPS_PROXY and NODE_EXTRA_CA_CERTS under [proxies.main.env] in ocd.toml",
    "busy": "Try again in a moment",
}


# ------------------------------------------------------------------------------------------------- headers


def _is_key(value: bytes, key: bytes) -> bool:
    value = value.strip()
    bare = value[7:].strip() if value[:7].lower() == b"bearer " else value
    return bool(key) and hmac.compare_digest(bare, key)


def _headers_up(headers: Headers, length: int, key: bytes) -> bytes:
    """The client's headers for Anthropic, in its order: all but what is of one connection, ours, or our key."""
    out: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    told = False
    for name, value in headers:
        if name == b"connection" and value not in (b"keep-alive", b"close"):
            named = frozenset(one.strip().lower() for one in value.split(b","))
    for name, value in headers:
        if name in _NOT_UP:
            if name == b"content-length" and not told:
                told = True
                out.append(b"content-length: %d\r\n" % length)
            continue
        if name.startswith(_OURS) or name in named or (name in _CREDENTIALS and _is_key(value, key)):
            continue
        out.append(b"%b: %b\r\n" % (name, value))
    if not told:
        out.append(b"content-length: %d\r\n" % length)
    return b"".join(out)


def _headers_to_hop(headers: Headers, length: int, key: bytes, probe: bool) -> bytes:
    """What the bedrock proxy is told: by a list of what goes, and never anything that looks like a credential."""
    out = [b"authorization: Bearer %b\r\nx-ocd-hop: 1\r\ncontent-length: %d\r\n" % (key, length)]
    if probe:
        out.append(b"x-ocd-probe: 1\r\n")
    for name, value in headers:
        if _SECRET in value.lower():
            continue
        if name in _TO_HOP or name.startswith(_TO_HOP_STARTS):
            out.append(b"%b: %b\r\n" % (name, value))
        elif name == b"anthropic-beta":
            betas = [one.strip() for one in value.split(b",")]
            kept = b",".join(one for one in betas if one and not one.startswith(b"oauth-"))
            if kept:
                out.append(b"anthropic-beta: %b\r\n" % kept)
    return b"".join(out)


def _end_to_end(headers: Headers) -> Headers:
    """An answer's headers but for those of one connection (and those that ``Connection`` names)."""
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":
            named |= {one.strip().lower() for one in value.split(b",")}
    kept = [
        (name, value)
        for name, value in headers
        if (lower := name.lower()) not in _HOP_BY_HOP and lower not in named
    ]
    # Two lengths that are the same are one.
    lengths = [one for one in kept if one[0].lower() == b"content-length"]
    if len(lengths) > 1 or (lengths and any(n.lower() == b"transfer-encoding" for n, _v in headers)):
        chunked = any(n.lower() == b"transfer-encoding" for n, _v in headers)
        kept = [one for one in kept if one not in lengths] + ([] if chunked else lengths[:1])
    return kept


# -------------------------------------------------------------------------------------------------- bodies


async def _body(receive: Receive) -> bytes | None:
    """The whole body (the boundary has bounded it); None: the client went away."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        piece = message.get("body", b"")
        if not message.get("more_body", False):
            return b"".join([*pieces, piece]) if pieces else piece
        pieces.append(piece)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return again


def _no_fallbacks(body: bytes) -> bytes:
    """The body with LiteLLM's own order not to fall back (``disable_fallbacks``): it does so on every error."""
    found = re.match(rb'[ \t\r\n]*\{(?=[ \t\r\n]*")', body)
    return body if found is None else b'%b"disable_fallbacks": true, %b' % (found[0], body[found.end() :])


async def _nobody(*_message: Any) -> Any:
    raise RuntimeError("nothing is received or sent before the decision")


async def _say(
    send: Send, status: int, body: bytes, extra: Headers | None = None, head: bool = False
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body, "more_body": False})
