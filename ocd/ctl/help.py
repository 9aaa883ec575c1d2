"""``occtl help``: of a command, as ``-h``; and of what belongs to none."""

import click

from ocd.ctl import screen
from ocd.ctl.exits import EXITS
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK

TOPICS = ("exit-codes",)


@click.command(
    short_help="Show the help of a command, or exit-codes.",
    epilog=examples("occtl help logs", "occtl help config path", "occtl help exit-codes"),
)
@click.argument("command", required=False, type=click.Choice(TOPICS), metavar="[COMMAND|exit-codes]")
@json_option
def help(command: str | None, as_json: bool) -> int:
    """Show the help of COMMAND, as `occtl COMMAND -h` does; or what the exit codes mean."""
    if command is None:
        root = click.get_current_context().find_root()
        screen.out(root.get_help())
    elif as_json:
        screen.out_json([{"code": code, "when": when} for code, when in EXITS])
    else:
        screen.show_table((">code", "when"), [(str(code), when) for code, when in EXITS])
    return EX_OK
