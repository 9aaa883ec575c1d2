"""``occtl status``, ``sessions``, ``version``: their options and help. What they do is in ``ocd/ctl/look``."""

import click

from ocd.ctl.options import examples, json_option, proxy_argument


@click.command(
    short_help="Show both proxies, what is wrong and what to do.",
    epilog=examples(
        "occtl status",
        "occtl status bedrock",
        "occtl status --watch",
        "occtl status --json | jq -r '.proxies[] | [.state, .pid] | @tsv'",
    ),
)
@proxy_argument
@json_option
@click.option("-w", "--watch", is_flag=True, help="Draw it anew until Ctrl-C; in a pipe, print each change.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between looks, with -w.",
)
def status(name: str | None, as_json: bool, watch: bool, every: float) -> int:
    """Show both proxies, or one: state, since, pid, port, memory, restarts.

    Ends with 0 when every proxy that is wanted is ready (or idle until the next connection), with 3 when one
    is not or the daemon does not run.
    """
    from ocd.ctl.look.status import run

    return run(name, as_json, watch, every)


@click.command(
    short_help="List the living openclaude sessions.",
    epilog=examples("occtl sessions", "occtl sessions --json | jq -r '.[].pid'"),
)
@json_option
def sessions(as_json: bool) -> int:
    """List the living openclaude sessions: pid, folder, since, requests, the slot used last.

    Sessions that Claude Code hosts in the background are marked so, and those of another account than the ordinary one
    with its name. `ago` is the time since the latest request was answered. The figures count from the session's start.
    """
    from ocd.ctl.look.sessions import run

    return run(as_json)


@click.command()
@json_option
def version(as_json: bool) -> int:
    """Print the versions of occtl, the daemon and LiteLLM.

    Where they differ it says which command makes them one.
    """
    from ocd.ctl.look.version import run

    return run(as_json)
