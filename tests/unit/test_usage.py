"""Usage: added up, written once, bounded, read without a daemon; and the figures as OpenMetrics text."""

from __future__ import annotations

import asyncio
import csv
import datetime
import io
import json
import os
import re
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import click.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.adapters import usage_file
from ocd.ctl import usage as verb
from ocd.ctl.app import cli
from ocd.supervisor.observation import exchanges, exporter
from ocd.supervisor.observation.exchanges import Exchanges
from ocd.supervisor.observation.exposition import requests_of
from ocd.supervisor.observation.metrics import KEPT_SERIES, Counts, Histogram
from ocd.supervisor.observation.openmetrics import Family, render
from ocd.supervisor.observation.usage import KEPT_SUMS, Usage
from ocd.wire.messages import Exchange

NOW = time.time()
TODAY = usage_file.day_of(NOW)


def exchange(**fields: Any) -> Exchange:
    basic: dict[str, Any] = {
        "time": NOW,
        "proxy": "main",
        "generation": 1,
        "path": "/v1/messages",
        "model": "claude-opus-9-9",
        "slot": "opus",
        "upstream": "api.anthropic.com",
        "status": 200,
        "seconds": 1.0,
    }
    return Exchange(**{**basic, **fields})


def row(day: str = TODAY, model: str = "m", slot: str = "opus", *figures: float) -> list[Any]:
    return [day, model, slot, *(figures or (1, 0, 10, 5, 0, 0, 0.5, 0))]


# ------------------------------------------------------------------------------------------------- the file


def test_rows_add_up_and_the_file_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    assert usage_file.read(str(path)) == []
    usage_file.add(str(path), "1", [row(), row(slot="haiku")])
    usage_file.add(str(path), "2", [row()])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = {one["slot"]: one for one in usage_file.read(str(path))}
    assert (found["opus"]["requests"], found["opus"]["cost"], found["haiku"]["input_tokens"]) == (2, 1.0, 10)


def test_a_batch_that_comes_twice_counts_once(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    for number_of in ("1", "1", "2", "1"):
        usage_file.add(path, number_of, [row()])
    assert usage_file.read(path)[0]["requests"] == 2


def test_a_batch_is_known_again_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    for step in range(usage_file.KEPT_BATCHES):
        usage_file.add(path, f"n{step}", [], NOW + step)
    for _ in range(2):
        usage_file.add(path, "late", [row()], NOW - 3600)
    assert [one["requests"] for one in usage_file.read(path)] == [row()[3]]


def test_two_batches_never_have_one_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = set()
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    for _ in range(3):
        usage = Usage(tmp_path / "usage.db", lambda _: "m", lambda _: None, lambda _: None)
        usage.take(exchange())
        numbers.add(usage.number)
    assert len(numbers) == 3


def test_old_days_go_and_the_batches_are_bounded(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    old = usage_file.day_of(NOW - (usage_file.KEPT_DAYS + 2) * 86400)
    kept = usage_file.day_of(NOW - (usage_file.KEPT_DAYS - 2) * 86400)
    usage_file.add(path, "0", [row(old), row(kept), row()])
    assert [one["day"] for one in usage_file.read(path)] == [kept, TODAY]
    assert [one["day"] for one in usage_file.read(path, TODAY)] == [TODAY]
    for step in range(usage_file.KEPT_BATCHES + 5):
        usage_file.add(path, f"n{step}", [], NOW + step)
    base = sqlite3.connect(path)
    assert base.execute("SELECT count(*) FROM batches").fetchone() == (usage_file.KEPT_BATCHES,)
    base.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at", b"SQLite format 3\0" * 70]
)
def test_a_broken_file_is_put_aside_and_a_new_one_begun(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "usage.db"
    path.write_bytes(content)
    (tmp_path / "usage.db-wal").write_bytes(b"of the broken one")
    assert usage_file.add(str(path), "1", [row()]) == f"{path}.broken"
    assert (tmp_path / "usage.db.broken").read_bytes() == content
    assert len(usage_file.read(str(path))) == 1


def test_a_database_of_something_else_is_put_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE usage (whatever TEXT)")
    base.commit()
    base.close()
    assert usage_file.add(str(path), "1", [row()])
    assert len(usage_file.read(str(path))) == 1


def test_a_place_that_cannot_be_written_is_an_error_and_moves_nothing(tmp_path: Path) -> None:
    (tmp_path / "usage.db").mkdir()
    with pytest.raises(OSError):
        usage_file.add(str(tmp_path / "usage.db"), "1", [row()])
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        usage_file.add(str(tmp_path / "link.db"), "1", [row()])
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


# ------------------------------------------------------------------------------------------- the supervisor


class Meter:
    """A Usage whose writes stay in this process; ``fail`` says why they do not work."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.written: list[tuple[str, list[list[Any]]]] = []
        self.fail = ""
        self.exchanges = Exchanges(lambda *a, **k: None, lambda: {"opus": "claude-opus-9-9"})
        #: what a successor would know, each time before something was given to the disk
        self.noted: list[tuple[int, str]] = []
        self.usage = Usage(
            *(path, self.exchanges.label, self.said.append, self.said.append),
            before=lambda: self.noted.append((len(self.written), json.dumps(self.usage.notes()))),
        )

        async def write(number_of: str, rows: list[list[Any]]) -> str:
            self.written.append((number_of, json.loads(json.dumps(rows))))
            return self.fail

        monkeypatch.setattr(self.usage, "_write", write)


@pytest.fixture
def meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(tmp_path / "usage.db", monkeypatch)


def test_what_counts(meter: Meter) -> None:
    take = meter.usage.take
    take(exchange(input_tokens=10, output_tokens=5, cache_read_tokens=3, cache_write_tokens=2, cost=0.25))
    take(exchange(input_tokens=1, status=200))
    take(exchange(status=529, trouble="overloaded"))
    take(exchange(trouble="client-gone"))
    take(exchange(hop=True))
    take(exchange(path="/v1/messages/count_tokens"))
    take(exchange(model="", path="/v1/models"))
    take(exchange(time=NOW + 1e9, slot="", model="other-group"))
    asyncio.run(meter.usage.write())
    ((_number, rows),) = meter.written
    hour = usage_file.hour_of(NOW)
    nobody = ["", "", "", ""]
    assert rows == [
        [hour, "claude-opus-9-9", "opus", "", *nobody, 4, 1, 11, 5, 3, 2, 0.25, 1],
        [ANY, "other-group", "", "", *nobody, 1, 0, 0, 0, 0, 0, 0.0, 0],
    ]


def test_a_successor_knows_of_figures_before_the_file_does(meter: Meter) -> None:
    """Else it would be told of the requests once more, and count them twice."""

    async def story() -> None:
        for _ in range(2):
            meter.usage.take(exchange(input_tokens=3))
            assert await meter.usage.write() == ""

    asyncio.run(story())
    assert [written for written, _notes in meter.noted] == [0, 1]
    for (_count, notes), (number, rows) in zip(meter.noted, meter.written, strict=True):
        assert json.loads(notes) == {"unwritten": [[number, rows]]}


def test_a_failed_write_is_said_once_and_tried_again_with_its_number(meter: Meter) -> None:
    async def story() -> None:
        meter.fail = "No space left on device"
        meter.usage.take(exchange())
        assert await meter.usage.write() == meter.fail
        meter.usage.take(exchange())
        assert await meter.usage.write() == meter.fail
        assert meter.said == [meter.fail]
        meter.fail = ""
        assert await meter.usage.write() == ""
        assert meter.said == ["No space left on device", ""]

    asyncio.run(story())
    numbers = [number_of for number_of, _rows in meter.written]
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    assert not meter.usage.pending and not meter.usage.hand


def test_sums_and_names_are_bounded(meter: Meter) -> None:
    for count in range(KEPT_SUMS + 50):
        meter.usage.take(exchange(slot=f"s{count}"))
    assert len(meter.usage.pending) == KEPT_SUMS
    for count in range(exchanges.KEPT_NAMES + 20):
        meter.exchanges.label(exchange(model=f"m{count}"))
    assert len(meter.exchanges.names) == exchanges.KEPT_NAMES
    assert meter.exchanges.label(exchange(model="m0")) == "m0"
    assert meter.exchanges.label(exchange(model="one-too-many")) == exchanges.OTHER


def test_only_proven_names_are_kept(meter: Meter) -> None:
    wrong = {"status": 400, "slot": "", "upstream": "", "trouble": "bad-request"}
    for name in ("made-up", "x" * 500, "bell\a"):
        assert meter.exchanges.label(exchange(model=name, **wrong)) == exchanges.OTHER
    assert meter.exchanges.label(exchange(model="bell\a")) == exchanges.OTHER
    assert meter.exchanges.label(exchange(model="fails", slot="haiku", status=403)) == "fails"


def test_what_is_not_written_survives_a_hand_over(meter: Meter, tmp_path: Path, monkeypatch: Any) -> None:
    async def story() -> None:
        meter.fail = "full"
        meter.usage.take(exchange())
        await meter.usage.write()
        meter.usage.take(exchange(input_tokens=7))
        notes = json.loads(json.dumps(meter.usage.notes()))
        after = Meter(tmp_path / "usage.db", monkeypatch)
        after.usage.restore(notes)
        await after.usage.write()
        assert after.written[0] == meter.written[0]
        assert after.written[1][1][0][1:11] == ["claude-opus-9-9", "opus", *[""] * 5, 1, 0, 7]
        # Written by the former one after it was noted: the number says so, whatever came in between.
        assert after.written[1][0] == notes["unwritten"][1][0] != after.written[0][0]
        for broken in (
            {"unwritten": 3},
            {"unwritten": [[1]]},
            {"unwritten": [["1", [[1]]]]},
            {},
            {"x": None},
        ):
            after.usage.restore(broken)
        assert not after.usage.hand and not after.usage.pending

    asyncio.run(story())


# ---------------------------------------------------------------------------------------------- occtl usage


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state"


def run(*args: str) -> click.testing.Result:
    # The command keeps its help option as it is made first: as `occtl` has it.
    settings = cli.context_settings
    return click.testing.CliRunner().invoke(verb.usage, args, standalone_mode=False, **settings)


def test_without_a_daemon_and_a_file_it_says_that_there_is_nothing(state: Path) -> None:
    done = run()
    assert done.exception is None and done.output.startswith("No request since ")


def test_rows_totals_and_the_word_estimate(state: Path) -> None:
    old = (datetime.date.today() - datetime.timedelta(days=20)).isoformat()
    rows = [
        row(),
        row(TODAY, "m", "haiku", 1, 1, 1000, 0, 7, 1, 0.0, 1),
        row(old, "m", "opus", 3, 0, 0, 0, 0, 0, 1.0, 0),
    ]
    usage_file.add(str(state / "usage.db"), "1", rows)
    shown = run().output
    assert "1,000" in shown and "total" in shown and "$0.50+" in shown and old not in shown
    assert (
        "estimate from list prices" in shown and "Requests to models whose price is not known: 1 (+)" in shown
    )
    said = json.loads(run("--since", "30d", "--by", "model", "--json").stdout)
    assert said["rows"] == [{"model": "m", **said["total"]}] and said["by"] == ["model"]
    assert said["total"]["requests"] == 5 and said["total"]["cost"] == 1.5
    table = list(csv.DictReader(io.StringIO(run("--since", old, "--csv").stdout)))
    assert [one["day"] for one in table] == [old, TODAY, TODAY] and table[0]["requests"] == "3"


def test_a_file_that_cannot_be_read_is_an_error_with_a_next_step(state: Path) -> None:
    (state / "usage.db").write_bytes(b"this is no database, whatever its name says" * 20)
    error = run().exception
    assert getattr(error, "exit_code", 0) == 74 and getattr(error, "next_step", "")


@pytest.mark.parametrize(
    ("text", "days"), [("7d", 6), ("1d", 0), ("today", 0), ("2w", 13), ("0d", 0), ("yesterday", 1)]
)
def test_since(text: str, days: int) -> None:
    wanted = (datetime.date.today() - datetime.timedelta(days=days)).isoformat()
    assert verb.Since().convert(text, None, None) == wanted


@pytest.mark.parametrize("text", ["tomorrow", "7", "2026-13-01", "99999d", "", "-1d"])
def test_since_refuses(text: str) -> None:
    with pytest.raises(click.BadParameter):
        verb.Since().convert(text, None, None)


# ------------------------------------------------------------------------------------------------ OpenMetrics

_LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)*)\})? (\S+)')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A strict reading of the text format; AssertionError for everything else."""
    assert text.endswith("\n# EOF\n") or text == "# EOF\n"
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    families: set[str] = set()
    for line in text.split("\n")[:-2]:
        if line.startswith("#"):
            assert re.fullmatch(r"# (TYPE|UNIT|HELP) [a-z_]+ .+", line), line
            if line.startswith("# TYPE"):
                assert line.split()[2] not in families
                families.add(line.split()[2])
            continue
        matched = _LINE.fullmatch(line)
        assert matched, line
        labels = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', matched[2] or "")
        plain = tuple(
            sorted(
                (name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value))
                for name, value in labels
            )
        )
        assert (matched[1], plain) not in found
        found[(matched[1], plain)] = float(matched[3])
    return found


@given(st.text(), st.text(), st.floats(allow_nan=False))
def test_any_text_comes_back_as_it_was(label: str, help_text: str, value: float) -> None:
    family = Family("ocd_x", "gauge", "h" + help_text).add(value, model=label)
    whole = label.encode("utf-8", "replace").decode()
    lines = render([family]).split("\n")
    assert len(lines) == 5 and lines[-2:] == ["# EOF", ""]
    ((name, labels),) = [
        key for key in parse(render([Family("ocd_x", "gauge", "h").add(value, model=label)]))
    ]
    assert name == "ocd_x" and labels == (("model", whole),)


@given(st.lists(st.floats(0, 1000), max_size=30))
def test_histograms_are_cumulative(values: list[float]) -> None:
    histogram = Histogram((0.5, 10.0))
    for value in values:
        histogram.observe(value)
    family = Family("ocd_s", "histogram", "h")
    family.add_histogram(histogram, proxy="main")
    found = parse(render([family]))
    buckets = [found[("ocd_s_bucket", (("le", le), ("proxy", "main")))] for le in ("0.5", "10.0", "+Inf")]
    assert buckets == [sum(v <= 0.5 for v in values), sum(v <= 10 for v in values), len(values)]
    assert found[("ocd_s_count", (("proxy", "main"),))] == len(values)


def test_counts_are_of_requests_tokens_and_seconds_and_bounded() -> None:
    source = Exchanges(lambda *a, **k: None, dict)
    counts = Counts(source.label)
    counts.take(exchange(input_tokens=10, output_tokens=5, stream=True, first=0.3))
    counts.take(exchange(status=429, trouble="plan-limit"))
    found = parse(render(requests_of(counts)))
    base = (("proxy", "main"), ("slot", "opus"), ("model", "claude-opus-9-9"))
    refused = (*base, ("status", "429"), ("trouble", "plan-limit"))
    assert found[("ocd_requests_total", tuple(sorted(refused)))] == 1
    assert found[("ocd_tokens_total", tuple(sorted((*base, ("kind", "input")))))] == 10
    assert found[("ocd_request_seconds_count", base[:2])] == 2
    assert found[("ocd_first_token_seconds_count", base[:2])] == 1
    for status in range(KEPT_SERIES + 100):
        counts.take(exchange(status=status))
    assert len(counts.requests) <= KEPT_SERIES + 1
    assert counts.requests[("main", "opus", "other", "other", "other")] > 50


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:9464", True),
        ("localhost", True),
        ("[::1]:1", True),
        ("", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("[", False),
    ],
)
def test_metrics_are_for_this_machine(host: str, local: bool) -> None:
    assert exporter.is_local(host) is local


def test_the_writer_needs_nothing_of_ours() -> None:
    # It runs with -I -S: another import than the standard library's would end every write.
    text = Path(usage_file.__file__).read_text()
    assert not re.search(r"^\s*(from|import) (ocd|pydantic)", text, re.MULTILINE)
    assert os.path.basename(usage_file.__file__) == "usage_file.py"
