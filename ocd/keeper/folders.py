"""The keeper's two folders, found without third-party code: where the lock is, and where our package is.

``ocd/settings/folders.py`` finds the same state folder with platformdirs; a test holds the two together.
"""

import os
import sys

from ocd import paths
from ocd.errors import EX_CANTCREAT, EX_NOPERM, OcdError


def state_dir() -> str:
    """The folder for state (XDG base directory specification; on macOS Application Support)."""
    root = paths.prefix()
    if root:
        return os.path.join(root, "state")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/ocd/state")
    return paths.xdg("XDG_STATE_HOME", ".local/state")


def prepare() -> str:
    """Make the state folder, mode 0700; returns its path. Raises OcdError (exit code 73)."""
    folder = state_dir()
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise OcdError(
            f"the state folder {folder} cannot be made",
            error.strerror or str(error),
            "Make its parent writable or free some space",
            exit_code=EX_CANTCREAT,
            code="state-folder",
        ) from error
    return folder


def package_root() -> str:
    """The folder that holds the ``ocd`` package: a supervisor must come from the same place as its keeper."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def refuse_open(folder: str) -> None:
    """Raise OcdError (exit code 77) when every user of the machine may change what we are run from."""
    place = paths.open_to_all(folder)
    if place:
        raise OcdError(
            f"ocd does not run from {folder}",
            f"every user of this machine may write to {place}, and would decide what has your credentials",
            f"Run `chmod o-w {place}` after a look at what is in it, then start ocd again",
            exit_code=EX_NOPERM,
            code="open-to-all",
        )
