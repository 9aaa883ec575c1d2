"""The process that has LiteLLM imported and forks guests: started when needed, replaced behind the guests' backs."""

import asyncio
import collections
import os
import time
from typing import TYPE_CHECKING, Any

from ocd.adapters.logs import Capture
from ocd.errors import OcdError
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import litellm_env, spec
from ocd.supervisor.supervision.reason import reason_from

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

GUEST = os.path.join(litellm_env.GUEST_FOLDER, "guest.py")
#: A forkserver that dies soon after its start is not started again at once (seconds).
PAUSE = 2.0


class Host:
    """Spawns guests: through the forkserver in fork mode, as programs of their own in spawn mode."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.pid = 0
        self.ready = False
        self.asked = False
        self.started = 0.0
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
        return litellm_env.mode(self.daemon.settings)

    def python(self) -> str:
        """LiteLLM's interpreter. Raises OcdError when there is none."""
        return litellm_env.python(self.daemon.settings, self.daemon.folders)

    def identity(self, settings: Settings) -> str:
        """What guests would consist of with these settings; empty when LiteLLM is not there."""
        try:
            return litellm_env.identity(litellm_env.python(settings, self.daemon.folders))
        except (OcdError, OSError):
            return ""

    def follow(self) -> None:
        """Another LiteLLM or other guest code: import that one behind the proxies, which go on meanwhile."""
        now = self.identity(self.daemon.settings)
        if self.pid and self.runs and now and now != self.runs:
            self.daemon.event("forkserver-replaced", text="LiteLLM or ocd has another version now")
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
        self.runs = self.identity(self.daemon.settings)
        self.started = time.monotonic()
        self.daemon.link.send(
            "host",
            argv=[python, "-I", GUEST, "forkserver"],
            env=spec.host_environment(self.daemon.home, self.daemon.path),
        )

    def spawn(self, order: dict[str, Any], spare: bool) -> str:
        """Have one guest started; returns why that is impossible, or an empty string."""
        try:
            if self.mode == "fork":
                self.ensure()
            else:
                order = {
                    **order,
                    "argv": [self.python(), "-I", GUEST, "spawn"],
                    "env": spec.host_environment(self.daemon.home, self.daemon.path),
                }
        except OcdError as error:
            return error.sentence()
        order["how"] = "fork" if self.mode == "fork" else "exec"
        if self.mode == "fork" and spare and not self.warm:
            if not self.patient:
                self.daemon.link.send("warm")
            self.patient.append(order)
        elif self.mode == "fork" and not self.ready:
            self.waiting.append(order)
        else:
            self.daemon.link.send("spawn", **order)
        return ""

    @property
    def cold(self) -> bool:
        """Whether what is forked now lacks what its first requests need."""
        return self.mode == "fork" and not self.warm

    def stop(self) -> None:
        """Idle: the forkserver goes too."""
        if self.pid:
            self.daemon.link.send("kill", pid=self.pid, signal=15, group=True)

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
        self.daemon.event("forkserver-started", text=f"pid {pid}")

    def on_message(self, message: dict[str, Any]) -> None:
        if message.get("event") == "host-ready":
            self.ready = True
            self.daemon.litellm_version = str(message.get("version", ""))
            self.daemon.log.info(
                "litellm imported", seconds=message.get("seconds"), version=message.get("version")
            )
            waiting, self.waiting = self.waiting, []
            for order in waiting:
                self.daemon.link.send("spawn", **order)
            if self.patient:
                self.daemon.link.send("warm")
        elif message.get("event") == "host-warm":
            self.warm = True
            self.daemon.log.info("litellm warm", seconds=message.get("seconds"))
            patient, self.patient = self.patient, []
            for order in patient:
                self.daemon.link.send("spawn", **order)
            self.daemon.on_warm()

    def on_exit(self, status: int) -> None:
        # Killed in the middle of the import is no fault of LiteLLM's; an import that fails ends with a status.
        was_ready = self.ready or self.replacing or status < 0
        replaced, self.replacing = self.replacing, False
        self._close_streams()
        self.pid, self.ready, self.warm, self.asked = 0, False, False, False
        reason = reason_from(list(self.tail))
        self.daemon.event("forkserver-exited", text=f"status {status} {reason}".strip())
        waiting, self.waiting = [*self.waiting, *self.patient], []
        self.patient = []
        for order in waiting:
            if was_ready:
                self.waiting.append(order)
            else:
                self.daemon.spawn_failed(
                    order["id"], reason or f"the forkserver ended with status {status}", False
                )
        if self.daemon.stopping or not self.daemon.anything_wanted():
            return
        if was_ready:
            # The proxies go on; a new one is imported behind them.
            pause = 0.0 if replaced or time.monotonic() - self.started > 30 else PAUSE
            asyncio.get_running_loop().call_later(pause, self._again)

    def on_failed(self, error: str) -> None:
        self.asked = False
        waiting, self.waiting = self.waiting, []
        for order in waiting:
            self.daemon.spawn_failed(order["id"], f"LiteLLM's interpreter cannot be started: {error}", False)

    def _again(self) -> None:
        try:
            if self.daemon.anything_wanted():
                self.ensure()
        except OcdError as error:
            self.daemon.log.error("forkserver", error=error.sentence())

    def _emit(self, text: str) -> None:
        self.tail.append(text)
        self.daemon.log.info("forkserver output", text=text)

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
