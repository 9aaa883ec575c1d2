"""One daemon per user: an flock is the truth, the text in the file is only for people. Standard library only."""

import fcntl
import json
import os
import time

from ocd.errors import EX_CANTCREAT, EX_TEMPFAIL, OcdError

#: seconds for which a lock that is refused is tried again: somebody may only be looking (``held``)
_A_LOOK = 0.3


def held(path: str) -> bool:
    """Whether a daemon of this user runs, asked without a connection (which could start one)."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def take(path: str, inherited: int = -1) -> int:
    """Take the instance lock; returns the descriptor that holds it for as long as it is open.

    Raises OcdError with exit code 75 when another daemon has it, 73 when the file cannot be made.
    """
    if inherited >= 0:
        os.set_inheritable(inherited, False)
        return inherited
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OcdError(
            f"the lock file {path} cannot be opened",
            error.strerror or str(error),
            "Make the folder writable or free some space",
            exit_code=EX_CANTCREAT,
            code="lock",
        ) from error
    deadline = time.monotonic() + _A_LOOK
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            text = os.pread(fd, 4096, 0)
            os.close(fd)
            raise OcdError(
                "ocd runs already",
                _who(text),
                "See `occtl status`",
                exit_code=EX_TEMPFAIL,
                code="already-running",
            ) from None
    write(fd)
    return fd


def write(fd: int) -> None:
    """Say in the file who holds it; a full disk is no reason not to run."""
    try:
        text = json.dumps({"pid": os.getpid(), "since": time.time()})
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
    except OSError:
        pass


def _who(text: bytes) -> str:
    try:
        known = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known["since"]))
        return f"pid {int(known['pid'])} since {since}"
    except (ValueError, KeyError, TypeError):
        return "its pid is not known"
