"""``occtl uninstall``: take ocd away again, without the checkout that it came from.

What ``install.py`` made its package (``ocd.installer``) removes itself. Where the package was installed otherwise (uv,
pipx), the same is done here, and the command's own environment is left to that tool.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ocd import paths
from ocd.ctl import screen
from ocd.ctl.options import examples
from ocd.errors import EX_CANTCREAT, EX_NOPERM, EX_OK, EX_TEMPFAIL, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.settings.folders import Folders

#: in the first lines of a command that install.py wrote
_MARK = "# written by ocd's install.py"
#: what a person may want to have later
_DEAR = ("usage.db", "backups")


@click.command(
    short_help="Take ocd away again; your configuration stays.",
    epilog=examples(
        "occtl uninstall --dry-run",
        "occtl uninstall",
        "occtl uninstall --yes --keep ~/ocd-kept",
        "occtl uninstall --purge              the configuration too",
    ),
)
@click.option("--purge", is_flag=True, help="Remove the configuration, too.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy backups and usage figures into this folder first.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def uninstall(purge: bool, keep: Path | None, dry_run: bool, yes: bool) -> int:
    """Stop the daemon, take the service and what is in Claude Code's settings away, remove everything of ocd's.

    Says what that is first, and asks; backups and usage figures are asked about. Without a terminal --yes has to say
    it. What is running is finished first. The configuration stays unless --purge is given.
    """
    from ocd.settings.folders import Folders

    folders = Folders.find()
    places = _places(folders, purge)
    if not places:
        screen.out("ocd is not installed here; nothing to do.")
        return EX_OK
    verb = "would remove" if dry_run else "removes"
    for what, path in places:
        screen.out(f"{verb} {screen.home(str(path))}: {what}")
    if not purge and folders.config.is_dir():
        screen.out(f"keeps {screen.home(str(folders.config))}: your configuration")
    if dry_run:
        return EX_OK
    dear = [folders.state / name for name in _DEAR if (folders.state / name).exists()]
    if not yes:
        keep = _asked(dear, keep)
    if keep is not None and dear:
        _copy(dear, keep.expanduser().absolute())
    launcher = folders.bin / "occtl"
    if launcher.is_file() and _MARK in launcher.read_text("utf-8", "replace"):
        _become_installer("--uninstall", *(["--purge"] if purge else []))
    return _by_ourselves(folders, purge)


def _places(folders: "Folders", purge: bool) -> list[tuple[str, Path]]:
    """What there is, in words, and where."""
    found = []
    for what, path in (
        (f"the environments ({screen.size(_bytes(folders.data))})", folders.data),
        (_of_state(folders.state), folders.state),
        ("sockets and what is running", folders.runtime),
        ("your configuration", folders.config if purge else None),
    ):
        if path is not None and path.exists():
            found.append((what, path))
    for name in ("ocd", "occtl", "openclaude"):
        command = folders.bin / name
        if command.is_file() and _MARK in command.read_text("utf-8", "replace"):
            found.append(("a command", command))
    return found


def _of_state(state: Path) -> str:
    parts = ["keys, logs, snapshots"]
    days = _days(state / "usage.db")
    if days:
        parts.append(f"usage figures of {days} day{'s' if days > 1 else ''}")
    backups = sum(1 for one in (state / "backups").glob("*/") if one.is_dir())
    if backups:
        parts.append(f"{backups} backup{'s' if backups > 1 else ''} of changed files")
    return ", ".join(parts)


def _days(path: Path) -> int:
    import sqlite3

    from ocd.adapters import usage_file

    if not path.exists():
        return 0
    try:
        return sum(1 for _ in usage_file.grouped(str(path), ["day"], "0001-01-01"))
    except (OSError, sqlite3.Error):
        return 1  # there is something, whatever it is


def _bytes(folder: Path) -> int:
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(inner, name)).st_size
            except OSError:
                continue
    return total


def _asked(dear: Sequence[Path], keep: Path | None) -> Path | None:
    """Where backups and figures are to be kept, None: nowhere. Raises OcdError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise OcdError(
            "Nothing was removed",
            "nobody could be asked: standard input is no terminal",
            "`occtl uninstall --yes` does it unasked; with --keep DIR backups and usage figures are copied first",
            exit_code=EX_USAGE,
            code="not-asked",
        )
    if not click.confirm("Remove all this?", default=False, err=True):
        raise click.Abort
    if dear and keep is None:
        names = ["ocd-kept", *(f"ocd-kept-{number}" for number in range(2, 100))]
        folder = next(one for name in names if not (one := Path.home() / name).exists())
        if click.confirm(f"Keep a copy of backups and usage figures in {folder}?", default=True, err=True):
            return folder
    return keep


def _copy(dear: Sequence[Path], target: Path) -> None:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in dear:
            if path.is_dir():
                shutil.copytree(path, target / path.name, dirs_exist_ok=True)
            else:
                shutil.copy2(path, target / path.name)
    except OSError as error:
        raise OcdError(
            f"Cannot copy into {target}",
            f"{error.strerror or error}; nothing was removed",
            "Name another folder with --keep",
            exit_code=EX_CANTCREAT,
            code="not-kept",
        ) from None
    screen.out(f"kept in {target}: {', '.join(path.name for path in dear)}")


def _become_installer(*options: str) -> NoReturn:
    """What install.py runs, in our place: it removes the environment that this command runs in.

    The interpreter behind the environment's runs it, which stays.
    """
    python = getattr(sys, "_base_executable", "") or sys.executable
    _, *command = paths.program("ocd.installer.main")
    sys.stdout.flush()
    os.execv(python, [python, "-B", *command, *options])


def _by_ourselves(folders: "Folders", purge: bool) -> int:
    """The same where no install.py was: the service, Claude Code's settings, the daemon, the folders."""
    for words in (["claude", "remove", "--all"], ["service", "uninstall"], ["stop"]):
        done = subprocess.run(
            [*paths.program("ocd.ctl"), *words], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        # 66: there is nothing of ours; a service manager that is not there has none either
        if done.returncode not in (0, 66) and words[0] != "service":
            raise OcdError(
                f"`occtl {' '.join(words)}` failed, so nothing was removed",
                f"it ended with {done.returncode}",
                "Follow what it says above, then run this again",
                exit_code=EX_TEMPFAIL,
                code="not-removed",
            )
    for folder in (folders.data, folders.state, folders.runtime, *([folders.config] if purge else [])):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise OcdError(
                "Not everything could be removed",
                str(folder),
                "Make it and what is in it writable, then run this again",
                exit_code=EX_NOPERM,
                code="not-removed",
            )
    screen.out(
        "removed; the command itself goes with what installed it: `uv tool uninstall openclaude-daemon`, or"
    )
    screen.out("`pipx uninstall openclaude-daemon`.")
    return EX_OK
