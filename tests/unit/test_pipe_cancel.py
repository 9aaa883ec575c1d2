"""When the client goes away, its request upstream ends at once: at every moment, on both ways, plain and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.helpers.pipes import (
    SERVERS,
    Standin,
    answer,
    anthropic,
    chunked,
    request,
    reset,
    run,
    saying,
    serving,
    until,
)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def silent(_standin: Standin, _asked: Any, _writer: Any) -> None:
    await asyncio.Event().wait()


async def head_only(_standin: Standin, _asked: Any, writer: Any) -> None:
    writer.write(HEAD)
    await asyncio.Event().wait()


async def endless(_standin: Standin, _asked: Any, writer: Any) -> None:
    writer.write(HEAD)
    while True:
        writer.write(b"9\r\nevent: a\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


MOMENTS = {"before the head": silent, "before the first event": head_only, "in mid-stream": endless}


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("way", ["anthropic", "hop"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_upstream_hears_of_it(moment: str, way: str, how: str, http: str) -> None:
    async def scenario() -> dict[str, Any]:
        up = Standin(MOMENTS[moment])
        async with up.serving():
            route = anthropic(up.url) if way == "anthropic" else {"way": "hop", "model": "claude-opus-9-9"}
            table = {"groups": {"claude-opus-9-9": route}}
            async with serving(table, environ={"OCD_BEDROCK_URL": up.url}, http=http) as setup:
                reader, writer = await setup.send(request())
                await up.arrived.wait()
                if moment != "before the head":
                    await reader.readuntil(b"\r\n\r\n")
                if moment == "in mid-stream":
                    await reader.readexactly(100)
                if how == "close":
                    writer.close()
                else:
                    reset(writer)
                await asyncio.wait_for(up.ended.wait(), 10)
                said = await setup.heard()
                assert setup.meter.now == 0
                return said

    said = run(scenario)
    assert said["trouble"] == "client-gone" and said["fallback"] == ""


def test_no_other_group_is_asked_for_a_client_that_went() -> None:
    async def scenario() -> None:
        up, hop = Standin(silent), Standin(saying(answer(200, b"{}")))
        async with up.serving(), hop.serving():
            table = {
                "groups": {"claude-opus-9-9": anthropic(up.url), "b": {"way": "hop", "model": "b"}},
                "fallbacks": {"claude-opus-9-9": ["b"]},
            }
            async with serving(table, environ={"OCD_BEDROCK_URL": hop.url}) as setup:
                _reader, writer = await setup.send(request())
                await up.arrived.wait()
                writer.close()
                await asyncio.wait_for(up.ended.wait(), 10)
                await setup.heard()
                assert hop.asked == [] and setup.reports == []

    run(scenario)


def test_a_client_that_goes_while_it_sends_reaches_nobody() -> None:
    async def scenario() -> None:
        up = Standin(silent)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            raw = request(body=json.dumps({"model": "claude-opus-9-9", "x": "y" * 100_000}).encode())
            _reader, writer = await setup.send(raw[:50_000])
            await writer.drain()
            writer.close()
            said = await setup.heard()
            assert up.asked == [] and said["status"] == 0

    run(scenario)


def test_a_client_that_goes_while_we_connect_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        # A listener that accepts nothing, its queue full: a connection attempt hangs there.
        import socket

        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            held = []
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(full.getsockname())
                held.append(one)
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            async with serving({"groups": {"claude-*": anthropic(url)}}) as setup:
                _reader, writer = await setup.send(request())
                await until(lambda: setup.pipe.client.open == 1)
                writer.close()
                assert (await setup.heard())["trouble"] == "client-gone"
                assert setup.pipe.client.open == 0
            for one in held:
                one.close()

    run(scenario)


def test_a_client_that_stops_reading_and_goes_is_noticed() -> None:
    async def scenario() -> None:
        async def flooding(_standin: Standin, _asked: Any, writer: Any) -> None:
            writer.write(HEAD)
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()

        up = Standin(flooding)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
            _reader, writer = await setup.send(request())
            await until(lambda: bool(up.asked))
            await asyncio.sleep(0.05)
            reset(writer)
            await asyncio.wait_for(up.ended.wait(), 10)
            assert (await setup.heard())["trouble"] == "client-gone"

    run(scenario)


@pytest.mark.parametrize("http", SERVERS)
def test_a_kept_connection_serves_the_next_request_after_one_that_was_cancelled(http: str) -> None:
    async def scenario() -> None:
        quiet = True

        async def play(_standin: Standin, _asked: Any, writer: Any) -> None:
            if quiet:
                await asyncio.Event().wait()
            for piece in chunked(b"event: message_stop\ndata: {}\n\n"):
                writer.write(piece)

        up = Standin(play)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}, http=http) as setup:
            for _ in range(3):
                _reader, writer = await setup.send(request())
                await until(lambda: up.arrived.is_set())
                writer.close()
                await asyncio.wait_for(up.ended.wait(), 10)
                up.ended.clear()
                up.arrived.clear()
            quiet = False
            reader, writer = await setup.send(request(close=False))
            for _ in range(3):
                assert b"message_stop" in await reader.readuntil(b"0\r\n\r\n")
                writer.write(request(close=False))
            writer.close()
            await until(lambda: setup.meter.now == 0)

    run(scenario)
