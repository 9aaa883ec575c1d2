"""The dashboard's server: who gets in, what it lets through, what is live, and that the port closes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd import __version__
from ocd.adapters import git_place, peer, usage_file
from ocd.ctl.app import VERBS
from ocd.dashboard import access, programs, server
from ocd.dashboard.access import COOKIE, LINK_SECONDS, VISIT_SECONDS, Access
from ocd.dashboard.asking import Gone, Socket
from ocd.dashboard.live import Live
from ocd.dashboard.server import Dashboard, Taken
from ocd.dashboard.status import Look, pace
from ocd.errors import OcdError

ASSETS = Path(server.__file__).parent / "assets"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn takes its own log of requests out of the way, for good: put back after each test."""
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)


# ---------------------------------------------------------------------------------------------------- access


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_link_is_good_once_and_for_a_minute() -> None:
    clock = Clock()
    known = Access(clock)
    word = known.link()
    visitor = known.redeem(word)
    assert visitor is not None and known.redeem(word) is None
    assert known.may_ask(visitor.cookie, visitor.word) and known.may_load(visitor.cookie)
    late = known.link()
    clock.now += LINK_SECONDS
    assert known.redeem(late) is None and not known.waiting()
    for wrong in ("", "x", word, visitor.cookie):
        assert known.redeem(wrong) is None


def test_neither_secret_is_of_use_without_the_other() -> None:
    known = Access(Clock())
    one, other = (known.redeem(known.link()) for _ in range(2))
    assert one is not None and other is not None
    for cookie, word in (
        (one.cookie, ""),
        ("", one.word),
        (one.cookie, other.word),
        (one.word, one.cookie),
        ("", ""),
    ):
        assert not known.may_ask(cookie, word)


def test_a_visit_ends_and_all_is_bounded() -> None:
    clock = Clock()
    known = Access(clock)
    first = known.redeem(known.link())
    assert first is not None
    clock.now += VISIT_SECONDS
    assert not known.may_ask(first.cookie, first.word)
    words = [known.link() for _ in range(access.MOST_LINKS + 3)]
    assert known.redeem(words[0]) is None and known.redeem(words[-1]) is not None
    visitors = [known.redeem(known.link()) for _ in range(access.MOST_VISITORS + 2)]
    assert visitors[0] is not None and visitors[-1] is not None
    assert not known.may_load(visitors[0].cookie) and known.may_load(visitors[-1].cookie)
    known.forget()
    assert not known.may_load(visitors[-1].cookie)


OURS = b"http://127.0.0.1:4321"


@pytest.mark.parametrize(
    ("method", "headers", "refused"),
    [
        ("GET", {b"host": b"127.0.0.1:4321"}, False),
        ("GET", {b"host": b"localhost:4321"}, False),
        ("GET", {b"host": b"127.0.0.1:4321", b"origin": OURS, b"sec-fetch-site": b"same-origin"}, False),
        ("GET", {}, True),
        ("GET", {b"host": b"127.0.0.1"}, True),
        ("GET", {b"host": b"127.0.0.1:80"}, True),
        ("GET", {b"host": b"evil.example:4321"}, True),
        ("GET", {b"host": b"127.0.0.1.evil.example:4321"}, True),
        ("GET", {b"host": b"127.0.0.1:4321", b"origin": b"http://evil.example"}, True),
        ("GET", {b"host": b"127.0.0.1:4321", b"origin": b"http://127.0.0.1:9999"}, True),
        ("GET", {b"host": b"127.0.0.1:4321", b"origin": b"null"}, True),
        ("GET", {b"host": b"127.0.0.1:4321", b"sec-fetch-site": b"cross-site"}, True),
        ("GET", {b"host": b"127.0.0.1:4321", b"sec-fetch-site": b"same-site"}, True),
        ("POST", {b"host": b"127.0.0.1:4321"}, True),
        ("POST", {b"host": b"127.0.0.1:4321", b"origin": OURS}, False),
        ("POST", {b"host": b"localhost:4321", b"origin": OURS}, True),
    ],
)
def test_who_asks_from_where(method: str, headers: dict[bytes, bytes], refused: bool) -> None:
    assert bool(access.refusal(method, headers, 4321)) is refused


def test_a_link_may_come_from_anywhere_but_not_to_another_name() -> None:
    for origin in (b"null", b"http://evil.example"):
        assert not access.refusal("POST", {b"host": b"127.0.0.1:1", b"origin": origin}, 1, opening=True)
    assert access.refusal("POST", {b"host": b"evil.example:1"}, 1, opening=True)


# ---------------------------------------------------------------------------------------------------- the server


class Api:
    """As much of the control API as the page asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.uptime = 0
        self.follower: asyncio.Queue[str] = asyncio.Queue()
        self.followed = 0
        self.gone = ""
        self.more: dict[str, Any] = {}

    async def ask(self, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        if self.gone:
            raise Gone(self.gone)
        self.asked.append(f"{method} {path}{'?' if query else ''}{query} {body.decode()}".strip())
        return 200, json.dumps({"path": path, "uptime": self.uptime, **self.more}).encode()

    async def follow(self, path: str, query: str, take: Callable[[str], None]) -> None:
        assert query == "lines=0&follow=1"
        if self.gone:
            raise Gone(self.gone)
        self.followed += 1
        try:
            while True:
                take(await self.follower.get() if path == "/v1/requests" else await asyncio.Event().wait())
        finally:
            self.followed -= 1


class Page:
    """A running server, and a browser that was let in."""

    def __init__(self, tmp_path: Path) -> None:
        self.api = Api()
        self.clock = Clock()
        self.served = Dashboard(self.api, tmp_path / "usage.db", tmp_path, self.clock)
        self.client = httpx.AsyncClient(trust_env=False, timeout=20)
        self.word = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.served.port}"

    async def enter(self) -> httpx.Response:
        got = await self.client.get(self.served.link())
        found = re.search(r'ocd-page content="([^"]+)"', got.text)
        self.word = found[1] if found else ""
        return got

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(self.url + path, headers={"x-ocd-page": self.word, **headers})

    async def act(self, order: Any, **headers: str) -> httpx.Response:
        said = {"x-ocd-page": self.word, "origin": self.url, **headers}
        return await self.client.post(f"{self.url}/api/act", json=order, headers=said)


def run(story: Callable[[Page], Awaitable[None]], tmp_path: Path) -> Page:
    page = Page(tmp_path)

    async def whole() -> None:
        page.served.open()
        try:
            async with asyncio.timeout(60):
                await story(page)
        finally:
            await page.client.aclose()
            page.served.close()
            await page.served.wait()

    asyncio.run(whole())
    return page


def test_a_link_lets_in_and_leaves_nothing_secret_in_an_address(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        got = await page.enter()
        cookie = got.headers["set-cookie"]
        assert got.status_code == 200 and cookie.startswith(f"{COOKIE}-{page.served.port}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert page.word and page.word not in cookie
        index = await page.get("/")
        assert index.status_code == 200 and "<title>ocd</title>" in index.text
        assert (await page.get("/api/status")).json()["path"] == "/v1/status"
        again = await page.client.get(str(got.url))
        assert again.status_code == 403 and "again" in again.text

    assert run(story, tmp_path).served.visited


def test_the_file_that_opens_it_is_the_users_alone_and_goes(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        file = page.served.file()
        assert file.parent == tmp_path
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        form = file.read_text()
        assert f'action="{page.url}/open"' in form
        once = re.findall(r'name=once value="([^"]+)"', form)[0]
        got = await page.client.post(f"{page.url}/open", data={"once": once}, headers={"origin": "null"})
        assert got.status_code == 200 and not file.exists()
        assert page.served.file().exists()
        page.served.close()
        assert not file.exists()

    run(story, tmp_path)


def test_nobody_else_gets_anything(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        await page.enter()
        stranger = httpx.AsyncClient(trust_env=False)
        paths = [
            *server.ASSETS,
            "/api/status",
            "/api/usage?by=day",
            "/api/live",
            "/api/logs/main",
            "/nowhere",
        ]
        for path in paths:
            got = await stranger.get(page.url + path)
            assert got.status_code == 403, path
            got = await stranger.get(page.url + path, headers={"x-ocd-page": page.word})
            assert got.status_code == 403, path
        assert (await stranger.post(f"{page.url}/open", data={"once": "guess"})).status_code == 403
        await stranger.aclose()
        # The cookie alone, which every server of this host is sent by a browser.
        assert (await page.client.get(f"{page.url}/api/status")).status_code == 403
        before = list(page.api.asked)
        # A page in the same browser, one whose name was made to lead here, one that posts a form.
        for headers in (
            {"host": "evil.example"},
            {"host": f"evil.example:{page.served.port}"},
            {"origin": "http://evil.example"},
            {"origin": "http://127.0.0.1:1"},
            {"sec-fetch-site": "cross-site"},
        ):
            assert (await page.get("/api/status", **headers)).status_code == 403, headers
            assert (await page.act({"verb": "reload"}, **headers)).status_code == 403, headers
        assert (await page.client.post(f"{page.url}/api/act", json={"verb": "reload"})).status_code == 403
        assert page.api.asked == before

    run(story, tmp_path)


def test_another_user_gets_nothing_even_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def uid(here: int, there: int) -> int | None:
        asked.append((here, there))
        return whose

    monkeypatch.setattr("ocd.dashboard.server.peer.uid", uid)
    whose: int | None = os.getuid() + 1

    async def story(page: Page) -> None:
        nonlocal whose
        link = page.served.link()
        assert (await page.client.get(link)).status_code == 403
        whose = os.getuid()
        assert (await page.client.get(link)).status_code == 200, "the link is not used up by them"
        await page.enter()
        whose = os.getuid() + 1
        for path in ("/", "/api/status", "/api/live", "/open.js"):
            assert (await page.get(path)).status_code == 403
        assert (await page.act({"verb": "reload"})).status_code == 403
        whose = None
        assert (await page.get("/api/status")).status_code == 200, (
            "where the kernel does not tell, the link does"
        )
        assert asked and {here for here, _there in asked} == {page.served.port}

    run(story, tmp_path)


def test_the_kernel_tells_whose_a_connection_is() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 1 1\n"
        "   1: 0100007F:C001 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 2 1\n"
        "   2: nonsense\n"
        "   3: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 3 1\n"
    )
    assert peer.parse(text, 0x1F90, 0xC001) == 1001 and peer.parse(text, 0xC001, 0x1F90) == 1000
    assert peer.parse(text, 0x1F90, 0xC002) is None and peer.parse("", 1, 2) is None
    with socket.create_server(("127.0.0.1", 0)) as server_socket:
        here = server_socket.getsockname()[1]
        with socket.create_connection(("127.0.0.1", here)) as client:
            there = client.getsockname()[1]
            accepted, _ = server_socket.accept()
            found = peer.uid(here, there)
            accepted.close()
    assert found == (os.getuid() if os.path.exists("/proc/net/tcp") else None)


def test_every_answer_forbids_what_is_not_needed(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        await page.enter()
        for path in (*server.ASSETS, "/api/status", "/nowhere", "/open", "/open.js"):
            got = await page.get(path)
            policy = got.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
            assert got.headers["x-content-type-options"] == "nosniff"
            assert (
                got.headers["referrer-policy"] == "no-referrer" and got.headers["cache-control"] == "no-store"
            )
            assert got.headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in got.headers

    run(story, tmp_path)


def test_what_it_lets_through_is_a_closed_list(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        await page.enter()
        for path in ("/v1/status", "/api/config", "/api/logs/../keys", "/api/logs/events", "/api/shutdown",
                     "/assets/index.html", "/vendor/../index.html", "/api/metrics"):  # fmt: skip
            assert (await page.get(path)).status_code == 404, path
        assert (await page.client.put(f"{page.url}/api/act", headers={"x-ocd-page": page.word, "origin": page.url})
                ).status_code == 404  # fmt: skip
        for order in (
            {"verb": "shutdown"}, {"verb": "stop", "proxy": "main"}, {"verb": "restart", "proxy": "main/stop"},
            {"verb": "restart"}, {"verb": "reload", "proxy": "main"}, {"verb": "spill-on", "proxy": "x"},
            {}, [], "x", None,
        ):  # fmt: skip
            assert (await page.act(order)).status_code == 400, order
        assert page.api.asked == []
        assert (await page.act({"verb": "reload"})).status_code == 200
        assert (await page.act({"verb": "restart", "proxy": "bedrock"})).status_code == 200
        await page.get("/api/requests?lines=999999")
        await page.get("/api/events?lines=x")
        assert page.api.asked == [
            "POST /v1/reload {}",
            "POST /v1/proxies/bedrock/restart",
            "GET /v1/requests?lines=1000",
            "GET /v1/events?lines=1000",
        ]

    run(story, tmp_path)


def test_a_body_that_is_too_large_and_a_header_twice_are_refused(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        await page.enter()
        assert (await page.act({"verb": "reload", "more": "x" * 10_000})).status_code == 400
        twice = [("host", f"127.0.0.1:{page.served.port}"), ("x-ocd-page", page.word), ("x-ocd-page", "x")]
        assert (await page.client.get(f"{page.url}/api/status", headers=twice)).status_code == 400
        assert page.api.asked == []

    run(story, tmp_path)


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_what_changes_is_told_and_nothing_is_looked_at_without_a_viewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocd.dashboard.live.LOOK", 0.01)

    async def story(page: Page) -> None:
        await page.enter()
        assert page.api.asked == [] and page.api.followed == 0
        live = page.client.stream("GET", f"{page.url}/api/live", headers={"x-ocd-page": page.word})
        async with live as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            told = events(answer)
            assert await anext(told) == ("status", {"path": "/v1/status", "uptime": 0})
            page.api.uptime = 1
            assert await anext(told) == ("status", {"path": "/v1/status", "uptime": 1})
            page.api.follower.put_nowait('{"model": "m\\nx"}')
            assert await anext(told) == ("request", {"model": "m\nx"})
            assert page.api.followed == 2
        for _ in range(1000):
            if not page.served.live.viewers and not page.api.followed:
                break
            await asyncio.sleep(0.01)
        assert page.api.followed == 0
        asked = len(page.api.asked)
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert len(page.api.asked) == asked

    run(story, tmp_path)


def test_the_port_closes_when_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocd.dashboard.server.TURN", 0.005)

    async def story(page: Page) -> None:
        waiting = asyncio.ensure_future(page.served.wait())
        await page.enter()
        url = page.url
        # As long as a page is open, and as long as a link waits, it stays.
        live = page.client.stream("GET", f"{url}/api/live", headers={"x-ocd-page": page.word})
        async with live as answer:
            assert answer.status_code == 200
            page.clock.now += 10 * server.LINGER
            for _ in range(5):
                assert (await page.get("/")).status_code == 200
        page.served.link()
        page.clock.now += LINK_SECONDS - 1
        for _ in range(5):
            assert (await page.get("/")).status_code == 200
        assert not waiting.done()
        page.clock.now += server.LINGER + 1
        await asyncio.wait_for(waiting, 20)
        with pytest.raises(httpx.TransportError):
            await page.client.get(url)
        assert not page.served.access.may_load(page.client.cookies[f"{COOKIE}-{page.served.port}"])

    run(story, tmp_path)


def test_close_ends_it_at_once_with_its_streams(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        waiting = asyncio.ensure_future(page.served.wait())
        await page.enter()
        live = page.client.stream("GET", f"{page.url}/api/live", headers={"x-ocd-page": page.word})
        async with live as answer:
            told = events(answer)
            await anext(told)
            page.served.close()
            with contextlib.suppress(StopAsyncIteration, httpx.TransportError):
                while True:
                    await anext(told)
        await asyncio.wait_for(waiting, 20)
        with pytest.raises(httpx.TransportError):
            await page.client.get(page.url)

    run(story, tmp_path)


def test_a_port_that_somebody_has_is_said(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            number = other.getsockname()[1]
            with pytest.raises(Taken, match=str(number)):
                Dashboard(page.api, tmp_path / "usage.db", tmp_path).open(number)
        second = Dashboard(page.api, tmp_path / "usage.db", tmp_path)
        second.open(number)
        assert second.port == number
        second.close()
        await second.wait()

    run(story, tmp_path)


def test_two_at_once_do_not_take_each_others_visitors(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        await page.enter()
        second = Dashboard(page.api, tmp_path / "usage.db", tmp_path)
        second.open()
        try:
            assert (await page.client.get(f"http://127.0.0.1:{second.port}/")).status_code == 403
            assert (await page.client.get(second.link())).status_code == 200
            assert (await page.get("/api/status")).status_code == 200
        finally:
            second.close()
            await second.wait()

    run(story, tmp_path)


def test_a_daemon_that_is_gone_is_said_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocd.dashboard.live.LOOK", 0.01)

    async def story(page: Page) -> None:
        await page.enter()
        page.api.gone = "The daemon is not running. Run `occtl start`."
        got = await page.get("/api/status")
        assert (got.status_code, got.json()["error"]["what"]) == (503, page.api.gone)
        assert (await page.act({"verb": "reload"})).status_code == 503
        assert (await page.get("/api/usage?by=day")).status_code == 200, "the file needs no daemon"
        live = page.client.stream("GET", f"{page.url}/api/live", headers={"x-ocd-page": page.word})
        async with live as answer:
            told = events(answer)
            assert await anext(told) == ("gone", {"why": page.api.gone})
            page.api.gone = ""
            assert (await anext(told))[0] == "status"
            page.api.follower.put_nowait('{"model": "m"}')
            assert (await anext(told))[0] == "request"

    run(story, tmp_path)


# --------------------------------------------------------------------------------------------- what it asks others


def test_figures_come_from_the_file(tmp_path: Path) -> None:
    hour = usage_file.hour_of(1_795_000_000.0)
    row = [hour, "m", "haiku", "bedrock", "/p", "main", "s", "", 1, 0, 10, 5, 0, 0, 2.5, 1]
    usage_file.add(str(tmp_path / "usage.db"), "1", [row], 1_795_000_000.0)

    async def story(page: Page) -> None:
        await page.enter()
        said = (await page.get("/api/usage?by=day,project&since=2000-01-01")).json()
        assert [one["project"] for one in said["rows"]] == ["/p"] and page.api.asked == [
            "POST /v1/usage/write"
        ]
        for wrong in ("by=", "by=nothing", "by=day;drop", "by=day&since=2000-01-01-and-more"):
            assert (await page.get(f"/api/usage?{wrong}")).status_code == 400

    run(story, tmp_path)


def test_programs_are_run_for_themselves_and_what_they_say_is_kept_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    code = f"import json; open({str(runs)!r}, 'a').write('x'); print(json.dumps({{'fit': True}}))"
    monkeypatch.setattr(programs, "_occtl", lambda arguments: (sys.executable, "-c", code))

    async def story(page: Page) -> None:
        await page.enter()
        for _ in range(2):
            assert (await page.get("/api/doctor")).json() == {"fit": True}
        assert runs.read_text() == "x"
        assert (await page.act({"verb": "spill-off"})).json() == {"fit": True}
        await page.get("/api/doctor")
        assert runs.read_text() == "xxx", "after a change everything may be otherwise"
        monkeypatch.setattr(programs, "_occtl", lambda arguments: (sys.executable, "-c", "print('no json')"))
        assert (await page.act({"verb": "spill-on"})).status_code == 500
        failing = "import json; print(json.dumps({'error': {'what': 'no route'}}))"
        monkeypatch.setattr(programs, "_occtl", lambda arguments: (sys.executable, "-c", failing))
        got = await page.act({"verb": "spill-on"})
        assert (got.status_code, got.json()["error"]["what"]) == (409, "no route")

    run(story, tmp_path)


def test_occtl_runs_from_anywhere(tmp_path: Path) -> None:
    command = programs._occtl(("--version",))
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and __version__ in done.stdout, done.stderr
    for arguments in (*programs.LOOKS.values(), *programs.SWITCHES.values()):
        assert any(arguments[0] in verbs for verbs in VERBS.values()) and arguments[-1] == "--json"


def test_a_viewer_who_reads_slowly_loses_news_and_holds_up_nobody() -> None:
    async def story() -> None:
        api = Api()
        live = Live(api, Look(api))
        watching = live.events()
        first = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0)
        for number in range(2000):
            live._tell("event", str(number))
        assert "event: event" in await first
        (queue,) = live.viewers
        assert queue.qsize() <= 500
        await watching.aclose()
        assert not live.viewers and not live._tasks

    asyncio.run(story())


def test_each_window_has_its_pace_and_its_end() -> None:
    now = 1_795_000_000.0
    hour = 3600.0
    windows = [
        {"name": "5h", "used": 0.5, "reset": now + 3 * hour},
        {"name": "5h", "used": 0.2, "reset": now + 3 * hour},
        {"name": "7d", "used": 0.9, "reset": None},
        {"name": "5h", "used": 1.0, "reset": now + hour},
    ]
    pace({"limits": [{"windows": windows}]}, now)
    assert [one["per_hour"] for one in windows] == [0.25, 0.1, None, 0.25]
    assert windows[0]["full_at"] == pytest.approx(now + 2 * hour, abs=30)
    assert windows[1]["full_at"] is None, "not before its reset"
    assert windows[2]["full_at"] is None
    assert windows[3]["full_at"] == pytest.approx(now, abs=30)
    pace({}, now)


def test_each_session_has_its_branch_and_a_disk_that_does_not_answer_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/topic\n")
    here, stuck = str(tmp_path / "sub"), "/stuck"
    release = threading.Event()
    real = git_place.look
    looks: list[str] = []

    def look(folder: str) -> git_place.Place:
        looks.append(folder)
        if folder == stuck:
            release.wait(60)
        return real(folder)

    monkeypatch.setattr("ocd.dashboard.status.git_place.look", look)
    monkeypatch.setattr("ocd.dashboard.status.PATIENCE", 0.2)
    api, clock = Api(), Clock()
    api.more = {"sessions": [{"cwd": here}, {"cwd": stuck}]}

    async def story() -> None:
        asked = Look(api, clock)
        try:
            first, second = (await asked.status())["sessions"]
            assert (first["project"], first["branch"]) == (str(tmp_path), "topic")
            assert (second["project"], second["branch"]) == (stuck, "")
            await asked.status()
            assert sorted(looks) == sorted([here, stuck]), "once, and not again while one looks"
            (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/other\n")
            clock.now += 10
            assert (await asked.status())["sessions"][0]["branch"] == "other"
        finally:
            release.set()

    asyncio.run(story())


async def on_a_socket(
    folder: Path, answers: list[bytes], story: Callable[[Socket], Awaitable[None]]
) -> list[bytes]:
    """A server on a UNIX socket that answers each connection with the next of ``answers``; returns what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        asked.append(head.splitlines()[0] + b" " + await reader.readexactly(int(length[1]) if length else 0))
        writer.write(answers.pop(0))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    path = str(folder / "s")
    listening = await asyncio.start_unix_server(serve, path)
    try:
        await story(Socket(lambda: path))
    finally:
        listening.close()
        await listening.wait_closed()
    return asked


def test_the_control_api_is_asked_over_its_socket() -> None:
    async def story(api: Socket) -> None:
        assert await api.ask("POST", "/v1/reload", body=b"{}") == (409, b"no")
        lines: list[str] = []
        await api.follow("/v1/events", "lines=0&follow=1", lines.append)
        assert lines == ['{"a": 1}', '{"b": 2}']
        with pytest.raises(Gone):
            await api.follow("/v1/events", "", lines.append)
        with pytest.raises(Gone):
            await api.ask("GET", "/v1/status")

    answers = [
        b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\nno",
        b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{"a": 1}\n{"b": 2}\n\n',
        b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        b"",
    ]
    with tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp") as folder:
        asked = asyncio.run(on_a_socket(Path(folder), answers, story))
    assert asked[:2] == [b"POST /v1/reload HTTP/1.1 {}", b"GET /v1/events?lines=0&follow=1 HTTP/1.1 "]


def test_where_no_daemon_listens_nothing_is_connected_to() -> None:
    def find() -> str:
        raise OcdError("The daemon is not running", "", "Run `occtl start`")

    async def story() -> None:
        with pytest.raises(Gone, match="occtl start"):
            await Socket(find).ask("GET", "/v1/status")
        with pytest.raises(Gone, match="occtl start"):
            await Socket(find).follow("/v1/events", "", print)

    asyncio.run(story())


# ---------------------------------------------------------------------------------------------------- the page


def test_the_page_asks_nobody_else_and_runs_nothing_from_outside() -> None:
    for file in ASSETS.rglob("*"):
        if file.suffix not in (".html", ".js", ".css", ".svg"):
            continue
        text = file.read_text()
        if file.parent.name == "vendor":
            text = re.sub(r"/\*!.*?\*/", "", text, flags=re.DOTALL)
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file
        if file.suffix in (".html", ".js") and file.parent.name != "vendor":
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write", "new Function",
                         " onclick", " onload", " style="):  # fmt: skip
                assert word not in text, (file, word)
    assert (ASSETS / "vendor" / "uPlot.LICENSE").read_text().startswith("The MIT License")


def test_every_asset_that_the_page_names_is_served() -> None:
    named = set(re.findall(r'(?:src|href)="(/[^"#]+)"', (ASSETS / "index.html").read_text()))
    assert named <= set(server.ASSETS)
    for name, _kind in server.ASSETS.values():
        assert (ASSETS / name).is_file()
    with contextlib.suppress(FileNotFoundError):
        assert (ASSETS / "open.js").stat().st_size < 1000
