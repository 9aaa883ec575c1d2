"""The dashboard in real browsers: every view with live data, both themes, three widths, the keyboard, a hostile page.

Chromium (``OCD_TEST_BROWSER``, or one on the PATH) is driven over its remote debugging, Firefox (``OCD_TEST_FIREFOX``)
by Marionette; which is not here is left out. axe-core's accessibility check is part of it where npm has it or
``OCD_TEST_AXE`` names its axe.min.js. ``OCD_TEST_SCREENSHOTS`` keeps the pictures.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest import answers
from ocd.selftest.upstreams import Behaviour, Upstreams, in_thread
from tests.browser import axe, cdp, marionette
from tests.helpers.daemon import Daemon, eventually

Browser = cdp.Browser | marionette.Browser
Page = cdp.Page | marionette.Page
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]

VIEWS = {
    "overview": "#proxies .card h4",
    "requests": "#request-list table",
    "sessions": "#session-tree li",
    "usage": "#usage-table table",
    "routes": "#route-picture svg",
    "logs": "#log-list pre",
    "doctor": "#doctor-rows table",
}
SIZES = ((400, 800), (1280, 800), (3840, 2160))
LOOKS = Path(__file__).with_name("looks.js")
HOSTILE = Path(__file__).with_name("hostile.js")
OVER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
#: the plot is as wide as its place
FILLED = (
    "(() => { const place = document.querySelector('#usage-plot');"
    " return Math.abs(place.querySelector('.uplot').offsetWidth - place.clientWidth) < 2; })()"
)
LIVE = "document.querySelector('#connection')?.textContent === 'live'"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    """With a plan whose window of five hours is used faster than it lasts."""
    reset = int(time.time()) + 2 * 3600
    limits = {"5h-utilization": "0.9", "5h-reset": reset, "5h-status": "allowed",
              "7d-utilization": "0.2", "7d-reset": reset + 4 * 86400, "7d-status": "allowed"}  # fmt: skip
    plain = answers.anthropic_headers

    def headers(status: int, retry_after: int) -> dict[str, str]:
        said = {f"anthropic-ratelimit-unified-{name}": str(value) for name, value in limits.items()}
        return plain(status, retry_after) | said

    with pytest.MonkeyPatch.context() as patch, in_thread() as up:
        patch.setattr(answers, "anthropic_headers", headers)
        yield up


@pytest.fixture(scope="module")
def daemon(upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a session, requests on both legs, a subagent's among them, and one that failed."""
    repo = tmp_path_factory.mktemp("repo")
    (repo / ".git").mkdir()
    (repo / ".git" / "HEAD").write_text("ref: refs/heads/<b>topic</b>\n")
    addresses = {"anthropic": upstreams.anthropic, "bedrock": upstreams.bedrock}
    session = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with Daemon(upstreams=addresses, settings="[budget]\nday = 0.0001") as started, session:
        started.start()
        assert started.post("/v1/launch", {"pid": session.pid, "cwd": str(repo)})["ready"]
        for model in ("claude-opus-9-9", "qwen-3-coder", "claude-sonnet-9-9", "qwen-3-coder"):
            assert ask(started, model, session.pid) == 200
        assert ask(started, "claude-opus-9-9", session.pid, agent="agent-7") == 200
        upstreams.behave(Behaviour(upstream="anthropic", status=529))
        assert ask(started, "claude-opus-9-9", session.pid) == 529
        upstreams.behave()
        yield started
        assert session.stdin is not None
        session.stdin.close()


def ask(daemon: Daemon, model: str, session: int, agent: str = "") -> int:
    headers = {
        **daemon.headers(),
        "x-ocd-session": str(session),
        "x-claude-code-session-id": "conversation-1",
    }
    if agent:
        headers["x-claude-code-agent-id"] = agent
    messages = [{"role": "user", "content": "Say ok"}]
    body = {"model": model, "max_tokens": 64, "stream": True, "messages": messages}
    url = f"{daemon.url()}/v1/messages"
    return httpx.post(url, headers=headers, json=body, timeout=60, trust_env=False).status_code


@contextlib.contextmanager
def dashboard(daemon: Daemon, *options: str, **env: str) -> Iterator[dict[str, Any]]:
    """``occtl dashboard``, and what it says; Ctrl-C ends it."""
    command = [sys.executable, "-m", "ocd.ctl", "dashboard", "--json", *(options or ["--no-browser"])]
    with subprocess.Popen(
        command, env={**daemon.env, **env}, cwd="/", stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        said = json.loads(serving.stdout.readline())
        try:
            yield said
        finally:
            serving.send_signal(signal.SIGINT)
            assert serving.wait(20) == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{said['port']}/", trust_env=False)


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    if request.param == "chromium":
        program = cdp.found() or pytest.skip("no Chromium here: set OCD_TEST_BROWSER")
        with cdp.Browser(program) as chromium:
            yield chromium
    else:
        program = marionette.found() or pytest.skip("no Firefox here: set OCD_TEST_FIREFOX")
        with marionette.Browser(program) as firefox:
            yield firefox


def enter(browser: Browser, url: str) -> Page:
    page = browser.page()
    page.size(*SIZES[1])
    page.go(url)
    page.until(LIVE)
    return page


def go(page: Page, view: str) -> None:
    page.run(f"location.hash = '{view}'")
    page.until(
        f"!document.querySelector('#{view}').hidden && document.querySelector('#{view} {VIEWS[view]}') !== null"
    )


def text(page: Page, view: str) -> str:
    return str(page.run(f"document.querySelector('#{view}').innerText"))


def test_every_view_has_what_is_there_and_nothing_is_asked_elsewhere(
    browser: Browser, daemon: Daemon
) -> None:
    with dashboard(daemon) as said:
        page = enter(browser, said["url"])
        own = f"http://127.0.0.1:{said['port']}"
        assert page.run("location.href") == f"{own}/" and "once" not in page.run("document.referrer")
        seen = {}
        for view in VIEWS:
            go(page, view)
            if view == "sessions":
                page.until("/agent-7/.test(document.querySelector('#session-tree').innerText)")
            seen[view] = text(page, view)
        assert "main: ready" in seen["overview"] and "AWS today" in seen["overview"]
        assert re.search(
            r"5h.*\s*90 % used, begins again .*\s*(29|30)\.\d % an hour, full at ", seen["overview"]
        )
        assert "7d" in seen["overview"] and "overloaded" in seen["overview"]
        assert "claude-opus-9-9" in seen["requests"] and "529" in seen["requests"]
        assert "on <b>topic</b>" in seen["sessions"], "text from outside stays text"
        assert "total" in seen["usage"] and page.run("document.querySelectorAll('#usage-plot canvas').length")
        assert "qwen-3-coder" in seen["routes"] and "ready" in seen["logs"]
        # Filters.
        page.run("location.hash = 'requests'")
        page.until("!document.querySelector('#requests').hidden")
        page.run(
            "(() => { const box = document.querySelector('[data-filters=requests] [name=wrong]');"
            " box.checked = true; box.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        page.until(
            "[...document.querySelectorAll('#request-list tbody tr')].every(r => /529/.test(r.innerText))"
        )
        page.run(
            "(() => { const s = document.querySelector('[data-filters=logs] [name=source]');"
            " location.hash = 'logs'; s.value = 'main'; s.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        page.until("/^main/.test(document.querySelector('#log-list pre')?.getAttribute('aria-label') || '')")
        # What happens is told to the page that is open.
        page.run("location.hash = 'requests'")
        page.run("(document.querySelector('[data-filters=requests] [name=wrong]').checked = false)")
        session = daemon.status()["sessions"][0]["pid"]
        assert ask(daemon, "claude-sonnet-9-9", session) == 200
        page.until(
            "/^\\S+\\s+\\S+\\s+claude-sonnet-9-9/.test(document.querySelector('#request-list tbody tr').innerText)"
        )
        assert page.errors == []
        assert {"/".join(url.split("/")[:3]) for url in page.asked} == {own}
        if browser.name == "chromium":
            assert [url for url in page.asked if "once" in url] == [said["url"]]


def test_the_file_leads_in_and_no_address_has_a_word(
    browser: Browser, daemon: Daemon, tmp_path: Path
) -> None:
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/given\n')
    opener.chmod(0o700)
    with dashboard(daemon, "--port", "0", DISPLAY=":7", PATH=f"{tmp_path}:{os.environ['PATH']}") as said:
        given = Path(eventually((tmp_path / "given").read_text, what="it is opened").strip())
        page = browser.page()
        page.go(given.as_uri())
        page.until(LIVE)
        assert page.run("location.href") == f"http://127.0.0.1:{said['port']}/"
        assert not given.exists()
        assert not [url for url in page.asked if "once" in url]
        # Loading it anew is no problem, another tab has no word of its own.
        page.again()
        page.until(LIVE)
        other = browser.page()
        other.go(f"http://127.0.0.1:{said['port']}/")
        other.until("/no longer allowed/.test(document.querySelector('#connection')?.textContent || '')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_any_window_in_both_themes(
    browser: Browser, daemon: Daemon, tmp_path: Path, theme: str
) -> None:
    out = Path(os.environ.get("OCD_TEST_SCREENSHOTS") or tmp_path)
    checks = axe.script()
    wide, wrong, colours = {}, {}, set()
    with dashboard(daemon) as said:
        page = enter(browser, said["url"])
        page.theme(theme)
        for width, height in SIZES:
            page.size(width, height)
            for view in VIEWS:
                go(page, view)
                if view == "usage":
                    page.until(FILLED)
                name = f"{theme}-{width}-{view}"
                # Tables may be wider than a telephone, the page may not.
                if (
                    over := page.run(
                        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                    )
                ) > 0:
                    wide[name] = over
                if low := page.run(LOOKS.read_text()):
                    wrong[name] = low
                if checks and (violations := page.run(checks)):
                    wrong[f"{name} axe"] = violations
                page.picture(out / f"{browser.name}-{name}.png")
        colours.add(page.run("getComputedStyle(document.body).backgroundColor"))
        assert page.errors == []
    assert wide == {}, "the page is wider than the window"
    assert wrong == {}
    assert colours == {"rgb(247, 248, 250)" if theme == "light" else "rgb(20, 23, 28)"}


def test_the_keyboard_is_enough(browser: Browser, daemon: Daemon) -> None:
    with dashboard(daemon) as said:
        page = enter(browser, said["url"])
        for number, view in enumerate(VIEWS, 1):
            page.key(str(number))
            page.until(f"document.querySelector('main section:not([hidden])').id === '{view}'")
        page.key("2")
        page.until("!document.querySelector('#requests').hidden")
        page.key("/")
        assert page.run("document.activeElement.type") == "search"
        page.run("document.activeElement.blur()")
        page.key("1")
        page.until("!document.querySelector('#overview').hidden")
        # From the navigation by Tab to the first action; the question stands on "no".
        for _ in range(len(VIEWS) + 1):
            if page.run("document.activeElement.dataset.verb") == "reload":
                break
            page.key("Tab")
        assert page.run("document.activeElement.dataset.verb") == "reload"
        page.key("Enter")
        page.until("document.querySelector('#confirm').open")
        assert page.run("document.activeElement.id") == "confirm-no"
        page.key("Escape")
        page.until("!document.querySelector('#confirm').open")
        page.until("document.activeElement.dataset.verb === 'reload'")
        before, members = daemon.kinds(), daemon.proxy("bedrock")["members"]
        page.key("Enter")
        page.until("document.querySelector('#confirm').open")
        page.key("Tab")
        assert page.run("document.activeElement.id") == "confirm-yes"
        page.key("Enter")
        page.until("document.querySelector('#outcome').textContent === 'Done.'")
        # A restart reaches the daemon.
        page.run("document.querySelector('[data-verb=restart][data-proxy=bedrock]').focus()")
        for key in ("Enter", "Tab", "Enter"):
            page.key(key)
        page.until("document.querySelector('#outcome').textContent === 'Done.'")
        eventually(lambda: daemon.kinds() != before, what="it was told")
        eventually(lambda: daemon.proxy("bedrock")["members"] != members, what="another process serves")
        assert page.errors == []


def test_nobody_else_in_the_browser_gets_anything(browser: Browser, daemon: Daemon) -> None:
    cookies: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        # A browser opens connections that it may want later.
        timeout = 0.5

        def do_GET(self) -> None:
            cookies.append(self.headers.get("cookie") or "")
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title><body>other")

        def log_message(self, *_: Any) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        with dashboard(daemon) as said:
            enter(browser, said["url"])
            own = f"http://127.0.0.1:{said['port']}"
            before = daemon.kinds()
            other = browser.page()
            other.go(f"http://127.0.0.1:{served.server_port}/")
            other.until("document.title === 'other'")
            script = HOSTILE.read_text().partition("\n")[2].rstrip().rstrip(";")
            got = other.run(f"({script})({json.dumps(own)})")
            assert got and set(got.values()) == {"refused"}, got
            # The cookie goes to every port of the host, and is of no use alone.
            assert "ocd-dashboard" in cookies[0]
            status = httpx.get(f"{own}/api/status", headers={"cookie": cookies[0]}, trust_env=False)
            assert status.status_code == 403
            # A link that was used, in another tab.
            again = browser.page()
            again.go(said["url"])
            again.until("/used already/.test(document.body?.innerText || '')")
            assert daemon.kinds() == before, "nothing was done"
    finally:
        served.shutdown()
        served.server_close()
