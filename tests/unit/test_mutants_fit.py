"""The planted mistakes still fit the code: one that no longer applies would count as found."""

from __future__ import annotations

import os
import tomllib
from typing import Any

import pytest

from tests.helpers.daemon import ROOT

TABLES = {
    path.name: tomllib.loads(path.read_text("utf-8"))
    for path in sorted((ROOT / "tests" / "mutants").glob("*.toml"))
}


@pytest.mark.parametrize("name", TABLES)
def test_each_stands_there_once(name: str) -> None:
    if "OCD_TEST_MUTANT" in os.environ:
        pytest.skip("one of them is planted just now")
    table: dict[str, Any] = TABLES[name]
    texts = {mutant["file"]: (ROOT / mutant["file"]).read_text("utf-8") for mutant in table["mutant"]}
    unfit = [
        mutant["name"]
        for mutant in table["mutant"]
        if texts[mutant["file"]].count(mutant["old"]) != 1 or mutant["old"] == mutant["new"]
    ]
    assert not unfit
    tests = {test for mutant in table["mutant"] for test in mutant.get("tests", table["tests"])}
    assert all((ROOT / test).is_file() for test in tests)


def test_names_are_unique() -> None:
    names = [mutant["name"] for table in TABLES.values() for mutant in table["mutant"]]
    assert len(set(names)) == len(names)


def test_each_part_has_some() -> None:
    files = [mutant["file"] for table in TABLES.values() for mutant in table["mutant"]]
    for part in ("core/", "keeper/", "ipc/", "guest/layers/boundary.py", "guest/layers/pipe.py"):
        assert sum(part in file for file in files) >= 8, part
    assert len(files) >= 40
