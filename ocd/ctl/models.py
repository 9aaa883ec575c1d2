"""``occtl models``: which model serves which slot, where its requests go, and who pays."""

from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.ctl.stack import load_stack
from ocd.errors import EX_CONFIG, EX_OK

if TYPE_CHECKING:
    from ocd.stack.routes import Way
    from ocd.stack.stack import Stack

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
    screen.show_table(_COLUMNS, table, styles)
    for why in dict.fromkeys(str(row["why"]) for row in rows if row["way"] == "litellm" and row["why"]):
        named = [str(row["name"]) for row in rows if row["why"] == why]
        screen.sentence(f"Through LiteLLM: {screen.plain(', '.join(named))} ({screen.plain(why)}).")
    loose = [row for row in rows if row["slot"] and not row["pinned"]]
    if loose:
        screen.sentence("Claude Code itself chooses the model of a slot that is shown with a star.")
    for row in loose:
        if row["seen"]:
            screen.sentence(screen.plain(f"{row['slot']} was last {row['seen']}."))
    for row in rows:
        if row["broken"]:
            screen.sentence(f"{row['name']}: {screen.plain(str(row['broken']))}. See `occtl config check`.")
        for other in row["fallbacks"]:
            screen.sentence(f"{row['name']} falls back to {', '.join(other['to'])} {other['when']}.")
    return EX_CONFIG if broken else EX_OK


def _rows() -> "list[tuple[Way | None, dict[str, Any]]]":
    from ocd.stack import pipe, routes
    from ocd.stack.families import SLOTS
    from ocd.stack.stack import names

    stack = load_stack()
    if stack.settings.external.enabled:
        return [(None, _outside(stack, slot)) for slot in SLOTS]
    slots: dict[str, list[str]] = {}
    for slot in SLOTS:
        slots.setdefault(routes.asked_in(stack, slot, {}), []).append(slot)
    seen = last_seen()
    rows: list[tuple[Way | None, dict[str, Any]]] = []
    for name in dict.fromkeys([*slots, *names(stack.main)]):
        mine = slots.get(name, [])
        pinned = any(routes.slot_group(stack, slot) for slot in mine)
        last = "" if pinned else next((seen[slot] for slot in mine if slot in seen), "")
        ways = routes.find(stack, name) or [routes.Way(name, (), "litellm.yaml has no such model_name")]
        explained = pipe.explained(stack, ways)
        rows += [(way, _row(way, ", ".join(mine), pinned, last)) for way in explained]
    return rows


def last_seen() -> dict[str, str]:
    """The model that was last asked for in each slot, as far as anything is known of it."""
    from ocd.adapters import usage_file
    from ocd.settings.folders import Folders

    return usage_file.last_seen(str(Folders.find().state / "usage.db"))


def _row(way: "Way", slot: str, pinned: bool, seen: str) -> dict[str, Any]:
    last = way.hops[-1] if way.hops else None
    return {
        "slot": slot,
        "pinned": pinned,
        "seen": seen,
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
    pinned = getattr(stack.settings.slots, slot)
    name = pinned or f"claude-{slot}-*"
    return {
        "slot": slot,
        "pinned": bool(pinned),
        "seen": "" if pinned else last_seen().get(slot, ""),
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
