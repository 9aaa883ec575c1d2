"""The planted mistakes still fit the code: one that no longer applies would count as found."""

from __future__ import annotations

import os
import tomllib

import pytest

from tests.helpers.daemon import ROOT

TABLE = tomllib.loads((ROOT / "tests" / "mutants" / "keeper.toml").read_text())


@pytest.mark.parametrize("mutant", TABLE["mutant"], ids=lambda mutant: mutant["name"])
def test_it_stands_there_once(mutant: dict[str, str]) -> None:
    if "OCD_TEST_MUTANT" in os.environ:
        pytest.skip("one of them is planted just now")
    assert (ROOT / mutant["file"]).read_text().count(mutant["old"]) == 1 and mutant["old"] != mutant["new"]
    assert all((ROOT / test).is_file() for test in mutant.get("tests", TABLE["tests"]))


def test_names_are_unique() -> None:
    assert len({mutant["name"] for mutant in TABLE["mutant"]}) == len(TABLE["mutant"])
