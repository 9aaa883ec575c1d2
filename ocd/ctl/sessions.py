"""``occtl sessions``: the living ``openclaude`` processes, and what each asked for."""

import time

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK

_COLUMNS = (">pid", "folder", ">since", ">requests", ">tokens", "last", "upstream", ">ago")


@click.command(epilog=examples("occtl sessions", "occtl sessions --json | jq -r '.[].pid'"))
@json_option
def sessions(as_json: bool) -> int:
    """List the living openclaude sessions: pid, folder, since, requests, the slot used last.

    Sessions that Claude Code hosts in the background are marked so. `ago` is the time since the latest request was
    answered. The figures count from the session's start.
    """
    from ocd.wire.messages import Status

    with Daemon() as daemon:
        found = sorted(daemon.get(Status, "/v1/status").sessions, key=lambda session: session.since)
    if as_json:
        screen.out_json([session.model_dump(mode="json") for session in found])
        return EX_OK
    if not found:
        screen.out("No session is running. `openclaude` starts one.")
        return EX_OK
    now = time.time()
    rows = [
        [
            str(session.pid),
            screen.plain(screen.home(session.cwd)) + (f" ({session.kind})" if session.kind else ""),
            screen.duration(now - session.since),
            f"{session.requests:,}",
            f"{session.tokens:,}",
            screen.plain(session.last_slot) or "-",
            screen.plain(session.last_upstream) or "-",
            screen.duration(now - session.last_request) if session.last_request is not None else "-",
        ]
        for session in found
    ]
    screen.print_rich(screen.table(_COLUMNS, rows))
    return EX_OK
