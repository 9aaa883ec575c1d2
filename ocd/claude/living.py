"""Which Claude Codes live, by the notes that they keep of their processes (``sessions/PID.json``)."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

#: files that are looked at in one folder
MOST = 500
#: seconds by which a note may be older than its process
_SLACK = 5.0


def any_in(folders: Iterable[Path]) -> bool:
    """Whether a process lives that one of these folders of Claude Code's has a note of."""
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder / "sessions") as entries:
            for entry, _ in zip(entries, range(MOST), strict=False):
                stem = entry.name.removesuffix(".json")
                if stem == entry.name or not stem.isdigit():
                    continue
                with contextlib.suppress(OSError, psutil.Error):
                    # A note outlives a process that was killed, and its number is used again.
                    written = entry.stat(follow_symlinks=False).st_mtime
                    if psutil.Process(int(stem)).create_time() <= written + _SLACK:
                        return True
    return False
