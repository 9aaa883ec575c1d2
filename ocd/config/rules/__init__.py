"""What can be wrong in the two LiteLLM files, a topic a module. ``ocd.config.check`` runs ``ALL``."""

from collections.abc import Callable, Iterator

from ocd.config.findings import Finding
from ocd.config.rules import code, credentials, fallbacks, hop, routes, slots, structure, switches, ways
from ocd.config.rules.stack import Stack

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
    *ways.RULES,
)
