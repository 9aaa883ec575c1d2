"""Upstreams that behave badly, byte for byte: each way is a coroutine that answers one request.

``GOOD`` is what a well-behaved one says; a way that may still be a whole answer for the client is in ``MAY_PASS``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable

from tests.helpers.pipes import reset

Writer = asyncio.StreamWriter
Way = Callable[[Writer], Awaitable[None]]

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MEGABYTE = 1024 * 1024
#: bytes after which an upstream that would go on for ever gives up: far above every bound of ours
ENDLESS = 400 * MEGABYTE


def event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
)
STOP = event("message_stop")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def bomb() -> bytes:
    """100 MB of zeros as gzip: 100 kB."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b"0" * MEGABYTE
    return b"".join(made.compress(piece) for _ in range(100)) + made.flush()


def says(*pieces: bytes, close: bool = True) -> Way:
    async def way(w: Writer) -> None:
        for piece in pieces:
            w.write(piece)
            await w.drain()
        if close:
            w.close()

    return way


def for_ever(first: bytes, piece: bytes, pause: float = 0.0) -> Way:
    async def way(w: Writer) -> None:
        w.write(first)
        sent = 0
        while sent < ENDLESS:
            w.write(piece)
            await w.drain()
            sent += len(piece)
            await asyncio.sleep(pause)
        w.close()

    return way


def sized(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(one + b"\r\n" for one in headers)
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body)


async def at_once(w: Writer) -> None:
    reset(w)


async def in_the_middle(w: Writer) -> None:
    w.write(SSE_HEAD + chunk(START))
    await w.drain()
    reset(w)


async def silence(w: Writer) -> None:
    await asyncio.sleep(3600)


_JSON = b"content-type: application/json"
_GZIP = b"content-encoding: gzip"
_DEEP = b'{"error":' * 20_000 + b"1" + b"}" * 20_000
_AWAY = b"http://127.0.0.1:%(elsewhere)d/stolen"
_LIMITS = b"".join(b"anthropic-ratelimit-unified-%d-utilization: 9\r\n" % n for n in range(4000))

#: what is answered, by what it is
WAYS: dict[str, Way] = {
    # ---- the head
    "headers without end": for_ever(b"HTTP/1.1 200 OK\r\n", b"x-a: " + b"b" * 8000 + b"\r\n"),
    "one header without end": for_ever(b"HTTP/1.1 200 OK\r\nx-a: ", b"b" * 65536),
    "a header of a megabyte": says(sized(b"{}", b"x-a: " + b"b" * MEGABYTE)),
    "a reason without end": for_ever(b"HTTP/1.1 200 ", b"K" * 65536),
    "no HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "HTTP/0.9": says(b"<html>hello</html>"),
    "HTTP/2": says(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18),
    "status 999": says(b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n"),
    "status 000": says(b"HTTP/1.1 000 What\r\ncontent-length: 0\r\n\r\n"),
    "status that is no number": says(b"HTTP/1.1 20x OK\r\ncontent-length: 0\r\n\r\n"),
    "a switch of protocols": says(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n" + b"x" * 5000
    ),
    "interim answers without end": for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
    "a header with NUL": says(sized(b"{}", b"x-a: a\x00b")),
    "a header with a bare carriage return": says(sized(b"{}", b"x-a: a\rset-cookie: b")),
    "a folded header": says(sized(b"{}", b"x-a: a\r\n b")),
    "a space before the colon": says(sized(b"{}", b"content-length : 5")),
    "escape sequences in a header": says(sized(b"{}", _JSON, b"x-a: \x1b[2J\x1b]0;title\x07")),
    "duplicate headers": says(
        sized(b"{}", *[b"set-cookie: a=b"] * 500, b"content-type: a", b"content-type: b")
    ),
    "thousands of limits": says(b"HTTP/1.1 200 OK\r\n" + _LIMITS + b"content-length: 2\r\n\r\n{}"),
    # ---- lengths
    "more than the length": says(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}" + b"HTTP/1.1 200 OK\r\n\r\nevil"
    ),
    "less than the length": says(JSON_HEAD + b"content-length: 100\r\n\r\n{}"),
    "a negative length": says(JSON_HEAD + b"content-length: -1\r\n\r\n{}"),
    "two lengths": says(JSON_HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x"),
    "a length with a sign": says(JSON_HEAD + b"content-length: +2\r\n\r\n{}"),
    "a length that no computer has": says(JSON_HEAD + b"content-length: " + b"9" * 400 + b"\r\n\r\n{}"),
    "a length and chunks": says(
        JSON_HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "chunks twice": says(JSON_HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    "an unknown framing": says(JSON_HEAD + b"transfer-encoding: gzip\r\n\r\nx"),
    "no content that has content": says(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil"),
    # ---- chunks
    "chunks that are garbage": says(SSE_HEAD + b"zz\r\nwhat\r\n"),
    "a chunk of all memory": says(SSE_HEAD + b"ffffffffffffffffffff\r\nx"),
    "a negative chunk": says(SSE_HEAD + b"-5\r\nhello\r\n0\r\n\r\n"),
    "a chunk longer than it says": says(SSE_HEAD + b"2\r\nhello\r\n0\r\n\r\n"),
    "a chunk's extension without end": for_ever(SSE_HEAD + b"2;", b"a" * 65536),
    "trailers": says(
        SSE_HEAD + chunk(START + STOP) + b"0\r\nx-litellm-api-key: evil\r\nset-cookie: a\r\n\r\n"
    ),
    "trailers without end": for_ever(SSE_HEAD + b"0\r\n", b"x-a: " + b"b" * 8000 + b"\r\n"),
    # ---- bodies
    "a body without end": for_ever(SSE_HEAD, chunk(event("ping") * 1000)),
    "a body without end or framing": for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b"0" * 65536),
    "an error without end": for_ever(b"HTTP/1.1 500 No\r\n\r\n", b"0" * 65536),
    "a slow drip": for_ever(SSE_HEAD, b"1\r\n:\r\n", 0.05),
    "an error that drips": for_ever(b"HTTP/1.1 529 No\r\ncontent-length: 9000\r\n\r\n", b"0", 0.05),
    "a gzip bomb": says(sized(bomb(), _JSON, _GZIP)),
    "a gzip bomb as an event stream": says(sized(bomb(), b"content-type: text/event-stream", _GZIP)),
    "a gzip bomb as an error": says(sized(bomb(), _JSON, _GZIP, status=b"500 No")),
    "gzip that is none": says(sized(b"not gzip", _JSON, _GZIP)),
    "gzip that is cut": says(sized(gzip.compress(b"{}" * 1000)[:-20], _JSON, _GZIP)),
    "brotli that is none": says(sized(b"\xff" * 5000, _JSON, b"content-encoding: br")),
    "zstandard that is none": says(
        sized(b"\x28\xb5\x2f\xfd" + b"\xff" * 5000, _JSON, b"content-encoding: zstd")
    ),
    "gzip a hundred times": says(sized(bomb(), _JSON, b"content-encoding: " + b", ".join([b"gzip"] * 100))),
    "an error page of a megabyte": says(
        sized(b"<p>no</p>" * 120_000, b"content-type: text/html", status=b"502 Bad")
    ),
    "an error of ten megabytes": says(sized(b"a" * 10 * MEGABYTE, _JSON, status=b"400 Bad")),
    "an error that is nested": says(sized(_DEEP, _JSON, status=b"400 Bad")),
    "an answer that is nested": says(sized(_DEEP, _JSON)),
    "a number of many digits": says(sized(b'{"usage":{"input_tokens":' + b"9" * 50_000 + b"}}", _JSON)),
    "figures that are none": says(
        sized(b'{"usage":{"input_tokens":-1e999,"output_tokens":"x","cache_read_input_tokens":[]}}', _JSON)
    ),
    # ---- event streams
    "a line of ten megabytes": says(
        SSE_HEAD, chunk(b"data: " + b"x" * 10 * MEGABYTE + b"\n\n"), b"0\r\n\r\n"
    ),
    "a line without end": for_ever(SSE_HEAD + chunk(START), chunk(b"x" * 65536)),
    "NULs": says(SSE_HEAD + chunk(START + b"data: \x00\x00\n\n" + b"\x00" * 5000 + STOP) + b"0\r\n\r\n"),
    "half of UTF-8": says(
        SSE_HEAD + chunk(START + b"data: \xf0\x9f\x98\n\n") + chunk(b"\xed\xa0\x80") + b"0\r\n\r\n"
    ),
    "events that make no sense": says(
        SSE_HEAD + chunk(STOP + STOP + START + START + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    ),
    # ---- elsewhere
    "a redirect": says(sized(b"", b"location: " + _AWAY, status=b"302 Found")),
    "a redirect that keeps the body": says(sized(b"", b"location: " + _AWAY, status=b"307 Temporary")),
    "a redirect for ever": says(sized(b"", b"location: " + _AWAY, status=b"308 Permanent")),
    "a redirect to a file": says(sized(b"", b"location: file:///etc/passwd", status=b"301 Moved")),
    "a login that is asked for": says(sized(b"{}", b"www-authenticate: Basic realm=x", status=b"401 No")),
    # ---- ends
    "a reset at once": at_once,
    "an end at once": says(),
    "an end in the status line": says(b"HTTP/1.1 2"),
    "an end in the headers": says(b"HTTP/1.1 200 OK\r\ncontent-ty"),
    "an end after the head": says(SSE_HEAD),
    "an end in a chunk": says(SSE_HEAD + b"100\r\nhalf"),
    "an end between chunks": says(SSE_HEAD + chunk(START)),
    "a reset in the middle": in_the_middle,
    "silence": silence,
    "an answer that nobody asked for": says(sized(b"{}", _JSON) + sized(b"evil", _JSON), close=False),
}
#: those that do not end by themselves: the client leaves
ENDLESS_WAYS = frozenset(
    {
        *("a body without end", "a body without end or framing", "an error without end", "a slow drip"),
        *("an error that drips", "a line without end", "silence"),
    }
)


def placed(way: Way, elsewhere: int) -> Way:
    """The way with redirects that lead to the port ``elsewhere``."""

    class Placing:
        def __init__(self, writer: Writer) -> None:
            self.writer = writer

        def write(self, data: bytes) -> None:
            self.writer.write(data.replace(b"%(elsewhere)d", b"%d" % elsewhere))

        def __getattr__(self, name: str) -> object:
            return getattr(self.writer, name)

    async def placing(writer: Writer) -> None:
        await way(Placing(writer))  # type: ignore[arg-type]

    return placing
