"""Single transitions of the core, each as a small story in the simulated machine of tests/helpers/world.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ocd.core import notes, restart
from ocd.core import state as core
from ocd.core import step as act
from ocd.core.restart import Spell
from ocd.core.state import (
    Accepting,
    Armed,
    Booting,
    Cause,
    Draining,
    Serving,
    Spawning,
    State,
    Stopping,
    Wanted,
)
from tests.helpers.world import LIMITS, SIGKILL, Process, World, ready_world, state


def serving(w: World) -> Process:
    return w.those(Serving)[0]


def kinds(w: World) -> list[str]:
    return [one.kind for one in w.announced]


# ------------------------------------------------------------------------------------------ the restart policy


def test_one_sigkill_a_second_for_a_minute_leaves_nobody_without_a_server() -> None:
    w = ready_world()
    unserved = 0.0
    for _ in range(60):
        w.end(serving(w).generation, SIGKILL)
        assert state(w) is not State.CRASH_LOOP and not w.proxy.spell.looping
        for _ in range(20):
            w.advance(0.05)
            unserved += 0.05 * (state(w) is not State.READY)
    assert w.proxy.restarts == 60
    assert unserved < 60 * 0.2, "a spare takes over; what waits, waits in the backlog"
    assert "crash-loop" not in kinds(w)
    gaps = [later - earlier for earlier, later in zip(w.starts[2:], w.starts[3:], strict=False)]
    assert min(gaps) >= restart.PACE - 0.01, "at most one a second"


def test_a_burst_of_kills_is_held_to_one_start_a_second() -> None:
    w = ready_world(spares=0)
    began = len(w.starts)
    for _ in range(200):
        for p in w.those(Serving, Armed):
            w.end(p.generation, SIGKILL)
        w.advance(0.05)
    assert len(w.starts) - began <= 11
    assert "crash-loop" not in kinds(w)


def test_what_does_not_come_up_is_a_crash_loop_at_once_told_once_and_until_one_serves() -> None:
    w = World(replace(LIMITS, spares=0))
    w.boot_fails = "exit"
    w.configure("r1")
    w.advance(300.0)
    assert state(w) is State.CRASH_LOOP
    assert kinds(w).count("crash-loop") == 1, "told once, however often it is tried"
    assert "callback not found" in w.proxy.spell.reason
    gaps = [later - earlier for earlier, later in zip(w.starts, w.starts[1:], strict=False)]
    assert gaps == sorted(gaps)[: len(gaps)] or max(gaps) <= 60.6 + 1
    assert 1.0 <= gaps[0] <= 2.0 and 1.5 < gaps[1] - 0.6 < 2.5
    assert all(50 < gap <= 61 for gap in gaps[6:])
    w.boot_fails = ""
    w.advance(61.0)
    assert state(w) is State.READY and w.proxy.spell == Spell(started=w.proxy.spell.started)


def test_the_first_start_that_a_signal_ended_is_no_crash_loop_the_second_is() -> None:
    w = World(replace(LIMITS, spares=0))
    w.configure("r1")
    w.advance(0.1)
    w.end(w.those(Booting)[0].generation, SIGKILL)
    assert state(w) is State.STARTING and not w.proxy.spell.looping
    w.advance(1.2)
    w.end(w.those(Booting)[0].generation, SIGKILL)
    assert state(w) is State.CRASH_LOOP


def test_a_kill_of_what_serves_is_answered_at_once_even_while_spares_do_not_come_up() -> None:
    w = ready_world()
    w.boot_fails = "exit"
    w.end(w.those(Armed)[0].generation, 1)
    w.advance(100.0)
    assert w.proxy.spell.looping and state(w) is State.READY
    w.boot_fails = ""
    w.end(serving(w).generation, SIGKILL)
    w.advance(2.0)
    assert state(w) is State.READY


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (50, 60.0)]
)
def test_pauses_double_from_one_second_to_sixty(failures: int, pause: float) -> None:
    spell = Spell()
    for _ in range(failures):
        spell = restart.failed(spell, "no", False, 100.0, 0.5)
    assert spell.not_before == pytest.approx(100.0 + pause)
    low = restart.failed(replace(spell, failed=failures - 1), "no", False, 100.0, 0.0).not_before
    high = restart.failed(replace(spell, failed=failures - 1), "no", False, 100.0, 0.999).not_before
    assert low is not None and high is not None
    assert low == pytest.approx(100 + pause * 0.9) and 100 + pause <= high <= 160.0


def test_what_changes_is_tried_at_once() -> None:
    for change in (
        act.Configure("r2"),
        act.Configure("r1"),
        act.Restart(),
    ):
        w = World(replace(LIMITS, spares=0))
        w.boot_fails = "exit"
        w.configure("r1")
        w.advance(40.0)
        assert state(w) is State.CRASH_LOOP
        before = len(w.starts)
        w.feed(change)
        w.advance(0.1)
        assert len(w.starts) == before + 1, change
        assert state(w) is State.STARTING


def test_a_failed_start_of_an_outdated_revision_counts_for_nothing() -> None:
    w = World(replace(LIMITS, spares=0))
    w.boot_time = 5.0
    w.configure("r1")
    w.advance(0.1)
    first = w.those(Booting)[0]
    w.feed(act.Configure("r2"))
    w.end(first.generation, 1)
    assert not w.proxy.spell.failed and w.proxy.rejected is None
    late = World(replace(LIMITS, spares=0))
    late.boot_fails = "never"
    late.configure("r1")
    while not any(m.phase_is(Stopping) for m in late.proxy.members):
        late.advance(0.004)
    late.feed(act.Configure("r2"))
    late.advance(1.0)
    assert not late.proxy.spell.failed and state(late) is State.STARTING


def test_a_transient_failure_to_spawn_is_tried_again_and_not_counted() -> None:
    w = World(replace(LIMITS, spares=0))
    w.configure("r1")
    generation = w.proxy.members[0].generation
    w.orders.discard(generation)
    w.feed(act.SpawnFailed(generation, "the forkserver went", transient=True))
    assert not w.proxy.spell.failed and [m.generation for m in w.proxy.members] == [generation + 1]
    w.orders.discard(generation + 1)
    w.feed(act.SpawnFailed(generation + 1, "no interpreter"))
    assert state(w) is State.CRASH_LOOP and w.proxy.spell.reason == "no interpreter"


def test_the_death_of_one_that_leaves_is_no_restart_and_holds_back_nobody() -> None:
    w = ready_world(spares=0)
    w.feed(act.Restart())
    leaving = serving(w)
    w.end(leaving.generation, SIGKILL)
    assert w.proxy.restarts == 0 and w.proxy.spell.not_before is None


def test_the_reason_for_a_kill_is_the_kill() -> None:
    w = ready_world()
    w.end(serving(w).generation, SIGKILL)
    assert w.proxy.last_reason == "ended by SIGKILL" and w.proxy.last_cause is Cause.CRASH
    w.settle()
    w.end(serving(w).generation, 1, "boom")
    assert w.proxy.last_reason == "exit status 1: boom"


def test_a_candidate_that_does_not_come_up_changes_nothing_and_says_why() -> None:
    w = ready_world()
    before = {p.generation for p in w.those(Serving, Armed)}
    w.bad.add("r2")
    w.configure("r2")
    w.advance(5.0)
    assert {p.generation for p in w.those(Serving, Armed)} == before
    assert w.proxy.revision == w.proxy.good == "r1"
    assert w.proxy.rejected is not None and "callback not found" in w.proxy.rejected.reason
    assert not w.proxy.spell.looping and "drain" not in w.counts


def test_a_candidate_killed_by_a_signal_is_tried_once_more() -> None:
    w = ready_world()
    w.configure("r2")
    w.advance(0.1)
    w.end(w.those(Booting)[0].generation, SIGKILL)
    assert w.proxy.rejected is None and w.proxy.revision == "r2"
    w.settle()
    assert w.proxy.good == "r2"


def test_one_that_dies_on_its_first_accept_has_not_come_up() -> None:
    w = ready_world()
    w.configure("r2")
    w.advance(0.06)
    w.boot_time = 0.0
    while not w.those(Accepting):
        w.advance(0.005)
    w.end(w.those(Accepting)[0].generation, 1, "no such socket")
    assert w.proxy.rejected is not None and w.proxy.revision == "r1"
    assert state(w) is State.READY


# --------------------------------------------------------------------------------------------------- hangs


def test_a_stall_of_six_seconds_cuts_nobody_and_gets_a_second_server() -> None:
    w = ready_world()
    # It stops just before it is asked.
    w.advance(3.95 - w.now % 4.0 + 4.0)
    stalled = serving(w)
    w.busy_for(stalled, 100.0)
    w.hang(stalled, 6.0)
    ready = 0
    for _ in range(120):
        w.advance(0.1)
        ready += state(w) is State.READY and len(w.those(Serving)) == 2
    assert ready > 0, "another served beside it"
    assert "hang" in kinds(w) and "recovered" in kinds(w) and "hang-ended" not in kinds(w)
    w.advance(200.0)
    assert w.cut == 0 and w.proxy.restarts == 0
    w.settle()
    assert len(w.those(Serving)) == 1


@pytest.mark.parametrize("leaving", [None, Cause.MEMORY])
def test_silence_of_thirty_seconds_ends_it_whatever_it_was_leaving_for(leaving: Cause | None) -> None:
    w = ready_world()
    hung = serving(w)
    w.busy_for(hung, 1000.0)
    w.boot_fails = "exit"
    w.end(w.those(Armed)[0].generation, 1)
    w.advance(0.5)
    if leaving is not None:
        w.feed(act.MemoryOver(hung.generation))
    w.hang(hung, 1000.0)
    w.advance(28.0)
    assert hung.generation in w.processes
    w.advance(14.0)
    assert hung.generation not in w.processes
    assert kinds(w).count("hang") == 1, "told once"


@pytest.mark.parametrize("role", [Serving, Armed])
def test_who_takes_too_much_memory_leaves_once_another_is_there(role: type) -> None:
    w = ready_world()
    heavy = w.those(role)[0].generation
    w.feed(act.MemoryOver(heavy, "900 MiB"))
    member = w.proxy.member(heavy)
    assert "memory-limit" in kinds(w) and (member is None or member.leaving is Cause.MEMORY)
    w.feed(act.MemoryOver(heavy, "901 MiB"))
    assert kinds(w).count("memory-limit") == 1, "told once"
    w.settle()
    assert heavy not in w.processes and state(w) is State.READY and len(w.those(role)) == 1
    assert w.cut == 0


def test_one_without_connections_is_ended_as_soon_as_another_serves() -> None:
    w = ready_world()
    hung = serving(w)
    w.hang(hung, 1000.0)
    w.advance(16.0)
    assert hung.generation not in w.processes and state(w) is State.READY
    alone = ready_world(spares=0)
    alone.boot_fails = "never"
    hung = serving(alone)
    alone.hang(hung, 1000.0)
    alone.advance(20.0)
    assert hung.generation in alone.processes, "new before old"


def test_a_drain_is_no_hang() -> None:
    w = ready_world()
    old = serving(w)
    w.busy_for(old, 50.0)
    w.feed(act.Restart())
    while not w.those(Draining):
        w.advance(0.1)
    for _ in range(3):
        w.feed(act.ProbeMissed(old.generation, busy=False))
    assert old.generation in w.processes and "hang" not in kinds(w)
    w.hang(old, 1000.0)
    w.advance(60.0)
    assert old.generation not in w.processes, "unless it stays silent"


def test_a_machine_that_slept_is_no_hang() -> None:
    w = ready_world(liveness_misses=2)
    g = serving(w).generation
    w.feed(act.ProbeMissed(g))
    w.now += 3600
    w.feed(act.Slept())
    w.feed(act.ProbeMissed(g))
    m = w.proxy.member(g)
    assert m is not None and not m.suspect and g in w.processes


def test_a_spare_that_hangs_is_ended_at_once() -> None:
    w = ready_world()
    spare = w.those(Armed)[0]
    for _ in range(LIMITS.liveness_misses):
        w.feed(act.ProbeMissed(spare.generation, busy=False))
    w.advance(0.1)
    assert spare.generation not in w.processes


def test_one_that_does_not_acknowledge_its_accept_is_given_up() -> None:
    w = ready_world()
    spare = w.those(Armed)[0]
    w.hang(spare, 1000.0)
    w.end(serving(w).generation, SIGKILL)
    assert state(w) is State.STARTING, "told to accept is not serving"
    w.advance(LIMITS.accept_timeout + 3)
    assert spare.generation not in w.processes
    assert state(w) is State.READY


def test_who_hangs_in_its_start_is_aborted_then_killed_and_not_forgotten_before_it_is_gone() -> None:
    w = World(replace(LIMITS, spares=0))
    w.boot_fails = "never"
    w.configure("r1")
    w.advance(LIMITS.start_timeout + 0.5)
    assert state(w) is State.CRASH_LOOP
    gone = core.Member(1, "r", Stopping(9, 50.0, Cause.HANG))
    p = core.Proxy("main", limits=LIMITS, revision="r", members=(gone,), next_generation=2)
    for moment in (50.0, 50.0 + LIMITS.stop_timeout, 50.0 + 2 * LIMITS.stop_timeout):
        # Not even SIGKILL ends a process in an uninterruptible sleep at once.
        p, actions = act.step(p, act.Tick(), moment)
        assert act.Kill(1, 9) in actions and p.member(1) is not None


# --------------------------------------------------------------------------------------------------- drains


def test_a_stream_that_flows_is_not_cut_by_an_exchange_of_ours_a_silent_one_is() -> None:
    for flows in (True, False):
        w = ready_world()
        w.busy_for(serving(w), 10 * LIMITS.drain_timeout, flows=flows)
        w.feed(act.Restart())
        w.advance(11 * LIMITS.drain_timeout)
        assert w.cut == (0 if flows else 1)
        assert "drain-timeout" not in kinds(w)


def test_a_drain_that_nobody_keeps_is_ended_by_us() -> None:
    w = ready_world()
    old = serving(w)
    w.busy_for(old, 10_000.0)
    w.feed(act.Restart())
    old.keeps_no_limit = True
    w.advance(LIMITS.drain_timeout + LIMITS.stop_timeout + 3.0)
    assert old.generation not in w.processes and "drain-timeout" in kinds(w)


def test_a_stop_is_bounded_from_its_order_also_for_what_was_draining_already() -> None:
    w = ready_world()
    w.busy_for(serving(w), 10_000.0)
    w.feed(act.Restart())
    w.advance(30.0)
    assert w.those(Draining)
    w.feed(act.Want(Wanted.STOPPED))
    assert state(w) is State.DRAINING
    w.advance(LIMITS.drain_timeout + 5)
    assert state(w) is State.STOPPED and not w.processes


def test_only_so_many_drain_side_by_side() -> None:
    w = ready_world(max_draining=3)
    for _ in range(10):
        w.busy_for(serving(w), 10_000.0)
        w.feed(act.Restart())
        w.advance(3.0)
    assert len(w.those(Draining)) <= 4
    assert state(w) is State.READY


# --------------------------------------------------------------------------------------------------- ports


def test_a_port_that_changes_while_it_sleeps_is_opened_and_wakes_it() -> None:
    w = ready_world()
    w.feed(act.Want(Wanted.IDLE))
    w.settle()
    w.adjust(port=4100)
    assert state(w) is not State.IDLE, "nobody listens there yet"
    w.advance(0.1)
    assert state(w) is State.IDLE and w.open == {4100}
    w.feed(act.Want(Wanted.UP))
    w.settle()
    assert serving(w).accepts == {4100}


def test_a_port_that_moves_opens_before_the_old_one_closes_and_sessions_keep_it() -> None:
    w = ready_world()
    w.hold(frozenset({4000}))
    w.adjust(port=4100)
    w.advance(5.0)
    assert w.open == {4000, 4100} and serving(w).accepts == {4000, 4100}
    assert state(w) is State.READY
    w.hold(frozenset())
    assert w.open == {4100} and serving(w).accepts == {4100}


def test_no_port_is_closed_before_it_is_known_who_was_told_of_it() -> None:
    w = World(LIMITS)
    w.configure("r1")
    w.settle()
    w.adjust(port=4100)
    w.advance(5.0)
    assert w.open == {4000, 4100}
    w.hold(frozenset())
    assert w.open == {4100}


def test_who_moves_to_a_port_that_is_taken_is_blocked_and_serves_those_who_know_the_old_one() -> None:
    w = ready_world()
    w.hold(frozenset({4000}))
    w.foreign.add(4100)
    w.adjust(port=4100)
    w.advance(1.0)
    assert state(w) is State.BLOCKED
    w.end(serving(w).generation, SIGKILL)
    w.advance(1.0)
    assert serving(w).accepts == {4000}
    w.foreign.clear()
    w.advance(1.0)
    assert state(w) is State.READY and kinds(w).count("blocked") == kinds(w).count("unblocked") == 1


def test_a_blocked_port_is_ours_within_a_second_of_becoming_free() -> None:
    w = World(LIMITS)
    w.foreign.add(4000)
    w.configure("r1")
    w.advance(20.0)
    assert state(w) is State.BLOCKED
    w.foreign.clear()
    w.advance(1.0)
    assert state(w) is State.READY


def test_a_keeper_that_does_not_answer_is_asked_again() -> None:
    p = core.Proxy("main", ports=core.Ports(4000))
    p, actions = act.step(p, act.Tick(), 0.0)
    assert actions == [act.OpenPort(4000)]
    p, actions = act.step(p, act.Tick(), act.PORT_ANSWER / 2)
    assert actions == [] and core.next_deadline(p) == act.PORT_ANSWER
    _, actions = act.step(p, act.Tick(), act.PORT_ANSWER)
    assert actions == [act.OpenPort(4000)]


def test_a_stopped_proxy_gives_the_port_back_only_when_the_last_process_is_gone() -> None:
    w = ready_world()
    w.busy_for(serving(w), 5.0)
    w.feed(act.Want(Wanted.STOPPED))
    w.advance(1.0)
    assert w.open == {4000} and state(w) is State.DRAINING
    w.advance(10.0)
    assert not w.open and state(w) is State.STOPPED
    before = w.proxy
    assert act.step(before, act.Want(Wanted.STOPPED), w.now) == (before, [])


@pytest.mark.parametrize("how", ["stopped", "disabled"])
def test_a_port_that_a_session_was_told_of_is_free_only_when_the_session_has_gone(how: str) -> None:
    """Whoever binds it would get the session's login."""
    w = ready_world()
    w.hold(frozenset({4000}))
    if how == "stopped":
        w.feed(act.Want(Wanted.STOPPED))
    else:
        w.adjust(enabled=False)
    w.settle()
    assert w.open == {4000} and not w.processes and state(w).off
    w.hold(frozenset())
    w.settle()
    assert not w.open


def test_a_port_closed_by_mistake_would_be_no_ready() -> None:
    w = ready_world()
    assert core.state_of(replace(w.proxy, ports=replace(w.proxy.ports, open=frozenset()))) is State.STARTING
    for m in w.proxy.members:
        elsewhere = w.proxy.put(replace(m, ports=frozenset({4711})))
        if m.phase_is(Serving):
            assert core.state_of(elsewhere) is State.STARTING


# ------------------------------------------------------------------------------------------ switches, wishes


def test_what_the_configuration_switched_off_comes_back_by_the_configuration() -> None:
    w = ready_world()
    w.adjust(enabled=False)
    w.settle()
    assert state(w) is State.DISABLED and not w.open and not w.processes
    w.adjust(enabled=True)
    w.settle()
    assert state(w) is State.READY, "nobody had to start it"
    w.adjust(enabled=False)
    w.feed(act.Want(Wanted.UP))
    w.settle()
    assert state(w) is State.DISABLED, "a person does not overrule it"


def test_what_a_person_stopped_stays_stopped_whatever_the_configuration_does_meanwhile() -> None:
    w = ready_world()
    w.adjust(enabled=False)
    w.feed(act.Want(Wanted.STOPPED))
    w.adjust(enabled=True)
    w.settle()
    assert state(w) is State.STOPPED
    w.feed(act.Want(Wanted.UP))
    w.settle()
    assert state(w) is State.READY


def test_no_configuration_is_failed_at_once_and_an_earlier_one_serves_instead() -> None:
    w = World(LIMITS)
    w.feed(act.Refuse("line 3 is wrong"))
    assert state(w) is State.FAILED and state(w).hopeless
    w.feed(act.Refuse("line 3 is wrong", good="r0"))
    w.settle()
    assert state(w) is State.READY and w.proxy.good == "r0" and w.proxy.rejected is not None
    w.configure("r1")
    w.settle()
    assert w.proxy.rejected is None and w.kept == ["r0", "r1"]


def test_every_state_is_one_kind_or_waited_for() -> None:
    for one in State:
        assert one.hopeless + one.well + one.off + (one is State.STARTING) == 1, one


def test_a_burst_of_saves_boots_only_the_last() -> None:
    w = ready_world()
    for number in range(10):
        w.configure(f"s{number}")
        w.advance(0.1)
    w.settle()
    assert w.proxy.good == "s9"
    assert {p.revision for p in w.processes.values()} == {"s9"}


def test_who_was_forked_cold_gives_its_place_to_a_warm_one() -> None:
    w = World(LIMITS)
    w.cold = True
    w.hold(frozenset())
    w.configure("r1")
    w.advance(1.0)
    first = serving(w)
    w.cold = False
    w.feed(act.Warm())
    assert first.accepts, "new before old"
    w.settle()
    assert first.generation not in w.processes and w.proxy.restarts == 0
    assert not any(m.cold for m in w.proxy.members)


def test_a_process_that_turns_up_for_nobody_is_killed() -> None:
    w = ready_world()
    _, actions = act.step(w.proxy, act.Spawned(77, 4711), w.now)
    assert actions == [act.Kill(77, 4711)]


# ----------------------------------------------------------------------------------------------- hand-over


def test_the_notes_hold_everything_but_what_the_settings_say() -> None:
    w = ready_world(workers=2)
    w.busy_for(serving(w), 100.0)
    w.feed(act.Restart())
    w.advance(1.0)
    w.feed(act.Refuse("no"))
    read = notes.load("main", json.loads(json.dumps(notes.dump(w.proxy))))
    p = w.proxy
    same = replace(p, limits=read.limits, ports=replace(p.ports, open=frozenset(), held=None, due=None))
    same = replace(same, members=tuple(replace(m, told=m.ports) for m in same.members))
    assert read == same


def test_a_successor_counts_on_and_adopts_what_it_finds() -> None:
    w = ready_world()
    highest = max(w.processes)
    fresh = core.Proxy("main", limits=LIMITS, revision="r1", ports=core.Ports(4000))
    found = tuple(act.Found(p.generation, p.pid, "r1") for p in w.processes.values())
    p, actions = act.step(fresh, act.Adopt(found, frozenset({4000})), w.now)
    assert p.next_generation == highest + 1
    assert all(m.phase_is(Booting) for m in p.members), "unknown to the notes: asked where it stands"
    assert not [a for a in actions if isinstance(a, act.Spawn)]
    p, _ = act.step(p, act.Reported(1, act.Says.ACCEPTING, frozenset({4000})), w.now)
    assert core.state_of(p) is State.READY
    p, _ = act.step(p, act.Reported(1, act.Says.DRAINING), w.now)
    assert core.state_of(p) is State.STARTING


def test_an_order_that_was_lost_with_a_supervisor_is_given_again() -> None:
    p = core.Proxy(
        "main",
        limits=replace(LIMITS, spares=0),
        revision="r1",
        members=(core.Member(1, "r1", Serving(9, 0.0), ports=frozenset({4000}), told=frozenset({4000})),),
        ports=core.Ports(4000, frozenset({4000})),
    )
    p, actions = act.step(p, act.Reported(1, act.Says.ARMED), 1.0)
    assert act.Accept(1, frozenset({4000})) in actions
    assert isinstance(p.members[0].phase, Accepting)


def test_a_start_that_was_ordered_by_a_predecessor_is_not_waited_for() -> None:
    p = core.Proxy("main", limits=LIMITS, members=(core.Member(3, "r", Spawning(99.0)),), next_generation=4)
    p, _ = act.step(p, act.Adopt((), frozenset()), 1.0)
    assert not p.members and p.next_generation == 4
