"""The daemon's own log: structlog, JSON lines in a bounded file; readable lines on a terminal."""

import contextlib
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

from ocd.adapters import journald
from ocd.adapters.logs import LogFile
from ocd.mask import mask
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.text import printable

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: main, bedrock, events, daemon: they share the total cap
_FILES = 4
_threshold = 20
#: characters of one field: a traceback has many
_LONGEST = 16 * 1024


def share(max_mb: int, keep: int, total_mb: int) -> int:
    """Bytes for one file, so that all files of all logs together stay below ``total_mb``."""
    return max(64 * 1024, min(max_mb * 1024 * 1024, total_mb * 1024 * 1024 // (_FILES * (keep + 1))))


def set_level(level: str) -> None:
    global _threshold
    _threshold = _LEVELS.get(level, 20)


def open_log(folders: Folders, settings: Settings, on_trouble: Callable[[str], None]) -> tuple[Any, LogFile]:
    """The logger, and the file behind it."""
    logs = settings.logs
    file = LogFile(
        folders.state / "logs" / "daemon.log",
        share(logs.max_mb, logs.keep, logs.total_mb),
        logs.keep,
        on_trouble,
        gap={"level": "warning", "event": "log-degraded"},
    )
    set_level(logs.level)
    # A library's warning belongs in our log, not on a terminal that nobody watches.
    logging.basicConfig(level=logging.WARNING, handlers=[_Handler(file)], force=True)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    structlog.configure(
        processors=[
            _drop_quiet,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _clean,
            _Writer(file, terminal),
        ],
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger(), file


def _drop_quiet(_logger: Any, method: str, event: Any) -> Any:
    if _LEVELS.get(method, 20) < _threshold:
        raise structlog.DropEvent
    return event


def _clean(_logger: Any, _method: str, event: Any) -> Any:
    return {
        k: printable(mask(v), _LONGEST, lines=True) if isinstance(v, str) else v
        for k, v in event.items()
        if v is not None
    }


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


class _Writer:
    """Writes to the file, and to people: readable lines on a terminal or a pipe, entries with fields in a journal."""

    def __init__(self, file: LogFile, terminal: bool) -> None:
        self.file = file
        self.terminal = terminal
        self.journal = journald.Journal() if not terminal and journald.connected() else None
        # A file that nobody rotates (started by openclaude, or with --detach) is for what has no log of its own.
        self.echo = terminal or not _is_file(2)

    def __call__(self, _logger: Any, _method: str, event: Any) -> str:
        record = {"time": round(time.time(), 3), **event}
        self.file.write(record)
        words = [str(event.get("event", ""))]
        if event.get("proxy"):
            name = str(event["proxy"])
            words.insert(0, f"{name}/{event['generation']}:" if event.get("generation") else f"{name}:")
        if event.get("text"):
            words.append(str(event["text"]))
        words += [
            f"{k}={v}" for k, v in event.items() if k not in ("event", "proxy", "generation", "text", "level")
        ]
        level = str(event.get("level", "info"))
        fields = {k: v for k, v in event.items() if k not in ("level", "text")}
        if self.journal is not None and self.journal.send(" ".join(words), level, fields):
            return ""
        if not self.echo:
            return ""
        stamp = time.strftime("%H:%M:%S ") if self.terminal else "ocd: "
        # A closed terminal or pipe is no reason to stop.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(stamp + " ".join(words) + "\n")
            sys.stderr.flush()
        return ""


class _Handler(logging.Handler):
    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        self.file.write(
            {
                "time": round(record.created, 3),
                "event": printable(mask(record.getMessage()), _LONGEST, lines=True),
                "level": record.levelname.lower(),
                "logger": record.name,
            }
        )
