"""The name of a process in ps and top. Standard library only."""

import contextlib
import ctypes
import os
import sys

_PR_SET_NAME = 15
#: bytes that the kernel keeps (prctl(2), PR_SET_NAME), without the NUL
LONGEST = 15


def show(name: str) -> None:
    """Have this process shown as ``name`` by ``top`` and ``ps -o comm`` (Linux; elsewhere nothing happens).

    The command line stays as it is. To be called in the main thread: the name is a thread's.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            text = ctypes.create_string_buffer(os.fsencode(name)[:LONGEST])
            ctypes.CDLL(None).prctl(_PR_SET_NAME, text, 0, 0, 0)
