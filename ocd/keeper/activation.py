"""Sockets that launchd opened for us: launch_activate_socket(3) of macOS, through ctypes. Standard library only.

The calls into the C library are arguments, so that the marshalling is tested where there is no launchd.
"""

import ctypes
import errno
from collections.abc import Callable
from typing import Any

#: ``int launch_activate_socket(const char *name, int **fds, size_t *cnt)``: 0 or an errno; the caller frees fds
Activate = Callable[[bytes, Any, Any], int]
Free = Callable[[Any], object]

#: answers that mean "there is none for you", which is no failure: not under launchd, no such key in the plist, and
#: asked before by this process (launch(3))
_NONE_FOR_US = (errno.ESRCH, errno.ENOENT, errno.EALREADY)


def _library() -> tuple[Activate, Free]:
    library = ctypes.CDLL(None, use_errno=False)
    activate = library.launch_activate_socket
    activate.restype = ctypes.c_int
    activate.argtypes = [
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_int)),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    free = library.free
    free.restype = None
    free.argtypes = [ctypes.c_void_p]
    return activate, free


def launchd_sockets(name: str, library: Callable[[], tuple[Activate, Free]] = _library) -> list[int]:
    """The descriptors of the sockets called ``name`` in the plist's ``Sockets``; empty when launchd has none for us.

    A daemon can do without: it opens the socket itself. So whatever goes wrong here is no more than an empty list.
    """
    try:
        activate, free = library()
    except (OSError, AttributeError):
        return []
    fds = ctypes.POINTER(ctypes.c_int)()
    count = ctypes.c_size_t(0)
    code = activate(name.encode(), ctypes.byref(fds), ctypes.byref(count))
    if code != 0:
        if code not in _NONE_FOR_US:
            from ocd.keeper.system import say

            say(f"launchd keeps its socket {name} to itself: {errno.errorcode.get(code, code)}")
        return []
    try:
        return [fds[index] for index in range(count.value)]
    finally:
        free(fds)
