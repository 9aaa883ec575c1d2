"""Which headers of a request go where, and which of an answer come back. Pure."""

import hmac

Headers = list[tuple[bytes, bytes]]

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
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
#: what the bedrock proxy is told of a request: all of it describes the request, nothing of it the user
_TO_HOP = frozenset(
    {
        *(b"accept", b"accept-language", b"anthropic-version", b"content-type", b"user-agent", b"x-app"),
        *(b"idempotency-key", b"traceparent", b"tracestate"),
    }
)
_TO_HOP_STARTS = (b"x-claude-code-", b"x-stainless-")
_SECRET = b"sk-ant-"


def is_key(value: bytes, key: bytes) -> bool:
    value = value.strip()
    bare = value[7:].strip() if value[:7].lower() == b"bearer " else value
    return bool(key) and hmac.compare_digest(bare, key)


def up(headers: Headers, length: int, key: bytes) -> bytes:
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
        if name.startswith(_OURS) or name in named or (name in CREDENTIALS and is_key(value, key)):
            continue
        out.append(b"%b: %b\r\n" % (name, value))
    if not told:
        out.append(b"content-length: %d\r\n" % length)
    return b"".join(out)


def to_hop(headers: Headers, length: int, key: bytes, probe: bool) -> bytes:
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


def end_to_end(headers: Headers) -> Headers:
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
