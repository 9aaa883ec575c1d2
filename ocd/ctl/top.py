"""``occtl top``: the control room."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.wire.messages import Exchange, Outcome, Status

#: requests that are asked for at the beginning
PAST = 200


class Line:
    """The news of the running daemon; each call opens a line of its own, so that any thread may."""

    def status(self) -> "Status":
        from ocd.wire.messages import Status

        with Daemon() as daemon:
            return daemon.get(Status, "/v1/status")

    def requests(self) -> "Iterator[Exchange]":
        from ocd.wire.messages import Exchange

        with Daemon() as daemon:
            yield from daemon.lines(Exchange, "/v1/requests", lines=PAST, follow=1)

    def log(self, name: str) -> Iterator[str]:
        from ocd.wire.messages import LogLine

        with Daemon() as daemon:
            for line in daemon.lines(LogLine, f"/v1/logs/{name}", lines=200, follow=1):
                yield f"{screen.clock(line.time)} {line.generation} {line.text}"

    def events(self) -> Iterator[str]:
        from ocd.wire.messages import Event

        with Daemon() as daemon:
            for event in daemon.lines(Event, "/v1/events", lines=200, follow=1):
                yield f"{screen.clock(event.time)} {event.proxy or 'daemon':8} {event.kind} {event.text}"

    def reload(self) -> "Outcome":
        from ocd.wire.messages import Outcome, ReloadRequest

        with Daemon() as daemon:
            return daemon.post(Outcome, "/v1/reload", ReloadRequest())

    def restart(self, name: str) -> "Outcome":
        from ocd.wire.messages import Outcome

        with Daemon() as daemon:
            return daemon.post(Outcome, f"/v1/proxies/{name}/restart")


@click.command(
    short_help="Watch proxies, sessions and requests live.",
    epilog=examples("occtl top", "occtl top --once", "occtl top --once --json | jq .requests"),
)
@click.option("--once", is_flag=True, help="Print one picture as text and end.")
@json_option
def top(once: bool, as_json: bool) -> int:
    """Watch proxies, sessions and requests live: which upstream answered, how fast, how many tokens.

    Keys: r reload, R restart, l logs, e events, / filter, p pause, ? help, q quit. With --once for scripts.
    """
    if as_json and not once:
        raise OcdError(
            "A live view is not JSON", "", "Run `occtl top --once --json`", exit_code=EX_USAGE, code="usage"
        )
    if once:
        return _once(as_json)
    if not (screen.is_terminal(sys.stdout) and sys.stdin.isatty()):
        raise OcdError(
            "This is not a terminal that can show a live view",
            "standard input or output is no terminal, or TERM says dumb",
            "Run `occtl top --once`, or `occtl status`",
            exit_code=EX_USAGE,
            code="no-terminal",
        )
    line = Line()
    line.status()  # an error belongs on the terminal, not into a view that shows nothing else
    from ocd.ctl.control_room.view import ControlRoom

    ControlRoom(line).run()
    return EX_OK


def _once(as_json: bool) -> int:
    import shutil

    from ocd.ctl.control_room import picture
    from ocd.wire.messages import Exchange, Status

    with Daemon() as daemon:
        room = picture.Room(daemon.get(Status, "/v1/status"))
        for exchange in daemon.lines(Exchange, "/v1/requests", lines=PAST):
            room.add(exchange)
    if as_json:
        assert room.status is not None
        requests = [one.model_dump(mode="json") for one in room.requests]
        screen.out_json({"status": room.status.model_dump(mode="json"), "requests": requests})
    else:
        size = shutil.get_terminal_size((100, 0))
        screen.out(
            picture.frame(room, width=size.columns, height=size.lines - 1 if sys.stdout.isatty() else 0)
        )
    return EX_OK
