"""Claude Code's slots, and the family that a model's name belongs to. Pure; nothing here names a version.

A slot whose setting is empty is not pinned: Claude Code's own alias decides, and asks for ``claude-opus-…`` and the
like, whatever the newest is called.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

SLOTS = ("opus", "sonnet", "haiku", "fable")
#: Anthropic's names of today (claude-opus-…), of before (claude-3-5-sonnet-…), and AWS's (us.anthropic.claude-…)
_FAMILY = re.compile(r"(?:^|[./@])claude-(?:[\d-]{1,20}-)?(opus|sonnet|haiku|fable)(?=$|[-@.:*])")


def without_1m(name: str) -> str:
    """``NAME[1m]`` is NAME with a window of a million tokens: the suffix is Claude Code's, no route has it."""
    return name[:-4] if name.lower().endswith("[1m]") else name


def family(model: str) -> str:
    """The slot that a Claude model belongs to by its name; empty for any other name."""
    found = _FAMILY.search(without_1m(model))
    return found[1] if found else ""


def slot_of(model: str, slots: Mapping[str, str]) -> str:
    """Which slot a request for ``model`` is one of: the one that is pinned to it, else its family; or empty."""
    bare = without_1m(model)
    pinned = (slot for slot, group in slots.items() if group and group in (model, bare))
    return next(pinned, "") or family(bare)


def made_up(slot: str) -> str:
    """A name of the slot's family that no model has: for looking up routes, and for tests of the way."""
    return f"claude-{slot}-9-9"


def is_anybodys(slot: str, known: Iterable[str]) -> bool:
    """Whether one of the model groups takes whatever name Claude Code asks for in this slot."""
    return any("*" in group and fnmatchcase(made_up(slot), group) for group in known)


def group_of(slot: str, configured: str, known: Iterable[str]) -> str:
    """The model group that serves the slot; empty: it is not pinned.

    A slot without a name is pinned all the same where no route takes new names: to the first of ``known`` (the
    model groups of main) that is of the slot's family.
    """
    if configured:
        return configured
    known = list(known)
    if is_anybodys(slot, known):
        return ""
    return next((group for group in known if "*" not in group and family(group) == slot), "")
