"""What a successor must know, kept by the keeper: written soon after a change, together with what comes with it."""

import asyncio
from collections.abc import Callable

#: seconds that changes are gathered for
SOON = 0.05
#: characters of notes that are long, as when figures cannot be written for hours, and seconds for those
LONG, LATER = 100_000, 1.0


class Notes:
    """``compose`` says all of it as text, ``send`` gives the keeper an order, ``before`` is called before that."""

    def __init__(
        self, compose: Callable[[], str], send: Callable[..., None], before: Callable[[], None]
    ) -> None:
        self._compose = compose
        self._send = send
        self._before = before
        #: something has changed; what is worth no message of its own sets only this
        self.due = False
        self._timer: asyncio.TimerHandle | None = None
        self._last = ""

    def soon(self) -> None:
        """Something that a successor must know has changed."""
        self.due = True
        if self._timer is None:
            delay = LATER if len(self._last) > LONG else SOON
            self._timer = asyncio.get_running_loop().call_later(delay, self.flush)

    def now(self) -> None:
        """It must be known before what follows."""
        self.due = True
        self.flush()

    def flush(self) -> None:
        """Send what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.due:
            return
        self.due = False
        self._before()
        notes = self._compose()
        if notes != self._last:
            self._last = notes
            self._send("note", text=notes)
