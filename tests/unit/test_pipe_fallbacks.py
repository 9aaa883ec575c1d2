"""Which answers move a request to another model group, who hears of it, and what is said when nobody answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.pipes import (
    HOP_KEY,
    SECRET,
    Answer,
    Asked,
    Setup,
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
GOOD = answer(200, b'{"model": "m1", "usage": {"input_tokens": 1, "output_tokens": 2}}', JSON)
LIMITS = (
    (b"retry-after", b"77"),
    (b"anthropic-ratelimit-unified-status", b"rejected"),
    (b"request-id", b"req_1"),
)
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'


def failing(status: int, body: bytes = OVERLOADED) -> bytes:
    return answer(status, body, JSON, *LIMITS)


async def ask(
    first: Any,
    second: Any,
    *,
    table: Callable[[str, str], dict[str, Any]] | None = None,
    raw: bytes | None = None,
    **more: Any,
) -> tuple[Answer, Setup, Standin, Standin]:
    """Anthropic plays ``first``, the bedrock proxy ``second``; one request."""
    up, hop = Standin(first), Standin(second)
    async with up.serving(), hop.serving():
        routes = (table or usual)(up.url, hop.url)
        environ = {"OCD_BEDROCK_URL": f"{hop.url}/v1"}
        async with serving(routes, environ=environ, **more) as setup:
            got = await setup.ask(raw or request())
            await setup.heard()
            return got, setup, up, hop


def usual(up: str, _hop: str) -> dict[str, Any]:
    return {
        "groups": {
            "claude-opus-9-9": anthropic(up),
            "opus-aws": {"way": "hop", "model": "opus-aws", "provider": "hop"},
        },
        "fallbacks": {"claude-opus-9-9": ["opus-aws"]},
    }


def resetting(*pieces: bytes) -> Any:
    async def play(_standin: Standin, _asked: Asked, writer: Any) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        reset(writer)

    return play


MOVES = {
    "408": saying(failing(408)),
    "429": saying(failing(429)),
    "500": saying(failing(500)),
    "503": saying(failing(503)),
    "529": saying(failing(529)),
    "reset": resetting(),
    "nonsense": saying(b"SSH-2.0-OpenSSH\r\n\r\n", close=True),
    "head only": saying(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", close=True),
    "reset before the first byte": resetting(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
}
STAYS = {str(status): saying(failing(status)) for status in (400, 401, 402, 403, 404, 413, 422)}


@pytest.mark.parametrize("how", [*MOVES, *STAYS])
def test_what_falls_back_and_what_does_not(how: str) -> None:
    """Closed as a kind: an expired login, a wrong or too long request is never answered, and billed, by AWS."""
    got, setup, up, hop = run(ask, (MOVES | STAYS)[how], saying(GOOD))
    assert len(up.asked) == 1
    if how in STAYS:
        assert (got.status, got.body) == (int(how), OVERLOADED) and hop.asked == []
        assert setup.reports == [] and setup.told[-1]["fallback"] == ""
        return
    assert got.status == 200 and b'"m1"' in got.body
    assert got.header(b"x-litellm-attempted-fallbacks") == b"1"
    (report,) = setup.reports
    assert report["kind"] == "fallback" and report["outcome"] == "answered"
    assert report["where"].startswith("claude-opus-9-9 to opus-aws (")
    assert setup.told[-1]["fallback"] == report["where"] and setup.told[-1]["trouble"] == ""
    (asked,) = hop.asked
    assert json.loads(asked.body)["model"] == "opus-aws"
    assert asked.header(b"authorization") == f"Bearer {HOP_KEY}".encode()
    assert SECRET.encode() not in asked.head + asked.body


def test_when_nobody_answers_anthropics_own_words_are_what_the_client_gets() -> None:
    """The plan's limit, its reset and the wait arrive whole, whatever AWS said about itself."""
    for second in (saying(failing(403, b"{}")), saying(failing(529, b"{}")), resetting()):
        got, setup, _up, _hop = run(ask, saying(failing(429)), second)
        assert (got.status, got.body) == (429, OVERLOADED)
        for one in LIMITS:
            assert one in got.headers
        assert [one["outcome"] for one in setup.reports] == ["failed"]
        said = setup.told[-1]
        assert (said["trouble"], said["fallback"], said["upstream"]) == ("plan-limit", "", "127.0.0.1")
        assert said["limits"] == {"status": "rejected"}


def test_when_nobody_can_be_reached_the_answer_says_so_and_is_tried_again() -> None:
    got, setup, _up, _hop = run(ask, resetting(), resetting())
    error = json.loads(got.body)
    assert got.status == 502 and error["type"] == "error" and error["error"]["type"] == "api_error"
    assert error["error"]["message"].startswith("ocd: Anthropic did not answer")
    assert got.header(b"x-should-retry") is None and setup.told[-1]["trouble"] == "unreachable"


def test_a_bodys_own_fallbacks_are_anthropics_business() -> None:
    """FINDINGS D7: LiteLLM acts on ``fallbacks`` and ``tags`` of a body, and Anthropic never sees them."""
    raw = json.dumps(
        {
            "model": "claude-opus-9-9",
            "max_tokens": 9,
            "messages": [],
            "fallbacks": [{"model": "opus-aws"}],
            "tags": ["a"],
        }
    ).encode()

    def alone(up: str, hop: str) -> dict[str, Any]:
        return {**usual(up, hop), "fallbacks": {}}

    async def both() -> Any:
        return await ask(saying(failing(529)), saying(GOOD), table=alone, raw=request(body=raw))

    got, _setup, up, hop = run(both)
    assert got.status == 529 and OVERLOADED in got.body and hop.asked == []
    assert [one.body for one in up.asked] == [raw]


def test_a_stream_that_has_begun_is_not_begun_again_elsewhere() -> None:
    pieces = chunked(b"event: message_start\ndata: {}\n\n")[:-1]
    got, setup, _up, hop = run(ask, resetting(*pieces), saying(GOOD))
    assert not got.whole and got.body.startswith(b"event: message_start") and hop.asked == []
    assert setup.reports == [] and setup.told[-1]["trouble"] == "cut"


def test_a_failed_answer_that_is_too_large_to_keep_is_passed_on() -> None:
    big = b"x" * (2 * 1024 * 1024)
    got, _setup, _up, hop = run(ask, saying(failing(529, big)), saying(GOOD))
    assert got.status == 529 and got.body == big and hop.asked == []


def test_targets_follow_one_another_and_their_own_targets() -> None:
    def table(up: str, hop: str) -> dict[str, Any]:
        groups = {name: {"way": "hop", "model": name} for name in ("a", "b", "c")}
        return {
            "groups": {"claude-opus-9-9": anthropic(up), **groups},
            "fallbacks": {"claude-opus-9-9": ["a", "b"], "a": ["c", "claude-opus-9-9"], "b": ["a"]},
        }

    async def play(_standin: Standin, asked: Asked, writer: Any) -> None:
        writer.write(GOOD if json.loads(asked.body)["model"] == "b" else failing(500))

    got, setup, up, hop = run(ask_with, saying(failing(503)), play, table)
    assert got.status == 200 and len(up.asked) == 1
    assert [json.loads(one.body)["model"] for one in hop.asked] == ["a", "c", "b"]
    assert [one["outcome"] for one in setup.reports] == ["failed", "failed", "answered"]


async def ask_with(first: Any, second: Any, table: Any, **more: Any) -> Any:
    return await ask(first, second, table=table, **more)


def test_a_target_that_litellm_serves_is_asked_in_this_process() -> None:
    def table(up: str, _hop: str) -> dict[str, Any]:
        return {
            "groups": {"claude-opus-9-9": anthropic(up), "gpt": {"way": "litellm", "provider": "openai"}},
            "fallbacks": {"*": ["gpt"]},
        }

    got, setup, _up, _hop = run(ask_with, saying(failing(529)), saying(GOOD), table)
    said = json.loads(got.body)
    assert said["litellm"] == "gpt" and json.loads(said["body"])["disable_fallbacks"] is True
    assert got.header(b"x-litellm-attempted-fallbacks") == b"1"
    assert setup.told[-1]["fallback"] == "claude-opus-9-9 to gpt (529): answered"

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no key"})

    async def failing_app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("of LiteLLM's")

    for app in (refusing, failing_app):

        async def both(app: Any = app) -> Any:
            return await ask(saying(failing(429)), saying(GOOD), table=table, app=app)

        got, setup, _up, _hop = run(both)
        assert (got.status, got.body) == (429, OVERLOADED), "Anthropic's own answer, whatever LiteLLM says"
        assert setup.told[-1]["fallback"] == "" and setup.reports[-1]["outcome"] == "failed"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500])
def test_what_litellm_routes_is_decided_here_too(status: int) -> None:
    """Without a login of the client's, and on other endpoints: LiteLLM is told not to fall back by itself."""
    bodies: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        bodies.append(body)
        code = status if body["model"] == "claude-opus-9-9" else 200
        await send({"type": "http.response.start", "status": code, "headers": [JSON]})
        await send({"type": "http.response.body", "body": b"{}"})

    def table(up: str, _hop: str) -> dict[str, Any]:
        groups = {"claude-opus-9-9": anthropic(up), "gpt": {"way": "litellm", "provider": "openai"}}
        return {"groups": groups, "fallbacks": {"claude-opus-9-9": ["gpt"]}}

    for raw in (request(login=""), request(path=b"/v1/chat/completions")):
        bodies.clear()

        async def one(raw: bytes = raw) -> Any:
            return await ask(saying(GOOD), saying(GOOD), table=table, app=app, raw=raw)

        got, _setup, up, _hop = run(one)
        moved = status in (429, 500)
        assert [one["model"] for one in bodies] == (
            ["claude-opus-9-9", "gpt"] if moved else ["claude-opus-9-9"]
        )
        assert all(one["disable_fallbacks"] is True for one in bodies) and up.asked == []
        if moved:
            assert got.status == 200
        else:
            assert got.status >= 400 and got.body == b"{}"


# ------------------------------------------------------------------------------------------------------- spill


def test_what_spills_goes_to_aws_first_and_says_so() -> None:
    spill = {"groups": {"claude-opus-*": "opus-aws"}, "why": "5h at 97 %"}

    async def both() -> Any:
        return await ask(saying(GOOD), saying(GOOD), spill=spill)

    got, setup, up, hop = run(both)
    assert got.status == 200 and up.asked == [] and len(hop.asked) == 1
    assert SECRET.encode() not in hop.asked[0].head + hop.asked[0].body
    assert setup.told[-1]["fallback"] == "claude-opus-9-9 to opus-aws (spill: 5h at 97 %): answered"


def test_when_aws_refuses_what_spills_anthropic_is_asked_after_all() -> None:
    async def both(second: Any) -> Any:
        return await ask(saying(GOOD), second, spill={"groups": {"claude-opus-9-9": "opus-aws"}})

    for second in (saying(failing(403)), saying(failing(400)), resetting()):
        got, setup, up, _hop = run(both, second)
        assert got.status == 200 and len(up.asked) == 1 and setup.told[-1]["fallback"] == ""


def test_a_spill_ends_in_time_and_by_order() -> None:
    async def both(spill: dict[str, Any]) -> Any:
        return await ask(saying(GOOD), saying(GOOD), spill=spill)

    groups = {"claude-opus-9-9": "opus-aws"}
    for spill in ({}, {"groups": {}}, {"groups": groups, "until": 1.0}, {"groups": {"other": "opus-aws"}},
                  {"groups": {"claude-opus-9-9": "nobody"}}, {"groups": "nonsense"}):  # fmt: skip
        got, _setup, up, hop = run(both, spill)
        assert got.status == 200 and len(up.asked) == 1 and hop.asked == []
