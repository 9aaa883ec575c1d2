"""``occtl service``: have the machine's service manager run ocd."""

from pathlib import Path

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.service.manager import Manager, Result, current, hint


@click.group(epilog=examples("occtl service install", "occtl service status", "occtl service uninstall"))
def service() -> None:
    """Have systemd or launchd run the daemon at login."""


_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def _bin() -> Path:
    from ocd.config.folders import Folders

    return Folders.find().bin


def _report(manager: Manager, result: Result, as_json: bool, dry_run: bool) -> int:
    if as_json:
        screen.out_json(
            {"manager": manager.name, "changed": result.changed, "did": result.did, "dry_run": dry_run}
        )
        return 0
    for line in result.did:
        screen.out(f"would {line}" if dry_run else line)
    if not result.changed:
        screen.out("Nothing to do.")
    return 0


@service.command(epilog=examples("occtl service install", "occtl service install --dry-run"))
@_dry_run
@json_option
def install(dry_run: bool, as_json: bool) -> int:
    """Start the daemon now and at every login; a daemon that runs without the manager gives way."""
    manager = current()
    return _report(manager, manager.install(_bin(), dry_run=dry_run), as_json, dry_run)


@service.command(epilog=examples("occtl service uninstall"))
@_dry_run
@json_option
def uninstall(dry_run: bool, as_json: bool) -> int:
    """Stop the service and take its files away."""
    manager = current()
    return _report(manager, manager.uninstall(dry_run=dry_run), as_json, dry_run)


@service.command(epilog=examples("occtl service status"))
@json_option
def status(as_json: bool) -> int:
    """Which service manager answers here, and what it says of ocd. Exit code 3 when it does not run ocd."""
    manager = current()
    why = manager.available()
    state = manager.state() if not why else "not available"
    if as_json:
        screen.out_json({"manager": manager.name, "available": not why, "reason": why, "state": state})
    elif why:
        screen.out(f"{manager.name}: {why}. {hint()}.")
    else:
        screen.out(f"{manager.name}: {state}")
    return 0 if state in ("active", "running") else 3
