"""Several logins: a folder of Claude Code's for each account, ``~/.claude-accounts/NAME`` (``CLAUDE_CONFIG_DIR``).

Claude Code keeps a login in its folder (on macOS in the keychain, by the folder's name), renews it there and uses it
from there; nothing of it passes through here. What the accounts are to share is linked to the user's ordinary folder,
piece by piece: never ``.credentials.json``, which Claude Code replaces at each renewal, nor what belongs to running
processes. MCP servers stand in ``.claude.json`` beside the account's own name, so they are copied.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocd import atomic, paths
from ocd.claude.files import own_alone, read_optional
from ocd.errors import EX_CANTCREAT, EX_NOINPUT, EX_NOPERM, EX_USAGE, OcdError

#: what can be shared → its files and folders in Claude Code's folder
SHARED: Mapping[str, tuple[str, ...]] = {
    "settings": ("settings.json", "keybindings.json"),
    "memory": ("CLAUDE.md", "rules"),
    "tools": ("agents", "commands", "skills", "plugins", "hooks", "output-styles"),
    "history": ("projects", "history.jsonl", "file-history", "plans", "todos"),
    "mcp": (),
}
#: of .claude.json: what a first start would ask for again; nothing of a login
_ANSWERED = ("hasCompletedOnboarding", "lastOnboardingVersion", "theme", "installMethod", "autoUpdates")
_STATE = ".claude.json"
_LOGIN = ".credentials.json"


@dataclass(frozen=True, slots=True)
class Account:
    """``login``: whether Claude Code keeps one in the folder; None: it may be in the keychain. ``shared``: what of it
    is a link to the ordinary folder."""

    name: str
    folder: Path
    login: bool | None
    shared: tuple[str, ...] = ()


def home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or os.path.expanduser("~"))


def known(where: Path) -> list[Account]:
    """All accounts below a home, the ordinary one first."""
    found = [_account(paths.ORDINARY, where / ".claude")]
    try:
        names = sorted(os.listdir(where / paths.ACCOUNTS))
    except OSError:
        names = []
    for name in names:
        folder = where / paths.ACCOUNTS / name
        if paths.is_name(name) and name != paths.ORDINARY and folder.is_dir():
            found.append(_account(name, folder))
    return found


def _account(name: str, folder: Path) -> Account:
    login: bool | None = os.path.lexists(folder / _LOGIN)
    if not login and os.uname().sysname == "Darwin":
        login = None
    shared = tuple(
        what for what, names in SHARED.items() if any((folder / one).is_symlink() for one in names)
    )
    return Account(name, folder, login, shared)


def add(where: Path, name: str, share: Iterable[str]) -> tuple[Account, list[str]]:
    """Make an account's folder, or link in one that is there what is new to share; returns what was done, in words.

    What the account has of its own under such a name stays. Raises OcdError: exit 64 for a name that cannot be, 77 when
    the folder is not ours alone, 73 when it cannot be written.
    """
    _usable(name)
    root, folder, ordinary = where / paths.ACCOUNTS, where / paths.ACCOUNTS / name, where / ".claude"
    done: list[str] = []
    try:
        for one in (root, folder):
            if not one.is_dir():
                one.mkdir(mode=0o700)
                done.append(f"made {one}")
            own_alone(one)
        for what in share:
            done += [f"linked {one}" for one in SHARED[what] if _link(ordinary / one, folder / one)]
        done += _state(where, folder, "mcp" in set(share))
    except OSError as error:
        raise OcdError(
            f"Cannot make {folder}",
            error.strerror or str(error),
            "Check space and permissions",
            exit_code=EX_CANTCREAT,
            code="account-folder",
        ) from None
    return _account(name, folder), done


def remove(where: Path, name: str) -> None:
    """Delete an account's folder, its login with it; what is linked there stays where it is.

    Raises OcdError: exit 64 for the ordinary account, 66 when there is none, 77 when the folder is no folder of ours,
    73 when something of it cannot be deleted.
    """
    folder = existing(where, name)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OcdError(
            f"Cannot delete all of {folder}",
            error.strerror or str(error),
            f"Look at what is left in {folder}",
            exit_code=EX_CANTCREAT,
            code="account-folder",
        ) from None


def existing(where: Path, name: str) -> Path:
    """The folder of an account that can be removed. Raises OcdError as ``remove``."""
    _usable(name)
    folder = where / paths.ACCOUNTS / name
    try:
        found = folder.lstat()
    except OSError:
        raise OcdError(
            f"There is no account {name}",
            f"{folder} does not exist",
            "Run `occtl account list`",
            exit_code=EX_NOINPUT,
            code="unknown-account",
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OcdError(
            f"{folder} is not removed",
            "it is a link, or not yours: what is behind it may be somebody's own",
            "Remove it yourself",
            exit_code=EX_NOPERM,
            code="foreign-folder",
        )
    return folder


def _usable(name: str) -> None:
    if name == paths.ORDINARY:
        raise OcdError(
            f"The account {name} is the ordinary one, in ~/.claude",
            "it is Claude Code's own, with or without ocd",
            "Choose another name",
            exit_code=EX_USAGE,
            code="account-name",
        )
    if not paths.is_name(name):
        raise OcdError(
            f"{name!r} cannot be an account's name",
            "letters, digits, dots, underscores and dashes are allowed, 40 at most",
            "Example: work",
            exit_code=EX_USAGE,
            code="account-name",
        )


def _link(origin: Path, place: Path) -> bool:
    """Link what is there and not linked yet; returns whether it did."""
    if not os.path.lexists(origin) or os.path.lexists(place):
        return False
    place.symlink_to(origin)
    return True


def _state(where: Path, folder: Path, servers: bool) -> list[str]:
    """What .claude.json of the account gets of the ordinary one: at first what was answered, then servers that it has
    none of the name of. All else in it, the login's name among it, is Claude Code's."""
    ordinary = read_optional(where / _STATE, []) or read_optional(where / ".claude" / _STATE, [])
    place = folder / _STATE
    fresh = not os.path.lexists(place)
    own: dict[str, Any] = {} if fresh else read_optional(place, [])
    if fresh:
        own = {name: ordinary[name] for name in _ANSWERED if name in ordinary}
    elif not own:
        return []  # not readable: Claude Code's own matter
    theirs, mine = ordinary.get("mcpServers"), own.get("mcpServers", {})
    new = []
    if servers and isinstance(theirs, dict) and isinstance(mine, dict):
        new = [name for name in theirs if name not in mine]
        if new:
            own["mcpServers"] = {**mine, **{name: theirs[name] for name in new}}
    if not own or not (fresh or new):
        return []
    atomic.replace(place, json.dumps(own, indent=2) + "\n")
    return [f"copied the MCP server {name}" for name in new]
