"""Idle: with no session and no connection for a while the proxies stop; the sockets stay and wake them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from ocd.core import state as core
from ocd.core import step as transitions
from ocd.settings.schema import Settings
from ocd.supervisor.supervision.listeners import Listeners
from ocd.supervisor.supervision.runner import Runner

#: seconds between two looks; much shorter than any sensible setting
LOOK = 15.0


class Idle:
    """Decides when nobody needs us, and notices when somebody does again.

    ``needed`` says whether a session lives or the daemon ends; ``event`` records an event; ``asleep`` is called when
    all proxies have gone; ``start`` runs a coroutine.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        runners: Mapping[str, Runner],
        listeners: Listeners,
        needed: Callable[[], bool],
        event: Callable[..., None],
        asleep: Callable[[], None],
        start: Callable[[Any], Any],
    ) -> None:
        self._settings = settings
        self._runners = runners
        self._listeners = listeners
        self._needed = needed
        self._event = event
        self._asleep = asleep
        self._start = start
        listeners.closing.append(self.unwatch)
        self.last_activity = time.monotonic()
        self.seen: dict[str, int] = {}
        #: listening sockets whose next connection wakes the proxies
        self.watching: set[int] = set()

    async def run(self) -> None:
        if any(runner.state.wanted is core.Wanted.IDLE for runner in self._runners.values()):
            # A former supervisor had put them to sleep.
            await self._finish()
        while True:
            minutes = self._settings().supervision.idle_minutes
            await asyncio.sleep(min(LOOK, max(0.2, minutes * 60 / 4)) if minutes else LOOK)
            if not minutes:
                continue
            for runner in self._runners.values():
                for member in runner.state.members:
                    runner.guests.tell(member.generation, "status")
            if self._needed() or any(
                r.state.wanted is core.Wanted.UP and not core.settled(r.state) for r in self._runners.values()
            ):
                self.touch()
            if time.monotonic() - self.last_activity > minutes * 60 and self._anything_wanted():
                self.sleep()

    def _anything_wanted(self) -> bool:
        return any(runner.state.wanted is core.Wanted.UP for runner in self._runners.values())

    def touch(self) -> None:
        self.last_activity = time.monotonic()

    def on_status(self, proxy: str) -> None:
        """A process of a proxy told its numbers: connections now, and how many there have been."""
        figures = self._runners[proxy].guests.figures.values()
        total = sum(one.accepted for one in figures)
        if any(one.connections for one in figures) or total > self.seen.get(proxy, 0):
            self.touch()
        self.seen[proxy] = total

    def sleep(self) -> None:
        """Stop everything that costs memory; keep listening."""
        for runner in self._runners.values():
            if runner.state.wanted is core.Wanted.UP:
                runner.feed(transitions.Want(core.Wanted.IDLE))
        self._start(self._finish())

    async def _finish(self) -> None:
        for runner in self._runners.values():
            await runner.wait(lambda p: not p.members or p.wanted is core.Wanted.UP, None)
        if self._anything_wanted():
            return
        self._asleep()
        self.follow()

    def follow(self) -> None:
        """Watch the ports of proxies that sleep, whichever they are by now; called whenever a state has changed."""
        wanted: dict[int, str] = {}
        for runner in self._runners.values():
            if runner.state.wanted is core.Wanted.IDLE and not runner.state.members:
                for name in self._listeners.of(runner.name):
                    wanted[self._listeners.sockets[name].fileno()] = runner.name
        for fd in self.watching - wanted.keys():
            self.unwatch(fd)
        for fd in wanted.keys() - self.watching:
            asyncio.get_running_loop().add_reader(fd, self.wake, f"a connection to {wanted[fd]}")
            self.watching.add(fd)

    def unwatch(self, fd: int) -> None:
        """A listener is being closed, or its proxy is awake."""
        if fd in self.watching:
            self.watching.discard(fd)
            asyncio.get_running_loop().remove_reader(fd)

    def wake(self, why: str) -> None:
        """Somebody is there: boot. The connection waits in the backlog meanwhile."""
        self.touch()
        for runner in self._runners.values():
            if runner.state.wanted is core.Wanted.IDLE:
                self._event("woken", runner.name, text=why)
                runner.feed(transitions.Want(core.Wanted.UP))
