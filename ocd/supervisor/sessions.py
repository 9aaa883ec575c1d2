"""Living ``openclaude`` sessions, tracked by process: the end of the process is the end of the session."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ocd.supervisor.exchanges import Tally
from ocd.text import printable
from ocd.wire.messages import Session

#: Where the kernel has no pidfd, look this often (seconds).
POLL = 2.0


@dataclass
class Tracked:
    pid: int
    cwd: str
    since: float
    #: the process's own start time: a pid that is used again is another session
    born: float
    #: main's port as this session was told; 0: not known
    port: int = 0
    pidfd: int = -1


class Sessions:
    """``on_end`` is called once for each session whose process is gone."""

    def __init__(self, on_end: Callable[[int], None]) -> None:
        self.on_end = on_end
        self.living: dict[int, Tracked] = {}

    def add(
        self, pid: int, cwd: str, since: float | None = None, born: float | None = None, port: int = 0
    ) -> bool:
        """Follow a process; returns False when it is not there (any more). Adding it twice changes nothing."""
        found = _born(pid)
        if found is None or (born is not None and abs(found - born) > 1):
            return False
        known = self.living.get(pid)
        if known is not None and abs(known.born - found) <= 1:
            known.cwd = cwd or known.cwd
            known.port = port or known.port
            return True
        tracked = Tracked(pid, cwd, since or time.time(), found, port)
        self.living[pid] = tracked
        self._follow(tracked)
        return True

    def _follow(self, tracked: Tracked) -> None:
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                tracked.pidfd = os.pidfd_open(tracked.pid)
                loop.add_reader(tracked.pidfd, self._ended, tracked)
                return
        loop.call_later(POLL, self._look, tracked)

    def _look(self, tracked: Tracked) -> None:
        born = _born(tracked.pid)
        if born is None or abs(born - tracked.born) > 1:
            self._ended(tracked)
        else:
            asyncio.get_running_loop().call_later(POLL, self._look, tracked)

    def _ended(self, tracked: Tracked) -> None:
        if tracked.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(tracked.pidfd)
            os.close(tracked.pidfd)
            tracked.pidfd = -1
        if self.living.get(tracked.pid) is tracked:
            del self.living[tracked.pid]
            self.on_end(tracked.pid)

    def messages(self, tallies: Mapping[int, Tally]) -> list[Session]:
        """The living ones, with what each asked for so far."""
        return [_message(tracked, tallies.get(tracked.pid)) for tracked in self.living.values()]

    def notes(self) -> list[list[object]]:
        """What a successor needs to go on following."""
        return [[t.pid, t.cwd, t.since, t.born, t.port] for t in self.living.values()]

    def restore(self, notes: list[list[object]], overlays: Path) -> None:
        """Take over from a former supervisor; overlay files whose session is gone are removed."""
        for pid, cwd, since, born, port in notes:
            self.add(int(str(pid)), str(cwd), float(str(since)), float(str(born)), int(str(port)))
        with contextlib.suppress(OSError):
            for path in overlays.iterdir():
                number = path.name.split(".")[0].rpartition("-")[2]
                if number.isdigit() and int(number) not in self.living:
                    self.on_end(int(number))


def _message(tracked: Tracked, tally: Tally | None) -> Session:
    said = Session(pid=tracked.pid, cwd=printable(tracked.cwd), since=tracked.since)
    if tally is not None:
        said.requests, said.tokens, said.last_request = tally.requests, tally.tokens, tally.last
        if tally.latest is not None:
            said.last_slot = tally.latest.slot or tally.latest.model
            said.last_upstream = tally.latest.upstream
    return said


def _born(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except (psutil.Error, OSError):
        return None
