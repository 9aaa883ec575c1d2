"""Whole exchanges on demand (``occtl trace``): whether it is on, until when, and the order to the guests.

The guests write (``ocd/guest/trace.py``), each proxy into a folder of its own that is all of it they can reach.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ocd.mask import mask
from ocd.text import printable

PROXIES = ("main", "bedrock")
#: seconds that what was kept may stay
AGE = 86400.0
#: a trace lasts at most so long (seconds)
LONGEST = 86400.0
Order = dict[str, Any]


class Trace:
    """``folder`` holds a folder for each proxy; ``event`` records an event, ``warn`` writes to the log (text, and more
    by name), ``order`` hands an order to every process of a proxy, ``pins`` says which group a slot is pinned to."""

    def __init__(
        self,
        folder: Path,
        event: Callable[..., None],
        warn: Callable[..., None],
        order: Callable[[str, Order], None],
        pins: Callable[[], Mapping[str, str]],
    ) -> None:
        self._folder = folder
        self._event = event
        self._warn = warn
        self._order = order
        self._pins = pins
        self._until = 0.0
        self._slot = ""

    @property
    def until(self) -> float | None:
        """Until when (seconds since 1970) it is on; None: it is off."""
        return self._until if self._until > time.time() else None

    def begin(self) -> None:
        """The daemon starts: make the folders, and remove what is older than a day."""
        try:
            for folder in (self._folder, *(self._folder / name for name in PROXIES)):
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            self._warn("the folder of traces could not be made", error=error.strerror or str(error))
        sweep(self._folder, time.time() - AGE)

    def on(self, seconds: float, slot: str) -> float:
        """Keep the exchanges of the next ``seconds``, those of ``slot`` or of all (empty); returns until when."""
        self.begin()
        self._until, self._slot = time.time() + min(seconds, LONGEST), slot
        self._tell()
        text = time.strftime("until %H:%M:%S", time.localtime(self._until))
        self._event("trace-on", text=f"{text}, slot {slot}" if slot else text, until=round(self._until, 3))
        return self._until

    def off(self, why: str) -> bool:
        """Keep no more; returns whether it was on."""
        if not self._until:
            return False
        self._until, self._slot = 0.0, ""
        self._tell()
        self._event("trace-off", text=why)
        return True

    def follow(self) -> None:
        """Now and then: its time may be over; the guests know themselves."""
        if self._until and time.time() >= self._until:
            self.off("its time is over")

    def heard(self, proxy: str, message: Mapping[str, Any]) -> bool:
        """Whether a guest's message was one for us: it could not write."""
        if message.get("ev") != "report" or message.get("kind") != "trace-failed":
            return False
        why = printable(mask(str(message.get("where", ""))))
        self._warn("a trace could not be written and has ended; requests go on", proxy=proxy, error=why)
        self.off(f"{proxy} could not write: {why}")
        return True

    def order(self, proxy: str) -> Order:
        """What a guest of that proxy is told now; empty: off."""
        if self.until is None:
            return {}
        return {
            "until": self._until,
            "folder": str(self._folder / proxy),
            "slot": self._slot,
            "pins": dict(self._pins()),
        }

    def prepare(self, proxy: str, boot: dict[str, Any]) -> None:
        """Put the order, and the right to write there, into a guest's boot message."""
        boot["trace"] = self.order(proxy)
        if boot.get("confine"):
            plan = boot["confine"]
            boot["confine"] = {**plan, "write": [*plan["write"], str(self._folder / proxy)]}

    def _tell(self) -> None:
        for proxy in PROXIES:
            self._order(proxy, self.order(proxy))

    # ------------------------------------------------------------------------------------------- hand-over

    def notes(self) -> list[Any]:
        """What a successor under the same keeper needs; a daemon that starts has none."""
        return [self._until, self._slot]

    def restore(self, notes: Any) -> None:
        """Take over from a former supervisor; notes of another form are left out."""
        with contextlib.suppress(TypeError, ValueError):
            until, slot = notes
            self._until, self._slot = float(until), str(slot)


def sweep(folder: Path, before: float) -> None:
    """Remove the files of all proxies that were written before (seconds since 1970)."""
    for proxy in PROXIES:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder / proxy):
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)
