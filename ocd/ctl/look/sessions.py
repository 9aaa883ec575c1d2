"""``occtl sessions``: the living ``openclaude`` processes, and what each asked for."""

import time

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.look import records
from ocd.errors import EX_OK

_COLUMNS = (">pid", "folder", ">since", ">requests", ">tokens", "last", "upstream", ">ago")


def run(as_json: bool) -> int:
    """The verb itself; returns the exit code."""
    with Daemon() as daemon:
        found = sorted(daemon.record("Status", "/v1/status").sessions, key=lambda session: session.since)
    if as_json:
        screen.out_json(records.plain(found))
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
    screen.show_table(_COLUMNS, rows)
    return EX_OK
