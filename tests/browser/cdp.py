"""A browser by its remote debugging (the Chrome DevTools Protocol) over a pair of pipes; standard library only."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: seconds for anything that a test waits for
PATIENCE = 60.0 * float(os.environ.get("OCD_TEST_SLOW") or 1)


def found() -> str:
    """The browser's program, or nothing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("OCD_TEST_BROWSER") or next(
        (path for name in names if (path := shutil.which(name))), ""
    )


class Browser:
    """``with Browser(program) as browser``: a browser of its own, with an empty profile, that shows nothing."""

    name = "chromium"

    def __init__(self, program: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp")
        self.errors: list[str] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._number = 0
        self._listeners: list[Callable[[dict[str, Any]], None]] = []
        self._over = False
        their_end, self._write = os.pipe()
        self._read, our_end = os.pipe()
        # Out of the way of 3 and 4.
        to_browser, from_browser = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (their_end, our_end))
        os.close(their_end)
        os.close(our_end)
        command = [
            program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.folder}/profile",
            "--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
            "--disable-extensions", "--force-device-scale-factor=1", *(["--no-sandbox"] if os.getuid() == 0 else []),
            "about:blank",
        ]  # fmt: skip
        # The browser reads its orders on 3 and answers on 4.
        moved = f'exec 3<&{to_browser} 4>&{from_browser} {to_browser}<&- {from_browser}>&-; exec "$@"'
        with open(f"{self.folder}/stderr", "wb") as complaints:
            self.process = subprocess.Popen(
                ["bash", "-c", moved, "bash", *command],
                pass_fds=(to_browser, from_browser),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env={"PATH": os.environ["PATH"], "HOME": self.folder, "LANG": "C.UTF-8", "TZ": "UTC"},
                start_new_session=True,
            )
        os.close(to_browser)
        os.close(from_browser)
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.send("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._write)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listen(self) -> None:
        with open(self._read, "rb") as pipe:
            rest = b""
            while data := pipe.read1(1 << 20):
                *whole, rest = (rest + data).split(b"\0")
                for text in whole:
                    message = json.loads(text)
                    with self._news:
                        if "id" in message:
                            self._answers[message["id"]] = message
                        else:
                            for listener in self._listeners:
                                listener(message)
                        self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Have each event of the browser told."""
        with self._news:
            self._listeners.append(listener)

    def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """One order and its result. Raises AssertionError with the browser's words."""
        with self._news:
            self._number += 1
            number = self._number
        order = {
            "id": number,
            "method": method,
            "params": parameters,
            **({"sessionId": session} if session else {}),
        }
        data = json.dumps(order).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        with self._news:
            if not self._news.wait_for(lambda: number in self._answers or self._over, PATIENCE):
                raise AssertionError(f"the browser did not answer {method}")
            answer = self._answers.pop(number, {"error": {"message": "the browser ended"}})
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']} {self.said()}")
        return dict(answer["result"])

    def said(self) -> str:
        return Path(f"{self.folder}/stderr").read_text(errors="replace")[-2000:]

    def page(self) -> Page:
        """A new tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session)


class Page:
    """A tab. ``errors``: what its console and its scripts complained of; ``asked``: the addresses that it asked."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        self.errors: list[str] = []
        self.asked: list[str] = []
        browser.listen(self._event)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        # As if its window were the one in front: keys reach it, and nothing is put off.
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        self.send("Page.bringToFront")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **parameters)

    def _event(self, message: dict[str, Any]) -> None:
        if message.get("sessionId") != self.session:
            return
        method, said = message["method"], message["params"]
        if method == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.errors.append(json.dumps(said["args"])[:500])

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def again(self) -> None:
        """Load the page anew."""
        self.send("Page.reload")

    def run(self, script: str) -> Any:
        """The value of an expression, which may be a promise. The page's own policy holds for what it does."""
        said = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise AssertionError(f"{script}: {json.dumps(said['exceptionDetails'])[:800]}")
        return said["result"].get("value")

    def until(self, condition: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if value := self.run(condition):
                    return value
            except AssertionError as error:
                # The page is on its way to another one.
                if (
                    "Cannot find" not in str(error)
                    and "navigated" not in str(error)
                    and "destroyed" not in str(error)
                    and "null" not in str(error)
                ):
                    raise
            time.sleep(0.02)
        seen = self.run("location.href + ' ' + document.body.innerText.slice(0, 1500)")
        raise AssertionError(f"did not happen: {condition}; errors {self.errors}; page: {seen}")

    def size(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def theme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def key(self, name: str) -> None:
        """Press and release a key: ``a``, ``/``, ``Enter``, ``Tab``, ``Escape``."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        known = {
            "key": name,
            "code": name if name in codes else "",
            "windowsVirtualKeyCode": codes.get(name, ord(name[0])),
        }
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **known)
        self.send("Input.dispatchKeyEvent", type="keyUp", **known)

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
