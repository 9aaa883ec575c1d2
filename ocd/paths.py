"""Where the control socket is. Standard library only: the client has no time for more.

Everything lives under one folder when ``OCD_PREFIX`` is set (``install.py --prefix``, the tests, the self-test).
Otherwise the runtime folder is the user's own (XDG base directory specification; on macOS the per-user
temporary folder). UNIX socket paths are limited to 107 bytes on Linux and 103 on macOS; where the natural folder is
too deep, a short one in the system's temporary folder takes its place, named after the user and the prefix.
"""

import os
import sys

#: bytes left for the longest socket name that we put in the runtime folder ("/guest-bedrock-999999.sock")
_LONGEST_NAME = 32
_LIMIT = 103


def prefix() -> str:
    """The folder that holds everything, or an empty string for the user's ordinary folders."""
    return os.environ.get("OCD_PREFIX", "")


def _short(tag: str) -> str:
    import zlib

    return f"/tmp/ocd-{os.getuid()}-{zlib.crc32(tag.encode()):08x}"


def _fit(folder: str) -> str:
    if len(os.fsencode(folder)) + _LONGEST_NAME <= _LIMIT:
        return folder
    return _short(folder)


def runtime_dirs() -> list[str]:
    """The folders in which a daemon's socket may be, most likely first. None of them need exist."""
    explicit = os.environ.get("OCD_RUNTIME_DIR")
    if explicit:
        return [_fit(explicit)]
    root = prefix()
    if root:
        return [_fit(os.path.join(root, "run"))]
    if sys.platform == "darwin":
        home = os.environ.get("HOME") or os.path.expanduser("~")
        return [_fit(os.path.join(home, "Library/Caches/TemporaryItems/ocd"))]
    uid = os.getuid()
    found = []
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isabs(xdg):
        found.append(_fit(os.path.join(xdg, "ocd")))
    system = f"/run/user/{uid}"
    # A shell without XDG_RUNTIME_DIR (cron, sudo, ssh without PAM) must find the same daemon.
    if os.path.isdir(system) and f"{system}/ocd" not in found:
        found.append(f"{system}/ocd")
    found.append(f"/tmp/ocd-{uid}")
    return found


def runtime_dir() -> str:
    """The folder for sockets and session files; a daemon that starts uses this one."""
    return runtime_dirs()[0]


def program(module: str) -> list[str]:
    """The command that runs a module of ours: this interpreter, from where this file is, and nothing from outside.

    ``-I``: no variable (PYTHONPATH, PYTHONHOME, PYTHONSTARTUP), no folder of the user's packages and not the current
    folder decide what is imported.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = (
        f"import sys; {root!r} in sys.path or sys.path.insert(0, {root!r}); import runpy; "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-I", "-c", code]


def control_socket(folder: str = "") -> str:
    """The control socket's path in ``folder`` (default: the runtime folder)."""
    return (folder or runtime_dir()) + "/control.sock"
