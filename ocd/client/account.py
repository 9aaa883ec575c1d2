"""``openclaude --account NAME``: the folder of Claude Code's that this session uses. Rare, so it is not in the way of
others; what makes and lists these folders is ``occtl account``."""

import os
import stat

from ocd.errors import EX_NOINPUT, EX_NOPERM, EX_USAGE, OcdError
from ocd.paths import account_folder, is_name

_FOLDER = b"CLAUDE_CONFIG_DIR"
#: a login in the environment, which Claude Code takes before that of its folder
_TOKEN = b"CLAUDE_CODE_OAUTH_TOKEN"


def choose(value: bytes, environ: dict[bytes, bytes]) -> str:
    """Put the account's folder into ``environ``; returns what the person has to know, or an empty text.

    Raises OcdError: exit 64 for what is no account's name, 66 when there is no such account, 77 when its folder is not
    the user's alone.
    """
    name = value.decode("utf-8", "replace")
    if not is_name(name):
        raise OcdError(
            f"{name!r} cannot be an account's name",
            "letters, digits, dots, underscores and dashes are allowed, 40 at most",
            "Run: occtl account list",
            exit_code=EX_USAGE,
            code="account-name",
        )
    home = environ.get(b"HOME", b"").decode("utf-8", "surrogateescape") or os.path.expanduser("~")
    folder = account_folder(home, name)
    if not folder:
        environ.pop(_FOLDER, None)
    else:
        _check(name, folder)
        environ[_FOLDER] = os.fsencode(folder)
    if environ.get(_TOKEN):
        return (
            f"CLAUDE_CODE_OAUTH_TOKEN of your environment counts before the login of the account {name}:"
            " unset it to use that one"
        )
    return ""


def _check(name: str, folder: str) -> None:
    try:
        found = os.stat(folder)
    except OSError:
        found = None
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise OcdError(
            f"There is no account {name}",
            f"{folder} is not a folder",
            f"Run: occtl account add {name}",
            exit_code=EX_NOINPUT,
            code="unknown-account",
        )
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OcdError(
            f"The account {name} is not used: others may write to {folder}",
            "a login is in it",
            f"Look at what is in it, then run: chmod 700 {folder}",
            exit_code=EX_NOPERM,
            code="foreign-folder",
        )
