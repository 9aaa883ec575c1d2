"""Events: what happened, for people and programs; kept in a bounded file, streamed to whoever follows."""

import time
from collections.abc import Callable
from typing import Any

from ocd.adapters.logs import LogFile
from ocd.mask import mask
from ocd.text import printable
from ocd.wire.messages import Event

#: characters of an event's text
LONGEST = 4000


class History:
    """``record`` is the one way in; texts are masked and printable."""

    def __init__(self, log: LogFile) -> None:
        self.log = log
        self.watchers: list[Callable[[Event], None]] = []

    def record(
        self,
        kind: str,
        proxy: str = "",
        generation: int | None = None,
        text: str = "",
        data: dict[str, Any] | None = None,
    ) -> Event:
        event = Event(
            time=round(time.time(), 3),
            kind=kind,
            proxy=proxy,
            generation=generation,
            text=printable(mask(text), LONGEST, lines=True),
            data={k: printable(v, LONGEST) if isinstance(v, str) else v for k, v in (data or {}).items()},
        )
        self.log.write(event.model_dump(exclude_defaults=False))
        for watcher in list(self.watchers):
            watcher(event)
        return event
