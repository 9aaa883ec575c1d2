"""What people are told: the daemon's log, events, and problems that stand until they are over."""

from collections.abc import Callable
from typing import Any

from ocd.adapters.desktop import Desktop
from ocd.adapters.logs import LogFile
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor.observation import journal
from ocd.supervisor.observation.history import History
from ocd.wire.messages import Problem


class Report:
    """``settings`` says what is wanted now: log levels, sizes, desktop notifications.

    ``log`` is the daemon's own log (structlog), ``problems`` what ``occtl status`` shows until it is removed again.
    """

    def __init__(self, folders: Folders, settings: Callable[[], Settings]) -> None:
        self._folders = folders
        self._settings = settings
        self.problems: dict[str, Problem] = {}
        self.log, self.log_file = journal.open_log(folders, settings(), self._log_trouble)
        self.history = History(self.open_file("events"))
        self._desktop = Desktop(lambda why: self.log.warning("no desktop notification", text=why))

    def open_file(self, name: str) -> LogFile:
        """The bounded log file of that name: a proxy's, or ``events``."""
        logs = self._settings().logs
        line = {"proxy": name, "generation": 0, "pid": 0, "stream": "ocd"}
        return LogFile(
            self._folders.state / "logs" / f"{name}.log",
            journal.share(logs.max_mb, logs.keep, logs.total_mb),
            logs.keep,
            self._log_trouble,
            gap={"kind": "log-degraded"} if name == "events" else line,
        )

    def event(
        self, kind: str, proxy: str = "", generation: int | None = None, text: str = "", **data: Any
    ) -> None:
        """Something happened that people may want to know."""
        happened = self.history.record(kind, proxy, generation, text, data)
        self.log.info(kind, proxy=proxy or None, generation=generation, text=happened.text or None, **data)
        wanted = self._settings().notifications
        if wanted.desktop:
            self._desktop.take(wanted.kinds, kind, proxy, happened.text)

    def _log_trouble(self, text: str) -> None:
        if hasattr(self, "history") and "log" not in self.problems:
            self.problems["log"] = Problem(
                code="log-degraded",
                what="logs cannot be written",
                why=text,
                next="Free some disk space",
                exit=74,
            )
            self.event("log-degraded", text=text)

    def usage_trouble(self, why: str) -> None:
        """The usage figures cannot be written, or (an empty text) can be again."""
        if not why:
            self.problems.pop("usage", None)
            return
        self.problems["usage"] = Problem(
            code="usage-degraded",
            what="usage figures cannot be written",
            why=why,
            next="Free some space, or make the state folder writable; requests are answered meanwhile",
            exit=74,
        )
        self.event("usage-degraded", text=why)

    def usage_moved(self, aside: str) -> None:
        """The usage file was broken: the figures begin again at nothing."""
        self.event(
            "usage-degraded", text=f"the usage file could not be read and is {aside} now; a new one begins"
        )
