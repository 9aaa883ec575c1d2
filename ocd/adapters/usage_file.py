"""Usage on disk: one SQLite row a day, model group and slot. Standard library only.

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

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, model TEXT NOT NULL, slot TEXT NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
    cost REAL NOT NULL, unpriced INTEGER NOT NULL,
    PRIMARY KEY (day, model, slot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (number TEXT PRIMARY KEY, written REAL NOT NULL) WITHOUT ROWID;
"""


def day_of(moment: float) -> str:
    """The local day of ``moment`` (seconds since 1970): ``2026-11-21``."""
    return time.strftime("%Y-%m-%d", time.localtime(moment))


def add(path: str, number: str, rows: Iterable[Sequence[Any]], now: float | None = None) -> str:
    """Add a batch of rows (KEYS, then FIGURES) to the file, which is made if need be (0600).

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
        names = ", ".join((*KEYS, *FIGURES))
        marks = ", ".join("?" * len((*KEYS, *FIGURES)))
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in FIGURES)
        base.executemany(
            f"INSERT INTO usage ({names}) VALUES ({marks}) ON CONFLICT ({', '.join(KEYS)}) DO UPDATE SET {sums}",
            rows,
        )
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


def _open(path: str) -> "sqlite3.Connection":
    import sqlite3

    # SQLite gives its side files the mode of the main one, so that one is made first.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    base = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        base.executescript(_SCHEMA)
        known = {row[1] for row in base.execute("PRAGMA table_info(usage)")}
        if not known.issuperset((*KEYS, *FIGURES)):
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


def main() -> int:
    """``usage.py PATH``: the batch is on standard input, ``{"number", "rows"}``; what came of it on standard output."""
    import sqlite3

    try:
        batch = json.load(sys.stdin)
        moved = add(sys.argv[1], str(batch["number"]), batch["rows"])
    except (OSError, sqlite3.Error) as error:
        print(json.dumps({"error": getattr(error, "strerror", None) or str(error)}))
        return 1
    print(json.dumps({"moved": moved}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
