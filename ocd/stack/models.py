"""Which model ids does the installed LiteLLM know? Its price table says; LiteLLM itself is not imported."""

import datetime
import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TABLE = Path("litellm") / "model_prices_and_context_window_backup.json"
_DATE = re.compile(r"[-@](20\d{6})(?=$|-v\d)")
_REGION = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|global|ca|sa)\.")


@dataclass(frozen=True, slots=True)
class ModelIds:
    """Every id of the table, with its provider; ``ends``: the day (ISO) on which it is taken away, where known."""

    providers: dict[str, str]
    ends: dict[str, str] = field(default_factory=dict)

    def knows(self, model: str) -> bool:
        """Whether ``model`` (with or without the provider's prefix) stands in the table."""
        bare = _bare(model)
        return model in self.providers or bare in self.providers or _REGION.sub("", bare) in self.providers

    def retires(self, model: str) -> str:
        """The day on which ``model`` is taken away, empty when none is known.

        An entry of its own counts before that of the same model without the prefix of a region.
        """
        bare = _bare(model)
        for name in (model, bare, _REGION.sub("", bare)):
            if name in self.providers:
                return self.ends.get(name, "")
        return ""

    def undated(self, model: str) -> str:
        """For an id with a date that is not known: the same id without it where that is known, else empty."""
        bare = _bare(model)
        plain = _DATE.sub("", bare)
        return plain if plain != bare and plain in self.providers else ""

    def newest(self, family: str) -> str:
        """Anthropic's newest model of a family (sonnet, opus …) by its number; empty when none is known."""
        pattern = re.compile(rf"claude-{re.escape(family)}-(\d{{1,2}}(?:-\d{{1,2}})?)")
        known = (
            (tuple(map(int, found[1].split("-"))), name)
            for name, provider in self.providers.items()
            if provider == "anthropic" and (found := pattern.fullmatch(name))
        )
        return max(known, default=((), ""))[1]

    def nearest(self, model: str) -> str:
        """The known id that is most like ``model``, empty when none is."""
        wanted = _REGION.sub("", _bare(model))
        names = [name for name in self.providers if "/" not in name]
        return next(iter(difflib.get_close_matches(wanted, names, 1, 0.75)), "")


def _bare(model: str) -> str:
    """Without provider and route: ``bedrock/converse/us.x`` → ``us.x``."""
    return model.rpartition("/")[2]


def site_packages(python: str | Path) -> Path | None:
    """Where the environment of the interpreter ``python`` keeps LiteLLM; None when it has none."""
    root = Path(python).expanduser().parent.parent
    for found in sorted(root.glob("lib/python3*/site-packages"), reverse=True):
        if (found / "litellm").is_dir():
            return found
    return None


def load_table(site: Path | None) -> dict[str, Any]:
    """The table of the LiteLLM in ``site``, id → what it says of the model; empty when there is none to be read."""
    if site is None:
        return {}
    try:
        raw = json.loads((site / _TABLE).read_bytes())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def load_ids(site: Path | None) -> ModelIds | None:
    """The ids of the table of the LiteLLM in ``site``; None when there is none that can be read."""
    raw = load_table(site)
    table = {
        name: str(entry.get("litellm_provider", "")) for name, entry in raw.items() if isinstance(entry, dict)
    }
    table.pop("sample_spec", None)
    ends = {name: day for name in table if (day := _day(raw[name].get("deprecation_date")))}
    return ModelIds(table, ends) if table else None


def _day(said: object) -> str:
    try:
        return datetime.date.fromisoformat(str(said)).isoformat()
    except ValueError:
        return ""
