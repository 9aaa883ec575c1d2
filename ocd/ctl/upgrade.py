"""``occtl reexec`` and ``occtl upgrade``: new code behind the same sockets, without a refused connection."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click

from ocd import paths
from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.lifecycle import report
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_NOINPUT, EX_TEMPFAIL, OcdError

#: seconds for keeper and supervisor to be back; the proxies serve meanwhile
PATIENCE = 60.0


def replace_code() -> str:
    """Have the daemon replace its code; returns its version afterwards. Raises OcdError when it is not back in time."""
    from ocd.wire.messages import Outcome, Version

    with Daemon() as daemon:
        before = daemon.get(Version, "/v1/version")
        since = time.time()
        daemon.post(Outcome, "/v1/reexec")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with Daemon() as daemon:
                now = daemon.get(Version, "/v1/version")
                _raise_if_it_failed(daemon, since)
            if now.pid != before.pid:
                return now.version
        except ReexecFailed:
            raise
        except OcdError:
            pass
        time.sleep(0.05)
    raise OcdError(
        "The daemon has not replaced its code",
        f"after {PATIENCE:.0f} s the old supervisor (pid {before.pid}) still answers, or nobody does",
        "See `occtl logs daemon`; `occtl stop` and `occtl start` begin anew",
        exit_code=EX_TEMPFAIL,
        code="reexec-failed",
    )


class ReexecFailed(OcdError):
    """The daemon has tried the new code, and goes on with the old."""


def _raise_if_it_failed(daemon: Daemon, since: float) -> None:
    from ocd.wire.messages import Event

    for event in daemon.lines(Event, "/v1/events", lines=20):
        if event.kind == "reexec-failed" and event.time >= since:
            raise ReexecFailed(
                "The daemon has not replaced its code and goes on with the old",
                event.text,
                "Run `python3 install.py` again, then `occtl reexec`",
                exit_code=EX_TEMPFAIL,
                code="reexec-failed",
            )


@click.command(epilog=examples("occtl reexec"))
@json_option
def reexec(as_json: bool) -> int:
    """Replace the daemon's code by what is installed now; sockets, proxies and streams go on.

    Keeper and supervisor start over in place. If LiteLLM or the code that runs beside it has changed, new
    processes take over from the old ones as in a reload.
    """
    from ocd.wire.messages import Outcome

    with screen.progress("Replacing the daemon's code…"):
        version = replace_code()
    return report(Outcome(ok=True, changed=True, reason=f"the daemon runs version {version}"), as_json)


@click.command(epilog=examples("occtl upgrade ~/src/ocd", "occtl upgrade"))
@click.argument("source", required=False, type=click.Path(path_type=Path, file_okay=False))
@json_option
def upgrade(source: Path | None, as_json: bool) -> int:
    """Install a newer version from SOURCE, a checkout, and let it take over without a refused connection.

    Without SOURCE the code that is installed already takes over (after `pipx upgrade` or `uv tool upgrade`).
    """
    from ocd.wire.messages import Outcome

    if source is not None:
        installer = source.resolve() / "install.py"
        if not installer.is_file():
            raise OcdError(
                f"{source} is no checkout of ocd",
                f"there is no {installer}",
                "Name the folder that holds install.py",
                exit_code=EX_NOINPUT,
                code="no-installer",
            )
        command = [os.path.realpath(sys.executable), "-I", str(installer)]
        if paths.prefix():
            command += ["--prefix", paths.prefix()]
        code = subprocess.run(
            command, check=False, cwd="/", stdout=sys.stderr if as_json else None
        ).returncode
        if code:
            return code
        # The installer has had the daemon replace its code, or started it.
        return _took_over(as_json)
    before = _renewed()
    with screen.progress("Replacing the daemon's code…"):
        version = replace_code()
    said = _renewed()
    if said and said != before:
        screen.note(f"{said}.")
    return report(Outcome(ok=True, changed=True, reason=f"the daemon runs version {version}"), as_json)


def _renewed() -> str:
    """What was said when files of a former version were brought to today's; empty: nothing (yet)."""
    from ocd.settings.folders import Folders
    from ocd.stack.renew import said

    return said(Folders.find())


def _took_over(as_json: bool) -> int:
    from ocd.wire.messages import Outcome, Version

    try:
        with Daemon() as daemon:
            said = f"the daemon runs version {daemon.get(Version, '/v1/version').version}"
    except NotRunning:
        said = "installed; the daemon does not run"
    return report(Outcome(ok=True, changed=True, reason=said), as_json)
