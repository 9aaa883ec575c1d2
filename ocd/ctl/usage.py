"""``occtl usage``: requests, tokens and estimated cost, from the file in the state folder; needs no daemon."""

import csv
import datetime
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ocd.core.blocks import Block, blocks
from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CANTCREAT, EX_IOERR, EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.stack.prices import Prices, Saving

#: by what rows can be told apart, in the order of the columns
KEYS = ("day", "hour", "project", "branch", "session", "agent", "model", "slot", "provider")
#: without any --by
DEFAULT_KEYS = ("day", "model", "slot")
#: what is added up for the blocks of five hours
_OF_BLOCKS = ("requests", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost")
#: blocks that the summary looks back for: the one of now began less than five hours ago
_RECENT = 2

NOTE = (
    "Cost is an estimate from list prices, not a bill: a Claude plan does not pay by token, "
    "and AWS may have given you other prices."
)

_SPAN = re.compile(r"(\d{1,4})([dw])")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Since(click.ParamType[str]):
    """``7d``, ``4w``, ``today``, a weekday or a date; becomes the first day, ``2026-11-21``."""

    name = "7d|monday|DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip().lower()
        today = datetime.date.today()
        span = _SPAN.fullmatch(text)
        try:
            if text in ("today", "yesterday"):
                return (today - datetime.timedelta(days=text == "yesterday")).isoformat()
            if text in _WEEKDAYS:
                back = (today.weekday() - _WEEKDAYS.index(text)) % 7
                return (today - datetime.timedelta(days=back)).isoformat()
            if span:
                days = int(span[1]) * (7 if span[2] == "w" else 1)
                return (today - datetime.timedelta(days=max(0, days - 1))).isoformat()
            return datetime.date.fromisoformat(text).isoformat()
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is neither a number of days (7d, 4w), nor a weekday (monday), nor a date (2026-01-31)",
                param,
                ctx,
            )


@click.command(
    short_help="Show requests, tokens and estimated cost.",
    epilog=examples(
        "occtl usage",
        "occtl usage --since monday --by project",
        "occtl usage --since today --by hour --by model",
        "occtl usage --blocks",
        "occtl usage --since 30d --html usage.html",
        "occtl usage --since today --json | jq .total.cost",
    ),
)
@click.option("--since", type=Since(), default="7d", show_default=True, help="The first day; 7d ends today.")
@click.option(
    "--by", "by", type=click.Choice(KEYS), multiple=True, help="Add up by this alone; may be repeated."
)
@click.option(
    "--blocks", "as_blocks", is_flag=True, help="Show what went to Anthropic in spans of five hours."
)
@click.option(
    "--against",
    metavar="MODEL",
    default="",
    help="Compare the haiku slot on Bedrock with this model's list price.",
)
@json_option
@click.option("as_csv", "--csv", is_flag=True, help="Print CSV for spreadsheets.")
@click.option(
    "html",
    "--html",
    type=click.Path(dir_okay=False),
    help="Write one self-contained page with plots; - is standard output.",
)
def usage(
    since: str,
    by: tuple[str, ...],
    as_blocks: bool,
    against: str,
    as_json: bool,
    as_csv: bool,
    html: str | None,
) -> int:
    """Show requests, tokens and estimated cost per day, project, session, model group and so on.

    Cost is an estimate at list prices. What a Claude plan pays for is not billed by token. A request that went
    through both proxies counts once. 400 days are kept, of which the last 120 by hour, project (the repository's
    folder), branch, session and subagent, in usage.db in the state folder; `[usage] keep` turns that off. What is not
    known in such detail stands under "-", so that every table has the same total.
    """
    if as_json + as_csv + (html is not None) > 1:
        raise click.UsageError("--json, --csv and --html exclude each other.")
    if as_blocks and (by or as_csv or html is not None):
        raise click.UsageError("--blocks stands alone, or with --since and --json.")
    if _write() is False:
        screen.note("The latest requests may be missing: `occtl status` says why.")
    keys = [key for key in KEYS if key in by] or list(DEFAULT_KEYS)
    rows = _read(keys, since)
    total = _sum(rows)
    prices = _prices()
    saved = _saving(prices, since, against)
    if as_blocks:
        return _blocks(since, as_json)
    if as_json:
        screen.out_json(
            {
                **{"since": since, "by": keys, "rows": rows, "total": total, "note": NOTE},
                "cache_share": cache_share(total),
                "prices": {"source": prices.source, "date": prices.date},
                "saving": _saving_json(saved),
            }
        )
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, [*keys, *total], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif html is not None:
        _page(html, since, prices, saved)
    elif not rows:
        screen.out(f"No request since {since}.")
    else:
        _table(keys, rows, total)
        _notes(since, total, prices, saved)
    return EX_OK


def _budgets() -> list[str]:
    """What `occtl status` says of the budgets for AWS; nothing without a daemon."""
    from ocd.ctl.daemon import Daemon
    from ocd.ctl.look.status import budget_lines
    from ocd.wire.messages import Status

    try:
        with Daemon() as daemon:
            return [text for text, _ in budget_lines(daemon.get(Status, "/v1/status"), time.time())]
    except OcdError:
        return []


def _notes(since: str, total: dict[str, Any], prices: "Prices", saved: "Saving | None") -> None:
    share = cache_share(total)
    if share is not None:
        screen.note(f"Read from the cache: {share:.0%} of all input tokens.")
    now = time.time()
    current = [block for block in _recent_blocks() if block.active(now)]
    if current:
        screen.note(f"{_block_words(current[-1], now)}; `occtl usage --blocks` has the others.")
    if saved is not None:
        screen.note(saving_words(saved, since))
        for one in saved.assumptions:
            screen.note(f"  taken for granted: {one}")
    for line in _budgets():
        screen.note(line)
    source = f" Prices: {prices.source}, installed {prices.date}." if prices.source else ""
    screen.note(NOTE + source)


def cache_share(total: dict[str, Any]) -> float | None:
    """Which share of all input tokens was read from a cache; None: there were none."""
    whole = total["input_tokens"] + total["cache_read_tokens"] + total["cache_write_tokens"]
    return round(total["cache_read_tokens"] / whole, 4) if whole else None


def saving_words(saved: "Saving", since: str) -> str:
    """One sentence: what the haiku slot on Bedrock saved, or cost more."""
    what = "saved" if saved.saved >= 0 else "cost more by"
    return (
        f"The haiku slot on Bedrock {what} ${abs(saved.saved):,.2f} since {since}: ${saved.here:,.2f} instead of "
        f"${saved.there:,.2f} with {saved.model} at list price ({saved.requests:,} requests)."
    )


def _saving_json(saved: "Saving | None") -> dict[str, Any] | None:
    if saved is None:
        return None
    return {
        **{"model": saved.model, "requests": saved.requests, "saved": round(saved.saved, 6)},
        **{"cost": round(saved.here, 6), "cost_there": round(saved.there, 6), "unpriced": saved.unpriced},
        "assumptions": list(saved.assumptions),
    }


def _prices() -> "Prices":
    """The price table of the LiteLLM that serves; mistakes in ocd.toml are another verb's to tell."""
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack import prices
    from ocd.stack.models import site_packages

    folders = Folders.find()
    try:
        python = load(folders).litellm.python
    except OcdError:
        python = ""
    return prices.load(site_packages(python or folders.data / "litellm" / "bin" / "python"))


def _saving(prices: "Prices", since: str, against: str) -> "Saving | None":
    from ocd.stack.prices import saving

    if against and prices.price(against) is None:
        raise OcdError(
            f"There is no price for {against!r}",
            f"it is not in {prices.source or 'any table: no LiteLLM is installed'}",
            "Name a model as that table names it; `occtl models` shows yours",
            exit_code=EX_IOERR,
            code="no-price",
        )
    return saving(prices, _read(["slot", "provider"], since), against)


# ---------------------------------------------------------------------------------------------- blocks of 5 hours


def made_blocks(since: str) -> list[Block]:
    """The blocks of what went to Anthropic; hours that nobody knows the provider of count too."""
    rows = [row for row in _read(["hour", "provider"], since) if row["provider"] in ("anthropic", "")]
    return blocks((row["hour"], {name: row[name] for name in _OF_BLOCKS}) for row in rows)


def _recent_blocks() -> list[Block]:
    return made_blocks((datetime.date.today() - datetime.timedelta(days=_RECENT)).isoformat())


def _block_words(block: Block, now: float) -> str:
    tokens, cost = burn(block, now)
    begun = time.strftime("%H:%M", time.localtime(block.start))
    return f"This block of 5 hours (since {begun}): {tokens:,.0f} tokens and ${cost:,.2f} an hour"


def burn(block: Block, now: float) -> tuple[float, float]:
    """Tokens (input and output, without what came from a cache) and US dollars an hour."""
    hours = block.hours(now)
    spent = block.figures.get("input_tokens", 0) + block.figures.get("output_tokens", 0)
    return spent / hours, block.figures.get("cost", 0.0) / hours


def _blocks(since: str, as_json: bool) -> int:
    now = time.time()
    found = made_blocks(since)
    rows = []
    for block in found:
        tokens, cost = burn(block, now)
        rows.append(
            {
                **{"start": block.start, "end": block.end, "active": block.active(now)},
                **{name: block.figures.get(name, 0) for name in _OF_BLOCKS},
                **{"tokens_per_hour": round(tokens), "cost_per_hour": round(cost, 4)},
            }
        )
    if as_json:
        screen.out_json({"since": since, "blocks": rows, "note": NOTE})
        return EX_OK
    if not rows:
        screen.out(f"No request to Anthropic since {since} is known by the hour.")
        return EX_OK
    columns = [
        "from",
        "until",
        ">requests",
        ">input",
        ">output",
        ">cached",
        ">cost (est.)",
        ">tokens/h",
        ">cost/h",
    ]
    lines = []
    for row in rows:
        until = "now" if row["active"] else time.strftime("%H:%M", time.localtime(row["end"]))
        start = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["start"]))
        lines.append(
            [
                *(start, until, *_figures({**row, "failed": 0, "unpriced": 0})),
                *(f"{row['tokens_per_hour']:,}", f"${row['cost_per_hour']:,.2f}"),
            ]
        )
    for line in lines:
        del line[3]  # nobody asks here how many failed
    screen.show_table(columns, lines)
    screen.note(
        "A block begins with the hour of its first request; `occtl status` has the plan's own windows."
    )
    return EX_OK


# ---------------------------------------------------------------------------------------------------- the page


def _page(target: str, since: str, prices: "Prices", saved: "Saving | None") -> None:
    from ocd import atomic
    from ocd.ctl import usage_page

    groups = {
        title: (keys, _read(keys, since))
        for title, keys in (
            ("Days", ["day"]),
            ("Projects", ["project"]),
            ("Branches", ["project", "branch"]),
            ("Model groups", ["model", "slot", "provider"]),
            ("Sessions", ["project", "session"]),
        )
    }
    notes = [NOTE]
    if prices.source:
        notes.append(f"Prices: {prices.source}, installed {prices.date}.")
    if saved is not None:
        notes = [
            saving_words(saved, since),
            *(f"Taken for granted: {one}." for one in saved.assumptions),
            *notes,
        ]
    text = usage_page.page(since, time.time(), groups, notes)
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        atomic.replace(target, text)
    except OSError as error:
        raise OcdError(
            f"Cannot write {target}",
            error.strerror or str(error),
            "Name a file in a folder that you may write to",
            exit_code=EX_CANTCREAT,
            code="usage-page",
        ) from None
    screen.out(f"Written to {target}; open it in a browser.")


# --------------------------------------------------------------------------------------------------- the file


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


def _read(keys: list[str], since: str) -> list[dict[str, Any]]:
    import sqlite3

    from ocd.adapters import usage_file
    from ocd.settings.folders import Folders

    path = Folders.find().state / "usage.db"
    try:
        return [row | _sum([row]) for row in usage_file.grouped(str(path), keys, since)]
    except (OSError, sqlite3.Error) as error:
        raise OcdError(
            f"Cannot read {path}",
            str(error),
            "It is put aside and begun again with the next request; remove it if no daemon runs",
            exit_code=EX_IOERR,
            code="usage",
        ) from None


def _sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from ocd.adapters.usage_file import FIGURES

    total = {name: sum(row[name] for row in rows) for name in FIGURES}
    total["cost"] = round(total["cost"], 6)
    return total


def _table(keys: list[str], rows: list[dict[str, Any]], total: dict[str, Any]) -> None:
    columns = [*keys, ">requests", ">failed", ">input", ">output", ">cached", ">cost (est.)"]
    lines = [[shown(key, row[key]) for key in keys] + _figures(row) for row in rows]
    styles: list[list[str]] = [[] for _ in lines]
    if len(rows) > 1:
        lines.append(["total", *[""] * (len(keys) - 1), *_figures(total)])
        styles.append(["bold"] * len(columns))
    styles = [style or [""] * len(columns) for style in styles]
    screen.show_table(columns, lines, styles)
    if total["unpriced"]:
        screen.note(f"Requests to models whose price is not known: {total['unpriced']:,} (+).")


def shown(key: str, value: Any) -> str:
    """A key's value for people; a dash where it is not known."""
    if key == "hour":
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value)) if value else "-"
    text = screen.plain(str(value))
    return (screen.home(text) if key == "project" else text) or "-"


def _figures(row: dict[str, Any]) -> list[str]:
    cached = row["cache_read_tokens"] + row["cache_write_tokens"]
    cost = f"${row['cost']:,.2f}" if row["cost"] >= 0.005 or not row["cost"] else f"${row['cost']:.4f}"
    if row["unpriced"]:
        cost = f"{cost}+" if row["cost"] else "?"
    counts = (row["requests"], row["failed"], row["input_tokens"], row["output_tokens"], cached)
    return [*(f"{count:,}" for count in counts), cost]
