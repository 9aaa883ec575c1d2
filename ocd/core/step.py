"""One proxy's life: every transition, in one file. No clock, no I/O.

``step(proxy, event, now, rand) -> (proxy, actions)``; ``now`` is monotonic seconds, ``rand`` a number in [0, 1) for
jitter. The laws, each held by the simulation in ``tests/unit/test_core_machine.py``:

1. A member (one process) is known by its generation, which is never used twice. News of a generation that is not a
   member changes nothing, except that a process which turns up for it is killed: none is forgotten.
2. New before old: a member that answers is drained only when enough others have *said* that they accept, or when
   nobody is wanted.
3. At most one member is coming up at a time, and the number of living members is bounded.
4. Every phase that waits for something has a deadline (``state.next_deadline``), so nothing is stuck.
5. A failed candidate of a new revision changes nothing but ``rejected``: the last good revision keeps serving.
6. What had come up and died is replaced at once, at most once a second; what does not come up is a crash loop, until
   one serves or the configuration or the operator's wish changes (``restart``).
7. A process that has connections is never ended for silence of less than ``hang_timeout``, a drain is no silence.
8. ``ready`` means: the wanted port is open and a member has said that it accepts there. A port is closed only when it
   is not wanted, or nobody is, and no session was told of it; the wanted one is open by then.

A member's phases::

    Spawning ─Spawned→ Booting ─armed→ Armed ─Accept→ Accepting ─accepting→ Serving ─Drain→ Draining ─Exited→ gone
        └────────────────┴── deadline, stop, hang ──┴──────────────→ Stopping ─Exited→ gone
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from ocd.core import restart
from ocd.core.state import (
    Accepting,
    Armed,
    Booting,
    Cause,
    Draining,
    Holder,
    Limits,
    Member,
    Proxy,
    Rejection,
    Serving,
    Silence,
    Spawning,
    State,
    Stopping,
    Wanted,
    describe_holder,
    state_of,
)

#: seconds: how soon an open port is asked for again while somebody else has it, and when no answer comes
PORT_AGAIN = 0.5
PORT_ANSWER = 5.0

# ------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Adjust:
    """What the settings say of this proxy and takes effect without another process."""

    limits: Limits
    port: int
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Configure:
    """A configuration that passed the checks: serve it."""

    revision: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A configuration that did not pass the checks; ``good``: one of an earlier time that may be served instead."""

    reason: str
    good: str = ""


@dataclass(frozen=True, slots=True)
class Want:
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Restart:
    """The operator wants fresh processes."""


@dataclass(frozen=True, slots=True)
class Warm:
    """The forkserver has everything that requests need: whoever was forked before that gives its place to another."""


@dataclass(frozen=True, slots=True)
class PortOpened:
    port: int


@dataclass(frozen=True, slots=True)
class PortBlocked:
    port: int
    holder: Holder


@dataclass(frozen=True, slots=True)
class PortsHeld:
    """The ports that living sessions, or processes of the other proxy, were told of."""

    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class Spawned:
    generation: int
    pid: int
    cold: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No process came of it. ``transient``: not the proxy's fault (the forkserver went), so it does not count."""

    generation: int
    reason: str
    transient: bool = False


class Says(StrEnum):
    """What a process says of itself."""

    ARMED = "armed"
    ACCEPTING = "accepting"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Reported:
    """A process says where it stands: ``ports`` it accepts on, ``quiet`` seconds since its last byte to a client."""

    generation: int
    says: Says
    ports: frozenset[int] = frozenset()
    quiet: float = 0.0


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone; ``status`` as in subprocess (negative: signal), ``reason`` the end of its log."""

    generation: int
    status: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    generation: int


@dataclass(frozen=True, slots=True)
class ProbeMissed:
    """It did not answer in time; ``busy``: it has connections."""

    generation: int
    busy: bool = True


@dataclass(frozen=True, slots=True)
class MemoryOver:
    generation: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Slept:
    """The machine slept: what was not answered meanwhile counts for nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process that a former supervisor started."""

    generation: int
    pid: int
    revision: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """The processes that were found, and the ports that are open already. Of the members that were noted and are not
    among them ``Exited`` follows."""

    found: tuple[Found, ...]
    open: frozenset[int]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Adjust
    | Configure
    | Refuse
    | Want
    | Restart
    | Warm
    | PortOpened
    | PortBlocked
    | PortsHeld
    | Spawned
    | SpawnFailed
    | Reported
    | Exited
    | ProbeAnswered
    | ProbeMissed
    | MemoryOver
    | Slept
    | Adopt
    | Tick
)

# ------------------------------------------------------------------------------------------------ actions


@dataclass(frozen=True, slots=True)
class Spawn:
    generation: int
    revision: str


@dataclass(frozen=True, slots=True)
class Accept:
    """Give it these open ports; it answers with all that it accepts on."""

    generation: int
    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class Drain:
    """No new connections; end after the last answer, or ``limit`` seconds. ``flowing``: they count from the last byte
    that went to a client, so that a stream which flows is never cut."""

    generation: int
    limit: float
    flowing: bool


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM: end soon."""

    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class Abort:
    """SIGABRT: dump the stack into the log and end."""

    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL, the whole group."""

    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class OpenPort:
    """Look whether somebody else has it, then listen; PortOpened or PortBlocked is the answer."""

    port: int


@dataclass(frozen=True, slots=True)
class ClosePort:
    """Nobody of ours accepts there any more."""

    port: int


@dataclass(frozen=True, slots=True)
class Keep:
    """This revision has served: it is the one to come back with. ``former``: the one before, or an empty string."""

    revision: str
    former: str


@dataclass(frozen=True, slots=True)
class Announce:
    """News for people: an event's kind and one sentence."""

    kind: str
    text: str = ""
    generation: int | None = None


Action = Spawn | Accept | Drain | Terminate | Abort | Kill | OpenPort | ClosePort | Keep | Announce

Out = list[Action]

# --------------------------------------------------------------------------------------------------- step


def step(proxy: Proxy, event: Event, now: float, rand: float = 0.5) -> tuple[Proxy, list[Action]]:
    """One transition: what the event changes, then what follows from the new state."""
    before = state_of(proxy)
    actions: Out = []
    after = _apply(proxy, event, now, rand, actions)
    after = _expire(after, now, rand, actions)
    after = _converge(after, now, actions)
    state = state_of(after)
    # What a new supervisor finds is no news, and is as old as it was.
    if state is not before and not isinstance(event, Adopt):
        after = replace(after, since=now)
        actions += _news(before, state, after)
    return after, actions


def _news(before: State, state: State, proxy: Proxy) -> list[Announce]:
    news = []
    if before is State.BLOCKED:
        news.append(Announce("unblocked"))
    if before is State.IDLE:
        news.append(Announce("woken"))
    match state:
        case State.BLOCKED:
            news.append(Announce("blocked", describe_holder(proxy.ports.holder)))
        case State.CRASH_LOOP:
            news.append(Announce(state, proxy.spell.reason))
        case State.STARTING:
            pass
        case _:
            news.append(Announce(state))
    return news


def _apply(p: Proxy, event: Event, now: float, rand: float, out: Out) -> Proxy:
    match event:
        case Adjust(limits, port, enabled):
            if port != p.ports.wanted:
                p = replace(p, ports=replace(p.ports, wanted=port, due=None, holder=None))
            if enabled and not p.enabled:
                p = replace(p, spell=restart.forgiven(p.spell))
            return replace(p, limits=limits, enabled=enabled)
        case Configure(revision):
            fresh = revision != p.revision or p.spell.looping
            p = replace(p, revision=revision, rejected=None)
            return replace(p, spell=restart.forgiven(p.spell)) if fresh else p
        case Refuse(reason, good):
            return replace(p, rejected=Rejection("", reason), revision=p.revision or good)
        case Want(wanted):
            stopped = p.stopped if wanted is Wanted.IDLE else wanted is Wanted.STOPPED
            asleep = wanted is Wanted.IDLE
            if (stopped, asleep) == (p.stopped, p.asleep):
                return p
            return replace(p, stopped=stopped, asleep=asleep, spell=restart.forgiven(p.spell))
        case Restart():
            p = replace(p, stopped=False, asleep=False, spell=restart.forgiven(p.spell))
            coming = (Spawning, Booting, Armed, Accepting, Serving)
            return _map(p, lambda m: _leave(m, Cause.OPERATOR) if m.phase_is(*coming) else m)
        case Warm():
            return replace(p, warm=True)
        case PortOpened(port):
            ports = replace(p.ports, open=p.ports.open | {port})
            if port == ports.wanted:
                ports = replace(ports, due=None, holder=None)
            return replace(p, ports=ports)
        case PortBlocked(port, holder):
            if port != p.ports.wanted or port in p.ports.open:
                return p
            return replace(p, ports=replace(p.ports, due=now + PORT_AGAIN, holder=holder))
        case PortsHeld(held):
            return replace(p, ports=replace(p.ports, held=held))
        case Spawned(generation, pid, cold):
            m = p.member(generation)
            if m is None or not isinstance(m.phase, Spawning):
                if m is None:
                    out.append(Kill(generation, pid))
                return p
            p = replace(p, warm=p.warm and not cold)
            return p.put(replace(m, phase=Booting(pid, now + p.limits.start_timeout), cold=cold))
        case SpawnFailed(generation, reason, transient):
            m = p.member(generation)
            if m is None or not isinstance(m.phase, Spawning):
                return p
            p = p.drop(generation)
            return p if transient else _not_up(p, m, reason, False, now, rand, out)
        case Reported():
            return _reported(p, event, now, out)
        case Exited(generation, status, reason):
            return _exited(p, generation, status, reason, now, rand, out)
        case ProbeAnswered(generation):
            m = p.member(generation)
            if m is None or m.silence is None:
                return p
            if m.suspect and m.phase_is(Serving):
                seconds = now - m.silence.since
                out.append(
                    Announce(
                        "recovered",
                        f"generation {generation} answers again after {seconds:.0f} s",
                        generation,
                    )
                )
            return p.put(replace(m, silence=None))
        case ProbeMissed(generation, busy):
            return _missed(p, generation, busy, now, out)
        case MemoryOver(generation, reason):
            m = p.member(generation)
            if m is None or not m.phase_is(Accepting, Serving, Armed) or m.leaving:
                return p
            out.append(Announce("memory-limit", reason, generation))
            return p.put(_leave(m, Cause.MEMORY))
        case Slept():
            return _map(p, lambda m: replace(m, silence=None) if m.silence else m)
        case Adopt(found, listening):
            return _adopted(p, found, listening, now)
        case Tick():
            return p


def _adopted(p: Proxy, found: tuple[Found, ...], listening: frozenset[int], now: float) -> Proxy:
    for one in found:
        m = p.member(one.generation)
        if m is None or m.phase_is(Spawning):
            m = Member(one.generation, one.revision, Booting(one.pid, now + p.limits.start_timeout))
        # What it accepts on is what it said; an order that it did not acknowledge may be lost.
        m = replace(m, silence=None, told=m.ports)
        p = replace(p.put(m), next_generation=max(p.next_generation, one.generation + 1))
    # A start that was ordered and of which no process came yet: should one turn up, it is killed as unknown.
    p = replace(p, members=tuple(m for m in p.members if not m.phase_is(Spawning)))
    return replace(p, ports=replace(p.ports, open=listening, due=None, held=None))


def _reported(p: Proxy, event: Reported, now: float, out: Out) -> Proxy:
    """What a process says of itself is believed, whatever we thought."""
    m = p.member(event.generation)
    if m is None:
        return p
    match event.says, m.phase:
        case Says.ARMED, Booting(pid):
            m = replace(m, phase=Armed(pid))
        case Says.ARMED, Serving(pid):
            # It was to accept, but the order was lost on the way (a supervisor died).
            m = replace(m, phase=Armed(pid), told=frozenset(), ports=frozenset())
        case Says.ACCEPTING, Booting(pid) | Armed(pid) | Accepting(pid) if event.ports:
            m = replace(m, phase=Serving(pid, now), ports=event.ports, told=m.told | event.ports)
            p = replace(p, spell=restart.came_up(p.spell))
            if p.fresh(m) and p.good != p.revision:
                out.append(Keep(p.revision, p.good))
                p = replace(p, good=p.revision)
        case Says.ACCEPTING, Serving():
            m = replace(m, ports=event.ports, told=m.told | event.ports)
        case Says.DRAINING, Draining(pid, _, cause, flowing=True):
            left = p.limits.drain_timeout - event.quiet + p.limits.stop_timeout
            m = replace(m, phase=Draining(pid, now + max(0.0, left), cause, True))
        case Says.DRAINING, Armed(pid) | Accepting(pid) | Serving(pid):
            # A former supervisor told it to.
            limit = now + p.limits.drain_timeout + p.limits.stop_timeout
            m = replace(m, phase=Draining(pid, limit, m.leaving or Cause.RELOAD, True), silence=None)
        case _:
            return p
    return p.put(m)


def describe_exit(status: int) -> str:
    """How a process ended (``status`` as in subprocess), in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


def _exited(p: Proxy, generation: int, status: int, reason: str, now: float, rand: float, out: Out) -> Proxy:
    m = p.member(generation)
    if m is None:
        return p
    p = p.drop(generation)
    how = describe_exit(status)
    why = f"{how}: {reason}" if reason else how
    match m.phase:
        case Draining(cause=cause):
            if status == 0:
                out.append(Announce("drained", f"generation {generation} is gone ({cause})", generation))
            else:
                out.append(
                    Announce("exited", f"generation {generation} was draining ({cause}): {why}", generation)
                )
            return replace(p, last_cause=cause, last_reason="")
        case Stopping(cause=cause):
            out.append(Announce("exited", f"generation {generation} is gone ({cause}, {how})", generation))
            if cause is Cause.BOOT_FAILURE:
                return _not_up(p, m, reason or f"it was not ready in time ({how})", False, now, rand, out)
            if cause is Cause.HANG:
                return _died(p, m, Cause.HANG, f"it did not answer on its private socket ({how})", now)
            return p
        case Serving():
            out.append(Announce("crashed", f"generation {generation}: {why}", generation))
            return _died(p, m, Cause.CRASH, why, now)
        case Armed():
            out.append(Announce("exited", f"the spare, generation {generation}: {why}", generation))
            return _died(p, m, Cause.CRASH, why, now)
        case _:
            # It has never served: coming up includes the first accept.
            return _not_up(p, m, why, status < 0, now, rand, out)


def _died(p: Proxy, m: Member, cause: Cause, reason: str, now: float) -> Proxy:
    """A process that had come up is gone."""
    p = replace(p, last_cause=cause, last_reason=reason)
    if m.leaving:
        # It was on its way out; that it did not wait for the end is no reason to hold back its successor.
        return p
    return replace(p, restarts=p.restarts + 1, spell=restart.died(p.spell, now))


def _not_up(p: Proxy, m: Member, reason: str, by_signal: bool, now: float, rand: float, out: Out) -> Proxy:
    """A process did not come up. A candidate of a new revision only has that one rejected."""
    out.append(Announce("boot-failed", reason, m.generation))
    if m.leaving or m.revision != p.revision:
        # What is out of date says nothing of what is wanted now.
        return p
    if p.good and m.revision != p.good and not (by_signal and not p.spell.failed):
        out.append(Announce("reload-rejected", reason, m.generation))
        spell = restart.forgiven(p.spell)
        return replace(p, rejected=Rejection(m.revision, reason), revision=p.good, spell=spell)
    spell = restart.failed(p.spell, reason, by_signal, now, rand)
    return replace(p, spell=spell, last_cause=Cause.BOOT_FAILURE, last_reason=reason)


def _missed(p: Proxy, generation: int, busy: bool, now: float, out: Out) -> Proxy:
    m = p.member(generation)
    if m is None or not m.phase_is(Armed, Accepting, Serving, Draining):
        return p
    before = m.silence
    since, misses = (before.since, before.misses + 1) if before else (now, 1)
    suspect = misses >= p.limits.liveness_misses
    m = replace(m, silence=Silence(since, misses, suspect))
    p = p.put(m)
    idle = m.phase_is(Serving) and not busy and p.serving(fresh=True) >= p.limits.workers
    over = now - since >= p.limits.hang_timeout
    if suspect and not m.phase_is(Draining) and not (before and before.suspect):
        text = f"generation {generation} missed {misses} liveness probes"
        out.append(Announce("hang", text, generation))
    # Nobody is cut off when a spare ends, or one without connections beside others that serve. Whoever drains may be
    # on its way out, its private socket closed already.
    if over or (suspect and (idle or m.phase_is(Armed))):
        text = f"generation {generation} has been silent for {now - since:.0f} s and is ended"
        out.append(Announce("hang-ended", text, generation))
        return _abort(p, m, Cause.HANG, now, out)
    return p


def _leave(m: Member, cause: Cause) -> Member:
    return m if m.leaving else replace(m, leaving=cause)


def _map(p: Proxy, change: Callable[[Member], Member]) -> Proxy:
    return replace(p, members=tuple(change(m) for m in p.members))


# ------------------------------------------------------------------------------------------------- expire


def _expire(p: Proxy, now: float, rand: float, out: Out) -> Proxy:
    """What the clock alone decides."""
    for m in p.members:
        match m.phase:
            case Spawning(deadline) if now >= deadline:
                # Should its process turn up after all, it is killed as unknown.
                p = _not_up(p.drop(m.generation), m, "no process came of it in time", False, now, rand, out)
            case Booting(_, deadline) if now >= deadline:
                p = _abort(p, m, Cause.BOOT_FAILURE, now, out)
            case Accepting(_, deadline) if now >= deadline:
                # It has no connection that it knows of, and whoever waits in the queue is another's.
                p = _abort(p, m, Cause.HANG, now, out)
            case Draining(pid, deadline, cause) if now >= deadline:
                text = f"generation {m.generation} still had streams"
                out += [Announce("drain-timeout", text, m.generation), Terminate(m.generation, pid)]
                p = p.put(replace(m, phase=Stopping(pid, now + p.limits.stop_timeout, cause)))
            case Stopping(pid, deadline) if now >= deadline:
                out.append(Kill(m.generation, pid))
                # A process that SIGKILL does not end at once (uninterruptible sleep) is killed again, not forgotten.
                p = p.put(replace(m, phase=replace(m.phase, deadline=now + p.limits.stop_timeout)))
            case _:
                pass
    if p.spell.not_before is not None and now >= p.spell.not_before:
        p = replace(p, spell=replace(p.spell, not_before=None))
    return p


def _abort(p: Proxy, m: Member, cause: Cause, now: float, out: Out) -> Proxy:
    assert m.pid is not None
    out.append(Abort(m.generation, m.pid))
    return p.put(replace(m, phase=Stopping(m.pid, now + p.limits.abort_timeout, cause)))


# ----------------------------------------------------------------------------------------------- converge


def _converge(p: Proxy, now: float, out: Out) -> Proxy:
    """From what is there to what is wanted, one safe move at a time until none is left."""
    if p.wanted is not Wanted.UP:
        p = _wind_down(p, now, out)
    p = _open_ports(p, now, out)
    if p.wanted is not Wanted.UP:
        return p
    if p.warm:
        up = (Accepting, Serving, Armed)
        p = _map(p, lambda m: _leave(m, Cause.COLD_START) if m.cold and m.phase_is(*up) else m)
    p = _take_over(p, now, out)
    p = _let_go(p, now, out)
    return _bring_up(p, now, out)


def _wind_down(p: Proxy, now: float, out: Out) -> Proxy:
    cause = Cause.IDLE if p.wanted is Wanted.IDLE else Cause.OPERATOR
    for m in p.members:
        match m.phase:
            case Spawning():
                p = p.drop(m.generation)
            case Booting() | Armed():
                p = _stop(p, m, cause, now, out)
            case Accepting() | Serving() | Draining(flowing=True):
                # Nobody comes after it, and somebody waits for the end: the limit counts from now.
                p = _drain(p, m, cause, False, now, out)
            case _:
                pass
    return p


def _open_ports(p: Proxy, now: float, out: Out) -> Proxy:
    """Ask for the wanted port until it is open; close what nobody needs."""
    if p.wanted is Wanted.STOPPED:
        ports = replace(p.ports, due=None, holder=None)
        if not p.members and ports.held is not None:
            # Whoever binds a port that a living session was told of would be sent its login: it stays ours till then.
            out += [ClosePort(port) for port in sorted(ports.open - ports.held)]
            ports = replace(ports, open=ports.open & ports.held)
        return replace(p, ports=ports)
    ports = p.ports
    if not ports.wanted:
        return p
    if not ports.ready:
        if ports.due is None or now >= ports.due:
            out.append(OpenPort(ports.wanted))
            p = replace(p, ports=replace(ports, due=now + PORT_ANSWER))
        return p
    if ports.held is None:
        return p
    for port in sorted(ports.open - ports.held - {ports.wanted}):
        out += [Announce("port-closed", f"port {port}"), ClosePort(port)]
        p = replace(p, ports=replace(p.ports, open=p.ports.open - {port}))
        gone = frozenset({port})
        p = _map(p, lambda m, gone=gone: replace(m, told=m.told - gone, ports=m.ports - gone))  # type: ignore[misc]
    return p


def _take_over(p: Proxy, now: float, out: Out) -> Proxy:
    """Armed members start to accept: fresh ones first; one of the last good revision when nothing else serves."""
    if not p.ports.open:
        return p
    for m in p.members:
        if m.phase_is(Armed) and p.fresh(m) and p.accepting(fresh=True) < p.limits.workers:
            p = _accept(p, m, now, out)
    for m in p.members:
        if m.phase_is(Armed) and not m.suspect and p.accepting() < p.limits.workers:
            p = _accept(p, m, now, out)
    for m in p.members:
        if m.phase_is(Accepting, Serving) and p.ports.open - m.told:
            # A port was added.
            out.append(Accept(m.generation, p.ports.open))
            p = p.put(replace(m, told=p.ports.open))
    return p


def _accept(p: Proxy, m: Member, now: float, out: Out) -> Proxy:
    assert m.pid is not None
    out.append(Accept(m.generation, p.ports.open))
    return p.put(replace(m, phase=Accepting(m.pid, now + p.limits.accept_timeout), told=p.ports.open))


def _let_go(p: Proxy, now: float, out: Out) -> Proxy:
    """Once enough fresh members have said that they accept, the others go: connections drain, the hung are ended."""
    serving = p.serving(fresh=True)
    if serving < p.limits.workers:
        return p
    surplus = serving - p.limits.workers
    for m in p.members:
        match m.phase:
            case Serving() if m.suspect:
                # Another serves beside it; ``_missed`` ends it, or it answers again.
                pass
            case Accepting() | Serving() if not p.fresh(m):
                p = _drain(p, m, m.leaving or Cause.RELOAD, True, now, out)
            case Serving() if surplus > 0:
                surplus -= 1
                p = _drain(p, m, Cause.SURPLUS, True, now, out)
            case Armed() | Booting() if not p.fresh(m):
                p = _stop(p, m, m.leaving or Cause.RELOAD, now, out)
            case Spawning() if not p.fresh(m):
                p = p.drop(m.generation)
            case _:
                pass
    spares = [m for m in p.members if p.fresh(m) and m.phase_is(Spawning, Booting, Armed)]
    for m in spares[p.limits.spares :]:
        p = p.drop(m.generation) if m.phase_is(Spawning) else _stop(p, m, Cause.SURPLUS, now, out)
    return p


def _drain(p: Proxy, m: Member, cause: Cause, flowing: bool, now: float, out: Out) -> Proxy:
    assert m.pid is not None
    limit = p.limits.drain_timeout
    out.append(Drain(m.generation, limit, flowing))
    # The process keeps the limit itself and reports while bytes flow; ours is for one that does neither.
    phase = Draining(m.pid, now + limit + p.limits.stop_timeout, cause, flowing)
    return p.put(replace(m, phase=phase, silence=None))


def _stop(p: Proxy, m: Member, cause: Cause, now: float, out: Out) -> Proxy:
    assert m.pid is not None
    out.append(Terminate(m.generation, m.pid))
    return p.put(replace(m, phase=Stopping(m.pid, now + p.limits.stop_timeout, cause)))


def _bring_up(p: Proxy, now: float, out: Out) -> Proxy:
    """Start what is missing, one at a time, when the restart policy allows it."""
    if not p.revision:
        return p
    for m in p.members:
        # Several saves in a burst: what was coming up is out of date before it is there.
        if m.phase_is(Spawning) and not p.fresh(m):
            p = p.drop(m.generation)
        elif m.phase_is(Booting) and not p.fresh(m):
            p = _stop(p, m, Cause.RELOAD, now, out)
    if any(m.phase_is(Spawning, Booting) for m in p.members):
        return p
    up = [m for m in p.members if p.fresh(m) and not m.suspect and m.phase_is(Accepting, Serving, Armed)]
    if len(up) >= p.limits.workers + p.limits.spares:
        # Nothing is missing, the spares included: whatever failed before is another story.
        sure = not any(m.phase_is(Accepting) for m in up)
        return replace(p, spell=restart.came_up(p.spell)) if sure else p
    if not restart.may_start(p.spell, now):
        return p
    draining = sum(m.phase_is(Draining) for m in p.members)
    ending = sum(m.phase_is(Stopping) or m.suspect for m in p.members)
    serves = p.accepting() >= p.limits.workers
    # Those that are being ended are gone in seconds; for a long drain only a proxy that serves can wait.
    if ending >= p.limits.max_draining or (serves and draining + ending >= p.limits.max_draining):
        return p
    generation = p.next_generation
    member = Member(generation, p.revision, Spawning(now + 2 * p.limits.start_timeout))
    out.append(Spawn(generation, p.revision))
    return replace(p.put(member), next_generation=generation + 1, spell=restart.start(p.spell, now))
