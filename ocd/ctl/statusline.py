"""``occtl statusline``: help and options; ``ocd.ctl.__main__`` goes past all this."""

import click

from ocd.client import statusline as fast
from ocd.ctl.options import examples


@click.command(
    epilog=examples(
        "occtl claude statusline on        have Claude Code show it",
        "occtl statusline < /dev/null      look at it",
        'occtl config set statusline.parts \'["route", "limits", "cost"]\'',
    )
)
@click.option("--with", "wrapped", metavar="COMMAND", default="", help="Your own line, shown in front of it.")
def statusline(wrapped: str) -> int:
    """Print one short line for Claude Code's status line.

    What of the proxies is not well; slot and upstream of the session's latest request, its tokens, a fallback that
    was taken; an upstream's trouble and what to do. It reads a small file that the daemon writes, takes about 15 ms
    and always ends with 0. NO_COLOR turns the colours off. `[statusline] parts` of ocd.toml says what it is made of.
    COMMAND is run by the shell with the same standard input; after two seconds it is ended, and ours stands alone.
    """
    return fast.main(wrapped)
