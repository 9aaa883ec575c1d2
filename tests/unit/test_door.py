"""Strangers at a guest's port: how many at once, for how long, and that nobody else pays for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ocd.guest.door import Door


class Echo(asyncio.Protocol):
    """Says who its client is, as uvicorn would, when "key" comes."""

    def __init__(self, door: Door) -> None:
        self.door = door

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"key" in data:
            self.door.known(self.transport.get_extra_info("peername")[:2])
        self.transport.write(data)


@contextlib.asynccontextmanager
async def serving(door: Door) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: door.watch(Echo(door)), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if door._look is not None:
            door._look.cancel()


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 10) == b""
    except ConnectionError:
        return True


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_oldest_stranger_goes_when_there_are_too_many() -> None:
    async def scenario() -> None:
        door = Door(most=3)
        async with serving(door) as port:
            owner, to_owner = await connect(port)
            to_owner.write(b"key")
            assert await owner.readexactly(3) == b"key"
            strangers = [await connect(port) for _ in range(3)]
            strangers[0][1].write(b"x")
            assert await strangers[0][0].readexactly(1) == b"x", "three are let be"
            more = await connect(port)
            assert await ended(strangers[0][0])
            for one in (*strangers[1:], more, (owner, to_owner)):
                one[1].write(b"y")
                assert await one[0].readexactly(1) == b"y"
            assert len(door.strangers) == 3
            for one in (*strangers, more, (owner, to_owner)):
                one[1].close()

    run(scenario)


def test_who_has_not_shown_the_key_in_time_goes_whatever_was_said() -> None:
    async def scenario() -> None:
        door = Door(patience=0.0)
        async with serving(door) as port:
            owner, to_owner = await connect(port)
            to_owner.write(b"key")
            assert await owner.readexactly(3) == b"key"
            silent, talking = await connect(port), await connect(port)
            talking[1].write(b"GET / HTTP/1.1\r\n")
            assert await ended(silent[0])
            await talking[0].read(100)
            assert await ended(talking[0])
            to_owner.write(b"still here")
            assert await owner.readexactly(10) == b"still here"
            assert not door.strangers
            for one in (silent, talking, (owner, to_owner)):
                one[1].close()

    run(scenario)


def test_those_that_went_themselves_are_forgotten_and_the_looking_ends() -> None:
    async def scenario() -> None:
        door = Door()
        async with serving(door) as port:
            for _ in range(5):
                _reader, writer = await connect(port)
                writer.close()
                await writer.wait_closed()
            while any(not transport.is_closing() for transport, _ in door.strangers.values()):
                await asyncio.sleep(0.01)
            assert door._look is not None
            door._look.cancel()
            door.look()
            assert not door.strangers and door._look is None

    run(scenario)


def test_a_unix_socket_has_no_strangers() -> None:
    door = Door()
    door.known(None)

    class Transport:
        def get_extra_info(self, _name: str) -> str:
            return ""

    made = door.watch(Echo(door))
    made.connection_made(Transport())
    assert not door.strangers and isinstance(made.transport, Transport)
