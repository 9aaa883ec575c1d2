"""List prices, from the table of the installed LiteLLM (the one that the meter uses), and what Bedrock saved by them.

Pure apart from ``load``.
"""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocd.stack.models import load_table

_HAIKU = re.compile(r"claude-haiku-(\d+)(?:-(\d{1,2}))?")
_TABLE_NAME = "model_prices_and_context_window_backup.json"
#: the figures of a request that have a price, in the order of Price
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    def of(self, figures: Mapping[str, float]) -> float:
        prices = (self.input, self.output, self.cache_read, self.cache_write)
        return sum(price * figures.get(name, 0) for price, name in zip(prices, TOKENS, strict=True))


@dataclass(frozen=True, slots=True)
class Prices:
    """``source`` says which table it is, ``date`` (ISO) when it was installed here; both empty: there is none."""

    table: Mapping[str, Any]
    source: str = ""
    date: str = ""

    def price(self, model: str) -> Price | None:
        """The list price of a model as the table names it; None when it has none."""
        entry = self.table.get(model)
        if not isinstance(entry, dict):
            return None
        put, out = _number(entry, "input_cost_per_token"), _number(entry, "output_cost_per_token")
        if not put and not out:
            return None
        put, out = put or 0.0, out or 0.0
        read, write = (
            _number(entry, name)
            for name in ("cache_read_input_token_cost", "cache_creation_input_token_cost")
        )
        return Price(put, out, put if read is None else read, put if write is None else write)

    def newest_haiku(self) -> str:
        """Anthropic's newest Haiku in the table, without a date in its name; empty when there is none."""
        found = []
        for name, entry in self.table.items():
            matched = _HAIKU.fullmatch(name)
            if matched and isinstance(entry, dict) and entry.get("litellm_provider") == "anthropic":
                found.append(((int(matched[1]), int(matched[2] or 0)), name))
        return max(found)[1] if found else ""


@dataclass(frozen=True, slots=True)
class Saving:
    """What the same tokens would have cost with ``model``, what they cost, and what is taken for granted."""

    model: str
    requests: int
    there: float
    here: float
    unpriced: int
    assumptions: tuple[str, ...]

    @property
    def saved(self) -> float:
        return self.there - self.here


def load(site: Path | None) -> Prices:
    """The table of the LiteLLM in ``site``; an empty one when there is none that can be read."""
    table = load_table(site)
    if not table or site is None:
        return Prices({})
    versions = sorted(
        path.name.split("-")[1] for path in site.glob("litellm-*.dist-info") if path.name.count("-") == 2
    )
    version = versions[-1].removesuffix(".dist") if versions else ""
    try:
        changed = (site / "litellm" / _TABLE_NAME).stat().st_mtime
        date = datetime.date.fromtimestamp(changed).isoformat()
    except (OSError, OverflowError, ValueError):
        date = ""
    return Prices(table, f"LiteLLM {version}, {_TABLE_NAME}".replace(" ,", ","), date)


def saving(prices: Prices, rows: Iterable[Mapping[str, Any]], model: str = "") -> Saving | None:
    """What ``rows`` (of ``usage_file.grouped``, by slot and provider) of the haiku slot on Bedrock saved against
    ``model`` (empty: Anthropic's newest Haiku); None without such requests, or without a price for it."""
    model = model or prices.newest_haiku()
    price = prices.price(model)
    mine = [row for row in rows if row.get("slot") == "haiku" and row.get("provider") == "bedrock"]
    if price is None or not mine:
        return None
    unpriced = sum(row["unpriced"] for row in mine)
    assumptions = [
        f"the same tokens: another model's tokenizer counts differently, and {model} may write more or less",
        "list prices on both sides; what your AWS account pays may be another price",
        "tokens that Bedrock read from or wrote to its cache count as such; the rest costs full input price",
    ]
    if unpriced:
        assumptions.append(f"{unpriced:,} requests to models without a known price are counted as free here")
    return Saving(
        model,
        sum(row["requests"] for row in mine),
        sum(price.of(row) for row in mine),
        sum(row["cost"] for row in mine),
        unpriced,
        tuple(assumptions),
    )


def _number(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) else None
