"""A proxy that is stopped has given up its port when whoever stopped it is answered."""

from __future__ import annotations

import asyncio
import socket

from ocd.supervisor.api import proxy_verbs


def test_the_answer_waits_until_nobody_listens() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as keeper:
            keeper.bind(("127.0.0.1", 0))
            keeper.listen(64)
            port = keeper.getsockname()[1]
            waiting = asyncio.create_task(proxy_verbs._closed([port]))
            looked = asyncio.Event()
            loop.add_reader(keeper.fileno(), looked.set)
            await looked.wait()
            assert not waiting.done()
            loop.remove_reader(keeper.fileno())
        await asyncio.wait_for(waiting, 30)
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.1", port)) != 0

    asyncio.run(story())


def test_another_program_that_has_the_port_by_then_holds_nobody_up() -> None:
    async def story() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen(1024)
            await asyncio.wait_for(proxy_verbs._closed([other.getsockname()[1]]), 30)

    asyncio.run(story())
