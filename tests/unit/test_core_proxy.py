"""The proxy's life, thrown random histories at: the laws in the header of ocd/core/proxy.py."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ocd.core import proxy as core
from ocd.core.proxy import (
    Armed,
    Booting,
    Cause,
    Configure,
    Draining,
    Exited,
    Limits,
    MemoryOver,
    PortBlocked,
    PortOpened,
    ProbeAnswered,
    ProbeMissed,
    Proxy,
    Ready,
    Refuse,
    Restart,
    Serving,
    Slept,
    Spawned,
    SpawnFailed,
    Spawning,
    Tick,
    Want,
    Wanted,
    Warm,
)

LIMITS = Limits(start_timeout=10, drain_timeout=20, stop_timeout=3, crash_loop_retry=40)


@dataclass
class World:
    """A stand-in for the machine: it keeps every process that was ever started until it is really gone."""

    proxy: Proxy
    now: float = 0.0
    pids: dict[int, int] = field(default_factory=dict)  # generation -> pid, living processes
    asked: list[int] = field(default_factory=list)  # spawns under way
    accepting: set[int] = field(default_factory=set)
    doomed: set[int] = field(default_factory=set)
    announced: list[core.Announce] = field(default_factory=list)
    spawned: list[int] = field(default_factory=list)
    cold: bool = False

    def feed(self, event: core.Event, dice: float = 0.5) -> None:
        before = self.proxy
        self.proxy, actions = core.step(self.proxy, event, self.now, dice)
        for action in actions:
            self.act(action)
        self.check(before, event)

    def act(self, action: core.Action) -> None:
        match action:
            case core.Spawn(generation, _):
                assert generation not in self.spawned, "a generation is never used twice"
                self.spawned.append(generation)
                self.asked.append(generation)
            case core.Accept(generation):
                assert generation in self.pids
                self.accepting.add(generation)
            case core.Drain(generation, _):
                self.accepting.discard(generation)
            case core.Terminate(generation, pid) | core.Abort(generation, pid) | core.Kill(generation, pid):
                assert self.pids.get(generation) == pid or generation in self.asked
                self.doomed.add(generation)
            case core.Announce():
                self.announced.append(action)
            case _:
                pass

    def check(self, before: Proxy, event: core.Event) -> None:
        p = self.proxy
        generations = [m.generation for m in p.members]
        assert len(set(generations)) == len(generations)
        coming = [m for m in p.members if m.phase_is(Spawning, Booting)]
        assert len(coming) <= 1
        limits = p.limits
        wait = [m for m in p.members if m.phase_is(Spawning, Booting, Draining, core.Stopping)]
        if wait:
            assert core.next_deadline(p) is not None
        # None is forgotten: a living process is a member, is doomed, or its spawn is still unreported.
        for generation in self.pids:
            assert p.member(generation) is not None or generation in self.doomed or generation in self.asked
        if (
            isinstance(event, Configure | Restart | Warm | Tick | MemoryOver)
            and p.wanted is Wanted.UP
            and any(m.phase_is(Serving) for m in before.members)
        ):
            gone = [m for m in before.members if m.phase_is(Serving) and m.leave_by is None]
            if gone:
                assert any(m.phase_is(Serving) for m in p.members), (
                    "a reload never drops the last that serves"
                )
        assert limits.workers >= 1

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())

    # What the machine does by itself.

    def report_spawn(self) -> None:
        if self.asked:
            generation = self.asked.pop(0)
            self.pids[generation] = 1000 + generation
            self.feed(Spawned(generation, 1000 + generation, cold=self.cold))

    def reap(self, generation: int, status: int = -9, reason: str = "") -> None:
        if generation in self.pids:
            del self.pids[generation]
            self.accepting.discard(generation)
            self.doomed.discard(generation)
            self.feed(Exited(generation, status, reason))

    def settle(self, rounds: int = 400) -> None:
        """The machine behaves from here on: spawns succeed, processes boot, the doomed and the drained end."""
        self.feed(PortOpened())
        for _ in range(rounds):
            self.report_spawn()
            for m in list(self.proxy.members):
                if m.generation not in self.pids:
                    continue
                if m.phase_is(Booting):
                    self.feed(Ready(m.generation))
                elif m.phase_is(Draining):
                    self.reap(m.generation, 0)
            for generation in list(self.doomed):
                self.reap(generation, -15)
            going = any(m.phase_is(Draining, core.Stopping) for m in self.proxy.members)
            if core.settled(self.proxy) and not self.asked and not self.doomed and not going:
                spares = [m for m in self.proxy.members if m.phase_is(Armed)]
                if self.proxy.wanted is not Wanted.UP or len(spares) == self.proxy.limits.spares:
                    return
            busy = self.asked or self.doomed or any(m.phase_is(Booting, Draining) for m in self.proxy.members)
            deadline = core.next_deadline(self.proxy)
            self.advance(0.01 if busy else max(0.01, (deadline - self.now) if deadline is not None else 1.0))
        raise AssertionError(f"did not converge: {self.proxy}")


def world(**limits: object) -> World:
    w = World(Proxy("main", limits=replace(LIMITS, **limits), revision=""))  # type: ignore[arg-type]
    w.feed(Configure("r1", w.proxy.limits))
    w.feed(PortOpened())
    return w


def ready_world(**limits: object) -> World:
    w = world(**limits)
    w.settle()
    return w


EVENTS = st.sampled_from(
    [
        "spawn",
        "spawn",
        "ready",
        "ready",
        "crash",
        "crash-armed",
        "boot-fail",
        "reload",
        "refuse",
        "restart",
        "warm",
        "cold",
        "stop",
        "start",
        "idle",
        "miss",
        "answer",
        "memory",
        "blocked",
        "open",
        "sleep",
        "tick",
        "long",
        "reap",
        "drained",
        "late",
        "spawn-fail",
        "spawn-transient",
        "limits",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(EVENTS, st.integers(0, 7), st.floats(0, 0.999)), max_size=60),
    st.integers(1, 3),
    st.integers(0, 2),
)
# Who was forked cold is still draining when the warm one serves: the machine has to end it before the last look.
@example([("cold", 0, 0.0), ("spawn", 0, 0.0), ("warm", 0, 0.0)], 1, 0)
def test_any_history_keeps_the_laws_and_converges(
    history: list[tuple[str, int, float]], workers: int, spares: int
) -> None:
    w = world(workers=workers, spares=spares)
    for number, (kind, pick, dice) in enumerate(history):
        members = list(w.proxy.members)
        m = members[pick % len(members)] if members else None
        match kind:
            case "spawn":
                w.report_spawn()
            case "ready" if m and m.phase_is(Booting):
                w.feed(Ready(m.generation), dice)
            case "crash" if m and m.phase_is(Serving, Draining):
                w.reap(m.generation, -9)
            case "crash-armed" if m and m.phase_is(Armed):
                w.reap(m.generation, -11)
            case "boot-fail" if m and m.phase_is(Booting):
                w.reap(m.generation, 3 if pick % 2 else 1, "broken")
            case "spawn-fail" | "spawn-transient" if w.asked:
                w.feed(SpawnFailed(w.asked.pop(0), "no", kind == "spawn-transient"), dice)
            case "reload":
                w.feed(Configure(f"r{number}", w.proxy.limits), dice)
            case "limits":
                w.feed(
                    Configure(
                        w.proxy.revision, replace(w.proxy.limits, workers=1 + pick % 3, spares=pick % 2)
                    )
                )
            case "refuse":
                w.feed(Refuse(f"x{number}", "does not parse"))
            case "restart":
                w.feed(Restart())
            case "warm":
                w.cold = False
                w.feed(Warm())
            case "cold":
                w.cold = True
            case "stop":
                w.feed(Want(Wanted.STOPPED))
            case "idle":
                w.feed(Want(Wanted.IDLE))
            case "start":
                w.feed(Want(Wanted.UP))
            case "miss" if m:
                w.feed(ProbeMissed(m.generation), dice)
            case "answer" if m:
                w.feed(ProbeAnswered(m.generation))
            case "memory" if m:
                w.feed(MemoryOver(m.generation))
            case "blocked":
                w.feed(PortBlocked(core.Holder(pid=1)))
            case "open":
                w.feed(PortOpened())
            case "sleep":
                w.now += 100
                w.feed(Slept(100))
            case "tick":
                w.advance(dice)
            case "long":
                w.advance(pick * 10.0)
            case "reap" if w.doomed:
                w.reap(next(iter(w.doomed)), -15)
            case "drained" if m and m.phase_is(Draining):
                w.reap(m.generation, 0)
            case "late" if pick not in w.pids:
                w.feed(Exited(pick, 0))
                w.feed(Ready(900 + pick))
            case _:
                pass
    w.settle()
    p = w.proxy
    serving = [m for m in p.members if m.phase_is(Serving)]
    if p.wanted is Wanted.UP:
        assert len(serving) == p.limits.workers
        assert all(m.revision == p.revision for m in serving)
        assert core.public_state(p, w.now) == "ready"
        assert not p.warm or not any(m.cold for m in p.members)
    else:
        assert not w.pids
    assert set(w.pids) == {m.generation for m in p.members}


def test_a_spare_takes_over_at_once_and_another_is_armed() -> None:
    w = ready_world()
    serving = next(m for m in w.proxy.members if m.phase_is(Serving))
    spare = next(m for m in w.proxy.members if m.phase_is(Armed))
    w.reap(serving.generation, -9)
    assert w.accepting == {spare.generation}
    assert core.public_state(w.proxy, w.now) == "ready"
    assert w.asked, "another spare is on its way"
    assert w.proxy.restarts == 1
    assert w.proxy.last_cause is Cause.CRASH


def test_a_candidate_that_does_not_boot_changes_nothing_and_says_why() -> None:
    w = ready_world()
    before = {m.generation for m in w.proxy.members if m.phase_is(Serving)}
    w.feed(Configure("r2", w.proxy.limits))
    w.report_spawn()
    candidate = next(m for m in w.proxy.members if m.phase_is(Booting))
    w.reap(candidate.generation, 1, "callback not found")
    assert {m.generation for m in w.proxy.members if m.phase_is(Serving)} == before
    assert w.proxy.revision == "r1"
    assert w.proxy.rejected is not None and "callback not found" in w.proxy.rejected.reason
    assert w.proxy.restarts == 0
    w.settle()


def test_who_was_forked_cold_gives_its_place_to_a_warm_one_as_soon_as_there_is_one() -> None:
    w = world()
    w.cold = True
    w.report_spawn()
    first = w.proxy.members[0].generation
    w.feed(Warm())
    assert w.proxy.member(first) and not w.doomed, "somebody waits for it"
    w.feed(Ready(first))
    assert w.accepting == {first}
    w.cold = False
    w.report_spawn()
    second = w.proxy.members[-1].generation
    assert w.accepting == {first}, "new before old"
    w.feed(Ready(second))
    assert w.accepting == {second} and w.proxy.restarts == 0
    w.settle()
    assert len(w.spawned) == 3 and not any(m.cold for m in w.proxy.members)


def test_the_old_spare_still_helps_while_a_reload_is_under_way() -> None:
    w = ready_world()
    w.feed(Configure("r2", w.proxy.limits))
    serving = next(m for m in w.proxy.members if m.phase_is(Serving))
    spare = next(m for m in w.proxy.members if m.phase_is(Armed))
    w.reap(serving.generation, -9)
    assert spare.generation in w.accepting


@pytest.mark.parametrize("lifetime", [0.0, 1.1])
def test_processes_that_die_soon_end_in_a_crash_loop_with_a_bounded_number_of_starts(lifetime: float) -> None:
    w = world(spares=0)
    end = w.now + 60
    while w.now < end:
        w.report_spawn()
        for m in list(w.proxy.members):
            if m.phase_is(Booting) and lifetime:
                w.feed(Ready(m.generation))
        w.advance(lifetime or 0.01)
        for generation in list(w.pids):
            w.reap(generation, 1, "boom")
        retry = w.proxy.failure.retry_at
        if retry:
            w.now = max(w.now, min(retry, end))
            w.feed(Tick())
    assert core.public_state(w.proxy, w.now) in ("crash-loop", "starting")
    assert any(a.kind == "crash-loop" for a in w.announced)
    assert len(w.spawned) <= LIMITS.restart_intensity + 4
    assert "boom" in w.proxy.failure.reason


def test_a_refused_configuration_is_not_tried_in_a_loop_but_at_once_when_it_changes() -> None:
    w = world(spares=0)
    w.report_spawn()
    w.reap(next(iter(w.pids)), core.REFUSED_STATUS, "weak master key")
    assert core.public_state(w.proxy, w.now) == "crash-loop"
    assert not w.asked
    w.feed(Configure("r2", w.proxy.limits))
    assert w.asked


def test_a_hung_process_is_replaced_first_then_aborted_then_killed() -> None:
    w = ready_world(spares=0)
    hung = next(m for m in w.proxy.members if m.phase_is(Serving))
    for _ in range(LIMITS.liveness_misses):
        w.feed(ProbeMissed(hung.generation))
    assert hung.generation not in w.doomed, "new before old"
    w.report_spawn()
    fresh = next(m for m in w.proxy.members if m.phase_is(Booting))
    w.feed(Ready(fresh.generation))
    assert fresh.generation in w.accepting
    assert hung.generation in w.doomed
    proxy, actions = core.step(w.proxy, Tick(), w.now + LIMITS.abort_timeout)
    assert core.Kill(hung.generation, hung.pid or 0) in actions
    assert proxy.member(hung.generation) is not None, "not forgotten before it is gone"


def test_sleep_is_no_hang() -> None:
    w = ready_world()
    serving = next(m for m in w.proxy.members if m.phase_is(Serving))
    w.feed(ProbeMissed(serving.generation))
    w.now += 3600
    w.feed(Slept(3600))
    w.feed(ProbeMissed(serving.generation))
    m = w.proxy.member(serving.generation)
    assert m is not None and m.leaving is None


def test_failures_are_forgotten_only_after_a_sustained_ready_time() -> None:
    w = ready_world()
    for _ in range(3):
        w.reap(next(m.generation for m in w.proxy.members if m.phase_is(Serving)))
        w.settle()
    assert len(w.proxy.failure.times) == 3
    w.advance(LIMITS.sustained_ready / 2)
    assert w.proxy.failure.times
    w.advance(LIMITS.sustained_ready)
    assert not w.proxy.failure.times


def test_a_stopped_proxy_gives_the_port_back_and_a_second_stop_changes_nothing() -> None:
    w = ready_world()
    w.feed(Want(Wanted.STOPPED))
    w.settle()
    before = w.proxy
    proxy, actions = core.step(before, Want(Wanted.STOPPED), w.now)
    assert (proxy, actions) == (before, [])
    assert core.public_state(proxy, w.now) == "stopped"


def test_back_off_grows_is_bounded_and_jitters() -> None:
    w = world(spares=0, restart_intensity=1000)
    pauses = []
    for _ in range(12):
        w.report_spawn()
        w.reap(next(iter(w.pids)), 1)
        retry = w.proxy.failure.retry_at
        assert retry is not None or not pauses
        pauses.append((retry or w.now) - w.now)
        w.now = max(w.now, retry or w.now)
        w.feed(Tick())
    assert pauses[0] == 0.0
    assert pauses[1:5] == [0.5, 1.0, 2.0, 4.0]
    assert max(pauses) <= LIMITS.backoff_max
