"""Errors in Anthropic's words: what AWS, LiteLLM or we refuse becomes a status, a type and a message. Pure.

Sources: Anthropic's API reference (Errors); Amazon Bedrock's API reference (Converse, ConverseStream, Common errors).
The status is chosen by what Claude Code does with it (measured with 2.1.197 and 2.1.332): 401 renews the plan's login
and 403 asks for /login, though neither has anything to do with AWS; 404 is told as "an issue with the selected model",
whatever it says; 424 is shown as it is and not repeated; 429 and 5xx are repeated. A prompt that is too long must
carry Anthropic's wording or a ``capability_rejected:`` token, or the conversation is never compacted.
"""

import json
import re
from typing import Any

#: AWS's refusals of our credentials: shown as they are, not repeated, and no reason for Claude Code to log in again.
DEPENDENCY = 424
#: seconds; Bedrock itself never says when to come back
RETRY_AFTER = 5
#: characters of somebody else's message that are passed on
LONGEST = 2000
#: characters of it that are looked at
LOOKED_AT = 8192

#: status → Anthropic's error type (API reference, Errors)
TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    424: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: AWS's exception → status of ours. In an event stream their names begin with a small letter.
_STATUS = {
    "AccessDeniedException": DEPENDENCY,
    "AccessDenied": DEPENDENCY,
    "UnrecognizedClientException": DEPENDENCY,
    "InvalidSignatureException": DEPENDENCY,
    "IncompleteSignature": DEPENDENCY,
    "IncompleteSignatureException": DEPENDENCY,
    "MissingAuthenticationToken": DEPENDENCY,
    "MissingAuthenticationTokenException": DEPENDENCY,
    "NotAuthorized": DEPENDENCY,
    "OptInRequired": DEPENDENCY,
    "ExpiredTokenException": DEPENDENCY,
    "ExpiredToken": DEPENDENCY,
    "RequestExpired": DEPENDENCY,
    "ValidationException": 400,
    "ResourceNotFoundException": DEPENDENCY,
    "ThrottlingException": 429,
    "TooManyRequestsException": 429,
    "ServiceQuotaExceededException": 429,
    "ModelNotReadyException": 529,
    "ServiceUnavailableException": 529,
    "ModelTimeoutException": 504,
    "ModelErrorException": 502,
    "ModelStreamErrorException": 502,
    "InternalServerException": 500,
    "InternalFailure": 500,
}
#: the status of an upstream that gave no name
_BARE = {401: DEPENDENCY, 402: DEPENDENCY, 403: DEPENDENCY, 404: DEPENDENCY, 408: 504, 424: 502, 503: 529}

_ADVICE = {
    "expired": "Run occtl aws login, then try again.",
    "none": "No AWS credentials can be used: run occtl aws status, it says what is missing.",
    "denied": "Run occtl aws status: it says which permission or setting is missing.",
    "access": "Enable the model in the Bedrock console (Model access, this region), or run occtl models.",
    "model": "Run occtl models for ids that are valid in this region.",
}

_TOO_LONG = re.compile(
    r"(?:input|prompt|request|context|messages?)[^.]{0,40}\btoo long\b|too many (?:input |total )?tokens"
    r"|exceed\w{0,6}[^.]{0,60}(?:context (?:length|window)|input (?:length|token)"
    r"|maximum (?:number of )?(?:input )?tokens)"
    r"|(?:maximum context length|context length exceeded|context window (?:is |was )?exceeded|exceed_context)"
    r"|longer than the (?:maximum|max)|maximum (?:input|prompt) (?:length|tokens?)|input token count",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"(\d{4,9})\D{1,80}?(\d{4,9})")
_MAX_TOKENS = re.compile(r"maximum tokens you requested exceeds the model limit of (\d+)", re.IGNORECASE)
#: LiteLLM's words around the upstream's: ``litellm.BadRequestError: BedrockException - {"message":"…"}``
_WRAPPING = re.compile(
    r"^\s*(?:(?:litellm\.)+|(?:\w+(?:Error|Exception))\s*[:-]\s*|Error code: \d+ - |bedrock\w*\s*[:-]\s*)+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:No fallback model group found|Received Model Group=|Available Model Group Fallbacks=|LiteLLM Retried:"
    r"|LiteLLM Max Retries:|Pass in the messages|Check your (?:\S+ )?key|Traceback \(most recent).*$",
    re.DOTALL,
)
_NO_CREDENTIALS = re.compile(
    r"unable to locate credentials|partial credentials|config profile .{0,200}could not be found|no credentials",
    re.IGNORECASE,
)
_EXPIRED = re.compile(r"\bexpired\b|sso session", re.IGNORECASE)
_ACCESS = re.compile(
    r"access to the model|model access|is not authorized to invoke this model", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"model identifier is invalid|could not resolve the foundation model|on-demand throughput isn"
    r"|reached the end of its life|invalid model name|not supported in this region",
    re.IGNORECASE,
)
_END_OF_LIFE = re.compile(r"end of (?:its|the) life|end-of-life", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"connection error|cannot connect|connect(?:ion)? (?:refused|reset|timeout)|name or service",
    re.IGNORECASE,
)


class Refusal(Exception):
    """An error as the client gets it; ``trouble`` is our word for what an upstream refused (docs/api.md), or empty."""

    def __init__(
        self, status: int, message: str, kind: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:LONGEST]
        self.kind = kind or TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        self.trouble = ""
        self.headers = dict(headers or {})
        if status in (429, 529):
            self.headers.setdefault("retry-after", str(RETRY_AFTER))
        elif status < 500:
            self.headers.setdefault("x-should-retry", "false")

    def value(self) -> dict[str, Any]:
        """As JSON: the body of an answer, or the data of a stream's ``error`` event."""
        return {"type": "error", "error": {"type": self.kind, "message": self.message}}


def invalid(message: str) -> Refusal:
    """A request that cannot be served as it is; Claude Code shows the message and does not repeat it."""
    return Refusal(400, message)


def unknown_model(name: str, names: list[str]) -> Refusal:
    """No group of this name: as Anthropic says it, and what there is."""
    known = ", ".join(sorted(names)[:20])
    return Refusal(
        404, f"model: {name[:200]} (the bedrock proxy serves: {known or 'no model'}; see occtl models)"
    )


def too_long(original: str) -> Refusal:
    """A prompt beyond the model's window, in the words that start Claude Code's compaction."""
    told = ""
    if found := _TOKENS.search(original):
        less, more = sorted(int(number) for number in found.groups())
        told = f": {more} tokens > {less} maximum" if more > less else ""
    detail = f" Amazon Bedrock said: {original}" if original else ""
    return Refusal(400, f"prompt is too long{told} (capability_rejected: prompt_too_long).{detail}")


def plain(text: str) -> str:
    """An error's own words: LiteLLM's wrapping, JSON around a message and what comes behind it are taken off."""
    for _ in range(6):
        before = text
        text = _TAIL.sub("", _WRAPPING.sub("", text)).strip()
        start = text.find("{")
        if 0 <= start <= 2 or (start > 0 and text.endswith("}")):
            inner = _message_in(text[start:])
            if inner:
                text = inner
        if text == before:
            break
    return text.strip().strip("'\"").strip()


def _message_in(text: str) -> str:
    try:
        value, _end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return ""
    for _ in range(3):
        if not isinstance(value, dict):
            return ""
        for name in ("message", "Message", "errorMessage", "detail"):
            if isinstance(value.get(name), str) and value[name]:
                return str(value[name])
        value = value.get("error")
        if isinstance(value, str):
            return value
    return ""


def named(kind: str) -> str:
    """``throttlingException``, ``ThrottlingException:http://…`` and ``com.amazon#ThrottlingException`` are one."""
    bare = kind.partition(":")[0].rpartition("#")[2].strip()
    return bare[:1].upper() + bare[1:]


def from_upstream(status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> Refusal:
    """What to say of an error: ``status`` and ``kind`` (AWS's exception, may be empty) as the upstream gave them.

    ``headers`` are those of the answer that may be kept (``retry-after``).
    """
    name, words = named(kind), plain(text[:LOOKED_AT])
    if name == "UnrecognizedClientException" and "expired" in words:
        name = "ExpiredTokenException"
    found = _found(status, name, words, headers)
    found.trouble = _trouble(found, name, words)
    return found


def _found(status: int, name: str, words: str, headers: dict[str, str] | None) -> Refusal:
    code = _STATUS.get(name) or _BARE.get(status, status)
    if status in (401, 403) and name not in _STATUS:
        code = DEPENDENCY
    if code in (400, 413, 422, 500) and _TOO_LONG.search(words) and not _MAX_TOKENS.search(words):
        return too_long(words)
    if code in (400, 422) and (limit := _MAX_TOKENS.search(words)):
        return Refusal(
            400,
            f"max_tokens: the request asked for more than {limit[1]}, which is the maximum allowed number of output "
            f"tokens for this model. Amazon Bedrock said: {words}",
        )
    if code in (400, DEPENDENCY, 422) and (_NO_MODEL.search(words) or status == 404):
        return Refusal(DEPENDENCY, _said(words, _ADVICE["model"]))
    if code == DEPENDENCY or _NO_CREDENTIALS.search(words):
        return Refusal(DEPENDENCY, _said(words, _ADVICE[_reason(name, words)]), headers=_kept(headers))
    if code == 422:
        code = 400
    if code < 400 or (code >= 500 and code not in TYPES) or (not name and _UNREACHABLE.search(words)):
        code = 502
    return Refusal(code, _said(words, ""), headers=_kept(headers))


def _reason(name: str, words: str) -> str:
    """Why AWS refuses us: a key of ``_ADVICE``."""
    if _NO_CREDENTIALS.search(words):
        return "none"
    if name in ("ExpiredTokenException", "ExpiredToken", "RequestExpired") or _EXPIRED.search(words):
        return "expired"
    return "access" if _ACCESS.search(words) or name == "OptInRequired" else "denied"


def _trouble(found: Refusal, name: str, words: str) -> str:
    if found.status == DEPENDENCY:
        if _END_OF_LIFE.search(words):
            return "model-gone"
        if name == "ResourceNotFoundException" or _NO_MODEL.search(words):
            return "model-access"
        return {"expired": "aws-expired", "none": "aws-expired", "access": "model-access"}.get(
            _reason(name, words), "access-denied"
        )
    if not name and _UNREACHABLE.search(words):
        return "unreachable"
    words_for = {429: "throttled", 529: "overloaded"}
    return words_for.get(found.status, "bad-request" if found.status < 500 else "upstream-error")


def _said(words: str, advice: str) -> str:
    words = words or "no reason was given"
    if words[-1:] not in ".!?":
        words += "."
    return f"Amazon Bedrock: {words[:1500]} {advice}".strip()


def _kept(headers: dict[str, str] | None) -> dict[str, str]:
    found = (headers or {}).get("retry-after", "")
    return {"retry-after": found} if found.isdigit() else {}
