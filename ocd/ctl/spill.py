"""``occtl spill``: near the plan's limit, requests go to AWS until the limit's window begins again."""

import time
from typing import TYPE_CHECKING

import click

from ocd.core.limits import percent
from ocd.ctl import effect, screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CONFIG, EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.wire.messages import Status

DEFAULT_AT = 95


@click.group(
    short_help="Use AWS while the Claude plan's limit is nearly reached.",
    invoke_without_command=True,
    epilog=examples("occtl spill", "occtl spill on", "occtl spill on --at 90", "occtl spill off"),
)
@json_option
@click.pass_context
def spill(ctx: click.Context, as_json: bool) -> int:
    """Send requests to AWS while the Claude plan's limit is nearly reached.

    Without a verb: whether it is on, what goes where, and how much of the plan is used.
    """
    if ctx.invoked_subcommand is not None:
        return EX_OK
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    settings = load(Folders.find())
    groups = _targets()
    status = _status()
    if as_json:
        limits = [one.model_dump(mode="json") for one in status.limits] if status else []
        screen.out_json({"at": settings.spill.at or None, "groups": groups, "limits": limits})
        return EX_OK
    if settings.spill.at:
        screen.out(f"Spill is on: from {settings.spill.at} % of the plan's binding window on.")
    else:
        screen.out("Spill is off. `occtl spill on` turns it on.")
    for name, target in groups.items():
        screen.out(f"  {name} would go to {target} (AWS)")
    if not groups:
        screen.out(f"  {_NO_ROUTE}")
    for login in status.limits if status else []:
        for window in login.windows:
            again = ""
            if window.reset is not None:
                again = f", resets in {screen.duration(window.reset - time.time())}"
            mark = "*" if window.name == login.binding else " "
            screen.out(f"{mark} {window.name}: {percent(window.used)} used{again}")
        if login.spilling:
            screen.out("  its requests go to AWS until the reset")
    return EX_OK


_NO_ROUTE = (
    "No model group of main has a fallback on AWS: see `occtl init --preset fallback`, or set [spill] routes."
)


@spill.command(epilog=examples("occtl spill on", "occtl spill on --at 90"))
@click.option(
    "--at",
    type=click.IntRange(1, 100),
    default=DEFAULT_AT,
    show_default=True,
    help="Per cent of the plan's binding window from which requests go to AWS.",
)
@json_option
def on(at: int, as_json: bool) -> int:
    """Turn it on. It costs AWS money while it lasts, and shows in status, top and Claude Code's status line.

    Ends with 78, and changes nothing, when no model group has a route on AWS.
    """
    if not _targets():
        raise OcdError(
            "Nothing could spill", _NO_ROUTE.rstrip("."), "", exit_code=EX_CONFIG, code="no-spill-route"
        )
    return _set(at, as_json)


@spill.command(epilog=examples("occtl spill off"))
@json_option
def off(as_json: bool) -> int:
    """Turn it off: requests go to Anthropic again at once."""
    return _set(None, as_json)


def _set(at: int | None, as_json: bool) -> int:
    from ocd.settings import backup
    from ocd.settings.folders import Folders
    from ocd.settings.load import FILE, read_text
    from ocd.settings.tomlset import set_keys
    from ocd.stack.trial import try_out

    folders = Folders.find()
    path = folders.config / FILE
    text = read_text(path) if path.exists() else ""
    kept = backup.change(folders, "spill", {path: set_keys(text, {("spill", "at"): at})})
    if not as_json:
        words = f"on, from {at} % of the plan's binding window on" if at else "off"
        screen.out(f"Spill is {words}." if kept else f"Already set: spill is {words}.")
    return effect.finish(
        {"at": at, "changed": kept is not None}, try_out(folders, {}), as_json, reload=bool(kept)
    )


def _targets() -> dict[str, str]:
    """Group of main -> where it would go, by the files as they are now."""
    from ocd.ctl.stack import load_stack
    from ocd.stack import pipe

    stack = load_stack()
    return pipe.spill_targets(pipe.table(stack, "main"), stack.settings.spill.routes)


def _status() -> "Status | None":
    from ocd.wire.messages import Status

    try:
        with Daemon() as daemon:
            return daemon.get(Status, "/v1/status")
    except NotRunning:
        return None
