"""``occtl reload``: new configuration in, nothing dropped, the outcome reported."""

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon
from ocd.ctl.lifecycle import report
from ocd.ctl.options import examples, json_option, proxy_argument
from ocd.errors import EX_CONFIG


@click.command(epilog=examples("occtl reload", "occtl reload main", "occtl reload --dry-run"))
@proxy_argument
@json_option
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
def reload(name: str | None, as_json: bool, dry_run: bool) -> int:
    """Read the configuration again and replace what it changes.

    Waits for the outcome. A configuration that is wrong or does not boot changes nothing: the old one serves
    on, the reason is printed, and the exit code is 78.
    """
    from ocd.wire.messages import Outcome, ReloadRequest

    with Daemon() as daemon, screen.progress("Looking at the changes…" if dry_run else "Reloading…"):
        outcome = daemon.post(Outcome, "/v1/reload", ReloadRequest(proxy=name, dry_run=dry_run))
    if outcome.ok:
        if not outcome.changed and not outcome.reason and not outcome.proxies:
            outcome.reason = "nothing has changed"
        return report(outcome, as_json)
    error = screen.outcome_error(outcome, "The new configuration is not serving", EX_CONFIG)
    return report(outcome, as_json, error)
