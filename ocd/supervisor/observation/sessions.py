"""Living sessions, tracked by process: the end of the process is the end of the session.

``openclaude`` announces its own; those that Claude Code hosts in the background are found by
``ocd.supervisor.observation.overlays``. Who they are survives a daemon in a file of the state folder, and a process is
the same one only if it began at the same moment.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ocd import atomic
from ocd.supervisor.observation.exchanges import Tally
from ocd.text import printable
from ocd.wire.messages import Session

#: Where the kernel has no pidfd, look this often (seconds).
POLL = 2.0
#: sessions that the file keeps; a person has fewer
KEPT = 500
#: ids of one process that are kept (each /clear and /resume brings one)
IDS = 20

#: ended sessions whose folder is remembered
FORMER = 50


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
    #: "background", or empty: openclaude's own
    kind: str = ""
    #: Claude Code's ids of it, the latest last
    ids: list[str] = field(default_factory=list)
    #: the account whose login it uses; empty: one without a name
    account: str = ""


class Sessions:
    """``on_end`` is called once for each session whose process is gone."""

    def __init__(self, on_end: Callable[[int], None]) -> None:
        self.on_end = on_end
        self.living: dict[int, Tracked] = {}
        self._owners: dict[str, int] = {}
        #: folders of the sessions that ended last
        self._former: dict[int, str] = {}
        self._kept = ""

    def add(
        self,
        pid: int,
        cwd: str,
        since: float | None = None,
        born: float | None = None,
        port: int = 0,
        kind: str = "",
        account: str = "",
    ) -> bool:
        """Follow a process; returns False when it is not there (any more). Adding it twice changes nothing."""
        found = _born(pid)
        if found is None or (born is not None and abs(found - born) > 1):
            return False
        known = self.living.get(pid)
        if known is not None and abs(known.born - found) <= 1:
            known.cwd = cwd or known.cwd
            known.port = port or known.port
            known.account = account or known.account
            return True
        tracked = Tracked(pid, cwd, since or time.time(), found, port, kind=kind, account=account)
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
            self._former.pop(tracked.pid, None)
            self._former[tracked.pid] = tracked.cwd
            if len(self._former) > FORMER:
                del self._former[next(iter(self._former))]
            self._owners = {name: pid for name, pid in self._owners.items() if pid != tracked.pid}
            self.on_end(tracked.pid)

    def name(self, pid: int, identity: str) -> bool:
        """Claude Code's id of a living process's session; returns whether that is news."""
        tracked = self.living.get(pid)
        if tracked is None or not identity or self._owners.get(identity) == pid:
            return False
        tracked.ids = [*(one for one in tracked.ids if one != identity), identity][-IDS:]
        self._owners[identity] = pid
        return True

    def owner(self, identity: str) -> int | None:
        """The process whose session has that id; None: not known."""
        return self._owners.get(identity)

    def folder(self, pid: int) -> str:
        """The folder that a process's session works in, or did (its last request may be told of after its end);
        empty: none is known."""
        tracked = self.living.get(pid)
        return tracked.cwd if tracked is not None else self._former.get(pid, "")

    def messages(self, tallies: Mapping[int, Tally]) -> list[Session]:
        """The living ones, with what each asked for so far."""
        return [_message(tracked, tallies.get(tracked.pid)) for tracked in self.living.values()]

    def notes(self) -> list[list[object]]:
        """What a successor needs to go on following."""
        return [
            [t.pid, t.cwd, t.since, t.born, t.port, t.kind, t.ids, t.account] for t in self.living.values()
        ]

    def restore(self, notes: object) -> None:
        """Take over from a former supervisor or daemon; what has another form, or is gone, is left out."""
        for note in notes if isinstance(notes, list) else []:
            with contextlib.suppress(ValueError, TypeError, IndexError):
                pid, cwd, since, born, port, *more = note
                kind, account = str(more[0]) if more else "", str(more[2]) if len(more) > 2 else ""
                if not self.add(int(pid), str(cwd), float(since), float(born), int(port), kind, account):
                    continue
                for identity in more[1] if len(more) > 1 else []:
                    self.name(int(pid), str(identity))

    def keep(self, path: Path, figures: object) -> None:
        """Write who lives, and what each asked for, to a file of ours (0600), if it is news. Raises OSError."""
        text = json.dumps({"sessions": self.notes()[-KEPT:], "figures": figures})
        if text == self._kept:
            return
        atomic.replace(path, text, durable=False)
        self._kept = text

    def find_again(self, path: Path) -> object:
        """The living ones of that file, after ``occtl stop; occtl start`` or a dead keeper; returns their figures.

        A file that is not there, broken or somebody else's means: none is known.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                if os.fstat(fd).st_uid != os.getuid():
                    return []
                kept = json.loads(file.read(4 << 20))
        except (OSError, ValueError):
            return []
        if not isinstance(kept, dict):
            return []
        self.restore(kept.get("sessions"))
        figures = kept.get("figures")
        return [one for one in figures if one and one[0] in self.living] if isinstance(figures, list) else []


def _message(tracked: Tracked, tally: Tally | None) -> Session:
    said = Session(pid=tracked.pid, cwd=printable(tracked.cwd), since=tracked.since, kind=tracked.kind)
    said.account = printable(tracked.account)
    said.id = tracked.ids[-1] if tracked.ids else ""
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
