"""``occtl explain``: the way that one request takes."""

import difflib
from typing import TYPE_CHECKING

import click

from ocd.ctl import screen
from ocd.ctl.models import last_seen
from ocd.ctl.options import ModelName, examples, json_option
from ocd.ctl.stack import load_stack
from ocd.errors import EX_CONFIG, EX_OK, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.stack.routes import Way


@click.command(
    epilog=examples(
        "occtl explain haiku",
        "occtl explain 'claude-opus-9-9[1m]'",
        "occtl explain litellm@qwen-3-coder",
        "occtl explain opus --json | jq .ways",
    )
)
@click.argument("model", type=ModelName())
@json_option
def explain(model: str, as_json: bool) -> int:
    """Say which way a request for MODEL takes, fallbacks included. Needs no daemon, asks nobody.

    MODEL is a slot (opus, sonnet, haiku, fable), a model's name, litellm@NAME or ll@NAME, or NAME[1m]. Ends with 64
    when there is no such model, with 78 when its way leads nowhere.
    """
    from ocd.stack import pipe, routes
    from ocd.stack.stack import names

    stack = load_stack()
    slot = routes.slot_of(routes.plain_name(model))
    seen = last_seen() if slot else {}
    name = routes.asked_in(stack, slot, seen) if slot else routes.plain_name(model)
    notes = []
    if slot and routes.slot_group(stack, slot):
        notes.append(f"the {slot} slot is the model group {name} (ocd.toml, [slots])")
    elif slot:
        last = f", last {name}" if seen.get(slot) == name else ""
        notes.append(f"the {slot} slot is not pinned: Claude Code chooses its model{last}")
    elif name != model:
        notes.append(f"{model} is the model group {name}")
    if model.lower().endswith("[1m]"):
        notes.append("the suffix [1m] is no part of the name: Claude Code makes a beta header of it")
    if stack.settings.external.enabled:
        notes.append(
            f"it is asked of {stack.settings.external.base_url}, whose configuration is not known here"
        )
        ways: list[Way] = []
    else:
        ways = pipe.explained(stack, routes.find(stack, name))
        if not ways:
            known = names(stack.main)
            near = difflib.get_close_matches(name, known, 3, 0.4) or known[:8]
            raise OcdError(
                f"There is no model {name!r} in litellm.yaml",
                "; ".join(notes),
                f"Nearest: {', '.join(near)}. All of them: occtl models" if near else "Run `occtl init`",
                exit_code=EX_USAGE,
                code="unknown-model",
            )
        if any(way.way == pipe.HOP for way in ways):
            searcher, trouble = pipe.search(stack)
            notes.append(
                f"with a tool that Anthropic's servers run (web search) it goes to Anthropic as {searcher}, with the "
                "session's login (ocd.toml, [search])"
                if searcher and not trouble
                else "with a tool that Anthropic's servers run (web search) it is refused"
                + (
                    f": {trouble} (ocd.toml, [search])"
                    if trouble
                    else "; [search] slot in ocd.toml names who can"
                )
            )
    broken = any(way.broken for way in ways)
    if as_json:
        screen.out_json({"ok": not broken, "asked": model, "slot": slot, "name": name, "notes": notes,
                         "ways": [way.as_dict() for way in ways]})  # fmt: skip
        return EX_CONFIG if broken else EX_OK
    for note in notes:
        screen.out(screen.plain(note))
    for number, way in enumerate(ways, 1):
        if len(ways) > 1:
            screen.out(f"way {number} of {len(ways)}, LiteLLM takes turns:")
        _show(way, "")
    return EX_CONFIG if broken else EX_OK


#: how a request gets there, in words
WAYS = {
    "anthropic": "passes untouched",
    "hop": "passes beside LiteLLM",
    "litellm": "goes through LiteLLM",
}


def _show(way: "Way", indent: str) -> None:
    for number, hop in enumerate(way.hops, 1):
        screen.out(screen.plain(f"{indent}{number}. the {hop.proxy} proxy takes {hop.group} for {hop.model}"))
        screen.out(screen.plain(f"{indent}   goes to {hop.upstream}"))
        screen.out(screen.plain(f"{indent}   with {hop.credential}"))
    if way.way:
        screen.out(screen.plain(f"{indent}   {WAYS.get(way.way, way.way)}: {way.why}"))
    if way.broken:
        screen.out(screen.plain(f"{indent}   and there it ends: {way.broken}. See `occtl config check`."))
    for fallback in way.fallbacks:
        for other in fallback.ways:
            screen.out(screen.plain(f"{indent}{fallback.when}: {other.name}"))
            _show(other, indent + "   ")
