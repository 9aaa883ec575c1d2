"""``occtl logs`` and ``occtl events``: what was said (``ocd/ctl/look/logs.py``), and here what is being said."""

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.look.logs import (
    DAEMON,
    LINES,
    PROXIES,
    Wanted,
    daemon_line,
    event_line,
    in_order,
    log_line,
    of,
    run_events,
    run_logs,
)
from ocd.ctl.look.status import known
from ocd.ctl.options import LogName, examples, json_option
from ocd.errors import EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.wire.messages import Event, LogLine

    L = TypeVar("L", Event, LogLine)
F = TypeVar("F", bound=Callable[..., Any])

#: seconds of silence after which several followed logs have told their past, so that it can be sorted by time
_SETTLED = 0.2

#: seconds in which a new supervisor is expected after the old one's end
_PATIENCE = 5.0
#: lines of the past that a new supervisor is asked for, so that none is missed
_MISSED = 200
#: where lines are left out, so many times as many are looked at
_SIEVED = 10

_name_argument = click.argument("name", required=False, type=LogName())
_options = (
    click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C."),
    click.option(
        "-n",
        "--lines",
        type=click.IntRange(min=0),
        help=f"How many past lines at most; {LINES}, or with --since all.",
    ),
    click.option("--since", metavar="TIME", help="None from before: 10m, 2h, yesterday, 14:30, 2026-01-31."),
    click.option("--until", metavar="TIME", help="None from after."),
    click.option(
        "-g", "--grep", metavar="PATTERN", help="Those that match; capitals in it make capitals count."
    ),
)


def _common(function: F) -> F:
    for option in reversed(_options):
        function = option(function)
    return _name_argument(function)


@click.command(
    short_help="Print what the proxies, or the daemon, wrote.",
    epilog=examples(
        "occtl logs",
        "occtl logs bedrock -f",
        "occtl logs --since 2h -g 'timeout|refused'",
        "occtl logs daemon --since yesterday --until 14:30",
        "occtl logs main -n 1000 --json | jq -r .text",
    ),
)
@_common
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Health checks of our own and LiteLLM's banners, too."
)
@json_option
def logs(
    name: str | None,
    follow: bool,
    lines: int | None,
    since: str | None,
    until: str | None,
    grep: str | None,
    everything: bool,
    as_json: bool,
) -> int:
    """Print what a proxy, or each of them, wrote. The name `daemon` is for the daemon's own log.

    Needs no daemon, except for --follow.
    """
    if not follow:
        return run_logs(name, lines, since, until, grep, everything, as_json)
    if name is not None and name != DAEMON:
        known(name, PROXIES)
    from ocd.wire.messages import LogLine

    wanted = Wanted(lines, since, until, grep, everything)
    past, asked = _past(wanted)
    if name == DAEMON:
        with Daemon() as daemon:
            for raw in daemon.raw_lines(f"/v1/logs/{DAEMON}", lines=asked, follow=1):
                if wanted.text(raw):
                    screen.out(raw if as_json else daemon_line(raw))
        return _ended()

    def sieved(stream: "Iterator[LogLine]") -> "Iterator[LogLine]":
        return (line for line in stream if wanted.moment(line.time) and wanted.text(line.text))

    streams = [sieved(_followed(LogLine, f"/v1/logs/{one}", asked)) for one in ([name] if name else _names())]
    for line in _merged(streams, past):
        if as_json:
            screen.out_json(line, lines=True)
        else:
            screen.out(log_line(line))
    return _ended()


def _names() -> list[str]:
    with Daemon() as daemon:
        proxies = daemon.record("Status", "/v1/status").proxies
    return [one for one, proxy in proxies.items() if proxy.state != "disabled"]


def _past(wanted: Wanted) -> tuple[int, int]:
    """How many lines of the past are shown at most, and how many are looked at for them."""
    past = wanted.lines if wanted.lines is not None else _MISSED * _SIEVED
    return past, max(past, min(past * _SIEVED, _MISSED * _SIEVED)) if wanted.narrow else past


@click.command(
    short_help="Print what happened: starts, crashes, reloads, sessions.",
    epilog=examples(
        "occtl events -n 20",
        "occtl events main --since yesterday",
        "occtl events -f",
        "occtl events -f --json | jq -r .kind",
    ),
)
@_common
@json_option
def events(
    name: str | None,
    follow: bool,
    lines: int | None,
    since: str | None,
    until: str | None,
    grep: str | None,
    as_json: bool,
) -> int:
    """Print what happened: starts, crashes, reloads, sessions. The kinds are listed in docs/api.md.

    NAME: what is about that proxy alone; `daemon`: what is about neither. Needs no daemon, except for --follow.
    """
    if not follow:
        return run_events(name, lines, since, until, grep, as_json)
    if name is not None and name != DAEMON:
        known(name, PROXIES)
    from ocd.wire.messages import Event

    wanted = Wanted(lines, since, until, grep, True)
    for event in _followed(Event, "/v1/events", _past(wanted)[1]):
        if of(event, name) and wanted.moment(event.time) and wanted.text(f"{event.kind} {event.text}"):
            if as_json:
                screen.out_json(event, lines=True)
            else:
                screen.out(event_line(event))
    return _ended()


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
            yield from deque(in_order(before), maxlen=past)
            continue
        if found is None:
            open_streams -= 1
        elif isinstance(found, OcdError):
            raise found
        elif settled:
            yield found
        else:
            before.append(found)
