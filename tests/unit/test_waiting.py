"""Clients that have not said anything yet: held cheaply, bounded, and nobody who speaks notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ocd.guest import waiting
from ocd.guest.waiting import Waiting


class Echo(asyncio.Protocol):
    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.asynccontextmanager
async def serving(limit: int = 10, patience: float = 60.0) -> AsyncIterator[tuple[Waiting, int]]:
    Echo.made = 0
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    port = sock.getsockname()[1]
    server = Waiting(sock, Echo, limit, patience)
    try:
        yield server, port
    finally:
        server.close()
        await asyncio.sleep(0)


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 10) == b""
    except ConnectionError:
        return True


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_protocol_is_made_with_the_first_bytes() -> None:
    async def scenario() -> None:
        async with serving() as (server, port):
            reader, writer = await connect(port)
            await until(lambda: len(server) == 1)
            assert Echo.made == 0
            for word in (b"one", b"two"):
                writer.write(word)
                assert await reader.readexactly(3) == word
            assert Echo.made == 1 and len(server) == 0
            writer.close()

    run(scenario)


def test_the_oldest_silent_one_goes_when_there_are_too_many() -> None:
    async def scenario() -> None:
        async with serving(limit=2) as (server, port):
            speaker = await connect(port)
            speaker[1].write(b"x")
            assert await speaker[0].readexactly(1) == b"x"
            silent = []
            for _ in range(3):
                silent.append(await connect(port))
                await until(lambda: len(server) == min(len(silent), 2))
            assert await ended(silent[0][0])
            for one in (*silent[1:], speaker):
                one[1].write(b"y")
                assert await one[0].readexactly(1) == b"y"
            for one in (*silent, speaker):
                one[1].close()

    run(scenario)


def test_who_stays_silent_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PAUSE", 0.01)

    async def scenario() -> None:
        async with serving(patience=0.0) as (server, port):
            reader, writer = await connect(port)
            assert await ended(reader) and len(server) == 0 and Echo.made == 0
            writer.close()

    run(scenario)


def test_who_came_before_the_listening_ended_may_still_speak() -> None:
    async def scenario() -> None:
        async with serving() as (server, port):
            reader, writer = await connect(port)
            await until(lambda: len(server) == 1)
            server.close()
            writer.write(b"late")
            assert await reader.readexactly(4) == b"late" and not server.is_serving()
            writer.close()
            with pytest.raises(OSError):
                await connect(port)

    run(scenario)


def test_without_descriptors_the_oldest_go_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PAUSE", 0.01)

    class Out(socket.socket):
        failing = True

        def accept(self) -> Any:
            if Out.failing:
                Out.failing = False
                raise OSError(24, "Too many open files")
            return super().accept()

    async def scenario() -> None:
        async with serving() as (server, port):
            first = await connect(port)
            await until(lambda: len(server) == 1)
            real = server.sockets[0]
            asyncio.get_running_loop().remove_reader(real.fileno())
            server.sockets = (Out(fileno=real.detach()),)
            server._listen()
            second = await connect(port)
            assert await ended(first[0])
            second[1].write(b"z")
            assert await second[0].readexactly(1) == b"z"
            for one in (first, second):
                one[1].close()

    run(scenario)
