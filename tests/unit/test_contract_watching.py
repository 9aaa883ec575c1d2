"""Bedrock's answers are seen as they pass, whole and in order, and reach their reader unchanged."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ocd.guest.layers import watching

URL = "https://bedrock-runtime.us-west-2.amazonaws.com/model/us.qwen%3A1/"
STREAM = {"content-type": "application/vnd.amazon.eventstream", "x-amzn-requestid": "r-1"}


class Noted:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def calling(self) -> None:
        self.told.append(("calling",))

    def refused(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.told.append(("refused", status, headers.get("x-amzn-errortype"), body))

    def answering(self, headers: dict[str, str]) -> None:
        self.told.append(("answering", headers.get("x-amzn-requestid")))

    async def piece(self, data: bytes, *, stream: bool) -> None:
        self.told.append(("piece", data, stream))

    async def ended(self, *, stream: bool) -> None:
        self.told.append(("ended", stream))


class Pieces(httpx.AsyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx.AsyncClient, "send", httpx.AsyncClient.send)
    assert watching.install()


def ask(
    response: httpx.Response, verb: str = "converse-stream", stream: bool = True, watched: bool = True
) -> Any:
    """What the watcher was told, and what the reader got."""
    noted = Noted()

    async def call() -> bytes:
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _request: response)) as client:
            request = client.build_request("POST", URL + verb, json={})
            answer = await client.send(request, stream=stream)
            return await answer.aread()

    async def run() -> bytes:
        if not watched:
            return await call()
        with watching.watched(noted):
            # As LiteLLM does: in a task of its own.
            return await asyncio.create_task(call())

    return noted.told, asyncio.run(run())


def test_a_streams_bytes_are_seen_as_they_come() -> None:
    body = Pieces(b"one", b"two")
    told, got = ask(httpx.Response(200, headers=STREAM, stream=body))
    assert got == b"onetwo" and body.closed
    assert told == [
        ("calling",),
        ("answering", "r-1"),
        ("piece", b"one", True),
        ("piece", b"two", True),
        ("ended", True),
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_a_plain_answer_is_seen_whole(stream: bool) -> None:
    value = json.dumps({"output": {}}).encode()
    told, got = ask(
        httpx.Response(200, content=value, headers={"content-type": "application/json"}), "converse", stream
    )
    assert got == value
    assert [one[0] for one in told] == ["calling", "answering", "piece", "ended"] and told[2][1] == value


def test_a_refusal_is_seen_and_still_there_for_litellm() -> None:
    headers = {"x-amzn-errortype": "ThrottlingException:x", "content-type": "application/json"}
    told, got = ask(httpx.Response(429, stream=Pieces(b'{"message":"x"}'), headers=headers))
    assert got == b'{"message":"x"}'
    assert told == [("calling",), ("refused", 429, "ThrottlingException:x", b'{"message":"x"}')]


class Endless(Pieces):
    """Goes on for ever; ``taken`` is how many pieces somebody wanted."""

    taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.taken += 1
            assert self.taken < 5000, "nobody stops it"
            yield b"x" * 65536


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_without_end_is_read_as_far_as_it_is_looked_at(stream: bool) -> None:
    """LiteLLM would read all of it, and look for secrets in it for seconds (E11)."""
    body = Endless()
    told, got = ask(httpx.Response(500, stream=body), "converse", stream)
    assert len(got) == watching.ERROR and told[1][:2] == ("refused", 500) and told[1][3] == got
    assert body.closed and body.taken <= 2


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PLAIN", 1_000_000)
    body = Endless()
    with pytest.raises(httpx.RemoteProtocolError, match="larger"):
        ask(httpx.Response(200, stream=body, headers={"content-type": "application/json"}), "converse", False)
    assert body.closed and body.taken < 20


def test_an_error_that_is_a_bomb_is_not_blown_up() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    pieces = Pieces(*(bomb[at : at + 4096] for at in range(0, len(bomb), 4096)))
    _told, got = ask(httpx.Response(500, stream=pieces, headers={"content-encoding": "gzip"}))
    assert got == b"0" * watching.ERROR


def test_an_error_that_cannot_be_decoded_is_still_an_error() -> None:
    told, got = ask(httpx.Response(503, stream=Pieces(b"none"), headers={"content-encoding": "gzip"}))
    assert got == b"" and told[1][:2] == ("refused", 503)


def test_other_calls_and_other_requests_are_not_looked_at() -> None:
    assert ask(httpx.Response(200, headers=STREAM, stream=Pieces(b"x")), "invoke-with-response-stream") == (
        [],
        b"x",
    )
    assert ask(httpx.Response(200, headers=STREAM, stream=Pieces(b"x")), watched=False) == ([], b"x")
    html = httpx.Response(200, headers={"content-type": "text/html"}, stream=Pieces(b"<html>"))
    assert ask(html) == ([("calling",)], b"<html>")


def test_a_stream_that_breaks_has_no_end() -> None:
    class Broken(Pieces):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"one"
            raise httpx.ReadError("reset")

    with pytest.raises(httpx.ReadError):
        ask(httpx.Response(200, headers=STREAM, stream=Broken()))


def test_no_redirect_is_followed() -> None:
    """To another host it would take the conversation and AWS's session token along."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.example/"})

    async def call() -> int:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
            request = client.build_request("POST", URL + "converse", headers={"x-amz-security-token": "t"})
            with watching.watched(noted):
                return (await client.send(request, stream=True)).status_code

    noted = Noted()
    assert asyncio.run(call()) == 307
    assert asked == ["bedrock-runtime.us-west-2.amazonaws.com"]
    assert [one[0] for one in noted.told] == ["calling", "refused"]
