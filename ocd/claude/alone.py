"""One process at a time: who reads a file, changes what it says and writes it may not miss another's change."""

import fcntl
import os
import time
from pathlib import Path

from ocd.errors import EX_TEMPFAIL, OcdError

#: seconds to wait for who is at it; nobody is for longer than a few writes
PATIENCE = 5.0


def hold(folder: Path) -> int:
    """A descriptor that holds the folder until it is closed, or the process ends.

    Raises OSError when the folder cannot be opened, OcdError (exit 75) when another process holds it for long.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(handle)
            raise OcdError(
                "Settings are being changed by another process",
                f"it has held {folder} for {PATIENCE:g} s",
                "Try again",
                exit_code=EX_TEMPFAIL,
                code="settings-busy",
            ) from None
        return handle
