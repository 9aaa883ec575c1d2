"""Usage by hour, folder, branch, session and subagent: exact, bounded, migrated; blocks, savings, the page."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import html.parser
import itertools
import json
import random
import sqlite3
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.adapters import git_place, usage_file
from ocd.adapters.git_place import Place
from ocd.core import pace as core_pace
from ocd.core.blocks import HOUR, SPAN, blocks
from ocd.ctl import usage as verb
from ocd.ctl import usage_page
from ocd.ctl.app import cli
from ocd.stack.prices import Prices, saving
from ocd.supervisor.observation.exchanges import Exchanges
from ocd.supervisor.observation.places import Places
from ocd.supervisor.observation.usage import KEPT_DETAILS, KEPT_SUMS, Usage
from ocd.wire.messages import Exchange

NOW = time.time()
TODAY = usage_file.day_of(NOW)
THIS_HOUR = usage_file.hour_of(NOW)
MONEY = 1e-6


def exchange(**fields: Any) -> Exchange:
    basic: dict[str, Any] = {
        **{"time": NOW, "proxy": "main", "generation": 1, "path": "/v1/messages", "model": "claude-opus-9-9"},
        **{
            "slot": "opus",
            "upstream": "api.anthropic.com",
            "provider": "anthropic",
            "status": 200,
            "seconds": 1.0,
        },
    }
    return Exchange(**{**basic, **fields})


def detail(hour: int = THIS_HOUR, **names: Any) -> list[Any]:
    """A row of a batch: requests 1, failed 0, 10 in, 5 out, no cache, half a dollar, priced."""
    keys = {"hour": hour, "model": "m", "slot": "opus", "provider": "anthropic", "project": "/p"}
    keys |= {"branch": "main", "session": "s", "agent": ""} | {
        k: v for k, v in names.items() if k != "figures"
    }
    return [*(keys[name] for name in usage_file.DETAILS), *names.get("figures", (1, 0, 10, 5, 0, 0, 0.5, 0))]


def sums(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) for name in usage_file.FIGURES}


# ------------------------------------------------------------------------------------------------- the file


def test_details_and_days_are_the_same_requests(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    usage_file.add(
        path, "1", [detail(), detail(branch="other"), detail(THIS_HOUR - 86400), detail(agent="a1")]
    )
    assert [row["requests"] for row in usage_file.read(path)] == [1, 3]
    by_branch = {row["branch"]: row["requests"] for row in usage_file.grouped(path, ["branch"], TODAY)}
    assert by_branch == {"main": 2, "other": 1}
    assert [row["agent"] for row in usage_file.grouped(path, ["agent"])] == ["", "a1"]


def test_a_file_of_the_version_before_is_taken_over_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with contextlib.closing(sqlite3.connect(path)) as base:
        # As 0.1 and the first 0.2 made it.
        base.executescript(
            """CREATE TABLE usage (day TEXT NOT NULL, model TEXT NOT NULL, slot TEXT NOT NULL,
            requests INTEGER NOT NULL, failed INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL, cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
            cost REAL NOT NULL, unpriced INTEGER NOT NULL, PRIMARY KEY (day, model, slot)) WITHOUT ROWID;
            CREATE TABLE batches (number TEXT PRIMARY KEY, written REAL NOT NULL) WITHOUT ROWID;"""
        )
        base.execute("INSERT INTO usage VALUES (?, 'm', 'opus', 7, 1, 70, 35, 3, 2, 1.5, 0)", (TODAY,))
        base.execute("INSERT INTO batches VALUES ('known', 1)")
        base.commit()
    # Nothing was written since the upgrade: it is readable in detail all the same.
    (old,) = usage_file.grouped(str(path), ["hour", "project"])
    assert (old["hour"], old["project"], old["requests"], old["input_tokens"]) == (0, "", 7, 70)
    # A batch that the former version left in the notes, one that it had written, and a new one.
    usage_file.add(str(path), "left", [[TODAY, "m", "opus", 1, 0, 10, 5, 0, 0, 0.5, 0]])
    usage_file.add(str(path), "known", [detail()])
    usage_file.add(str(path), "new", [detail()])
    found = {row["project"]: row for row in usage_file.grouped(str(path), ["project"])}
    assert found[""]["requests"] == 8 and found["/p"]["requests"] == 1
    assert found[""]["cost"] == pytest.approx(2.0)
    assert sums(list(found.values())) == pytest.approx(sums(usage_file.read(str(path))))
    assert not list(tmp_path.glob("*.broken"))


def test_details_are_bounded_and_what_goes_stays_in_the_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_file, "MOST_DETAILS", 50)
    path = str(tmp_path / "usage.db")
    for step in range(80):
        usage_file.add(path, f"n{step}", [detail(THIS_HOUR - (79 - step) * HOUR)])
    with contextlib.closing(sqlite3.connect(path)) as base:
        (count,) = base.execute("SELECT count(*) FROM hours").fetchone()
        (newest,) = base.execute("SELECT max(hour) FROM hours").fetchone()
    assert 40 <= count <= 50 and newest == THIS_HOUR
    assert sums(usage_file.grouped(path, ["project"])) == pytest.approx(sums(usage_file.read(path)))
    assert sums(usage_file.read(path))["requests"] == 80


def test_old_details_go(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    old = THIS_HOUR - (usage_file.KEPT_DETAIL_DAYS + 2) * 86400
    usage_file.add(path, "1", [detail(old), detail()])
    assert [row["hour"] for row in usage_file.grouped(path, ["hour"])] == [0, THIS_HOUR]


def test_a_row_of_another_form_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    with pytest.raises(ValueError, match="3 values"):
        usage_file.add(path, "1", [detail(), [1, 2, 3]])
    assert usage_file.read(path) == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from("ab"),
            st.sampled_from(("", "/p", "/q")),
            st.integers(0, 10**9),
        ),
        max_size=30,
    ),
    st.lists(st.sampled_from(verb.KEYS), unique=True, max_size=4),
)
def test_every_table_has_the_same_total(rows: list[tuple[int, str, str, int]], keys: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/usage.db"
        for number, (back, model, project, tokens) in enumerate(rows):
            figures = (1, 0, tokens, 0, 0, 0, 0.25, 0)
            row = detail(THIS_HOUR - back * HOUR, model=model, project=project, figures=figures)
            if number % 3 == 0:
                row = [usage_file.day_of(row[0]), model, "opus", *figures]
            usage_file.add(path, str(number), [row])
        total = sums(usage_file.grouped(path, keys)) if rows else dict.fromkeys(usage_file.FIGURES, 0)
        assert total["input_tokens"] == sum(row[3] for row in rows)
        assert total["requests"] == len(rows)


# ------------------------------------------------------------------------------------------- the supervisor


class Meter:
    """A Usage whose writes go into the file within this process."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, keep: str = "details") -> None:
        self.path = str(path)
        self.exchanges = Exchanges(lambda *a, **k: None, dict)
        self.places = Places(lambda pid: {1: "/repo/sub", 2: "/other"}.get(pid, ""), self.look)
        self.branch = "main"
        self.usage = Usage(
            path, self.exchanges.label, lambda _: None, lambda _: None, lambda: keep, self.places
        )

        async def write(number: str, rows: list[list[Any]]) -> str:
            usage_file.add(self.path, number, json.loads(json.dumps(rows)))
            return ""

        monkeypatch.setattr(self.usage, "_write", write)

    def look(self, folder: str) -> Place:
        return Place("/repo" if folder.startswith("/repo") else folder, self.branch)

    async def looked(self) -> None:
        for task in list(self.places._looking.values()):
            await task


def test_figures_agree_with_what_was_answered_to_the_token(tmp_path: Path, monkeypatch: Any) -> None:
    """5,000 mixed requests, written and handed over to a successor in between: each table has the same sums."""
    rand = random.Random(15)
    wanted: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])

    async def story() -> None:
        meter = Meter(tmp_path / "usage.db", monkeypatch)
        for number in range(5000):
            pid, slot = rand.choice((1, 2, None)), rand.choice(("opus", "haiku"))
            tokens = rand.randrange(10_000)
            one = exchange(
                time=NOW - rand.randrange(20) * HOUR,
                session=pid,
                session_id=f"s{pid}",
                agent_id=rand.choice(("", "a1")),
                slot=slot,
                provider="bedrock" if slot == "haiku" else "anthropic",
                input_tokens=tokens,
                output_tokens=7,
                cost=0.001,
                hop=number % 50 == 0,
            )
            meter.usage.take(one)
            if not one.hop:
                project = {1: "/repo", 2: "/other", None: ""}[pid]
                for key in (
                    ("project", project),
                    ("slot", slot),
                    ("session", f"s{pid}"),
                    ("agent", one.agent_id),
                ):
                    wanted[key][0] += 1
                    wanted[key][1] += tokens
            if number % 500 == 0:
                await meter.looked()
            if number % 700 == 0:
                await meter.usage.write()
            if number % 1100 == 0:
                # The supervisor dies: another takes over with the notes; a batch may be written by both.
                notes = json.loads(json.dumps(meter.usage.notes()))
                if number % 2200 == 0:
                    await meter.usage.write()
                places = meter.places
                meter = Meter(tmp_path / "usage.db", monkeypatch)
                meter.usage.places = meter.places = places
                meter.usage.restore(notes)
        await meter.looked()
        await meter.usage.write()

    asyncio.run(story())
    path = str(tmp_path / "usage.db")
    for kind in ("project", "slot", "session", "agent"):
        found = {
            row[kind]: [row["requests"], row["input_tokens"]] for row in usage_file.grouped(path, [kind])
        }
        assert found == {name: counts for (of, name), counts in wanted.items() if of == kind}
    assert sums(usage_file.read(path))["requests"] == 4900


def test_a_branch_counts_from_the_request_on_that_was_sent_on_it(tmp_path: Path, monkeypatch: Any) -> None:
    async def story() -> None:
        meter = Meter(tmp_path / "usage.db", monkeypatch)
        meter.usage.take(exchange(session=1))
        # Nobody had looked yet when it came; the answer is there when it is written.
        await meter.looked()
        meter.usage.take(exchange(session=1))
        meter.branch = "feature"
        meter.places.inspect("/repo/sub")
        await meter.looked()
        meter.usage.take(exchange(session=1))
        await meter.usage.write()

    asyncio.run(story())
    found = usage_file.grouped(str(tmp_path / "usage.db"), ["project", "branch"])
    assert [(row["project"], row["branch"], row["requests"]) for row in found] == [
        ("/repo", "feature", 1),
        ("/repo", "main", 2),
    ]


@pytest.mark.parametrize(("keep", "days", "details"), [("details", 1, 1), ("days", 1, 0), ("off", 0, 0)])
def test_one_key_turns_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, days: int, details: int
) -> None:
    meter = Meter(tmp_path / "usage.db", monkeypatch, keep)
    meter.usage.take(exchange(session_id="s"))
    asyncio.run(meter.usage.write())
    path = str(tmp_path / "usage.db")
    assert sum(row["requests"] for row in usage_file.read(path)) == days
    assert len([row for row in usage_file.grouped(path, ["session"]) if row["session"]]) == details


def test_without_a_disk_requests_are_counted_beyond_what_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(tmp_path / "usage.db", monkeypatch)
    for number in range(KEPT_SUMS + 500):
        meter.usage.take(exchange(session_id=f"s{number}"))
    assert len(meter.usage.pending) == KEPT_DETAILS + 1
    assert sum(one[0] for one in meter.usage.pending.values()) == KEPT_SUMS + 500


def test_places_are_bounded_and_a_look_that_fails_costs_nothing() -> None:
    def fail(folder: str) -> Place:
        raise OSError("gone")

    async def story() -> None:
        places = Places(lambda pid: f"/f{pid}", fail)
        for pid in range(400):
            places.of(exchange(session=pid))
            for task in list(places._looking.values()):
                await task
        assert len(places._known) == 300 and places.place("/f399") == Place("/f399", "")

    asyncio.run(story())


# -------------------------------------------------------------------------------------------------------- git


def git(folder: Path, *args: str) -> None:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.invalid", "-C", str(folder), *args]
    subprocess.run(command, check=True, capture_output=True)


def test_project_and_branch_are_gits(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    (repo / "deep" / "er").mkdir(parents=True)
    git(tmp_path, "init", "-q", "-b", "trunk/one", "repo")
    assert git_place.look(str(repo / "deep" / "er")) == Place(str(repo), "trunk/one")
    git(repo, "commit", "-q", "--allow-empty", "-m", "x")
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "tree"))
    assert git_place.look(str(tmp_path / "tree")) == Place(str(tmp_path / "tree"), "side")
    git(repo, "checkout", "-q", "--detach")
    assert len(git_place.look(str(repo)).branch) == 10
    assert git_place.look(str(tmp_path / "nowhere")) == Place(str(tmp_path / "nowhere"), "")


def test_a_hostile_git_folder_says_nothing(tmp_path: Path) -> None:
    import os

    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert git_place.look(str(tmp_path)).branch == ""
    os.unlink(tmp_path / ".git" / "HEAD")
    (tmp_path / ".git" / "HEAD").write_bytes(b"ref: refs/heads/\x1b[31mred\n" + b"x" * 10_000)
    assert git_place.look(str(tmp_path)).branch.isprintable()
    (tmp_path / ".git" / "HEAD").write_text("root:x:0:0:root:/root:/bin/bash\n")
    assert git_place.look(str(tmp_path)).branch == ""


# ---------------------------------------------------------------------------------------------- blocks, pace


def test_blocks_are_of_five_hours_from_the_first_request_on() -> None:
    hour = 1_000_000 * HOUR
    made = blocks(
        [(hour + 4 * HOUR, {"n": 2}), (hour, {"n": 1}), (hour + 5 * HOUR, {"n": 4}), (0, {"n": 100})]
    )
    assert [(one.start, one.figures["n"]) for one in made] == [(hour, 3), (hour + 5 * HOUR, 4)]
    assert made[0].hours(hour + 50 * HOUR) == 5 and made[1].hours(hour + 6.5 * HOUR) == 1.5
    assert made[1].active(hour + 6 * HOUR) and not made[0].active(hour + 6 * HOUR)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 100)), max_size=60))
def test_blocks_lose_nothing_and_do_not_overlap(hours: list[tuple[int, int]]) -> None:
    made = blocks((hour * HOUR, {"n": count}) for hour, count in hours)
    assert sum(one.figures["n"] for one in made) == sum(count for _, count in hours)
    assert all(one.end <= other.start for one, other in itertools.pairwise(made))
    assert all(one.start <= one.last < one.end for one in made)


def test_when_a_window_would_be_full() -> None:
    reset = 1e9
    start = reset - SPAN
    # Half of it in the first hour: full after two.
    assert core_pace.full_at(0.5, reset, "5h", start + HOUR) == pytest.approx(start + 2 * HOUR)
    assert core_pace.full_at(0.1, reset, "5h", start + HOUR) is None
    assert core_pace.full_at(1.0, reset, "5h", start + HOUR) == start + HOUR
    for name, when, at in (
        ("5h", None, 0.0),
        ("odd", reset, start),
        ("5h", reset, start + 60),
        ("5h", reset, reset),
    ):
        assert core_pace.per_hour(0.5, when, name, at) is None


# --------------------------------------------------------------------------------------------------- savings

TABLE = {
    "claude-haiku-4-5": {
        "litellm_provider": "anthropic",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 5e-6,
    },
    "claude-haiku-5-5": {
        **{"litellm_provider": "anthropic", "input_cost_per_token": 2e-6, "output_cost_per_token": 1e-5},
        **{"cache_read_input_token_cost": 2e-7, "cache_creation_input_token_cost": 2.5e-6},
    },
    "claude-haiku-5-5-20260101": {"litellm_provider": "anthropic", "input_cost_per_token": 9.0},
    "claude-haiku-9-9": {"litellm_provider": "bedrock", "input_cost_per_token": 9.0},
}


def test_what_haiku_on_bedrock_saved() -> None:
    rows = [
        {**dict.fromkeys(usage_file.FIGURES, 0), "slot": "haiku", "provider": "bedrock", "requests": 3}
        | {"input_tokens": 1_000_000, "output_tokens": 100_000, "cache_read_tokens": 1_000_000, "cost": 0.5},
        {**dict.fromkeys(usage_file.FIGURES, 1e9), "slot": "haiku", "provider": "anthropic"},
        {**dict.fromkeys(usage_file.FIGURES, 1e9), "slot": "opus", "provider": "bedrock"},
    ]
    found = saving(Prices(TABLE), rows)
    assert found is not None and found.model == "claude-haiku-5-5" and found.requests == 3
    assert (found.there, found.here, found.saved) == pytest.approx((3.2, 0.5, 2.7))
    assert any("tokenizer" in one for one in found.assumptions)
    other = saving(Prices(TABLE), rows, "claude-haiku-4-5")
    assert other is not None and other.there == pytest.approx(2.5)
    assert saving(Prices({}), rows) is None and saving(Prices(TABLE), rows[1:]) is None


# ---------------------------------------------------------------------------------------------- occtl usage


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setattr(verb, "_prices", lambda: Prices(TABLE, "a table", "2026-11-01"))
    return tmp_path / "state"


def run(*args: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(verb.usage, args, standalone_mode=False, **cli.context_settings)


def fill(state: Path) -> None:
    evil = "/p/<script>alert(1)</script>"
    rows = [
        detail(project=evil),
        detail(slot="haiku", provider="bedrock", project="/q", figures=(2, 0, 1_000_000, 0, 0, 0, 0.5, 0)),
        detail(THIS_HOUR - 10 * 86400),
    ]
    usage_file.add(str(state / "usage.db"), "1", rows)


def test_by_project_with_json_csv_and_savings(state: Path) -> None:
    fill(state)
    said = json.loads(run("--by", "project", "--json").stdout)
    assert [row["project"] for row in said["rows"]] == ["/p/<script>alert(1)</script>", "/q"]
    assert said["saving"]["saved"] == pytest.approx(1.5) and said["saving"]["model"] == "claude-haiku-5-5"
    assert said["prices"] == {"source": "a table", "date": "2026-11-01"} and said["cache_share"] == 0.0
    shown = run("--by", "hour", "--by", "slot").output
    assert time.strftime("%Y-%m-%d %H:00", time.localtime(THIS_HOUR))[:13] in shown
    assert (
        "saved $1.50" in shown
        and "taken for granted" in shown
        and "Prices: a table, installed 2026-11-01" in shown
    )
    error = run("--against", "nobody").exception
    assert getattr(error, "code", "") == "no-price"


def test_blocks_are_of_what_went_to_anthropic(state: Path) -> None:
    fill(state)
    (block,) = json.loads(run("--blocks", "--json").stdout)["blocks"]
    assert block["start"] == THIS_HOUR and block["active"] and block["requests"] == 1
    assert "now" in run("--blocks").output
    assert isinstance(run("--blocks", "--by", "day").exception, click.UsageError)
    assert isinstance(run("--json", "--html", "-").exception, click.UsageError)


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else_and_runs_nothing(state: Path, tmp_path: Path) -> None:
    fill(state)
    target = tmp_path / "usage.html"
    assert run("--html", str(target)).exit_code == 0
    text = target.read_text()
    assert target.stat().st_mode & 0o777 == 0o600
    page = _Page()
    page.feed(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "a", "form"}
    assert not any(name in attrs for _, attrs in page.tags for name in ("src", "href", "onload"))
    assert "default-src 'none'" in text and "://" not in text
    assert "&lt;script&gt;" in text and "1,000,010" in text
    assert run("--html", str(tmp_path / "no" / "where.html")).exception.exit_code == 73  # type: ignore[union-attr]


def test_a_long_page_is_cut_but_its_total_is_not() -> None:
    rows = [{"project": f"/p{n}", **dict.fromkeys(usage_file.FIGURES, 1)} for n in range(500)]
    text = usage_page.page("2026-01-01", NOW, {"Projects": (["project"], rows), "Days": (["day"], [])}, [])
    assert "300 others" in text and "<td class=n>500</td>" in text and text.count("<tr") == 1 + 200 + 2


def test_since_takes_weekdays() -> None:
    for day in ("monday", "sunday"):
        found = datetime.date.fromisoformat(verb.Since().convert(day, None, None))
        assert found.strftime("%A").lower() == day
        assert 0 <= (datetime.date.today() - found).days < 7
