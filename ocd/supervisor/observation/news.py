"""What the processes of the proxies tell beside their own state: requests, refusals, versions."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ocd.mask import mask
from ocd.supervisor.observation.exchanges import Exchanges
from ocd.text import printable


@dataclass(slots=True)
class Counted:
    """Of one proxy, since the supervisor began. ``last_fallback_at``: seconds since 1970."""

    refused_credentials: int = 0
    fallbacks: int = 0
    last_fallback: str = ""
    last_fallback_at: float | None = None


class News:
    """``event`` records an event, ``on_status`` is told whose figures have come, ``on_version`` LiteLLM's version."""

    def __init__(
        self,
        exchanges: Exchanges,
        event: Callable[..., None],
        on_status: Callable[[str], None],
        on_version: Callable[[str], None],
    ) -> None:
        self._exchanges = exchanges
        self._event = event
        self._on_status = on_status
        self._on_version = on_version
        self._counted: dict[str, Counted] = {}

    def of(self, proxy: str) -> Counted:
        """What was counted of a proxy."""
        return self._counted.setdefault(proxy, Counted())

    def take(self, proxy: str, generation: int, message: dict[str, Any]) -> None:
        """One message of a process."""
        match message.get("ev"):
            case "status":
                self._exchanges.on_guest_status(proxy, generation, message)
                self._on_status(proxy)
            case "request":
                self._exchanges.take(proxy, generation, message)
            case "version":
                self._on_version(str(message.get("version", "")))
            case "report":
                self._report(proxy, generation, message)

    def _report(self, proxy: str, generation: int, message: dict[str, Any]) -> None:
        """News from the boundary inside a proxy."""
        kind = str(message.get("kind", "report"))
        counted = self.of(proxy)
        if kind == "credential-refused":
            counted.refused_credentials += 1
        elif kind == "fallback":
            # A request moved to another model group: who looks at the status must see it, it may cost money.
            counted.fallbacks += 1
            counted.last_fallback, counted.last_fallback_at = mask(str(message.get("where", ""))), time.time()
        text = printable(str(message.get("where", "")))
        if kind == "request-refused":
            text = printable(f"{message.get('why', '')}, {message.get('count', 1)} times")
        self._event(kind, proxy, generation, text)
