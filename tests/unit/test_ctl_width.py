"""What a terminal's width, encoding and colours do to the output: nothing that matters is ever lost."""

import ast
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ocd import errors
from ocd.core.blocks import Block
from ocd.ctl import screen, selftest, usage
from ocd.ctl.__main__ import EX_BROKEN_PIPE, EX_INTERRUPTED, main
from ocd.ctl.exits import EXITS
from ocd.ctl.look import logs, records, sessions, status, version

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
WIDTHS = (40, 80, 100, 140, 200)


class Told:
    """A daemon whose status is given."""

    def __init__(self, starts: bool = False) -> None:
        now = time.time()
        proxy = {
            "state": "crash-loop",
            "pid": 1234567,
            "port": 4000,
            "since": now - 7505,
            "memory": 139_460_608,
            "config": "/home/u/.config/ocd/a-folder-with-a-long-name/litellm.yaml",
            "reason": "exit 3: the configuration names a provider that this LiteLLM does not know at all",
            "next_step": "Run `occtl config check`",
        }
        session = {
            "pid": 99,
            "cwd": "/srv/customers/a-customer/projects/a-project-with-a-name/service",
            "since": now,
            "requests": 1234,
            "tokens": 12_345_678,
            "last_slot": "haiku",
            "last_upstream": "bedrock-runtime.eu-central-1.amazonaws.com",
            "kind": "background",
        }
        self.said = {
            **{"version": "0.2.0", "pid": 2, "keeper_pid": 1, "since": now, "litellm": "1.106.12"},
            **{"proxies": {"main": proxy, "bedrock": proxy | {"port": 4001}}, "sessions": [session] * 2},
        }

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record(self, name: str, path: str) -> Any:
        return records.read(name, self.said)

    def get(self, model: Any, path: str) -> Any:
        return model.model_validate(self.said)


def show_status() -> None:
    status.run(None, False, False, 1.0)


def show_sessions() -> None:
    sessions.run(False)


def show_models() -> None:
    main(["models"])


def show_selftest() -> None:
    row = {
        **{
            "slot": "haiku",
            "model": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "check": "answers, streaming",
        },
        **{
            "upstream": "bedrock-runtime.us-west-2.amazonaws.com",
            "credential": "AWS signature of the made-up key",
        },
        **{"ok": False, "note": "", "seconds": 1.25},
    }
    selftest._print({"ok": False, "rows": [row, row | {"ok": True}], "problems": []})


FIGURES = {
    **{"requests": 12_345, "failed": 2, "input_tokens": 123_456_789, "output_tokens": 9_876_543},
    **{"cache_read_tokens": 1, "cache_write_tokens": 1, "cost": 1234.5, "unpriced": 0},
}


def show_usage() -> None:
    row = {"day": "2026-11-27", "model": "us.anthropic.claude-haiku-4-5-20251001-v1:0", "slot": "haiku"}
    usage._table(["day", "model", "slot"], [row | FIGURES] * 2, dict(FIGURES))


def show_blocks() -> None:
    usage._blocks("2026-11-20", False)


def show_exit_codes() -> None:
    main(["help", "exit-codes"])


def show_undo() -> None:
    main(["undo", "--list"])


def show_accounts() -> None:
    main(["account", "list"])


TABLES: dict[str, Callable[[], None]] = {
    "status": show_status,
    "sessions": show_sessions,
    "models": show_models,
    "selftest": show_selftest,
    "usage": show_usage,
    "usage --blocks": show_blocks,
    "help exit-codes": show_exit_codes,
    "undo --list": show_undo,
    "account list": show_accounts,
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[Sequence[str], Any]]]:
    """The tables that are asked for; a daemon that is none; the shipped configuration."""
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    monkeypatch.setattr(screen, "_no_color", False)
    for module in (status, sessions):
        monkeypatch.setattr(module, "Daemon", Told)
    monkeypatch.setattr(usage, "made_blocks", lambda since: [Block(0, 18_000, dict(FIGURES))])
    assert main(["init"]) == 0
    seen: list[tuple[Sequence[str], Any]] = []
    real = screen.table

    def table(
        columns: Sequence[str], rows: Any, styles: Any = (), columns_wide: int | None = None
    ) -> list[str]:
        seen.append((columns, rows))
        return real(columns, rows, styles, columns_wide)

    monkeypatch.setattr(screen, "table", table)
    yield seen


def test_every_table_is_looked_at() -> None:
    users = {
        path.relative_to(ROOT / "ocd" / "ctl").as_posix()
        for path in (ROOT / "ocd" / "ctl").rglob("*.py")
        if "screen.show_table(" in path.read_text() or "screen.table(" in path.read_text()
    }
    looked_at = {"look/status.py", "look/sessions.py", "models.py", "selftest.py", "usage.py", "help.py"}
    assert users == {*looked_at, "undo.py", "account.py", "trace.py"}
    for path in (ROOT / "ocd" / "ctl").rglob("*.py"):
        assert "rich.table" not in path.read_text(), f"{path}: a table goes through screen.table"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(TABLES))
def test_no_table_loses_a_cell_or_breaks_the_line(
    made: list[tuple[Sequence[str], Any]],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    width: int,
) -> None:
    monkeypatch.setattr(screen, "width", lambda stream=None: width)
    capsys.readouterr()
    TABLES[name]()
    said = capsys.readouterr().out
    # a next step is a command, and one copies it whole
    assert all(screen.cells(line) <= width for line in said.splitlines() if "next: " not in line)
    assert "…" not in said
    flat = "".join(said.split())
    # a table that did not fit is not shown: the one with the most columns is
    columns, rows = max(made, key=lambda one: len(one[0]))
    for column in columns:
        # `status` has the files below the table before it makes records
        assert column.lstrip(">").replace(" ", "") in flat or column == "config"
    for row in rows:
        for cell in row:
            assert "".join(cell.split()) in flat, cell


@pytest.mark.parametrize("name", list(TABLES))
def test_in_a_pipe_each_row_is_a_line(
    made: list[tuple[Sequence[str], Any]], capsys: Capture, name: str
) -> None:
    capsys.readouterr()
    TABLES[name]()
    lines = capsys.readouterr().out.splitlines()
    columns, rows = made[0]
    head = next(n for n, line in enumerate(lines) if line.split()[:1] == columns[0].lstrip(">").split()[:1])
    for row, line in zip(rows, lines[head + 1 :], strict=False):
        assert all(cell in line for cell in row)


def test_records_are_aligned_and_apart() -> None:
    lines = screen.table(("a", ">bcd"), [["1", "x" * 30], ["2", ""]], (), 20)
    assert lines == ["a:   1", "bcd: " + "x" * 15, "     " + "x" * 15, "", "a:   2", "bcd:"]


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("  one two", 6, ["  one", "  two"]),
        ("abcdefgh ij", 4, ["abcd", "efgh", "ij"]),
        ("short", None, ["short"]),
        ("日本語 日本", 6, ["日本語", "日本"]),
        ("", 5, [""]),
    ],
)
def test_sentences_break_between_words(text: str, columns: int | None, lines: list[str]) -> None:
    assert screen.wrapped(text, columns) == lines


# ---- colours and encodings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "terminal", "colored"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR": "1"}, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"CLICOLOR_FORCE": "0"}, False, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_who_decides_about_colours(
    environ: dict[str, str], terminal: bool, colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environ).items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(screen, "_no_color", False)
    assert screen.colors(stream) is colored
    monkeypatch.setattr(screen, "_no_color", True)
    assert screen.colors(stream) is False


def said(code: str, **environ: str) -> bytes:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))
    }
    program = f"from ocd.ctl import screen; screen.prepare_streams(); {code}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | environ,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"LANG": "C.UTF-8"}, "a → b… ✓ é 日".encode()),
        ({"LANG": "C"}, b"a -> b... + e ?"),
        ({"LC_ALL": "POSIX", "LANG": "C.UTF-8"}, b"a -> b... + e ?"),
        ({"LANG": "C.UTF-8", "PYTHONIOENCODING": "latin-1"}, b"a -> b... + \xe9 ?"),
    ],
)
def test_a_locale_without_our_letters_gets_the_nearest(environ: dict[str, str], text: bytes) -> None:
    assert said("screen.out('a → b… ✓ é 日')", **environ).rstrip() == text


def test_json_loses_nothing_where_there_is_only_ascii() -> None:
    assert said("screen.out_json(['→'], lines=True)", LANG="C").strip() == b'["\\u2192"]'
    assert said("screen.out_json(['→'], lines=True)", LANG="C.UTF-8").strip() == '["→"]'.encode()


# ---- errors and exit codes


@pytest.mark.parametrize(
    "line",
    [["nothing"], ["status", "--nope"], ["stop", "--timeout", "x"], ["init", "--preset", "x"], ["explain"]],
)
def test_wrong_usage_is_said_like_every_error(line: list[str], capsys: Capture) -> None:
    assert main(line) == 64
    what, why, step = capsys.readouterr().err.splitlines()
    assert (
        what.startswith("error: ")
        and why.startswith("  why:  the form is ")
        and step.startswith("  next: Run `occtl ")
    )


def test_the_exit_codes_are_in_one_table() -> None:
    named = {name: value for name, value in vars(errors).items() if name.startswith("EX_")}
    own = {"EX_INTERRUPTED": EX_INTERRUPTED, "EX_BROKEN_PIPE": EX_BROKEN_PIPE}
    used = set(own.values())
    for path in (ROOT / "ocd").rglob("*.py"):
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and node.id in named:
                used.add(named[node.id])
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = [one.id for one in node.targets if isinstance(one, ast.Name)]
                if any(name.startswith("EX_") for name in names):
                    used.add(int(str(node.value.value)))
    table = dict(EXITS)
    assert set(table) == used | {1, 3}
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    rows = [
        line.split("|")[1].strip()
        for line in page.partition("\n## ")[0].splitlines()
        if line.startswith("| ")
    ]
    assert rows == ["code", *(str(code) for code, _ in EXITS)]


def test_help_is_a_verb(capsys: Capture) -> None:
    assert main(["help", "config", "path"]) == 0
    assert capsys.readouterr().out.startswith("Usage: occtl config path ")
    assert main(["help"]) == 0
    assert "Set up:" in capsys.readouterr().out
    assert main(["help", "nothing"]) == 64


assert logs and version  # the modules that look are all imported without click
