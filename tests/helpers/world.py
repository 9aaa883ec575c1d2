"""A simulated machine for the core: processes, ports, a supervisor that asks and forgets, one virtual clock.

Every order of the core is carried out as the real machine would, late or never where the machine may be so; what
happens is told to the core as events. After every event the laws of ``ocd/core/step.py`` are checked against the
*world*, not against the core's own idea of it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ocd.core import notes, restart
from ocd.core import state as core
from ocd.core import step as act
from ocd.core.state import Armed, Booting, Draining, Serving, Spawning, State, Stopping, Wanted

LIMITS = core.Limits(
    start_timeout=10, accept_timeout=5, drain_timeout=60, stop_timeout=3, abort_timeout=2, hang_timeout=30
)
PROBE = 4.0
PROBE_TIMEOUT = 2.0
SIGKILL = -9


@dataclass
class Process:
    """One process of the proxy, as it really is."""

    generation: int
    revision: str
    pid: int
    cold: bool = False
    armed: bool = False
    told: frozenset[int] = frozenset()
    accepts: frozenset[int] = frozenset()
    draining: bool = False
    #: seconds; silent since and until then
    hung_since: float = 0.0
    hangs_until: float = 0.0
    #: what it was told while it was silent, to be done when it is back
    inbox: list[Callable[[], None]] = field(default_factory=list)
    #: a stream runs until then
    busy_until: float = 0.0
    #: the stream sends something all the time; else nothing any more
    flows: bool = True
    last_byte: float = 0.0
    #: a new supervisor has not heard of it yet: it believes the notes
    unheard: bool = False
    ignores_term: bool = False
    #: it does not keep the limit of a drain itself
    keeps_no_limit: bool = False
    signalled: bool = False
    drain_limit: float = 0.0
    drain_flowing: bool = False
    drain_began: float = 0.0


class World:
    """``feed`` gives the core an event; ``advance`` lets time pass, with all that it brings."""

    def __init__(self, limits: core.Limits = LIMITS, port: int = 4000, seed: int = 0) -> None:
        self.now = 100.0
        self.rand = random.Random(seed)
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.processes: dict[int, Process] = {}
        self.orders: set[int] = set()
        self.used: set[int] = set()
        self.open: set[int] = set()
        self.foreign: set[int] = set()
        self.sessions: frozenset[int] = frozenset()
        self.bad: set[str] = set()
        self.boot_time = 0.5
        self.boot_fails: str = ""
        self.cold = False
        self.no_process = False
        self.busy_starts = False
        self.announced: list[act.Announce] = []
        self.counts: Counter[str] = Counter()
        self.starts: list[float] = []
        self.story: deque[str] = deque(maxlen=400)
        self.broken = False
        self.kept: list[str] = []
        self.cut = 0
        self.same_moment = (0.0, 0)
        self.tick_at: float | None = None
        self.away = False
        self.adopting = False
        self.waiting: list[act.Event] = []
        self.proxy = core.Proxy("main", since=self.now)
        self.noted = json.dumps(notes.dump(self.proxy))
        self.limits, self.port, self.enabled = limits, port, True
        self.round = 0
        self.feed(act.Adjust(limits, port))
        self.at(PROBE, self._probe_all)

    # --------------------------------------------------------------------------------------------- the core

    def feed(self, event: act.Event) -> None:
        if self.away:
            self.waiting.append(event)
            return
        before = self.proxy
        self.proxy, actions = act.step(before, event, self.now, self.rand.random())
        self.counts[type(event).__name__] += 1
        self.story.append(f"{self.now:9.2f} {event} -> {actions}")
        try:
            self._laws_of_actions(before, event, actions)
            for action in actions:
                self._carry_out(action)
            self._laws()
        except AssertionError as error:
            error.add_note("\n".join(self.story))
            self.broken = True
            raise

    def _carry_out(self, action: act.Action) -> None:
        match action:
            case act.Spawn(generation, revision):
                assert generation not in self.used, "law 1: a generation is never used twice"
                # Written down before the order is given, or a successor would use the number again.
                self.note()
                self.used.add(generation)
                self.orders.add(generation)
                self.starts.append(self.now)
                self.at(0.05, lambda: self._spawned(generation, revision))
            case act.Accept(generation, ports):
                self._tell(generation, lambda p: self._accept(p, ports))
            case act.Drain(generation, limit, flowing):
                self.counts["drain"] += 1
                began = self.now
                self._tell(generation, lambda p: self._drain(p, limit, flowing, began))
            case act.Terminate(generation):
                self._terminate(generation)
            case act.Abort(generation):
                self._signal(generation, -6)
            case act.Kill(generation):
                self._signal(generation, SIGKILL)
            case act.OpenPort(port):
                self.at(0.01, lambda: self._open(port))
            case act.ClosePort(port):
                self.open.discard(port)
                for p in self.processes.values():
                    p.told -= {port}
                    p.accepts -= {port}
            case act.Keep(revision):
                self.kept.append(revision)
            case act.Announce(kind):
                self.announced.append(action)
                self.counts[kind] += 1

    # ---------------------------------------------------------------------------------------------- laws

    def _laws_of_actions(self, before: core.Proxy, event: act.Event, actions: list[act.Action]) -> None:
        wanted = self.proxy.wanted
        for action in actions:
            match action:
                case act.Drain(generation) if wanted is Wanted.UP:
                    m = self.proxy.member(generation)
                    assert m is not None
                    others = [
                        p
                        for p in self.processes.values()
                        if p.accepts and not p.draining and p.generation != generation and not p.signalled
                    ]
                    assert len(others) >= self.proxy.limits.workers, "law 2: new before old"
                case act.Abort(generation) | act.Terminate(generation) | act.Kill(generation):
                    p = self.processes.get(generation)
                    if p is None or not self._busy(p) or p.signalled:
                        continue
                    hangs = p.hangs_until >= self.now
                    silent = hangs and self.now - p.hung_since >= self.proxy.limits.hang_timeout
                    drained = p.drain_limit and (p.keeps_no_limit or self._drain_over(p, 0.0))
                    member = before.member(generation)
                    assert silent or drained or member is None, (
                        f"law 7: {generation} was cut off at {self.now} by {event}: {p}"
                    )
                case act.ClosePort(port):
                    ports = self.proxy.ports
                    if wanted is not Wanted.STOPPED:
                        assert port != ports.wanted and ports.wanted in self.open, (
                            "law 8: never the wanted one"
                        )
                    assert port not in self.sessions, "law 8: a session was told of it"
        if isinstance(event, act.Exited) and wanted is Wanted.UP:
            m = before.member(event.generation)
            if m is not None and m.phase_is(Spawning, Booting) and before.good not in ("", m.revision):
                # What was pending before the candidate (a surplus, somebody leaving) may go on now.
                assert self.proxy.serving() >= min(before.serving(), self.proxy.limits.workers), (
                    "law 5: a failed candidate leaves as many as before"
                )

    def _laws(self) -> None:
        p = self.proxy
        generations = [m.generation for m in p.members]
        assert generations == sorted(set(generations)), "law 1"
        assert sum(m.phase_is(Spawning, Booting) for m in p.members) <= 1, "law 3: one comes up at a time"
        limits = p.limits
        bound = 3 * limits.workers + limits.spares + 2 * limits.max_draining + 4
        assert len(p.members) <= bound, f"law 3: {len(p.members)} members"
        for m in p.members:
            if m.phase_is(Spawning, Booting, core.Accepting, Draining, Stopping):
                deadline = core.next_deadline(p)
                assert deadline is not None and deadline <= m.phase.deadline, "law 4"  # type: ignore[union-attr]
        # Law 1: none is forgotten.
        for process in self.processes.values():
            assert p.member(process.generation) is not None or process.signalled, f"forgotten: {process}"
        state = core.state_of(p)
        if self.adopting:
            return
        if state is State.READY:
            true = [q for q in self.processes.values() if p.ports.wanted in q.accepts or q.unheard]
            assert p.ports.wanted in self.open and true, "law 8: ready, and nobody listens"
        if state is State.IDLE:
            assert p.ports.wanted in self.open, "law 8: idle, and nobody could wake it"
        deadline = core.next_deadline(p)
        if deadline != self.tick_at:
            self.tick_at = deadline
            if deadline is not None:
                moment, count = self.same_moment
                self.same_moment = (deadline, count + 1 if moment == deadline else 1)
                assert self.same_moment[1] < 50, f"law 4: nothing comes of the deadline {deadline}"
                self.at(max(0.0, deadline - self.now), lambda: self._tick(deadline))

    def _tick(self, deadline: float) -> None:
        if self.tick_at == deadline:
            self.tick_at = None
            self.feed(act.Tick())

    # ------------------------------------------------------------------------------------------ the machine

    def at(self, pause: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + pause, next(self.order), call))

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(100_000):
            if not self.queue or self.queue[0][0] > end:
                break
            moment, _number, call = heapq.heappop(self.queue)
            self.now = max(self.now, moment)
            call()
        else:
            raise AssertionError("the machine never rests")
        self.now = end

    def _spawned(self, generation: int, revision: str) -> None:
        if generation not in self.orders:
            return
        self.orders.discard(generation)
        if self.no_process:
            self.feed(act.SpawnFailed(generation, "the interpreter is gone", self.rand.random() < 0.5))
            return
        p = Process(generation, revision, 1000 + generation, cold=self.cold)
        self.processes[generation] = p
        member = self.proxy.member(generation)
        if self.away or member is None:
            # Nobody asked (any more): the supervisor has the keeper kill what it does not know.
            p.signalled = True
        self.feed(act.Spawned(generation, p.pid, self.cold))
        fails = self.boot_fails or ("exit" if revision in self.bad else "")
        if fails == "exit":
            self.at(self.boot_time, lambda: self.end(generation, 1, "callback not found"))
        elif fails == "signal":
            self.at(self.boot_time, lambda: self.end(generation, SIGKILL))
        elif fails != "never":
            self.at(self.boot_time, lambda: self._armed(generation))

    def _armed(self, generation: int) -> None:
        p = self.processes.get(generation)
        if p is not None and not p.signalled:
            p.armed = True
            self.feed(act.Reported(generation, act.Says.ARMED))

    def _tell(self, generation: int, call: Callable[[Process], None]) -> None:
        """An order over its control socket: done at once, or when it listens again."""
        p = self.processes.get(generation)
        if p is None:
            return

        def do() -> None:
            if self.processes.get(generation) is p:
                call(p)

        if p.hangs_until > self.now:
            p.inbox.append(do)
        else:
            self.at(0.02, do)

    def _accept(self, p: Process, ports: frozenset[int]) -> None:
        if p.draining:
            return
        p.accepts |= ports & self.open
        if self.busy_starts:
            self.busy_for(p, 40.0)
        self.feed(act.Reported(p.generation, act.Says.ACCEPTING, p.accepts))

    def _drain(self, p: Process, limit: float, flowing: bool, began: float) -> None:
        p.drain_limit, p.drain_flowing, p.drain_began = limit, flowing, began
        first = not p.draining
        p.draining, p.accepts = True, frozenset()
        if first:
            self._drain_on(p.generation)

    def _drain_over(self, p: Process, slack: float) -> bool:
        began = self._last_byte(p) if p.drain_flowing else p.drain_began
        return self.now - began + slack >= p.drain_limit

    def _last_byte(self, p: Process) -> float:
        return min(self.now, p.busy_until) if p.flows else max(p.last_byte, p.drain_began)

    def _drain_on(self, generation: int) -> None:
        p = self.processes.get(generation)
        if p is None:
            return
        if p.hangs_until > self.now:
            p.inbox.append(lambda: self._drain_on(generation))
        elif p.keeps_no_limit and self._busy(p):
            self.at(5.0, lambda: self._drain_on(generation))
        elif not self._busy(p) or self._drain_over(p, 0.0):
            self.cut += self._busy(p)
            self.at(0.2, lambda: self.end(generation, 0))
        else:
            quiet = self.now - self._last_byte(p)
            self.feed(act.Reported(generation, act.Says.DRAINING, quiet=max(0.0, quiet)))
            self.at(5.0, lambda: self._drain_on(generation))

    def _busy(self, p: Process) -> bool:
        return p.busy_until > self.now

    def busy_for(self, p: Process, seconds: float, flows: bool = True) -> None:
        if p.accepts and not p.draining and p.hangs_until <= self.now:
            p.busy_until, p.flows, p.last_byte = self.now + seconds, flows, self.now

    def _terminate(self, generation: int) -> None:
        p = self.processes.get(generation)
        if p is None or p.ignores_term or p.hangs_until > self.now:
            if p is not None:
                p.signalled = True
            return
        self._signal(generation, 0 if p.armed else -15)

    def _signal(self, generation: int, status: int) -> None:
        p = self.processes.get(generation)
        if p is not None:
            p.signalled = True
            self.at(0.01, lambda: self.end(generation, status))

    def end(self, generation: int, status: int, reason: str = "") -> None:
        if self.processes.pop(generation, None) is not None:
            self.feed(act.Exited(generation, status, reason))

    def _open(self, port: int) -> None:
        if port in self.foreign:
            self.feed(act.PortBlocked(port, core.Holder(pid=7, command="another program")))
        elif not self.away:
            self.open.add(port)
            self.feed(act.PortOpened(port))

    # ----------------------------------------------------------------------------------------------- probes

    def _probe_all(self) -> None:
        self.round += 1
        self.at(PROBE, self._probe_all)
        if self.away:
            return
        for m in self.proxy.members:
            if m.phase_is(Serving, core.Accepting) or (m.phase_is(Armed, Draining) and self.round % 3 == 0):
                self._probe(m.generation, 1)

    def _probe(self, generation: int, attempt: int) -> None:
        p = self.processes.get(generation)
        if p is None or self.away:
            return
        if p.hangs_until <= self.now:
            self.feed(act.ProbeAnswered(generation))
            return
        self.at(PROBE_TIMEOUT, lambda: self._unanswered(generation, attempt))

    def _unanswered(self, generation: int, attempt: int) -> None:
        p = self.processes.get(generation)
        if p is None or self.away:
            return
        if p.hangs_until <= self.now:
            self._probe(generation, attempt)
            return
        self.feed(act.ProbeMissed(generation, self._busy(p)))
        if attempt < self.proxy.limits.liveness_misses:
            self._probe(generation, attempt + 1)

    # -------------------------------------------------------------------------------------- what befalls it

    def those(self, *kinds: type[core.Phase]) -> list[Process]:
        return [
            self.processes[m.generation]
            for m in self.proxy.members
            if m.phase_is(*kinds) and m.generation in self.processes
        ]

    def hang(self, p: Process, seconds: float) -> None:
        if p.hangs_until + 4 * PROBE < self.now:
            # One that came back for a moment between two probes was silent all the time for whoever asks.
            p.hung_since = self.now
        p.hangs_until = self.now + seconds

        def back() -> None:
            inbox, p.inbox = p.inbox, []
            for call in inbox:
                call()

        self.at(seconds + 0.001, back)

    def configure(self, revision: str) -> None:
        self.feed(act.Configure(revision))

    def adjust(self, **changes: Any) -> None:
        self.port = changes.pop("port", self.port)
        self.enabled = changes.pop("enabled", self.enabled)
        self.limits = replace(self.limits, **changes)
        self.feed(act.Adjust(self.limits, self.port, self.enabled))

    def hold(self, ports: frozenset[int]) -> None:
        """Sessions begin and end; the supervisor tells the core."""
        self.sessions = ports
        self.feed(act.PortsHeld(ports))

    def leave(self, stale: bool = False) -> None:
        """The supervisor dies; ``stale``: its last notes had not reached the keeper."""
        self.counts["adopt"] += 1
        if not stale:
            self.noted = json.dumps(notes.dump(self.proxy))
        self.away = True

    def note(self) -> None:
        self.noted = json.dumps(notes.dump(self.proxy))

    def come_back(self) -> None:
        """Another supervisor takes over from the notes and from what is there."""
        noted = json.loads(self.noted)
        self.proxy = notes.load("main", noted)
        self.away, self.tick_at = False, None
        waiting, self.waiting = self.waiting, []
        self.proxy = replace(self.proxy, limits=self.limits)
        for p in self.processes.values():
            p.unheard = True
        unknown = [p for p in self.processes.values() if p.signalled and not self.proxy.member(p.generation)]
        for p in unknown:
            self.at(0.01, lambda p=p: self.end(p.generation, SIGKILL))  # type: ignore[misc]
        living = [p for p in self.processes.values() if p not in unknown]
        found = tuple(act.Found(p.generation, p.pid, p.revision) for p in living)
        self.adopting = True
        self.feed(act.Adopt(found, frozenset(self.open)))
        self.feed(act.Adjust(self.limits, self.port, self.enabled))
        for m in self.proxy.members:
            if m.generation not in self.processes:
                status = next(
                    (e.status for e in waiting if isinstance(e, act.Exited) and e.generation == m.generation),
                    SIGKILL,
                )
                self.feed(act.Exited(m.generation, status))
        self.adopting = False
        for p in list(self.processes.values()):
            # Each is asked where it stands; one that hangs answers later.
            if p.hangs_until > self.now:
                p.inbox.append(lambda p=p: self._status(p))  # type: ignore[misc]
            else:
                self._status(p)
        self.feed(act.PortsHeld(self.sessions))

    def _status(self, p: Process) -> None:
        if p.generation not in self.processes or self.away:
            return
        if p.draining:
            self.feed(act.Reported(p.generation, act.Says.DRAINING))
        elif p.accepts:
            self.feed(act.Reported(p.generation, act.Says.ACCEPTING, p.accepts))
        elif p.armed:
            self.feed(act.Reported(p.generation, act.Says.ARMED))
        p.unheard = False

    # --------------------------------------------------------------------------------------------- the end

    def calm(self) -> None:
        """From here on nothing more goes wrong."""
        if self.away:
            self.come_back()
        self.boot_fails, self.no_process, self.cold, self.busy_starts = "", False, False, False
        self.foreign.clear()
        self.bad.clear()
        for p in self.processes.values():
            p.hangs_until = min(p.hangs_until, self.now)
            p.ignores_term = False
            inbox, p.inbox = p.inbox, []
            for call in inbox:
                call()

    def settle(self, limit: float = 2000.0) -> None:
        """Time passes until the wish is fulfilled; raises AssertionError when it never is."""
        end = self.now + limit
        while self.now < end:
            p = self.proxy
            up = p.wanted is Wanted.UP
            roles = Counter(m.role for m in p.members)
            quiet = not self.orders and roles["draining"] + roles["stopping"] + roles["booting"] == 0
            quiet &= not any(m.silence for m in p.members)
            if core.settled(p) and quiet and (not up or roles["spare"] == p.limits.spares):
                return
            self.advance(0.5)
        raise AssertionError(f"did not settle: {core.state_of(self.proxy)} {self.proxy}")


def ready_world(**limits: Any) -> World:
    """A world whose proxy serves, with its spares armed."""
    w = World(replace(LIMITS, **limits))
    w.hold(frozenset())
    w.configure("r1")
    w.settle()
    assert core.state_of(w.proxy) is State.READY
    return w


def state(w: World) -> State:
    return core.state_of(w.proxy)


__all__ = ["LIMITS", "PROBE", "SIGKILL", "Process", "World", "ready_world", "restart", "state"]
