"""Ending with one's parent: no process of ours may stay behind unsupervised. Standard library only."""

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def become_subreaper() -> bool:
    """Have orphaned descendants handed to this process (prctl(2), Linux only). Returns whether it worked."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, patience: float = 2.0) -> bool:
    """Ask the kernel for SIGKILL when the process ``parent`` ends (Linux; elsewhere the control socket's end tells).

    After a double fork the orphan is handed to its new parent a moment later; ``patience`` (seconds) bounds the
    wait for that. The signal follows the parent *thread* (prctl(2)); the keeper has just one. Returns False when
    ``parent`` is not our parent: it died before we could ask, or somebody else adopted us.
    """
    deadline = time.monotonic() + patience
    while os.getppid() != parent:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent
