"""When another process may be started: the restart policy, pure. docs/decisions/0011-restart-policy.md has the reasons.

Two things are told apart. A process that *had come up* and dies is replaced at once, at most once a second: whatever
killed it, holding back its successor helps nobody. A process that *does not come up* is a crash loop: it is tried again
after 1, 2, 4 … 60 seconds, and stays one until a process serves. The first that a signal ended while it was coming up
is no loop yet: that was somebody's kill or the system's, and says nothing about the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: seconds between two starts at least
PACE = 1.0
#: seconds: the first and the longest pause of a crash loop, and how much of it is random
FIRST = 1.0
LONGEST = 60.0
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Spell:
    """How starting goes at present. ``failed``: starts in a row that came to nothing; ``looping``: it is a crash loop,
    and ``reason`` says why; ``not_before``: no start before this moment; ``started``: when the last one was.
    """

    failed: int = 0
    looping: bool = False
    reason: str = ""
    not_before: float | None = None
    started: float | None = None


def may_start(spell: Spell, now: float) -> bool:
    return spell.not_before is None or now >= spell.not_before


def start(spell: Spell, now: float) -> Spell:
    """A process is being started."""
    return replace(spell, started=now, not_before=None)


def died(spell: Spell, now: float) -> Spell:
    """A process that had come up is gone: another at once, unless the last start was less than a second ago.

    In a crash loop too: whoever served until now is missed more than one try costs.
    """
    early = spell.started is not None and now < spell.started + PACE
    return replace(spell, not_before=spell.started + PACE if early and spell.started is not None else None)


def failed(spell: Spell, reason: str, by_signal: bool, now: float, rand: float) -> Spell:
    """A process did not come up. ``by_signal``: a signal that was not ours ended it; ``rand`` in [0, 1)."""
    count = spell.failed + 1
    looping = spell.looping or count > 1 or not by_signal
    pause = min(LONGEST, FIRST * 2.0 ** min(count - 1, 30)) * (1.0 + JITTER * (2.0 * rand - 1.0))
    return replace(spell, failed=count, looping=looping, reason=reason, not_before=now + min(pause, LONGEST))


def came_up(spell: Spell) -> Spell:
    """A process serves: whatever failed before is another story."""
    return replace(spell, failed=0, looping=False, reason="", not_before=None) if spell.failed else spell


def forgiven(spell: Spell) -> Spell:
    """The configuration or the operator's wish changed: that deserves a fresh and immediate try."""
    return Spell(started=spell.started)
