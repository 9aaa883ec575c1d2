"""Reports of answered requests: each counts once, whatever is lost, told twice, or not noted in time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.guest import reports
from ocd.guest.reports import Reports
from ocd.supervisor.observation import numbers
from ocd.supervisor.observation.numbers import Numbers


class Line:
    """The socket between a process and its supervisors: so much has room until somebody reads."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.on_its_way: list[dict[str, Any]] = []
        self.reports = Reports(self.on_its_way.append, lambda: len(self.on_its_way) < self.room)


def test_reports_are_numbered_and_told_again_after_a_number() -> None:
    line = Line()
    for name in "abc":
        line.reports.add({"model": name})
    assert line.on_its_way == [{"model": name, "number": n} for n, name in enumerate("abc", 1)]
    line.on_its_way.clear()
    asyncio.run(line.reports.again(1))
    assert [one["model"] for one in line.on_its_way] == ["b", "c"]


def test_what_found_no_room_is_told_later_and_in_turns() -> None:
    line = Line(room=2)
    for name in "abcd":
        line.reports.add({"model": name})
    assert [one["model"] for one in line.on_its_way] == ["a", "b"]
    line.on_its_way.clear()
    line.reports.tell()
    assert [one["model"] for one in line.on_its_way] == ["c", "d"]
    line.room = 0
    for _ in range(200):
        line.reports.add({})
    line.room, line.on_its_way[:] = 1000, []
    line.reports.tell()
    assert [one["number"] for one in line.on_its_way] == list(range(5, 69))
    line.reports.add({})
    assert [one["number"] for one in line.on_its_way] == list(range(5, 133))


def test_a_successor_that_reads_slowly_is_told_everything() -> None:
    line = Line(room=2)
    for name in "abcd":
        line.reports.add({"model": name})

    async def read() -> list[str]:
        found = [line.on_its_way.pop(0)["model"] for _ in range(2)]
        again = asyncio.ensure_future(line.reports.again(2))
        while not again.done():
            await asyncio.sleep(0)
            found += [one["model"] for one in line.on_its_way]
            line.on_its_way.clear()
        return found

    assert asyncio.run(read()) == ["a", "b", "c", "d"]


def test_it_is_given_up_when_nobody_reads_and_the_oldest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line(room=0)
    for _ in range(reports.KEPT + 5):
        line.reports.add({})
    with monkeypatch.context() as soon:
        soon.setattr(reports, "_PATIENCE", 0.04)
        asyncio.run(line.reports.again(0))
    assert line.on_its_way == []
    line.room = 10_000
    asyncio.run(line.reports.again(0))
    assert [one["number"] for one in line.on_its_way] == list(range(6, reports.KEPT + 6))


def test_a_number_counts_once_in_any_order() -> None:
    known = Numbers()
    assert [known.first("main", 1, n) for n in (1, 3, 3, 2, 1, 4, 2)] == [
        True,
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    assert known.upto("main", 1) == 4 and known.upto("bedrock", 1) == 0 == known.upto("main", 2)
    assert known.first("bedrock", 1, 4), "another process counts for itself"
    known.forget("main", 1)
    assert known.notes() == [["bedrock", 1, 0, [4]]] and known.first("main", 1, 4)


def test_a_successor_knows_what_came_out_of_turn() -> None:
    known, later = Numbers(), Numbers()
    for number in (1, 2, 5, 7):
        assert known.first("main", 3, number)
    later.restore(known.notes())
    assert later.upto("main", 3) == 2
    assert [number for number in range(1, 9) if later.first("main", 3, number)] == [3, 4, 6, 8]
    assert later.upto("main", 3) == 8


def test_a_gap_that_nobody_fills_is_given_up() -> None:
    known = Numbers()
    for number in range(3, numbers.KEPT + 4):
        assert known.first("main", 1, number)
    assert known.upto("main", 1) == numbers.KEPT + 3 and not known.first("main", 1, 2)
    assert known.notes() == [["main", 1, numbers.KEPT + 3, []]]


@given(st.data())
def test_supervisors_that_end_at_any_moment_lose_and_double_nothing(data: st.DataObject) -> None:
    """Each step: a request is answered, the supervisor reads one report, notes what it knows, or ends."""
    line, known, counted = Line(room=data.draw(st.integers(1, 6))), Numbers(), 0
    noted = (0, json.dumps(known.notes()))
    answered = 0

    def read() -> None:
        nonlocal counted
        report = line.on_its_way.pop(0)
        counted += known.first("main", 1, report["number"])

    async def successor() -> None:
        nonlocal known, counted
        counted, known = noted[0], Numbers()
        known.restore(json.loads(noted[1]))
        again = asyncio.ensure_future(line.reports.again(known.upto("main", 1)))
        while not again.done() or line.on_its_way:
            await asyncio.sleep(0)
            while line.on_its_way:
                read()

    for step in data.draw(
        st.lists(st.sampled_from(["answer", "answer", "read", "note", "end"]), max_size=40)
    ):
        if step == "answer":
            answered += 1
            line.reports.add({})
        elif step == "read" and line.on_its_way:
            read()
        elif step == "note":
            noted = (counted, json.dumps(known.notes()))
        elif step == "end":
            asyncio.run(successor())
    asyncio.run(successor())
    assert counted == answered
