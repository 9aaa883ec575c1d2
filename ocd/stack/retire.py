"""Models that go away: when, who asks for them here, and what to do. Pure; the dates are LiteLLM's table's."""

import datetime
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

#: days before its end from which a model is spoken of
AHEAD = 60


@dataclass(frozen=True, slots=True)
class Retirement:
    """``model`` ends on ``date`` (ISO). ``slot``: one that is pinned to it, else empty. ``file``, ``line`` and ``key``
    say where it is named, ``name`` is the model group."""

    model: str
    date: str
    name: str
    slot: str
    file: str
    line: int | None
    key: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def what(self, today: datetime.date) -> str:
        """What happens, in a sentence without its full stop."""
        who = f"the {self.slot} slot is pinned to" if self.slot else f"the model group {self.name} leads to"
        left = (datetime.date.fromisoformat(self.date) - today).days
        if left < 0:
            return f"{who} {self.model}, which was retired on {self.date}: its provider answers 404"
        when = "today" if left == 0 else f"in {left} day{'' if left == 1 else 's'}"
        return f"{who} {self.model}, which is retired on {self.date} ({when}); then every request gets 404"

    def fix(self) -> str:
        if self.slot:
            return (
                f"Run `occtl model unpin {self.slot}`, so that Claude Code chooses, or "
                f"`occtl model set {self.slot} MODEL`"
            )
        return "Give the route a newer model; a Claude model by name is not needed beside a route claude-*"


def due(known: Iterable[Retirement], today: datetime.date, ahead: int = AHEAD) -> list[Retirement]:
    """Those that are over, or will be within ``ahead`` days; the earliest first."""
    last = (today + datetime.timedelta(days=ahead)).isoformat()
    return sorted((one for one in known if one.date <= last), key=lambda one: (one.date, one.model, one.key))


def from_dicts(said: Any) -> list[Retirement]:
    """What ``as_dict`` gave, after JSON; what has another form is left out."""
    found = []
    for one in said if isinstance(said, list) else ():
        try:
            made = Retirement(**one)
            datetime.date.fromisoformat(made.date)
        except (TypeError, ValueError):
            continue
        found.append(made)
    return found
