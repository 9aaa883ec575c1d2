"""The keeper's two folders, found without third-party code: where the lock is, and where our package is.

``ocd/settings/folders.py`` finds the same state folder with platformdirs; a test holds the two together.
"""

import os
import sys

from ocd import paths
from ocd.errors import EX_CANTCREAT, OcdError


def state_dir() -> str:
    """The folder for state (XDG base directory specification; on macOS Application Support)."""
    root = paths.prefix()
    if root:
        return os.path.join(root, "state")
    home = os.environ.get("HOME") or os.path.expanduser("~")
    if sys.platform == "darwin":
        return os.path.join(home, "Library/Application Support/ocd/state")
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(home, ".local/state")
    return os.path.join(base, "ocd")


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
