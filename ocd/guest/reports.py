"""What the supervisor is told of answered requests: each with a number, and once more when a successor asks for it.

A supervisor that is killed may have read reports that it had not noted for its successor, and one that hangs leaves no
room for more. So the latest reports stay here until nobody can ask for them any more. Standard library only.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Any

#: reports that are kept: more than a successor can have missed, whose predecessor notes what it read every 50 ms
KEPT = 1000
#: reports that are told in one turn of the loop: requests are answered in between
_TURN = 64
#: seconds between two looks whether there is room, and until it is given up
_PAUSE, _PATIENCE = 0.02, 30.0


class Reports:
    """``tell`` sends one report's fields, ``has_room`` says whether that would be taken at once."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], has_room: Callable[[], bool]) -> None:
        self._tell = tell
        self._has_room = has_room
        self._kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=KEPT)
        #: the number of the latest, and of the one that is to be told next
        self._latest, self._next = 0, 1

    def add(self, fields: dict[str, Any]) -> None:
        """Report an answered request; later where there is no room now, for no request waits for its own figures."""
        self._latest += 1
        self._kept.append({**fields, "number": self._latest})
        self.tell()

    def tell(self) -> None:
        """Tell what there is room for."""
        first = self._latest - len(self._kept) + 1
        self._next = max(self._next, first)
        for _ in range(_TURN):
            if self._next > self._latest or not self._has_room():
                break
            self._tell(self._kept[self._next - first])
            self._next += 1

    async def again(self, after: int) -> None:
        """Tell once more what has a number above ``after``. What arrives twice is known by its number."""
        self._next = min(self._next, after + 1)
        for _ in range(int(_PATIENCE / _PAUSE)):
            self.tell()
            if self._next > self._latest:
                break
            await asyncio.sleep(0 if self._has_room() else _PAUSE)
