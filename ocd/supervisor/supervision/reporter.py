"""Where the parts that keep proxies running tell what happens (``observation.report.Report`` is one)."""

from typing import Any, Protocol

from ocd.wire.messages import Problem


class Reporter(Protocol):
    """``log`` is a structlog logger, ``problems`` stand until they are removed again."""

    @property
    def log(self) -> Any: ...

    @property
    def problems(self) -> dict[str, Problem]: ...

    def event(
        self, kind: str, proxy: str = "", generation: int | None = None, text: str = "", **data: Any
    ) -> None:
        """Something happened that people may want to know."""
