"""What people and programs see: words for times and sizes, colours, tables, errors. rich only at need."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ocd.errors import OcdError

if TYPE_CHECKING:
    from rich.console import Console

    from ocd.wire.messages import Message, Outcome

#: colours of a proxy's state, by the word that ``status`` shows
STATE_STYLES = {
    "ready": "green",
    "idle": "green",
    "starting": "yellow",
    "draining": "yellow",
    "stopped": "dim",
    "disabled": "dim",
    "blocked": "bold red",
    "crash-loop": "bold red",
    "failed": "bold red",
}

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

#: set by ``--no-color``; the environment's wishes are asked each time
_no_color = False


class ReaderGone(Exception):
    """Whoever read our standard output has enough (click would make exit code 1 of the BrokenPipeError)."""


def forbid_color(forbid: bool = True) -> None:
    """No colour from here on, whatever the terminal can do."""
    global _no_color
    _no_color = forbid


def colors(stream: IO[str]) -> bool:
    """Whether ``stream`` gets colours: a terminal that is not dumb, without NO_COLOR (no-color.org)."""
    return not (_no_color or os.environ.get("NO_COLOR")) and is_terminal(stream)


def is_terminal(stream: IO[str]) -> bool:
    """Whether somebody reads ``stream`` who can be shown moving lines."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def plain(text: str) -> str:
    """``text`` in one line without control characters: what a process wrote must not steer our terminal."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text.rstrip("\r\n")))


def duration(seconds: float) -> str:
    """How long, in the two largest units: ``7s``, ``3m 12s``, ``2h 05m``, ``4d 03h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def size(count: int | None) -> str:
    """Bytes in the unit that people expect: ``133 MiB``; a dash when nobody knows."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def clock(moment: float) -> str:
    """Local time of day of ``moment`` (seconds since 1970): ``14:03:59``."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def home(path: str) -> str:
    """``path`` with the user's home folder as ``~``."""
    own = os.path.expanduser("~")
    return "~" + path[len(own) :] if own != "/" and path.startswith(own + "/") else path


def console(stream: IO[str] | None = None) -> "Console":
    """A rich console on ``stream`` (default: standard output); minds NO_COLOR, dumb terminals and pipes."""
    from rich.console import Console

    stream = stream or sys.stdout
    colored = colors(stream)
    return Console(
        file=stream,
        force_terminal=is_terminal(stream),
        no_color=not colored,
        color_system="auto" if colored else None,
        highlight=False,
        emoji=False,
        # Whoever reads a pipe wants the whole path, and does the folding himself.
        width=None if is_terminal(stream) else 10_000,
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[Sequence[str]] = ()) -> Any:
    """A rich table without lines. ``styles`` has one (or "") per cell; ``>x`` is a right-aligned column x."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True
        )
    for number, row in enumerate(rows):
        of = styles[number] if styles else [""] * len(row)
        made.add_row(*(Text(cell, style) for cell, style in zip(row, of, strict=True)))
    return made


def out(text: str = "") -> None:
    """One line to standard output, now: a reader of a pipe must not wait for a full buffer."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def note(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_rich(shown: Any) -> None:
    """Something of rich's to standard output, without the blanks that rich pads lines with."""
    made = console()
    with made.capture() as captured:
        made.print(shown)
    for line in captured.get().splitlines():
        out(line.rstrip())


def out_json(value: "Message | dict[str, Any] | list[Any]", *, lines: bool = False) -> None:
    """``value`` as JSON to standard output: indented, or with ``lines`` on one line."""
    from pydantic import BaseModel

    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    out(json.dumps(data, indent=None if lines else 2, ensure_ascii=False))


@contextmanager
def progress(text: str) -> Iterator["Progress"]:
    """A spinner with ``text`` on standard error while the block runs; nothing unless that is a terminal."""
    if not is_terminal(sys.stderr):
        yield Progress(None)
        return
    with console(sys.stderr).status(plain(text)) as status:
        yield Progress(status)


@contextmanager
def still(text: str) -> Iterator[None]:
    """Like ``progress``, without a thread that turns a spinner: for blocks that fork."""
    if not is_terminal(sys.stderr):
        yield
        return
    sys.stderr.write(text)
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class Progress:
    """Changes what a running spinner says."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def say(self, text: str) -> None:
        """Show ``text`` from now on."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(plain(text)))


def show_error(error: OcdError) -> None:
    """What, why and what next, on standard error."""
    from_red, bold, end = ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") if colors(sys.stderr) else ("", "", "")
    note(f"{from_red}error:{end} {bold}{plain(error.what)}{end}")
    if error.why:
        note(f"  why:  {plain(error.why)}")
    if error.next_step:
        note(f"  next: {plain(error.next_step)}")


def error_object(error: OcdError) -> dict[str, Any]:
    """The error as the control API would say it: ``{"error": {…}}``."""
    return {
        "error": {
            "code": error.code,
            "what": error.what,
            "why": error.why,
            "next": error.next_step,
            "exit": error.exit_code,
        }
    }


def outcome_error(outcome: "Outcome", what: str, default_exit: int) -> OcdError:
    """The error that a failed outcome stands for; ``what`` says what did not work."""
    first = outcome.problems[0] if outcome.problems else None
    if first and not outcome.reason:
        return OcdError(
            first.what, first.why, first.next, exit_code=first.exit or default_exit, code=first.code
        )
    return OcdError(
        what,
        outcome.reason,
        (first.next if first else "") or "Run `occtl status`, then `occtl logs`",
        exit_code=(first.exit if first else 0) or default_exit,
        code=first.code if first else "failed",
    )
