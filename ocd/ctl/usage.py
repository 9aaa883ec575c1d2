"""``occtl usage``: requests, tokens and estimated cost, from the file in the state folder; needs no daemon."""

import csv
import datetime
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_IOERR, EX_OK, OcdError

#: by what rows can be told apart, in the order of the columns
KEYS = ("day", "model", "slot")

NOTE = (
    "Cost is an estimate from list prices, not a bill: a Claude plan does not pay by token, "
    "and AWS may have given you other prices."
)

_SPAN = re.compile(r"(\d{1,4})([dw])")


class Since(click.ParamType[str]):
    """``7d``, ``4w``, ``today`` or a date; becomes the first day, ``2026-11-21``."""

    name = "7d|DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip().lower()
        today = datetime.date.today()
        span = _SPAN.fullmatch(text)
        try:
            if text == "today":
                return today.isoformat()
            if span:
                days = int(span[1]) * (7 if span[2] == "w" else 1)
                return (today - datetime.timedelta(days=max(0, days - 1))).isoformat()
            return datetime.date.fromisoformat(text).isoformat()
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is neither a number of days (7d, 4w) nor a date (2026-01-31)", param, ctx)


@click.command(
    epilog=examples(
        "occtl usage",
        "occtl usage --since 30d --by model",
        "occtl usage --since 2026-01-01 --by day --csv > usage.csv",
        "occtl usage --since today --json | jq .total.cost",
    )
)
@click.option("--since", type=Since(), default="7d", show_default=True, help="The first day; 7d ends today.")
@click.option(
    "--by", "by", type=click.Choice(KEYS), multiple=True, help="Add up by this alone; may be repeated."
)
@json_option
@click.option("as_csv", "--csv", is_flag=True, help="Print CSV for spreadsheets.")
def usage(since: str, by: tuple[str, ...], as_json: bool, as_csv: bool) -> int:
    """Show requests, tokens and estimated cost per day, model group and slot.

    Cost is an estimate at list prices. What a Claude plan pays for is not billed by token. A request that went
    through both proxies counts once. 400 days are kept, in usage.db in the state folder.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    if _write() is False:
        screen.note("The latest requests may be missing: `occtl status` says why.")
    keys = [key for key in KEYS if key in by] or list(KEYS)
    rows = grouped(_read(since), keys)
    total = _sum(rows)
    if as_json:
        screen.out_json({"since": since, "by": keys, "rows": rows, "total": total, "note": NOTE})
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, [*keys, *total], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif not rows:
        screen.out(f"No request since {since}.")
    else:
        _table(keys, rows, total)
        screen.note(NOTE)
    return EX_OK


def _write() -> bool | None:
    """Have the daemon write what it has in memory: whether it did, None without a daemon."""
    from ocd.ctl.daemon import Daemon, NotRunning
    from ocd.wire.messages import Outcome

    try:
        with Daemon() as daemon:
            return daemon.post(Outcome, "/v1/usage/write", slow=False).ok
    except NotRunning:
        return None
    except OcdError:
        # An older daemon, or one that is being replaced: what is in the file can be shown all the same.
        return False


def _read(since: str) -> list[dict[str, Any]]:
    import sqlite3

    from ocd.adapters import usage_file
    from ocd.settings.folders import Folders

    path = Folders.find().state / "usage.db"
    try:
        return usage_file.read(str(path), since)
    except (OSError, sqlite3.Error) as error:
        raise OcdError(
            f"Cannot read {path}",
            str(error),
            "It is put aside and begun anew with the next request; remove it if no daemon runs",
            exit_code=EX_IOERR,
            code="usage",
        ) from None


def grouped(rows: Iterable[dict[str, Any]], keys: list[str]) -> list[dict[str, Any]]:
    """``rows`` of usage_file.read added up by ``keys``; cost in US dollars."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, key, strict=True)) | _sum(some) for key, some in sorted(found.items())]


def _sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from ocd.adapters.usage_file import FIGURES

    total = {name: sum(row[name] for row in rows) for name in FIGURES}
    total["cost"] = round(total["cost"], 6)
    return total


def _table(keys: list[str], rows: list[dict[str, Any]], total: dict[str, Any]) -> None:
    columns = [*keys, ">requests", ">failed", ">input", ">output", ">cached", ">cost (est.)"]
    lines = [[screen.plain(str(row[key])) or "-" for key in keys] + _figures(row) for row in rows]
    styles: list[list[str]] = [[] for _ in lines]
    if len(rows) > 1:
        lines.append(["total", *[""] * (len(keys) - 1), *_figures(total)])
        styles.append(["bold"] * len(columns))
    styles = [style or [""] * len(columns) for style in styles]
    screen.print_rich(screen.table(columns, lines, styles))
    if total["unpriced"]:
        screen.note(f"Requests to models whose price is not known: {total['unpriced']:,} (+).")


def _figures(row: dict[str, Any]) -> list[str]:
    cached = row["cache_read_tokens"] + row["cache_write_tokens"]
    cost = f"${row['cost']:,.2f}" if row["cost"] >= 0.005 or not row["cost"] else f"${row['cost']:.4f}"
    if row["unpriced"]:
        cost = f"{cost}+" if row["cost"] else "?"
    counts = (row["requests"], row["failed"], row["input_tokens"], row["output_tokens"], cached)
    return [*(f"{count:,}" for count in counts), cost]
