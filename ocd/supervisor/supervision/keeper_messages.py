"""What the keeper says, and who of us it is for."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from ocd.supervisor.supervision.forkserver import Forkserver
from ocd.supervisor.supervision.handover import Handover
from ocd.supervisor.supervision.listeners import Listeners
from ocd.supervisor.supervision.reporter import Reporter
from ocd.supervisor.supervision.runner import Runner


class KeeperMessages:
    """``control_listening`` and ``control_failed`` hear of the control socket, ``signalled`` of signals, by name."""

    def __init__(
        self,
        forkserver: Forkserver,
        runners: Mapping[str, Runner],
        listeners: Listeners,
        report: Reporter,
        control_listening: Callable[[], None],
        control_failed: Callable[[str], None],
        signalled: Callable[[str], None],
    ) -> None:
        self._forkserver = forkserver
        self._runners = runners
        self._listeners = listeners
        self._report = report
        self._control_listening = control_listening
        self._control_failed = control_failed
        self._signalled = signalled
        self._before: Handover | None = Handover()
        self._complete = asyncio.Event()

    async def handover(self, timeout: float) -> Handover:
        """What there was before us, once the keeper has said all of it. Raises TimeoutError after ``timeout`` s."""
        async with asyncio.timeout(timeout):
            await self._complete.wait()
        assert self._before is not None
        found, self._before = self._before, None
        return found

    def take(self, message: dict[str, Any], fds: list[int]) -> None:
        """One message; its descriptors are ours."""
        if not self._takes(message, fds):
            for fd in fds:
                os.close(fd)

    def _takes(self, message: dict[str, Any], fds: list[int]) -> bool:
        """Deal with a message; returns whether the descriptors have an owner now."""
        match message.get("op"):
            case "state" | "process" | "state-end":
                taken = self._before is not None
                if self._before is not None:
                    self._before.take(message, fds)
                if message["op"] == "state-end":
                    self._complete.set()
                return taken
            case "host-started":
                if self._before is not None and message.get("old"):
                    self._before.host = (message["pid"], fds)
                else:
                    self._forkserver.on_started(message["pid"], fds, bool(message.get("old")))
                return True
            case "listening":
                self._listening(message["name"], fds)
                return True
            case "listen-failed":
                self._listen_failed(message)
            case "spawned":
                return self._forkserver.started(message["id"], message["pid"], fds)
            case "spawn-failed":
                self._forkserver.failed(
                    message["id"], message.get("error", ""), bool(message.get("transient"))
                )
            case "exit":
                self._exited(message)
            case "host":
                self._forkserver.on_message(message)
            case "host-exit":
                self._forkserver.on_exit(message["status"])
            case "host-failed":
                self._forkserver.on_failed(message.get("error", ""))
            case "signal":
                self._signalled(message["name"])
            case "reexec-failed":
                self._report.event("reexec-failed", text=message.get("error", ""))
            case "refused":
                self._report.log.warning(
                    "the keeper refused an order", text=f"{message['what']}: {message['why']}"
                )
        return False

    def _listening(self, name: str, fds: list[int]) -> None:
        if not self._listeners.take(name, fds):
            return
        if name == "control":
            self._control_listening()
        elif runner := self._runners.get(name.split(":")[0]):
            runner.ports.answered(name, None)

    def _listen_failed(self, message: dict[str, Any]) -> None:
        name, error = message["name"], message.get("error", "")
        if name == "control":
            self._control_failed(error)
        elif runner := self._runners.get(name.split(":")[0]):
            runner.ports.answered(name, int(message.get("errno") or 1), error)

    def _exited(self, message: dict[str, Any]) -> None:
        try:
            known = json.loads(message["tag"])
            runner = self._runners[known["proxy"]]
        except (ValueError, KeyError):
            return
        runner.exited(message["pid"], message["status"], known["generation"])
