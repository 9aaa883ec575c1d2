"""A short form of `make attack`: hostile upstreams, made-up inputs, and whether security.md names tests that exist."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import random
import re
import warnings
from pathlib import Path

import pytest

from tests.attack import inputs
from tests.attack.meeting import Met, judge, meet
from tests.attack.ways import ENDLESS_WAYS, WAYS
from tests.helpers.pipes import SECRET, SERVERS, run

ROOT = Path(__file__).resolve().parents[2]
#: a test in a document: ``file.py::name``
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
#: a numbered note below the table
NOTE = re.compile(r"^(\d+)\. (.*(?:\n {3,}.*)*)", re.MULTILINE)


def test_there_are_enough_ways_to_behave_badly() -> None:
    assert len(WAYS) >= 40 and set(WAYS) >= ENDLESS_WAYS


@pytest.mark.parametrize("http", SERVERS)
def test_a_hostile_upstream_harms_nobody_but_its_own_client(http: str) -> None:
    # Those without an end take seconds, and the bombs: `make attack` has them.
    for name in random.sample(sorted(n for n in set(WAYS) - ENDLESS_WAYS if "gzip" not in n), 12):
        assert judge(name, run(meet, name, http, random.random() < 0.5)) == [], name


def test_the_judge_sees_what_is_wrong() -> None:
    good = Met(b"HTTP/1.1 502 Bad\r\n\r\n", False, [], 5, True, "", True)
    assert judge("no HTTP", good) == []
    for wrong in (
        {"raw": b""},
        {"raw": b"HTTP/1.1 200 OK\r\n\r\n" + SECRET.encode()},
        {"raw": b"nonsense"},
        {"gone": True},
        {"elsewhere": [1]},
        {"neighbour_whole": False},
        {"told": SECRET},
        {"upstream_closed": False},
    ):
        assert judge("no HTTP", Met(**{**vars(good), **wrong})), wrong


def test_the_boundary_holds_against_made_up_requests() -> None:
    for _ in range(3000):
        seed = random.getrandbits(60)
        assert (seed, inputs.look_at_boundary(random.Random(seed))) == (seed, "")


def test_the_pipe_holds_against_made_up_answers_and_requests() -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        for _ in range(3000):
            seed = random.getrandbits(60)
            assert (seed, inputs.look_at_pipe(random.Random(seed), loop)) == (seed, "")


def test_any_configuration_is_understood_or_refused_with_a_sentence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(600):
            seed = random.getrandbits(60)
            assert (seed, inputs.look_at_configuration(random.Random(seed))) == (seed, "")


def test_made_up_requests_to_the_control_api_never_end_anything() -> None:
    for _ in range(2000):
        raw = inputs.control_request(random.Random(random.getrandbits(60)))
        assert not re.search(rb"/v1/(?:shutdown|reexec)|(?:main|bedrock)/(?:stop|restart)", raw)


def named_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_cell_of_the_table_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    part = text.partition("## Who could want it, and what they get\n")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")][1:]
    listed = {number: NAMED.findall(said) for number, said in NOTE.findall(part)}
    assert len(rows) >= 9 and all(listed.values())
    used: set[str] = set()
    for row in rows:
        actor, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3, actor
        for cell in cells:
            numbers = re.findall(r"\[(\d+)\]", cell)
            assert cell == "–" or numbers, f"{actor}: {cell}: names no test"
            assert set(numbers) <= set(listed), f"{actor}: {cell}: there is no such number"
            used |= set(numbers)
    assert used == set(listed), "a test that no cell names"
    for name, test in NAMED.findall(text):
        path = ROOT / name
        assert path.is_file(), f"docs/security.md names {name}, which is not there"
        assert test in named_in(path), f"docs/security.md names {name}::{test}, which is not there"
