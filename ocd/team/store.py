"""Who may ask for what, and what it came to: every transaction of a team's database. Blocking; times are given.

Keys are kept as SHA-256 alone. A slow hash (argon2, scrypt) protects what people think up and others guess; a key has
256 random bits, which nobody guesses whatever the hash costs, and it is looked up at every request.

A request's money: ``admit`` reserves what it may cost at most, ``book`` replaces that by what it did cost, ``expire``
books the reservation of one whose server was killed in between. Each is a transaction that holds the person's row,
knows the request by an id of its own, and may be said again: a retry, after a connection that broke at the commit,
changes nothing. A request belongs to the day and month (UTC) in which it was admitted, wherever it is booked.
"""

import datetime
import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ocd.errors import EX_NOINPUT, EX_USAGE, OcdError
from ocd.team.database import Database, Transaction

#: what keys begin with: not Anthropic's sk-ant-, and found by whoever looks for secrets in a repository
PREFIX = "sk-ocdteam-"
#: seconds for which a booked request's id is remembered; no retry comes later
KEPT = 40 * 86400
_PERSON = "name, key_hash, models, day_limit, month_limit, until_at, revoked_at"


class Refused(Exception):
    """A request that is not admitted: ``why`` is one word (key, revoked, ended, model, budget), the text is for
    people."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


@dataclass(frozen=True, slots=True)
class Person:
    """``models``: those that may be asked for, empty: all. ``day`` and ``month`` limits in units of 1e-8 US dollars, 0:
    none; ``until`` and ``revoked`` seconds since 1970, 0: never. The sums are those of now, reserved ones included."""

    name: str
    key_hash: str = field(repr=False)
    models: tuple[str, ...] = ()
    day: int = 0
    month: int = 0
    until: int = 0
    revoked: int = 0
    spent_day: int = 0
    spent_month: int = 0

    def check(self, model: str, now: float) -> None:
        """Raises Refused when this request may not be made now."""
        if self.revoked:
            raise Refused("revoked", "This key was revoked.")
        if self.until and now >= self.until:
            raise Refused("ended", "This key has ended.")
        if model and self.models and model not in self.models:
            raise Refused("model", f"This key is not for {model}, but for {', '.join(self.models)}.")

    def check_budget(self) -> None:
        for what, spent, limit in (
            ("today's", self.spent_day, self.day),
            ("this month's", self.spent_month, self.month),
        ):
            if limit and spent >= limit:
                text = f"{self.name}: {what} budget of ${limit / 1e8:,.2f} is used up or reserved."
                raise Refused("budget", text)


def new_key() -> str:
    return PREFIX + secrets.token_hex(32)


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def periods(at: float) -> tuple[str, str]:
    """The day and the month (UTC) of a time, as ``2026-11-26`` and ``2026-11``."""
    day = datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()
    return day, day[:7]


class Store:
    """Everything raises ``database.Away`` when the database does."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # ------------------------------------------------------------------------------------------ the people

    def invite(
        self,
        who: str,
        name: str,
        now: float,
        models: Sequence[str] = (),
        day: int = 0,
        month: int = 0,
        until: int = 0,
    ) -> str:
        """A key for ``name``; this is the only time that it is known. One who was revoked gets a new key, and what was
        spent stays. Raises OcdError (exit 64) when the name has a key."""
        key = new_key()
        with self.database.transaction() as tx:
            found = _person(tx, "name", name)
            if found is not None and not found.revoked:
                raise OcdError(
                    f"{name} has a key already",
                    "an invitation is for one person",
                    f"Run `occtl team revoke {name}` first, or take another name",
                    exit_code=EX_USAGE,
                    code="team-name-taken",
                )
            values = (hash_of(key), json.dumps(list(models)), day, month, until)
            if found is None:
                tx.run(
                    "INSERT INTO person (key_hash, models, day_limit, month_limit, until_at, revoked_at, "
                    "created_at, name) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
                    *values,
                    int(now),
                    name,
                )
            else:
                tx.run(
                    "UPDATE person SET key_hash = ?, models = ?, day_limit = ?, month_limit = ?, until_at = ?, "
                    "revoked_at = 0 WHERE name = ?",
                    *values,
                    name,
                )
            detail = {"models": list(models), "day": day, "month": month, "until": until}
            _note(tx, now, who, "invite", name, detail)
        return key

    def revoke(self, who: str, name: str, now: float) -> bool:
        """Returns False when it was revoked before. Raises OcdError (exit 66) when there is no such person."""
        with self.database.transaction() as tx:
            found = _known(tx, name)
            if found.revoked:
                return False
            tx.run("UPDATE person SET revoked_at = ? WHERE name = ?", int(now), name)
            _note(tx, now, who, "revoke", name, {})
        return True

    def set_budget(self, who: str, name: str, now: float, day: int | None, month: int | None) -> Person:
        """Change one or both limits (units, 0: none; None: as it is). Raises OcdError (exit 66)."""
        with self.database.transaction() as tx:
            found = _known(tx, name)
            changed = replace(
                found, day=found.day if day is None else day, month=found.month if month is None else month
            )
            if changed != found:
                tx.run(
                    "UPDATE person SET day_limit = ?, month_limit = ? WHERE name = ?",
                    changed.day,
                    changed.month,
                    name,
                )
                detail = {"day": [found.day, changed.day], "month": [found.month, changed.month]}
                _note(tx, now, who, "budget", name, detail)
            return _with_sums(tx, changed, now)

    def people(self, now: float) -> list[Person]:
        """Everybody, with what is spent or reserved of this day and month."""
        day, month = periods(now)
        with self.database.transaction() as tx:
            sums = {
                (str(name), str(period)): int(total)
                for name, period, total in tx.rows(
                    "SELECT name, period, spent + reserved FROM spending WHERE period IN (?, ?)", day, month
                )
            }
            found = [_read(row) for row in tx.rows(f"SELECT {_PERSON} FROM person ORDER BY name")]
        return [
            replace(one, spent_day=sums.get((one.name, day), 0), spent_month=sums.get((one.name, month), 0))
            for one in found
        ]

    def find(self, key_hash: str, now: float) -> Person | None:
        """Whose key that is; None: nobody's."""
        with self.database.transaction() as tx:
            row = tx.row(f"SELECT {_PERSON} FROM person WHERE key_hash = ?", key_hash)
            return None if row is None else _with_sums(tx, _read(row), now)

    def audit(self) -> list[dict[str, Any]]:
        """Who did what, oldest first."""
        with self.database.transaction() as tx:
            rows = tx.rows("SELECT at, who, what, whom, detail FROM audit ORDER BY number, id")
        return [
            {"at": int(at), "who": who, "what": what, "whom": whom, "detail": json.loads(detail)}
            for at, who, what, whom, detail in rows
        ]

    # ------------------------------------------------------------------------------------------ the money

    def admit(
        self, request: str, key_hash: str, model: str, units: int, now: float, expires: float
    ) -> Person:
        """Reserve ``units`` for a request, if what is spent and reserved is below both limits. Raises Refused."""
        with self.database.transaction() as tx:
            person = _person(tx, "key_hash", key_hash)
            if person is None:
                raise Refused("key", "This key is not known here.")
            person.check(model, now)
            if tx.row("SELECT id FROM request WHERE id = ?", request) is not None:
                return person  # said again: it was admitted
            person = _with_sums(tx, person, now)
            person.check_budget()
            _reserve(tx, request, person.name, model, units, now, expires)
            return replace(person, spent_day=person.spent_day + units, spent_month=person.spent_month + units)

    def reserve(self, request: str, name: str, model: str, units: int, at: float, expires: float) -> None:
        """Note a request that was admitted (at ``at``) while the database was away."""
        with self.database.transaction() as tx:
            _hold(tx, name)
            if tx.row("SELECT id FROM request WHERE id = ?", request) is None:
                _reserve(tx, request, name, model, units, at, expires)

    def book(self, request: str, name: str, model: str, cost: int, at: float) -> bool:
        """Book what a request cost, once. Returns False when that was done before."""
        with self.database.transaction() as tx:
            _hold(tx, name)
            found = tx.row("SELECT state, reserved, at FROM request WHERE id = ?", request)
            if found is None:
                tx.run(
                    "INSERT INTO request (id, name, model, at, state, reserved, cost, expires) "
                    "VALUES (?, ?, ?, ?, 'booked', 0, ?, 0)",
                    *(request, name, model, int(at), cost),
                )
                _add(tx, name, at, cost, 0, 1)
                return True
            state, reserved, admitted = str(found[0]), int(found[1]), int(found[2])
            if state == "booked":
                return False
            tx.run("UPDATE request SET state = 'booked', cost = ? WHERE id = ?", cost, request)
            if state == "reserved":
                _add(tx, name, admitted, cost, -reserved, 0)
            else:  # expired, and counted as reserved: it did come to an end after all
                _add(tx, name, admitted, cost - reserved, 0, 0)
            return True

    def touch(self, requests: Iterable[str], expires: float) -> None:
        """These are still being answered."""
        with self.database.transaction() as tx:
            for request in requests:
                tx.run(
                    "UPDATE request SET expires = ? WHERE id = ? AND state = 'reserved'",
                    int(expires),
                    request,
                )

    def expire(self, now: float) -> int:
        """Book what nobody will book any more as it was reserved; returns how many. Old ids are forgotten."""
        with self.database.transaction() as tx:
            over = tx.rows(
                "SELECT id, name FROM request WHERE state = 'reserved' AND expires < ? LIMIT 500", int(now)
            )
            tx.run("DELETE FROM request WHERE state <> 'reserved' AND at < ?", int(now - KEPT))
        count = 0
        for request, name in over:
            with self.database.transaction() as tx:
                _hold(tx, name)
                found = tx.row(
                    "SELECT reserved, at FROM request WHERE id = ? AND state = 'reserved' AND expires < ?",
                    *(request, int(now)),
                )
                if found is None:
                    continue
                tx.run("UPDATE request SET state = 'expired', cost = reserved WHERE id = ?", request)
                _add(tx, name, int(found[1]), int(found[0]), -int(found[0]), 0)
                count += 1
        return count


def _read(row: Sequence[Any]) -> Person:
    name, key_hash, models, day, month, until, revoked = row
    return Person(name, key_hash, tuple(json.loads(models)), int(day), int(month), int(until), int(revoked))


def _person(tx: Transaction, column: str, value: str) -> Person | None:
    row = tx.row(f"SELECT {_PERSON} FROM person WHERE {column} = ?{tx.lock}", value)
    return None if row is None else _read(row)


def _known(tx: Transaction, name: str) -> Person:
    found = _person(tx, "name", name)
    if found is None:
        raise OcdError(
            f"There is no {name} in the team",
            "nobody was invited by that name",
            "Run `occtl team list`",
            exit_code=EX_NOINPUT,
            code="team-nobody",
        )
    return found


def _hold(tx: Transaction, name: str) -> None:
    """Nobody else changes this person's sums before the end of the transaction."""
    tx.rows(f"SELECT name FROM person WHERE name = ?{tx.lock}", name)


def _with_sums(tx: Transaction, person: Person, now: float) -> Person:
    day, month = periods(now)
    rows = tx.rows(
        "SELECT period, spent + reserved FROM spending WHERE name = ? AND period IN (?, ?)",
        *(person.name, day, month),
    )
    sums = {str(period): int(total) for period, total in rows}
    return replace(person, spent_day=sums.get(day, 0), spent_month=sums.get(month, 0))


def _reserve(
    tx: Transaction, request: str, name: str, model: str, units: int, at: float, expires: float
) -> None:
    tx.run(
        "INSERT INTO request (id, name, model, at, state, reserved, cost, expires) "
        "VALUES (?, ?, ?, ?, 'reserved', ?, 0, ?)",
        *(request, name, model, int(at), units, int(expires)),
    )
    _add(tx, name, at, 0, units, 1)


def _add(tx: Transaction, name: str, at: float, spent: int, reserved: int, requests: int) -> None:
    for period in periods(at):
        tx.run(
            "INSERT INTO spending (name, period, spent, reserved, requests) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (name, period) DO UPDATE SET spent = spending.spent + excluded.spent, "
            "reserved = spending.reserved + excluded.reserved, requests = spending.requests + excluded.requests",
            *(name, period, spent, reserved, requests),
        )


def _note(tx: Transaction, now: float, who: str, what: str, whom: str, detail: dict[str, Any]) -> None:
    tx.run(
        "INSERT INTO audit (id, number, at, who, what, whom, detail) "
        "SELECT ?, COALESCE(MAX(number), 0) + 1, ?, ?, ?, ?, ? FROM audit",
        *(secrets.token_hex(16), int(now), who, what, whom, json.dumps(detail, sort_keys=True)),
    )
