"""Idle: with no session and no connection for a while the proxies stop; the sockets stay and wake them."""

import asyncio
import time
from typing import TYPE_CHECKING

from ocd.core import proxy as core

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon
    from ocd.supervisor.unit import Unit

#: seconds between two looks; much shorter than any sensible setting
LOOK = 15.0


class Idle:
    """Decides when nobody needs us, and notices when somebody does again."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.last_activity = time.monotonic()
        self.seen: dict[str, int] = {}
        self.watching: list[int] = []

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
                unit.feed(core.Want(core.Wanted.IDLE))
        self.daemon.start(self._finish())

    async def _finish(self) -> None:
        for unit in self.daemon.units.values():
            await unit.wait(lambda p: not p.members or p.wanted is core.Wanted.UP, None)
        if self.daemon.anything_wanted():
            return
        self.daemon.host.stop()
        loop = asyncio.get_running_loop()
        for unit in self.daemon.units.values():
            if unit.state.wanted is core.Wanted.IDLE:
                for name in unit.own_listeners():
                    fd = self.daemon.listeners[name].fileno()
                    loop.add_reader(fd, self.wake, f"a connection to {unit.name}")
                    self.watching.append(fd)

    def wake(self, why: str) -> None:
        """Somebody is there: boot. The connection waits in the backlog meanwhile."""
        loop = asyncio.get_running_loop()
        for fd in self.watching:
            loop.remove_reader(fd)
        self.watching = []
        self.touch()
        for unit in self.daemon.units.values():
            if unit.state.wanted is core.Wanted.IDLE:
                self.daemon.event("woken", unit.name, text=why)
                unit.feed(core.Want(core.Wanted.UP))
