"""A machine that slept is no proxy that hangs: what was not answered over a sleep counts for nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ocd.adapters import probe
from ocd.core import state as core
from ocd.core import step as act
from ocd.supervisor.supervision import health


class Runner:
    name = "main"

    def __init__(self) -> None:
        self.fed: list[Any] = []
        self.state = core.Proxy("main")

    def feed(self, event: Any) -> None:
        self.fed.append(event)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    runner, clock = Runner(), SimpleNamespace(slept=1000.0)
    told: list[Any] = []
    supervision = SimpleNamespace(liveness_misses=3, liveness_timeout=1.0)
    settings: Any = SimpleNamespace(supervision=supervision)
    report: Any = SimpleNamespace(log=SimpleNamespace(info=lambda *a, **k: told.append((a, k))))
    folders: Any = None
    runners: Any = [runner]
    monkeypatch.setattr(health, "sleep_clock", lambda: clock.slept)
    monkeypatch.setattr(health.spec, "socket_path", lambda *_a: "/nowhere")
    made = health.Health(folders, lambda: settings, runners, report, [], lambda: None)
    return SimpleNamespace(health=made, runner=runner, clock=clock, told=told)


def asked(watched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, sleeps: dict[int, float]) -> int:
    """One round against a process that does not answer; returns how often it was asked. ``sleeps``: at which miss."""
    count = 0

    async def missed(_path: str, _timeout: float) -> probe.Answer:
        nonlocal count
        count += 1
        watched.clock.slept += sleeps.get(count, 0.0)
        return probe.Answer.MISSED

    monkeypatch.setattr(health.probe, "liveness", missed)
    asyncio.run(watched.health._ask(watched.runner, 1))
    return count


def test_three_misses_are_three(watched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(watched, monkeypatch, {}) == 3
    assert watched.runner.fed == [act.ProbeMissed(1, False)] * 3


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_miss_over_a_sleep_does_not_count(
    at: int, watched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(watched, monkeypatch, {at: 30_000.0}) == at
    assert watched.runner.fed == [act.ProbeMissed(1, False)] * (at - 1)
    watched.health.notice_sleep()
    assert watched.runner.fed[-1] == act.Slept() and len(watched.told) == 1
    # Awake, and it still does not answer: now it counts.
    watched.runner.fed.clear()
    assert asked(watched, monkeypatch, {}) == 3
    assert watched.runner.fed == [act.ProbeMissed(1, False)] * 3


def test_a_tick_of_the_clock_is_no_sleep(watched: SimpleNamespace) -> None:
    for drift in (0.5, -3600.0, 1.9):
        watched.clock.slept += drift
        watched.health.notice_sleep()
    assert not watched.runner.fed and not watched.told


MB = 2**20


@pytest.mark.parametrize(
    ("used", "fresh", "limit", "over"),
    [
        (300 * MB, 300 * MB, 2048 * MB, False),
        (2049 * MB, 300 * MB, 2048 * MB, True),
        (9000 * MB, 300 * MB, 0, False),
        # A limit below what every process needs: replacing one by another like it would never end.
        (300 * MB, 300 * MB, 100 * MB, False),
        (449 * MB, 300 * MB, 100 * MB, False),
        (451 * MB, 300 * MB, 100 * MB, True),
        # taken over, nobody knows what it began with
        (3000 * MB, 0, 2048 * MB, True),
    ],
)
def test_over_the_limit_means_that_another_process_would_do_better(
    used: int, fresh: int, limit: int, over: bool
) -> None:
    assert health.over_limit(used, fresh, limit) is over
