"""Claude Code's ``modelPicker``: the slots as they are routed, and the other model groups. Pure.

Measured with 2.1.332 (2.1.197 does not know the setting): a row whose ``model`` is the id that is asked for and that
has ``behavesAs`` ends what the client says of a model that it does not know, gives it that model's window instead of
1,000,000 tokens, and keeps adaptive thinking, effort and system messages in the conversation out of its requests. A
row of an alias does not do that for what the alias stands for. ``CLAUDE_CODE_MAX_CONTEXT_TOKENS`` decides the window of
ids without such a row (in 2.1.197: of all that it does not know). Prices cannot be said: ``modelPricing`` is read from
managed settings alone, so that the client's own cost of such a model is a guess, of the model that it behaves as.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ocd.stack.families import SLOTS, without_1m

_TITLES = {"opus": "Opus", "sonnet": "Sonnet", "haiku": "Haiku", "fable": "Fable"}
_PAYERS = {"plan": "your plan", "api-key": "your API key"}

Row = Mapping[str, Any]


def behaves_as(row: Row) -> str:
    """The Claude model whose handling a group takes; empty when its window is too small for any, or not known."""
    return str(row.get("like") or "")


def foreign(rows: Sequence[Row]) -> list[Row]:
    """The groups whose names are not Claude's: Claude Code knows nothing of them."""
    return [row for row in rows if not str(row["model"]).startswith("claude-")]


def window(rows: Sequence[Row]) -> int | None:
    """What holds for every model that Claude Code does not know: the smallest window; None: not all are known."""
    sizes = [row.get("window") for row in foreign(rows)]
    known = [size for size in sizes if isinstance(size, int)]
    return min(known) if known and len(known) == len(sizes) else None


def picker(pins: Mapping[str, str], rows: Sequence[Row], auth: str, own: Any) -> dict[str, Any] | None:
    """The setting, or None where Claude Code's own picker is true already.

    ``pins``: slot → group, empty where Claude Code chooses; ``own``: the user's ``modelPicker``, whose rows and choice
    stay. Nothing of a model that Claude Code chooses is named: it may be another tomorrow.
    """
    by_name = {str(row["model"]): row for row in rows}
    groups = [_option(row) for row in foreign(rows)]
    if isinstance(own, Mapping) and isinstance(own.get("options"), list):
        theirs = [one for one in own["options"] if isinstance(one, Mapping)]
        listed = {one.get("model") for one in theirs}
        return {**own, "options": [*own["options"], *(one for one in groups if one["model"] not in listed)]}
    if not any(pins.values()):
        return {"options": groups} if groups else None
    slots = [
        _slot(slot, pins.get(slot, ""), by_name, auth)
        for slot in ("opus", "fable", "sonnet", "haiku")
        if slot in SLOTS
    ]
    return {"options": [*slots, *groups], "replaceBuiltInOptions": True}


def _slot(slot: str, group: str, by_name: Mapping[str, Row], auth: str) -> dict[str, str]:
    title = _TITLES[slot]
    if not group:
        said = ", ".join(filter(None, ["Anthropic", _PAYERS.get(auth, "")]))
        return {"model": slot, "label": title, "description": f"The model that Claude Code chooses: {said}"}
    row = by_name.get(without_1m(group))
    label = str(row["label"]) if row else group
    told = label if label.lower().startswith(title.lower()) else f"{title}: {label}"
    return {
        "model": slot,
        "label": told,
        "description": str(row["description"]) if row else f"Pinned to {group}",
    }


def _option(row: Row) -> dict[str, str]:
    option = {"model": str(row["model"]), "label": str(row["label"]), "description": str(row["description"])}
    known = behaves_as(row)
    return {**option, "behavesAs": known} if known else option
