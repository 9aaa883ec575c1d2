"""Hands the pieces of an answer to the server from inside the upstream's callback."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .meter import Exchange

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Writer:
    """Passes pieces on from inside the upstream's callback: a stream of small events then costs no task a turn.

    ``send`` of an ASGI server suspends only while the client does not read. Then what it has begun is finished by the
    request's own task (``rest``), and pieces wait until it is.
    """

    def __init__(self, exchange: Exchange, send: Send, interrupt: Callable[[], None]) -> None:
        self.exchange = exchange
        self.interrupt = interrupt
        # The meter's own part is done here: one coroutine less for each piece.
        self.send: Any = exchange.send or send
        self.looks = exchange.send is not None
        self.begun: Any = None
        self.waits_for: Any = None
        self.error: BaseException | None = None

    def take(self, piece: bytes) -> bool:
        if self.begun is not None:
            return False
        if self.looks:
            try:
                self.exchange.look(piece)
            except Exception:
                self.looks = False
        step = self.send({"type": "http.response.body", "body": piece, "more_body": True})
        try:
            self.waits_for = step.send(None)
        except StopIteration:
            return True
        except BaseException as error:
            self.error = error
        self.begun = step
        self.interrupt()
        return True

    async def rest(self) -> None:
        """Finish what was begun. Raises what ``send`` raised."""
        if self.error is not None:
            raise self.error
        await _Begun(self.begun, self.waits_for)
        self.begun = self.waits_for = None

    def close(self) -> None:
        if self.begun is not None and self.error is None:
            self.begun.close()
        self.begun = None


class _Begun:
    """The rest of a coroutine that was begun outside of a task; its first awaited future is known already."""

    def __init__(self, step: Any, waits_for: Any) -> None:
        self.step = step
        self.waits_for = waits_for

    def __await__(self) -> Any:
        waits_for = self.waits_for
        while True:
            try:
                result = yield waits_for
            except BaseException as error:
                try:
                    waits_for = self.step.throw(error)
                except StopIteration:
                    return
            else:
                try:
                    waits_for = self.step.send(result)
                except StopIteration:
                    return
