"""The core under a simulated machine, for many steps: the laws in the header of ocd/core/step.py.

Each law is checked after every event by ``tests/helpers/world.py``; here is what befalls the world, and at the end of
each history the wish must be fulfilled once nothing goes wrong any more. A run in which something never happened
proves nothing of it: the counters at the end say what did.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ocd.core import state as core
from ocd.core import step as act
from ocd.core.state import Armed, Booting, Draining, Serving, State, Wanted
from tests.helpers.world import LIMITS, SIGKILL, Process, World

SECONDS = st.sampled_from([0.01, 0.1, 0.6, 1.0, 3.0, 7.0, 13.0, 31.0, 65.0])
PICK = st.integers(0, 11)


class Machine(RuleBasedStateMachine):
    """What can befall one proxy."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(
        workers=st.integers(1, 3),
        spares=st.integers(0, 2),
        seed=st.integers(0, 1000),
        draining=st.sampled_from([3, 8]),
    )
    def begin(self, workers: int, spares: int, seed: int, draining: int) -> None:
        limits = replace(LIMITS, workers=workers, spares=spares, max_draining=draining)
        self.w = World(limits, seed=seed)
        self.number = 0
        self.w.hold(frozenset())
        self.w.configure("r0")
        self.w.advance(3.0)

    def pick(self, pick: int, *kinds: type[core.Phase]) -> Process | None:
        found = self.w.those(*kinds)
        return found[pick % len(found)] if found else None

    # Time, and what is asked for.

    @rule(seconds=SECONDS)
    def time(self, seconds: float) -> None:
        self.w.advance(seconds)

    @rule(seconds=SECONDS)
    def more_time(self, seconds: float) -> None:
        self.w.advance(seconds)

    @rule(bad=st.booleans(), seconds=SECONDS)
    def reload(self, bad: bool, seconds: float) -> None:
        self.number += 1
        revision = f"r{self.number}"
        if bad:
            self.w.bad.add(revision)
        self.w.configure(revision)
        self.w.advance(seconds)

    @rule()
    def the_same_again(self) -> None:
        self.w.configure(self.w.proxy.revision)

    @rule()
    def refuse(self) -> None:
        self.w.feed(act.Refuse("does not parse", self.w.proxy.good))

    @rule(workers=st.integers(1, 3), spares=st.integers(0, 2))
    def limits(self, workers: int, spares: int) -> None:
        self.w.adjust(workers=workers, spares=spares)

    @rule(wanted=st.sampled_from([Wanted.UP, Wanted.UP, Wanted.STOPPED, Wanted.IDLE]), seconds=SECONDS)
    def want(self, wanted: Wanted, seconds: float) -> None:
        if wanted is not Wanted.IDLE or self.w.proxy.wanted is Wanted.UP:
            self.w.feed(act.Want(wanted))
        self.w.advance(seconds)

    @rule(enabled=st.booleans(), seconds=SECONDS)
    def enable(self, enabled: bool, seconds: float) -> None:
        self.w.adjust(enabled=enabled)
        self.w.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.w.feed(act.Restart())

    @rule(cold=st.booleans())
    def warmth(self, cold: bool) -> None:
        self.w.cold = cold
        if not cold:
            self.w.feed(act.Warm())

    # Ports and sessions.

    @rule(port=st.sampled_from([4000, 4100, 4200]), seconds=SECONDS)
    def move(self, port: int, seconds: float) -> None:
        self.seen["port changes"] += port != self.w.port
        self.w.adjust(port=port)
        self.w.advance(seconds)

    @rule(ports=st.frozensets(st.sampled_from([4000, 4100, 4200])))
    def sessions(self, ports: frozenset[int]) -> None:
        self.w.hold(ports)

    @rule(port=st.sampled_from([4000, 4100, 4200]), there=st.booleans())
    def thief(self, port: int, there: bool) -> None:
        if there and port not in self.w.open:
            self.w.foreign.add(port)
        else:
            self.w.foreign.discard(port)

    # What goes wrong with processes.

    @rule(pick=PICK, status=st.sampled_from([SIGKILL, SIGKILL, 1, -11]))
    def serving_dies(self, pick: int, status: int) -> None:
        p = self.pick(pick, Serving, core.Accepting, Draining)
        if p is not None:
            self.w.end(p.generation, status, "boom")

    @rule(pick=PICK)
    def spare_dies(self, pick: int) -> None:
        p = self.pick(pick, Armed, Booting)
        if p is not None:
            self.w.end(p.generation, SIGKILL)

    @rule(count=st.integers(2, 8))
    def one_kill_a_second(self, count: int) -> None:
        for _ in range(count):
            p = self.pick(0, Serving)
            if p is not None:
                self.w.end(p.generation, SIGKILL)
            self.w.advance(1.0)

    @rule(pick=PICK, seconds=st.sampled_from([3.0, 6.0, 15.0, 1000.0]), busy=st.booleans(), after=SECONDS)
    def hang(self, pick: int, seconds: float, busy: bool, after: float) -> None:
        p = self.pick(pick, Serving, core.Accepting, Armed, Draining)
        if p is not None:
            if busy:
                self.w.busy_for(p, 200.0)
            self.w.hang(p, seconds)
        self.w.advance(after)

    @rule(pick=PICK)
    def hang_while_leaving(self, pick: int) -> None:
        p = self.pick(pick, Serving)
        if p is not None:
            self.w.busy_for(p, 200.0)
            self.w.feed(act.MemoryOver(p.generation))
            self.w.hang(p, 1000.0)
        self.w.advance(40.0)

    @rule(pick=PICK, seconds=st.sampled_from([5.0, 100.0, 400.0]), flows=st.booleans())
    def stream(self, pick: int, seconds: float, flows: bool) -> None:
        p = self.pick(pick, Serving)
        if p is not None:
            self.w.busy_for(p, seconds, flows)

    @rule(pick=PICK)
    def drains_without_an_end(self, pick: int) -> None:
        p = self.pick(pick, Serving)
        if p is not None:
            self.w.busy_for(p, 1000.0)
            p.keeps_no_limit = True
            self.w.feed(act.Restart())
            self.w.advance(70.0)

    @rule(how=st.sampled_from(["", "", "exit", "signal", "never"]), seconds=SECONDS)
    def boots(self, how: str, seconds: float) -> None:
        self.w.boot_fails = how
        self.w.advance(seconds)

    @rule(gone=st.booleans())
    def interpreter(self, gone: bool) -> None:
        self.w.no_process = gone

    @rule(seconds=st.sampled_from([0.01, 0.5, 0.5, 4.0]))
    def boot_time(self, seconds: float) -> None:
        self.w.boot_time = seconds

    @rule(pick=PICK)
    def ignores_term(self, pick: int) -> None:
        p = self.pick(pick, Serving, Armed, Booting, Draining)
        if p is not None:
            p.ignores_term = True

    @rule(pick=PICK)
    def memory(self, pick: int) -> None:
        p = self.pick(pick, Serving, Armed)
        if p is not None:
            self.w.feed(act.MemoryOver(p.generation, "too much"))

    @rule()
    def sleep(self) -> None:
        self.w.feed(act.Slept())

    @rule(generation=st.integers(0, 5))
    def late_news(self, generation: int) -> None:
        """Of processes that are long gone, or never were."""
        gone = generation if self.w.proxy.member(generation) is None else 9000 + generation
        for event in (
            act.Exited(gone, 0),
            act.Reported(gone, act.Says.ARMED),
            act.Reported(gone, act.Says.ACCEPTING, frozenset({4000})),
            act.ProbeMissed(gone),
            act.SpawnFailed(gone, "no"),
            act.MemoryOver(gone),
        ):
            nothing = act.step(self.w.proxy, act.Tick(), self.w.now)
            assert act.step(self.w.proxy, event, self.w.now) == nothing, "law 1"

    # The supervisor itself.

    @rule()
    def note(self) -> None:
        self.w.note()

    @rule(stale=st.booleans(), seconds=st.sampled_from([0.0, 0.3, 2.0, 20.0]))
    def supervisor_dies(self, stale: bool, seconds: float) -> None:
        self.w.leave(stale=False)
        self.w.advance(seconds)
        self.w.come_back()

    @precondition(lambda self: hasattr(self, "w"))
    @rule(pick=PICK)
    def supervisor_dies_in_mid_order(self, pick: int) -> None:
        """What it had just told a process is not in its notes."""
        self.w.note()
        p = self.pick(pick, Serving)
        if p is not None:
            self.w.end(p.generation, SIGKILL)
        self.w.leave(stale=True)
        self.w.advance(0.3)
        self.w.come_back()

    def teardown(self) -> None:
        if not hasattr(self, "w") or self.w.broken:
            return
        w = self.w
        w.calm()
        w.settle()
        p = w.proxy
        if p.wanted is Wanted.UP:
            serving = w.those(Serving)
            assert core.state_of(p) is State.READY
            assert len(serving) == p.limits.workers
            assert {q.revision for q in serving} == {p.revision} and p.good == p.revision
            assert not p.spell.looping
            assert all(p.ports.wanted in q.accepts for q in serving)
            assert not p.warm or not any(m.cold for m in p.members)
            assert w.open == {p.ports.wanted} | (w.open & w.sessions)
        else:
            assert not w.processes
            assert p.wanted is Wanted.IDLE or w.open <= w.sessions
        assert set(w.processes) == {m.generation for m in p.members}
        self.seen.update(w.counts)
        self.seen["histories"] += 1
        self.seen["events"] += sum(w.counts[kind.__name__] for kind in act.Event.__args__)


#: what must have happened in a run, or the run proves nothing of it
WANTED = (
    "drain",
    "drained",
    "crashed",
    "hang",
    "hang-ended",
    "recovered",
    "crash-loop",
    "memory-limit",
    "reload-rejected",
    "port changes",
    "port-closed",
    "blocked",
    "unblocked",
    "drain-timeout",
    "boot-failed",
    "adopt",
    "stopped",
    "disabled",
    "idle",
    "woken",
)


def test_any_history_keeps_the_laws_and_everything_happened() -> None:
    """``OCD_TEST_THOROUGH=1`` tries other and more histories each time; else it is the same run everywhere."""
    thorough = bool(os.environ.get("OCD_TEST_THOROUGH"))
    # A mutant need not be made small, only be found, and not by what it keeps from happening.
    mutant = bool(os.environ.get("OCD_TEST_MUTANT"))
    Machine.seen.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=400 if thorough else 40 if mutant else 80,
            stateful_step_count=120,
            deadline=None,
            derandomize=not thorough,
            database=None,
            phases=(Phase.generate,) if mutant else tuple(Phase),
            suppress_health_check=list(HealthCheck),
        ),
    )
    missing = [kind for kind in WANTED if not Machine.seen[kind]]
    assert mutant or not missing, f"never happened: {missing} in {dict(Machine.seen)}"
    assert Machine.seen["events"] / Machine.seen["histories"] > 100
