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

    return f"/tmp/ocd-{os.getuid()}-{zlib.crc32(os.fsencode(tag)):08x}"


def _fit(folder: str) -> str:
    if len(os.fsencode(folder)) + _LONGEST_NAME <= _LIMIT:
        return folder
    return _short(folder)


def xdg(variable: str, below: str) -> str:
    """Our folder in one that ``variable`` names, else in ``below`` the user's home (XDG base directories)."""
    base = os.environ.get(variable, "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), below), "ocd")


def runtime_below(root: str) -> str:
    """The runtime folder of a prefix."""
    return _fit(os.path.join(root, "run"))


def runtime_dirs() -> list[str]:
    """The folders in which a daemon's socket may be, most likely first. None of them need exist."""
    explicit = os.environ.get("OCD_RUNTIME_DIR")
    if explicit:
        return [_fit(explicit)]
    root = prefix()
    if root:
        return [runtime_below(root)]
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


#: below a user's home: one folder of Claude Code's for each account
ACCOUNTS = ".claude-accounts"
#: the account whose folder is the user's ordinary one
ORDINARY = "default"
_LONGEST_CHOSEN = 40
_IN_NAMES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def is_name(text: str) -> bool:
    """Whether an account or a profile may be called so: up to 40 of letters, digits, ``.``, ``_`` and ``-``, the first
    of them a letter or a digit. Safe as a file's name and in a header."""
    return 0 < len(text) <= _LONGEST_CHOSEN and text[0] not in "._-" and _IN_NAMES.issuperset(text)


def account_folder(home: str, name: str) -> str:
    """Claude Code's folder of an account; empty for the ordinary one, which Claude Code finds by itself."""
    return "" if name == ORDINARY else os.path.join(home, ACCOUNTS, name)


def account_of(home: str, folder: str) -> str:
    """The account whose folder (absolute) that is; empty: somebody's own folder, which has no name."""
    above, name = os.path.split(os.path.normpath(folder))
    if above == os.path.join(home, ACCOUNTS) and is_name(name):
        return name
    # ~/.openClaude is the ordinary one's with isolation = "separate"
    return ORDINARY if above == os.path.normpath(home) and name in (".claude", ".openClaude") else ""


def open_to_all(path: str) -> str:
    """What of ``path`` (itself, or a folder that leads to it) every user may change; empty: nothing.

    In a folder with the sticky bit (/tmp) others cannot replace what is ours. What is not there is left out.
    """
    import stat

    place = os.path.realpath(path)
    while True:
        try:
            mode = os.stat(place).st_mode
        except OSError:
            mode = 0
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return place
        above = os.path.dirname(place)
        if above == place:
            return ""
        place = above


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
