"""The credential boundary: an ASGI layer in front of LiteLLM that does not depend on LiteLLM's version.

Runs under LiteLLM's interpreter, loaded by path: standard library only, imports nothing of ocd.

*main* lets a request through that carries our key (``x-litellm-api-key``, or ``Authorization`` for plain clients).
Everything else is answered with 403, a key that is not ours with 424 where Claude Code asks for a model: a 401
makes it refresh the user's plan token, a 403 ask for a login (2.1.332), 424 it shows as it is. Requests with a
browser's ``Origin`` or a ``Host`` that is not this machine's loopback are refused (DNS rebinding).

*bedrock* needs its own key and refuses every request that carries an Anthropic credential (``sk-ant-`` in the
path, the query, any header, or a string of the body's first level). What was found is never logged or
reported, only where.

Both serve the routes of a model gateway and close everything else: LiteLLM's pass-through routes go outbound
with whatever they are given, and its admin routes change what serves. A list of what is open, not of what is
closed, because every LiteLLM version brings new ones. Keys and addresses pushed in a request body are
refused.
"""

import asyncio
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Report = Callable[[dict[str, Any]], None]
Direct = Callable[[Scope, bytes], bool]

#: bytes of a request body that are held in memory while it is looked at
BODY_LIMIT = 64 * 1024 * 1024
#: seconds between two reports of the same refusal; credentials are reported one by one
REPORT_PAUSE = 10.0

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})

#: (method, path) that need no key: Claude Code's greeting, and liveness, which proves and costs nothing
OPEN = frozenset(
    {
        ("HEAD", "/"),
        ("HEAD", "/api/hello"),
        ("GET", "/api/hello"),
        ("GET", "/health/liveliness"),
        ("HEAD", "/health/liveliness"),
        ("GET", "/health/liveness"),
        ("HEAD", "/health/liveness"),
        ("GET", "/health/readiness"),
        ("HEAD", "/health/readiness"),
    }
)

#: What clients of a model gateway use. Below a path that ends in a slash everything is open.
ROUTES = (
    "/",
    "/api/hello",
    "/api/event_logging/batch",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/chat/completions",
    "/v1/chat/completions",
    "/completions",
    "/v1/completions",
    "/responses",
    "/responses/",
    "/v1/responses",
    "/v1/responses/",
    "/embeddings",
    "/v1/embeddings",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/models",
    "/v1/models",
    "/v1/models/",
    "/model/info",
    "/v1/model/info",
    "/model_group/info",
    "/utils/token_counter",
    "/utils/supported_openai_params",
    "/moderations",
    "/v1/moderations",
    "/images/generations",
    "/v1/images/generations",
    "/audio/speech",
    "/v1/audio/speech",
    "/audio/transcriptions",
    "/v1/audio/transcriptions",
    "/realtime",
    "/v1/realtime",
    "/health",
    "/health/liveliness",
    "/health/liveness",
    "/health/readiness",
    "/health/readiness/details",
    "/health/backlog",
    "/metrics",
    "/metrics/",
)

#: what a session of another time or installation is refused for, and where Claude Code asks for a model
_KEYS = ("no-key", "wrong-key")
#: what is refused before the key was looked at, or for want of it; so many a second at once, the others after so long
_STRANGERS = frozenset({*_KEYS, "origin", "host", "credential"})
_AT_ONCE, _TARRY = 20.0, 5.0
_CLAUDE_CODES = frozenset({"/v1/messages", "/v1/messages/count_tokens"})

#: First parts of LiteLLM's pass-through routes (1.106.12, LiteLLMRoutes.mapped_pass_through_routes in
#: litellm/proxy/_types.py). They name the refusal and what ``pass_through`` opens; one that is missing here
#: is closed as well.
PASS_THROUGH = frozenset(
    {
        *(
            "anthropic",
            "assemblyai",
            "azure",
            "azure_ai",
            "azure_speech",
            "backend-api",
            "bedrock",
            "bespoke",
        ),
        *(
            "cohere",
            "comprehendmedical",
            "cursor",
            "deepgram",
            "eu.assemblyai",
            "fal_ai",
            "gemini",
            "gigachat",
            "langfuse",
        ),
        *(
            "laya",
            "milvus",
            "mistral",
            "nvidia_nim",
            "openai",
            "openai_passthrough",
            "openrouter",
            "tinyfish",
        ),
        *("transcribe", "typesafe", "vertex-ai", "vertex_ai", "vllm", "watsonx"),
    }
)

#: Body keys that choose a credential or an address for the request upstream.
PUSHED = frozenset(
    {
        "api_key",
        "api_base",
        "base_url",
        "api_version",
        "headers",
        "default_headers",
        "extra_headers",
        "user_config",
        "model_list",
        "litellm_credential_name",
        "credential_name",
        "litellm_params",
        "custom_llm_provider",
        "use_litellm_proxy",
        # another model at Bedrock than the route's, and headers of the client's own choice
        "model_id",
        "deployment_id",
        "provider_specific_header",
    }
)
PUSHED_STARTS = ("aws_", "vertex_", "azure_")
PUSHED_ENDS = (
    *("_api_key", "_api_base", "_base_url", "_secret_key"),
    *("_access_key", "_credentials", "_auth_token"),
)
#: Containers of the first level whose content LiteLLM spreads into the call: their keys count as first level.
_SPREAD = frozenset({"extra_body", "litellm_metadata", "metadata", "litellm_embedding_config", "fallbacks"})

#: A body in which none of the three is found holds no pushed key. Looking costs a third of parsing, and a
#: pattern that begins with one plain byte is searched for with memchr: every name above has an underscore,
#: but "headers".
_PUSHED_HINT = re.compile(
    rb"_(?:(?:key|base|url|version|headers|config|list|name|params|provider|proxy|token|credentials|header)\""
    rb'|(?<="model_)id"|(?<="deployment_)id"|(?<="aws_)|(?<="vertex_)|(?<="azure_))'
)
_HEADERS_HINT = b'"headers"'
#: JSON may spell any letter as an escape; nobody but somebody who hides does so with printable ASCII.
_HIDDEN_HINT = re.compile(rb"\\u00[2-7]")
_CREDENTIAL = b"sk-ant-"


class Refusal(Exception):
    """An answer of ours instead of LiteLLM's: ``why`` is a plain word for reports, ``message`` for people."""

    def __init__(self, status: int, kind: str, why: str, message: str, *, where: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.kind = kind
        self.why = why
        self.message = message
        self.where = where


def wrap(
    app: App,
    policy: dict[str, Any],
    report: Report,
    direct: Direct | None = None,
    known: Callable[[Any], None] | None = None,
) -> App:
    """``app`` behind the boundary.

    ``known`` gets the ``client`` of each request that has shown the key. ``direct``: whether a request leaves this
    process as it came, so that its body gives LiteLLM no orders.

    ``policy``: ``role`` ("main" or "bedrock") and ``key`` (that proxy's own); optional ``pass_through`` and
    ``admin`` (true opens those routes), ``body_limit`` (bytes), ``hosts`` (names beside loopback that
    ``Host`` may have). ``report`` gets ``{"kind": "credential-refused", "where": …}`` for each Anthropic
    credential that was stopped, and ``{"kind": "request-refused", "why": …, "count": n}`` for the rest, at
    most every ten seconds for each reason.

    Raises ValueError when role or key are missing: better no proxy than an open one.
    """
    return Boundary(app, policy, report, direct, known)


class Boundary:
    def __init__(
        self,
        app: App,
        policy: dict[str, Any],
        report: Report,
        direct: Direct | None = None,
        known: Callable[[Any], None] | None = None,
    ) -> None:
        role, key = policy.get("role"), policy.get("key")
        if role not in ("main", "bedrock"):
            raise ValueError("the boundary's policy needs a role: main or bedrock")
        if not isinstance(key, str) or len(key) < 16:
            raise ValueError("the boundary's policy needs the proxy's key")
        self.app = app
        self.role: str = role
        self.report = report
        self.direct = direct if role == "main" else None
        self.known = known
        self._key = key.encode()
        self._pass_through = bool(policy.get("pass_through"))
        self._admin = bool(policy.get("admin"))
        self._limit = int(policy.get("body_limit") or BODY_LIMIT)
        self._hosts = LOOPBACK | {str(name).lower() for name in policy.get("hosts") or ()}
        self._paths = frozenset(ROUTES)
        self._below = tuple(path for path in ROUTES if path.endswith("/") and path != "/")
        self._allowance, self._refused_at = _AT_ONCE, time.monotonic()
        self._reported: dict[str, tuple[float, int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            return await self.app(scope, receive, send)
        try:
            if kind not in ("http", "websocket"):
                raise _refused("protocol", f"The {self.role} proxy does not speak {kind}.")
            self.check_head(scope)
            if (scope.get("method"), scope["path"]) in OPEN:
                # Whoever has no key has nothing to say: what is sent along is not kept (the server drops it).
                receive = _replay(b"", receive)
            elif kind == "http" and _may_have_body(scope["headers"]):
                body = await self.read_body(scope, receive)
                if body is None:
                    return
                if self.direct is None or not self.direct(scope, body):
                    self.check_body(scope["headers"], body)
                receive = _replay(body, receive)
        except Refusal as refusal:
            self.tell(refusal)
            if refusal.why in _STRANGERS and not self._may_refuse_at_once():
                await asyncio.sleep(_TARRY)
            if self.role == "main" and refusal.why in _KEYS and scope["path"] in _CLAUDE_CODES:
                refusal.status = 424
            # The server's access log reads path and query from here when the answer starts.
            scope["query_string"] = b""
            if refusal.where == "path":
                scope["path"], scope["raw_path"] = "/", b"/"
            return await _answer(kind, refusal, send)
        await self.app(scope, receive, send)

    def _may_refuse_at_once(self) -> bool:
        """Whether strangers are still few. A crowd that is refused at once comes again at once; it waits instead."""
        now = time.monotonic()
        self._allowance = min(_AT_ONCE, self._allowance + (now - self._refused_at) * _AT_ONCE)
        self._refused_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    # ---- before the body

    def check_head(self, scope: Scope) -> None:
        """Everything that can be said without the body. Raises Refusal."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        path: str = scope["path"]
        query: bytes = scope.get("query_string") or b""
        if self.role == "bedrock":
            self.check_no_credential(scope, headers, query)
        elif query and _has_credential(query):
            # It would stand in the access log.
            text = "Credentials belong into the Authorization header, never into the address."
            raise Refusal(400, "invalid_request_error", "credential-in-query", text)
        method: str = scope.get("method", "GET")
        private = _is_private(scope)
        if not private:
            self.check_origin(headers)
        if (method, path) in OPEN:
            return
        if not private:
            self.check_key(headers)
            if self.known is not None:
                self.known(scope.get("client"))
        self.check_route(path)
        if query and query != b"beta=true":
            names = (name for name, _value in parse_qsl(query.decode("latin-1"), keep_blank_values=True))
            self.check_names(names, "query")

    def check_no_credential(self, scope: Scope, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
        path = scope["path"].encode("utf-8", "replace")
        if _has_credential(path) or _has_credential(scope.get("raw_path") or b""):
            raise _credential("path")
        if query and _has_credential(query):
            raise _credential("query")
        for name, value in headers:
            if _has_credential(value) or _has_credential(name):
                shown = name.decode("latin-1").lower() if not _has_credential(name) else "name"
                raise _credential(f"header {shown}")

    def check_origin(self, headers: list[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            lower = name.lower()
            if lower == b"origin":
                raise _refused("origin", "Requests from web pages are refused. Use a program, not a browser.")
            if lower == b"host" and _host(value) not in self._hosts:
                text = "The request names another host than this machine. Use 127.0.0.1, localhost or [::1]."
                raise _refused("host", text)

    def check_key(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Our own header decides if there is one; all its values must be right, LiteLLM may take any."""
        own = [value for name, value in headers if name.lower() == b"x-litellm-api-key"]
        given = own or [value for name, value in headers if name.lower() == b"authorization"]
        # No `all(...)`: every value is compared, so that the time says nothing.
        good = [hmac.compare_digest(_bare(value), self._key) for value in given]
        if not good or not min(good):
            if self.role == "main":
                what = "start Claude Code with openclaude"
            else:
                what = "this proxy is for the main proxy alone; start Claude Code with openclaude"
            why = "wrong-key" if good else "no-key"
            had = "a key of another installation" if own else "no key of this installation"
            raise _refused(why, f"The request has {had}: {what}.")

    def check_route(self, path: str) -> None:
        if path in self._paths:
            return
        parts = path.split("/")
        # Dots and double slashes are no route of anybody; a server behind us might still resolve them.
        if (path.startswith(self._below) and ".." not in parts and "" not in parts[1:-1]) or (
            self._pass_through and self._admin
        ):
            return
        first = parts[1].lower() if len(parts) > 1 else ""
        if first in PASS_THROUGH:
            if not self._pass_through:
                raise _refused(
                    "pass-through",
                    "LiteLLM's pass-through routes are closed; boundary.pass_through in ocd.toml opens them.",
                )
        elif not self._admin:
            raise _refused(
                "admin",
                "This route of LiteLLM is not open here (admin pages, management and the like). "
                "boundary.admin in ocd.toml opens it; models are added in the LiteLLM file.",
            )

    # ---- the body

    async def read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client went away in the middle. Raises Refusal when it is too big."""
        length = _first(scope["headers"], b"content-length")
        if length is not None and length.isdigit() and int(length) > self._limit:
            raise self.too_large()
        chunks: list[bytes] = []
        total = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            chunk = message.get("body", b"")
            total += len(chunk)
            if total > self._limit:
                raise self.too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def too_large(self) -> Refusal:
        limit = f"{self._limit / 1048576:.4g} MiB"
        text = f"The request's body is larger than {limit}. Compact the conversation or send smaller files."
        return Refusal(413, "request_too_large", "too-large", text)

    def check_body(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Raises Refusal when the body carries what no client may send."""
        if not body:
            return
        encodings = _all(headers, b"content-encoding")
        if encodings.strip(b", ") not in (b"", b"identity"):
            text = "Compressed request bodies are refused, nobody could look into them. Send it plain."
            raise Refusal(415, "invalid_request_error", "encoding", text)
        credential = self.role == "bedrock" and _CREDENTIAL in body.lower()
        suspect = (
            credential
            or _PUSHED_HINT.search(body) is not None
            or _HEADERS_HINT in body
            or _HIDDEN_HINT.search(body) is not None
            # A 16- or 32-bit encoding would hide all of them.
            or b"\x00" in body[:4]
        )
        kind = _all(headers, b"content-type")
        # Which types LiteLLM takes for a form, and which for JSON, changed over its versions: look at both.
        form = b"form" in kind
        if form:
            self.check_form(body, kind, credential)
        if not suspect:
            return
        try:
            top = _parse(body)
        except (ValueError, RecursionError):
            if credential:
                raise _credential("body") from None
            if form:
                return
            # LiteLLM repairs some broken JSON; what we cannot read, we cannot vouch for.
            text = "The request's body is not JSON."
            raise Refusal(400, "invalid_request_error", "not-json", text) from None
        if isinstance(top, _Pairs):
            self.check_pairs(top, "")

    def check_pairs(self, pairs: "_Pairs", inside: str) -> None:
        self.check_names((name for name, _value in pairs), "body")
        for name, value in pairs:
            if self.role == "bedrock" and (_text_credential(name) or _text_credential(value)):
                shown = _plain(name) if not _text_credential(name) else "(name)"
                raise _credential(f"body {inside}{shown}")
            if not inside and name in _SPREAD:
                for one in value if type(value) is list else [value]:
                    if isinstance(one, _Pairs):
                        self.check_pairs(one, f"{name}.")

    def check_form(self, body: bytes, kind: bytes, credential: bool) -> None:
        """Form bodies (file uploads): a credential anywhere is refused, the fields' names are checked."""
        if b"urlencoded" in kind:
            pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True)
            credential = self.role == "bedrock" and any(_text_credential(value) for _name, value in pairs)
            names: Iterable[str] = [name for name, _value in pairs]
        else:
            names = [one.decode("latin-1") for one in re.findall(rb'(?i:name)\s*=\s*"?([^";\r\n]+)', body)]
        if credential:
            raise _credential("body")
        self.check_names(names, "body")

    def check_names(self, names: Iterable[str], where: str) -> None:
        for name in names:
            if name in PUSHED or name.startswith(PUSHED_STARTS) or name.endswith(PUSHED_ENDS):
                raise Refusal(
                    400,
                    "invalid_request_error",
                    "pushed-key",
                    f"The request's {where} sets {_plain(name)!r}. Credentials and addresses come from the "
                    "proxy's configuration alone: put it into the LiteLLM file (see occtl config path).",
                )

    # ---- reports

    def tell(self, refusal: Refusal) -> None:
        if refusal.why == "credential":
            self.report({"kind": "credential-refused", "where": refusal.where})
            return
        now = time.monotonic()
        last, count = self._reported.get(refusal.why, (-REPORT_PAUSE, 0))
        if now - last >= REPORT_PAUSE:
            self._reported[refusal.why] = (now, 0)
            self.report({"kind": "request-refused", "why": refusal.why, "count": count + 1})
        else:
            self._reported[refusal.why] = (last, count + 1)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its pairs: a key that stands twice must not hide one of its values."""


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_Pairs)
    except UnicodeDecodeError:
        return json.loads(body.decode("utf-8", "replace"), object_pairs_hook=_Pairs)


def _refused(why: str, message: str) -> Refusal:
    return Refusal(403, "permission_error", why, message)


def _credential(where: str) -> Refusal:
    text = (
        f"This is the AWS side: the request carries an Anthropic credential ({where}) and was refused, "
        "nothing was sent. The main proxy must reach this one with its own key: run occtl config check, and "
        "start Claude Code with openclaude."
    )
    return Refusal(403, "permission_error", "credential", text, where=where)


def _is_private(scope: Scope) -> bool:
    """True on the guest's own UNIX socket: there uvicorn's server is (path, None), see its get_local_addr."""
    server = scope.get("server")
    return server is not None and server[1] is None and scope.get("client") is None


def _may_have_body(headers: list[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        lower = name.lower()
        if lower == b"transfer-encoding" or (lower == b"content-length" and value.strip() != b"0"):
            return True
    return False


def _first(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name.lower() == wanted), None)


def _all(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    return b",".join(value for name, value in headers if name.lower() == wanted).lower()


def _bare(value: bytes) -> bytes:
    """The key in ``Bearer KEY`` or ``KEY``."""
    value = value.strip()
    return value[7:].strip() if value[:7].lower() == b"bearer " else value


def _host(value: bytes) -> str:
    """A Host header's name without its port, in lower case."""
    text = value.decode("latin-1").strip().lower()
    name, colon, port = text.rpartition(":")
    plain = colon and (port.isdigit() or not port) and (name.endswith("]") or ":" not in name)
    return name if plain else text


def _has_credential(raw: bytes) -> bool:
    if b"%" in raw:
        # Twice, because some clients encode what is encoded already.
        once = unquote_to_bytes(raw)
        return _CREDENTIAL in (raw + b" " + once + b" " + unquote_to_bytes(once)).lower()
    return _CREDENTIAL in raw.lower()


def _text_credential(value: object) -> bool:
    return isinstance(value, str) and _has_credential(value.encode("utf-8", "replace"))


def _plain(name: str) -> str:
    """A client's own word, cut down to what may stand in a log."""
    return re.sub(r"[^\w.-]", "?", name)[:60]


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once, then what the server has: the client's going away."""
    waiting: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return again


async def _answer(kind: str, refusal: Refusal, send: Send) -> None:
    """The refusal in Anthropic's error form (API reference, Errors); a websocket is closed unaccepted.

    A body that is still on its way is read and dropped by uvicorn after the answer, so that it is not lost.
    """
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": f"ocd: {refusal.why}"})
        return
    error = {"type": refusal.kind, "message": f"ocd: {refusal.message}"}
    body = json.dumps({"type": "error", "error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-should-retry", b"false"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
