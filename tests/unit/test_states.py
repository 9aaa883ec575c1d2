"""One enum for a proxy's states; whoever must spell them out has all of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ocd.core.state import State
from ocd.ctl.options import STATES
from ocd.ctl.screen import STATE_STYLES
from ocd.wire.messages import ProxyStatus

ROOT = Path(__file__).resolve().parents[2]
#: what the status line, which may import nothing, says of them
CLIENT = ROOT / "ocd" / "client" / "statusline.py"


def words(path: Path, near: str) -> set[str]:
    """The tuple of strings that the line with ``near`` has."""
    line = next(line for line in path.read_text().splitlines() if near in line and "(" in line)
    found = re.search(r'in \(("[^()]*")\)', line)
    assert found, line
    return set(ast.literal_eval(f"({found[1]},)"))


def test_every_list_of_states_is_the_enum() -> None:
    assert set(STATES) == set(STATE_STYLES) == set(State)
    assert set(ProxyStatus.model_json_schema()["$defs"]["State"]["enum"]) == set(State)


def test_who_imports_nothing_says_the_same() -> None:
    yellow = words(CLIENT, "_YELLOW if")
    assert yellow == {state for state in State if not state.hopeless and not state.well}


@pytest.mark.parametrize("word", ["backoff", "of-the-future"])
def test_a_state_of_another_version_is_something_to_wait_for(word: str) -> None:
    assert ProxyStatus(state=word, port=1, since=0.0).state is State.STARTING  # type: ignore[arg-type]
    assert ProxyStatus(state="ready", port=1, since=0.0).state is State.READY  # type: ignore[arg-type]


def test_nobody_compares_with_a_word_that_is_no_state() -> None:
    gone = {"backoff", "down", "running"}
    for path in (ROOT / "ocd").rglob("*.py"):
        for found in re.findall(r'\.state (?:==|!=) "([a-z-]+)"', path.read_text("utf-8")):
            assert found in set(State) and found not in gone, f"{path}: {found}"
