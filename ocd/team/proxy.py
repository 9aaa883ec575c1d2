"""The bedrock proxy's process behind the front: one guest, started, watched and started again. POSIX."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ocd.adapters.logs import Capture
from ocd.errors import EX_CONFIG, OcdError
from ocd.settings.folders import Folders
from ocd.settings.keys import Keys
from ocd.settings.schema import Settings
from ocd.stack import prices
from ocd.supervisor.files import configuration
from ocd.supervisor.supervision import litellm_env, spec
from ocd.supervisor.supervision.config import Config
from ocd.supervisor.supervision.link import GuestChannel

GUEST = os.path.join(litellm_env.GUEST_FOLDER, "guest.py")
#: seconds until one that ended is started again, doubled up to the second figure while it does not come up
PAUSE, LONGEST = 1.0, 30.0
#: what LiteLLM's table calls a model of Bedrock's, before its name
_NAMES = ("", "bedrock/", "bedrock/converse/")


class Proxy:
    """``on_request`` takes the meter's figures of each answered request, ``tell(what, **fields)`` news for the log."""

    def __init__(
        self,
        folders: Folders,
        settings: Settings,
        on_request: Callable[[dict[str, Any]], None],
        tell: Callable[..., None],
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._on_request = on_request
        self._tell = tell
        self._python = litellm_env.python(settings, folders)
        self._base = (os.environ.get("HOME") or "/", os.environ.get("PATH") or os.defpath)
        self.key = "sk-" + secrets.token_hex(32)
        self._config: Config | None = None
        self._generation = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: GuestChannel | None = None
        self._captures: dict[str, Capture] = {}
        self._ended = asyncio.Event()
        #: where it accepts on 127.0.0.1; 0: it does not
        self.port = 0
        #: model group → price of its model, as far as LiteLLM's table has one
        self.prices: dict[str, prices.Price] = {}

    async def examine(self, settings_id: str, toml: Any) -> None:
        """Check the file and take the copy to boot from. Raises OcdError (exit 78) for a mistake in it."""
        found = await configuration.candidates(
            self._folders,
            self._settings,
            settings_id,
            toml,
            *self._base,
            litellm_env.identity(self._python),
        )
        candidate = found.candidates.get("bedrock")
        if candidate is None or candidate.config is None:
            raise OcdError(
                "The bedrock proxy's file cannot be served",
                candidate.reason if candidate else "[proxies.bedrock] is not enabled",
                "Run `occtl config check`",
                exit_code=EX_CONFIG,
                code="team-configuration",
            )
        self._config = candidate.config
        table = prices.load(litellm_env.site_packages(self._python))
        for group, entry in (spec.pipe_table(self._config.path).get("groups") or {}).items():
            model = str(entry.get("asks") or entry.get("model") or "")
            price = next((known for name in _NAMES if (known := table.price(name + model))), None)
            if price is not None:
                self.prices[group] = price

    async def run(self) -> None:
        """Until cancelled: keep one process up."""
        pause = PAUSE
        while True:
            self._ended.clear()
            began = time.monotonic()
            self._start()
            try:
                while not self._reap():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self._ended.wait()
            finally:
                self.port = 0
            self._tell("proxy-ended", status=self._process.returncode if self._process else None)
            self._close()
            pause = PAUSE if time.monotonic() - began > 60 else min(LONGEST, pause * 2)
            await asyncio.sleep(pause)

    def _start(self) -> None:
        assert self._config is not None
        self._generation += 1
        ours, theirs = socket.socketpair()
        out, err = os.pipe(), os.pipe()
        try:
            self._process = subprocess.Popen(
                [self._python, "-I", GUEST, "spawn", str(os.getpid()), str(theirs.fileno())],
                env=spec.host_environment(*self._base),
                stdin=subprocess.DEVNULL,
                stdout=out[1],
                stderr=err[1],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(out[1])
            os.close(err[1])
        self._channel = GuestChannel(
            self._generation,
            self._process.pid,
            [ours.detach(), out[0], err[0]],
            self._hear,
            self._output,
            lambda text: self._tell("proxy-misunderstood", text=text),
        )
        self._tell("proxy-started", pid=self._process.pid)

    def _hear(self, channel: GuestChannel, message: dict[str, Any]) -> None:
        event = message.get("ev")
        if event == "waiting":
            assert self._config is not None
            keys = Keys(self.key, self.key)
            channel.send(
                "boot",
                **spec.boot(
                    self._settings,
                    keys,
                    self._folders,
                    "bedrock",
                    self._generation,
                    self._config.path,
                    *self._base,
                ),
            )
        elif event == "armed":
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                listening.listen(1024)
                channel.send("accept", [listening.fileno()])
        elif event == "accepting":
            (self.port,) = message["ports"]
            self._tell("proxy-accepts")
        elif event == "request":
            self._on_request(message)
        elif event == "report":
            self._tell(
                "proxy-report", **{k: v for k, v in message.items() if k in ("kind", "why", "where", "count")}
            )

    def _output(self, _channel: GuestChannel, stream: str, data: bytes) -> None:
        if stream not in self._captures:
            self._captures[stream] = Capture(lambda text: self._tell("proxy-output", text=text))
        self._captures[stream].feed(data, time.monotonic())

    def _reap(self) -> bool:
        """Whether the process has ended. As PID 1 whoever lost its parent is ours as well."""
        if self._process is None:
            return True
        ended = self._process.poll() is not None
        if os.getpid() == 1 and sys.platform != "darwin":
            with contextlib.suppress(ChildProcessError):
                # Looked at first: our own process's status is Popen's to take.
                while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                    if found.si_pid == self._process.pid:
                        break
                    os.waitpid(found.si_pid, os.WNOHANG)
        return ended

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.drain()
            self._channel.close()
            self._channel = None
        for capture in self._captures.values():
            capture.end()
        self._captures = {}

    def kill(self) -> None:
        """End the process at once, with its group; for when nothing is asked of it any more."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close()
        with contextlib.suppress(OSError):
            os.unlink(spec.socket_path(self._folders, "bedrock", self._generation))
