"""Models that their provider takes away soon: those that slots and model groups name."""

import datetime
from collections.abc import Iterator

from ocd.settings.findings import Finding
from ocd.settings.load import read_text
from ocd.settings.tomllines import line_of, lines_of_keys
from ocd.stack.families import SLOTS, without_1m
from ocd.stack.litellm_file import dotted
from ocd.stack.retire import Retirement, due
from ocd.stack.stack import Stack, names, routes


def retirements(stack: Stack) -> list[Retirement]:
    """Every model with a known end that a slot or a group of either file names."""
    if stack.ids is None:
        return []
    found = []
    grouped = set(names(stack.main))
    for slot in SLOTS:
        name = without_1m(getattr(stack.settings.slots, slot))
        date = stack.ids.retires(name) if name and name not in grouped else ""
        if date:
            # Served by a wildcard, which fills in the name.
            key = ("slots", slot)
            line = line_of(lines_of_keys(read_text(stack.toml)), key)
            found.append(Retirement(name, date, name, slot, str(stack.toml), line, ".".join(key)))
    pinned = {without_1m(group): slot for slot, group in stack.settings.slots if group}
    for proxy, file in stack.files():
        for route in routes(file):
            date = (
                ""
                if "*" in route.model or (proxy == "main" and stack.is_hop(route))
                else stack.ids.retires(route.model)
            )
            if date:
                slot = pinned.get(route.name, "") if proxy == "main" else ""
                at = route.at("model")
                found.append(
                    Retirement(
                        route.model, date, route.name, slot, str(file.file(at)), file.line(at), dotted(at)
                    )
                )
    return found


def findings(known: list[Retirement], today: datetime.date) -> Iterator[Finding]:
    """Warnings, never errors: the files are good, and serve until that day."""
    for one in due(known, today):
        yield Finding("warning", "model-retires", one.file, one.line, one.key, one.what(today), one.fix())


def _retiring(stack: Stack) -> Iterator[Finding]:
    yield from findings(retirements(stack), datetime.date.today())


RULES = (_retiring,)
