"""What the service manager is told: who serves, and that we are alive (sd_notify(3), by the keeper)."""

import os
from collections.abc import Callable, Mapping

from ocd.core import state as core
from ocd.core.state import State
from ocd.supervisor.supervision.runner import Runner

#: The keeper ends a supervisor that says nothing for 30 s, or for half of the service manager's watchdog.
HEARTBEAT = 5.0
#: seconds; the service manager's patience with a stop starts again with each heartbeat while streams drain
DRAIN_EXTENSION = 60


class ServiceManager:
    """``send`` gives the keeper an order, ``stopping`` says whether the daemon ends."""

    def __init__(
        self, send: Callable[..., None], runners: Mapping[str, Runner], stopping: Callable[[], bool]
    ) -> None:
        self._send = send
        self._runners = runners
        self._stopping = stopping
        self._told = ""

    @property
    def pause(self) -> float:
        """Seconds between two heartbeats."""
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        return min(HEARTBEAT, int(watchdog) / 12e6) if watchdog.isdigit() and int(watchdog) else HEARTBEAT

    def alive(self) -> None:
        """One heartbeat."""
        self._send("alive")
        if self._stopping():
            # The longest drain is the settings' business, not TimeoutStopSec's (sd_notify(3)).
            self._send("notify", text=f"EXTEND_TIMEOUT_USEC={DRAIN_EXTENSION * 1_000_000}")

    def tell(self) -> None:
        """Say what is serving, if that is news. Started means: serving, or it will not for a reason that we know."""
        states = {name: core.state_of(runner.state) for name, runner in self._runners.items()}
        words = ", ".join(
            f"{name} {state} on {self._runners[name].port}"
            for name, state in states.items()
            if state is not State.DISABLED
        )
        text = f"STATUS={words or 'no proxy is enabled'}"
        if State.STARTING not in states.values() and not self._stopping():
            text += "\nREADY=1"
        if text != self._told:
            self._told = text
            self._send("notify", text=text)

    def ending(self) -> None:
        """The daemon drains, and ends then."""
        self._send(
            "notify", text=f"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={DRAIN_EXTENSION * 1_000_000}"
        )
