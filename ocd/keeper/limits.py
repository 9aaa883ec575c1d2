"""What the keeper sets for itself and so for every process below it: no core files, enough descriptors.

Standard library only. Resource limits are inherited (setrlimit(2)), also by an interpreter that somebody brought, and
what is lowered here cannot be raised again.
"""

import contextlib
import errno
import os
import resource
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: descriptors; more than any number of streams needs, less than what makes old programs slow that close them all
DESCRIPTORS = 65536
#: macOS refuses more than its OPEN_MAX where the hard limit is said to be endless
_OPEN_MAX = 10240
_RESERVED = 16


def no_core_files() -> None:
    """A core file holds the plan's token and our keys: nobody below us writes one (core(5))."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def raise_descriptors(most: int = DESCRIPTORS) -> int:
    """Raise the soft limit for descriptors as far as the hard one allows; returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    for number in (wanted, min(wanted, _OPEN_MAX)):
        if number > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
                return number
    return soft


class Reserve:
    """Descriptors that are held back for what must not fail: another supervisor, a listening socket, a guest."""

    def __init__(self, count: int = _RESERVED) -> None:
        self.count = count
        self.held: list[int] = []
        self.fill()

    def fill(self) -> None:
        """Take back what the reserve lacks, as far as there is something to take."""
        with contextlib.suppress(OSError):
            while len(self.held) < self.count:
                self.held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> None:
        while self.held:
            with contextlib.suppress(OSError):
                os.close(self.held.pop())

    def use(self, work: Callable[[], T]) -> T:
        """Do ``work``, which opens descriptors; where there are none left, from the reserve.

        Work that fails leaves none open. Raises what ``work`` raises.
        """
        try:
            return work()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self.release()
        try:
            return work()
        finally:
            self.fill()
