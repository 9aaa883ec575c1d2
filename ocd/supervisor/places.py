"""Where a session works: its project and its branch, looked up beside the loop, for the usage figures."""

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable

from ocd.adapters import git_place
from ocd.adapters.git_place import Place
from ocd.wire.messages import Exchange

#: seconds for which an answer is believed: whoever changes branches asks soon after
FRESH = 5.0
#: folders that are remembered
KEPT = 300


class Places:
    """``folder`` says in which folder the session of a process works (empty: not known)."""

    def __init__(self, folder: Callable[[int], str], look: Callable[[str], Place] = git_place.look) -> None:
        self._folder = folder
        self._look = look
        self._known: collections.OrderedDict[str, tuple[float, Place]] = collections.OrderedDict()
        self._looking: dict[str, asyncio.Task[None]] = {}
        #: called with a folder that was looked at for the first time
        self.found: Callable[[str], None] = lambda folder: None

    def of(self, exchange: Exchange) -> tuple[str, str | None]:
        """The folder that a request came from, and its branch as far as it is known now; never waits.

        None: nobody has looked yet; ``place`` knows soon.
        """
        folder = self._folder(exchange.session) if exchange.session is not None else ""
        if not folder:
            return "", ""
        seen, place = self._known.get(folder, (0.0, None))
        if place is None or time.monotonic() - seen > FRESH:
            self.inspect(folder)
        return folder, place.branch if place is not None else None

    def place(self, folder: str) -> Place:
        """The project and branch of ``folder`` as they were seen last; the folder itself before anybody looked."""
        return self._known.get(folder, (0.0, Place(folder[: git_place.LONGEST_FOLDER], "")))[1]

    def inspect(self, folder: str) -> None:
        """Look in a thread: a folder may be on a disk that does not answer."""
        if not folder or folder in self._looking:
            return
        with contextlib.suppress(RuntimeError):
            # Without a loop (at the end) nobody will ask again.
            loop = asyncio.get_running_loop()
            self._looking[folder] = loop.create_task(self._inspect(folder))

    async def _inspect(self, folder: str) -> None:
        try:
            place = await asyncio.to_thread(self._look, folder)
        except Exception:
            # A figure without its branch is better than none.
            place = self.place(folder)
        finally:
            self._looking.pop(folder, None)
        news = folder not in self._known
        self._known[folder] = (time.monotonic(), place)
        self._known.move_to_end(folder)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        if news:
            self.found(folder)
