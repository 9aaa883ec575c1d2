"""Idle: with no session and no connection for a while the proxies stop; the sockets stay and wake them."""

import asyncio
import time
from typing import TYPE_CHECKING

from ocd.core import state as core
from ocd.core import step as transitions

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon
    from ocd.supervisor.supervision.runner import Unit

#: seconds between two looks; much shorter than any sensible setting
LOOK = 15.0


class Idle:
    """Decides when nobody needs us, and notices when somebody does again."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.last_activity = time.monotonic()
        self.seen: dict[str, int] = {}
        #: listening sockets whose next connection wakes the proxies
        self.watching: set[int] = set()

    async def run(self) -> None:
        if any(unit.state.wanted is core.Wanted.IDLE for unit in self.daemon.units.values()):
            # A former supervisor had put them to sleep.
            await self._finish()
        while True:
            minutes = self.daemon.settings.supervision.idle_minutes
            await asyncio.sleep(min(LOOK, max(0.2, minutes * 60 / 4)) if minutes else LOOK)
            if not minutes or self.daemon.stopping:
                continue
            units = list(self.daemon.units.values())
            for unit in units:
                for member in unit.state.members:
                    unit.tell(member.generation, "status")
            starting = any(u.state.wanted is core.Wanted.UP and not core.settled(u.state) for u in units)
            if self.daemon.sessions.living or starting:
                self.touch()
            if time.monotonic() - self.last_activity > minutes * 60 and self.daemon.anything_wanted():
                self.sleep()

    def touch(self) -> None:
        self.last_activity = time.monotonic()

    def on_status(self, unit: "Unit") -> None:
        """A process told its numbers: connections now, and how many there have been."""
        total = sum(unit.accepted.values())
        if sum(unit.connections.values()) or total > self.seen.get(unit.name, 0):
            self.touch()
        self.seen[unit.name] = total

    def sleep(self) -> None:
        """Stop everything that costs memory; keep listening."""
        for unit in self.daemon.units.values():
            if unit.state.wanted is core.Wanted.UP:
                unit.feed(transitions.Want(core.Wanted.IDLE))
        self.daemon.start(self._finish())

    async def _finish(self) -> None:
        for unit in self.daemon.units.values():
            await unit.wait(lambda p: not p.members or p.wanted is core.Wanted.UP, None)
        if self.daemon.anything_wanted():
            return
        self.daemon.host.stop()
        self.follow()

    def follow(self) -> None:
        """Watch the ports of proxies that sleep, whichever they are by now; called whenever a state has changed."""
        wanted: dict[int, str] = {}
        for unit in self.daemon.units.values():
            if unit.state.wanted is core.Wanted.IDLE and not unit.state.members:
                for name in unit.own_listeners():
                    wanted[self.daemon.listeners[name].fileno()] = unit.name
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
        for unit in self.daemon.units.values():
            if unit.state.wanted is core.Wanted.IDLE:
                self.daemon.event("woken", unit.name, text=why)
                unit.feed(transitions.Want(core.Wanted.UP))
