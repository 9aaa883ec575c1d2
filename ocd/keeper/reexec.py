"""Replacing our own code by what is installed now, or nothing at all. Standard library only.

First a child tries the new code (``ocd --check``): does the interpreter start, does everything import? Only when it
says yes the state is written to an anonymous file, and execve(2) is called with our signals held back, so that none
of them meets a process that has no handler yet. Up to that call nothing is changed that cannot be changed back; the
old supervisor is ended by the new code.
"""

import contextlib
import json
import os
import signal
import tempfile
from typing import Any

from ocd.keeper.system import close_all, log_pipe, spawn
from ocd.text import printable

#: seconds that the new code may take to say that it loads
CHECK_PATIENCE = 60.0
HANDLED = (
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
)


class Check:
    """The child that tries the new code."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        """Raises OSError when there is no such program."""
        self.argv = argv
        self.output, write = log_pipe()
        try:
            self.pid = spawn([*argv, "--check"], environment, keep=[], streams=(write, write))
        except BaseException:
            close_all([self.output])
            raise
        finally:
            close_all([write])

    def complaint(self, code: int) -> str:
        """Why it did not load, after the child has ended with a code other than 0."""
        text = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(self.output, 65536):
                text += chunk
        lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        return printable(f"the new code does not load: {lines[-1] if lines else how}", 300)

    def close(self) -> None:
        close_all([self.output])


def write_state(state: dict[str, Any]) -> int:
    """The state in a file without a name; returns a descriptor at its beginning. Raises OSError."""
    if hasattr(os, "memfd_create"):
        fd: int = os.memfd_create("ocd-state")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        data = memoryview(json.dumps(state).encode())
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        close_all([fd])
        raise
    return fd


def read_state(fd: int) -> dict[str, Any]:
    """What ``write_state``, or the code of an earlier version through a pipe, left for us."""
    text = b""
    while chunk := os.read(fd, 65536):
        text += chunk
    os.close(fd)
    state: dict[str, Any] = json.loads(text)
    return state


def replace(argv: list[str], keep: list[int], environment: dict[str, str]) -> None:
    """Become another program that inherits ``keep``. Comes back only with an OSError, everything being as before."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        for fd in keep:
            os.set_inheritable(fd, True)
        os.execve(argv[0], argv, environment)
    finally:
        for fd in keep:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
