"""``occtl service``: have the machine's service manager run ocd."""

import sys
from pathlib import Path

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.service.base import Manager, Result, hint, launchers
from ocd.service.manager import current


@click.group(epilog=examples("occtl service install", "occtl service status", "occtl service uninstall"))
def service() -> None:
    """Have systemd or launchd run the daemon at login."""


_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def _bin() -> Path:
    from ocd.settings.folders import Folders

    return launchers(Folders.find().bin, sys.argv[0])


def _report(manager: Manager, result: Result, as_json: bool, dry_run: bool) -> int:
    if as_json:
        screen.out_json(
            {
                "manager": manager.name,
                "changed": result.changed,
                "did": result.did,
                "notices": result.notices,
                "dry_run": dry_run,
            }
        )
        return 0
    for line in result.did:
        screen.out(f"would {line}" if dry_run else line)
    if not result.changed:
        screen.out("Nothing to do.")
    for line in result.notices:
        screen.out(f"{line}.")
    return 0


@service.command(
    short_help="Start the daemon now and at every login.",
    epilog=examples(
        "occtl service install", "occtl service install --dry-run", "occtl service install --hardened"
    ),
)
@click.option(
    "--hardened/--no-hardened",
    default=None,
    help="With the narrower sandbox that needs user namespaces (systemd), or without it; else as it is.",
)
@_dry_run
@json_option
def install(hardened: bool | None, dry_run: bool, as_json: bool) -> int:
    """Start the daemon now and at every login; a daemon that runs without the manager gives way."""
    manager = current()
    result = manager.install(_bin(), dry_run=dry_run, hardened=hardened)
    return _report(manager, result, as_json, dry_run)


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
    lingers = manager.lingers() if not why else None
    if as_json:
        screen.out_json(
            {
                "manager": manager.name,
                "available": not why,
                "reason": why,
                "hint": hint() if why else "",
                "installed": manager.installed(),
                "state": state,
                "hardened": manager.hardened(),
                "lingers": lingers,
            }
        )
    elif why:
        screen.out(f"{manager.name}: {why}. {hint()}.")
    else:
        screen.out(f"{manager.name}: {state}{', hardened' if manager.hardened() else ''}")
        if lingers is False:
            screen.out("It ends with your last session; `loginctl enable-linger` keeps it running.")
    return 0 if state in ("active", "running") else 3


@service.command(epilog=examples("occtl service show"))
@json_option
def show(as_json: bool) -> int:
    """Print the files that `install` writes, as they would be now."""
    files = current().files(_bin())
    if as_json:
        screen.out_json({str(path): data.decode() for path, data in files.items()})
        return 0
    for path, data in files.items():
        screen.out(f"# {path}")
        screen.out(data.decode().rstrip("\n"))
    return 0
