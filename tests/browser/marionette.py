"""Firefox by its own remote control (Marionette: https://firefox-source-docs.mozilla.org/testing/marionette/) over a
loopback port; standard library only. The same as ``cdp`` has, as far as the tests need it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.browser.cdp import PATIENCE

#: nothing but the loopback is asked: whatever else it wants goes to a proxy that is not there
PREFERENCES: dict[str, Any] = {
    "marionette.port": 0,
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.socks": "127.0.0.1",
    "network.proxy.socks_port": 9,
    "network.proxy.no_proxies_on": "127.0.0.1, localhost",
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "layout.css.devPixelsPerPx": "1.0",
}
#: what Marionette's actions call these keys (WebDriver, "keyboard actions")
KEYS = {"Enter": "\ue007", "Tab": "\ue004", "Escape": "\ue00c"}


def found() -> str:
    """The browser's program, or nothing."""
    names = ("firefox-esr", "firefox")
    return os.environ.get("OCD_TEST_FIREFOX") or next(
        (path for name in names if (path := shutil.which(name))), ""
    )


class Browser:
    """``with Browser(program) as browser``: a browser of its own, with an empty profile, that shows nothing."""

    name = "firefox"

    def __init__(self, program: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp")
        profile = Path(self.folder, "profile")
        profile.mkdir()
        lines = [
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items()
        ]
        (profile / "user.js").write_text("".join(lines))
        command = [program, "--headless", "--no-remote", "--profile", str(profile)]
        command += ["--marionette", "--remote-allow-system-access"]
        with open(f"{self.folder}/stderr", "wb") as complaints:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env={"PATH": os.environ["PATH"], "HOME": self.folder, "LANG": "C.UTF-8", "TZ": "UTC"},
                start_new_session=True,
            )
        self._number = 0
        self._rest = b""
        try:
            self._sock = socket.create_connection(("127.0.0.1", self._port(profile)), timeout=PATIENCE)
            self._read()
            said = self.send(
                "WebDriver:NewSession", capabilities={"alwaysMatch": {"acceptInsecureCerts": False}}
            )
        except BaseException:
            self._end()
            raise
        self.version = str(said["capabilities"]["browserVersion"])
        self._at: str = self.send("WebDriver:GetWindowHandle")["value"]

    def _port(self, profile: Path) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            file = profile / "MarionetteActivePort"
            if file.exists() and file.read_text().strip():
                return int(file.read_text())
            time.sleep(0.02)
        raise AssertionError(f"Firefox did not begin: {Path(self.folder, 'stderr').read_text()[-2000:]}")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._end()

    def _end(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> Any:
        while b":" not in self._rest:
            self._more()
        length, _, self._rest = self._rest.partition(b":")
        while len(self._rest) < int(length):
            self._more()
        text, self._rest = self._rest[: int(length)], self._rest[int(length) :]
        return json.loads(text)

    def _more(self) -> None:
        data = self._sock.recv(1 << 20)
        if not data:
            raise AssertionError("Firefox ended")
        self._rest += data

    def send(self, command: str, **parameters: Any) -> dict[str, Any]:
        """One order and its result. Raises AssertionError with the browser's words."""
        self._number += 1
        data = json.dumps([0, self._number, command, parameters]).encode()
        self._sock.sendall(b"%d:%s" % (len(data), data))
        _kind, _number, error, result = self._read()
        if error:
            raise AssertionError(f"{command}: {error['message'][:1000]}")
        return dict(result or {})

    def at(self, handle: str) -> None:
        """What follows goes to that tab."""
        if handle != self._at:
            self.send("WebDriver:SwitchToWindow", handle=handle, focus=True)
            self._at = handle

    def page(self) -> Page:
        """A new tab."""
        return Page(self, str(self.send("WebDriver:NewWindow", type="tab", focus=True)["handle"]))


class Page:
    """A tab. ``errors``: nothing is known of its console."""

    def __init__(self, browser: Browser, handle: str) -> None:
        self.browser, self.handle = browser, handle
        self.errors: list[str] = []

    @property
    def asked(self) -> list[str]:
        """The addresses that the page which is there asked."""
        return list(
            self.run("[location.href, ...performance.getEntriesByType('resource').map(one => one.name)]")
        )

    def send(self, command: str, **parameters: Any) -> dict[str, Any]:
        self.browser.at(self.handle)
        return self.browser.send(command, **parameters)

    def go(self, url: str) -> None:
        self.send("WebDriver:Navigate", url=url)

    def again(self) -> None:
        """Load the page anew."""
        self.send("WebDriver:Refresh")

    def run(self, script: str) -> Any:
        """The value of an expression, which may be a promise."""
        waits = (
            "const done = arguments[arguments.length - 1]; (async () => (\n"
            f"{script.rstrip().rstrip(';')}\n))().then(value => done([value ?? null]), why => done(String(why)));"
        )
        said = self.send("WebDriver:ExecuteAsyncScript", script=waits, args=[], newSandbox=False)["value"]
        if not isinstance(said, list):
            raise AssertionError(f"{script}: {said}")
        return said[0]

    def until(self, condition: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end, error = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end:
            try:
                if value := self.run(condition):
                    return value
            except AssertionError as problem:
                # The page may be on its way to another one.
                error = str(problem)
            time.sleep(0.02)
        seen = self.run("location.href + ' ' + document.body.innerText.slice(0, 1500)")
        raise AssertionError(f"did not happen: {condition}; {error}; page: {seen}")

    def size(self, width: int, height: int) -> None:
        """Of what the page has, or as near as a window of Firefox can be."""
        more = self.run("[outerWidth - innerWidth, outerHeight - innerHeight]")
        self.send("WebDriver:SetWindowRect", width=width + more[0], height=height + more[1])

    def theme(self, name: str) -> None:
        value = {"dark": 0, "light": 1}[name]
        self.send("Marionette:SetContext", value="chrome")
        script = f'Services.prefs.setIntPref("layout.css.prefers-color-scheme.content-override", {value})'
        self.send("WebDriver:ExecuteScript", script=script, args=[])
        self.send("Marionette:SetContext", value="content")

    def key(self, name: str) -> None:
        """Press and release a key: ``a``, ``/``, ``Enter``, ``Tab``, ``Escape``."""
        value = KEYS.get(name, name)
        presses = [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")]
        self.send("WebDriver:PerformActions", actions=[{"type": "key", "id": "keys", "actions": presses}])

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.send("WebDriver:TakeScreenshot", full=False)["value"]))
