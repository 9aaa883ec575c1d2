"""Between a server and its database: what it does while that is away, and that nothing is lost meanwhile."""

import asyncio
import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ocd.team.database import Away
from ocd.team.store import Person, Refused, Store

#: seconds between two tries while the database is away
AGAIN = 1.0
#: seconds for one answer of the database, connecting included
PATIENCE = 8.0
#: unknown keys that the database is asked for at a time: strangers do not keep it busy
FINDING = 3


class Unavailable(Exception):
    """The database is away for longer than what is known of the people may be used."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may be made: its id, who makes it, and what is reserved for it (units of 1e-8 US dollars)."""

    id: str
    name: str
    model: str
    units: int
    at: float


class Gate:
    """``cache``: seconds between two readings of all people; ``outage``: seconds for which a reading may be used while
    the database is away; ``hold``: seconds until a reservation that nobody renews is booked. ``tell(what, **fields)``
    takes news for the log."""

    def __init__(
        self, store: Store, cache: float, outage: float, hold: float, tell: Callable[..., None]
    ) -> None:
        self._store = store
        self._cache = cache
        self._outage = outage
        self._hold = hold
        self._tell = tell
        self._threads = concurrent.futures.ThreadPoolExecutor(8, "database")
        self._people: dict[str, Person] = {}
        self._read = -1e9
        self._renewed = -1e9
        self.up = True
        self._finding = 0
        #: admitted and not booked yet
        self.open: dict[str, Admitted] = {}
        #: what the database has not been told yet, in order
        self.queue: collections.deque[tuple[Callable[..., Any], tuple[Any, ...]]] = collections.deque()
        self._flushing = asyncio.Lock()

    async def _ask(self, function: Callable[..., Any], *values: Any) -> Any:
        """Raises Away, and notes whether the database answers."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await loop.run_in_executor(self._threads, function, *values)
        except (Away, TimeoutError) as error:
            if self.up:
                self.up = False
                self._tell("database-away", why=str(error) or "it did not answer in time")
            raise Away(str(error)) from None
        except Refused:
            self._back()
            raise
        self._back()
        return answer

    def _back(self) -> None:
        if not self.up:
            self.up = True
            self._tell("database-back", queued=len(self.queue))

    async def run(self) -> None:
        """Until cancelled: read the people, tell what waits, renew what is open, book what is left over."""
        while True:
            with contextlib.suppress(Away):
                await self.look()
            await asyncio.sleep(min(AGAIN, self._cache))

    async def look(self) -> None:
        """One turn of ``run``. Raises Away."""
        now = time.monotonic()
        if not self.up or now - self._read >= self._cache:
            people = await self._ask(self._store.people, time.time())
            self._people = {one.key_hash: one for one in people}
            self._read = now
        await self.flush()
        if now - self._renewed >= self._hold / 3:
            await self._ask(self._store.touch, list(self.open), time.time() + self._hold)
            if expired := await self._ask(self._store.expire, time.time()):
                self._tell("reservations-expired", count=expired)
            self._renewed = now

    async def flush(self) -> None:
        """Tell the database what waits. Raises Away; what was not told stays."""
        async with self._flushing:
            while self.queue:
                function, values = self.queue[0]
                # Said again if the connection broke at its end: each of them may be.
                await self._ask(function, *values)
                self.queue.popleft()

    @property
    def known(self) -> bool:
        """Whether what was read of the people may be used."""
        return time.monotonic() - self._read <= self._outage

    async def look_up(self, key_hash: str, model: str) -> Person:
        """Who that is, for a request that costs nothing. Raises Refused, Unavailable."""
        if time.monotonic() - self._read > self._cache and self.up:
            with contextlib.suppress(Away):
                await self.look()
        if key_hash not in self._people and self.up and self._finding < FINDING:
            # Invited a moment ago, perhaps.
            self._finding += 1
            try:
                with contextlib.suppress(Away):
                    found = await self._ask(self._store.find, key_hash, time.time())
                    if found is not None:
                        self._people[key_hash] = found
            finally:
                self._finding -= 1
        return self._cached(key_hash, model)

    def _cached(self, key_hash: str, model: str) -> Person:
        if not self.known:
            raise Unavailable
        person = self._people.get(key_hash)
        if person is None:
            raise Refused("key", "This key is not known here.")
        person.check(model, time.time())
        return person

    async def admit(self, request: str, key_hash: str, model: str, units: int) -> Admitted:
        """Raises Refused, Unavailable."""
        now = time.time()
        expires = now + self._hold
        if self.up:
            with contextlib.suppress(Away):
                person = await self._ask(self._store.admit, request, key_hash, model, units, now, expires)
                self._people[key_hash] = person
                return self._opened(Admitted(request, person.name, model, units, now))
        person = self._cached(key_hash, model)
        person.check_budget()
        self._people[key_hash] = replace(
            person, spent_day=person.spent_day + units, spent_month=person.spent_month + units
        )
        self.queue.append((self._store.reserve, (request, person.name, model, units, now, expires)))
        return self._opened(Admitted(request, person.name, model, units, now))

    def _opened(self, admitted: Admitted) -> Admitted:
        self.open[admitted.id] = admitted
        return admitted

    async def book(self, admitted: Admitted, cost: int) -> None:
        """What it cost; the database is told now, or when it is back."""
        if self.open.pop(admitted.id, None) is None:
            return
        values = (admitted.id, admitted.name, admitted.model, cost, admitted.at)
        self.queue.append((self._store.book, values))
        if self.up:
            with contextlib.suppress(Away):
                await self.flush()

    async def close(self, patience: float) -> None:
        """Tell what waits, for ``patience`` seconds at most; what could not be told is written to the log."""
        end = time.monotonic() + patience
        while self.queue and time.monotonic() < end:
            try:
                await self.flush()
            except Away:
                await asyncio.sleep(0.2)
        for function, (request, name, model, amount, *_) in self.queue:
            self._tell(
                "not-booked", op=function.__name__, request=request, person=name, model=model, units=amount
            )
        self._threads.shutdown(wait=False, cancel_futures=True)
