"""``occtl team``: who may use a team's server, and for how much. Works on its database, wherever that is."""

import datetime
import getpass
import os
import re
import shlex
import socket
import time
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.team.store import Person, Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")

database_option = click.option(
    "--database",
    metavar="URL",
    default="",
    help="sqlite:///FILE or postgresql://…, without a password; else OCD_TEAM_DATABASE or OCD_TEAM_DATABASE_FILE.",
)
_day = click.option(
    "--budget-day", "day", type=click.FloatRange(0, 1e7), help="US dollars a day, 0: no limit."
)
_month = click.option(
    "--budget-month", "month", type=click.FloatRange(0, 1e7), help="US dollars a month, 0: no limit."
)


@click.group(
    short_help="Say who may use your team's server.",
    epilog=examples(
        "occtl team invite ada --budget-day 5 --url https://bedrock.team.example",
        "occtl team list",
        "occtl team budget ada --budget-month 100",
        "occtl team revoke ada",
    ),
)
def team() -> None:
    """Say who may use your team's server: keys, budgets, and who changed what.

    Works on the server's database; days and months are those of UTC.
    """


@team.command(
    short_help="Make a key, and the line to paste.",
    epilog=examples("occtl team invite ada --models haiku --budget-day 5 --until 2027-06-30"),
)
@click.argument("name")
@click.option("--models", default="", metavar="A,B", help="Model names that the key is for; without it, all.")
@_day
@_month
@click.option(
    "--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day (UTC) on which the key is good."
)
@click.option("--url", envvar="OCD_TEAM_URL", default="", help="The server's address, for the invitation.")
@database_option
@json_option
def invite(
    name: str,
    models: str,
    day: float | None,
    month: float | None,
    until: datetime.datetime | None,
    url: str,
    database: str,
    as_json: bool,
) -> int:
    """Make a key for NAME and print the line that they paste. The key is shown this once."""
    from ocd.core.budget import to_units

    if not _NAME.fullmatch(name):
        raise OcdError(
            "The name cannot be used",
            "it has other characters than letters, digits and ._@+-, or more than 64",
            "Take a login or a mail address",
            exit_code=EX_USAGE,
            code="team-name",
        )
    if not url.startswith("https://") or not url.isprintable() or " " in url:
        raise OcdError(
            "The invitation needs the server's address",
            "it begins with https://" if url else "neither --url nor OCD_TEAM_URL is given",
            "Add --url https://bedrock.team.example",
            exit_code=EX_USAGE,
            code="team-url",
        )
    end = 0
    if until is not None:
        last = until.replace(tzinfo=datetime.UTC) + datetime.timedelta(days=1)
        end = int(last.timestamp())
    wanted = [one.strip() for one in models.split(",") if one.strip()]
    with _store(database) as store:
        key = store.invite(_who(), name, time.time(), wanted, to_units(day or 0), to_units(month or 0), end)
    line = f"OCD_TEAM_URL={shlex.quote(url)} OCD_TEAM_KEY={key} occtl init --preset team"
    if as_json:
        screen.out_json({"name": name, "url": url, "key": key, "line": line})
    else:
        screen.out(f"For {name} alone, and not shown again; they paste it into a terminal:")
        screen.out(line)
    return EX_OK


@team.command(
    "list",
    short_help="Show people, limits and what is spent.",
    epilog=examples("occtl team list", "occtl team list --json", "occtl team list --audit"),
)
@click.option("--audit", is_flag=True, help="Who invited, revoked or changed whom, oldest first.")
@database_option
@json_option
def list_(audit: bool, database: str, as_json: bool) -> int:
    """Show the people, their models, what they spent today and this month, and their limits."""
    now = time.time()
    with _store(database) as store:
        if audit:
            entries = store.audit()
            if as_json:
                screen.out_json(entries)
            for one in entries if not as_json else ():
                detail = " ".join(f"{name}={value}" for name, value in one["detail"].items())
                screen.out(
                    screen.plain(f"{_time(one['at'])}  {one['who']}  {one['what']}  {one['whom']}  {detail}")
                )
            return EX_OK
        people = store.people(now)
    if as_json:
        screen.out_json([_dump(one, now) for one in people])
        return EX_OK
    for person in people:
        spent = f"today {_money(person.spent_day, person.day)}, this month {_money(person.spent_month, person.month)}"
        models = ", ".join(person.models) or "all models"
        screen.out(screen.plain(f"{person.name}: {_state(person, now)}, {spent}, {models}"))
    if not people:
        screen.out("Nobody is invited yet: `occtl team invite NAME` does it.")
    return EX_OK


@team.command(short_help="End a key.", epilog=examples("occtl team revoke ada"))
@click.argument("name")
@database_option
@json_option
def revoke(name: str, database: str, as_json: bool) -> int:
    """End NAME's key: at once on every server, within a minute on one that does not reach the database."""
    with _store(database) as store:
        changed = store.revoke(_who(), name, time.time())
    if as_json:
        screen.out_json({"name": name, "changed": changed})
    else:
        screen.out(f"{name}'s key is revoked." if changed else f"{name}'s key was revoked before.")
    return EX_OK


@team.command(
    short_help="Show or set limits.",
    epilog=examples("occtl team budget ada", "occtl team budget ada --budget-day 5 --budget-month 100"),
)
@click.argument("name")
@_day
@_month
@database_option
@json_option
def budget(name: str, day: float | None, month: float | None, database: str, as_json: bool) -> int:
    """Show NAME's limits and what is spent of them; with an option, set one. It holds from the next request on."""
    from ocd.core.budget import to_units

    now = time.time()
    with _store(database) as store:
        person = store.set_budget(
            _who(),
            name,
            now,
            None if day is None else to_units(day),
            None if month is None else to_units(month),
        )
    if as_json:
        screen.out_json(_dump(person, now))
    else:
        screen.out(f"{name}: today {_money(person.spent_day, person.day)}")
        screen.out(f"{name}: this month {_money(person.spent_month, person.month)}")
    return EX_OK


class _store:
    """The store at the address that the user gave, with its tables; errors for people."""

    def __init__(self, given: str) -> None:
        self._given = given

    def __enter__(self) -> "Store":
        from ocd.team import database
        from ocd.team.store import Store

        self._database = database.Database(database.address(self._given, os.environ))
        try:
            self._database.migrate()
        except database.Away as error:
            raise database.away(error) from None
        return Store(self._database)

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        from ocd.team import database

        self._database.close()
        if isinstance(error, database.Away):
            raise database.away(error) from None


def _who() -> str:
    """Who acts, for the audit trail: the login behind a sudo, and the machine."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def _state(person: "Person", now: float) -> str:
    if person.revoked:
        return f"revoked {_time(person.revoked)}"
    if person.until:
        return f"{'ended' if now >= person.until else 'until'} {_time(person.until)}"
    return "active"


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _money(units: int, limit: int) -> str:
    from ocd.core.budget import money

    return f"{money(units)} of {money(limit)}" if limit else f"{money(units)} (no limit)"


def _dump(person: "Person", now: float) -> dict[str, Any]:
    return {
        "name": person.name,
        "state": _state(person, now).split(" ")[0],
        "models": list(person.models),
        "until": person.until or None,
        "day": {"spent": person.spent_day / 1e8, "limit": person.day / 1e8 or None},
        "month": {"spent": person.spent_month / 1e8, "limit": person.month / 1e8 or None},
    }
