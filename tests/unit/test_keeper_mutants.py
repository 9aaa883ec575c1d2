"""The planted mistakes still fit the code: one that no longer applies would count as found."""

from __future__ import annotations

import pytest

from tests.helpers.daemon import ROOT
from tests.mutants.keeper import MUTANTS


@pytest.mark.parametrize(("name", "file", "old", "new", "tests"), MUTANTS, ids=[m[0] for m in MUTANTS])
def test_it_stands_there_once(name: str, file: str, old: str, new: str, tests: str) -> None:
    assert (ROOT / file).read_text().count(old) == 1 and old != new
    assert all((ROOT / test).is_file() for test in tests.split())


def test_names_are_unique() -> None:
    assert len({m[0] for m in MUTANTS}) == len(MUTANTS)
