"""Usage on disk: one SQLite row a day, model group and slot; and what an hour's were for. Standard library only.

``usage`` has the days, as version 0.1 wrote them and reads them. ``hours`` has the same requests in detail (folder,
branch, session, subagent), for a shorter time and at most ``MOST_DETAILS`` rows. A row of ``hours`` is added to its day
within the same transaction, so what details do not tell (any more) is the difference: ``grouped`` shows it under empty
names, and its sums are those of the days.

The supervisor never loads ``sqlite3``: it runs this file as a program for each batch (``add``), so that neither a
slow disk nor a broken file can reach its loop, nor the library its memory. ``occtl usage`` reads the file itself,
with or without a daemon.

A batch has a number of its own; one that was written already is not counted twice, whoever sends it again.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

#: days that are kept
KEPT_DAYS = 400
#: days that details are kept, and rows of them: the oldest hours go first
KEPT_DETAIL_DAYS = 120
MOST_DETAILS = 100_000
#: numbers of batches that are remembered
KEPT_BATCHES = 100
#: seconds to wait for somebody else's transaction
PATIENCE = 10.0

#: what is added up for a day, model group and slot
FIGURES = (
    "requests",
    "failed",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost",
    "unpriced",
)
KEYS = ("day", "model", "slot")
#: what the details tell apart; ``hour``: seconds since 1970 at which the local hour began, ``provider``: who answered,
#: ``project``: a folder, ``session`` and ``agent``: Claude Code's ids
DETAILS = ("hour", "model", "slot", "provider", "project", "branch", "session", "agent")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, model TEXT NOT NULL, slot TEXT NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
    cost REAL NOT NULL, unpriced INTEGER NOT NULL,
    PRIMARY KEY (day, model, slot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hours (
    hour INTEGER NOT NULL, model TEXT NOT NULL, slot TEXT NOT NULL, provider TEXT NOT NULL,
    project TEXT NOT NULL, branch TEXT NOT NULL, session TEXT NOT NULL, agent TEXT NOT NULL,
    day TEXT NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
    cost REAL NOT NULL, unpriced INTEGER NOT NULL,
    PRIMARY KEY (hour, model, slot, provider, project, branch, session, agent)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (number TEXT PRIMARY KEY, written REAL NOT NULL) WITHOUT ROWID;
"""


def day_of(moment: float) -> str:
    """The local day of ``moment`` (seconds since 1970): ``2026-11-21``."""
    return time.strftime("%Y-%m-%d", time.localtime(moment))


def hour_of(moment: float) -> int:
    """When the local hour of ``moment`` began; both are seconds since 1970."""
    local = time.localtime(moment)
    return int(moment) - local.tm_min * 60 - local.tm_sec


def add(path: str, number: str, rows: Iterable[Sequence[Any]], now: float | None = None) -> str:
    """Add a batch of rows to the file, which is made if need be (0600): DETAILS, then FIGURES; or KEYS, then FIGURES,
    where no details are kept.

    Returns where a broken file was moved to, usually an empty text. Raises sqlite3.Error or OSError when the
    figures cannot be written.
    """
    import sqlite3

    now = time.time() if now is None else now
    moved = ""
    try:
        _add(path, number, rows, now)
    except sqlite3.OperationalError:
        # Full, locked, not writable: nothing is wrong with what is in the file.
        raise
    except sqlite3.DatabaseError:
        moved = _move_aside(path)
        _add(path, number, rows, now)
    return moved


def _add(path: str, number: str, rows: Iterable[Sequence[Any]], now: float) -> None:
    with contextlib.closing(_open(path)) as base, base:
        base.execute("BEGIN IMMEDIATE")
        if base.execute("SELECT 1 FROM batches WHERE number = ?", (number,)).fetchone():
            return
        days, details = _both(rows)
        _upsert(base, "usage", KEYS, (), days)
        _upsert(base, "hours", DETAILS, ("day",), details)
        # ``written`` is the order; by the clock alone, one that was set back would have the newest forgotten first.
        (newest,) = base.execute("SELECT max(written) FROM batches").fetchone()
        written = now if newest is None else max(now, math.nextafter(newest, math.inf))
        base.execute("INSERT INTO batches VALUES (?, ?)", (number, written))
        base.execute(
            "DELETE FROM batches WHERE number NOT IN "
            "(SELECT number FROM batches ORDER BY written DESC LIMIT ?)",
            (KEPT_BATCHES,),
        )
        base.execute("DELETE FROM usage WHERE day < ?", (day_of(now - KEPT_DAYS * 86400),))
        base.execute("DELETE FROM hours WHERE day < ?", (day_of(now - KEPT_DETAIL_DAYS * 86400),))
        (count,) = base.execute("SELECT count(*) FROM hours").fetchone()
        if count > MOST_DETAILS:
            # Whole hours, and a tenth more than it must be: this is not to happen with every batch.
            base.execute(
                "DELETE FROM hours WHERE hour <= (SELECT hour FROM hours ORDER BY hour LIMIT 1 OFFSET ?)",
                (count - MOST_DETAILS * 9 // 10,),
            )


def _both(rows: Iterable[Sequence[Any]]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """A batch's rows for ``usage`` and for ``hours``. Raises ValueError for a row of another form."""
    days: list[tuple[Any, ...]] = []
    details: list[tuple[Any, ...]] = []
    for row in rows:
        if len(row) == len(KEYS) + len(FIGURES):
            days.append(tuple(row))
        elif len(row) == len(DETAILS) + len(FIGURES):
            keys, figures = row[: len(DETAILS)], row[len(DETAILS) :]
            day = day_of(keys[0])
            days.append((day, keys[1], keys[2], *figures))
            details.append((*keys, day, *figures))
        else:
            raise ValueError(f"a row of {len(row)} values")
    return days, details


def _upsert(
    base: "sqlite3.Connection",
    table: str,
    keys: tuple[str, ...],
    more: tuple[str, ...],
    rows: list[tuple[Any, ...]],
) -> None:
    names = (*keys, *more, *FIGURES)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in FIGURES)
    base.executemany(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sums}",
        rows,
    )


def _open(path: str) -> "sqlite3.Connection":
    import sqlite3

    # SQLite gives its side files the mode of the main one, so that one is made first.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    base = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        base.executescript(_SCHEMA)
        for table, names in (("usage", KEYS), ("hours", (*DETAILS, "day"))):
            known = {row[1] for row in base.execute(f"PRAGMA table_info({table})")}
            if not known.issuperset((*names, *FIGURES)):
                raise sqlite3.DatabaseError("the file is not one of ours")
    except BaseException:
        base.close()
        raise
    return base


def _move_aside(path: str) -> str:
    """A file that SQLite cannot use makes room; the one that was moved before it goes."""
    aside = f"{path}.broken"
    for end in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + end)
    os.replace(path, aside)
    return aside


def read(path: str, since: str = "") -> list[dict[str, Any]]:
    """The rows from the day ``since`` on, in order; none when there is no file.

    Raises sqlite3.Error when the file cannot be read.
    """
    import sqlite3

    if not os.path.exists(path):
        return []
    names = (*KEYS, *FIGURES)
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as base:
        base.execute("PRAGMA query_only = ON")
        if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'usage'").fetchone():
            return []
        found = base.execute(
            f"SELECT {', '.join(names)} FROM usage WHERE day >= ? ORDER BY day, model, slot", (since,)
        )
        return [dict(zip(names, row, strict=True)) for row in found]


def grouped(path: str, keys: Sequence[str], since: str = "") -> list[dict[str, Any]]:
    """The sums by ``keys`` (of KEYS and DETAILS) from the day ``since`` on, in order; none when there is no file.

    What no detail tells of (days before there were any, or that are older than they are kept) stands under an empty
    name, and an ``hour`` of 0. Raises sqlite3.Error when the file cannot be read.
    """
    import sqlite3

    if not os.path.exists(path):
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as base:
        base.execute("PRAGMA query_only = ON")
        base.execute("BEGIN")
        tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
        if "usage" not in tables:
            return []
        fine = not set(keys) <= set(KEYS)
        if not fine:
            return _sums(base, "usage", keys, since)
        if "hours" not in tables:
            found: list[dict[str, Any]] = []
        else:
            found = _sums(base, "hours", keys, since)
        known = {tuple(row[key] for key in keys): row for row in found}
        for row in _untold(base, since, "hours" in tables):
            name = tuple(row.get(key, 0 if key == "hour" else "") for key in keys)
            into = known.setdefault(name, dict(zip(keys, name, strict=True)) | dict.fromkeys(FIGURES, 0))
            for figure in FIGURES:
                into[figure] += row[figure]
        return [known[name] for name in sorted(known)]


def _sums(base: "sqlite3.Connection", table: str, keys: Sequence[str], since: str) -> list[dict[str, Any]]:
    names = ", ".join(keys)
    sums = ", ".join(f"sum({name})" for name in FIGURES)
    group = f"GROUP BY {names} ORDER BY {names}" if keys else "HAVING count(*) > 0"
    rows = base.execute(
        f"SELECT {names}{', ' if names else ''}{sums} FROM {table} WHERE day >= ? {group}", (since,)
    )
    return [dict(zip((*keys, *FIGURES), row, strict=True)) for row in rows]


def _untold(base: "sqlite3.Connection", since: str, detailed: bool) -> list[dict[str, Any]]:
    """What ``usage`` has and ``hours`` has not, by KEYS."""
    told = {}
    if detailed:
        told = {tuple(r[key] for key in KEYS): r for r in _sums(base, "hours", KEYS, since)}
    rows = []
    for row in _sums(base, "usage", KEYS, since):
        detail = told.get(tuple(row[key] for key in KEYS))
        rest = {name: row[name] - (detail[name] if detail else 0) for name in FIGURES}
        if rest["requests"] > 0:
            rows.append({key: row[key] for key in KEYS} | rest)
    return rows


def last_seen(path: str) -> dict[str, str]:
    """The model that was last asked for in each slot, with success; of a day's the one with the most requests.

    Empty when there is no file, or none that can be read: nobody depends on it.
    """
    import sqlite3

    try:
        rows = [row for row in read(path) if row["slot"] and row["requests"] > row["failed"]]
    except (OSError, sqlite3.Error):
        return {}
    rows.sort(key=lambda row: (row["day"], row["requests"] - row["failed"]))
    return {row["slot"]: row["model"] for row in rows}


def spent(path: str, today: str) -> dict[str, Any]:
    """What Bedrock cost on the days of ``today``'s month so far, as ``ocd.core.budget.load`` takes it. Raises
    sqlite3.Error."""
    sums: dict[str, int] = {}
    unpriced: dict[str, int] = {}
    for row in grouped(path, ["day", "provider"], f"{today[:7]}-01"):
        if row["provider"] == "bedrock" and row["day"] <= today:
            for name in {row["day"], today[:7]}:
                sums[name] = sums.get(name, 0) + round(row["cost"] / 1e-8)
                unpriced[name] = unpriced.get(name, 0) + row["unpriced"]
    return {"sums": sums, "unpriced": unpriced, "told": []}


def main() -> int:
    """``usage_file.py PATH``: the batch is on standard input, ``{"number", "rows"}``; what came of it on standard
    output. ``usage_file.py PATH spent DAY`` prints what ``spent`` returns, ``… grouped KEY,KEY SINCE`` the rows of
    ``grouped``."""
    import sqlite3

    if sys.argv[2:3] in (["spent"], ["grouped"]):
        try:
            if sys.argv[2] == "spent":
                print(json.dumps(spent(sys.argv[1], sys.argv[3])))
            else:
                print(json.dumps({"rows": grouped(sys.argv[1], sys.argv[3].split(","), sys.argv[4])}))
        except (OSError, sqlite3.Error):
            return 1
        return 0
    try:
        batch = json.load(sys.stdin)
        moved = add(sys.argv[1], str(batch["number"]), batch["rows"])
    except (OSError, ValueError, sqlite3.Error) as error:
        print(json.dumps({"error": getattr(error, "strerror", None) or str(error)}))
        return 1
    print(json.dumps({"moved": moved}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
