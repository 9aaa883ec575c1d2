"""The supervisor's status, with what follows from it: the pace of a plan's windows, the branch of each session.

Both are worked out here, for whoever looks, and not in the supervisor, for nobody.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from ocd.adapters import git_place
from ocd.core import pace as core
from ocd.dashboard.asking import Api, Gone

#: seconds for which a folder's branch is believed
FRESH = 5.0
#: seconds that a disk has to say it; later it is taken when it comes
PATIENCE = 0.5
#: folders that are remembered
KEPT = 200


class Look:
    """``clock``: seconds since 1970."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.time) -> None:
        self.api = api
        self.clock = clock
        self._known: dict[str, tuple[float, git_place.Place]] = {}
        self._looking: dict[str, asyncio.Future[git_place.Place]] = {}

    async def status(self) -> dict[str, Any]:
        """The status; ``per_hour`` and ``full_at`` in each window, ``project`` and ``branch`` in each session.

        Raises Gone.
        """
        code, body = await self.api.ask("GET", "/v1/status")
        if code != 200:
            raise Gone(f"The daemon answered {code}")
        said: dict[str, Any] = json.loads(body)
        pace(said, self.clock())
        sessions = said.get("sessions", [])
        await self._look({session["cwd"] for session in sessions})
        for session in sessions:
            _at, place = self._known.get(session["cwd"], (0.0, git_place.Place(session["cwd"], "")))
            session["project"], session["branch"] = place
        return said

    async def _look(self, folders: set[str]) -> None:
        now = self.clock()
        for folder in folders:
            if folder not in self._looking and now - self._known.get(folder, (0.0, None))[0] > FRESH:
                # In a thread: a folder may be on a disk that does not answer, which holds up that thread alone.
                self._looking[folder] = asyncio.ensure_future(asyncio.to_thread(git_place.look, folder))
        if self._looking:
            await asyncio.wait(self._looking.values(), timeout=PATIENCE)
        for folder, looking in list(self._looking.items()):
            if looking.done():
                del self._looking[folder]
                self._known.pop(folder, None)
                self._known[folder] = (self.clock(), looking.result())
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]


def pace(status: dict[str, Any], now: float) -> None:
    """Add to each window of a plan the share that an hour took (``per_hour``), and when it is used up at that pace
    (``full_at``, in seconds since 1970, to the minute; None: not before its reset, or not known)."""
    for login in status.get("limits", []):
        for window in login["windows"]:
            known = window["used"], window["reset"], window["name"], now
            per_hour, full_at = core.per_hour(*known), core.full_at(*known)
            # Rounded, so that a status is news only when something happened.
            window["per_hour"] = None if per_hour is None else round(per_hour, 3)
            window["full_at"] = None if full_at is None else round(full_at / 60) * 60
