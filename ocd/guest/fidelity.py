"""What Claude Code said reaches Anthropic as it said it, and what Anthropic answers comes back as it answered.

LiteLLM 1.106.2 loses on the way up ``?beta=true``, the ``User-Agent`` and other headers, and top-level fields that it
does not know; on the way back it makes 500 of 529 and 400 of 413, wraps the error's text, and drops ``retry-after`` and
the plan-limit headers, so that Claude Code tells its user the wrong thing (docs/fidelity.md has the list per version).
Here they are put back, for requests of ``/v1/messages`` that go to Anthropic's own API with the very credential that
the client sent, and for nothing else. Nothing is invented: every value is the client's or the upstream's own.

What the user's configuration sets or drops on purpose stays so: fields named in any ``additional_drop_params`` or set
in any ``litellm_params`` are left as LiteLLM has them.

Loaded by path inside a guest: uses what LiteLLM brings, and nothing of ocd.
"""

import contextlib
import importlib
import json
import re
from collections.abc import MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

PATH = "/v1/messages"
#: headers that belong to one connection, to a proxy's own business, or to a credential
_KEPT_BACK = frozenset(
    {
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-type",
        "content-encoding",
        "accept-encoding",
        "expect",
        "cookie",
        "origin",
        "referer",
        "forwarded",
        "via",
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
    }
)
_KEPT_BACK_STARTS = ("x-litellm-", "x-ocd-", "x-forwarded-", "x-real-")
#: top-level fields that are orders to LiteLLM, not to Anthropic
_FOR_LITELLM = re.compile(
    r"litellm|guardrail|fallback|num_retries|timeout|mock_|cache$|caching|no-log|^tags$|region|^user$|deployment"
    r"|api_|base_url|organization|max_budget|budget_duration|model_info|^model$|policies|prompt_|router|stream_"
)
#: fields that LiteLLM rewrites; any other that both have is as the client sent it, or was changed on purpose
_REWRITTEN = ("thinking", "output_config")
#: headers of an answer that Claude Code looks at
_BACK = re.compile(
    r"^(request-id|retry-after(-ms)?|x-should-retry|anthropic-(ratelimit-.*|organization-id))$"
)
_LARGEST_ERROR = 262_144


class Asked:
    """The client's request, kept until its answer begins."""

    __slots__ = ("body", "headers", "query")

    def __init__(self, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
        self.headers = headers
        self.query = query
        self.body: list[bytes] = []


class Fidelity:
    """``untouched`` are fields that the configuration decides about."""

    def __init__(self, untouched: frozenset[str]) -> None:
        self.untouched = untouched

    @staticmethod
    def asked(headers: list[tuple[bytes, bytes]], query: bytes) -> Asked:
        """Begin to keep a client's request; its body's pieces are added to ``body``."""
        return Asked(headers, query)

    # ------------------------------------------------------------------------------------------------- up

    def request(self, asked: Asked, request: Any) -> Any:
        """The request as it should go out: ``request`` itself where nothing is to be put back."""
        if not self.is_ours(asked, request):
            return request
        import httpx

        url = request.url
        if asked.query and not url.query:
            url = url.copy_with(query=asked.query)
        headers = httpx.Headers(request.headers)
        for raw_name, raw_value in asked.headers:
            name = raw_name.decode("latin-1").lower()
            if name in _KEPT_BACK or name.startswith(_KEPT_BACK_STARTS):
                continue
            value = raw_value.decode("latin-1")
            headers[name] = _joined(value, headers.get(name, "")) if name == "anthropic-beta" else value
        body = request.content
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            body = self._body(b"".join(asked.body), body)
        headers["content-length"] = str(len(body))
        return httpx.Request(
            request.method, url, headers=headers, content=body, extensions=request.extensions
        )

    @staticmethod
    def is_ours(asked: Asked, request: Any) -> bool:
        """It goes to the Messages API with the client's own credential (none of the configuration's)."""
        if not request.url.path.endswith(PATH) or request.method != "POST":
            return False
        for name in ("authorization", "x-api-key"):
            sent = request.headers.get(name, "")
            given = [value.decode("latin-1") for key, value in asked.headers if key.lower() == name.encode()]
            if sent and sent in given:
                return True
        return False

    def _body(self, asked: bytes, sent: bytes) -> bytes:
        """``sent`` with those of the client's top-level fields that it lacks, or that LiteLLM rewrites or makes up."""
        theirs, ours = _loads(asked), _loads(sent)
        if not isinstance(theirs, dict) or not isinstance(ours, dict):
            return sent
        changed = False
        for name, value in theirs.items():
            if name in self.untouched or _FOR_LITELLM.search(name):
                continue
            if name not in ours or (name in _REWRITTEN and ours[name] != value):
                ours[name] = value
                changed = True
        for name in _REWRITTEN:
            # 1.99.4 makes an effort of a thinking budget.
            if name in ours and name not in theirs and name not in self.untouched:
                del ours[name]
                changed = True
        return _dumps(ours) if changed else sent

    # ----------------------------------------------------------------------------------------------- back

    def answered(
        self, status: int, headers: Any, body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes | None]:
        """What to keep of the upstream's answer: status, the headers that count, an error's body."""
        kept = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
            if _BACK.match(name.lower())
        ]
        if status < 400:
            return status, kept, None
        kept.append((b"content-type", headers.get("content-type", "application/json").encode("latin-1")))
        return status, kept, body if len(body) <= _LARGEST_ERROR else None

    @staticmethod
    def begin(kept: tuple[int, list[tuple[bytes, bytes]], bytes | None], message: Message) -> bytes | None:
        """Give the answer's start the upstream's headers, and an error the upstream's status.

        Returns the body to send instead of LiteLLM's, or None: leave that.
        """
        status, headers, body = kept
        failed = message["status"] >= 400
        if failed != (status >= 400):
            # LiteLLM made something else of it, or another answered: that is its own affair.
            return None
        if failed and body is None:
            return None
        put = {name for name, _value in headers}
        if failed:
            put |= {b"content-length", b"content-encoding", b"transfer-encoding"}
        rest = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in put]
        if not failed or body is None:
            message["headers"] = rest + headers
            return None
        message["status"] = status
        message["headers"] = [*rest, *headers, (b"content-length", str(len(body)).encode())]
        return body


def _joined(theirs: str, ours: str) -> str:
    """The client's list of betas, in its order, and behind it what LiteLLM adds for a feature of its own."""
    named = [one.strip() for one in theirs.split(",") if one.strip()]
    return ",".join(
        [*named, *(one.strip() for one in ours.split(",") if one.strip() and one.strip() not in named)]
    )


def _json() -> Any:
    """LiteLLM's proxy brings a fast one; a version that does not, has the standard library's."""
    try:
        return importlib.import_module("orjson")
    except ImportError:
        return json


def _loads(text: bytes) -> Any:
    return _json().loads(text)


def _dumps(value: Any) -> bytes:
    # Numbers beyond 64 bits and lone surrogates are what the fast one cannot do: then the request goes as it was.
    text = _json().dumps(value)
    return text if isinstance(text, bytes) else str(text).encode()


def untouched(config: str) -> frozenset[str]:
    """The fields that a LiteLLM file sets or drops itself. Whatever it is: never raises."""
    found: set[str] = set()
    with contextlib.suppress(Exception):
        yaml = importlib.import_module("yaml")
        with open(config, encoding="utf-8") as file:
            loaded = yaml.safe_load(file)
        for model in loaded.get("model_list") or []:
            params = model.get("litellm_params") or {}
            found.update(str(name) for name in params)
            found.update(str(name) for name in params.get("additional_drop_params") or [])
        settings = loaded.get("litellm_settings") or {}
        found.update(str(name) for name in settings.get("additional_drop_params") or [])
    return frozenset(found)
