"""What people and programs see: words for times and sizes, colours, tables, errors. rich for the spinner alone.

The standard library, and little of it, is imported here: what only looks has no time for more (``ocd/ctl/look``).
"""

import io
import os
import re
import sys
import time

from ocd.errors import OcdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

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

#: select graphic rendition (ECMA-48) for the words that styles are made of
_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}

#: what stands for our own typography where a locale has no more than ASCII
_ASCII = {
    **{"…": "...", "→": "->", "–": "-", "—": "-", "·": "-", "✓": "+", "✗": "x", "×": "x", "•": "*", "’": "'"},
    **{"‘": "'", "“": '"', "”": '"', "±": "+-", "≤": "<=", "≥": ">=", "\u00a0": " "},
}

#: set by ``--no-color``; the environment's wishes are asked each time
_no_color = False


class ReaderGone(Exception):
    """Whoever read our standard output has enough (click would make exit code 1 of the BrokenPipeError)."""


def forbid_color(forbid: bool = True) -> None:
    """No colour from here on, whatever the terminal can do."""
    global _no_color
    _no_color = forbid


def colors(stream: "IO[str]") -> bool:
    """Whether ``stream`` gets colours.

    ``--no-color`` and NO_COLOR (no-color.org) say no before all; then FORCE_COLOR and CLICOLOR_FORCE say yes;
    else a terminal has them that is not dumb, unless CLICOLOR is 0 (bixense.com/clicolors).
    """
    env = os.environ.get
    if _no_color or env("NO_COLOR"):
        return False
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        if env(name, "") not in ("", "0"):
            return True
    return env("CLICOLOR") != "0" and env("FORCE_COLOR") != "0" and is_terminal(stream)


def is_terminal(stream: "IO[str]") -> bool:
    """Whether somebody reads ``stream`` who can be shown moving lines."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def width(stream: "IO[str] | None" = None) -> int | None:
    """Columns of the terminal behind ``stream`` (default: standard output); None: no terminal, nothing is cut."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, io.UnsupportedOperation):
        return 80


def height() -> int:
    """Lines of the terminal behind standard output."""
    wanted = os.environ.get("LINES", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except (OSError, ValueError, io.UnsupportedOperation):
        return 24


def prepare_streams() -> None:
    """A terminal that cannot show a character must not cost the message: it gets the nearest that it has."""
    import codecs

    codecs.register_error("ocd", _nearest)
    ascii_alone = _locale_is_ascii()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if ascii_alone and "PYTHONIOENCODING" not in os.environ:
                stream.reconfigure(encoding="ascii", errors="ocd")
            else:
                stream.reconfigure(errors="ocd")


def _locale_is_ascii() -> bool:
    """Whether the user has chosen the C locale, which has no more (locale(7)). Python itself takes UTF-8 then."""
    env = os.environ.get
    chosen = env("LC_ALL") or (env("LC_CTYPE") if env("LC_CTYPE") != "C.UTF-8" else "") or env("LANG", "")
    return chosen in ("C", "POSIX")


def _is_utf8(stream: "IO[str]") -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    made = ""
    for one in error.object[error.start : error.end]:
        instead = _ASCII.get(one, "?")
        if instead == "?":
            import unicodedata

            # a letter with an accent is better read without it than not at all
            base = unicodedata.normalize("NFKD", one)[:1]
            instead = base if base.isascii() and base.isalnum() else "?"
        made += instead
    return made, error.end


def styled(text: str, style: str, stream: "IO[str] | None" = None) -> str:
    """``text`` in ``style`` (words of colours: ``bold red``), where ``stream`` (standard output) gets colours."""
    if not style or not text or not colors(stream or sys.stdout):
        return text
    return f"\x1b[{';'.join(_SGR[word] for word in style.split())}m{text}\x1b[0m"


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


def moment(seconds: float) -> str:
    """Local date and time of ``seconds`` since 1970: ``2026-11-27 14:03:59``."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def clock(moment: float) -> str:
    """Local time of day of ``moment`` (seconds since 1970): ``14:03:59``."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def time_of_day(moment: float) -> str:
    """``14:03``, with the day of the week when it is another day than now."""
    then = time.localtime(moment)
    return time.strftime("%H:%M" if then[:3] == time.localtime()[:3] else "%a %H:%M", then)


def home(path: str) -> str:
    """``path`` with the user's home folder as ``~``."""
    own = os.path.expanduser("~")
    return "~" + path[len(own) :] if own != "/" and path.startswith(own + "/") else path


def console(stream: "IO[str] | None" = None) -> "Console":
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


def cells(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def visible(text: str) -> int:
    """Columns of a terminal that ``text`` takes with its colours."""
    return cells(_ESCAPES.sub("", text))


def table(
    columns: "Sequence[str]",
    rows: "Sequence[Sequence[str]]",
    styles: "Sequence[Sequence[str]]" = (),
    columns_wide: int | None = None,
) -> "list[str]":
    """The lines of a table without rules; records (``name: value``) where it does not fit into ``columns_wide``.

    ``styles`` has one (or "") per cell; ``>x`` is a right-aligned column x. None as width: as wide as it gets.
    """
    names = [column.lstrip(">") for column in columns]
    wide = [max(cells(name), *(cells(row[at]) for row in rows), 0) for at, name in enumerate(names)]
    if columns_wide is not None and sum(wide) + 2 * (len(wide) - 1) > columns_wide:
        return _records(names, rows, styles, columns_wide)
    lines = []
    for number, row in enumerate([names, *rows]):
        parts = []
        for at, cell in enumerate(row):
            style = "bold" if not number else styles[number - 1][at] if styles else ""
            gap = " " * (wide[at] - cells(cell))
            right = columns[at].startswith(">")
            last = at == len(row) - 1
            parts.append((gap if right else "") + styled(cell, style) + ("" if right or last else gap))
        lines.append("  ".join(parts).rstrip())
    return lines


def _records(
    names: "Sequence[str]", rows: "Sequence[Sequence[str]]", styles: "Sequence[Sequence[str]]", columns: int
) -> "list[str]":
    lines: list[str] = []
    longest = max(map(cells, names)) + 2
    for number, row in enumerate(rows):
        if number:
            lines.append("")
        for at, (name, cell) in enumerate(zip(names, row, strict=True)):
            style = styles[number][at] if styles else ""
            head = f"{name}:" + " " * (longest - cells(name) - 1)
            first, *more = wrapped(cell, max(12, columns - longest)) or [""]
            lines.append((styled(head, "dim") + styled(first, style)).rstrip())
            lines += [" " * longest + styled(one, style) for one in more]
    return lines


def wrapped(text: str, columns: int | None) -> list[str]:
    """``text`` in lines of at most ``columns``, broken between words; a longer word is broken where it must be."""
    if columns is None or cells(text) <= columns:
        return [text]
    indent = " " * (len(text) - len(text.lstrip(" ")))
    columns = max(1, columns - len(indent))
    lines, line = [], ""
    for word in text.split():
        if line and cells(f"{line} {word}") <= columns:
            line = f"{line} {word}"
            continue
        if line:
            lines.append(indent + line)
        while cells(word) > columns:
            cut = _fits(word, columns)
            lines.append(indent + word[:cut])
            word = word[cut:]
        line = word
    return [*lines, indent + line] if line else lines


def _fits(word: str, columns: int) -> int:
    """How many characters of ``word`` go into ``columns``, one at least."""
    used = 0
    for at, one in enumerate(word):
        used += cells(one)
        if used > columns:
            return max(1, at)
    return len(word)


def show_table(
    columns: "Sequence[str]", rows: "Sequence[Sequence[str]]", styles: "Sequence[Sequence[str]]" = ()
) -> None:
    """A table to standard output, as wide as that is."""
    for line in table(columns, rows, styles, width()):
        out(line)


def sentence(text: str, style: str = "") -> None:
    """A sentence to standard output, on a terminal broken between words. Not for commands: one copies them whole."""
    for line in wrapped(text, width()):
        out(styled(line, style))


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


def out_json(value: "Message | dict[str, Any] | list[Any]", *, lines: bool = False) -> None:
    """``value`` as JSON to standard output: indented, or with ``lines`` on one line."""
    import json

    data = value if isinstance(value, dict | list) else value.model_dump(mode="json")
    # Where the output is not UTF-8, JSON's own escapes keep every character.
    out(json.dumps(data, indent=None if lines else 2, ensure_ascii=not _is_utf8(sys.stdout)))


class progress:
    """A spinner with ``text`` on standard error while the block runs; nothing unless that is a terminal."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._status: Any = None

    def __enter__(self) -> "Progress":
        if is_terminal(sys.stderr):
            spinner = "dots" if _is_utf8(sys.stderr) else "line"
            self._status = console(sys.stderr).status(plain(self._text), spinner=spinner)
            self._status.__enter__()
        return Progress(self._status)

    def __exit__(self, *ended: "Any") -> None:
        if self._status is not None:
            self._status.__exit__(*ended)


class still:
    """Like ``progress``, without a thread that turns a spinner: for blocks that fork."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._shown = False

    def __enter__(self) -> None:
        self._shown = is_terminal(sys.stderr)
        if self._shown:
            sys.stderr.write(self._text)
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Progress:
    """Changes what a running spinner says."""

    def __init__(self, status: "Any") -> None:
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


def error_object(error: OcdError) -> "dict[str, Any]":
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
