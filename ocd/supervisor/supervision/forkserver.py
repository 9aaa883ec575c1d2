"""The process that has LiteLLM imported and forks guests: started when needed, replaced behind the guests' backs."""

import asyncio
import collections
import os
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

from ocd.adapters.logs import Capture
from ocd.errors import OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import litellm_env, spec
from ocd.supervisor.supervision.reason import reason_from
from ocd.supervisor.supervision.reporter import Reporter

GUEST = os.path.join(litellm_env.GUEST_FOLDER, "guest.py")
#: A forkserver that dies soon after its start is not started again at once (seconds).
PAUSE = 2.0


Started = Callable[[int, list[int]], None]
Failed = Callable[[str, bool], None]


class Forkserver:
    """Spawns guests: through the forkserver in fork mode, as programs of their own in spawn mode.

    ``send`` gives the keeper an order; ``base`` is HOME and PATH of what is started; ``wanted`` says whether any proxy
    is to run; ``on_warm`` is told when what is forked from now on has imported what a first request needs.
    """

    def __init__(
        self,
        folders: Folders,
        settings: Callable[[], Settings],
        base: tuple[str, str],
        send: Callable[..., None],
        report: Reporter,
        wanted: Callable[[], bool],
        on_warm: Callable[[], None],
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._env = spec.host_environment(*base)
        self._send = send
        self._report = report
        self._wanted = wanted
        self._on_warm = on_warm
        #: what has been ordered, and who is told what comes of it
        self._orders: dict[int, tuple[Started, Failed]] = {}
        #: begins anywhere: answers to a predecessor's orders may still come, and must not be taken for ours
        self._number = secrets.randbelow(1 << 52)
        #: LiteLLM's version, as whoever imported it last has said
        self.version = ""
        self.pid = 0
        self.ready = False
        self.asked = False
        self.began = 0.0
        self.warm = False
        self.waiting: list[dict[str, Any]] = []
        #: spares wait until the forkserver has imported what a first request needs: that is what they are for
        self.patient: list[dict[str, Any]] = []
        self.tail: collections.deque[str] = collections.deque(maxlen=40)
        self.streams: list[int] = []
        self.captures: list[Capture] = []
        #: what the running forkserver has imported
        self.runs = ""
        self.replacing = False

    @property
    def mode(self) -> str:
        return litellm_env.mode(self._settings())

    def python(self) -> str:
        """LiteLLM's interpreter. Raises OcdError when there is none."""
        return litellm_env.python(self._settings(), self._folders)

    def identity(self, settings: Settings) -> str:
        """What guests would consist of with these settings; empty when LiteLLM is not there."""
        try:
            return litellm_env.identity(litellm_env.python(settings, self._folders))
        except (OcdError, OSError):
            return ""

    def follow(self) -> None:
        """Another LiteLLM or other guest code: import that one behind the proxies, which go on meanwhile."""
        now = self.identity(self._settings())
        if self.pid and self.runs and now and now != self.runs:
            self._report.event("forkserver-replaced", text="LiteLLM or ocd has another version now")
            self.ready = self.warm = False
            self.replacing = True
            self.stop()
        self.runs = self.runs if self.pid else now

    def ensure(self) -> None:
        """Start the forkserver if there is none. Raises OcdError when LiteLLM is not there."""
        if self.mode != "fork" or self.pid or self.asked:
            return
        python = self.python()
        self.asked = True
        self.runs = self.identity(self._settings())
        self.began = time.monotonic()
        self._send(
            "host",
            argv=[python, "-I", GUEST, "forkserver"],
            env=self._env,
        )

    def spawn(self, tag: str, spare: bool, started: Started, failed: Failed) -> None:
        """Have one guest started; what comes of it is told later: its pid and descriptors, or why not (and whether
        that may pass). A spare may wait until the forkserver is warm."""
        self._number += 1
        self._orders[self._number] = (started, failed)
        trouble = self._order({"id": self._number, "tag": tag}, spare)
        if trouble:
            asyncio.get_running_loop().call_soon(self.failed, self._number, trouble, False)

    def started(self, number: int, pid: int, fds: list[int]) -> bool:
        """The keeper has started a guest; returns whether somebody takes it, and its descriptors with it."""
        found = self._orders.pop(number, None)
        if found is None:
            # Nobody asked (any more): it must not stay behind.
            self._send("kill", pid=pid, signal=int(signal.SIGKILL), group=True)
            return False
        found[0](pid, fds)
        return True

    def failed(self, number: int, reason: str, transient: bool) -> None:
        """A guest could not be started."""
        found = self._orders.pop(number, None)
        if found is not None:
            found[1](reason, transient)

    def starting_reason(self) -> str:
        """Why a proxy takes long to start, where that is our part of it."""
        return "LiteLLM is being imported" if self.mode == "fork" and not self.ready else ""

    def _order(self, order: dict[str, Any], spare: bool) -> str:
        try:
            if self.mode == "fork":
                self.ensure()
            else:
                order = {
                    **order,
                    "argv": [self.python(), "-I", GUEST, "spawn"],
                    "env": self._env,
                }
        except OcdError as error:
            return error.sentence()
        order["how"] = "fork" if self.mode == "fork" else "exec"
        if self.mode == "fork" and spare and not self.warm:
            if not self.patient:
                self._send("warm")
            self.patient.append(order)
        elif self.mode == "fork" and not self.ready:
            self.waiting.append(order)
        else:
            self._send("spawn", **order)
        return ""

    @property
    def cold(self) -> bool:
        """Whether what is forked now lacks what its first requests need."""
        return self.mode == "fork" and not self.warm

    def stop(self) -> None:
        """Idle: the forkserver goes too."""
        if self.pid:
            self._send("kill", pid=self.pid, signal=15, group=True)

    # ----------------------------------------------------------------------------------------------- news

    def on_started(self, pid: int, fds: list[int], old: bool) -> None:
        self.pid = pid
        self.asked = False
        # Found running after a takeover: it has imported everything long ago, or forks a little colder.
        self.ready = self.warm = self.ready or old
        self.tail.clear()
        loop = asyncio.get_running_loop()
        for fd in fds:
            capture = Capture(self._emit)
            self.captures.append(capture)
            self.streams.append(fd)
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._read, fd, capture)
        self._report.event("forkserver-started", text=f"pid {pid}")

    def on_message(self, message: dict[str, Any]) -> None:
        if message.get("event") == "host-ready":
            self.ready = True
            self.version = str(message.get("version", ""))
            self._report.log.info(
                "litellm imported", seconds=message.get("seconds"), version=message.get("version")
            )
            waiting, self.waiting = self.waiting, []
            for order in waiting:
                self._send("spawn", **order)
            if self.patient:
                self._send("warm")
        elif message.get("event") == "host-warm":
            self.warm = True
            self._report.log.info("litellm warm", seconds=message.get("seconds"))
            patient, self.patient = self.patient, []
            for order in patient:
                self._send("spawn", **order)
            self._on_warm()

    def on_exit(self, status: int) -> None:
        # Killed in the middle of the import is no fault of LiteLLM's; an import that fails ends with a status.
        was_ready = self.ready or self.replacing or status < 0
        replaced, self.replacing = self.replacing, False
        self._close_streams()
        self.pid, self.ready, self.warm, self.asked = 0, False, False, False
        reason = reason_from(list(self.tail))
        self._report.event("forkserver-exited", text=f"status {status} {reason}".strip())
        waiting, self.waiting = [*self.waiting, *self.patient], []
        self.patient = []
        for order in waiting:
            if was_ready:
                self.waiting.append(order)
            else:
                self.failed(order["id"], reason or f"the forkserver ended with status {status}", False)
        if not self._wanted():
            return
        if was_ready:
            # The proxies go on; a new one is imported behind them.
            pause = 0.0 if replaced or time.monotonic() - self.began > 30 else PAUSE
            asyncio.get_running_loop().call_later(pause, self._again)

    def on_failed(self, error: str) -> None:
        self.asked = False
        waiting, self.waiting = self.waiting, []
        for order in waiting:
            self.failed(order["id"], f"LiteLLM's interpreter cannot be started: {error}", False)

    def _again(self) -> None:
        try:
            if self._wanted():
                self.ensure()
        except OcdError as error:
            self._report.log.error("forkserver", error=error.sentence())

    def _emit(self, text: str) -> None:
        self.tail.append(text)
        self._report.log.info("forkserver output", text=text)

    def _read(self, fd: int, capture: Capture) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            capture.feed(data, time.monotonic())
        else:
            asyncio.get_running_loop().remove_reader(fd)

    def _close_streams(self) -> None:
        loop = asyncio.get_running_loop()
        for fd, capture in zip(self.streams, self.captures, strict=True):
            loop.remove_reader(fd)
            for _ in range(64):
                try:
                    data = os.read(fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                capture.feed(data, time.monotonic())
            capture.end()
            os.close(fd)
        self.streams, self.captures = [], []
