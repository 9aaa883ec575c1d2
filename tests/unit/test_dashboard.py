"""The dashboard's server: who gets in, what it lets through, what is live, and that the port closes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.adapters import usage_file
from ocd.dashboard import access, asking, programs, server
from ocd.dashboard.access import COOKIE, LINK_SECONDS, VISIT_SECONDS, Access
from ocd.dashboard.live import Live
from ocd.dashboard.server import Dashboard, Taken

ASSETS = Path(server.__file__).parent / "assets"


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

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        path, query = scope["path"], scope["query_string"].decode()
        self.asked.append(f"{scope['method']} {path}{'?' if query else ''}{query} {body.decode()}".strip())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if "follow=1" in query:
            self.followed += 1
            try:
                while True:
                    line = (
                        await self.follower.get() if path == "/v1/requests" else await asyncio.Event().wait()
                    )
                    await send(
                        {"type": "http.response.body", "body": f"{line}\n".encode(), "more_body": True}
                    )
            finally:
                self.followed -= 1
        said = json.dumps({"path": path, "uptime": self.uptime}).encode()
        await send({"type": "http.response.body", "body": said, "more_body": False})


class Page:
    """A running server, and a browser that was let in."""

    def __init__(self, tmp_path: Path, port: int = 0) -> None:
        self.api = Api()
        self.fixed = port
        self.events: list[str] = []
        self.clock = Clock()
        self.served = Dashboard(
            self.api,
            lambda: self.fixed,
            tmp_path / "usage.db",
            tmp_path,
            lambda kind, **_: self.events.append(kind),
            self.clock,
        )
        self.client = httpx.AsyncClient(trust_env=False, timeout=20)
        self.word = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.served.port}"

    async def enter(self) -> httpx.Response:
        _port, once = self.served.link()
        got = await self.client.get(f"{self.url}/open", params={"once": once})
        found = re.search(r'ocd-page content="([^"]+)"', got.text)
        self.word = found[1] if found else ""
        return got

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(self.url + path, headers={"x-ocd-page": self.word, **headers})

    async def act(self, order: Any, **headers: str) -> httpx.Response:
        said = {"x-ocd-page": self.word, "origin": self.url, **headers}
        return await self.client.post(f"{self.url}/api/act", json=order, headers=said)


def run(story: Callable[[Page], Awaitable[None]], tmp_path: Path, port: int = 0) -> Page:
    page = Page(tmp_path, port)

    async def whole() -> None:
        try:
            async with asyncio.timeout(60):
                await story(page)
        finally:
            await page.client.aclose()
            await page.served.closed()

    asyncio.run(whole())
    return page


def test_a_link_lets_in_and_leaves_nothing_secret_in_an_address(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        got = await page.enter()
        cookie = got.headers["set-cookie"]
        assert got.status_code == 200 and cookie.startswith(f"{COOKIE}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert page.word and page.word not in cookie
        index = await page.get("/")
        assert index.status_code == 200 and "<title>ocd</title>" in index.text
        assert (await page.get("/api/status")).json()["path"] == "/v1/status"
        again = await page.client.get(str(got.url))
        assert again.status_code == 403 and "again" in again.text

    page = run(story, tmp_path)
    assert page.events == ["dashboard-opened", "dashboard-closed"]


def test_the_file_that_opens_it_is_the_users_alone_and_goes(tmp_path: Path) -> None:
    async def story(page: Page) -> None:
        _port, once = page.served.link()
        file = tmp_path / "dashboard.html"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        form = file.read_text()
        assert f'action="{page.url}/open"' in form and once in form
        got = await page.client.post(f"{page.url}/open", data={"once": once}, headers={"origin": "null"})
        assert got.status_code == 200 and not file.exists()
        page.served.link()
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
    real = asyncio.sleep
    monkeypatch.setattr("ocd.dashboard.server.asyncio.sleep", lambda _seconds: real(0.005))

    async def story(page: Page) -> None:
        await page.enter()
        url = page.url
        page.clock.now += server.LINGER + 1
        async with asyncio.timeout(20):
            while page.served.server is not None:
                await real(0.005)
        with pytest.raises(httpx.TransportError):
            await page.client.get(url)
        # What was let in then is not let in to the next one.
        page.served.link()
        assert (await page.get("/api/status")).status_code == 403

    page = run(story, tmp_path)
    assert page.events[:2] == ["dashboard-opened", "dashboard-closed"]


def test_a_link_that_waits_and_a_port_for_good_keep_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asyncio.sleep
    turns = 0

    async def count(_seconds: float) -> None:
        nonlocal turns
        turns += 1
        await real(0.001)

    monkeypatch.setattr("ocd.dashboard.server.asyncio.sleep", count)

    async def story(page: Page) -> None:
        page.served.link()
        while turns < 5:
            await real(0.001)
        assert page.served.server is not None
        await page.served.closed()
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            page.fixed = probe.getsockname()[1]
            with pytest.raises(Taken, match=str(page.fixed)):
                page.served.link()
            page.served.follow()
            page.served.follow()
        page.served.follow()
        assert page.served.port == page.fixed
        page.clock.now += 10 * server.LINGER
        before = turns
        while turns < before + 5:
            await real(0.001)
        assert page.served.server is not None
        page.fixed = 0
        page.served.follow()

    page = run(story, tmp_path)
    assert page.events.count("dashboard-failed") == 1, "said once, tried again"


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


def test_a_viewer_who_reads_slowly_loses_news_and_holds_up_nobody() -> None:
    async def story() -> None:
        async def nothing(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        live = Live(nothing)
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


def test_asking_gives_lines_whole() -> None:
    async def api(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b'{"a"', b": 1}\n{", b'"b": 2}\n\n'):
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    found: list[str] = []
    asyncio.run(asking.follow(api, "/x", "", found.append))
    assert found == ['{"a": 1}', '{"b": 2}']


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
