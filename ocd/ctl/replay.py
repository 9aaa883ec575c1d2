"""``occtl trace replay``: a kept request once more, through the proxy that had it, with today's key of ours.

What is masked in the file is not known any more. Our own key is put in anew; the login of a request that goes to
Anthropic is taken from the variables that Claude Code itself takes it from, and from nowhere else.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ocd.errors import EX_DATAERR, EX_UNAVAILABLE, OcdError
from ocd.mask import MASK

#: variables of Claude Code's → the header that it makes of them
LOGINS = {
    "ANTHROPIC_AUTH_TOKEN": "authorization",
    "CLAUDE_CODE_OAUTH_TOKEN": "authorization",
    "ANTHROPIC_API_KEY": "x-api-key",
}
#: of one connection (RFC 9110, 7.6.1), or said anew by the client that sends it again
_OF_A_CONNECTION = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "accept-encoding",
        "content-encoding",
        "expect",
    ]
)
#: seconds until an answer has to begin, and between two pieces of it
PATIENCE = 600.0


@dataclass(frozen=True)
class Again:
    """A request as it is sent again. ``masked``: how many places of its body are not what they were."""

    target: str
    headers: list[tuple[str, str]]
    body: bytes
    masked: int


def prepare(kept: Mapping[str, Any], key: str, environ: Mapping[str, str]) -> Again:
    """The request of a kept exchange with our ``key`` and the login of ``environ``, where there is one.

    Raises OcdError (exit 65) when not all of its body was kept.
    """
    body = kept["body"]
    if body["cut"] or body["note"]:
        raise OcdError(
            "The request cannot be sent again",
            f"not all of it was kept: {body['note'] or 'it was cut'}",
            "Choose another one of `occtl trace list`",
            exit_code=EX_DATAERR,
            code="trace-not-whole",
        )
    headers = [(name, value) for name, value in kept["headers"] if _stays(name, value)]
    headers.append(("x-litellm-api-key", f"Bearer {key}"))
    login = next((name for name in LOGINS if environ.get(name)), "") if kept["proxy"] == "main" else ""
    if login:
        scheme = "Bearer " if LOGINS[login] == "authorization" else ""
        headers.append((LOGINS[login], scheme + environ[login]))
    query = urlencode([(name, value) for name, value in kept["query"]])
    text = body["text"]
    return Again(kept["path"] + (f"?{query}" if query else ""), headers, text.encode(), text.count(MASK))


def _stays(name: str, value: str) -> bool:
    low = name.lower()
    return low not in _OF_A_CONNECTION and not low.startswith("x-ocd-") and MASK not in value


@dataclass
class Answer:
    """What came back. Times are seconds from the moment of sending; ``first`` is None when no byte came."""

    status: int
    headers: list[tuple[str, str]]
    first: float | None = None
    seconds: float = 0.0


def send(again: Again, address: str, method: str) -> Iterator[Answer | bytes]:
    """Send it to the proxy at ``address``: first the Answer, whose times are filled in later, then the body in pieces.

    Raises OcdError (exit 69) when there is no answer, or it breaks off.
    """
    import httpx

    began = time.monotonic()
    patience = httpx.Timeout(PATIENCE, connect=5.0)
    try:
        with (
            httpx.Client(timeout=patience, trust_env=False, verify=False) as client,
            client.stream(method, address + again.target, headers=again.headers, content=again.body) as got,
        ):
            answer = Answer(got.status_code, list(got.headers.multi_items()))
            yield answer
            for piece in got.iter_bytes():
                if answer.first is None:
                    answer.first = time.monotonic() - began
                yield piece
            answer.seconds = time.monotonic() - began
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Its text may name headers: the kind says enough.
        raise OcdError(
            "The proxy did not answer to the end",
            type(error).__name__,
            "Look at `occtl status` and `occtl logs`",
            exit_code=EX_UNAVAILABLE,
            code="replay-broke-off",
        ) from None
