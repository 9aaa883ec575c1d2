"""Spans of five hours, and how fast something is used up. Pure; times are seconds since 1970.

A Claude plan's 5-hour window begins with the first request after the one before it has ended. Anthropic says with each
answer when it ends; of the past nothing says so, so ``blocks`` are made from the hours that had requests: a block
begins with an hour's beginning and may differ from the plan's own window by less than an hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

HOUR = 3600
#: seconds
SPAN = 5 * HOUR


@dataclass(slots=True)
class Block:
    """``figures``: name → sum; ``last`` is the beginning of its last hour with requests."""

    start: int
    last: int
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.start + SPAN

    def active(self, now: float) -> bool:
        return self.start <= now < self.end

    def hours(self, now: float) -> float:
        """How long it has been used so far: until now, or until the end of its last hour."""
        until = now if self.active(now) else min(self.end, self.last + HOUR)
        return max(until - self.start, 60.0) / HOUR


def blocks(hours: Iterable[tuple[int, Mapping[str, float]]]) -> list[Block]:
    """The blocks of ``hours``: (beginning of the hour, its figures) in order of time. Hours of 0 are left out."""
    found: list[Block] = []
    for hour, figures in sorted(hours, key=lambda one: one[0]):
        if hour <= 0:
            continue
        if not found or hour >= found[-1].end:
            found.append(Block(hour, hour))
        block = found[-1]
        block.last = max(block.last, hour)
        for name, value in figures.items():
            block.figures[name] = block.figures.get(name, 0) + value
    return found
