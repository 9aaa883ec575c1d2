"""A team's database (SQLite; PostgreSQL: tests/process/test_serve_team.py): admitted and booked exactly once."""

from __future__ import annotations

import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocd.errors import OcdError
from ocd.team import database
from ocd.team.database import Away, Database
from ocd.team.store import Refused, Store, hash_of

NOW = 1_790_000_000.0
DOLLAR = 100_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Database(f"sqlite://{tmp_path}/team.db")
    found.migrate()
    yield Store(found)
    found.close()


def sums(store: Store, now: float = NOW) -> tuple[int, int]:
    (one,) = store.people(now)
    return one.spent_day, one.spent_month


def test_migrations_run_once_and_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    first = Database(f"sqlite://{path}")
    assert first.migrate() == ["0001-people", "0002-audit"] and first.migrate() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with first.transaction() as tx:
        tx.run("INSERT INTO migration (name) VALUES ('9999-later')")
    with pytest.raises(OcdError, match="newer") as refused:
        first.migrate()
    assert refused.value.exit_code == 78
    first.close()


def test_a_key_is_kept_as_its_hash_and_an_invitation_is_for_one(store: Store, tmp_path: Path) -> None:
    key = store.invite("root", "ada", NOW, ["haiku"], DOLLAR, 2 * DOLLAR)
    assert key.startswith("sk-ocdteam-") and len(key) == 75
    for path in tmp_path.iterdir():
        assert key.encode() not in path.read_bytes()
    with pytest.raises(OcdError, match="has a key already"):
        store.invite("root", "ada", NOW)
    assert store.admit("r1", hash_of(key), "haiku", 5, NOW, NOW + 60).name == "ada"
    with pytest.raises(Refused) as refused:
        store.admit("r2", hash_of(key), "opus", 5, NOW, NOW + 60)
    assert refused.value.why == "model"
    assert store.revoke("root", "ada", NOW) and not store.revoke("root", "ada", NOW)
    with pytest.raises(Refused) as refused:
        store.admit("r3", hash_of(key), "haiku", 5, NOW, NOW + 60)
    assert refused.value.why == "revoked"
    again = store.invite("root", "ada", NOW)
    with pytest.raises(Refused, match="not known"):
        store.admit("r4", hash_of(key), "haiku", 5, NOW, NOW + 60)
    assert store.admit("r5", hash_of(again), "haiku", 5, NOW, NOW + 60).spent_day == 10


def test_an_end(store: Store) -> None:
    key = hash_of(store.invite("root", "ada", NOW, until=int(NOW) + 10))
    store.admit("r1", key, "haiku", 0, NOW + 9, NOW + 60)
    with pytest.raises(Refused) as refused:
        store.admit("r2", key, "haiku", 0, NOW + 10, NOW + 60)
    assert refused.value.why == "ended"


def test_a_budget_counts_what_is_reserved(store: Store) -> None:
    key = hash_of(store.invite("root", "ada", NOW, day=100))
    store.admit("r1", key, "haiku", 99, NOW, NOW + 60)
    store.admit("r2", key, "haiku", 99, NOW, NOW + 60)  # 99 of 100: admitted
    with pytest.raises(Refused) as refused:
        store.admit("r3", key, "haiku", 1, NOW, NOW + 60)
    assert refused.value.why == "budget" and "$0.00" in str(refused.value)
    assert store.book("r1", "ada", "haiku", 10, NOW) and store.book("r2", "ada", "haiku", 10, NOW)
    assert sums(store) == (20, 20)
    store.admit("r3", key, "haiku", 1, NOW, NOW + 60)
    tomorrow = NOW + 86400
    assert sums(store, tomorrow) == (0, 21), "another day, the same month"
    assert store.set_budget("root", "ada", NOW, None, 21).spent_month == 21
    with pytest.raises(Refused, match="this month"):
        store.admit("r4", key, "haiku", 1, tomorrow, NOW + 60)


def test_a_reservation_that_nobody_books_is_counted(store: Store) -> None:
    key = hash_of(store.invite("root", "ada", NOW))
    store.admit("r1", key, "haiku", 70, NOW, NOW + 60)
    assert store.expire(NOW + 60) == 0
    store.touch(["r1"], NOW + 100)
    assert store.expire(NOW + 61) == 0, "its server lives"
    assert store.expire(NOW + 101) == 1 and store.expire(NOW + 101) == 0
    assert sums(store) == (70, 70)
    assert store.book("r1", "ada", "haiku", 12, NOW), "it did end after all"
    assert not store.book("r1", "ada", "haiku", 12, NOW) and sums(store) == (12, 12)


def test_the_audit_trail_only_grows(store: Store) -> None:
    store.invite("eve@host", "ada", NOW, ["haiku"])
    store.set_budget("eve@host", "ada", NOW + 1, 5, None)
    store.set_budget("eve@host", "ada", NOW + 1, 5, None)  # changes nothing
    store.revoke("eve@host", "ada", NOW + 2)
    assert [(one["who"], one["what"], one["whom"]) for one in store.audit()] == [
        ("eve@host", what, "ada") for what in ("invite", "budget", "revoke")
    ]
    for statement in ("DELETE FROM audit", "UPDATE audit SET who = 'x'"):
        with pytest.raises(sqlite3.IntegrityError), store.database.transaction() as tx:
            tx.run(statement)
    assert len(store.audit()) == 3


def test_a_database_that_is_away(tmp_path: Path) -> None:
    gone = Database(f"sqlite://{tmp_path}/no/folder/team.db")
    with pytest.raises(Away):
        gone.migrate()


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "team.db", "sqlite:///"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(OcdError) as refused:
        Database(url)
    assert refused.value.exit_code == 64


def test_the_address_comes_without_a_password_in_argv(tmp_path: Path) -> None:
    with pytest.raises(OcdError, match="command line"):
        database.address("postgresql://a:hidden@h/d", {})
    secret = tmp_path / "url"
    secret.write_text("postgresql://a:b@h/d\n")
    assert database.address("", {"OCD_TEAM_DATABASE_FILE": str(secret)}) == "postgresql://a:b@h/d"
    with pytest.raises(OcdError, match="Nothing says"):
        database.address("", {})


def test_postgresql_without_psycopg_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(OcdError, match="psycopg"):
        Database("postgresql://h/d")


#: what happens to one request: its server is killed after this step; each step may be said again, and late
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "reserve", "book", "expire", "touch", "crash"]),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
    max_size=60,
)


class Crash(Exception):
    pass


@settings(max_examples=120, deadline=None)
@given(steps=STEPS, costs=st.lists(st.integers(0, 50), min_size=6, max_size=6))
def test_exactly_once_whatever_is_said_again(steps: list[tuple[str, int, int]], costs: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = Database(f"sqlite://{folder}/team.db")
        found.migrate()
        store = Store(found)
        key, limit = hash_of(store.invite("root", "ada", NOW, day=120)), 120
        reserved = {n: 10 * (n + 1) for n in range(6)}
        #: the model: what each request counts as, and in which state it is
        counts: dict[int, int] = {}
        state: dict[int, str] = {}
        expires: dict[int, float] = {}
        now = NOW
        for what, n, later in steps:
            now += later
            name = f"r{n}"
            before = sum(counts.values())
            if what == "admit":
                try:
                    store.admit(name, key, "haiku", reserved[n], now, now + 5)
                    assert n in state or before < limit
                    if n not in state:
                        state[n], counts[n], expires[n] = "reserved", reserved[n], now + 5
                except Refused:
                    assert n not in state and before >= limit
            elif what == "reserve":
                store.reserve(name, "ada", "haiku", reserved[n], now, now + 5)
                if n not in state:
                    state[n], counts[n], expires[n] = "reserved", reserved[n], now + 5
            elif what == "book":
                assert store.book(name, "ada", "haiku", costs[n], now) == (state.get(n) != "booked")
                state[n], counts[n] = "booked", costs[n]
            elif what == "touch":
                store.touch([name], now + 5)
                if state.get(n) == "reserved":
                    expires[n] = now + 5
            elif what == "expire":
                store.expire(now)
                for m in [m for m in state if state[m] == "reserved" and int(expires[m]) < int(now)]:
                    state[m] = "expired"
            else:
                # Killed within a transaction: nothing of it stays.
                with pytest.raises(Crash), found.transaction() as tx:
                    tx.run("UPDATE spending SET spent = spent + 1000")
                    raise Crash
                found.close()
            assert sums(store, NOW)[1] == sum(counts.values())
        found.close()
