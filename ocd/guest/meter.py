"""What each request came to: how long, which upstream answered, how many tokens, what went wrong. No prompt, no secret.

One ASGI wrapper sees the client's side, one wrapper of ``httpx.AsyncClient.send`` the upstream's (LiteLLM 1.90 to 1.106
sends everything through it, the OpenAI SDK included); a context variable joins them. Nothing is buffered, delayed or
parsed as a whole: figures are found by pattern in the pieces that pass. Any mistake in here is counted and costs a
figure, never an answer.

Three headers are ours: ``x-ocd-session`` (pid of the openclaude session, set by its overlay), ``x-ocd-hop`` (the main
proxy asks the bedrock proxy) and ``x-ocd-probe`` (``occtl doctor --online``, whose login is made up). They end here:
LiteLLM, which hands ``x-…`` headers on, never sees them. The bedrock proxy answers a hop with ``x-ocd-upstream`` and
``x-ocd-trouble``, so that main knows who answered in the end.

Loaded by path inside a guest: uses what LiteLLM brings, and nothing of ocd.
"""

import contextlib
import contextvars
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Report = Callable[[dict[str, Any]], None]

#: requests that a model answers, or counts
PATHS = frozenset(
    prefix + path
    for prefix in ("", "/v1")
    for path in (
        "/messages",
        "/messages/count_tokens",
        "/chat/completions",
        "/completions",
        "/responses",
        "/embeddings",
    )
)
SESSION, HOP, PROBE = b"x-ocd-session", b"x-ocd-hop", b"x-ocd-probe"
UPSTREAM, TROUBLE = b"x-ocd-upstream", b"x-ocd-trouble"
_LOGINS = (b"authorization", b"x-api-key")
#: bytes of a request's first piece in which its model's name is looked for
HEAD = 16384
#: bytes kept of the piece before, for a figure that the transport cut in two
TAIL = 200
#: bytes of an upstream's error that are looked at
ERROR = 65536

_MODEL = re.compile(rb'"model"\s*:\s*"([\w.@:/\[\]+-]{1,200})"')
_FIGURES = {
    "input_tokens": re.compile(rb'"(?:input_tokens|prompt_tokens)"\s*:\s*(\d{1,12})'),
    "output_tokens": re.compile(rb'"(?:output_tokens|completion_tokens)"\s*:\s*(\d{1,12})'),
    "cache_read_tokens": re.compile(rb'"cache_read_input_tokens"\s*:\s*(\d{1,12})'),
    "cache_write_tokens": re.compile(rb'"cache_creation_input_tokens"\s*:\s*(\d{1,12})'),
}
_BEGUN = re.compile(rb'content_block_delta|"delta"\s*:\s*\{\s*"|response\.output_text\.delta')
#: A text that speaks of events has its quotes and line ends escaped: neither pattern finds it.
_DONE = re.compile(
    rb'"type"\s*:\s*"message_stop"|\ndata: \[DONE\]|"type"\s*:\s*"response\.(?:completed|incomplete)"'
)
_DONE_WORDS = (b"message_stop", b"[DONE]", b"response.")
_ERROR_EVENT = re.compile(rb'\nevent: error|"type"\s*:\s*"error"|\ndata: \{"error"')
_BEDROCK_MODEL = re.compile(r"/model/([^/]+)/")
_WORD = re.compile(r"^[a-z-]{1,30}$")

#: AWS's error names → our word (Amazon Bedrock API reference, Common errors and InvokeModel)
_AWS = {
    "ExpiredTokenException": "aws-expired",
    "ExpiredToken": "aws-expired",
    "UnrecognizedClientException": "access-denied",
    "InvalidSignatureException": "access-denied",
    "IncompleteSignature": "access-denied",
    "MissingAuthenticationToken": "access-denied",
    "NotAuthorized": "access-denied",
    "OptInRequired": "model-access",
    "ThrottlingException": "throttled",
    "ServiceQuotaExceededException": "throttled",
    "ModelNotReadyException": "overloaded",
    "ServiceUnavailableException": "overloaded",
}
#: Anthropic's answer for a model that it does not have: {"error": {"type": "not_found_error", "message": "model: …"}}
_NO_MODEL = re.compile(rb'"message"\s*:\s*"model\b', re.IGNORECASE)
#: Bedrock's, in a ResourceNotFoundException: "This model version has reached the end of its life"
_END_OF_LIFE = re.compile(rb"end of (?:its )?life", re.IGNORECASE)
_NO_ACCESS = re.compile(
    rb"access to the model|model access|is not authorized to invoke this model", re.IGNORECASE
)


class Exchange:
    """One request while it is being answered."""

    __slots__ = (
        "answered_by",
        "asked",
        "client_gone",
        "complete",
        "ended",
        "error_event",
        "failure",
        "fallback",
        "figures",
        "first",
        "hop",
        "instead",
        "kept",
        "login",
        "model",
        "path",
        "probe",
        "reached",
        "session",
        "started",
        "status",
        "stream",
        "tail",
        "theirs",
        "upstream",
        "upstream_model",
        "upstream_status",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.started = time.monotonic()
        self.session: int | None = None
        self.hop = False
        self.probe = False
        self.model = ""
        #: LiteLLM saw it: it was not refused before
        self.reached = False
        self.upstream = ""
        self.upstream_model = ""
        self.upstream_status = 0
        #: what the latest call upstream failed with, one of our words; emptied by the next that goes well
        self.failure = ""
        self.answered_by = ""
        self.status = 0
        self.stream = False
        self.first: float | None = None
        self.figures: dict[str, int] = {}
        self.fallback = ""
        self.complete = False
        #: the last piece of the answer is sent, whether it made sense or not
        self.ended = False
        #: the credentials that the client sent, and whether the latest call upstream carried one of them
        self.login: frozenset[bytes] = frozenset()
        self.theirs = False
        self.error_event = False
        self.client_gone = False
        #: the end of the piece before; the first line of an answer begins like any other
        self.tail = b"\n"
        #: fidelity.py's: the client's own request, what it keeps of the upstream's answer, the body to send instead
        self.asked: Any = None
        self.kept: Any = None
        self.instead: bytes | None = None

    def look(self, piece: bytes) -> None:
        """Take what a piece of the answer says."""
        data = self.tail + piece
        if self.first is None and (not self.stream or _BEGUN.search(data)):
            self.first = time.monotonic() - self.started
        if b"_tokens" in data:
            for name, pattern in _FIGURES.items():
                for figure in pattern.finditer(data):
                    # message_start and message_delta both have them; the later one counts, and zero is no news.
                    self.figures[name] = int(figure[1]) or self.figures.get(name, 0)
        if not self.answered_by and (named := _MODEL.search(data)):
            self.answered_by = named[1].decode("latin-1")
        if self.stream:
            # A plain search first: it takes a tenth of the pattern's time, and most pieces have neither word.
            if not self.complete and any(word in data for word in _DONE_WORDS):
                self.complete = _DONE.search(data) is not None
            if not self.error_event and b"error" in data:
                self.error_event = _ERROR_EVENT.search(data) is not None
        self.tail = data[-TAIL:]

    def trouble(self) -> str:
        """One of the words of docs/api.md; empty when all went well."""
        if not self.reached and self.status >= 400:
            return "refused"
        if self.status >= 400:
            if self.failure:
                return self.failure
            return "bad-request" if self.status < 500 else "upstream-error"
        if self.error_event:
            return self.failure or "upstream-error"
        if self.client_gone and not self.complete:
            return "client-gone"
        if not self.status or (self.stream and not self.complete):
            return "cut"
        return ""


current: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("ocd_exchange", default=None)


class Meter:
    """``report`` takes the fields of one answered request; ``now`` requests are being answered."""

    def __init__(self, report: Report, fidelity: Any = None) -> None:
        self.report = report
        #: keeps requests and errors as they are (``fidelity.Fidelity``); None: LiteLLM's are
        self.fidelity = fidelity
        self.now = 0
        self.mistakes = 0
        self.prices: dict[str, tuple[float, float, float, float] | None] = {}

    # ------------------------------------------------------------------------------------------ the client

    def outside(self, app: App) -> App:
        """Wrap everything, what refuses requests too."""

        async def metered(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope.get("client") is None:
                await app(scope, receive, send)
                return
            exchange = Exchange(scope["path"])
            with self.safely():
                _take_own_headers(scope, exchange)
            if scope["path"] not in PATHS or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            if self.fidelity is not None and scope["path"] == "/v1/messages":
                exchange.asked = self.fidelity.asked(scope["headers"], scope.get("query_string", b""))
            exchange.login = frozenset(value for name, value in scope["headers"] if name in _LOGINS)
            self.now += 1
            mark = current.set(exchange)
            try:
                await app(scope, self.reading(exchange, receive), self.writing(exchange, send))
            finally:
                current.reset(mark)
                self.now -= 1
                with self.safely():
                    self.report(self.fields(exchange))

        return metered

    def inside(self, app: App) -> App:
        """Wrap what only accepted requests reach."""

        async def reached(scope: Scope, receive: Receive, send: Send) -> None:
            exchange = current.get()
            if exchange is not None:
                exchange.reached = True
            await app(scope, receive, send)

        return reached

    def reading(self, exchange: Exchange, receive: Receive) -> Receive:
        async def read() -> Message:
            message = await receive()
            with self.safely():
                if message["type"] == "http.disconnect":
                    # Whoever asks after the end is told so as well.
                    exchange.client_gone = not exchange.ended
                    return message
                piece = message.get("body", b"")
                if exchange.asked is not None and piece:
                    exchange.asked.body.append(piece)
                if not exchange.model and (found := _MODEL.search(piece[:HEAD])):
                    exchange.model = found[1].decode("latin-1")
            return message

        return read

    def writing(self, exchange: Exchange, send: Send) -> Send:
        async def write(message: Message) -> None:
            # Not `safely`: this is passed for every piece of a stream, and a context manager is half of its time.
            try:
                if message["type"] == "http.response.body":
                    if exchange.instead is not None:
                        # The whole of it with the first piece, nothing with the others.
                        message["body"], exchange.instead = exchange.instead, b""
                    if piece := message.get("body", b""):
                        exchange.look(piece)
                    if not message.get("more_body"):
                        exchange.ended = True
                        exchange.complete = exchange.complete or not exchange.stream
                elif message["type"] == "http.response.start":
                    self.begin(exchange, message)
            except Exception:
                self.mistakes += 1
            await send(message)

        return write

    def begin(self, exchange: Exchange, message: Message) -> None:
        if exchange.kept is not None and not exchange.fallback:
            exchange.instead = self.fidelity.begin(exchange.kept, message)
        exchange.asked = None
        if message["status"] == 401 and exchange.reached and not exchange.theirs:
            # Claude Code takes 401 for its own login's end and renews the plan's token. This was another credential:
            # AWS's, a key of the configuration, or LiteLLM's own affair.
            message["status"] = 403
        exchange.status = int(message["status"])
        headers = [
            (name, value) for name, value in message.get("headers", ()) if b"x-ocd-" not in name.lower()
        ]
        for name, value in headers:
            if name.lower() == b"content-type":
                exchange.stream = value.startswith(b"text/event-stream")
        if exchange.hop:
            if exchange.upstream:
                headers.append(
                    (UPSTREAM, f"{exchange.upstream} {exchange.upstream_model}".encode("ascii", "replace"))
                )
            if exchange.status >= 400 and (word := exchange.trouble()):
                headers.append((TROUBLE, word.encode()))
        message["headers"] = headers

    def fields(self, exchange: Exchange) -> dict[str, Any]:
        """What the supervisor is told."""
        figures = exchange.figures
        tokens = {name: figures.get(name, 0) for name in _FIGURES}
        return {
            "time": round(time.time(), 3),
            "path": exchange.path,
            "model": exchange.model,
            "session": exchange.session,
            "hop": exchange.hop,
            "probe": exchange.probe,
            "upstream": exchange.upstream,
            "answered_by": exchange.upstream_model or exchange.answered_by if exchange.status < 400 else "",
            "status": exchange.status,
            "stream": exchange.stream,
            "first": None if exchange.first is None else round(exchange.first, 4),
            "seconds": round(time.monotonic() - exchange.started, 4),
            **tokens,
            "cost": self.cost(exchange, tokens),
            "fallback": exchange.fallback,
            "trouble": exchange.trouble(),
        }

    def cost(self, exchange: Exchange, tokens: dict[str, int]) -> float | None:
        """US dollars at the list price that LiteLLM's own table has; None when it has none."""
        if not any(tokens.values()) or exchange.path.endswith("/count_tokens"):
            return None
        name = exchange.upstream_model or exchange.answered_by
        provider = "bedrock" if "bedrock" in exchange.upstream or exchange.hop else ""
        if name not in self.prices:
            if len(self.prices) > 200:
                self.prices.clear()
            self.prices[name] = _prices(name, provider)
        prices = self.prices[name]
        if prices is None:
            return None
        return round(sum(price * count for price, count in zip(prices, tokens.values(), strict=True)), 8)

    # ---------------------------------------------------------------------------------------- the upstream

    def install(self, own_hop: str) -> None:
        """Watch what this process sends; ``own_hop`` is the address of the bedrock proxy, where this is main."""
        import httpx

        sending = httpx.AsyncClient.send
        hop = _origin(own_hop)

        async def send(client: Any, request: Any, **options: Any) -> Any:
            exchange = current.get()
            if exchange is None:
                return await sending(client, request, **options)
            with self.safely():
                self.asked(exchange, request, hop)
                if exchange.asked is not None:
                    request = self.fidelity.request(exchange.asked, request)
            try:
                response = await sending(client, request, **options)
            except Exception as error:
                exchange.failure = "unreachable"
                exchange.kept = None
                with self.safely():
                    exchange.upstream_status = 0
                    if "Timeout" in type(error).__name__ and "Connect" not in type(error).__name__:
                        exchange.failure = "upstream-error"
                raise
            with self.safely():
                await self.answered(exchange, request, response, hop)
            return response

        httpx.AsyncClient.send = send  # type: ignore[assignment, method-assign]

    def asked(self, exchange: Exchange, request: Any, hop: str) -> None:
        url = request.url
        exchange.upstream = url.host
        exchange.upstream_model = ""
        exchange.theirs = any(
            request.headers.get(name.decode(), "").encode("latin-1") in exchange.login for name in _LOGINS
        )
        if hop and _origin(str(url)) == hop:
            request.headers[HOP.decode()] = "1"
            return
        if found := _BEDROCK_MODEL.search(str(url)):
            # Bedrock's names hold colons and slashes, which are encoded, sometimes twice.
            exchange.upstream_model = unquote(unquote(found[1])).rpartition("/")[2]
        else:
            with contextlib.suppress(Exception):
                if named := _MODEL.search(request.content[:HEAD]):
                    exchange.upstream_model = named[1].decode("latin-1")

    async def answered(self, exchange: Exchange, request: Any, response: Any, hop: str) -> None:
        exchange.upstream_status = response.status_code
        headers = response.headers
        from_hop = bool(hop) and _origin(str(request.url)) == hop
        if from_hop:
            host, _, model = headers.get(UPSTREAM.decode(), "").partition(" ")
            exchange.upstream, exchange.upstream_model = host or "bedrock", model
        exchange.kept = None
        direct = exchange.asked is not None and self.fidelity.is_ours(exchange.asked, request)
        if direct and response.status_code < 400:
            exchange.kept = self.fidelity.answered(response.status_code, headers, b"")
        if response.status_code < 400:
            exchange.failure = ""
            return
        # LiteLLM reads an error's whole body anyway, for its message.
        body = await response.aread()
        if direct:
            exchange.kept = self.fidelity.answered(response.status_code, headers, body)
        if from_hop and _WORD.match(word := headers.get(TROUBLE.decode(), "")):
            exchange.failure = word
        else:
            exchange.failure = classify(response.status_code, headers, body[:ERROR], request.url.host)

    @contextlib.contextmanager
    def safely(self) -> Any:
        try:
            yield
        except Exception:
            self.mistakes += 1


def classify(status: int, headers: Any, body: bytes, host: str) -> str:
    """Our word for an upstream's error: by its status and its type, by words only where AWS gives no type."""
    name = str(headers.get("x-amzn-errortype", "")).partition(":")[0]
    if not name and (found := re.search(rb'"__type"\s*:\s*"(?:[^"#]*#)?(\w+)"', body)):
        name = found[1].decode()
    if name or "bedrock" in host or "amazonaws" in host:
        if name in ("AccessDeniedException", "AccessDenied", "") and status == 403:
            return "model-access" if _NO_ACCESS.search(body) else "access-denied"
        if name == "ResourceNotFoundException":
            return "model-gone" if _END_OF_LIFE.search(body) else "model-access"
        if name in _AWS:
            return _AWS[name]
        if status == 429:
            return "throttled"
    elif status == 401:
        return "login-expired"
    elif status == 429:
        return "plan-limit"
    elif status == 404 and b"not_found_error" in body and _NO_MODEL.search(body):
        return "model-gone"
    if status in (503, 529):
        return "overloaded"
    return "bad-request" if status < 500 else "upstream-error"


def _take_own_headers(scope: Scope, exchange: Exchange) -> None:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    if not any(name.startswith(b"x-ocd-") for name, _value in headers):
        return
    kept = []
    for name, value in headers:
        if name == SESSION and value.isdigit() and len(value) < 12:
            exchange.session = int(value)
        elif name == HOP:
            exchange.hop = True
        elif name == PROBE:
            exchange.probe = True
        elif not name.startswith(b"x-ocd-"):
            kept.append((name, value))
    scope["headers"] = kept


def _origin(url: str) -> str:
    """Scheme, host and port: ``http://127.0.0.1:4001``."""
    return "/".join(url.split("/")[:3]).lower()


def _prices(name: str, provider: str) -> tuple[float, float, float, float] | None:
    """US dollars per token: input, output, read from the cache, written to it."""
    try:
        import litellm
    except ImportError:
        return None
    for model, where in ((name, provider or None), (name, "bedrock_converse" if provider else "anthropic")):
        try:
            info: Any = litellm.get_model_info(model, custom_llm_provider=where)
        except Exception:  # it raises Exception itself for a model that it does not know
            continue
        put, out = info.get("input_cost_per_token") or 0.0, info.get("output_cost_per_token") or 0.0
        if put or out:
            read, write = info.get("cache_read_input_token_cost"), info.get("cache_creation_input_token_cost")
            return (put, out, put if read is None else read, put if write is None else write)
    return None


def signing_failed(word: str) -> None:
    """Note that the request at hand could not be signed for AWS: no upstream will be asked."""
    exchange = current.get()
    if exchange is not None:
        exchange.failure = word


def own_hop() -> str:
    """The address of the bedrock proxy, in main; empty elsewhere."""
    return os.environ.get("OCD_BEDROCK_URL", "")
