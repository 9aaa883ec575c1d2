"""One proxy's life: every state and every transition, in one file. No clock, no I/O.

``step(proxy, event, now, dice) -> (proxy, actions)``; ``now`` is monotonic seconds, ``dice`` a number in [0, 1) for
jitter. The laws, each held by a property test (``tests/unit/test_core_proxy.py``):

1. A member (one process) is known by its generation, which is never used twice. News of a generation that is not a
   member changes nothing, except that a process which turns up for it is killed: none is forgotten.
2. New before old: a serving member that is to go is drained only when enough others serve, or when the operator
   wants none.
3. At most one member is coming up at a time; live members are bounded by ``2 * workers + spares + max_draining + 1``.
4. Every phase that waits for something has a deadline (``next_deadline``), so nothing is stuck.
5. A failed candidate of a new revision changes nothing but ``rejected``: the last good revision serves on.
6. Failures are forgotten only after a sustained ready time, or when the configuration or the operator's wish
   changes.
7. Wanted is not observed: ``wanted`` is what the operator said, ``members`` what is there, ``public_state`` derived.

A member's phases::

    Spawning ──Spawned──▶ Booting ──Armed──▶ Armed ──accept──▶ Serving ──drain──▶ Draining ──Exited──▶ gone
        └──────────────────────┴── deadline, stop, hang ──▶ Stopping ──Exited──▶ gone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Wanted(StrEnum):
    """What the operator, or the idle timer, wants."""

    UP = "up"
    STOPPED = "stopped"
    IDLE = "idle"


class Cause(StrEnum):
    """Why a process goes or went. Different causes are never mixed up in status and events."""

    CRASH = "crash"
    BOOT_FAILURE = "boot-failure"
    HANG = "hang"
    MEMORY = "memory"
    OPERATOR = "operator"
    RELOAD = "reload"
    IDLE = "idle"
    SURPLUS = "surplus"
    COLD_START = "cold-start"


# ------------------------------------------------------------------------------------------------- phases


@dataclass(frozen=True, slots=True)
class Spawning:
    deadline: float


@dataclass(frozen=True, slots=True)
class Booting:
    pid: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Armed:
    pid: int


@dataclass(frozen=True, slots=True)
class Serving:
    pid: int
    since: float


@dataclass(frozen=True, slots=True)
class Draining:
    pid: int
    deadline: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class Stopping:
    pid: int
    deadline: float
    cause: Cause


Phase = Spawning | Booting | Armed | Serving | Draining | Stopping

_ROLES: dict[type, str] = {
    Spawning: "booting",
    Booting: "booting",
    Armed: "spare",
    Serving: "serving",
    Draining: "draining",
    Stopping: "stopping",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a proxy. ``leaving`` says why it is to be replaced; ``leave_by`` bounds the wait for that.

    ``cold``: it was forked before the forkserver had everything that requests need, because somebody waited for it.
    """

    generation: int
    revision: str
    phase: Phase
    misses: int = 0
    leaving: Cause | None = None
    leave_by: float | None = None
    cold: bool = False

    @property
    def pid(self) -> int | None:
        return None if isinstance(self.phase, Spawning) else self.phase.pid

    @property
    def role(self) -> str:
        return _ROLES[type(self.phase)]

    def phase_is(self, *kinds: type[Phase]) -> bool:
        return isinstance(self.phase, kinds)


@dataclass(frozen=True, slots=True)
class Holder:
    """A foreign process on our port; what could not be known is empty."""

    pid: int | None = None
    user: str = ""
    command: str = ""
    since: float | None = None
    address: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Policy, all times in seconds."""

    workers: int = 1
    spares: int = 1
    start_timeout: float = 60.0
    drain_timeout: float = 600.0
    stop_timeout: float = 10.0
    abort_timeout: float = 2.0
    liveness_misses: int = 2
    backoff_first: float = 0.5
    backoff_max: float = 30.0
    backoff_jitter: float = 0.1
    restart_intensity: int = 5
    restart_period: float = 60.0
    sustained_ready: float = 30.0
    crash_loop_retry: float = 60.0
    max_draining: int = 8


@dataclass(frozen=True, slots=True)
class Failure:
    """A spell of failing: when each failure was, when to try again, whether it counts as a loop."""

    times: tuple[float, ...] = ()
    retry_at: float | None = None
    looping: bool = False
    reason: str = ""
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A newer configuration that does not serve, and why."""

    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Proxy:
    """Everything that is known about one proxy. ``revision`` is what should serve, ``good`` what has been ready.

    ``warm``: the forkserver that forks its members has everything that requests need.
    """

    name: str
    limits: Limits = field(default_factory=Limits)
    wanted: Wanted = Wanted.UP
    revision: str = ""
    good: str = ""
    rejected: Rejection | None = None
    members: tuple[Member, ...] = ()
    next_generation: int = 1
    port_open: bool = False
    warm: bool = False
    holder: Holder | None = None
    failure: Failure = field(default_factory=Failure)
    restarts: int = 0
    last_cause: Cause | None = None
    last_reason: str = ""
    since: float = 0.0

    def member(self, generation: int) -> Member | None:
        return next((m for m in self.members if m.generation == generation), None)

    def put(self, member: Member) -> Proxy:
        """This proxy with the member added or replaced; members stay in the order of their generations."""
        others = [m for m in self.members if m.generation != member.generation]
        return replace(self, members=tuple(sorted([*others, member], key=lambda m: m.generation)))

    def drop(self, generation: int) -> Proxy:
        return replace(self, members=tuple(m for m in self.members if m.generation != generation))


# ------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Configure:
    """A configuration that passed the checks: serve it."""

    revision: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Refuse:
    """A configuration that did not pass the checks."""

    revision: str
    reason: str


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
    pass


@dataclass(frozen=True, slots=True)
class PortBlocked:
    holder: Holder


@dataclass(frozen=True, slots=True)
class PortClosed:
    pass


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


@dataclass(frozen=True, slots=True)
class Ready:
    """The private socket answers and the warm-up is done: the member is armed."""

    generation: int


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
    generation: int


@dataclass(frozen=True, slots=True)
class MemoryOver:
    generation: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Slept:
    """The machine slept: deadlines that passed meanwhile are moved, misses are forgotten."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Adopt:
    """The processes that a former supervisor started, as they were found, and whether the port is ours already."""

    members: tuple[Member, ...]
    port_open: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Configure
    | Refuse
    | Want
    | Restart
    | Warm
    | PortOpened
    | PortBlocked
    | PortClosed
    | Spawned
    | SpawnFailed
    | Ready
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
    generation: int


@dataclass(frozen=True, slots=True)
class Drain:
    generation: int
    limit: float


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
    pass


@dataclass(frozen=True, slots=True)
class ClosePort:
    pass


@dataclass(frozen=True, slots=True)
class Announce:
    """News for people: an event's kind and one sentence."""

    kind: str
    text: str = ""
    generation: int | None = None


Action = Spawn | Accept | Drain | Terminate | Abort | Kill | OpenPort | ClosePort | Announce

#: LiteLLM's exit status for a configuration, key or port that it refuses (FACTS): trying again at once is useless.
REFUSED_STATUS = 3


# --------------------------------------------------------------------------------------------------- step


def step(proxy: Proxy, event: Event, now: float, dice: float = 0.5) -> tuple[Proxy, list[Action]]:
    """One transition: what the event changes, then what follows from the new state."""
    before = public_state(proxy, now)
    actions: list[Action] = []
    after = _apply(proxy, event, now, dice, actions)
    after = _expire(after, now, dice, actions)
    after = _converge(after, now, actions)
    state = public_state(after, now)
    # What a new supervisor finds is no news, and is as old as it was.
    if state != before and not isinstance(event, Adopt):
        after = replace(after, since=now)
        actions += _news(before, state, after)
    return after, actions


def _news(before: str, state: str, proxy: Proxy) -> list[Action]:
    news: list[Action] = []
    if before == "blocked":
        news.append(Announce("unblocked"))
    if before == "idle":
        news.append(Announce("woken"))
    if state == "blocked":
        news.append(Announce("blocked", describe_holder(proxy.holder)))
    elif state != "starting":
        news.append(Announce(state, proxy.failure.reason if state in ("backoff", "crash-loop") else ""))
    return news


def _apply(p: Proxy, event: Event, now: float, dice: float, out: list[Action]) -> Proxy:
    match event:
        case Configure(revision, limits):
            changed = revision != p.revision
            p = replace(p, revision=revision, limits=limits, rejected=None)
            # A new configuration deserves a fresh and immediate try.
            return replace(p, failure=Failure()) if changed or p.failure.looping else p
        case Refuse(revision, reason):
            return replace(p, rejected=Rejection(revision, reason))
        case Want(wanted):
            if wanted == p.wanted:
                return p
            return replace(p, wanted=wanted, failure=Failure())
        case Restart():
            p = replace(p, failure=Failure(), wanted=Wanted.UP)
            return _map(
                p,
                lambda m: (
                    _leave(m, Cause.OPERATOR, None) if m.phase_is(Serving, Armed, Booting, Spawning) else m
                ),
            )
        case Warm():
            return replace(p, warm=True)
        case PortOpened():
            return replace(p, port_open=True, holder=None)
        case PortBlocked(holder):
            return replace(p, port_open=False, holder=holder)
        case PortClosed():
            return replace(p, port_open=False)
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
            return p if transient else _failed(p, m, Cause.BOOT_FAILURE, reason, now, dice, out)
        case Ready(generation):
            m = p.member(generation)
            if m is None or not isinstance(m.phase, Booting):
                return p
            return p.put(replace(m, phase=Armed(m.phase.pid)))
        case Exited(generation, status, reason):
            return _exited(p, generation, status, reason, now, dice, out)
        case ProbeAnswered(generation):
            m = p.member(generation)
            if m is None:
                return p
            if m.leaving is Cause.HANG and isinstance(m.phase, Serving):
                # It came back before its replacement was there: no reason to end it any more.
                return p.put(replace(m, misses=0, leaving=None, leave_by=None))
            return p.put(replace(m, misses=0)) if m.misses else p
        case ProbeMissed(generation):
            return _missed(p, generation, now, dice, out)
        case MemoryOver(generation, reason):
            m = p.member(generation)
            if m is None or not m.phase_is(Serving, Armed) or m.leaving:
                return p
            out.append(Announce("memory-limit", reason, generation))
            return p.put(_leave(m, Cause.MEMORY, None))
        case Slept(seconds):
            return _map(p, lambda m: _shift(m, seconds))
        case Adopt(members, port_open):
            for member in members:
                p = replace(p.put(member), next_generation=max(p.next_generation, member.generation + 1))
            return replace(p, port_open=port_open)
        case Tick():
            return p


def _exited(
    p: Proxy, generation: int, status: int, reason: str, now: float, dice: float, out: list[Action]
) -> Proxy:
    m = p.member(generation)
    if m is None:
        return p
    p = p.drop(generation)
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    match m.phase:
        case Draining(cause=cause):
            out.append(Announce("drained", f"generation {generation} is gone ({cause})", generation))
            return replace(p, last_cause=cause, last_reason="")
        case Stopping(cause=cause):
            out.append(Announce("exited", f"generation {generation} is gone ({cause}, {how})", generation))
            if cause in (Cause.BOOT_FAILURE, Cause.HANG, Cause.CRASH):
                text = (
                    reason
                    if cause is Cause.BOOT_FAILURE
                    else f"it did not answer on its private socket ({how})"
                )
                return _failed(p, m, cause, text or how, now, dice, out)
            return p
        case Serving(since=since):
            out.append(Announce("crashed", f"generation {generation} ended with {how}", generation))
            if now - since >= p.limits.sustained_ready and not p.failure.looping:
                # It had been ready for long enough: whatever failed before that is another story.
                p = replace(p, failure=Failure())
            return _failed(p, m, Cause.CRASH, _join(how, reason), now, dice, out)
        case Armed():
            out.append(
                Announce("exited", f"the spare, generation {generation}, ended with {how}", generation)
            )
            return _failed(p, m, Cause.CRASH, _join(how, reason), now, dice, out)
        case _:
            refused = status == REFUSED_STATUS
            return _failed(p, m, Cause.BOOT_FAILURE, _join(how, reason), now, dice, out, final=refused)


def _join(how: str, reason: str) -> str:
    return f"{how}: {reason}" if reason else how


def _failed(
    p: Proxy,
    m: Member,
    cause: Cause,
    reason: str,
    now: float,
    dice: float,
    out: list[Action],
    final: bool = False,
) -> Proxy:
    """Count a failure and decide when to try again. A failed candidate of a new revision only rejects it."""
    limits = p.limits
    if cause is Cause.BOOT_FAILURE:
        out.append(Announce("boot-failed", reason, m.generation))
        if m.revision != p.good and p.good and p.revision == m.revision:
            out.append(Announce("reload-rejected", reason, m.generation))
            return replace(p, rejected=Rejection(m.revision, reason), revision=p.good)
        if m.revision != p.revision:
            return p
    if m.leaving in (Cause.OPERATOR, Cause.MEMORY, Cause.RELOAD, Cause.COLD_START):
        # It was on its way out; that it did not wait for the end is no reason to hold back its successor.
        return replace(p, last_cause=cause, last_reason=reason)
    p = replace(p, restarts=p.restarts + 1, last_cause=cause, last_reason=reason)
    times = (
        *(t for t in p.failure.times if now - t < max(limits.restart_period, limits.sustained_ready)),
        now,
    )
    recent = sum(1 for t in times if now - t < limits.restart_period)
    if final or recent > limits.restart_intensity:
        return replace(p, failure=Failure(times, now + limits.crash_loop_retry, True, reason, cause))
    pause = 0.0
    if len(times) > 1:
        pause = min(limits.backoff_max, limits.backoff_first * 2.0 ** min(len(times) - 2, 30))
        pause *= 1.0 + limits.backoff_jitter * (2.0 * dice - 1.0)
    return replace(p, failure=Failure(times, now + pause, False, reason, cause))


def _missed(p: Proxy, generation: int, now: float, dice: float, out: list[Action]) -> Proxy:
    m = p.member(generation)
    if m is None or not m.phase_is(Serving, Armed, Draining):
        return p
    m = replace(m, misses=m.misses + 1)
    p = p.put(m)
    if m.misses < p.limits.liveness_misses:
        return p
    text = f"generation {generation} missed {m.misses} liveness probes"
    if isinstance(m.phase, Serving):
        if m.leaving is Cause.HANG:
            return p
        out.append(Announce("hang", text, generation))
        # New before old, but not for ever: what does not answer may as well not be there.
        return p.put(_leave(m, Cause.HANG, now + p.limits.start_timeout))
    out.append(Announce("hang", text, generation))
    assert m.pid is not None
    out.append(Abort(generation, m.pid))
    return p.put(replace(m, phase=Stopping(m.pid, now + p.limits.abort_timeout, Cause.HANG)))


def _leave(m: Member, cause: Cause, by: float | None) -> Member:
    return m if m.leaving else replace(m, leaving=cause, leave_by=by)


def _shift(m: Member, seconds: float) -> Member:
    phase = m.phase
    if isinstance(phase, Spawning | Booting | Draining | Stopping):
        phase = replace(phase, deadline=phase.deadline + seconds)
    by = None if m.leave_by is None else m.leave_by + seconds
    return replace(m, phase=phase, misses=0, leave_by=by)


def _map(p: Proxy, change: Callable[[Member], Member]) -> Proxy:
    return replace(p, members=tuple(change(m) for m in p.members))


# ------------------------------------------------------------------------------------------------- expire


def _expire(p: Proxy, now: float, dice: float, out: list[Action]) -> Proxy:
    """What the clock alone decides: deadlines, and forgetting failures after a sustained ready time."""
    for m in p.members:
        match m.phase:
            case Spawning(deadline) if now >= deadline:
                # Should its process turn up after all, it is killed as unknown.
                p = p.drop(m.generation)
                p = _failed(p, m, Cause.BOOT_FAILURE, "no process came of it in time", now, dice, out)
            case Booting(pid, deadline) if now >= deadline:
                out.append(Abort(m.generation, pid))
                p = p.put(replace(m, phase=Stopping(pid, now + p.limits.abort_timeout, Cause.BOOT_FAILURE)))
            case Draining(pid, deadline, cause) if now >= deadline:
                out.append(
                    Announce("drain-timeout", f"generation {m.generation} still had streams", m.generation)
                )
                out.append(Terminate(m.generation, pid))
                p = p.put(replace(m, phase=Stopping(pid, now + p.limits.stop_timeout, cause)))
            case Stopping(pid, deadline) if now >= deadline:
                out.append(Kill(m.generation, pid))
                # A process that SIGKILL does not end at once (uninterruptible sleep) is killed again, not forgotten.
                p = p.put(replace(m, phase=replace(m.phase, deadline=now + p.limits.stop_timeout)))
            case Serving(pid, _) if m.leave_by is not None and now >= m.leave_by:
                out.append(Abort(m.generation, pid))
                p = p.put(
                    replace(m, phase=Stopping(pid, now + p.limits.abort_timeout, m.leaving or Cause.HANG))
                )
            case _:
                pass
    serving = [m.phase.since for m in p.members if isinstance(m.phase, Serving)]
    calm = bool(serving) and now - min(serving) >= p.limits.sustained_ready
    if p.failure.retry_at is not None and now >= p.failure.retry_at:
        p = replace(p, failure=replace(p.failure, retry_at=None))
    last = p.failure.times[-1] if p.failure.times else None
    if calm and last is not None and now - last >= p.limits.sustained_ready and p.failure.retry_at is None:
        p = replace(p, failure=Failure())
    return p


# ----------------------------------------------------------------------------------------------- converge


def _converge(p: Proxy, now: float, out: list[Action]) -> Proxy:
    """From what is there to what is wanted, one safe move at a time until none is left."""
    if p.wanted is not Wanted.UP:
        return _wind_down(p, now, out)
    if not p.port_open and p.holder is None:
        out.append(OpenPort())
    if p.warm:
        p = _map(
            p, lambda m: _leave(m, Cause.COLD_START, None) if m.cold and m.phase_is(Serving, Armed) else m
        )
    p = _take_over(p, now, out)
    p = _let_go(p, now, out)
    return _bring_up(p, now, out)


def _wind_down(p: Proxy, now: float, out: list[Action]) -> Proxy:
    cause = Cause.IDLE if p.wanted is Wanted.IDLE else Cause.OPERATOR
    for m in p.members:
        match m.phase:
            case Spawning():
                p = p.drop(m.generation)
            case Booting(pid) | Armed(pid):
                p = _stop(p, m, pid, cause, now, out)
            case Serving():
                p = _drain(p, m, cause, now, out)
            case _:
                pass
    if p.wanted is Wanted.STOPPED:
        if p.port_open and not p.members:
            out.append(ClosePort())
            p = replace(p, port_open=False)
        return replace(p, holder=None)
    if not p.port_open and p.holder is None:
        out.append(OpenPort())
    return p


def _fresh(p: Proxy, m: Member) -> bool:
    return m.revision == p.revision and m.leaving is None


def _take_over(p: Proxy, now: float, out: list[Action]) -> Proxy:
    """Armed members start to accept: fresh ones first; one of the last good revision when nothing else serves."""
    if not p.port_open:
        return p
    for m in p.members:
        if isinstance(m.phase, Armed) and _fresh(p, m) and _serving(p, fresh=True) < p.limits.workers:
            p = _accept(p, m, now, out)
    for m in p.members:
        if isinstance(m.phase, Armed) and m.leaving is not Cause.HANG and _serving(p) < p.limits.workers:
            p = _accept(p, m, now, out)
    return p


def _accept(p: Proxy, m: Member, now: float, out: list[Action]) -> Proxy:
    assert isinstance(m.phase, Armed)
    out.append(Accept(m.generation))
    good = m.revision if _fresh(p, m) else p.good
    return replace(p.put(replace(m, phase=Serving(m.phase.pid, now))), good=good)


def _serving(p: Proxy, fresh: bool = False) -> int:
    return sum(
        1
        for m in p.members
        if isinstance(m.phase, Serving) and m.leaving is not Cause.HANG and (_fresh(p, m) or not fresh)
    )


def _let_go(p: Proxy, now: float, out: list[Action]) -> Proxy:
    """Once enough fresh members serve, the others go: served connections drain, the hung are aborted."""
    if _serving(p, fresh=True) < p.limits.workers:
        return p
    surplus = _serving(p, fresh=True) - p.limits.workers
    for m in p.members:
        match m.phase:
            case Serving(pid) if m.leaving is Cause.HANG:
                out.append(Abort(m.generation, pid))
                p = p.put(replace(m, phase=Stopping(pid, now + p.limits.abort_timeout, Cause.HANG)))
            case Serving() if not _fresh(p, m):
                p = _drain(p, m, m.leaving or Cause.RELOAD, now, out)
            case Serving() if surplus > 0:
                surplus -= 1
                p = _drain(p, m, Cause.SURPLUS, now, out)
            case Armed(pid) | Booting(pid) if not _fresh(p, m):
                p = _stop(p, m, pid, m.leaving or Cause.RELOAD, now, out)
            case Spawning() if not _fresh(p, m):
                p = p.drop(m.generation)
            case _:
                pass
    spares = [m for m in p.members if _fresh(p, m) and m.phase_is(Spawning, Booting, Armed)]
    for m in spares[p.limits.spares :]:
        if isinstance(m.phase, Spawning):
            p = p.drop(m.generation)
        else:
            assert m.pid is not None
            p = _stop(p, m, m.pid, Cause.SURPLUS, now, out)
    return p


def _drain(p: Proxy, m: Member, cause: Cause, now: float, out: list[Action]) -> Proxy:
    assert m.pid is not None
    limit = p.limits.drain_timeout
    out.append(Drain(m.generation, limit))
    # The process keeps the limit itself; ours is for one that does not.
    return p.put(replace(m, phase=Draining(m.pid, now + limit + p.limits.stop_timeout, cause), misses=0))


def _stop(p: Proxy, m: Member, pid: int, cause: Cause, now: float, out: list[Action]) -> Proxy:
    out.append(Terminate(m.generation, pid))
    return p.put(replace(m, phase=Stopping(pid, now + p.limits.stop_timeout, cause)))


def _bring_up(p: Proxy, now: float, out: list[Action]) -> Proxy:
    """Start what is missing, one at a time, when the back-off allows it."""
    if not p.revision:
        return p
    if any(m.phase_is(Spawning, Booting) for m in p.members):
        stale = [m for m in p.members if m.phase_is(Spawning, Booting) and not _fresh(p, m)]
        if not stale:
            return p
        # Several saves in a burst: what was coming up is out of date before it is there.
        for m in stale:
            if isinstance(m.phase, Spawning):
                p = p.drop(m.generation)
            elif isinstance(m.phase, Booting):
                p = _stop(p, m, m.phase.pid, Cause.RELOAD, now, out)
        if any(m.phase_is(Spawning, Booting) for m in p.members):
            return p
    fresh = sum(1 for m in p.members if _fresh(p, m) and m.phase_is(Serving, Armed))
    if fresh >= p.limits.workers + p.limits.spares:
        return p
    if p.failure.retry_at is not None and now < p.failure.retry_at:
        return p
    going = sum(1 for m in p.members if m.phase_is(Draining, Stopping))
    if going >= p.limits.max_draining and _serving(p) >= p.limits.workers:
        return p
    generation = p.next_generation
    member = Member(generation, p.revision, Spawning(now + 2 * p.limits.start_timeout))
    out.append(Spawn(generation, p.revision))
    return replace(p.put(member), next_generation=generation + 1)


# ------------------------------------------------------------------------------------------------ derived


def next_deadline(p: Proxy) -> float | None:
    """When something happens by the clock alone (monotonic seconds), or None. Derived, so none can be forgotten."""
    times = [
        m.phase.deadline for m in p.members if isinstance(m.phase, Spawning | Booting | Draining | Stopping)
    ]
    times += [m.leave_by for m in p.members if m.leave_by is not None and isinstance(m.phase, Serving)]
    if p.failure.retry_at is not None and p.wanted is Wanted.UP:
        times.append(p.failure.retry_at)
    return min(times) if times else None


def public_state(p: Proxy, now: float) -> str:
    """The state that people see: stopped, draining, idle, blocked, ready, failed, crash-loop, backoff, starting.

    ``failed``: there is no configuration that could be served.
    """
    if p.wanted is Wanted.STOPPED:
        return "draining" if p.members else "stopped"
    if p.wanted is Wanted.IDLE:
        return "idle"
    if not p.port_open and p.holder is not None:
        return "blocked"
    if p.port_open and _serving(p):
        return "ready"
    if not p.revision:
        return "failed" if p.rejected else "starting"
    if p.failure.looping:
        return "crash-loop"
    if (
        p.failure.retry_at is not None
        and now < p.failure.retry_at
        and not any(m.phase_is(Spawning, Booting, Armed) for m in p.members)
    ):
        return "backoff"
    return "starting"


def settled(p: Proxy) -> bool:
    """Whether nothing more is to come without news from outside: the wish is fulfilled."""
    if p.wanted is not Wanted.UP:
        return not any(m.phase_is(Spawning, Booting, Armed, Serving) for m in p.members)
    leaving = any(m.leaving or m.revision != p.revision for m in p.members if m.phase_is(Serving))
    return _serving(p, fresh=True) >= p.limits.workers and not leaving


def describe_holder(holder: Holder | None) -> str:
    """One sentence about who has the port."""
    if holder is None:
        return ""
    who = f"pid {holder.pid}" if holder.pid else "a process whose pid cannot be seen"
    if holder.user:
        who += f" of {holder.user}"
    text = f"{who} listens on {holder.address}" if holder.address else who
    return f"{text}: {holder.command}" if holder.command else text
