"""The ASGI shell of the contract with a LiteLLM of the test's own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ocd.guest.layers import watching
from ocd.guest.layers.answers import EARLY
from ocd.guest.layers.contract import Contract
from ocd.selftest import eventstream
from ocd.selftest.streams import check_plain, check_stream
from tests.helpers.converse import HELLO, START, event, plain, stop, text

Json = dict[str, Any]

FACTS = {"model": "qwen.qwen3", "family": "qwen", "max_output_tokens": 8000, "vision": False}
BOOT: Json = {"groups": {"qwen": FACTS, "fast": {**FACTS, "family": "claude"}}, "open": False, "direct": True}
ASKED: Json = {"model": "qwen", "max_tokens": 32000, "messages": [{"role": "user", "content": "hi"}]}
EVENTS = [(b"content-type", b"text/event-stream")]

LiteLLM = Callable[[Any, Any, Any], Awaitable[None]]


class Client:
    """One request: ``messages`` is what came back, ``goes`` makes it go away."""

    def __init__(self, app: Any, asked: Json | bytes, path: str = "/v1/messages") -> None:
        self.app = app
        self.body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        self.goes = asyncio.Event()
        self.messages: list[Any] = []
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"content-length", b"9"), (b"anthropic-beta", b"x"), (b"x-kept", b"1")],
        }
        self.sent = False

    async def receive(self) -> Json:
        if not self.sent:
            self.sent = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.goes.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(dict(message))

    async def run(self) -> Client:
        await self.app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(one.get("body", b"") for one in self.messages[1:]).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def whole(self) -> bool:
        """One head, and one last piece."""
        starts = [one["type"] for one in self.messages].count("http.response.start")
        lasts = [
            one for one in self.messages if one["type"] == "http.response.body" and not one.get("more_body")
        ]
        return starts == 1 and len(lasts) == 1 and self.messages[-1] is lasts[0]


def litellm(*steps: Any, status: int = 200, told: list[Any] | None = None, own: bytes = b"") -> LiteLLM:
    """A LiteLLM that asks Bedrock, which says ``steps`` (bytes; a number is silence), and then says ``own``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        if told is not None:
            told.append((scope, json.loads(message["body"])))
        watcher = watching.current.get()
        assert watcher is not None
        watcher.calling()
        if any(isinstance(step, bytes) for step in steps):
            watcher.answering({"x-amzn-requestid": "r-1"})
        if own:
            # LiteLLM 1.106.2 begins before Bedrock does.
            await send({"type": "http.response.start", "status": status, "headers": EVENTS})
            begin = b'event: message_start\ndata: {"type": "message_start", "message": {}}\n\n'
            await send({"type": "http.response.body", "body": begin, "more_body": True})
        for step in steps:
            if isinstance(step, bytes):
                await watcher.piece(step, stream=True)
            else:
                await (step.wait() if isinstance(step, asyncio.Event) else asyncio.sleep(step))
        await watcher.ended(stream=True)
        await send(
            {"type": "http.response.start", "status": status, "headers": EVENTS if status == 200 else []}
        )
        await send({"type": "http.response.body", "body": own, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def said(steps: list[Any]) -> bytes:
    return b"".join(eventstream.event(kind, value) for _form, kind, value in steps)


def layered(app: LiteLLM, silence: float = 60.0, **boot: Any) -> Contract:
    return Contract(app, {**BOOT, **boot}, silence)


def asks(app: LiteLLM, asked: Json | bytes = ASKED, path: str = "/v1/messages", **more: Any) -> Client:
    return asyncio.run(Client(layered(app, **more), asked, path).run())


STREAM = {**ASKED, "stream": True}


def test_a_stream_is_told_from_bedrocks_own_bytes() -> None:
    told: list[Any] = []
    client = asks(litellm(said(HELLO), own=b"data: nonsense\n\n", told=told), STREAM)
    assert client.status == 200 and client.headers["content-type"].startswith("text/event-stream")
    assert check_stream(client.text) == (["text"], []) and client.whole
    ((scope, body),) = told
    assert body["max_tokens"] == 8000 and body["model"] == "qwen"
    headers = dict(scope["headers"])
    assert headers[b"content-length"] == str(len(json.dumps(body))).encode()
    assert b"anthropic-beta" not in headers and headers[b"x-kept"] == b"1"


def test_split_at_every_byte_it_is_the_same() -> None:
    data = said(HELLO)
    whole = asks(litellm(data), STREAM).text.partition("msg_")[2][33:]
    for at in range(1, len(data), 7):
        assert asks(litellm(data[:at], data[at:]), STREAM).text.partition("msg_")[2][33:] == whole


@pytest.mark.parametrize("cut", range(1, 4))
def test_an_end_before_the_end_is_an_error_event(cut: int) -> None:
    client = asks(litellm(said(HELLO[:cut]), own=b'event: x\ndata: {"type":"message_stop"}\n\n'), STREAM)
    assert (
        client.status == 200 and EARLY in client.text and "message_stop" not in client.text and client.whole
    )


def test_litellms_stream_is_told_where_the_file_wants_to_see_it_and_ends_as_bedrock_did() -> None:
    own = [
        {"type": "message_start", "message": {"usage": {}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "masked"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    data = b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in own)
    refused = [START, *text("secret"), *stop("guardrail_intervened")]
    client = asks(litellm(said(refused), own=data), STREAM, direct=False)
    assert "masked" in client.text and "secret" not in client.text and '"refusal"' in client.text
    assert check_stream(client.text) == (["text"], [])
    early = asks(litellm(said([START, *text("secret")]), own=data), STREAM, direct=False)
    assert EARLY in early.text and "message_stop" not in early.text and "masked" in early.text
    broken = asks(litellm(said([START, *stop("malformed_tool_use")]), own=data), STREAM, direct=False)
    assert '"type":"error"' in broken.text and "message_stop" not in broken.text
    unseen = asks(litellm(own=data), STREAM)
    assert check_stream(unseen.text) == (["text"], []), "a LiteLLM whose calls nobody sees"


def plain_litellm(value: Json, *, seen: bool = True) -> LiteLLM:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        watcher = watching.current.get()
        assert watcher is not None
        if seen:
            watcher.calling()
            watcher.answering({})
            raw = json.dumps(value).encode()
            await watcher.piece(raw[:20], stream=False)
            await watcher.piece(raw[20:], stream=False)
            await watcher.ended(stream=False)
        body = json.dumps(
            {"content": [{"type": "text", "text": "LiteLLM's"}], "stop_reason": "end_turn"}
        ).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": body})

    return app


def test_a_plain_answer() -> None:
    client = asks(plain_litellm(plain({"text": "Hello."})))
    assert check_plain(client.json) == (["text"], []) and client.json["content"][0]["text"] == "Hello."
    assert client.json["model"] == "qwen" and client.headers["content-length"] == str(len(client.text))
    assert asks(plain_litellm({}, seen=False)).json["content"][0]["text"] == "LiteLLM's"
    broken = asks(plain_litellm(plain({"text": "x"}, reason="malformed_tool_use")))
    assert broken.status == 502 and broken.json["error"]["type"] == "api_error"


def test_a_call_that_is_not_streamed_answers_a_stream() -> None:
    """LiteLLM gets JSON of a schema that way from models that have no other."""
    client = asks(plain_litellm(plain({"text": "Hello."})), STREAM)
    assert check_stream(client.text) == (["text"], []) and client.whole


def refusing(status: int, body: bytes, kind: str = "", *, seen: bool = True) -> LiteLLM:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        watcher = watching.current.get()
        assert watcher is not None
        if seen:
            watcher.calling()
            watcher.refused(status, {"x-amzn-errortype": kind, "x-amzn-requestid": "r-1"}, body)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send(
            {"type": "http.response.body", "body": b'{"error":{"message":"litellm.APIError: nothing"}}'}
        )

    return app


@pytest.mark.parametrize("stream", [False, True])
def test_awss_refusal_comes_with_its_own_status(stream: bool) -> None:
    app = refusing(429, b'{"message":"Too many requests."}', "ThrottlingException:http://x")
    client = asks(app, {**ASKED, "stream": stream})
    assert client.status == 429 and client.json["error"]["type"] == "rate_limit_error"
    assert client.headers["retry-after"] and client.headers["request-id"] == "r-1"
    assert client.headers["x-ocd-trouble"] == "throttled"
    named = refusing(403, b'{"__type":"com.amazon#ExpiredTokenException","message":"expired"}')
    assert asks(named).status == 424
    assert asks(refusing(500, b"", seen=False)).json["error"]["message"].startswith("Amazon Bedrock: nothing")


def test_an_exception_in_the_stream() -> None:
    data = eventstream.exception("throttlingException", "Too many.")
    late = asks(litellm(said(HELLO[:2]) + data), STREAM)
    assert late.status == 200 and '"rate_limit_error"' in late.text and "Too many." in late.text
    first = asks(litellm(data, own=b"", status=500), STREAM)
    assert first.status == 429 and first.json["error"]["type"] == "rate_limit_error", (
        "before anything was sent"
    )


def test_what_is_no_event_stream_is_an_error() -> None:
    client = asks(litellm(b"<html>" * 10), STREAM)
    assert client.status == 200 and "cannot be read" in client.text


def test_an_app_that_fails_is_an_error() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("litellm.APIError: boom")

    client = asks(app)
    assert client.status == 500 and client.json["error"]["message"] == "Amazon Bedrock: boom."


def test_groups_that_are_not_there() -> None:
    client = asks(litellm(said(HELLO)), {**ASKED, "model": "nope"})
    assert client.status == 404 and client.json["error"]["type"] == "not_found_error"
    assert asks(litellm(said(HELLO)), {**STREAM, "model": "nope"}, open=True).status == 200
    told: list[Any] = []
    named = {
        **STREAM,
        "model": "b/us.anthropic.claude-x",
        "thinking": {"type": "enabled", "budget_tokens": 4096},
    }
    asks(litellm(said(HELLO), told=told), named, open=True)
    assert told[0][1]["thinking"] == named["thinking"], (
        "of a name that a star lets in, its own words are what is known"
    )
    call = {"type": "tool_use", "input": {"a": 7}}
    history = [{"role": "assistant", "content": [call]}]
    nested = json.dumps({**ASKED, "messages": history, "tools": [{"name": "t"}]}).replace(
        "7", "[" * 900 + "]" * 900
    )
    bodies = [b"", b"{", b"[]", b"[" * 100_000]
    if sys.version_info < (3, 12):
        # From 3.12 on Python's own limit does not count what C does: such a request is translated.
        bodies.append(nested.encode())
    for body in bodies:
        client = asks(litellm(), body)
        assert client.status == 400 and client.json["error"]["type"] == "invalid_request_error"


def test_a_large_request_is_looked_at_beside_the_event_loop() -> None:
    told: list[Any] = []
    large = {**STREAM, "messages": [{"role": "user", "content": "x" * 600_000}]}
    assert check_stream(asks(litellm(said(HELLO), told=told), large).text) == (["text"], [])
    assert len(told[0][1]["messages"][0]["content"][0]["text"]) == 600_000
    assert asks(litellm(), {**large, "model": "nope"}).status == 404
    count = {"model": "qwen", "messages": large["messages"]}
    assert asks(litellm(), count, "/v1/messages/count_tokens").json["input_tokens"] > 150_000


def test_other_paths_pass_untouched() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], receive, send))

    client = asks(app, b"anything", "/v1/chat/completions")
    assert seen == [("/v1/chat/completions", client.receive, client.send)]


def counting(value: Any, status: int = 200) -> LiteLLM:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        asked = json.loads((await receive())["body"])
        assert set(asked) <= {"model", "messages", "system", "tools"}
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})

    return app


def test_counts_are_bedrocks_or_say_that_they_are_estimates() -> None:
    asked = {"model": "fast", "messages": [{"role": "user", "content": "word " * 4000}]}
    path = "/v1/messages/count_tokens"
    client = asks(counting({"input_tokens": 4242}), asked, path)
    assert client.json == {"input_tokens": 4242} and "x-token-count" not in client.headers
    for app in (counting({"input_tokens": 8}), counting({}, 403), counting({"input_tokens": 0})):
        client = asks(app, asked, path)
        assert client.json["input_tokens"] > 3000 and client.headers["x-token-count"] == "estimate"
    client = asks(counting({"input_tokens": 8}), {**asked, "model": "qwen"}, path)
    assert client.json["input_tokens"] > 3000 and client.headers["x-token-count"] == "estimate"
    assert asks(counting({}), {**asked, "model": "nope"}, path).status == 404


# ---- time


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_silent_stream_gets_pings_before_and_after_it_begins() -> None:
    async def scenario() -> Client:
        go, on = asyncio.Event(), asyncio.Event()
        app = litellm(go, said([START]), on, said(HELLO[1:]))
        client = Client(layered(app, 0.01), STREAM)
        running = asyncio.ensure_future(client.run())
        await until(lambda: client.text.count("event: ping") >= 2)
        assert client.status == 200 and "message_start" not in client.text
        go.set()
        await until(lambda: "message_start" in client.text)
        pings = client.text.count("event: ping")
        await until(lambda: client.text.count("event: ping") > pings)
        on.set()
        return await running

    client = asyncio.run(scenario())
    assert client.text.rstrip().endswith('{"type":"message_stop"}') and client.whole


def test_an_error_after_pings_is_an_error_event() -> None:
    async def scenario() -> Client:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await until(lambda: "ping" in client.text)
            await refusing(503, b'{"message":"away"}', "ServiceUnavailableException")(_scope, _receive, send)

        client = Client(layered(app, 0.01), STREAM)
        return await client.run()

    client = asyncio.run(scenario())
    assert client.status == 200 and '"overloaded_error"' in client.text and client.whole


def test_a_plain_answer_gets_no_pings() -> None:
    app = litellm(0.05, said([]), status=500)
    assert "ping" not in asks(app, silence=0.001).text


@pytest.mark.parametrize("moment", ["before the first byte", "in the stream", "plain", "counting"])
def test_when_the_client_goes_what_runs_for_it_is_cancelled(moment: str) -> None:
    async def scenario() -> tuple[str, Client]:
        ended, begun = [], asyncio.Event()

        async def app(_scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "http.request"
            watcher = watching.current.get()
            try:
                if moment == "in the stream":
                    assert watcher is not None
                    watcher.answering({})
                    await watcher.piece(said([START]), stream=True)
                begun.set()
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        asked: Json = {**ASKED, "stream": moment != "plain"}
        path = "/v1/messages"
        if moment == "counting":
            asked, path = {**ASKED, "model": "fast"}, "/v1/messages/count_tokens"
        client = Client(layered(app), asked, path)
        running = asyncio.ensure_future(client.run())
        await begun.wait()
        client.goes.set()
        async with asyncio.timeout(10):
            await running
        assert not running.cancelled() and asyncio.current_task() is not None
        return ended[0], client

    assert asyncio.run(scenario())[0] == "cancelled"


def test_a_client_that_goes_after_the_last_byte_cancels_nothing() -> None:
    async def scenario() -> list[str]:
        after: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await litellm(said(HELLO))(scope, receive, send)
            client.goes.set()
            await asyncio.sleep(0.01)
            after.append("LiteLLM's own work goes on")

        client = Client(layered(app), STREAM)
        await client.run()
        return after

    assert asyncio.run(scenario())


@pytest.mark.parametrize("whole", [True, False])
def test_a_goodbye_after_the_last_byte_is_litellms_business_only_where_something_is_left(whole: bool) -> None:
    """A server's receive says http.disconnect once an answer is over: LiteLLM would bill a broken answer for it."""

    async def scenario() -> list[str]:
        heard: list[str] = []

        async def app(_scope: Any, receive: Any, _send: Any) -> None:
            await receive()
            watcher = watching.current.get()
            assert watcher is not None
            watcher.calling()
            watcher.answering({})
            failing = eventstream.exception("modelStreamErrorException", "no")
            await watcher.piece(said(HELLO) if whole else said(HELLO[:2]) + failing, stream=True)
            client.goes.set()
            listening = asyncio.ensure_future(receive())
            await asyncio.wait([listening], timeout=0.1 if whole else 10)
            heard.extend([listening.result()["type"]] if listening.done() else [])
            listening.cancel()

        client = Client(layered(app), STREAM)
        await client.run()
        return heard

    assert asyncio.run(scenario()) == ([] if whole else ["http.disconnect"])


def test_a_second_call_after_an_answer_has_begun_is_not_told_as_well() -> None:
    """LiteLLM tries again, or another group, in the middle of a stream."""
    first = said([START, event("contentBlockDelta", 0, delta={"text": "first"})])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        watcher = watching.current.get()
        assert watcher is not None
        watcher.calling()
        watcher.answering({})
        await watcher.piece(first, stream=True)
        await litellm(said(HELLO))(scope, receive, send)

    client = asks(app, STREAM)
    assert client.whole
    assert client.text.count("message_start") == 2, "once as the event's name, once as its type"
    assert "Hel" not in client.text and EARLY in client.text
