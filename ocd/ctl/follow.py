"""``occtl logs`` and ``occtl events``: what was said, and what is being said."""

import json
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from ocd.ctl import lifecycle, screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.options import LogName, examples, json_option
from ocd.errors import EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.wire.messages import Event, LogLine

    L = TypeVar("L", Event, LogLine)

#: seconds of silence after which several followed logs have told their past, so that it can be sorted by time
_SETTLED = 0.2

#: seconds in which a new supervisor is expected after the old one's end
_PATIENCE = 5.0
#: lines of the past that a new supervisor is asked for, so that none is missed
_MISSED = 200

#: in the place of a proxy's name: the daemon's own log
DAEMON = "daemon"

_lines_option = click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="How many past lines."
)
_follow_option = click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")


@click.command(
    epilog=examples("occtl logs", "occtl logs bedrock -f", "occtl logs main -n 1000 --json | jq -r .text")
)
@click.argument("name", required=False, type=LogName())
@_follow_option
@_lines_option
@json_option
def logs(name: str | None, follow: bool, lines: int, as_json: bool) -> int:
    """Print what a proxy, or each of them, wrote. The name `daemon` is for the daemon's own log."""
    from ocd.wire.messages import LogLine, Status

    if name == DAEMON:
        with Daemon() as daemon:
            for raw in daemon.raw_lines(f"/v1/logs/{DAEMON}", lines=lines, follow=int(follow)):
                screen.out(raw if as_json else _daemon_line(raw))
        return _ended() if follow else EX_OK
    show = _json_line if as_json else _log_line
    with Daemon() as daemon:
        names = lifecycle.select(daemon.get(Status, "/v1/status"), name)
        query = {"lines": lines, "follow": int(follow)}
        if len(names) == 1:
            path = f"/v1/logs/{names[0]}"
            for line in _followed(LogLine, path, lines) if follow else daemon.lines(LogLine, path, **query):
                show(line)
        elif not follow:
            # the last ``lines`` of all together are wanted
            found = [line for one in names for line in daemon.lines(LogLine, f"/v1/logs/{one}", **query)]
            for line in deque(_in_order(found), maxlen=lines):
                show(line)
        else:
            for line in _merged([_followed(LogLine, f"/v1/logs/{one}", lines) for one in names], lines):
                show(line)
    return _ended() if follow else EX_OK


@click.command(
    epilog=examples("occtl events -n 20", "occtl events -f", "occtl events -f --json | jq -r .kind")
)
@_follow_option
@_lines_option
@json_option
def events(follow: bool, lines: int, as_json: bool) -> int:
    """Print what happened: starts, crashes, reloads, sessions. The kinds are listed in docs/api.md."""
    from ocd.wire.messages import Event

    show = _json_line if as_json else _event_line
    if follow:
        for event in _followed(Event, "/v1/events", lines):
            show(event)
        return _ended()
    with Daemon() as daemon:
        for event in daemon.lines(Event, "/v1/events", lines=lines):
            show(event)
    return EX_OK


def _followed(model: "type[L]", path: str, lines: int) -> "Iterator[L]":
    """The lines of ``path`` for as long as there is a daemon: a new supervisor (an upgrade, a crash) goes on with them.

    Raises OcdError when there is none at first, or when the stream breaks and nobody goes on.
    """
    latest, skip = 0.0, False
    last: L | None = None
    while True:
        broken = None
        with Daemon() as daemon:
            pid = _pid(daemon)
            try:
                for line in daemon.lines(model, path, lines=lines, follow=1):
                    # A successor tells again what was there before. Behind our last line everything is new, also
                    # where the clock was set back; the time decides only when that line is not there any more.
                    if skip and line.time <= latest:
                        skip = line != last
                        continue
                    skip, last, latest = False, line, max(latest, line.time)
                    yield line
            except OcdError as error:
                broken = error
        if not pid or not _successor(pid):
            if broken is not None:
                raise broken
            return
        skip, lines = True, max(lines, _MISSED)


def _pid(daemon: Daemon) -> int:
    """The supervisor's process; 0: it does not say."""
    from ocd.wire.messages import Version

    try:
        return daemon.get(Version, "/v1/version").pid
    except OcdError:
        return 0


def _successor(pid: int) -> bool:
    """Whether another supervisor answers within a few seconds. Never raises."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            with Daemon() as daemon:
                found = _pid(daemon)
        except OcdError:
            found = 0
        if found:
            return found != pid
        time.sleep(0.1)
    return False


def _ended() -> int:
    if screen.is_terminal(sys.stderr):
        screen.note("The daemon ended the stream.")
    return EX_OK


def _merged(streams: "list[Iterator[LogLine]]", past: int) -> "Iterator[LogLine]":
    """The lines of several streams as they come; those from before are sorted and cut to ``past``."""
    mixed: queue.SimpleQueue[LogLine | OcdError | None] = queue.SimpleQueue()

    def pump(stream: "Iterator[LogLine]") -> None:
        try:
            for line in stream:
                mixed.put(line)
        except OcdError as error:
            mixed.put(error)
        except Exception as error:  # the connection is closed under us when the command ends
            mixed.put(OcdError("The log stream broke", type(error).__name__))
        else:
            mixed.put(None)

    for stream in streams:
        # Daemon threads: they sit in a read that nothing else ends when the command does.
        threading.Thread(target=pump, args=(stream,), daemon=True).start()
    open_streams = len(streams)
    before: list[LogLine] = []
    settled = False
    while open_streams or not settled:
        try:
            found = mixed.get(timeout=None if settled else _SETTLED if open_streams else 0)
        except queue.Empty:
            settled = True
            yield from deque(_in_order(before), maxlen=past)
            continue
        if found is None:
            open_streams -= 1
        elif isinstance(found, OcdError):
            raise found
        elif settled:
            yield found
        else:
            before.append(found)


def _in_order(lines: "Iterable[LogLine]") -> "list[LogLine]":
    """The lines of several logs in order of time. Those of one log stay in their order, also where the clock was set
    back meanwhile: such a line counts as written when the one before it was."""
    latest: dict[str, float] = {}
    keyed = []
    for line in lines:
        moment = latest[line.proxy] = max(line.time, latest.get(line.proxy, line.time))
        keyed.append((moment, line))
    return [line for _, line in sorted(keyed, key=lambda one: one[0])]


def _json_line(said: "LogLine | Event") -> None:
    screen.out_json(said, lines=True)


def _daemon_line(raw: str) -> str:
    """A line of the daemon's own log: a JSON object with ``time``, ``level``, ``event`` and more."""
    try:
        record = json.loads(raw)
        moment = screen.clock(float(record.pop("time")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return screen.plain(raw)
    dim, _, end = _colors("")
    words = [str(record.pop(key)) for key in ("level", "event", "text") if record.get(key)]
    words += [f"{key}={value}" for key, value in record.items()]
    return f"{dim}{moment}{end} {screen.plain(' '.join(words))}"


def _log_line(line: "LogLine") -> None:
    dim, color, end = _colors(line.proxy)
    text = screen.plain(line.text)
    if line.stream == "stderr" and dim:
        text = f"\x1b[33m{text}{end}"
    who = f"{line.proxy}#{line.generation}"
    screen.out(f"{dim}{screen.clock(line.time)}{end} {color}{screen.plain(who):<10}{end} {text}")


#: how an event of a kind looks; all others have no colour
_EVENT_COLORS: dict[str, Literal["31", "32", "33"]] = {
    **dict.fromkeys(("crashed", "boot-failed", "hang", "crash-loop", "blocked", "credential-refused"), "31"),
    **dict.fromkeys(
        ("ready", "accepting", "unblocked", "reload-done", "started", "daemon-started", "upstream-ok"), "32"
    ),
    **dict.fromkeys(
        ("backoff", "memory-limit", "reload-rejected", "drain-timeout", "log-degraded", "fallback"), "33"
    ),
    "upstream-trouble": "33",
}


def _event_line(event: "Event") -> None:
    dim, color, end = _colors(event.proxy)
    who = event.proxy or "daemon"
    if event.generation is not None:
        who += f"#{event.generation}"
    kind = screen.plain(event.kind)
    shade = _EVENT_COLORS.get(event.kind) if dim else None
    shown = f"\x1b[{shade}m{kind:<18}{end}" if shade else f"{kind:<18}"
    head = f"{dim}{screen.clock(event.time)}{end} {color}{screen.plain(who):<10}{end}"
    screen.out(f"{head} {shown} {screen.plain(event.text)}".rstrip())


def _colors(proxy: str) -> tuple[str, str, str]:
    """Escape sequences for the time, the proxy's name, and the end of either; empty without colours."""
    if not screen.colors(sys.stdout):
        return "", "", ""
    return "\x1b[2m", {"main": "\x1b[36m", "bedrock": "\x1b[35m"}.get(proxy, "\x1b[34m"), "\x1b[0m"
