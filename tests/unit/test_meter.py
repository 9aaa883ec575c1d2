"""The request meter inside a guest: what it tells of each request, and that no request notices it."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import types
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.guest.layers import meter as meters
from ocd.wire.messages import Exchange

App = Callable[[Any, Any, Any], Awaitable[None]]
#: what the table of routes says of groups
NAMES = {
    "claude-opus-9-9": {"provider": "anthropic", "host": "api.anthropic.com", "model": "claude-opus-9-9"},
    "qwen-3-coder": {"provider": "bedrock", "host": "bedrock.example", "model": "qwen.qwen3"},
}
BODY = b'{"model": "claude-opus-9-9", "stream": true, "messages": [{"content": "the secret of the prompt"}]}'
STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"claude-opus-9-9-20260101",'
    b'"usage":{"input_tokens":4242,"cache_creation_input_tokens":17,"cache_read_input_tokens":900,'
    b'"output_tokens":1}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hello"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"input_tokens":0,"output_tokens":345}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
PLAIN = json.dumps(
    {"model": "claude-opus-9-9", "usage": {"input_tokens": 12, "output_tokens": 34}, "content": []}
).encode()
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]


class Measured:
    """One guest's meter, LiteLLM's place taken by ``app``; ``told`` is what the supervisor would get."""

    def __init__(self, report: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.told: list[dict[str, Any]] = []
        self.names = dict(NAMES)
        self.meter = meters.Meter(
            report or self.told.append, lambda group: self.names.get(group, {}), "sk-main-key", "salt"
        )
        # Prices come from LiteLLM's own table, which is not here.
        unpriced = ("claude-opus-9-9-20260101", "qwen.qwen3", "qwen-3-coder", "m1")
        self.meter.prices = dict.fromkeys((name, kind) for name in unpriced for kind in ("", "bedrock"))
        self.meter.prices |= {
            ("claude-opus-9-9", kind): (1e-6, 2e-6, 0.0, 0.0, 0.0) for kind in ("", "bedrock")
        }
        self.received: Any = None

    def run(
        self,
        app: App,
        *,
        path: str = "/v1/messages",
        method: str = "POST",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        client: Any = ("127.0.0.1", 5),
        outer: Callable[[App], App] = lambda app: app,
        leave: bool = False,
    ) -> list[dict[str, Any]]:
        """Ask once; returns the messages of the answer."""
        sent: list[dict[str, Any]] = []
        asked = [{"type": "http.request", "body": BODY[:40], "more_body": True}]
        asked.append({"type": "http.request", "body": BODY[40:], "more_body": False})

        async def receive() -> dict[str, Any]:
            return asked.pop(0) if asked else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if leave and sent:
                raise OSError("the client is gone")
            sent.append(dict(message))

        self.received = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"authorization", b"Bearer sk-ant-oat01-secret"), *headers],
            "client": client,
        }
        whole = self.meter.outside(outer(self.meter.inside(app)))

        async def ask() -> None:
            await asyncio.wait_for(whole(self.received, receive, send), 20)

        asyncio.run(ask())
        return sent

    @property
    def last(self) -> dict[str, Any]:
        assert self.meter.mistakes == 0 and self.meter.now == 0
        # What is told fits the message of the API: the supervisor adds only these two.
        Exchange(**{**self.told[-1], "proxy": "main", "generation": 1})
        return self.told[-1]


@pytest.fixture
def measured() -> Measured:
    return Measured()


def answering(*pieces: bytes, status: int = 200, headers: Any = SSE, end: bool = True) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for number, piece in enumerate(pieces):
            more = number < len(pieces) - 1 or not end
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    return app


# ------------------------------------------------------------------------------------------------ what is told


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/messages"])
def test_a_stream_is_counted_and_passes_unchanged(measured: Measured, path: str) -> None:
    pieces = [STREAM[at : at + 50] for at in range(0, len(STREAM), 50)]
    sent = measured.run(answering(*pieces), path=path)
    assert [one.get("body") for one in sent[1:]] == pieces, "as many pieces as came, none held back"
    said = measured.last
    assert (said["path"], said["model"], said["status"], said["stream"]) == (
        path,
        "claude-opus-9-9",
        200,
        True,
    )
    assert (said["input_tokens"], said["output_tokens"]) == (4242, 345)
    assert (said["cache_read_tokens"], said["cache_write_tokens"]) == (900, 17)
    assert said["answered_by"] == "claude-opus-9-9-20260101"
    assert 0 <= said["first"] <= said["seconds"] and said["trouble"] == ""
    assert said["cost"] == 0.004932, "a price is known for what was asked for"


@given(
    st.lists(st.integers(1, len(STREAM) - 1), max_size=12).map(lambda cuts: sorted({0, len(STREAM), *cuts}))
)
def test_wherever_the_transport_cuts_the_figures_are_the_same(cuts: list[int]) -> None:
    measured = Measured()
    measured.run(answering(*(STREAM[a:b] for a, b in itertools.pairwise(cuts))))
    said = measured.last
    assert (said["input_tokens"], said["output_tokens"], said["trouble"]) == (4242, 345, "")


def test_a_plain_answer_has_tokens_and_a_price(measured: Measured) -> None:
    measured.run(answering(PLAIN, headers=JSON))
    said = measured.last
    assert (said["input_tokens"], said["output_tokens"], said["stream"]) == (12, 34, False)
    assert said["cost"] == pytest.approx(12e-6 + 68e-6) and said["first"] is not None


def test_counting_tokens_costs_nothing(measured: Measured) -> None:
    measured.run(answering(b'{"input_tokens": 4242}', headers=JSON), path="/v1/messages/count_tokens")
    assert measured.last["input_tokens"] == 4242 and measured.last["cost"] is None


def test_nothing_of_the_prompt_and_no_header_is_told(measured: Measured) -> None:
    measured.run(answering(STREAM))
    assert "secret" not in json.dumps(measured.told)


@pytest.mark.parametrize(
    ("path", "method", "client"),
    [
        ("/v1/models", "POST", ("127.0.0.1", 5)),
        ("/v1/messages", "GET", ("127.0.0.1", 5)),
        ("/health/liveliness", "GET", None),
        ("/v1/messages", "POST", None),
    ],
)
def test_other_requests_and_the_supervisors_own_are_not_told(
    measured: Measured, path: str, method: str, client: Any
) -> None:
    assert len(measured.run(answering(PLAIN), path=path, method=method, client=client)) == 2
    assert not measured.told


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models", "/health"])
@pytest.mark.parametrize(
    ("value", "session"), [(b"4711", 4711), (b"", None), (b"-1", None), (b"x", None), (b"1" * 12, None)]
)
def test_our_headers_end_here(measured: Measured, path: str, value: bytes, session: int | None) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await answering(PLAIN, headers=[*JSON, (b"x-ocd-upstream", b"made up")])(scope, receive, send)

    sent = measured.run(
        app,
        path=path,
        headers=(
            (b"x-ocd-session", value),
            (b"x-ocd-probe", b"1"),
            (b"x-ocd-other", b"1"),
            (b"x-app", b"cli"),
        ),
    )
    assert [name for name, _value in seen] == [b"authorization", b"x-app"]
    if path == "/v1/messages":
        assert measured.last["session"] == session and not measured.last["hop"]
        assert measured.last["probe"]
        assert sent[0]["headers"] == JSON, "x-ocd- headers are for hops alone"


@pytest.mark.parametrize(
    ("value", "account"),
    [(b"work", "work"), (b"a.b_c-1", "a.b_c-1"), (b"../x", None), (b"", None), (b"x" * 41, None)],
)
def test_the_account_is_told_and_goes_no_further(
    measured: Measured, value: bytes, account: str | None
) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await answering(PLAIN)(scope, receive, send)

    measured.run(app, headers=((b"x-ocd-account", value), (b"x-app", b"cli")))
    assert [name for name, _value in seen] == [b"authorization", b"x-app"]
    assert measured.last.get("account") == account


# ----------------------------------------------------------------------------------------------------- troubles


@pytest.mark.parametrize("status", [400, 403, 413])
def test_a_request_that_the_boundary_refused(measured: Measured, status: int) -> None:
    def outer(_app: App) -> App:
        return answering(b"{}", status=status, headers=JSON)

    measured.run(answering(PLAIN), outer=outer)
    assert (measured.last["trouble"], measured.last["upstream"]) == ("refused", "")


def test_how_streams_end_badly(measured: Measured) -> None:
    measured.run(answering(STREAM[:-60]))
    assert measured.last["trouble"] == "cut"
    event = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
    measured.run(answering(STREAM[:-60], event))
    assert measured.last["trouble"] == "upstream-error"

    async def leaving(scope: Any, receive: Any, send: Any) -> None:
        await answering(STREAM[:200], end=False)(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    measured.run(leaving)
    assert measured.last["trouble"] == "client-gone"


def test_a_text_that_speaks_of_events_is_no_event(measured: Measured) -> None:
    text = 'event: error\ndata: {"type":"error"}\n{"type": "message_stop"}\ndata: [DONE]\n"output_tokens": 9'
    event = (
        b"data: " + json.dumps({"type": "content_block_delta", "delta": {"text": text}}).encode() + b"\n\n"
    )
    end = STREAM.index(b"event: message_stop")
    measured.run(answering(STREAM[:end], event, event, STREAM[end:]))
    assert (measured.last["trouble"], measured.last["output_tokens"]) == ("", 345)
    measured.run(answering(STREAM[:end], event, event))
    assert measured.last["trouble"] == "cut"


@pytest.mark.parametrize("start", [b"event: error\ndata: {}\n\n", b'data: {"error":{"message":"no"}}\n\n'])
def test_a_stream_of_nothing_but_an_error(measured: Measured, start: bytes) -> None:
    measured.run(answering(start))
    assert measured.last["trouble"] == "upstream-error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_other_protocols_end_in_their_own_way(measured: Measured, path: str) -> None:
    chat = (
        b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    )
    ending = b"data: [DONE]\n\n" if "chat" in path else b'event: x\ndata: {"type":"response.completed"}\n\n'
    measured.run(answering(chat, ending), path=path)
    assert (measured.last["trouble"], measured.last["input_tokens"]) == ("", 7)
    measured.run(answering(chat), path=path)
    assert measured.last["trouble"] == "cut"


def test_an_app_that_fails_fails_as_before(measured: Measured) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("of the app itself")

    with pytest.raises(LookupError, match="of the app itself"):
        measured.run(app)
    assert (measured.last["status"], measured.last["trouble"]) == (0, "cut")


def test_who_asks_after_the_end_is_no_client_that_left(measured: Measured) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answering(STREAM[:-60])(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    measured.run(app)
    assert measured.last["trouble"] == "cut"


def test_a_client_that_is_gone_while_we_send(measured: Measured) -> None:
    with pytest.raises(OSError, match="the client is gone"):
        measured.run(answering(STREAM[:200], STREAM[200:]), leave=True)
    assert measured.meter.now == 0 and len(measured.told) == 1


def test_mistakes_of_ours_cost_a_figure_and_no_answer() -> None:
    def report(_fields: dict[str, Any]) -> None:
        raise RuntimeError("ours")

    measured = Measured(report)
    sent = measured.run(answering(STREAM))
    assert sent[1]["body"] == STREAM and measured.meter.mistakes == 1 and measured.meter.now == 0
    measured = Measured()
    measured.meter.begin = lambda *_args: 1 / 0  # type: ignore[assignment]
    sent = measured.run(answering(STREAM))
    assert sent[1]["body"] == STREAM and measured.meter.mistakes == 1


ANTHROPIC_ERRORS = [
    (400, "bad-request"),
    (401, "login-expired"),
    (403, "bad-request"),
    (404, "bad-request"),
    (413, "bad-request"),
    (429, "plan-limit"),
    (500, "upstream-error"),
    (502, "upstream-error"),
    (503, "overloaded"),
    (529, "overloaded"),
]
BEDROCK_ERRORS = [
    (
        403,
        "AccessDeniedException",
        "You don't have access to the model with the specified model ID.",
        "model-access",
    ),
    (
        403,
        "AccessDeniedException",
        "User: arn:aws:iam::1:user/x is not authorized to perform: y",
        "access-denied",
    ),
    (403, "ExpiredTokenException", "The security token included in the request is expired", "aws-expired"),
    (403, "UnrecognizedClientException", "The security token is invalid", "access-denied"),
    (403, "InvalidSignatureException", "Signature expired", "access-denied"),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model", "model-access"),
    (429, "ThrottlingException", "Too many requests", "throttled"),
    (400, "ServiceQuotaExceededException", "quota", "throttled"),
    (400, "ValidationException", "The provided model identifier is invalid.", "bad-request"),
    (503, "ServiceUnavailableException", "not available", "overloaded"),
    (429, "ModelNotReadyException", "not ready", "overloaded"),
    (500, "InternalServerException", "internal", "upstream-error"),
]


@pytest.mark.parametrize(("status", "word"), ANTHROPIC_ERRORS)
def test_anthropics_errors(status: int, word: str) -> None:
    body = json.dumps({"type": "error", "error": {"type": "x", "message": "access to the model"}}).encode()
    assert meters.classify(status, (), body, False) == word


@pytest.mark.parametrize(("status", "kind", "text", "word"), BEDROCK_ERRORS)
def test_awss_errors_by_header_and_by_body(status: int, kind: str, text: str, word: str) -> None:
    body = json.dumps({"message": text}).encode()
    headers = [(b"X-Amzn-ErrorType", f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/".encode())]
    assert meters.classify(status, headers, body, True) == word
    typed = json.dumps({"__type": f"com.amazon.coral.service#{kind}", "message": text}).encode()
    assert meters.classify(status, (), typed, True) == word


@pytest.mark.parametrize(
    ("status", "kind", "message", "word"),
    [
        (404, "not_found_error", "model: claude-opus-9-9", "model-gone"),
        (404, "not_found_error", "Not found", "bad-request"),
        (404, "invalid_request_error", "model: claude-opus-9-9", "bad-request"),
        (400, "not_found_error", "model: claude-opus-9-9", "bad-request"),
    ],
)
def test_a_model_that_anthropic_does_not_have(status: int, kind: str, message: str, word: str) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    assert meters.classify(status, (), body, False) == word


def test_a_model_that_bedrock_does_not_have_any_more() -> None:
    for text, word in (
        ("This model version has reached the end of its life.", "model-gone"),
        ("Could not resolve the foundation model", "model-access"),
    ):
        body = json.dumps({"message": text}).encode()
        headers = [(b"x-amzn-errortype", b"ResourceNotFoundException:http://x/")]
        assert meters.classify(404, headers, body, True) == word


def test_aws_without_a_type() -> None:
    assert meters.classify(403, (), b'{"message": "no"}', True) == "access-denied"
    assert meters.classify(429, (), b"{}", True) == "throttled"


@pytest.mark.parametrize(
    ("status", "text", "word"),
    [
        (401, "litellm.AuthenticationError: BedrockException: Unable to locate credentials", "aws-expired"),
        (500, "The config profile (openclaude) could not be found", "aws-expired"),
        (500, "Error when retrieving token from sso: Token has expired and refresh failed", "aws-expired"),
        (
            401,
            "The SSO session associated with this profile has expired or is otherwise invalid.",
            "aws-expired",
        ),
        (500, "Error loading SSO Token: Token for corp does not exist", "aws-expired"),
        (403, "The security token included in the request is expired", "aws-expired"),
        (403, "The security token included in the request is invalid.", "access-denied"),
        (
            403,
            "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel",
            "access-denied",
        ),
        (400, "The provided model identifier is invalid.", "bad-request"),
        (500, "internal", "upstream-error"),
    ],
)
def test_what_litellm_hands_on_of_awss_words(status: int, text: str, word: str) -> None:
    body = json.dumps({"error": {"message": text, "type": "None", "code": str(status)}}).encode()
    assert meters.classify(status, (), body, True) == word


# ------------------------------------------------------------------------------------------------- the upstream


def asked_for(model: str) -> bytes:
    return json.dumps({"model": model, "messages": []}).encode()


@pytest.mark.parametrize("status", [401, 403])
def test_a_status_about_a_login_is_for_the_clients_own_alone(measured: Measured, status: int) -> None:
    """2.1.332 renews the plan's login at a 401, and says "Please run /login" at a 403: AWS's are neither."""
    refusing = answering(b"{}", status=status, headers=JSON)
    assert measured.run(refusing)[0]["status"] == status == measured.last["status"]
    measured.names["claude-opus-9-9"] = NAMES["qwen-3-coder"]
    assert measured.run(refusing)[0]["status"] == 424 == measured.last["status"]
    assert measured.last["trouble"] == "access-denied"
    measured.names = {}
    assert measured.run(refusing)[0]["status"] == 424, "LiteLLM's own: nobody was asked"


def test_the_upstream_of_a_group_that_litellm_routes_is_named(measured: Measured) -> None:
    measured.names["claude-opus-9-9"] = NAMES["qwen-3-coder"]
    measured.run(answering(PLAIN, headers=JSON))
    assert (measured.last["upstream"], measured.last["answered_by"]) == ("bedrock.example", "qwen.qwen3")


def test_the_asked_proxy_tells_the_asking_one(measured: Measured) -> None:
    measured.names["claude-opus-9-9"] = NAMES["qwen-3-coder"]
    hop = ((b"x-ocd-hop", b"1"),)
    sent = measured.run(answering(b'{"message": "ExpiredToken"}', status=403, headers=JSON), headers=hop)
    answer = dict(sent[0]["headers"])
    assert answer[b"x-ocd-upstream"] == b"bedrock.example qwen.qwen3"
    assert answer[b"x-ocd-trouble"] == b"aws-expired" and sent[0]["status"] == 403
    assert measured.last["hop"] and measured.last["trouble"] == "aws-expired"
    # A layer that knows better says so in the same header.
    known = answering(b"{}", status=400, headers=[*JSON, (b"x-ocd-trouble", b"throttled")])
    sent = measured.run(known, headers=hop)
    assert [v for n, v in sent[0]["headers"] if n == b"x-ocd-trouble"] == [b"throttled"]
    assert measured.last["trouble"] == "throttled"


def test_an_error_without_a_body_arrives(measured: Measured) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": list(JSON)})
        await send({"type": "http.response.body", "body": b""})

    assert [one["type"] for one in measured.run(app)] == ["http.response.start", "http.response.body"]

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": list(JSON)})

    assert [one["type"] for one in measured.run(half)] == ["http.response.start"]


# --------------------------------------------------------------------------------------------- what is counted


def test_the_conversation_and_the_login_are_told_but_not_the_login_itself(measured: Measured) -> None:
    measured.run(
        answering(PLAIN, headers=JSON),
        headers=(
            (b"x-claude-code-session-id", b"c0ffee00-1"),
            (b"x-claude-code-agent-id", b"agent-7"),
            (b"x-claude-code-parent-agent-id", b"not an id"),
        ),
    )
    said = measured.last
    assert (said["session_id"], said["agent_id"]) == ("c0ffee00-1", "agent-7")
    assert "parent_agent_id" not in said
    first = said["login"]
    assert len(first) == 16 and "secret" not in json.dumps(measured.told)
    measured.run(answering(PLAIN, headers=JSON))
    assert measured.last["login"] == first
    other = Measured()
    other.meter.salt = b"another"
    other.run(answering(PLAIN, headers=JSON))
    assert other.last["login"] != first


def compressed(kind: str, text: bytes) -> bytes:
    bits = {"gzip": 31, "deflate": 15, "raw deflate": -15}[kind]
    one = zlib.compressobj(wbits=bits)
    return one.compress(text) + one.flush()


@pytest.mark.parametrize("kind", ["gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("stream", [False, True])
def test_compressed_answers_are_counted(measured: Measured, kind: str, stream: bool) -> None:
    raw = compressed(kind, STREAM if stream else PLAIN)
    encoding = (b"content-encoding", kind.split()[-1].encode())
    sent = measured.run(answering(raw[:30], raw[30:], headers=[*(SSE if stream else JSON), encoding]))
    assert b"".join(one["body"] for one in sent[1:]) == raw
    assert measured.last["output_tokens"] == (345 if stream else 34) and measured.last["trouble"] == ""


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip", b"compress"])
def test_what_cannot_be_decompressed_passes_uncounted(measured: Measured, encoding: bytes) -> None:
    sent = measured.run(answering(b"nonsense", headers=[*JSON, (b"content-encoding", encoding)]))
    assert sent[1]["body"] == b"nonsense"
    assert (measured.last["output_tokens"], measured.last["cost"]) == (0, None)


def test_a_model_inside_a_tool_call_is_not_who_answered(measured: Measured) -> None:
    plain = {
        "content": [{"type": "tool_use", "input": {"model": "gpt-4", "usage": {"output_tokens": 9}}}],
        "model": "claude-opus-9-9",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    measured.run(answering(json.dumps(plain).encode(), headers=JSON))
    said = measured.last
    assert (said["answered_by"], said["input_tokens"], said["output_tokens"]) == ("claude-opus-9-9", 1, 2)


def test_a_large_plain_answer_is_counted_by_its_end(measured: Measured) -> None:
    big = b'{"content": "' + b"x" * (2 * meters.COPY) + b'", "usage": {"output_tokens": 77}}'
    measured.run(answering(*(big[n : n + 65536] for n in range(0, len(big), 65536)), headers=JSON))
    assert measured.last["trouble"] == "" and measured.last["output_tokens"] in (0, 77)


def test_the_first_byte_comes_before_the_first_token(measured: Measured) -> None:
    start = STREAM.index(b"event: content_block_delta")
    measured.run(answering(STREAM[:start], STREAM[start:]))
    assert 0 <= measured.last["first_byte"] <= measured.last["first"] <= measured.last["seconds"]


# ------------------------------------------------------------------------------------------ an hour in the cache

WRITTEN = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 1000,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600},
    "output_tokens": 1,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [7, 60, 10_000])
def test_what_is_written_to_the_cache_for_an_hour_costs_what_it_costs(
    measured: Measured, stream: bool, size: int
) -> None:
    measured.meter.prices[("claude-opus-9-9", "")] = (1.0, 2.0, 0.1, 1.25, 2.0)
    message = {"model": "claude-opus-9-9", "usage": WRITTEN}
    raw = json.dumps(message).encode()
    if stream:
        raw = (
            b"event: message_start\ndata: "
            + json.dumps({"type": "message_start", "message": message}).encode()
        )
        raw += b'\n\nevent: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":1}}\n\n'
        raw += b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    measured.run(answering(*pieces, headers=SSE if stream else JSON))
    said = measured.last
    assert said["cache_write_tokens"] == 1000 and said["trouble"] == ""
    assert said["cost"] == pytest.approx(10 + 2 + 400 * 1.25 + 600 * 2.0)


@pytest.mark.parametrize(
    ("info", "hour"),
    [
        ({"cache_creation_input_token_cost": 1.25, "cache_creation_input_token_cost_above_1hr": 1.9}, 1.9),
        ({"cache_creation_input_token_cost": 1.25}, 2.0),
        ({}, 1.0),
    ],
)
def test_the_price_of_an_hour(monkeypatch: pytest.MonkeyPatch, info: dict[str, float], hour: float) -> None:
    library = types.ModuleType("litellm")
    known = {"input_cost_per_token": 1.0, "output_cost_per_token": 5.0, **info}
    library.get_model_info = lambda model, custom_llm_provider: known  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", library)
    found = meters._prices("claude-opus-9-9", "")
    assert found is not None and found[-1] == hour
