"""``occtl sessions``: the living ``openclaude`` processes, and what each asked for."""

import time

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.look import records
from ocd.errors import EX_OK
from ocd.paths import ORDINARY

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
            screen.plain(screen.home(session.cwd)) + _which(session.kind, session.account),
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


def _which(kind: str, account: str) -> str:
    """What a session is beside ``openclaude`` with the usual login, in brackets behind its folder."""
    said = ", ".join(one for one in (kind, screen.plain(account)) if one not in ("", ORDINARY))
    return f" ({said})" if said else ""
