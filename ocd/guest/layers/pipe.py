"""The way of a request of ``/v1/messages``: bytes to Anthropic, bytes to the bedrock proxy, or LiteLLM.

An ASGI layer between the boundary and LiteLLM. The table of routes is computed outside (``ocd/stack/pipe.py``) from
the user's plain LiteLLM file and comes with the boot message; here nothing of that file is read.

*To Anthropic*, when the group's route is and the request carries the client's own login: path, query, headers and body
go up as they came, but for what belongs to one connection (``_HOP_BY_HOP``), our own headers and our own key; status,
headers and bytes come back as they come. Nothing else is looked at, so nothing can be missing from a list.

*To the bedrock proxy*, when the route leads there: to its own ``/v1/messages`` with its own key, and of the headers
only what ``_TO_HOP`` names: no credential of the client's can be among them.

*To LiteLLM* everything else.

A request for a model of the bedrock proxy's with a tool that only Anthropic's servers can run (a web search) goes to
Anthropic instead, with the session's own login and under the name that ``[search]`` gives, where the user set that.

Fallbacks and spill are decided here, before the first byte: another group answers when an upstream is overloaded,
limits, fails or cannot be reached (``due``), and never because a login or a request was refused. When nobody answers
well, the client gets the first upstream's own answer.

A client that goes away ends its request upstream at once; an upstream that breaks off in mid-answer ends the client's
connection without the end that the framing promises, as if the client had been connected to it.

Messages of the supervisor over the guest's control socket, and the ``spill`` of the boot message::

    {"op": "spill", "groups": {NAME: TARGET}, "logins": [HASH], "until": SECONDS, "why": TEXT}

Requests whose model (as asked for; wildcards may stand in NAME) is NAME go to the model group TARGET first, until the
given time (seconds since 1970; 0 or missing: until the next message), for the logins whose hashes are named (none: for
all). Without ``groups``, or with none, nothing spills. ::

    {"op": "budget", "action": "refuse" or "plan", "model": NAME, "until": SECONDS, "why": TEXT}

What would go to AWS is refused (424), or asked of NAME on the plan by whoever has a login of the plan, until the given
time; no request goes to AWS instead of another either. Without ``action`` that is over. Counting tokens costs nothing.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, NamedTuple

from . import model_field, server_tools
from .headers import CREDENTIALS, end_to_end, is_key, to_hop
from .headers import up as headers_up
from .meter import EXCHANGE, TROUBLE, UPSTREAM, Exchange, classify
from .passing import Writer
from .upstream import Client, Response, UpstreamError, is_loopback
from .ways import Budget, Route, Spill, Table

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
#: where the decision about a request stands between the boundary's look at it and its answer
_DECIDED = "ocd.decided"
#: bytes of a failed answer that is kept in case nobody does better
KEPT_ERROR = 1024 * 1024
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


class Try(NamedTuple):
    """One group to ask, and why it is asked instead of the one that was wanted (empty: it is that one)."""

    route: Route
    why: str = ""


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
        self.budget = Budget()
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
        if path == "/v1/models" and method == "GET" and self.table.models and _wants_anthropics(scope):
            return await _say(send, 200, _list(self.table.models))
        if method != "POST" or not self.table.entries:
            return await self.app(scope, receive, send)
        watched = self.table.fallbacks or self.budget.used_up
        if path not in PATHS and not (watched and path in ROUTED):
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
        if route is None or (route.way == "litellm" and not watched):
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
        if route.way == "hop" and pipe.table.search and not translated and self.has_login():
            other = pipe.table.searching()
            if other is not None and (tool := server_tools.carried(self.body)):
                return [Try(other, f"search: {tool[:60]}")]
        found = [Try(route)]
        spill = pipe.spill
        if (
            not translated
            and spill.groups
            and (target := spill.target(self.asked, route.group, self.exchange.login))
        ):
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
        if pipe.budget.used_up and not self.scope["path"].endswith("/count_tokens"):
            found = self.within_budget(found, translated)
        return [
            Try(one.route._replace(way="litellm"), one.why) if through[one.route.way == "anthropic"] else one
            for one in found
        ]

    def within_budget(self, tries: list[Try], translated: bool) -> list[Try]:
        """Those that AWS is not paid for. Of a request that was for AWS: the plan instead, or nobody."""
        budget = self.pipe.budget
        wanted = next(one.route for one in tries if one.why in ("", "fallback"))
        if not wanted.aws:
            return [one for one in tries if not one.route.aws]
        other = self.pipe.table.find(budget.model) if budget.action == "plan" else None
        if other is None or other.way != "anthropic" or translated or not self.has_login():
            return []
        self.exchange.fallback = f"{self.asked[:200]} to {other.group[:200]} (budget: {budget.why})"
        return [Try(other)]

    async def over_budget(self) -> None:
        """Nobody is asked: an answer that Claude Code shows and does not retry (tests/client/README.md)."""
        exchange, budget = self.exchange, self.pipe.budget
        exchange.piped = True
        exchange.failure = "budget"
        step = "Raise [budget] in ocd.toml, or choose another model with /model"
        text = f"ocd: {budget.why}. {step}; `occtl status` says when it begins again"
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
        await _say(self.send, 424, json.dumps(error).encode(), [(b"x-should-retry", b"false")])

    def has_login(self) -> bool:
        return any(
            name in CREDENTIALS and value and not is_key(value, self.pipe.key)
            for name, value in self.scope["headers"]
        )

    # ------------------------------------------------------------------------------------- the client's end

    async def run(self, tries: list[Try]) -> None:
        """Answer, unless the client goes away first; then everything upstream ends within the same turn."""
        self.task = asyncio.current_task()
        self.watch()
        try:
            if not tries:
                await self.over_budget()
            elif len(tries) == 1:
                await self.only(*tries[0])
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

    async def only(self, route: Route, why: str = "") -> None:
        """One upstream, whose answer is passed on whatever it is. ``why``: it is not the one that was asked for."""
        if why:
            self.exchange.fallback = f"{self.note(route, why)}: failed"
        try:
            response = await self.ask(route)
        except UpstreamError as error:
            return await self.refuse(error, route)
        try:
            if why and response.status < 400:
                self.exchange.fallback = f"{self.note(route, why)}: answered"
            await self.relay(response, self.back(response, route), None)
        except UpstreamError:
            # It broke off. Without its end the server closes the client's connection, and nothing is made up; the
            # meter sees that the end is missing.
            return None
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
            except UpstreamError:
                return None
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
            lines = headers_up(scope["headers"], len(body), self.pipe.key)
        else:
            exchange.aws = True
            exchange.upstream = "bedrock"
            lines = to_hop(scope["headers"], len(body), self.pipe.hop_key, exchange.probe)
        return await self.pipe.client.ask(route.origin, b"POST", target, lines, body, route.timeout)

    def back(self, response: Response, route: Route) -> Headers:
        """The headers of an answer as the client gets them; notes what they say of the upstream."""
        exchange = self.exchange
        headers = end_to_end(response.headers)
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

    async def relay(self, response: Response, headers: Headers, piece: bytes | None) -> None:
        """Pass an answer on as it comes. Raises UpstreamError when it breaks off."""
        send, read = self.send, response.read
        status = response.status
        if self.exchange.aws:
            # A login's refusal is the client's own affair only where its own login was used.
            status = 424 if status in (401, 403) else status
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self.begun = True
        if piece is None:
            piece = await read()
        writer = Writer(self.exchange, send, response.interrupt)
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
        status = response.status
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
        what = "Anthropic"
        if route.way == "hop":
            host = route.origin.host if route.origin else ""
            what = f"the team's proxy {host}" if host and not is_loopback(host) else "the bedrock proxy"
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


def _wants_anthropics(scope: Scope) -> bool:
    """Whether the client speaks Anthropic's API (its version header, its ``limit``): LiteLLM answers as OpenAI does."""
    if b"limit=" in (scope.get("query_string") or b""):
        return True
    return any(name == b"anthropic-version" for name, _value in scope["headers"])


def _list(models: list[dict[str, str]]) -> bytes:
    """Anthropic's list of models (API reference, "List Models"); a release date that is not known is the epoch."""
    found = [{"type": "model", "created_at": "1970-01-01T00:00:00Z", **model} for model in models]
    ids = [model["id"] for model in found]
    return json.dumps({"data": found, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}).encode()


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
