"""``occtl models``: which model serves which slot, where its requests go, and who pays."""

from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CONFIG, EX_OK

if TYPE_CHECKING:
    from ocd.config.routes import Way
    from ocd.config.rules.stack import Stack

_COLUMNS = ("slot", "name", "route", "way", "upstream", "credential")


@click.command(
    epilog=examples("occtl models", "occtl models --json | jq -r '.models[] | [.slot, .model] | @tsv'")
)
@json_option
def models(as_json: bool) -> int:
    """Show each model group: slot, name, route, upstream, credential. Needs no daemon, asks nobody.

    Ends with 78 when a slot or a route leads nowhere.
    """
    rows = [row for _, row in _rows()]
    broken = any(row["broken"] for row in rows)
    if as_json:
        screen.out_json({"ok": not broken, "models": rows})
        return EX_CONFIG if broken else EX_OK
    table = [[str(row[name]) or "-" for name in _COLUMNS] for row in rows]
    styles = [["bold", "", "", "", "", "bold red" if row["broken"] else ""] for row in rows]
    screen.print_rich(screen.table(_COLUMNS, table, styles))
    for why in dict.fromkeys(str(row["why"]) for row in rows if row["way"] == "litellm" and row["why"]):
        named = [str(row["name"]) for row in rows if row["why"] == why]
        screen.out(f"Through LiteLLM: {screen.plain(', '.join(named))} ({screen.plain(why)}).")
    for row in rows:
        if row["broken"]:
            screen.out(f"{row['name']}: {screen.plain(str(row['broken']))}. See `occtl config check`.")
        for other in row["fallbacks"]:
            screen.out(f"{row['name']} falls back to {', '.join(other['to'])} {other['when']}.")
    return EX_CONFIG if broken else EX_OK


def _rows() -> "list[tuple[Way | None, dict[str, Any]]]":
    from ocd.config import routes
    from ocd.config.rules.stack import names

    stack = load_stack()
    if stack.settings.external.enabled:
        return [(None, _outside(stack, slot)) for slot in routes.SLOTS]
    slots: dict[str, list[str]] = {}
    for slot in routes.SLOTS:
        slots.setdefault(routes.plain_name(getattr(stack.settings.slots, slot)), []).append(slot)
    rows: list[tuple[Way | None, dict[str, Any]]] = []
    for name in dict.fromkeys([*slots, *names(stack.main)]):
        ways = routes.find(stack, name) or [routes.Way(name, (), "litellm.yaml has no such model_name")]
        rows += [(way, _row(way, ", ".join(slots.get(name, [])))) for way in ways]
    return rows


def _row(way: "Way", slot: str) -> dict[str, Any]:
    last = way.hops[-1] if way.hops else None
    return {
        "slot": slot,
        "name": way.name,
        "route": " > ".join(f"{hop.proxy}: {hop.model}" for hop in way.hops),
        "model": last.model if last else "",
        "upstream": "" if way.broken or last is None else last.upstream,
        "credential": way.broken or (last.credential if last else ""),
        "broken": way.broken,
        "way": way.way,
        "why": way.why,
        "fallbacks": [
            {"when": one.when, "to": list(dict.fromkeys(other.name for other in one.ways))}
            for one in way.fallbacks
        ],
    }


def _outside(stack: "Stack", slot: str) -> dict[str, Any]:
    name = getattr(stack.settings.slots, slot)
    return {
        "slot": slot,
        "name": name,
        "route": "external",
        "model": name,
        "upstream": stack.settings.external.base_url,
        "credential": "LITELLM_API_KEY"
        + ("" if stack.settings.auth == "none" else " and the session's login"),
        "broken": "",
        "way": "external",
        "why": "",
        "fallbacks": [],
    }


def load_stack() -> "Stack":
    """The user's settings and files as they are now. Raises ConfigError (exit 78) when they cannot be read."""
    from ocd.config.folders import Folders
    from ocd.config.settings import load
    from ocd.config.swap import read_stack

    folders = Folders.find()
    return read_stack(folders, load(folders))
