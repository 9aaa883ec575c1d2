"""What AWS cost so far, and the order to main's processes when a budget is used up: state, events, a small file.

Every request to AWS passes the bedrock proxy once, whoever asked, so its reports are what is counted. A successor takes
the sums from the keeper's notes; a daemon that is started anew from ``budget.json`` in the state folder.
"""

import asyncio
import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ocd import atomic
from ocd.adapters import usage_file
from ocd.core import budget as core
from ocd.settings.schema import Budget as Section
from ocd.wire.messages import BudgetUse, Exchange

#: seconds from the first cost that is not in the file until it is
WRITE_AFTER = 1.0
#: bytes of the file that are read
LARGEST = 65536
#: seconds that a first look into usage.db may take
PATIENCE = 15.0

Order = dict[str, Any]


class Budget:
    """``section`` is [budget] now; ``event`` records an event; ``order`` hands an order to every process of main;
    ``noted`` is told of news that a successor has to know soon, ``before`` of what it has to know before the file does
    (it would be told of a request once more, and count it twice)."""

    def __init__(
        self,
        path: Path,
        section: Callable[[], Section],
        event: Callable[..., None],
        order: Callable[[Order], None],
        noted: Callable[[], None],
        before: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._section = section
        self._event = event
        self._order = order
        self._noted = noted
        self._before = before
        self._clock = clock
        self.spent = core.Spent()
        self._ordered: Order = {}
        self._written = ""
        self._timer: asyncio.TimerHandle | None = None

    # -------------------------------------------------------------------------------------------------- in

    def take(self, exchange: Exchange) -> None:
        """One answered request."""
        if exchange.proxy != "bedrock" or exchange.path.endswith("/count_tokens"):
            return
        figures = exchange.input_tokens + exchange.output_tokens
        if exchange.cost is None and not figures:
            return
        self.spent = core.add(self.spent, exchange.cost, self._today())
        self.follow()
        self._write_soon()
        if self.limits.day or self.limits.month:
            self._noted()

    def follow(self) -> None:
        """Say what is news, and bring the guests' orders up to date: after a cost, new settings, at midnight."""
        today = self._today()
        self.spent, told = core.news(self.spent, self.limits, today)
        for one in told:
            kind = "budget-used-up" if one.over else "budget-near"
            self._event(
                kind,
                "bedrock",
                text=one.words(),
                period=one.period,
                spent=round(one.spent * core.UNIT, 8),
                limit=round(one.limit * core.UNIT, 8),
                action=self.limits.action,
            )
        order = self.order()
        if _same(order, self._ordered):
            return
        before, self._ordered = self._ordered, order
        self._order(order)
        if before and not order:
            self._event("budget-ended", "bedrock", text="requests go to AWS again")

    # ------------------------------------------------------------------------------------------------- out

    @property
    def limits(self) -> core.Limits:
        section = self._section()
        return core.Limits(section.day, section.month, section.warn_at, section.action)

    def order(self) -> Order:
        """What a guest of main is told now; empty: requests go to AWS as ever."""
        found = core.exhausted(self.spent, self.limits, self._today())
        if found is None:
            return {}
        section = self._section()
        return {
            "action": section.action,
            "model": section.plan_model,
            "until": self._end(found.period),
            "why": found.words(),
        }

    def messages(self) -> list[BudgetUse]:
        """Each budget that is set, as the API shows it."""
        today, limits = self._today(), self.limits
        found = []
        for period in core.PERIODS:
            limit = limits.of(period)
            if limit <= 0:
                continue
            units = self.spent.units(period, today)
            near = any(one.period == period for one in core.reached(self.spent, limits, today))
            found.append(
                BudgetUse(
                    period=period,
                    spent=round(units * core.UNIT, 8),
                    limit=round(limit * core.UNIT, 8),
                    near=near,
                    used_up=units >= limit,
                    action=limits.action,
                    resets=self._end(period),
                    unpriced=self.spent.unpriced.get(core.name_of(period, today), 0),
                )
            )
        return found

    def _today(self) -> str:
        return usage_file.day_of(self._clock())

    def _end(self, period: str) -> float:
        """When the period's successor begins, seconds since 1970."""
        today = datetime.date.fromisoformat(self._today())
        if period == "day":
            first = today + datetime.timedelta(days=1)
        else:
            first = (today.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
        return datetime.datetime.combine(first, datetime.time()).timestamp()

    # ----------------------------------------------------------------------------------------- what is kept

    def notes(self) -> dict[str, Any]:
        """What a successor needs."""
        return core.dump(self.spent)

    def restore(self, notes: Any) -> None:
        """Take over from a former supervisor, or from a former daemon; what has another form is left out."""
        found = core.load(notes)
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                if os.fstat(fd).st_uid == os.getuid():
                    found = core.latest(found, core.load(json.loads(file.read(LARGEST))))
        except (OSError, ValueError):
            pass
        self.spent = core.latest(found, self.spent)

    async def begin(self, usage: Path) -> None:
        """Where nothing was kept yet (an upgrade): what usage.db knows of this month."""
        if self.spent.sums or not usage.exists():
            return
        today = self._today()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", usage_file.__file__, str(usage), "spent", today),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            return
        try:
            async with asyncio.timeout(PATIENCE):
                out, _ = await process.communicate()
            found = core.load(json.loads(out))
        except (TimeoutError, ValueError):
            return
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        # What came meanwhile may be in it or not: of the two, what is more.
        self.spent = core.latest(self.spent, found)
        self.follow()

    def _write_soon(self) -> None:
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(WRITE_AFTER, self.write)
            except RuntimeError:
                self.write()

    def write(self) -> None:
        """Put the sums into the file (0600); a disk that is full is told of by others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        text = json.dumps(core.dump(self.spent))
        if text == self._written or not self.spent.sums:
            return
        self._before()
        try:
            atomic.replace(self.path, text, durable=False)
        except OSError:
            return
        self._written = text


def _same(one: Order, other: Order) -> bool:
    """Whether two orders do the same; what was spent stands in ``why`` and may grow."""
    keys = ("action", "model", "until")
    return bool(one) == bool(other) and all(one.get(key) == other.get(key) for key in keys)
