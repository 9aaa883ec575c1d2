"""SQLite for one host, PostgreSQL for replicas: one way to run the same plain SQL in a transaction.

SQLite needs the standard library alone; psycopg is imported when a PostgreSQL address is opened. Statements have ``?``
for their values and no other question mark or per cent sign. A connection belongs to the thread that opened it.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ocd.errors import EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, OcdError

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
VARIABLE = "OCD_TEAM_DATABASE"
#: seconds until a database that does not answer counts as away
CONNECT, STATEMENT = 2, 5
#: any number that nobody else locks: one replica migrates, the others wait
_LOCK = 0x0CD7EA


class Away(Exception):
    """The database cannot be reached, or the connection broke: whether the transaction was committed is not known."""


class Transaction:
    """Statements of one transaction; ``lock`` ends a SELECT whose row nobody else may change before the end."""

    def __init__(self, cursor: Any, mark: str, lock: str) -> None:
        self._cursor = cursor
        self._mark = mark
        self.lock = lock

    def run(self, sql: str, *values: Any) -> int:
        """Returns the number of rows that it changed."""
        self._cursor.execute(sql.replace("?", self._mark), values)
        return int(self._cursor.rowcount)

    def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        self._cursor.execute(sql.replace("?", self._mark), values)
        return list(self._cursor.fetchall())

    def row(self, sql: str, *values: Any) -> Sequence[Any] | None:
        found = self.rows(sql, *values)
        return found[0] if found else None


class Database:
    """``url``: ``sqlite:///path/to/file`` or ``postgresql://…``. Raises OcdError (exit 64) for any other."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
            self.kind = "sqlite"
            self._path = unquote(parts.path)
        elif parts.scheme in ("postgresql", "postgres"):
            self.kind = "postgresql"
            self._url = url
            self._psycopg = _psycopg()
        else:
            raise OcdError(
                "The address of the team's database cannot be used",
                "it is neither sqlite:///path/to/file nor postgresql://…",
                f"Set {VARIABLE} to one of the two",
                exit_code=EX_USAGE,
                code="team-database-address",
            )
        self._here = threading.local()
        #: every thread's, for the end
        self._all: list[Any] = []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing. Raises Away; a connection that broke is opened anew by the next one."""
        connection = self._connection()
        try:
            if self.kind == "sqlite":
                cursor = connection.cursor()
                # Whoever only began to read could not write any more once somebody else has written.
                cursor.execute("BEGIN IMMEDIATE")
                yield Transaction(cursor, "?", "")
                connection.commit()
            else:
                with connection.transaction(), connection.cursor() as cursor:
                    yield Transaction(cursor, "%s", " FOR UPDATE")
        except BaseException as error:
            self._rollback(connection)
            if self._is_away(error):
                raise Away(type(error).__name__) from None
            raise

    def close(self) -> None:
        """Close this thread's connection."""
        connection, self._here.connection = getattr(self._here, "connection", None), None
        if connection is not None:
            with contextlib.suppress(ValueError):
                self._all.remove(connection)
            with contextlib.suppress(Exception):
                connection.close()

    def close_all(self) -> None:
        """Close every thread's connection; none may be in use any more."""
        while self._all:
            with contextlib.suppress(Exception):
                self._all.pop().close()

    def migrate(self) -> list[str]:
        """Bring the tables to what this version needs; returns the migrations that ran. Raises Away, or OcdError
        (exit 78) for a database that a newer version has changed."""
        with self.transaction() as tx:
            if self.kind == "postgresql":
                tx.rows("SELECT pg_advisory_xact_lock(?)", _LOCK)
            tx.run("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY)")
            done = {str(row[0]) for row in tx.rows("SELECT name FROM migration")}
            found = migrations(self.kind)
            if unknown := done - set(found):
                raise OcdError(
                    "The team's database is of a newer ocd",
                    f"it has {', '.join(sorted(unknown))}",
                    "Run `occtl upgrade`",
                    exit_code=EX_CONFIG,
                    code="team-database-newer",
                )
            ran = [name for name in found if name not in done]
            for name in ran:
                for statement in found[name]:
                    tx.run(statement)
                tx.run("INSERT INTO migration (name) VALUES (?)", name)
        return ran

    # ------------------------------------------------------------------------------------------- connections

    def _connection(self) -> Any:
        connection = getattr(self._here, "connection", None)
        if connection is None or (self.kind == "postgresql" and connection.closed):
            try:
                connection = self._open()
            except Exception as error:
                if self._is_away(error):
                    raise Away(type(error).__name__) from None
                raise
            self._here.connection = connection
            self._all.append(connection)
        return connection

    def _open(self) -> Any:
        if self.kind == "sqlite":
            if not os.path.exists(self._path):
                # Hashes of keys and who spent what: nobody else's business.
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            # Each thread has its own; another one only closes it, at the end.
            connection = sqlite3.connect(
                self._path, timeout=STATEMENT, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            return connection
        return self._psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT,
            application_name="ocd-team",
            options=f"-c statement_timeout={STATEMENT}s -c lock_timeout={STATEMENT}s",
            tcp_user_timeout=STATEMENT * 1000,
        )

    def _rollback(self, connection: Any) -> None:
        if self.kind == "sqlite":
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
        elif connection.broken or connection.closed:
            self.close()

    def _is_away(self, error: BaseException) -> bool:
        if self.kind == "sqlite":
            return isinstance(error, sqlite3.OperationalError | OSError)
        return isinstance(error, self._psycopg.OperationalError | self._psycopg.InterfaceError)


def migrations(kind: str) -> Mapping[str, list[str]]:
    """Name → statements of every migration for this kind of database, in order."""
    found = {}
    for path in sorted(MIGRATIONS.glob("*.sql")):
        name, _, only = path.name.removesuffix(".sql").partition(".")
        if only in ("", kind):
            found[name] = [part.strip() for part in path.read_text().split("\n\n") if part.strip()]
    return found


def address(given: str, environ: Mapping[str, str]) -> str:
    """Where the database is: the option, else OCD_TEAM_DATABASE, else the file that OCD_TEAM_DATABASE_FILE names (an
    engine's secret). Raises OcdError: exit 64 for a password in the option, 78 when nothing says it."""
    if given:
        if urlsplit(given).password:
            raise OcdError(
                "The database's password is on the command line",
                "every user of the machine can read it there",
                f"Set {VARIABLE} instead, or name a file in {VARIABLE}_FILE",
                exit_code=EX_USAGE,
                code="password-in-argv",
            )
        return given
    if found := environ.get(VARIABLE, "").strip():
        return found
    if path := environ.get(f"{VARIABLE}_FILE", ""):
        try:
            return Path(path).read_text().strip()
        except (OSError, ValueError) as error:
            raise OcdError(
                f"Cannot read {path}",
                getattr(error, "strerror", "") or "it is no text",
                f"Correct {VARIABLE}_FILE",
                exit_code=EX_CONFIG,
                code="team-database-file",
            ) from None
    raise OcdError(
        "Nothing says where the team's database is",
        f"neither --database nor {VARIABLE} nor {VARIABLE}_FILE is given",
        f"Set {VARIABLE} to sqlite:///path/to/file or postgresql://…",
        exit_code=EX_CONFIG,
        code="no-team-database",
    )


def away(error: Away) -> OcdError:
    """What a command says when the database is away."""
    return OcdError(
        "The team's database does not answer",
        str(error),
        f"Start it, or correct {VARIABLE}",
        exit_code=EX_UNAVAILABLE,
        code="team-database-away",
    )


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise OcdError(
            "PostgreSQL cannot be asked from here",
            "psycopg is not installed",
            "Install what requirements/team.txt names, or use sqlite:///path/to/file",
            exit_code=EX_UNAVAILABLE,
            code="no-psycopg",
        ) from None
    return psycopg
