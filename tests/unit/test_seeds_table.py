"""docs/seeds.md: no line of the documents without a row, no row without a test and a command that there are."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from ocd.ctl.app import VERBS, Verbs

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "seeds.md").read_text()
#: the documents as they are handed down, and how many lines each has
DOCUMENTS = {
    "claudish-litellm-routing-issue.md": 125,
    "dual-proxy-notes.md": 313,
    "litellm-proxy-configuration.md": 224,
    "mixed-oauth-bedrock-routing-design.md": 208,
    "openclaude-readme.md": 140,
}
#: what is not solved, and no more than that: document → rows
OPEN: dict[str, set[int]] = {}
OPTIONS = {"openclaude": {"--model", "--model-opus", "--model-sonnet", "--model-haiku", "--default-provider"}}
Row = tuple[int, int, int, str, str, str]


def rows(document: str) -> list[Row]:
    """(number, first line, last line, what, command, kept by) of each row."""
    part = re.search(rf"^## [^\n]*`{re.escape(document)}`.*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert part, f"no section for {document}"
    found = []
    for line in part[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not cells[0].strip("| ").isdigit():
            continue
        assert len(cells) == 5, line
        first, _, last = cells[1].partition("-")
        found.append((int(cells[0].strip("| ")), int(first), int(last or first), *cells[2:]))
    return found  # type: ignore[return-value]


def known_tests() -> set[str]:
    found = set()
    for path in (ROOT / "tests").glob("*/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.name}::{node.name}")
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_line_has_a_row(document: str) -> None:
    following = 1
    for expected, row in enumerate(rows(document), 1):
        number, first, last, what, *_ = row
        assert number == expected, f"row {number} of {document} is out of order"
        assert first == following and last >= first, f"{document}: lines {following} to {first} have no row"
        assert len(what) > 3
        following = last + 1
    assert following == DOCUMENTS[document] + 1, f"{document}: from line {following} on there is no row"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_exists_and_what_is_open_is_said(document: str) -> None:
    known = known_tests()
    still_open = set()
    for number, *_, kept in rows(document):
        named = re.findall(r"`(test_\w+\.py::test_\w+)`", kept)
        if kept.startswith("open: "):
            still_open.add(number)
        else:
            assert named, f"row {number} of {document} names no test"
        for name in named:
            assert name in known, f"row {number} of {document}: there is no {name}"
    assert still_open == OPEN.get(document, set())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_exists(document: str) -> None:
    verbs = {verb for group in VERBS.values() for verb in group}
    for number, *_, command, _kept in rows(document):
        assert re.fullmatch(r"`[^`]+`", command), f"row {number} of {document} names no command"
        words = [word for word in shlex.split(command.strip("`")) if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "occtl":
            assert words[1] in verbs, f"row {number} of {document}: {command}"
            verb = Verbs().get_command(click.Context(click.Command("occtl")), words[1])
            if isinstance(verb, click.Group):
                assert words[2] in verb.commands, f"row {number} of {document}: {command}"
        elif words[0] == "openclaude":
            given = {word for word in words[1:] if word.startswith("-")}
            assert given <= OPTIONS["openclaude"], f"row {number} of {document}: {command}"
        else:
            assert words[:2] == ["python3", "install.py"], f"row {number} of {document}: {command}"


def test_a_missing_row_test_or_verb_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    document = "openclaude-readme.md"
    for old, new, check in (
        ("| 5 | 21-27 |", "| 5 | 22-27 |", test_every_line_has_a_row),
        ("`test_openclaude.py::test_missing_claude`", "`test_openclaude.py::test_gone`",
         test_every_test_exists_and_what_is_open_is_said),
        ("`occtl reload bedrock`", "`occtl relaod bedrock`", test_every_command_exists),
        ("`occtl aws policy`", "`occtl aws polcy`", test_every_command_exists),
    ):  # fmt: skip
        assert old in TEXT
        monkeypatch.setitem(globals(), "TEXT", TEXT.replace(old, new))
        with pytest.raises(AssertionError):
            check(document)
        monkeypatch.undo()
