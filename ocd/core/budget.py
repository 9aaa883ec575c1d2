"""What AWS may cost, and what follows. Pure: no clock, no I/O; days are local ones, ``2026-11-26``.

Sums are whole numbers of ``UNIT`` dollars, so that they are exact, and are kept by the day and by the month: a clock
that is set forward and back finds the day that it left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

#: US dollars; the meter's costs are rounded to it
UNIT = 1e-8
#: days and months that are remembered
KEPT_DAYS, KEPT_MONTHS = 40, 3
PERIODS = ("day", "month")
#: what is done when a budget is used up
WARN, REFUSE, PLAN = "warn", "refuse", "plan"


@dataclass(frozen=True, slots=True)
class Limits:
    """``day`` and ``month`` in US dollars, 0: none; ``warn_at`` per cent, 0: never; ``action`` one of the three."""

    day: float = 0.0
    month: float = 0.0
    warn_at: int = 80
    action: str = WARN

    def of(self, period: str) -> int:
        return to_units(self.day if period == "day" else self.month)


@dataclass(frozen=True, slots=True)
class Spent:
    """What AWS cost by period (``2026-11-26`` and ``2026-11`` → units), how many requests of the same had no known
    price, and what was announced already: ``2026-11 warn``."""

    sums: Mapping[str, int] = field(default_factory=dict)
    unpriced: Mapping[str, int] = field(default_factory=dict)
    told: frozenset[str] = frozenset()

    def units(self, period: str, today: str) -> int:
        return self.sums.get(name_of(period, today), 0)


@dataclass(frozen=True, slots=True)
class Reached:
    """A budget's ``period`` is used to the share that warns, or up. ``share``: 1.0 is all of it."""

    period: str
    name: str
    spent: int
    limit: int
    over: bool

    @property
    def share(self) -> float:
        return self.spent / self.limit

    def words(self) -> str:
        """``today's AWS budget of $5.00 is used up ($5.02)``."""
        whose = "today's" if self.period == "day" else "this month's"
        how = "is used up" if self.over else f"is {int(self.share * 100)} % used"
        return f"{whose} AWS budget of {money(self.limit)} {how} ({money(self.spent)})"


def name_of(period: str, today: str) -> str:
    return today if period == "day" else today[:7]


def to_units(dollars: float) -> int:
    return round(dollars / UNIT)


def money(units: int) -> str:
    dollars = units * UNIT
    return f"${dollars:,.2f}" if dollars >= 0.01 or not units else f"${dollars:.4f}"


def add(spent: Spent, cost: float | None, today: str) -> Spent:
    """One more answered request, ``cost`` in US dollars; None: its price is not known."""
    units = to_units(cost) if cost is not None and 0 <= cost < 1e6 else 0
    sums, unpriced = dict(spent.sums), dict(spent.unpriced)
    for period in PERIODS:
        name = name_of(period, today)
        sums[name] = sums.get(name, 0) + units
        if cost is None:
            unpriced[name] = unpriced.get(name, 0) + 1
    return _bounded(replace(spent, sums=sums, unpriced=unpriced), today)


def _bounded(spent: Spent, today: str) -> Spent:
    """Without the periods that are long over; today's own stay whatever the clock says."""
    days = sorted((name for name in spent.sums if len(name) > 7 and name != today), reverse=True)
    months = sorted((name for name in spent.sums if len(name) == 7 and name != today[:7]), reverse=True)
    if len(days) < KEPT_DAYS and len(months) < KEPT_MONTHS:
        return spent
    kept = {today, today[:7], *days[: KEPT_DAYS - 1], *months[: KEPT_MONTHS - 1]}
    return Spent(
        {name: value for name, value in spent.sums.items() if name in kept},
        {name: value for name, value in spent.unpriced.items() if name in kept},
        frozenset(one for one in spent.told if one.split(" ")[0] in kept),
    )


def reached(spent: Spent, limits: Limits, today: str) -> Iterator[Reached]:
    """The budgets that are near their end or used up now."""
    for period in PERIODS:
        limit = limits.of(period)
        if limit <= 0:
            continue
        units = spent.units(period, today)
        over = units >= limit
        if over or (limits.warn_at and units * 100 >= limit * limits.warn_at):
            yield Reached(period, name_of(period, today), units, limit, over)


def news(spent: Spent, limits: Limits, today: str) -> tuple[Spent, list[Reached]]:
    """What is to be announced now: each budget once when it is near, and once when it is used up."""
    found, told = [], set(spent.told)
    for one in reached(spent, limits, today):
        marks = {f"{one.name} warn"} | ({f"{one.name} over"} if one.over else set())
        if not marks <= told:
            found.append(one)
            told |= marks
    # A budget that was raised may be used up again.
    over = {f"{one.name} over" for one in reached(spent, limits, today) if one.over}
    told -= {mark for mark in told if mark.endswith(" over") and mark not in over}
    return replace(spent, told=frozenset(told)), found


def exhausted(spent: Spent, limits: Limits, today: str) -> Reached | None:
    """The budget because of which something is done: the longest one that is used up; None: nothing is to be done."""
    if limits.action == WARN:
        return None
    over = [one for one in reached(spent, limits, today) if one.over]
    return over[-1] if over else None


# --------------------------------------------------------------------------------------------------- as notes


def dump(spent: Spent) -> dict[str, Any]:
    """Plain data for the notes and for the file."""
    return {"sums": dict(spent.sums), "unpriced": dict(spent.unpriced), "told": sorted(spent.told)}


def load(known: Any) -> Spent:
    """What ``dump`` made; anything of another form is nothing."""
    if not isinstance(known, dict):
        return Spent()
    sums, unpriced, told = known.get("sums"), known.get("unpriced"), known.get("told")
    if not isinstance(sums, dict) or not isinstance(unpriced, dict) or not isinstance(told, list):
        return Spent()
    return Spent(_counts(sums), _counts(unpriced), frozenset(str(one) for one in told))


def _counts(known: Mapping[Any, Any]) -> dict[str, int]:
    return {str(name): value for name, value in known.items() if type(value) is int and value >= 0}


def latest(one: Spent, other: Spent) -> Spent:
    """Of two states of the same account, one older: for each period what is more."""
    sums, unpriced = dict(one.sums), dict(one.unpriced)
    for into, source in ((sums, other.sums), (unpriced, other.unpriced)):
        for name, value in source.items():
            into[name] = max(into.get(name, 0), value)
    return Spent(sums, unpriced, one.told | other.told)
