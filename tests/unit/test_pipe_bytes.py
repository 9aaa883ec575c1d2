"""What arrives is what was sent: requests and answers of many shapes, compared byte for byte over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ocd.guest.layers import pipe as pipes
from tests.helpers.pipes import (
    HOP_KEY,
    KEY,
    SECRET,
    SERVERS,
    TOKEN,
    Standin,
    answer,
    anthropic,
    chunked,
    request,
    reset,
    run,
    saying,
    serving,
)

JSON = (b"content-type", b"application/json")
GOOD = answer(200, b'{"ok":1}', JSON)
LOGIN = (b"authorization", b"Bearer " + TOKEN.encode())


def body(**more: Any) -> bytes:
    return json.dumps({"model": "claude-opus-9-9", "max_tokens": 9, "messages": [], **more}).encode()


#: bodies: what Claude Code sends, what it may send one day, and what nobody should
BODIES: dict[str, bytes] = {
    "plain": body(),
    "compact": b'{"model":"claude-opus-9-9","max_tokens":1,"messages":[]}',
    "indented": json.dumps(json.loads(body()), indent=2).encode(),
    "model last": b'{"max_tokens":1,"messages":[{"model":"x"}],"model":"claude-opus-9-9"}',
    "model among others": b'{"max_tokens":1,"model":"claude-opus-9-9","messages":[]}',
    "escaped key": b'{"max_tokens":1,"m\\u006fdel":"claude-opus-9-9"}',
    "escaped value": b'{"max_tokens":1,"model":"claude-\\u006fpus-9-9"}',
    "unicode": body(system="\u00e4\U0001f600\u2028").replace(b"\\u00e4", "\u00e4".encode()),
    "lone surrogate": b'{"model":"claude-opus-9-9","system":"\\ud800"}',
    "large numbers": b'{"model":"claude-opus-9-9","n":123456789012345678901234567890,"f":1.00000000000000000001e400}',
    "deep": b'{"model":"claude-opus-9-9","x":' + b"[" * 400 + b"]" * 400 + b"}",
    "thinking": body(thinking={"type": "enabled", "budget_tokens": 31999}),
    "adaptive": body(thinking={"type": "adaptive"}, output_config={"effort": "high"}),
    "context management": body(context_management={"edits": [{"type": "clear_thinking_20251015"}]}),
    "fallbacks and tags": body(
        fallbacks=[{"model": "claude-haiku-4-5"}], tags=["a"], metadata={"user_id": "u"}
    ),
    "safeguards": body(safeguards={"mode": "auto"}, speed="fast", inference_geo="eu"),
    "mcp servers": body(mcp_servers=[{"url": "https://x", "authorization_token": "t"}]),
    "what LiteLLM takes for orders": body(
        api_base="http://x", extra_headers={"a": "b"}, num_retries=3, mock_response=1
    ),
    "future": body(x_future={"a": [1, None, {"model": "other"}]}),
    "tools": body(tools=[{"name": "Agent", "input_schema": {"properties": {"model": {"type": "string"}}}}]),
    "duplicate key": b'{"model":"claude-opus-9-9","max_tokens":1,"max_tokens":2}',
    "large": body(messages=[{"role": "user", "content": "x" * 300_000}]),
    "nul": b'{"model":"claude-opus-9-9","x":"\\u0000"}',
    "trailing": body() + b"\r\n\r\n",
    "not JSON behind the model": b'{"model":"claude-opus-9-9", nonsense',
}
#: heads: what is added to the usual ones
HEADS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "user agent": ((b"User-Agent", b"claude-cli/2.1.332 (external, cli)"),),
    "betas": ((b"anthropic-beta", b"claude-code-20250219,oauth-2025-04-20,x-future"),),
    "betas twice": ((b"anthropic-beta", b"a"), (b"anthropic-beta", b"b")),
    "future anthropic": ((b"anthropic-future", b"yes"), (b"anthropic-workspace-id", b"wrkspc_1")),
    "stainless": ((b"x-stainless-retry-count", b"0"), (b"X-Stainless-Timeout", b"600")),
    "session": ((b"x-claude-code-session-id", b"s"), (b"x-claude-code-agent-id", b"a")),
    "odd values": ((b"x-odd", b'a,b; c="d" \xe4'), (b"x-empty", b"")),
    "encodings": ((b"accept-encoding", b"gzip, deflate, br, zstd"), (b"accept", b"*/*")),
    "traces": ((b"traceparent", b"00-1-2-01"), (b"baggage", b"a=b")),
    "cookie": ((b"cookie", b"a=b"),),
    "api key": ((b"x-api-key", b"sk-ant-api03-mine"),),
    "many": tuple((b"x-n%d" % n, b"v" * n) for n in range(60)),
    "long": ((b"x-long", b"v" * 6000),),
    "order": ((b"zz", b"1"), (b"aa", b"2"), (b"zz", b"3")),
}
QUERIES = (b"", b"?beta=true", b"?a=%20b&c", b"?beta=true&beta=false", b"?%C3%A4=1")


async def sent(raw: bytes, http: str) -> tuple[Any, Any]:
    """What the upstream got of one request, and the answer."""
    up = Standin(saying(GOOD))
    async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}, http=http) as setup:
        got = await setup.ask(raw)
        return up.asked[0] if up.asked else None, got


def lowered(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers]


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("name", BODIES)
def test_bodies_arrive_as_they_were_sent(name: str, http: str) -> None:
    asked, got = run(sent, request(body=BODIES[name]), http)
    assert got.status == 200 and asked.body == BODIES[name]


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("name", HEADS)
def test_headers_arrive_as_they_were_sent(name: str, http: str) -> None:
    asked, got = run(sent, request(headers=HEADS[name]), http)
    assert got.status == 200
    length = (b"content-length", b"%d" % len(asked.body))
    expected = [LOGIN, *lowered(HEADS[name]), JSON, length]
    assert [one for one in asked.headers if one[0] != b"host"] == expected, "all of them, in their order"


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", [b"/v1/messages", b"/v1/messages/count_tokens"])
def test_path_and_query_arrive_as_they_were_sent(path: bytes, query: bytes) -> None:
    asked, got = run(sent, request(path=path + query), "h11")
    assert got.status == 200 and asked.line == b"POST %b%b HTTP/1.1" % (path, query)


def test_what_is_ours_or_of_one_connection_stays_here() -> None:
    ours = (
        (b"x-ocd-session", b"7"),
        (b"x-ocd-other", b"7"),
        (b"x-litellm-tags", b"a"),
        (b"te", b"trailers"),
        (b"proxy-authorization", b"Basic x"),
        (b"keep-alive", b"timeout=5"),
        (b"x-api-key", KEY.encode()),
        (b"connection", b"close, x-named"),
        (b"x-named", b"1"),
    )
    asked, got = run(sent, request(headers=ours), "h11")
    assert got.status == 200
    assert [name for name, _v in asked.headers] == [
        b"host",
        b"authorization",
        b"content-type",
        b"content-length",
    ]
    assert KEY.encode() not in asked.head


def test_a_body_in_chunks_arrives_whole() -> None:
    raw = request(body=b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    one = body()
    raw += b"".join(b"1\r\n%c\r\n" % byte for byte in one) + b"0\r\n\r\n"
    asked, got = run(sent, raw, "h11")
    assert got.status == 200 and asked.body == one and asked.header(b"transfer-encoding") is None


# ------------------------------------------------------------------------------------------- in place


@pytest.mark.parametrize(
    "name", [one for one in BODIES if one not in ("not JSON behind the model", "large numbers")]
)
def test_another_models_name_is_put_in_its_place_and_nothing_else_changes(name: str) -> None:
    async def scenario() -> Any:
        up = Standin(saying(GOOD))
        async with up.serving():
            table = {"groups": {"claude-opus-9-9": anthropic(up.url) | {"model": "claude-x"}}}
            async with serving(table) as setup:
                got = await setup.ask(request(body=BODIES[name]))
                return up.asked[0].body, got

    arrived, got = run(scenario)
    was, now = json.loads(BODIES[name]), json.loads(arrived)
    assert got.status == 200 and now == {**was, "model": "claude-x"}
    assert list(now) == list(was)


# ------------------------------------------------------------------------------------------------ answers

EVENTS = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":3}}}\n\n'
    b'event: ping\ndata: {"type":"ping"}\n\n: a comment\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"\xc3\xa4"}}\n\n'
    b"event: from_the_future\nid: 7\nretry: 5\ndata: {\ndata: }\n\n"
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
SSE = (b"content-type", b"text/event-stream; charset=utf-8")
EXTRA = (
    (b"Request-Id", b"req_1"),
    (b"anthropic-ratelimit-unified-5h-utilization", b"0.42"),
    (b"anthropic-thinking-prefix-mismatch", b"1"),
    (b"retry-after", b"7"),
    (b"x-should-retry", b"true"),
    (b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
    (b"Server", b"cloudflare"),
    (b"set-cookie", b"a=b"),
    (b"set-cookie", b"c=d"),
    (b"x-future", b"a, b"),
)


def closing(head: bytes, text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (head, text)


ANSWERS: dict[str, tuple[list[bytes], bytes]] = {
    **{
        f"status {status}": ([answer(status, b'{"type":"error"}', JSON, *EXTRA)], b'{"type":"error"}')
        for status in (200, 201, 202, 299, 300, 301, 302, 307, 400, 401, 403, 404, 408, 409, 413, 418, 422, 424, 429)
    },
    **{
        f"status {status}": ([answer(status, b"e", JSON, *EXTRA)], b"e")
        for status in (451, 500, 501, 502, 503, 504, 520, 524, 529, 599)
    },
    "no content": ([b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"], b""),
    "not modified": ([b"HTTP/1.1 304 X\r\netag: 1\r\n\r\n"], b""),
    "empty": ([answer(200, b"", JSON)], b""),
    "gzip": ([answer(200, gzip.compress(b"{}"), JSON, (b"content-encoding", b"gzip"))], gzip.compress(b"{}")),
    "br": ([answer(200, b"\x8b\x01\x80{}\x03", JSON, (b"content-encoding", b"br"))], b"\x8b\x01\x80{}\x03"),
    "zstd": ([answer(200, b"\x28\xb5\x2f\xfd", (b"content-encoding", b"zstd"))], b"\x28\xb5\x2f\xfd"),
    "html": ([answer(502, b"<html>Bad gateway</html>", (b"content-type", b"text/html"))], b"<html>Bad gateway</html>"),
    "no type": ([answer(200, b"\x00\xff\r\n")], b"\x00\xff\r\n"),
    "stream": (chunked(EVENTS), EVENTS),
    "events apart": (chunked(*(one + b"\n\n" for one in EVENTS.split(b"\n\n")[:-1])), EVENTS),
    "bytes apart": (chunked(*(EVENTS[n : n + 1] for n in range(len(EVENTS)))), EVENTS),
    "stream with a length": ([answer(200, EVENTS, SSE)], EVENTS),
    "stream to the end": ([closing(b"content-type: text/event-stream", EVENTS)], EVENTS),
    "1.0": ([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"], b"ok"),
    "1.0 to the end": ([b"HTTP/1.0 200 OK\r\n\r\n", b"o", b"k"], b"ok"),
    "no reason": ([b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"], b"ok"),
    "chunk extensions": (
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0000\r\nx-trailer: 1\r\n\r\n"],
        b"ok",
    ),
    "large chunks": (chunked(b"x" * 200_000, b"y" * 70_000), b"x" * 200_000 + b"y" * 70_000),
    "early hints": (
        [b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", answer(200, b"ok")],
        b"ok",
    ),
    "many headers": ([answer(200, b"ok", *((b"x-%d" % n, b"v" * 900) for n in range(60)))], b"ok"),
    "same length twice": ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"], b"ok"),
}  # fmt: skip
CLOSING = ("stream to the end", "1.0", "1.0 to the end")
OF_ONE_CONNECTION = (b"connection", b"transfer-encoding", b"content-length", b"keep-alive")


async def answered(pieces: list[bytes], close: bool, http: str, raw: bytes | None = None) -> tuple[Any, Any]:
    up = Standin(saying(*pieces, close=close))
    async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}, http=http) as setup:
        got = await setup.ask(raw or request())
        return got, await setup.heard()


def header_lines(raw: bytes) -> list[tuple[bytes, bytes]]:
    head = raw.split(b"\r\n\r\n")[0]
    pairs = [line.split(b":", 1) for line in head.split(b"\r\n")[1:]]
    return [(n.lower(), v.strip()) for n, v in pairs if n.lower() not in OF_ONE_CONNECTION]


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_arrive_as_they_were_given(name: str, http: str) -> None:
    pieces, expected = ANSWERS[name]
    got, _told = run(answered, pieces, name in CLOSING, http)
    final = pieces[-1] if name == "early hints" else pieces[0]
    assert got.whole and got.body == expected
    assert got.status == int(final.split(b" ", 2)[1][:3])
    theirs = [one for one in lowered(got.headers) if one[0] not in OF_ONE_CONNECTION]
    assert theirs == header_lines(final), "all of them, in their order, and none of ours"


@pytest.mark.parametrize(
    "name", ["stream", "chunk extensions", "early hints", "status 429", "1.0 to the end"]
)
def test_wherever_the_network_cuts_an_answer_it_is_the_same(name: str) -> None:
    """Split at every byte, one after the other on one connection: heads, chunks' sizes, ends, trailers."""
    pieces, expected = ANSWERS[name]
    whole = b"".join(pieces)
    close = name in CLOSING

    async def scenario() -> None:
        place = 0

        async def play(_standin: Any, _asked: Any, writer: Any) -> None:
            writer.write(whole[:place])
            await writer.drain()
            # Two loop turns: what was written is with the other side, which is in this loop too.
            for _ in range(3):
                await asyncio.sleep(0)
            writer.write(whole[place:])
            if close:
                writer.close()

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            for place in range(1, len(whole)):
                got = await setup.ask(request())
                assert got.whole and got.body == expected, place

    run(scenario)


def test_each_piece_is_passed_on_at_once() -> None:
    """A ping is not held until the next event, and a stall inside an event delays nothing that came before it."""

    async def scenario() -> None:
        turn = asyncio.Event()
        parts = [EVENTS[n : n + 37] for n in range(0, len(EVENTS), 37)]

        async def play(_standin: Any, _asked: Any, writer: Any) -> None:
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for part in parts:
                await turn.wait()
                turn.clear()
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await turn.wait()
            writer.write(b"0\r\n\r\n")

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            reader, writer = await setup.send(request())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), "the head does not wait for the first event"
            for part in parts:
                turn.set()
                size = int(await reader.readuntil(b"\r\n"), 16)
                assert await reader.readexactly(size + 2) == part + b"\r\n"
            turn.set()
            assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
            writer.close()

    run(scenario)


def test_a_client_that_reads_slowly_slows_the_upstream_down_and_loses_nothing() -> None:
    total = 12 * 1024 * 1024

    async def scenario() -> None:
        written = 0

        async def play(_standin: Any, _asked: Any, writer: Any) -> None:
            nonlocal written
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
            while written < total:
                writer.write(b"z" * 65536)
                await writer.drain()
                written += 65536

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            reader, writer = await setup.send(request())
            await reader.readuntil(b"\r\n\r\n")
            last = -1
            while last != written:
                last = written
                await asyncio.sleep(0.05)
            assert written < total, "the upstream waits for the client"
            assert len(await reader.readexactly(total)) == total
            writer.close()

    run(scenario)


# -------------------------------------------------------------------------------------- what makes no sense

NONSENSE: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "no version": b"200 OK\r\n\r\n",
    "version 2": b"HTTP/2.0 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 700": b"HTTP/1.1 700 X\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nx-a: b\r\n c: d\r\ncontent-length: 0\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nx-a : b\r\n\r\n",
    "lone line feed": b"HTTP/1.1 200 OK\nx-a: b\n\r\n\r\n",
    "lone return": b"HTTP/1.1 200 OK\r\nx-a: b\rc: d\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nx-a: \x00\r\n\r\n",
    "control": b"HTTP/1.1 200 OK\r\nx-a: \x1b[2J\r\ncontent-length: 0\r\n\r\n",
    "no name": b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "huge head": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"x-%d: %b\r\n" % (n, b"v" * 1000) for n in range(400))
    + b"\r\n",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 40,
    "closed at once": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_an_answer_that_makes_no_sense_is_an_error_that_says_so(name: str) -> None:
    got, told = run(answered, [NONSENSE[name]], True, "h11")
    error = json.loads(got.body)["error"]
    assert (
        got.status == 502
        and error["type"] == "api_error"
        and "ocd: Anthropic did not answer" in error["message"]
    )
    assert SECRET not in got.raw.decode("latin-1") and told["status"] == 502


CUT: dict[str, list[bytes]] = {
    "a chunk too few": chunked(b"event: a\n\n", b"event: b\n\n")[:-1],
    "half a chunk": [*chunked(b"event: a\n\n")[:-1], b"ff\r\nevent"],
    "no last line": [*chunked(b"event: a\n\n")[:-1], b"0\r\n"],
    "half of the length": [b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf"],
    "a chunk that lies": [*chunked(b"event: a\n\n")[:-1], b"3\r\nabcdef\r\n0\r\n\r\n"],
    "a size that is none": [*chunked(b"event: a\n\n")[:-1], b"zz\r\n"],
    "a size without end": [*chunked(b"event: a\n\n")[:-1], b"1" * 9000],
}


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("name", CUT)
def test_an_answer_that_breaks_off_breaks_the_clients_connection_off(name: str, how: str, http: str) -> None:
    """No error event, no last chunk, no padding: the client sees what it would see without us (A23)."""

    async def scenario() -> Any:
        async def play(_standin: Any, _asked: Any, writer: Any) -> None:
            for piece in CUT[name]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)
            if how == "reset":
                reset(writer)
            else:
                writer.close()

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}, http=http) as setup:
            return await setup.ask(request()), await setup.heard()

    got, told = run(scenario)
    assert got.status == 200 and not got.whole and told["trouble"] == "cut"
    assert got.body in (
        b"event: a\n\nevent: b\n\n",
        b"event: a\n\nevent",
        b"event: a\n\n",
        b"half",
        b"event: a\n\nabc",
    )
    assert b"\r\n0\r\n" not in got.raw and b"error" not in got.body


def test_a_length_that_is_too_short_ends_the_answer_there() -> None:
    got, _told = run(
        answered, [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"], False, "h11"
    )
    assert got.whole and got.body == b"ok"


# ------------------------------------------------------------------------------------------- connections


def test_connections_are_kept_and_a_stale_one_is_not_noticed() -> None:
    async def scenario() -> None:
        closing_now = False

        async def play(_standin: Any, _asked: Any, writer: Any) -> None:
            nonlocal closing_now
            if closing_now:
                closing_now = False
                writer.close()
            else:
                writer.write(GOOD)

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            for _ in range(5):
                assert (await setup.ask(request())).status == 200
            assert (up.connections, len(up.asked)) == (1, 5)
            # The other side closes a kept connection as our request arrives: it is sent once more, on another.
            closing_now = True
            assert (await setup.ask(request())).status == 200
            assert (up.connections, len(up.asked)) == (2, 7)

    run(scenario)


def test_a_new_connection_that_breaks_off_is_not_asked_again() -> None:
    """Only a kept connection can have been closed before our request was seen."""
    got, _told = run(answered, [b""], True, "h11")
    assert got.status == 502


def test_what_an_upstream_says_unasked_is_no_answer_to_the_next_request() -> None:
    async def scenario() -> None:
        up = Standin(saying(GOOD, answer(200, b"for nobody")))
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            for _ in range(3):
                got = await setup.ask(request())
                assert got.body == b'{"ok":1}'

    run(scenario)


def test_many_at_once_each_get_their_own() -> None:
    async def scenario() -> None:
        async def play(_standin: Any, asked: Any, writer: Any) -> None:
            text = asked.header(b"x-n")
            for piece in chunked(*(b"data: %b %d\n\n" % (text, n) for n in range(20))):
                writer.write(piece)
                await asyncio.sleep(0)

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            got = await asyncio.gather(
                *(setup.ask(request(headers=((b"x-n", b"%d" % n),))) for n in range(60))
            )
            for n, one in enumerate(got):
                assert one.whole and one.body == b"".join(b"data: %d %d\n\n" % (n, m) for m in range(20))

    run(scenario)


# ---------------------------------------------------------------------------------------------- the hop

CREDENTIALS = (
    (b"x-api-key", f"sk-ant-api03-{SECRET}".encode()),
    (b"api-key", SECRET.encode()),
    (b"cookie", f"session={SECRET}".encode()),
    (b"x-goog-api-key", SECRET.encode()),
    (b"x-amz-security-token", SECRET.encode()),
    (b"proxy-authorization", SECRET.encode()),
    (b"x-future-token", SECRET.encode()),
    (b"x-stainless-os", f"sk-ANT-oat01-{SECRET}".encode()),
    (b"user-agent", f"claude sk-ant-{SECRET}".encode()),
    (b"forwarded", SECRET.encode()),
    (b"anthropic-workspace-id", SECRET.encode()),
)


@pytest.mark.parametrize("socket", [False, True])
@pytest.mark.parametrize("path", [b"/v1/messages", b"/v1/messages/count_tokens"])
def test_no_credential_of_the_client_reaches_the_other_proxy(
    path: bytes, socket: bool, tmp_path: Any
) -> None:
    told = (
        (b"anthropic-beta", b"claude-code-20250219, oauth-2025-04-20,x-future"),
        (b"anthropic-version", b"2023-06-01"),
        (b"x-claude-code-session-id", b"s"),
        (b"x-app", b"cli"),
        (b"accept", b"text/event-stream"),
    )

    async def scenario() -> Any:
        hop = Standin(saying(answer(200, b'{"ok":1}', JSON, (b"x-ocd-upstream", b"bedrock.example qwen"))))
        place = str(tmp_path / "hop.sock") if socket else ""
        async with hop.serving(path=place):
            environ = {"OCD_BEDROCK_URL": f"{hop.url}/v1"} if not socket else {"OCD_BEDROCK_SOCKET": place}
            table = {"groups": {"qwen": {"way": "hop", "model": "qwen-3"}}}
            async with serving(table, environ=environ) as setup:
                got = await setup.ask(
                    request("qwen", path=path + b"?beta=true", headers=(*CREDENTIALS, *told))
                )
                return got, hop.asked[0], await setup.heard()

    got, asked, said = run(scenario)
    assert got.status == 200 and got.header(b"x-ocd-upstream") is None
    assert SECRET.encode() not in asked.head + asked.body and b"sk-ant" not in asked.head
    assert asked.line == b"POST %b?beta=true HTTP/1.1" % path
    assert json.loads(asked.body)["model"] == "qwen-3"
    assert dict(asked.headers)[b"authorization"] == b"Bearer " + HOP_KEY.encode()
    assert dict(asked.headers)[b"anthropic-beta"] == b"claude-code-20250219,x-future"
    assert dict(asked.headers)[b"x-ocd-hop"] == b"1" and b"x-app" in dict(asked.headers)
    assert (said["upstream"], said["answered_by"]) == ("bedrock.example", "qwen")


@pytest.mark.parametrize(
    ("theirs", "ours"), [(401, 424), (403, 424), (400, 400), (424, 424), (429, 429), (503, 503)]
)
def test_a_refusal_of_awss_is_no_refusal_of_the_login(theirs: int, ours: int) -> None:
    async def scenario() -> Any:
        hop = Standin(saying(answer(theirs, b'{"e":1}', JSON, (b"x-ocd-trouble", b"aws-expired"))))
        async with hop.serving():
            table = {"groups": {"qwen": {"way": "hop", "model": "qwen"}}}
            async with serving(table, environ={"OCD_BEDROCK_URL": hop.url}) as setup:
                return await setup.ask(request("qwen")), await setup.heard()

    got, said = run(scenario)
    assert (got.status, got.body) == (ours, b'{"e":1}')
    assert (said["status"], said["trouble"]) == (ours, "aws-expired")


def test_the_other_proxy_that_is_not_there_is_named() -> None:
    async def scenario() -> Any:
        table = {"groups": {"qwen": {"way": "hop", "model": "qwen"}}}
        async with serving(table, environ={"OCD_BEDROCK_SOCKET": "/nowhere/at.sock"}) as setup:
            return await setup.ask(request("qwen")), await setup.heard()

    got, said = run(scenario)
    assert (
        got.status == 503 and b"the bedrock proxy did not answer" in got.body and b"/nowhere" not in got.body
    )
    assert (said["trouble"], said["upstream"]) == ("unreachable", "bedrock")


# -------------------------------------------------------------------------------------------- everything else


@pytest.mark.parametrize(
    "raw",
    [
        request("unknown-model"),
        request("gpt"),
        request(login=""),
        request(login=KEY),
        request(path=b"/v1/chat/completions"),
        request(body=b"{}"),
        request(body=b"[]"),
    ],
)
def test_everything_else_is_litellms(raw: bytes) -> None:
    async def scenario() -> Any:
        up = Standin(saying(GOOD))
        async with up.serving():
            table = {"groups": {"claude-*": anthropic(up.url), "gpt": {"way": "litellm"}}}
            async with serving(table, app=app) as setup:
                got = await setup.ask(raw)
                return got, up.asked

    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"litellm"})

    got, asked = run(scenario)
    assert got.body == b"litellm" and asked == [] and bodies == [raw.partition(b"\r\n\r\n")[2]]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_greeting_is_answered_without_a_key(method: bytes) -> None:
    async def scenario() -> Any:
        async with serving({}) as setup:
            raw = b"%b /api/hello HTTP/1.1\r\nHost: 127.0.0.1\r\nconnection: close\r\n\r\n" % method
            return await setup.ask(raw)

    got = run(scenario)
    assert got.status == 200 and got.body == (b"{}" if method == b"GET" else b"")


WITHOUT = """
import importlib, sys, types
class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("litellm", "fastapi", "starlette", "httpx", "aiohttp", "uvicorn"):
            raise ImportError(name)
sys.meta_path.insert(0, Nobody())
package = types.ModuleType("ocd"); package.__path__ = [sys.argv[1]]; sys.modules["ocd"] = package
for name in ("pipe", "ways", "upstream", "passing", "headers", "model_field", "meter", "boundary", "server_tools"):
    importlib.import_module(f"ocd.guest.layers.{name}")
print("ok")
"""


def test_these_bytes_do_not_depend_on_any_litellm() -> None:
    """The layers between the client and Anthropic load without LiteLLM and its libraries: what this file shows holds
    for each version. The server, its parsers and both legs of each version: ``tests/process``."""
    package = Path(pipes.__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT, str(package)], capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "ok\n", ran.stderr
