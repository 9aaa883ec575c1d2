"""Drives a real browser over the dashboard; run by a Python that has Playwright. Prints what it saw as JSON.

``drive.py FILE OUT [AXE]``: FILE is the page that opens the dashboard, OUT a folder for screenshots, AXE axe-core's
``axe.min.js`` (without it accessibility is not checked). ``OCD_TEST_BROWSER`` names the browser's program.
"""

import http.server
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright  # type: ignore[import-not-found,unused-ignore]

VIEWS = ("overview", "requests", "sessions", "usage", "routes", "logs", "doctor")
WIDTHS = (400, 1280, 3840)
#: what a page of another origin tries in the same browser
HOSTILE = Path(__file__).with_name("hostile.js")


class Watch:
    """What goes wrong in a page, and whom it asks."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.asked: set[str] = set()
        page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.add("/".join(request.url.split("/")[:3])))


def until(page: Page, condition: str) -> None:
    """Playwright's own waiting evaluates strings, which the page's policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise AssertionError(f"did not happen: {condition}")
        page.wait_for_timeout(20)


def enter(page: Page, file: str) -> str:
    page.goto(Path(file).as_uri())
    page.wait_for_url("http://127.0.0.1:*/", timeout=20_000)
    until(page, "document.querySelector('#connection').textContent === 'live'")
    return str(page.url).rstrip("/")


def go(page: Page, view: str) -> None:
    page.evaluate(f"location.hash = '{view}'")
    page.wait_for_selector(f"#{view}:not([hidden])")
    wait = {
        "overview": "#proxies .card h4",
        "requests": "#request-list table",
        "sessions": "#session-tree li",
        "usage": "#usage-table table",
        "routes": "#route-picture svg",
        "logs": "#log-list pre",
        "doctor": "#doctor-rows table",
    }[view]
    page.wait_for_selector(wait, timeout=60_000)


def keyboard(page: Page) -> dict[str, Any]:
    """Each view by its digit, a filter by its key, an action refused and confirmed, all without a mouse."""
    seen: dict[str, Any] = {"views": []}
    for digit in range(1, 8):
        page.keyboard.press(str(digit))
        seen["views"].append(page.evaluate("document.querySelector('main section:not([hidden])').id"))
    page.keyboard.press("2")
    page.keyboard.press("/")
    seen["find"] = page.evaluate("document.activeElement.name")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("1")
    page.wait_for_selector("#overview:not([hidden])")
    page.focus("#overview button[data-verb=reload]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#confirm[open]")
    seen["first"] = page.evaluate("document.activeElement.id")
    page.keyboard.press("Escape")
    seen["closed"] = page.evaluate("!document.querySelector('#confirm').open")
    seen["back"] = page.evaluate("document.activeElement.dataset.verb")
    page.keyboard.press("Enter")
    page.wait_for_selector("#confirm[open]")
    page.keyboard.press("Tab")
    seen["second"] = page.evaluate("document.activeElement.id")
    page.keyboard.press("Enter")
    until(page, "/Done|Not done/.test(document.querySelector('#outcome').textContent)")
    seen["outcome"] = page.evaluate("document.querySelector('#outcome').textContent")
    return seen


def hostile(context: Any, target: str) -> dict[str, str]:
    """A server of somebody else on another port of this machine, looked at in the same browser."""
    cookies: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
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
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{served.server_port}/")
        got = dict(page.evaluate(HOSTILE.read_text().partition("\n")[2], target))
        got["cookie"] = "; ".join(cookies)
        page.close()
        return got
    finally:
        served.shutdown()
        served.server_close()


def axe(page: Page, script: str) -> list[str]:
    """What axe-core finds wrong. It is put in past the page's policy, which forbids what is not ours."""
    page.evaluate(Path(script).read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found["violations"]]


def main() -> None:
    file, out = sys.argv[1], Path(sys.argv[2])
    script = sys.argv[3] if len(sys.argv) > 3 else ""
    said: dict[str, Any] = {"wide": {}, "axe": {}, "views": {}}
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=os.environ["OCD_TEST_BROWSER"], args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page = context.new_page()
        watch = Watch(page)
        target = enter(page, file)
        said["address"] = page.url
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 800 if width < 3000 else 2160})
                for view in VIEWS:
                    go(page, view)
                    name = f"{scheme}-{width}-{view}"
                    # Tables may be wider than a telephone, the page may not.
                    over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    if over > 0:
                        said["wide"][name] = over
                    said["views"][view] = page.inner_text(f"#{view}")[:4000]
                    if script and width < 3000 and (wrong := axe(page, script)):
                        said["axe"][name] = wrong
                    page.screenshot(path=str(out / f"{name}.png"))
        page.set_viewport_size({"width": 1280, "height": 800})
        said["keyboard"] = keyboard(page)
        said["hostile"] = hostile(context, target)
        said["errors"] = watch.errors
        said["asked"] = sorted(watch.asked - {"file://", "file:"})
        said["secret"] = [
            url for url in (page.url, page.evaluate("document.referrer")) if re.search("once", url)
        ]
        other = context.new_page()
        answer = other.goto(f"{target}/api/status")
        said["tab"] = answer.status if answer else 0
        browser.close()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
