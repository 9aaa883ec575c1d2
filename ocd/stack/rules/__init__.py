"""What can be wrong in the two LiteLLM files, a topic a module. ``ocd.stack.check`` runs ``ALL``."""

from collections.abc import Callable, Iterator

from ocd.settings.findings import Finding
from ocd.stack.rules import (
    code,
    credentials,
    fallbacks,
    hop,
    retire,
    routes,
    slots,
    structure,
    switches,
    trust,
    ways,
)
from ocd.stack.stack import Stack

Rule = Callable[[Stack], Iterator[Finding]]

ALL: tuple[Rule, ...] = (
    *structure.RULES,
    *credentials.RULES,
    *routes.RULES,
    *hop.RULES,
    *switches.RULES,
    *fallbacks.RULES,
    *code.RULES,
    *slots.RULES,
    *retire.RULES,
    *ways.RULES,
    *trust.RULES,
)
