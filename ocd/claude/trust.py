"""Which ``.ocd.toml`` their user trusts: path and hash of the content, in a file of the state folder (0600)."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from ocd.claude import alone, lasting
from ocd.claude.project import File
from ocd.errors import EX_CANTCREAT, EX_NOPERM, OcdError

NAME = "trusted.json"
#: projects; the one that was trusted first goes first
KEPT = 1000


def known(state: Path) -> dict[str, str]:
    """Path → hash of the content that is trusted. A file that is not there, not ours alone or broken: nothing is."""
    path = state / NAME
    try:
        found = os.lstat(path)
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            return {}
        said = json.loads(lasting.read_small(str(path)))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {path: digest for path, digest in said.items() if isinstance(digest, str)}


def add(state: Path, file: File) -> bool:
    """Trust the file as it is now; returns whether that is news. Raises OcdError (exit 73, 75, 77)."""

    def added(trusted: dict[str, str]) -> bool:
        if trusted.get(file.path) == file.digest:
            return False
        trusted.pop(file.path, None)
        trusted[file.path] = file.digest
        return True

    return _change(state, added)


def remove(state: Path, path: str) -> bool:
    """Trust it no longer, whatever is in it; returns whether it was. Raises OcdError (exit 73, 75, 77)."""
    return _change(state, lambda trusted: trusted.pop(path, None) is not None)


def said(trusted: dict[str, str], file: File) -> str:
    """``trusted``, ``changed`` (since it was trusted) or ``new``."""
    digest = trusted.get(file.path)
    if digest is None:
        return "new"
    return "trusted" if digest == file.digest else "changed"


def refusal(file: File, state: str) -> OcdError:
    """Why a file that is not trusted is not used, and what to do."""
    why = "it was changed since you trusted it" if state == "changed" else "nobody has said that it may be"
    return OcdError(
        f"{file.shown} is not used",
        why,
        "`occtl profile show` says what is in it, `occtl profile trust` uses it from now on",
        exit_code=EX_NOPERM,
        code="project-not-trusted",
    )


def _change(state: Path, change: Callable[[dict[str, str]], bool]) -> bool:
    """Write what ``change`` makes of what is trusted, if it says that it is something else."""
    try:
        lasting.own_folder(str(state))
        held = alone.hold(state)
        try:
            trusted = known(state)
            if not change(trusted):
                return False
            kept = dict(list(trusted.items())[-KEPT:])
            lasting.replace(str(state / NAME), json.dumps(kept, indent=1).encode())
        finally:
            os.close(held)
    except OSError as error:
        raise OcdError(
            f"Cannot write {state / NAME}",
            error.strerror or str(error),
            "Check space and permissions",
            exit_code=EX_CANTCREAT,
            code="file-not-written",
        ) from None
    return True
