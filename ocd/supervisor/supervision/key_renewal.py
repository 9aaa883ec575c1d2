"""Our two keys, and their renewal after a time in which one of their ports was not ours.

Whoever has the port that a client of ours believes in is handed our key by it. So after such a time the keys are due,
which is noted with them (a daemon that is killed leaves it to the next one), and they are renewed when nobody can miss
the old ones: no session lives, no Claude Code that ``occtl claude configure`` wrote for, no connection is open, and no
process of ours runs that was booted with them. At the start of a daemon nothing of ours runs yet. Later the proxies are
put to sleep for it, as when they are idle: their ports stay, and a connection that comes meanwhile waits, or calls it
off. So main and the bedrock proxy never hold different keys of the hop.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from ocd.core import state as core
from ocd.core import step as transitions
from ocd.errors import OcdError
from ocd.settings import keys as settings_keys
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.settings.stored_key import EXTERNAL, TEAM
from ocd.supervisor.supervision.reporter import Reporter
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Problem

PROBLEM = "keys"
#: seconds without a session and a connection, before the proxies are put to sleep for it
QUIET = 60.0
#: seconds that a process may take to go to sleep; none has a connection
PATIENCE = 30.0


class KeyRenewal:
    """``keys`` are those that hold now. ``living`` finds out whether anybody could miss the old ones; ``wake`` has what
    sleeps come back, ``since`` says when there last was a session or a connection (monotonic seconds), ``start`` runs a
    coroutine. Raises OcdError when there are no keys to be had."""

    def __init__(
        self,
        folders: Folders,
        settings: Callable[[], Settings],
        report: Reporter,
        living: Callable[[], Awaitable[bool]],
        since: Callable[[], float],
        wake: Callable[[str], None],
        start: Callable[[Any], Any],
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._report = report
        self._living = living
        self._since = since
        self._wake = wake
        self._start = start
        self._runners: Mapping[str, Runner] = {}
        #: ports that were ours at the last look
        self._open: frozenset[int] = frozenset()
        self._under_way = False
        made = not (folders.state / settings_keys.NAME).exists()
        self.keys = settings_keys.load_or_create(folders)
        #: nobody has been told of keys that were made a moment ago
        self._unknown = made
        self.settle()

    def of(self, runners: Mapping[str, Runner]) -> None:
        """The proxies whose keys they are."""
        self._runners = runners

    def settle(self) -> None:
        """Keep the keys where the settings say; one that cannot be moved stays where it is."""
        store = self._settings().keys.store
        try:
            self.keys = settings_keys.settle(self._folders, self.keys, store)
            for one in (EXTERNAL, TEAM):
                one.settle(self._folders, store)
        except OcdError as error:
            self._report.problems[PROBLEM] = Problem.of(error)
        else:
            self._report.problems.pop(PROBLEM, None)

    # ------------------------------------------------------------------------------------------ what makes them due

    async def begin(self, held: Iterable[str]) -> None:
        """A daemon starts that has nobody before it, with these listeners handed to it by who kept them. Nothing of
        ours runs: the best moment."""
        port = self._settings().ports()["main"]
        if not self._unknown and not any(name.startswith(f"main:{port}:") for name in held):
            self._due("no daemon ran, and nobody kept the port")
        if self.keys.due and not await self._living():
            self._renew()

    def changed(self) -> None:
        """A proxy's state is another one: is a port not ours that was, or somebody else's that we want?"""
        now = frozenset().union(*(runner.state.ports.open for runner in self._runners.values()))
        gone, self._open = self._open - now, now
        for port in sorted(gone):
            self._due(f"port {port} was given up")
        for runner in self._runners.values():
            ports = runner.state.ports
            if ports.holder is not None and not ports.open and ports.wanted:
                self._due(f"another program had port {ports.wanted}")

    def _due(self, why: str) -> None:
        if self.keys.due or self._settings().external.enabled:
            return
        try:
            self.keys = settings_keys.mark(self._folders, self.keys, why)
        except OcdError as error:
            # The next change of a port says it again.
            self._report.log.warning("that the keys are due could not be noted", error=error.why)

    # ----------------------------------------------------------------------------------------------------- renewal

    def look(self) -> None:
        """Called with each heartbeat; costs nothing while no renewal is due."""
        if not self.keys.due or self._under_way:
            return
        runners = self._runners.values()
        if any(runner.state.ports.holder is not None for runner in runners):
            # Who has the port would get the new ones as well.
            return
        awake = [runner for runner in runners if runner.state.members]
        for runner in awake:
            for member in runner.state.members:
                runner.guests.tell(member.generation, "status")
        settled = all(core.settled(r.state) for r in awake if r.state.wanted is core.Wanted.UP)
        if awake and (not settled or time.monotonic() - self._since() < QUIET):
            return
        self._under_way = True
        self._start(self._when_asleep())

    async def _when_asleep(self) -> None:
        try:
            if await self._living():
                return
            runners = self._runners.values()
            slept = [r for r in runners if r.state.wanted is core.Wanted.UP]
            for runner in slept:
                runner.feed(transitions.Want(core.Wanted.IDLE))
            for runner in runners:
                await runner.wait(lambda p: not p.members or p.wanted is core.Wanted.UP, PATIENCE)
            asleep = not any(r.state.members or r.state.wanted is core.Wanted.UP for r in runners)
            if asleep:
                self._renew()
            if slept:
                self._wake("the keys were renewed" if asleep else "the keys are renewed at another time")
        finally:
            self._under_way = False

    def _renew(self) -> None:
        """Nobody of ours runs: from one line to the next everybody who boots has the new ones."""
        why = self.keys.due
        try:
            self.keys = settings_keys.renew(self._folders, self.keys)
        except OcdError as error:
            # The old ones hold; it stays due.
            self._report.log.warning("the keys could not be renewed", error=error.sentence())
            return
        self._report.event("keys-renewed", text=why)
