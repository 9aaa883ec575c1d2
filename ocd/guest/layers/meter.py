"""What each request came to: how long, which upstream answered, how many tokens, what went wrong. No prompt, no secret.

One ASGI layer around everything sees the client's side of every request; the pipe (``pipe.py``) says what it learnt
from the upstream, and of a request that LiteLLM routes itself the table of routes says which upstream it went to.
Nothing is buffered, delayed or parsed as a whole while a stream passes: figures are found by pattern in its pieces. A
plain answer is read from a bounded copy, decompressed if need be (``decoders``), when the client has it. Any mistake in
here is counted and costs a figure, never an answer.

Five headers are ours: ``x-ocd-session`` (pid of the openclaude session, set by overlays of former versions),
``x-ocd-account`` (the name of the account that a session belongs to, set by its overlay), ``x-ocd-hop`` (the main proxy
asks the bedrock proxy), ``x-ocd-probe`` (``occtl doctor --online``, whose login is made up) and ``x-ocd-request``
(an id that is told with the figures: ``ocd serve --team`` books by it). They end here.
The bedrock proxy answers a hop with ``x-ocd-upstream`` (host and model) and ``x-ocd-trouble`` (one of our words), so
that main knows who answered in the end; a layer behind this one that knows the trouble better sets that header itself.
"""

import contextlib
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from . import decoders

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Report = Callable[[dict[str, Any]], None]
#: model group → provider, host and model of its upstream, as far as the configuration tells; empty: unknown
Names = Callable[[str], dict[str, str]]

#: where the exchange of a request stands in its ASGI scope, until a layer hands the request to LiteLLM
EXCHANGE = "ocd.exchange"
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
SESSION, HOP, PROBE, REQUEST = b"x-ocd-session", b"x-ocd-hop", b"x-ocd-probe", b"x-ocd-request"
ACCOUNT = b"x-ocd-account"
UPSTREAM, TROUBLE = b"x-ocd-upstream", b"x-ocd-trouble"
#: what Claude Code says of the conversation that a request belongs to → our field
_OF_CLAUDE = {
    b"x-claude-code-session-id": "session_id",
    b"x-claude-code-agent-id": "agent_id",
    b"x-claude-code-parent-agent-id": "parent_agent_id",
}
_ID = re.compile(rb"[\w.:@-]{1,100}")
#: as ``ocd.paths.is_name`` has it
_ACCOUNT = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_LOGINS = (b"authorization", b"x-api-key")
LIMITS = b"anthropic-ratelimit-unified-"
#: the plan's limits that an answer states, at most
MOST_LIMITS = 40
#: bytes of a request's first piece in which its model's name is looked for
HEAD = 16384
#: bytes kept of the piece before, for a figure that the transport cut in two
TAIL = 200
#: bytes of an upstream's error that are looked at
ERROR = 65536
#: bytes of a plain answer that are kept to be read at its end, as they came
COPY = 1024 * 1024

_MODEL = re.compile(rb'"model"\s*:\s*"([\w.@:/\[\]+-]{1,200})"')
_FIGURES = {
    "input_tokens": re.compile(rb'"(?:input_tokens|prompt_tokens)"\s*:\s*(\d{1,12})'),
    "output_tokens": re.compile(rb'"(?:output_tokens|completion_tokens)"\s*:\s*(\d{1,12})'),
    "cache_read_tokens": re.compile(rb'"cache_read_input_tokens"\s*:\s*(\d{1,12})'),
    "cache_write_tokens": re.compile(rb'"cache_creation_input_tokens"\s*:\s*(\d{1,12})'),
}
#: a part of what was written to the cache, at another price: for an hour instead of five minutes
_HOUR = re.compile(rb'"ephemeral_1h_input_tokens"\s*:\s*(\d{1,12})')
#: the same in a plain answer's ``usage``
_USAGE = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "cache_read_tokens": ("cache_read_input_tokens",),
    "cache_write_tokens": ("cache_creation_input_tokens",),
}
_BEGUN = re.compile(rb'content_block_delta|"delta"\s*:\s*\{\s*"|response\.output_text\.delta')
#: A text that speaks of events has its quotes and line ends escaped: neither pattern finds it.
_DONE = re.compile(
    rb'"type"\s*:\s*"message_stop"|^data: \[DONE\]|"type"\s*:\s*"response\.(?:completed|incomplete)"',
    re.MULTILINE,
)
_ERROR_EVENT = re.compile(rb'^event: error|"type"\s*:\s*"error"|^data: \{"error"', re.MULTILINE)
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
#: What AWS and botocore say when LiteLLM hands on their words alone: STS's and IAM's messages, the exceptions of
#: botocore/exceptions.py by name and by their fixed texts.
_NO_LOGIN = re.compile(
    rb"ExpiredToken|security token included in the request is expired|Token has expired|SSOToken|SSOError"
    rb"|Error loading SSO|SSO session|resolving AWS credentials"
    rb"|TokenRetrievalError|Error when retrieving token|NoCredentials|PartialCredentials"
    rb"|Unable to locate credentials|ProfileNotFound|The config profile|CredentialRetrieval"
    rb"|InvalidConfigError|ConfigParseError|UnauthorizedException|LoginRefreshRequired",
    re.IGNORECASE,
)
_DENIED = re.compile(
    rb"AccessDenied|UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch|InvalidSignature"
    rb"|security token included in the request is invalid|is not authorized to perform"
    rb"|signature we calculated does not match",
    re.IGNORECASE,
)
#: What the client does with a status decides what an answer of AWS's may be (docs/decisions/0009): a 401 renews the
#: plan's login, a 403 makes Claude Code 2.1.332 say "Please run /login".
LOGIN_STATUSES = (401, 403)
FAILED_DEPENDENCY = 424


class Exchange:
    """One request while it is being answered."""

    __slots__ = (
        "account",
        "agent_id",
        "answered_by",
        "aws",
        "client_gone",
        "complete",
        "copied",
        "copy",
        "decoder",
        "ended",
        "error_event",
        "failure",
        "fallback",
        "figures",
        "first",
        "first_byte",
        "held",
        "hop",
        "hour",
        "limits",
        "login",
        "model",
        "own",
        "parent_agent_id",
        "path",
        "piped",
        "probe",
        "reached",
        "request",
        "send",
        "session",
        "session_id",
        "started",
        "status",
        "stream",
        "tail",
        "upstream",
        "upstream_model",
        "upstream_status",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.started = time.monotonic()
        self.session: int | None = None
        self.session_id = ""
        self.agent_id = ""
        self.parent_agent_id = ""
        self.hop = False
        self.probe = False
        self.request = ""
        self.model = ""
        #: the credential that the client sent beside our key
        self.own = b""
        #: it was not refused before any upstream could be asked
        self.reached = False
        #: our pipe answers: status and headers are the upstream's own
        self.piped = False
        self.aws = False
        #: the server's own send, for a layer that calls ``look`` itself
        self.send: Send | None = None
        self.upstream = ""
        self.upstream_model = ""
        #: LiteLLM's status, before it is made one that Claude Code understands
        self.upstream_status = 0
        #: what the latest call upstream failed with, one of our words; emptied by the next that goes well
        self.failure = ""
        self.answered_by = ""
        self.status = 0
        self.stream = False
        self.first_byte: float | None = None
        self.first: float | None = None
        self.figures: dict[str, int] = {}
        #: tokens that were written to the cache for an hour, among all that were written to it
        self.hour = 0
        self.fallback = ""
        #: a salted hash of the credential that the client sent, and what Anthropic said of that login's limits
        self.login = ""
        #: the account whose session it is, by the name that the person gave it
        self.account = ""
        self.limits: dict[str, str] = {}
        self.complete = False
        #: the last piece of the answer is sent, whether it made sense or not
        self.ended = False
        self.error_event = False
        self.client_gone = False
        #: the start of an error's answer, until its first piece says what it is
        self.held: Message | None = None
        #: the end of the piece before, where that was no event's end
        self.tail = b""
        self.copy: list[bytes] = []
        self.copied = 0
        #: what decompresses a stream as it passes
        self.decoder: Any = None

    # ------------------------------------------------------------------------------------------ the answer

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The answer's head."""
        self.status = status
        encoding = b""
        for name, value in headers:
            size = len(name)
            if size == 12 and name.lower() == b"content-type":
                self.stream = value.startswith(b"text/event-stream")
            elif size == 16 and name.lower() == b"content-encoding":
                encoding = value.strip().lower()
        self.decoder = decoders.decoder(encoding)

    def look(self, piece: bytes) -> None:
        """Take what a piece of the answer says."""
        if self.first_byte is None:
            self.first_byte = time.monotonic() - self.started
        if not self.stream:
            if self.copied < COPY:
                self.copy.append(piece)
            self.copied += len(piece)
            return
        if self.decoder is not None:
            piece = self.decoder.decompress(piece)
            if not piece:
                return
        data = self.tail + piece if self.tail else piece
        # What ends with an event's end is looked at by itself; of anything else the end is kept for the next piece.
        self.tail = b"" if data.endswith(b"\n\n") else data[-TAIL:]
        if self.first is None and _BEGUN.search(data):
            self.first = time.monotonic() - self.started
        if b"_tokens" in data:
            for name, pattern in _FIGURES.items():
                for figure in pattern.finditer(data):
                    # message_start and message_delta both have them; the later one counts, and zero is no news.
                    self.figures[name] = int(figure[1]) or self.figures.get(name, 0)
            if b"ephemeral_1h" in data:
                self.read_hour(data)
        if not self.answered_by and (named := _MODEL.search(data)):
            self.answered_by = named[1].decode("latin-1")
        if not self.complete and (b"message_stop" in data or b"[DONE]" in data or b"response." in data):
            self.complete = _DONE.search(data) is not None
        if not self.error_event and b"error" in data:
            self.error_event = _ERROR_EVENT.search(data) is not None

    def read_hour(self, data: bytes) -> None:
        for figure in _HOUR.finditer(data):
            self.hour = int(figure[1]) or self.hour

    def text(self, most: int = decoders.EXPANDED) -> bytes:
        """A plain answer's copy, decompressed as far as that can be done here."""
        raw = b"".join(self.copy)
        if self.decoder is not None:
            return bytes(self.decoder.decompress(raw, most))
        return raw

    def read(self) -> None:
        """Take what a plain answer says, now that the client has it."""
        if self.stream or not self.copied:
            return
        self.first = self.first_byte
        text = self.text()
        self.copy = []
        if self.piped and self.status >= 400:
            self.failure = self.failure or classify(self.status, (), text[:ERROR], self.aws)
            return
        try:
            answer = json.loads(text) if self.copied <= COPY else None
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            usage, model = answer.get("usage"), answer.get("model")
            if isinstance(model, str) and _MODEL.fullmatch(
                b'"model":"%b"' % model.encode("utf-8", "replace")
            ):
                self.answered_by = model
            for ours, theirs in _USAGE.items():
                if not isinstance(usage, dict):
                    usage = answer  # count_tokens has its figure on the first level
                counts = [usage[name] for name in theirs if isinstance(usage.get(name), int)]
                if counts and 0 <= counts[0] < 10**12:
                    self.figures[ours] = counts[0]
            written = usage.get("cache_creation") if isinstance(usage, dict) else None
            hour = written.get("ephemeral_1h_input_tokens") if isinstance(written, dict) else None
            self.hour = hour if isinstance(hour, int) and 0 <= hour < 10**12 else 0
            return
        for name, pattern in _FIGURES.items():
            for figure in pattern.finditer(text, max(0, len(text) - 4096)):
                self.figures[name] = int(figure[1])

    def take_limits(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep what Anthropic says of the login's limits: ``anthropic-ratelimit-unified-*``."""
        for name, value in headers:
            if len(name) > 28 and name[:28].lower() == LIMITS and len(self.limits) < MOST_LIMITS:
                self.limits[name[28:].decode("latin-1").lower()[:60]] = value.decode("latin-1")[:200]

    def trouble(self) -> str:
        """One of the words of docs/api.md; empty when all went well."""
        if not self.reached and self.status >= 400:
            return "refused"
        if self.client_gone and not self.complete and self.status < 400:
            return "client-gone"
        if self.status >= 400:
            if self.failure:
                return self.failure
            return "bad-request" if self.status < 500 else "upstream-error"
        if self.error_event:
            return self.failure or "upstream-error"
        if not self.status or (self.stream and not self.complete) or not self.ended:
            return "cut"
        return ""


class Meter:
    """``report`` takes the fields of one answered request; ``now`` requests are being answered.

    ``names`` says where a model group that LiteLLM routes leads; ``key`` is the proxy's own (what else a client sends
    is its login), ``salt`` goes into that login's hash.
    """

    def __init__(
        self,
        report: Report,
        names: Names = lambda group: {},
        key: str = "",
        salt: str = "",
    ) -> None:
        self.report = report
        self.names = names
        self.key = key.encode()
        self.salt = salt.encode()
        self.now = 0
        self.mistakes = 0
        self.prices: dict[tuple[str, str], tuple[float, float, float, float, float] | None] = {}

    # ------------------------------------------------------------------------------------------ the client

    def outside(self, app: App) -> App:
        """Wrap everything, what refuses requests too."""

        async def metered(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope.get("client") is None:
                await app(scope, receive, send)
                return
            exchange = Exchange(scope["path"])
            with self.safely():
                self.take_headers(scope, exchange)
            if scope["path"] not in PATHS or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            scope[EXCHANGE] = exchange
            exchange.send = send
            self.now += 1
            try:
                await app(scope, self.reading(exchange, receive), self.writing(exchange, send))
                if exchange.held is not None:
                    await send(exchange.held)
            finally:
                self.now -= 1
                with self.safely():
                    exchange.read()
                with self.safely():
                    self.report(self.fields(exchange))

        return metered

    def inside(self, app: App) -> App:
        """Wrap what only accepted requests reach."""

        async def reached(scope: Scope, receive: Receive, send: Send) -> None:
            exchange = scope.get(EXCHANGE)
            if exchange is not None:
                exchange.reached = True
            await app(scope, receive, send)

        return reached

    def take_headers(self, scope: Scope, exchange: Exchange) -> None:
        """Take our own headers out of the request, and note what it says of its conversation and its login."""
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        ours = False
        for name, value in headers:
            if name in _LOGINS:
                given = value[7:].strip() if value[:7].lower() == b"bearer " else value.strip()
                if given and given != self.key and not exchange.own:
                    exchange.own = given
            elif name.startswith(b"x-ocd-"):
                ours = True
            elif name in _OF_CLAUDE and _ID.fullmatch(value):
                setattr(exchange, _OF_CLAUDE[name], value.decode())
        if exchange.own and self.salt:
            exchange.login = hmac.new(self.salt, exchange.own, hashlib.sha256).hexdigest()[:16]
        if not ours:
            return
        kept = []
        for name, value in headers:
            if name == SESSION and value.isdigit() and len(value) < 12:
                exchange.session = int(value)
            elif name == HOP:
                exchange.hop = True
            elif name == PROBE:
                exchange.probe = True
            elif name == REQUEST and _ID.fullmatch(value):
                exchange.request = value.decode()
            elif name == ACCOUNT and _ACCOUNT.fullmatch(value):
                exchange.account = value.decode()
            elif not name.startswith(b"x-ocd-"):
                kept.append((name, value))
        scope["headers"] = kept

    def reading(self, exchange: Exchange, receive: Receive) -> Receive:
        async def read() -> Message:
            message = await receive()
            try:
                if message["type"] == "http.disconnect":
                    # Whoever asks after the end is told so as well.
                    exchange.client_gone = not exchange.ended
                elif not exchange.model and (found := _MODEL.search(message.get("body", b"")[:HEAD])):
                    exchange.model = found[1].decode("latin-1")
            except Exception:
                self.mistakes += 1
            return message

        return read

    def writing(self, exchange: Exchange, send: Send) -> Send:
        async def write(message: Message) -> None:
            # Not `safely`: this is passed for every piece of a stream, and a context manager is half of its time.
            try:
                if message["type"] == "http.response.body":
                    if piece := message.get("body", b""):
                        exchange.look(piece)
                    if not message.get("more_body"):
                        exchange.ended = True
                        exchange.complete = exchange.complete or not exchange.stream
                elif message["type"] == "http.response.start":
                    if exchange.piped:
                        exchange.begin(message["status"], message["headers"])
                    else:
                        self.begin(exchange, message)
                        if exchange.status >= 400 and exchange.reached:
                            exchange.held = message
                            return
                if exchange.held is not None:
                    held, exchange.held = exchange.held, None
                    self.failed(exchange, held)
                    await send(held)
            except Exception:
                self.mistakes += 1
            await send(message)

        return write

    def begin(self, exchange: Exchange, message: Message) -> None:
        """The head of an answer that is not the pipe's: LiteLLM's, or one of the boundary's."""
        with self.safely():
            self.routed(exchange)
        status = int(message["status"])
        for name, value in message.get("headers", ()):
            if name.lower() == TROUBLE and _WORD.match(word := value.decode("latin-1")):
                exchange.failure = word
        exchange.upstream_status = status
        message["status"] = self.status_for(exchange, status)
        headers = [
            (name, value) for name, value in message.get("headers", ()) if b"x-ocd-" not in name.lower()
        ]
        if exchange.hop and exchange.upstream:
            who = f"{exchange.upstream} {exchange.upstream_model}"
            headers.append((UPSTREAM, who.encode("ascii", "replace")))
        message["headers"] = headers
        exchange.begin(message["status"], headers)

    def routed(self, exchange: Exchange) -> None:
        """Name the upstream of a request that LiteLLM routed, from the configuration."""
        if not exchange.reached or exchange.upstream:
            return
        found = self.names(exchange.model)
        exchange.upstream = found.get("host", "")
        exchange.upstream_model = found.get("model", "") if found.get("provider") != "anthropic" else ""
        exchange.aws = found.get("provider") == "bedrock"

    def status_for(self, exchange: Exchange, status: int) -> int:
        """The status that Claude Code may see: one that speaks of a login only when it is the client's own."""
        if status not in LOGIN_STATUSES or not exchange.reached or exchange.hop:
            return status
        theirs = exchange.own and self.names(exchange.model).get("provider") == "anthropic"
        return status if theirs else FAILED_DEPENDENCY

    def failed(self, exchange: Exchange, message: Message) -> None:
        """An error of LiteLLM's, whose first piece is here: which of our words is it?"""
        if not exchange.failure:
            exchange.failure = classify(
                exchange.upstream_status, (), exchange.text(ERROR)[:ERROR], exchange.aws
            )
        if exchange.hop and exchange.failure:
            message["headers"] = [*message["headers"], (TROUBLE, exchange.failure.encode())]

    # ---------------------------------------------------------------------------------------- the figures

    def fields(self, exchange: Exchange) -> dict[str, Any]:
        """What the supervisor is told."""
        figures = exchange.figures
        tokens = {name: figures.get(name, 0) for name in _FIGURES}
        found: dict[str, Any] = {
            "time": round(time.time(), 3),
            "path": exchange.path,
            "model": exchange.model,
            "session": exchange.session,
            "hop": exchange.hop,
            "probe": exchange.probe,
            "upstream": exchange.upstream,
            "provider": self.provider(exchange),
            "answered_by": exchange.upstream_model or exchange.answered_by if exchange.status < 400 else "",
            "status": exchange.status,
            "stream": exchange.stream,
            "first": None if exchange.first is None else round(exchange.first, 4),
            "first_byte": None if exchange.first_byte is None else round(exchange.first_byte, 4),
            "seconds": round(time.monotonic() - exchange.started, 4),
            **tokens,
            "cost": self.cost(exchange, tokens),
            "fallback": exchange.fallback,
            "trouble": exchange.trouble(),
        }
        for name in ("session_id", "agent_id", "parent_agent_id", "login", "account", "limits", "request"):
            if value := getattr(exchange, name):
                found[name] = value
        return found

    def provider(self, exchange: Exchange) -> str:
        """Who was asked at last; empty: nobody, or nobody knows."""
        if not exchange.reached:
            return ""
        if exchange.aws:
            return "bedrock"
        return "anthropic" if exchange.piped else str(self.names(exchange.model).get("provider") or "")

    def cost(self, exchange: Exchange, tokens: dict[str, int]) -> float | None:
        """US dollars at the list price that LiteLLM's own table has; None when it has none."""
        if not any(tokens.values()) or exchange.path.endswith("/count_tokens"):
            return None
        provider = "bedrock" if exchange.aws or "bedrock" in exchange.upstream or exchange.hop else ""
        for name in (exchange.upstream_model, exchange.answered_by, exchange.model):
            if not name:
                continue
            key = (name, provider)
            if key not in self.prices:
                if len(self.prices) > 200:
                    self.prices.clear()
                self.prices[key] = _prices(name, provider)
            if prices := self.prices[key]:
                *usual, for_an_hour = prices
                total = sum(price * count for price, count in zip(usual, tokens.values(), strict=True))
                hour = min(exchange.hour, tokens["cache_write_tokens"])
                return round(total + hour * (for_an_hour - usual[-1]), 8)
        return None

    @contextlib.contextmanager
    def safely(self) -> Any:
        try:
            yield
        except Exception:
            self.mistakes += 1


def classify(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, aws: bool) -> str:
    """Our word for an upstream's error: by its status and its type, by words only where there is no type."""
    if aws:
        name = next((v.decode("latin-1") for n, v in headers if n.lower() == b"x-amzn-errortype"), "")
        name = name.partition(":")[0]
        if not name and (found := re.search(rb'"__type"\s*:\s*"(?:[^"#]*#)?(\w+)"', body)):
            name = found[1].decode()
        if _END_OF_LIFE.search(body) and (name == "ResourceNotFoundException" or status == 404):
            return "model-gone"
        if name == "ResourceNotFoundException" or _NO_ACCESS.search(body):
            return "model-access"
        if name in _AWS:
            return _AWS[name]
        if status != 429 and _NO_LOGIN.search(body):
            return "aws-expired"
        if _DENIED.search(body) or status in LOGIN_STATUSES:
            return "access-denied"
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


def _prices(name: str, provider: str) -> tuple[float, float, float, float, float] | None:
    """US dollars per token: input, output, read from the cache, written to it, written to it for an hour.

    The last is twice the input's price (Anthropic and AWS: prompt caching, pricing) where LiteLLM's table has none.
    """
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
            hour = info.get("cache_creation_input_token_cost_above_1hr")
            if hour is None:
                hour = put if write is None else 2 * put
            return (put, out, put if read is None else read, put if write is None else write, hour)
    return None
