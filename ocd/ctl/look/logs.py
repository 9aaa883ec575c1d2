"""``occtl logs`` and ``occtl events`` as far as they are past: from the files, so that no daemon is needed.

A daemon that runs is asked for its latest line: what a full disk refused is in its memory alone.
"""

import json
import os
import re
import sys
import time

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.look import records
from ocd.ctl.look.status import known
from ocd.errors import EX_OK, EX_USAGE, OcdError
from ocd.keeper.folders import state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

#: in the place of a proxy's name: the daemon's own log
DAEMON = "daemon"
PROXIES = ("main", "bedrock")
#: lines that are shown where nothing else says how many
LINES = 100
#: lines that the daemon keeps in memory (``ocd/adapters/logs.py``)
_MEMORY = 400
_BLOCK = 65536
#: a longer line is no line of ours
_LONGEST = 1 << 20
#: so many lines in a row from before --since end the search: a clock that was set back makes a few
_ENOUGH = 1000

#: what nobody looks for: uvicorn's lines about our own health checks, and LiteLLM's advertisements at each start
_NOISE = re.compile(
    r'"(?:GET|HEAD) /health/(?:liveliness|liveness|readiness)[ ?]'
    r"|[█╗╝╚╔║═]{2}"
    r"|^\s*#[-\s]*#\s*$|^\s*#\s.*\s#\s*$"
    r"|Thank you for using LiteLLM"
    r"|Give Feedback / Get Help"
    r"|github\.com/BerriAI/litellm/issues/new"
)


class Wanted:
    """What of the lines is wanted. Raises OcdError (exit 64) for a time or a pattern that is none."""

    def __init__(
        self, lines: int | None, since: str | None, until: str | None, pattern: str | None, everything: bool
    ) -> None:
        from_, to = None, None
        if since or until:
            from ocd.ctl.look import times

            now = time.time()
            from_ = times.parse(since, "--since", now) if since else None
            to = times.parse(until, "--until", now) if until else None
        self.since, self.until, self.everything = from_, to, everything
        #: how many of the newest; None: all that --since lets through
        self.lines = lines if lines is not None else None if since else LINES
        self.pattern = None
        if pattern is not None:
            try:
                # as in `journalctl -g` and less: capitals in the pattern make capitals count
                self.pattern = re.compile(pattern, 0 if pattern != pattern.lower() else re.IGNORECASE)
            except re.error as error:
                raise OcdError(
                    f"The pattern {pattern!r} cannot be used",
                    str(error),
                    "Put a backslash before a character that is to stand for itself",
                    exit_code=EX_USAGE,
                    code="usage",
                ) from None

    @property
    def narrow(self) -> bool:
        """Whether lines are left out that are not too old."""
        return not self.everything or self.pattern is not None or self.until is not None

    def moment(self, seconds: float) -> bool:
        """Whether a line of that time is wanted."""
        return (self.since is None or seconds >= self.since) and (self.until is None or seconds <= self.until)

    def text(self, text: str) -> bool:
        """Whether a line with that text is wanted."""
        if not self.everything and _NOISE.search(text):
            return False
        return self.pattern is None or self.pattern.search(text) is not None


def run_logs(
    name: str | None,
    lines: int | None,
    since: str | None,
    until: str | None,
    pattern: str | None,
    everything: bool,
    as_json: bool,
) -> int:
    """``occtl logs`` without -f; returns the exit code."""
    if name is not None and name != DAEMON:
        known(name, PROXIES)
    wanted = Wanted(lines, since, until, pattern, everything)
    if name == DAEMON:
        for raw in _newest(_past(DAEMON, f"/v1/logs/{DAEMON}"), wanted, _of_daemon, as_it_is):
            screen.out(raw if as_json else daemon_line(raw))
        return EX_OK
    found: list[Any] = []
    missing: NotRunning | None = None
    names = (name,) if name else PROXIES
    for one in names:
        try:
            past = _past(one, f"/v1/logs/{one}", "LogLine")
            found += _newest(past, wanted, lambda line: (line.time, line.text), _read("LogLine"))
        except NotRunning as error:
            missing = error
    if missing is not None and not found and not any(os.path.exists(_path(one)) for one in names):
        raise missing
    found = in_order(found)
    for line in found if wanted.lines is None else found[len(found) - min(wanted.lines, len(found)) :]:
        _out(line, log_line, as_json)
    return EX_OK


def run_events(
    name: str | None,
    lines: int | None,
    since: str | None,
    until: str | None,
    pattern: str | None,
    as_json: bool,
) -> int:
    """``occtl events`` without -f; returns the exit code."""
    if name is not None and name != DAEMON:
        known(name, PROXIES)
    wanted = Wanted(lines, since, until, pattern, True)

    def shown(event: "Any") -> "tuple[float, str] | None":
        return (event.time, f"{event.kind} {event.text}") if of(event, name) else None

    for event in _newest(_past("events", "/v1/events", "Event"), wanted, shown, _read("Event")):
        _out(event, event_line, as_json)
    return EX_OK


def of(event: "Any", name: str | None) -> bool:
    """Whether ``event`` is one of the proxy ``name`` (the daemon's own: of none)."""
    return name is None or event.proxy == ("" if name == DAEMON else name)


# ---- the past, newest line first


def _path(name: str) -> str:
    return os.path.join(state_dir(), "logs", f"{name}.log")


def _past(name: str, call: str, message: str = "") -> "Iterator[str]":
    """Raw lines of a log, the newest first: what only the daemon's memory has, then the files.

    Raises OcdError when no daemon runs and there is no file either, and when a line of the daemon's is no ``message``.
    """
    path = _path(name)
    files = _backwards(path)
    try:
        with Daemon() as daemon:
            last = list(daemon.raw_lines(call, lines=1, follow=0))[-1:]
            recent = [line for line, _ in zip(files, range(_MEMORY + 100), strict=False)] if last else []
            if last and last[0] not in set(recent):
                there = set(recent)
                told = list(daemon.raw_lines(call, lines=_MEMORY, follow=0))
                if message:
                    for line in told:
                        daemon.check(message, line, call)
                yield from reversed([line for line in told if line not in there])
    except NotRunning:
        if not os.path.exists(path):
            raise
        recent = []
    yield from recent
    yield from files


def _backwards(path: str) -> "Iterator[str]":
    """The lines of ``path`` and of the files that it was rotated into, the newest first."""
    number = 0
    while True:
        try:
            file = open(f"{path}.{number}" if number else path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            if number:
                return
            number = 1
            continue
        with file:
            yield from (line.decode("utf-8", "replace") for line in _lines_backwards(file))
        number += 1


def _lines_backwards(file: "Any") -> "Iterator[bytes]":
    at = file.seek(0, os.SEEK_END)
    rest = b""
    while at > 0:
        size = min(_BLOCK, at)
        at -= size
        file.seek(at)
        rest = file.read(size) + rest
        first, *whole = rest.split(b"\n")
        yield from (line for line in reversed(whole) if line.strip())
        rest = first if len(first) < _LONGEST else b""
    if rest.strip():
        yield rest


def _read(name: str) -> "Callable[[str], Any]":
    """Reads one line of a file or of the daemon: a Record, None where it is none (a torn line)."""

    def read(raw: str) -> "Any":
        try:
            return records.read(name, json.loads(raw))
        except (ValueError, RecursionError):
            return None

    return read


def as_it_is(raw: str) -> str:
    return raw


def _newest(
    raws: "Iterable[str]",
    wanted: Wanted,
    shown: "Callable[[Any], tuple[float, str] | None]",
    read: "Callable[[str], Any]",
) -> "list[Any]":
    """Those of ``raws`` (the newest first) that are wanted, in their order in the file."""
    found: list[Any] = []
    older = 0
    if wanted.lines == 0:
        return found
    for raw in raws:
        line = read(raw)
        said = shown(line) if line is not None else None
        if said is None:
            continue
        older = older + 1 if wanted.since is not None and said[0] < wanted.since else 0
        if wanted.moment(said[0]) and wanted.text(said[1]):
            found.append(line)
            if len(found) == wanted.lines:
                break
        elif older >= _ENOUGH:
            break
    found.reverse()
    return found


def _of_daemon(raw: str) -> "tuple[float, str]":
    try:
        return float(json.loads(raw)["time"]), raw
    except (ValueError, KeyError, TypeError, RecursionError):
        return time.time(), raw


def in_order(lines: "Iterable[Any]") -> "list[Any]":
    """The lines of several logs in order of time. Those of one log stay in their order, also where the clock was set
    back meanwhile: such a line counts as written when the one before it was."""
    latest: dict[str, float] = {}
    keyed = []
    for line in lines:
        moment = latest[line.proxy] = max(line.time, latest.get(line.proxy, line.time))
        keyed.append((moment, line))
    return [line for _, line in sorted(keyed, key=lambda one: one[0])]


# ---- how they look


def _out(line: "Any", shown: "Callable[[Any], str]", as_json: bool) -> None:
    if as_json:
        screen.out_json(records.plain(line), lines=True)
    else:
        screen.out(shown(line))


def daemon_line(raw: str) -> str:
    """A line of the daemon's own log: a JSON object with ``time``, ``level``, ``event`` and more."""
    try:
        record = json.loads(raw)
        moment = screen.moment(float(record.pop("time")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return screen.plain(raw)
    dim, _, end = _colors("")
    words = [str(record.pop(key)) for key in ("level", "event", "text") if record.get(key)]
    words += [f"{key}={value}" for key, value in record.items()]
    return f"{dim}{moment}{end} {screen.plain(' '.join(words))}"


def log_line(line: "Any") -> str:
    """A line of a proxy's output: when, which process, what."""
    dim, color, end = _colors(line.proxy)
    text = screen.plain(line.text)
    if line.stream == "stderr" and dim:
        text = f"\x1b[33m{text}{end}"
    who = f"{line.proxy}#{line.generation}"
    return f"{dim}{screen.moment(line.time)}{end} {color}{screen.plain(who):<10}{end} {text}"


#: how an event of a kind looks; all others have no colour
_EVENT_COLORS: dict[str, str] = {
    **dict.fromkeys(
        (
            "crashed",
            "boot-failed",
            "hang",
            "hang-ended",
            "crash-loop",
            "failed",
            "blocked",
            "credential-refused",
        ),
        "31",
    ),
    **dict.fromkeys(
        (
            "ready",
            "accepting",
            "recovered",
            "unblocked",
            "reload-done",
            "started",
            "daemon-started",
            "upstream-ok",
        ),
        "32",
    ),
    **dict.fromkeys(("memory-limit", "reload-rejected", "drain-timeout", "log-degraded", "fallback"), "33"),
    "upstream-trouble": "33",
}


def event_line(event: "Any") -> str:
    """An event: when, of whom, its kind, what it says."""
    dim, color, end = _colors(event.proxy)
    who = event.proxy or DAEMON
    if event.generation is not None:
        who += f"#{event.generation}"
    kind = screen.plain(event.kind)
    shade = _EVENT_COLORS.get(event.kind) if dim else None
    shown = f"\x1b[{shade}m{kind:<18}{end}" if shade else f"{kind:<18}"
    head = f"{dim}{screen.moment(event.time)}{end} {color}{screen.plain(who):<10}{end}"
    return f"{head} {shown} {screen.plain(event.text)}".rstrip()


def _colors(proxy: str) -> tuple[str, str, str]:
    """Escape sequences for the time, the proxy's name, and the end of either; empty without colours."""
    if not screen.colors(sys.stdout):
        return "", "", ""
    return "\x1b[2m", {"main": "\x1b[36m", "bedrock": "\x1b[35m"}.get(proxy, "\x1b[34m"), "\x1b[0m"
