"""The request meter inside a guest: what it tells of each request, and that no request notices it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import json
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.guest import meter as meters
from ocd.guest import signing
from ocd.wire.messages import Exchange

App = Callable[[Any, Any, Any], Awaitable[None]]
HOP = "http://127.0.0.1:4001/v1"
ANTHROPIC = "http://anthropic.example/v1/messages"
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
        self.meter = meters.Meter(report or self.told.append)
        # Prices come from LiteLLM's own table, which is not here.
        unpriced = ("", "claude-opus-9-9-20260101", "eu.anthropic.claude-sonnet-9:0")
        self.meter.prices = {"claude-opus-9-9": (1e-6, 2e-6, 0.0, 0.0), **dict.fromkeys(unpriced)}
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


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Measured], None]]:
    """Have a meter watch httpx, until the test ends."""
    monkeypatch.setattr(httpx.AsyncClient, "send", httpx.AsyncClient.send)
    yield lambda measured: measured.meter.install(HOP)


def asking(
    *calls: tuple[str, Callable[[httpx.Request], httpx.Response]],
    status: int = 200,
    body: bytes = PLAIN,
    headers: Any = JSON,
) -> App:
    """An app that makes these calls with httpx, whatever they come to, then answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for url, handler in calls:
            async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
                with contextlib.suppress(httpx.HTTPError):
                    await client.post(url, content=b'{"model": "claude-opus-9-9", "messages": []}')
        await answering(body, status=status, headers=headers)(scope, receive, send)

    return app


def responding(
    status: int = 200, body: Any = None, **headers: str
) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _request: httpx.Response(
        status, json=body or {}, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def failing(kind: type[httpx.TransportError]) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        raise kind("sk-ant-oat01-secret", request=request)

    return handler


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
    assert 0 <= said["first"] <= said["seconds"] and said["trouble"] == "" and said["cost"] is None


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
    assert meters.classify(status, {}, body, "api.anthropic.com") == word


@pytest.mark.parametrize(("status", "kind", "text", "word"), BEDROCK_ERRORS)
def test_awss_errors_by_header_and_by_body(status: int, kind: str, text: str, word: str) -> None:
    body = json.dumps({"message": text}).encode()
    headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    assert meters.classify(status, headers, body, "127.0.0.1") == word
    typed = json.dumps({"__type": f"com.amazon.coral.service#{kind}", "message": text}).encode()
    assert meters.classify(status, {}, typed, "127.0.0.1") == word


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
    assert meters.classify(status, {}, body, "api.anthropic.com") == word


def test_a_model_that_bedrock_does_not_have_any_more() -> None:
    for text, word in (
        ("This model version has reached the end of its life.", "model-gone"),
        ("Could not resolve the foundation model", "model-access"),
    ):
        body = json.dumps({"message": text}).encode()
        headers = {"x-amzn-errortype": "ResourceNotFoundException:http://x/"}
        assert meters.classify(404, headers, body, "127.0.0.1") == word


def test_aws_without_a_type() -> None:
    host = "bedrock-runtime.eu-central-1.amazonaws.com"
    assert meters.classify(403, {}, b'{"message": "no"}', host) == "access-denied"
    assert meters.classify(429, {}, b"{}", host) == "throttled"


# ------------------------------------------------------------------------------------------------- the upstream


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_401_is_for_the_clients_own_credential_alone(
    measured: Measured, watching: Callable[[Measured], None], name: str
) -> None:
    watching(measured)

    def asking_with(value: str) -> App:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with httpx.AsyncClient(transport=httpx.MockTransport(responding(401))) as client:
                await client.post(ANTHROPIC, headers={name: value})
            await answering(b"{}", status=401, headers=JSON)(scope, receive, send)

        return app

    mine = ((b"x-api-key", b"sk-ant-api03-mine"),)
    own = "Bearer sk-ant-oat01-secret" if name == "authorization" else "sk-ant-api03-mine"
    assert measured.run(asking_with(own), headers=mine)[0]["status"] == 401
    assert measured.last["status"] == 401
    assert measured.run(asking_with("a key of the configuration"), headers=mine)[0]["status"] == 403
    assert measured.last["status"] == 403
    # LiteLLM's own: nobody was asked.
    assert measured.run(answering(b"{}", status=401, headers=JSON))[0]["status"] == 403


def test_what_could_not_be_signed_is_told(measured: Measured) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(
            None, contextvars.copy_context().run, meters.signing_failed, "aws-expired"
        )
        await answering(b"{}", status=500, headers=JSON)(scope, receive, send)

    sent = measured.run(app, headers=((b"x-ocd-hop", b"1"),))
    assert measured.last["trouble"] == "aws-expired"
    assert dict(sent[0]["headers"])[b"x-ocd-trouble"] == b"aws-expired"
    meters.signing_failed("outside of a request")


class SSOTokenLoadError(Exception):
    """As botocore's."""


class NoCredentialsError(Exception):
    """As botocore's."""


class ClientError(Exception):
    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (SSOTokenLoadError(), "aws-expired"),
        (ClientError("ExpiredToken"), "aws-expired"),
        (NoCredentialsError("AccessDenied"), "aws-expired"),
        (ClientError("AccessDenied"), "access-denied"),
        (ClientError("Throttling"), ""),
        (ValueError("SSOTokenLoadError"), ""),
    ],
)
def test_why_a_request_could_not_be_signed(error: Exception, word: str) -> None:
    assert signing.word_for(error) == word
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("LiteLLM's own") from inner
    except RuntimeError as outer:
        assert signing.word_for(outer) == word


def test_signing_is_watched_and_fails_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class BaseAWSLLM:
        def get_credentials(self, name: str) -> str:
            if name == "gone":
                raise SSOTokenLoadError("of botocore")
            return name

        get_request_headers = get_credentials

    module: Any = types.ModuleType("litellm.llms.bedrock.base_aws_llm")
    module.BaseAWSLLM = BaseAWSLLM
    for name in ("litellm", "litellm.llms", "litellm.llms.bedrock"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    words: list[str] = []
    assert signing.install(words.append)
    assert BaseAWSLLM().get_credentials("here") == "here" and not words
    for method in (BaseAWSLLM().get_credentials, BaseAWSLLM().get_request_headers):
        with pytest.raises(SSOTokenLoadError, match="of botocore"):
            method(name="gone")
    assert words == ["aws-expired", "aws-expired"]
    del module.BaseAWSLLM
    assert not signing.install(words.append)


def test_the_upstream_that_answered_last_is_named(
    measured: Measured, watching: Callable[[Measured], None]
) -> None:
    watching(measured)
    bedrock = "https://bedrock-runtime.eu.amazonaws.com/model/eu.anthropic.claude-sonnet-9%3A0/converse"
    measured.run(asking((ANTHROPIC, responding(529)), (bedrock, responding())))
    said = measured.last
    assert said["upstream"] == "bedrock-runtime.eu.amazonaws.com" and said["trouble"] == ""
    assert said["answered_by"] == "eu.anthropic.claude-sonnet-9:0"
    # What failed before is over: this stream's error is the second upstream's.
    event = b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n'
    measured.run(asking((ANTHROPIC, responding(529)), (bedrock, responding()), body=event, headers=SSE))
    assert measured.last["trouble"] == "upstream-error"


@pytest.mark.parametrize(
    ("handler", "word"),
    [
        (responding(401, {"type": "error"}), "login-expired"),
        (responding(429), "plan-limit"),
        (failing(httpx.ConnectError), "unreachable"),
        (failing(httpx.ConnectTimeout), "unreachable"),
        (failing(httpx.ReadTimeout), "upstream-error"),
        # Whatever a foreign upstream says in our headers is not believed.
        (responding(500, x_ocd_trouble="login-expired", x_ocd_upstream="elsewhere x"), "upstream-error"),
    ],
)
def test_the_word_is_the_upstreams_whatever_litellm_makes_of_it(
    measured: Measured, watching: Callable[[Measured], None], handler: Any, word: str
) -> None:
    watching(measured)
    measured.run(asking((ANTHROPIC, handler), status=500, body=b"{}"))
    assert (measured.last["trouble"], measured.last["upstream"]) == (word, "anthropic.example")
    assert "secret" not in json.dumps(measured.told) and measured.last["answered_by"] == ""


def test_a_hop_is_marked_and_says_who_answered_in_the_end(
    measured: Measured, watching: Callable[[Measured], None]
) -> None:
    watching(measured)
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(
            403, json={}, headers={"x-ocd-upstream": "bedrock.aws m1", "x-ocd-trouble": "aws-expired"}
        )

    measured.run(asking((f"{HOP}/chat/completions", handler), status=500, body=b"{}"))
    assert seen[0].headers["x-ocd-hop"] == "1" and not measured.last["hop"]
    assert (measured.last["upstream"], measured.last["trouble"]) == ("bedrock.aws", "aws-expired")
    measured.run(asking((ANTHROPIC, lambda request: seen.append(request) or httpx.Response(200))))  # type: ignore[func-returns-value]
    assert "x-ocd-hop" not in seen[1].headers


def test_the_asked_proxy_tells_the_asking_one(
    measured: Measured, watching: Callable[[Measured], None]
) -> None:
    watching(measured)
    url = "http://bedrock.example/model/qwen.qwen3/converse"
    denied = responding(403, {"message": "no"}, x_amzn_errortype="AccessDeniedException:http://x/")
    sent = measured.run(asking((url, denied), status=401, body=b"{}"), headers=((b"x-ocd-hop", b"1"),))
    answer = dict(sent[0]["headers"])
    assert answer[b"x-ocd-upstream"] == b"bedrock.example qwen.qwen3"
    assert answer[b"x-ocd-trouble"] == b"access-denied"
    assert measured.last["hop"] and measured.last["trouble"] == "access-denied"


def test_what_is_sent_outside_of_a_request_is_left_alone(
    measured: Measured, watching: Callable[[Measured], None]
) -> None:
    watching(measured)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.MockTransport(responding(500))) as client:
            return await client.post(f"{HOP}/models")

    answer = asyncio.run(ask())
    assert answer.status_code == 500 and "x-ocd-hop" not in answer.request.headers and not measured.told
