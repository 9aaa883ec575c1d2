"""A proxy's state as JSON, for the supervisor that comes after this one. Limits and the wanted port are the settings'.

Monotonic times stay valid: a hand-over never outlives the machine's uptime.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ocd.core.restart import Spell
from ocd.core.state import (
    Accepting,
    Armed,
    Booting,
    Cause,
    Draining,
    Holder,
    Member,
    Phase,
    Ports,
    Proxy,
    Rejection,
    Serving,
    Spawning,
    Stopping,
)

_PHASES: dict[str, type[Phase]] = {
    kind.__name__: kind for kind in (Spawning, Booting, Armed, Accepting, Serving, Draining, Stopping)
}


def dump(p: Proxy) -> dict[str, Any]:
    """Everything that a successor must know, as JSON can carry it."""
    return {
        "enabled": p.enabled,
        "stopped": p.stopped,
        "asleep": p.asleep,
        "revision": p.revision,
        "good": p.good,
        "rejected": asdict(p.rejected) if p.rejected else None,
        "port": p.ports.wanted,
        "holder": asdict(p.ports.holder) if p.ports.holder else None,
        "members": [_member(m) for m in p.members],
        "next_generation": p.next_generation,
        "warm": p.warm,
        "spell": asdict(p.spell),
        "restarts": p.restarts,
        "last_cause": p.last_cause,
        "last_reason": p.last_reason,
        "since": p.since,
    }


def load(name: str, known: dict[str, Any]) -> Proxy:
    """The state that ``dump`` noted. Raises ValueError, KeyError or TypeError for notes of another form."""
    return Proxy(
        name,
        enabled=known["enabled"],
        stopped=known["stopped"],
        asleep=known["asleep"],
        revision=known["revision"],
        good=known["good"],
        rejected=Rejection(**known["rejected"]) if known["rejected"] else None,
        ports=Ports(wanted=known["port"], holder=Holder(**known["holder"]) if known["holder"] else None),
        members=tuple(_read_member(one) for one in known["members"]),
        next_generation=known["next_generation"],
        warm=known["warm"],
        spell=Spell(**known["spell"]),
        restarts=known["restarts"],
        last_cause=Cause(known["last_cause"]) if known["last_cause"] else None,
        last_reason=known["last_reason"],
        since=known["since"],
    )


def _member(m: Member) -> dict[str, Any]:
    return {
        "generation": m.generation,
        "revision": m.revision,
        "phase": {"is": type(m.phase).__name__, **asdict(m.phase)},
        "leaving": m.leaving,
        "cold": m.cold,
        "ports": sorted(m.ports),
    }


def _read_member(known: dict[str, Any]) -> Member:
    phase = dict(known["phase"])
    kind = _PHASES[phase.pop("is")]
    if "cause" in phase:
        phase["cause"] = Cause(phase["cause"])
    ports = frozenset(known["ports"])
    return Member(
        known["generation"],
        known["revision"],
        kind(**phase),
        leaving=Cause(known["leaving"]) if known["leaving"] else None,
        cold=known["cold"],
        told=ports,
        ports=ports,
    )
