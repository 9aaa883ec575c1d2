"""``ocd serve --team`` without its processes: what the front lets through, and what it does without a database."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ocd.errors import OcdError
from ocd.stack.prices import Price
from ocd.team import front as fronts
from ocd.team import serve
from ocd.team.database import Away, Database
from ocd.team.front import Figures, Front
from ocd.team.gate import Gate
from ocd.team.store import Store

DOLLAR = 100_000_000
ASK = {"model": "haiku", "max_tokens": 10, "messages": []}


class Broken(Database):
    """A database that can be switched off, before a transaction or at its commit."""

    off = False
    lose_answers = 0

    def transaction(self) -> Any:
        inner = super().transaction

        @contextlib.contextmanager
        def broken() -> Iterator[Any]:
            if self.off:
                raise Away("switched off")
            with inner() as tx:
                yield tx
            if self.lose_answers:
                self.lose_answers -= 1
                raise Away("committed, and nobody knows")

        return broken()


class Upstream:
    """The bedrock proxy: answers, and lets the meter tell ``cost`` (None: it does not tell)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[tuple[str, str]], bytes]] = []
        self.cost: float | None = 0.01
        self.front: Front | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.split("\r\n")
            headers = [(n.lower(), v) for n, _, v in (one.partition(": ") for one in rest if one)]
            body = await reader.readexactly(int(dict(headers).get("content-length", "0")))
            self.seen.append((line, headers, body))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-ocd-upstream: a b\r\nconnection: close\r\n\r\n{}"
            )
            await writer.drain()
            if self.front is not None and self.cost is not None:
                self.front.on_request({"request": dict(headers)["x-ocd-request"], "cost": self.cost})
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Scene:
    def __init__(self, folder: Path) -> None:
        self.database = Broken(f"sqlite://{folder}/team.db")
        self.database.migrate()
        self.store = Store(self.database)
        self.upstream = Upstream()
        self.known: list[Any] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.proxy: Any = SimpleNamespace(port=0, key="sk-inner", prices={"haiku": Price(1e-6, 1e-6, 0, 0)})

    @asynccontextmanager
    async def open(self, outage: float = 60.0) -> AsyncIterator[Scene]:
        def tell(what: str, **more: Any) -> None:
            self.told.append((what, more))

        server = await asyncio.start_server(self.upstream.serve, "127.0.0.1", 0)
        self.proxy.port = server.sockets[0].getsockname()[1]
        self.gate = Gate(self.store, 0.001, outage, 600, tell)
        self.front = self.upstream.front = Front(self.proxy, self.gate, Figures(), tell, self.known.append)
        await self.gate.look()
        transport = httpx.ASGITransport(self.front)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://team") as self.client:
                yield self
        finally:
            await self.front.close()
            self.database.off = False
            await self.gate.close(5)
            self.gate._threads.shutdown(wait=True)
            server.close()
            await server.wait_closed()
            self.database.close_all()

    async def ask(
        self, key: str, path: str = "/v1/messages", ask: Any = ASK, **headers: str
    ) -> httpx.Response:
        given = {"authorization": f"Bearer {key}", **headers}
        answer = await self.client.post(path, json=ask, headers=given)
        if self.front.bookings:
            await asyncio.wait(self.front.bookings)
        return answer

    def spent(self) -> int:
        return self.store.people(__import__("time").time())[0].spent_day


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_request_goes_on_without_the_key_and_is_booked_as_the_meter_says(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        async with scene.open():
            got = await scene.ask(
                key, cookie="a=b", connection="x-mine", **{"x-mine": "1", "x-claude-code-session-id": "s"}
            )
            assert got.status_code == 200 and got.headers["x-ocd-upstream"] == "a b"
            ((line, headers, body),) = scene.upstream.seen
            names = dict(headers)
            assert line.startswith("POST /v1/messages ") and json.loads(body) == ASK
            assert names["authorization"] == "Bearer sk-inner" and names["x-claude-code-session-id"] == "s"
            assert key not in str(headers) and "cookie" not in names and "x-mine" not in names
            assert scene.spent() == DOLLAR // 100 and not scene.gate.open
            assert key not in str(scene.told) and scene.known == [("127.0.0.1", 123)]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (403, {"authorization": "Bearer sk-ocdteam-wrong"}),
        (403, {"authorization": ""}),
        (403, {"authorization": "Basic abc"}),
        (400, {"x-api-key": "sk-ant-api03-canary"}),
    ],
)
def test_who_is_refused(scene: Scene, status: int, change: dict[str, str]) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        async with scene.open():
            got = await scene.client.post(
                "/v1/messages", json=ASK, headers={"authorization": f"Bearer {key}", **change}
            )
            assert got.status_code == status and got.json()["type"] == "error"
            assert not scene.upstream.seen and "canary" not in got.text + str(scene.told) and not scene.known

    asyncio.run(story())


def test_models_and_other_names_for_them(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0, ["haiku"])
        async with scene.open():
            assert (await scene.ask(key, ask={**ASK, "model": "opus"})).status_code == 403
            assert (
                await scene.ask(key, "/v1/messages/count_tokens", {**ASK, "model": "opus"})
            ).status_code == 403
            assert (await scene.ask(key, ask={**ASK, "fallbacks": ["opus"]})).status_code == 400
            assert (await scene.ask(key, ask=[])).status_code == 400
            assert (await scene.ask(key, "/v1/chat/completions")).status_code == 404
            assert not scene.upstream.seen
            assert (await scene.ask(key, "/v1/messages/count_tokens")).status_code == 200
            assert scene.spent() == 0

    asyncio.run(story())


def test_a_budget_ends_and_a_revoked_key_at_once(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0, day=DOLLAR // 50)
        async with scene.open():
            codes = [(await scene.ask(key)).status_code for _ in range(4)]
            assert codes == [200, 200, 424, 424] and scene.spent() == DOLLAR // 50
            scene.store.set_budget("root", "ada", 0, 0, None)
            assert (await scene.ask(key)).status_code == 200
            scene.store.revoke("root", "ada", 1)
            assert (await scene.ask(key)).status_code == 403

    asyncio.run(story())


def test_what_the_meter_cannot_tell_is_booked_by_what_was_sent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "FIGURES", 0.01)

    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        scene.upstream.cost = None
        async with scene.open():
            assert (await scene.ask(key)).status_code == 200
            assert 0 < scene.spent() < 10_000

    asyncio.run(story())


def test_a_proxy_that_is_gone_costs_nothing(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        async with scene.open():
            port, scene.proxy.port = scene.proxy.port, 1
            got = await scene.ask(key)
            assert got.status_code == 503 and got.headers["retry-after"] and scene.spent() == 0
            scene.proxy.port = 0
            assert (await scene.ask(key)).status_code == 503
            assert (await scene.client.get("/health/readiness")).status_code == 503
            assert (await scene.client.get("/health/liveness")).status_code == 200
            scene.proxy.port = port
            assert (await scene.client.get("/health/readiness")).status_code == 200
            scene.front.draining = True
            assert (await scene.client.get("/health/readiness")).status_code == 503

    asyncio.run(story())


def test_without_a_database_those_who_are_known_go_on_and_nothing_is_lost(scene: Scene) -> None:
    async def story() -> None:
        ada, eve = scene.store.invite("root", "ada", 0, day=DOLLAR), scene.store.invite("root", "eve", 0)
        async with scene.open():
            scene.store.revoke("root", "eve", 1)
            await scene.gate.look()
            scene.database.off = True
            for _ in range(5):
                assert (await scene.ask(ada)).status_code == 200
            assert (await scene.ask(eve)).status_code == 403
            assert len(scene.gate.queue) == 10 and not scene.gate.up
            scene.database.off = False
            await scene.gate.look()
            assert scene.gate.up and not scene.gate.queue and scene.spent() == 5 * DOLLAR // 100
            assert [what for what, _ in scene.told if what.startswith("database")] == [
                "database-away",
                "database-back",
            ]

    asyncio.run(story())


def test_an_invitation_is_good_at_once(scene: Scene) -> None:
    async def story() -> None:
        async with scene.open():
            scene.gate._cache = 1000
            key = scene.store.invite("root", "ada", 0)
            assert (await scene.ask(key)).status_code == 200
            scene.gate._finding = 3  # strangers ask as well
            scene.store.revoke("root", "ada", 1)
            assert (await scene.ask(scene.store.invite("root", "ada", 2))).status_code == 403

    asyncio.run(story())


def test_a_commit_that_nobody_heard_of_is_booked_once(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        async with scene.open():
            for _ in range(3):
                await scene.gate.look()
                scene.database.lose_answers = 1  # of admit's
                assert (await scene.ask(key)).status_code == 200
            scene.database.lose_answers = 0
            await scene.gate.look()
            assert scene.spent() == 3 * DOLLAR // 100

    asyncio.run(story())


def test_what_is_known_is_not_used_for_ever(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        async with scene.open(outage=0.01):
            scene.database.off = True
            scene.gate._read -= 1
            assert (await scene.ask(key)).status_code == 503
            assert not scene.upstream.seen and not scene.front.ready

    asyncio.run(story())


def test_what_cannot_be_told_at_the_end_is_written_down(scene: Scene) -> None:
    async def story() -> None:
        key = scene.store.invite("root", "ada", 0)
        async with scene.open():
            scene.database.off = True
            assert (await scene.ask(key)).status_code == 200
            await scene.gate.close(0)
            lost = [more for what, more in scene.told if what == "not-booked"]
            assert [one["op"] for one in lost] == ["reserve", "book"] and lost[1]["units"] == DOLLAR // 100
            scene.gate.queue.clear()

    asyncio.run(story())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--team"],
        ["--team", "--plain", "--cert", "a", "--key", "b"],
        ["--team", "--cert", "a"],
        ["--team", "--plain", "--nothing"],
        ["--team", "--plain", "--cache", "0"],
        ["--team", "--plain", "--hold", "x"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(OcdError) as refused:
        serve.arguments(words)
    assert refused.value.exit_code == 64


def test_an_address() -> None:
    assert serve.place("[::]:8443") == ("::", 8443)
    with pytest.raises(OcdError):
        serve.place("8443")
