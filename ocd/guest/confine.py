"""What a guest can reach: folders and TCP ports, by Landlock (landlock(7)), which needs no privilege.

Called once in a guest, before anything of LiteLLM's runs for it; what it takes away is gone for the process and for
whatever it starts. Where the kernel has no Landlock (before Linux 5.13, or not Linux) nothing changes, and the answer
says so. Standard library only.
"""

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# System call numbers are the same on every architecture that Landlock runs on (asm-generic; x86, arm64).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH, _RULE_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38

# Access rights of include/uapi/linux/landlock.h, in the order of the versions that brought them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_FS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_NEWEST_FS = (1 << 15) - 1
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | (1 << 14)
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE_SOCKET = 1 << 9
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_NET_VERSION = 4
#: bytes; a larger file beside something hidden is not opened: the kernel keeps what a rule names, and its room on the
#: disk, after its user has removed it
_LARGEST = 64 * 1024


def version() -> int:
    """The kernel's Landlock version, 0 when there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    with contextlib.suppress(OSError, AttributeError):
        return max(0, _call(_CREATE_RULESET, None, 0, _VERSION_FLAG))
    return 0


def confine(plan: dict[str, Any]) -> str:
    """Take everything away that ``plan`` does not name; returns what was done, in a few words.

    ``plan``: ``read`` and ``write`` are paths (files or folders; those that do not exist are skipped), ``sockets``
    folders below which a UNIX socket may be made and nothing else, ``connect`` TCP ports, or None for all of them;
    ``hide`` are paths that are left out of what ``read`` and ``write`` open: the folders above them are opened child
    by child, large files excepted. A path below a hidden one is open when it is named itself.

    Raises OSError when the kernel has Landlock but refuses: better no proxy than one that is more open than it says.
    """
    level = version()
    if not level:
        return "not confined: this system has no Landlock"
    rights = _ALL_FS.get(level, _NEWEST_FS)
    ports = plan.get("connect")
    net = _CONNECT_TCP if ports is not None and level >= _NET_VERSION else 0
    attributes = struct.pack("=QQ", rights, net)[: 16 if level >= _NET_VERSION else 8]
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        hidden = [os.path.realpath(path) for path in plan.get("hide", ())]
        for paths, allowed in ((plan.get("write", ()), rights), (plan.get("read", ()), _READ)):
            for path in _open_parts(paths, hidden):
                _allow_path(ruleset, path, allowed & rights)
        for path in plan.get("sockets", ()):
            _allow_path(ruleset, path, _MAKE_SOCKET)
        if net:
            for port in sorted(set(ports or ())):
                _call(_ADD_RULE, ruleset, _RULE_PORT, struct.pack("=QQ", _CONNECT_TCP, port), 0)
        _no_new_privileges()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return f"confined: Landlock {level}, files" + (" and ports" if net else "")


def _open_parts(paths: Iterable[str], hidden: list[str]) -> Iterator[str]:
    """The paths, and where something hidden lies below one its children instead."""
    for path in paths:
        real = os.path.realpath(path)
        if real not in hidden:
            yield from _parts(real, hidden)


def _parts(real: str, hidden: list[str]) -> Iterator[str]:
    below = real.rstrip("/") + "/"
    if not any(one.startswith(below) for one in hidden):
        yield real
        return
    with contextlib.suppress(OSError):
        for entry in os.scandir(real):
            child = os.path.realpath(entry.path)
            if any(child == one or child.startswith(one.rstrip("/") + "/") for one in hidden):
                continue
            with contextlib.suppress(OSError):
                if os.path.isdir(child) or os.path.getsize(child) <= _LARGEST:
                    yield from _parts(child, hidden)


def _allow_path(ruleset: int, path: str, allowed: int) -> None:
    try:
        handle = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{handle}"):
            allowed &= _FILE_RIGHTS
        if allowed:
            _call(_ADD_RULE, ruleset, _RULE_PATH, struct.pack("=Qi", allowed, handle), 0)
    finally:
        os.close(handle)


def _no_new_privileges() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _call(number: int, *arguments: Any) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
