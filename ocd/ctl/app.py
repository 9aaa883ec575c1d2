"""The command itself: the table of verbs, each loaded when it is asked for, and the global options."""

import importlib
from typing import Any

import click

from ocd import __version__
from ocd.ctl import screen
from ocd.ctl.options import examples
from ocd.ctl.words import COMMANDS

#: heading in ``--help`` → verb → module of ``ocd.ctl``, which has a click command of the verb's name.
#: A new verb is one row here and one function there.
VERBS: dict[str, dict[str, str]] = {
    "Look": {
        "status": "views",
        "logs": "follow",
        "events": "follow",
        "sessions": "views",
        "top": "top",
        "dashboard": "dashboard",
        "usage": "usage",
        "trace": "trace",
        "metrics": "metrics",
        "statusline": "statusline",
        "models": "models",
        "explain": "explain",
        "version": "views",
        "selftest": "selftest",
        "doctor": "doctor",
        "sbom": "sbom",
        "help": "help",
    },
    "Act": {
        "start": "lifecycle",
        "stop": "lifecycle",
        "restart": "lifecycle",
        "reload": "reload",
        "spill": "spill",
        "wait": "wait",
    },
    "Set up": {
        "setup": "setup",
        "aws": "aws",
        "account": "account",
        "profile": "profile",
        "init": "init",
        "model": "model",
        "config": "config",
        "undo": "undo",
        "claude": "claude",
        "team": "team",
        "export": "export",
        "migrate": "migrate",
        "completion": "completion",
        "service": "service",
        "reexec": "upgrade",
        "upgrade": "upgrade",
        "litellm": "litellm",
        "uninstall": "uninstall",
    },
}


class Verbs(click.Group):
    """A group whose commands are imported when they run: ``occtl status`` need not load the rest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verbs in VERBS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for verbs in VERBS.values():
            if cmd_name in verbs:
                module = importlib.import_module(f"ocd.ctl.{verbs[cmd_name]}")
                found = getattr(module, cmd_name.replace("-", "_"))
                assert isinstance(found, click.Command)
                return found
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verbs = self.list_commands(ctx)
        if args and args[0] not in verbs and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], verbs, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, verbs in VERBS.items():
            # from the table: to import every verb for its one line would take a quarter of a second
            rows = [(verb, COMMANDS[verb][0]) for verb in verbs if verb in COMMANDS]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _no_color(ctx: click.Context, param: click.Parameter, value: bool) -> Any:
    if value:
        screen.forbid_color()
    return value


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "occtl start                     start the daemon, wait until both serve",
        "occtl status --watch            look at them, redrawn each second",
        "occtl config check && occtl reload",
        "occtl logs bedrock -f           follow one proxy's output",
        "occtl status --json | jq .proxies.main.state",
        "occtl selftest                  show which credential goes where",
    ),
)
@click.version_option(__version__, "--version", "-V", prog_name="occtl", message="%(prog)s %(version)s")
@click.option(
    "--no-color",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_no_color,
    help="No colours, anywhere in the line (also NO_COLOR, CLICOLOR=0).",
)
def cli() -> None:
    """The hand on ocd, the supervisor of two LiteLLM proxies behind Claude Code."""
