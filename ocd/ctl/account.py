"""``occtl account``: the logins that ``openclaude --account NAME`` can use, and their limits side by side."""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK, EX_TEMPFAIL, EX_USAGE, OcdError

if TYPE_CHECKING:
    from pathlib import Path

    from ocd.wire.messages import Status

_SHARES = ("settings", "memory", "tools", "history", "mcp", "all", "none")


@click.group(short_help="Several logins of Claude's, with their limits side by side.")
def account() -> None:
    """Several logins of Claude's: a folder of Claude Code's for each, `~/.claude-accounts/NAME`.

    `openclaude --account NAME` starts a session with one of them. The login stays in its folder (on macOS in the
    keychain), where Claude Code itself keeps and renews it; ocd stores none and changes none for another.
    """


@account.command(
    "list",
    short_help="List the accounts with their limits side by side.",
    epilog=examples("occtl account list", "occtl account list --json | jq '.[].limit'"),
)
@json_option
def list_(as_json: bool) -> int:
    """List the accounts, how much of each one's plan is used, and until when one is at its limit.

    The limits are those that Anthropic stated with the latest answer to a session of the account; before its first
    answer, and without a daemon, nothing is known of them.
    """
    from ocd.claude import accounts
    from ocd.core import accounts as core

    status = _status()
    limits: Any = status.limits if status is not None else []
    now = time.time()
    rows: list[dict[str, Any]] = []
    for one in accounts.known(accounts.home(os.environ)):
        limit = core.of(limits, one.name)
        rows.append(
            {
                "account": one.name,
                "folder": str(one.folder),
                "login": one.login,
                "shared": list(one.shared),
                "limit": core.state(limit, now, screen.time_of_day) or None,
                "full_until": (core.full_until(limit, now) or None) if limit is not None else None,
                "windows": [window.model_dump(mode="json") for window in limit.windows] if limit else [],
            }
        )
    if as_json:
        screen.out_json(rows)
        return EX_OK
    logins = {True: "yes", False: "no", None: "keychain"}
    cells = [
        [
            str(row["account"]),
            logins[row["login"]],
            row["limit"] or "not known",
            "; ".join(_window(one, now) for one in row["windows"]) or "-",
            screen.plain(screen.home(str(row["folder"]))),
        ]
        for row in rows
    ]
    screen.show_table(("account", "login", "limit", "windows", "folder"), cells)
    for row in rows:
        if row["login"] is False and row["account"] != "default":
            screen.note(
                f"{row['account']} is not logged in: openclaude --account {row['account']} auth login"
            )
    return EX_OK


def _window(one: dict[str, Any], now: float) -> str:
    from ocd.core.accounts import percent

    again = f", resets in {screen.duration(one['reset'] - now)}" if one["reset"] else ""
    return f"{one['name']} {percent(one['used'])}{again}"


def _status() -> "Status | None":
    from ocd.wire.messages import Status

    try:
        with Daemon() as daemon:
            return daemon.get(Status, "/v1/status")
    except NotRunning:
        return None


@account.command(
    short_help="Make the folder of an account, or link what is new.",
    epilog=examples(
        "occtl account add work",
        "occtl account add work --share settings --share mcp",
        "occtl account add work --share none",
        "openclaude --account work auth login",
    ),
)
@click.argument("name")
@click.option(
    "--share",
    multiple=True,
    type=click.Choice(_SHARES),
    help="What it has in common with ~/.claude; may be given again. all unless named.",
)
@json_option
def add(name: str, share: tuple[str, ...], as_json: bool) -> int:
    """Make a folder for the account NAME, or link in one that is there what is new in ~/.claude.

    Linked: settings (settings.json), memory (CLAUDE.md, rules), tools (agents, commands, skills, plugins, hooks),
    history (so that `openclaude --account NAME --continue` goes on where another account stopped). mcp: the user's MCP
    servers are copied. What the account has of its own stays, and no login is touched.
    """
    from ocd.claude import accounts

    wanted = set(share or ("all",))
    if "none" in wanted and len(wanted) > 1:
        raise OcdError("--share none stands alone", "", "Example: --share settings", exit_code=EX_USAGE)
    chosen = [what for what in accounts.SHARED if "all" in wanted or what in wanted]
    made, done = accounts.add(accounts.home(os.environ), name, chosen)
    if as_json:
        said = {"ok": True, "account": name, "folder": str(made.folder), "login": made.login, "done": done}
        screen.out_json(said)
        return EX_OK
    for line in done:
        screen.out(screen.plain(line))
    if not done:
        screen.out(f"{screen.home(str(made.folder))} has all of it already.")
    if made.login is not True:
        screen.note(f"Log in there: openclaude --account {name} auth login")
    return EX_OK


@account.command(
    short_help="Delete an account's folder and login; asks first.",
    epilog=examples("occtl account remove work", "occtl account remove work --yes --json"),
)
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(name: str, yes: bool, as_json: bool) -> int:
    """Delete the folder of the account NAME, its login with it. Asks first; without a terminal --yes has to say it.

    What is only linked there stays. On macOS the login is in the keychain, which only Claude Code's own `/logout`
    takes away. Ends with 75 while a session of the account lives.
    """
    from ocd.claude import accounts

    where = accounts.home(os.environ)
    folder = accounts.existing(where, name)
    living = _living(folder)
    if living:
        raise OcdError(
            f"A session of the account {name} lives",
            f"pid {', '.join(map(str, living))}",
            "End it first",
            exit_code=EX_TEMPFAIL,
            code="account-in-use",
        )
    own = [one.name for one in sorted(folder.iterdir()) if not one.is_symlink()]
    if not as_json:
        screen.out(
            f"removes {screen.plain(screen.home(str(folder)))}: {len(own)} files and folders of its own"
        )
    if not yes:
        _ask(name)
    accounts.remove(where, name)
    if as_json:
        screen.out_json({"ok": True, "account": name, "folder": str(folder)})
    return EX_OK


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise OcdError(
            f"The account {name} is not removed unasked",
            "its login would be deleted, and this is no terminal",
            f"`occtl account remove {name} --yes` does it",
            exit_code=EX_USAGE,
            code="not-confirmed",
        )
    if not click.confirm(f"Delete the account {name} and its login?", default=False, err=True):
        raise OcdError("Nothing was removed", "", exit_code=EX_USAGE, code="not-confirmed")


def _living(folder: "Path") -> list[int]:
    """Processes of ours that Claude Code noted in the folder."""
    found = []
    try:
        names = os.listdir(folder / "sessions")
    except OSError:
        return []
    for name in names:
        stem = name.removesuffix(".json")
        if stem.isdigit():
            try:
                os.kill(int(stem), 0)
            except (OSError, OverflowError):
                continue
            found.append(int(stem))
    return sorted(found)
