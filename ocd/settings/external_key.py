"""The key for a LiteLLM that somebody else runs: from LITELLM_API_KEY, else from the state folder (0600)."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, OcdError
from ocd.settings.folders import Folders, private_folder

VARIABLE = "LITELLM_API_KEY"
_NAME = "external-key"
_LONGEST = 4096


def load(folders: Folders, environ: Mapping[str, str]) -> str:
    """The key. Raises OcdError: exit 78 when there is none, 77 when its file is not ours alone."""
    given = environ.get(VARIABLE, "").strip()
    if given:
        return _checked(given)
    path = folders.state / _NAME
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise OcdError(
            "There is no key for the external LiteLLM server",
            f"{VARIABLE} is not set, and no key was stored",
            f"Run `{VARIABLE}=… occtl init --preset external`, which stores it",
            exit_code=EX_CONFIG,
            code="no-external-key",
        ) from None
    except OSError as error:
        raise _not_ours(path, error.strerror or "") from None
    with open(handle, encoding="utf-8", errors="replace") as file:
        found = os.fstat(handle)
        if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise _not_ours(path, "others may read or own it")
        return _checked(file.read(_LONGEST + 1).strip())


def save(folders: Folders, key: str) -> None:
    """Store the key, replacing an earlier one. Raises OcdError, exit 73."""
    key = _checked(key)
    private_folder(folders.state)
    path = folders.state / _NAME
    try:
        atomic.replace(path, key)
    except OSError as error:
        raise OcdError(
            f"Cannot write {path}",
            error.strerror or "",
            "Free some space",
            exit_code=EX_CANTCREAT,
            code="key-not-stored",
        ) from None


def _checked(key: str) -> str:
    """A key that fits into a header; anything else is refused without being quoted."""
    if not key or len(key) > _LONGEST or not key.isascii() or any(ord(c) <= 32 or ord(c) == 127 for c in key):
        raise OcdError(
            "The key for the external LiteLLM server cannot be used",
            "it is empty, too long, or holds spaces or characters that no header can carry",
            f"Run `{VARIABLE}=… occtl init --preset external` with the right one",
            exit_code=EX_CONFIG,
            code="external-key-refused",
        )
    return key


def _not_ours(path: Path, why: str) -> OcdError:
    return OcdError(
        f"Cannot trust {path}",
        why,
        f"Remove it and run `{VARIABLE}=… occtl init --preset external`",
        exit_code=EX_NOPERM,
        code="external-key-not-ours",
    )
