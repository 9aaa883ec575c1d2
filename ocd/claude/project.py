"""``.ocd.toml``: what a project's folder wants for the sessions that are started in it, and whether it may.

A folder may be anybody's: a clone, an archive. So its file is used only after its user said so for this path and this
content (``ocd.claude.trust``), as direnv does, and even then it can choose only among what the user has set up: slots,
a profile, an AWS profile, by name. Nothing in it is an address, a key, a file or a command; a key that is not in
``KEYS`` makes the whole file unusable.
"""

import errno
import hashlib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from ocd import paths
from ocd.errors import EX_DATAERR, EX_NOINPUT, EX_NOPERM, OcdError
from ocd.text import printable

FILE = ".ocd.toml"
#: bytes: a file with ten short names has a few hundred
LARGEST = 16 << 10
#: folders that are looked into, from the session's own upwards
DEEPEST = 64
SLOTS = ("opus", "sonnet", "haiku", "fable", "subagents")
#: all that a project may say; each value is a name
KEYS = ("profile", *SLOTS, "aws_profile")
_LONGEST = 128


@dataclass(frozen=True, slots=True)
class File:
    """A project's file as it is now. ``path`` is its real one, ``digest`` that of ``content``."""

    path: str
    content: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def shown(self) -> str:
        """The path for a person."""
        return printable(self.path)


def find(folder: str) -> str:
    """The nearest ``.ocd.toml``: in ``folder``, or in one above it up to the root of its git repository; empty: none.

    Without a repository only the folder itself counts. Nothing is opened.
    """
    here = os.path.realpath(folder)
    own = os.path.join(here, FILE)
    nearest = ""
    for _ in range(DEEPEST):
        path = os.path.join(here, FILE)
        if not nearest and os.path.lexists(path):
            nearest = path
        if os.path.lexists(os.path.join(here, ".git")):
            return nearest
        above = os.path.dirname(here)
        if above == here:
            break
        here = above
    return nearest if nearest == own else ""


def read(path: str) -> File:
    """The file, if it is one that only its user can have written. Never waits, never follows a link in its place.

    Raises OcdError: exit 66 when there is none, 65 when it is too large or no file, 77 when it or a folder that leads
    to it is somebody else's to change.
    """
    shown = printable(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unusable(shown, "it is a symbolic link", "Put a plain file there", EX_NOPERM) from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise OcdError(
                f"There is no {shown}",
                "",
                "docs/profiles.md says what can stand in it",
                exit_code=EX_NOINPUT,
                code="no-project-file",
            ) from None
        raise _unusable(
            shown, error.strerror or "it cannot be opened", "Look at its mode and owner"
        ) from None
    try:
        _see_owner(path, shown, os.fstat(fd))
        # A folder or a pipe is refused before this: fdopen(3) would raise another error.
        with os.fdopen(fd, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise _unusable(shown, error.strerror or "it cannot be read", "Put a plain file there") from None
    finally:
        os.close(fd)
    if len(content) > LARGEST:
        raise _unusable(shown, f"it is larger than {LARGEST >> 10} KiB", "It needs a few lines only")
    return File(path, content)


def _see_owner(path: str, shown: str, found: os.stat_result) -> None:
    """Raises OcdError unless it is a plain file that nobody but its user can have written."""
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(shown, "it is not a plain file", "Put a plain file there")
    if found.st_uid != os.getuid():
        raise _unusable(shown, f"it belongs to user {found.st_uid}", "Make a copy of your own", EX_NOPERM)
    place = path if found.st_mode & stat.S_IWOTH else paths.open_to_all(path)
    if place:
        raise _unusable(
            shown,
            f"every user of this machine may write to {printable(place)}",
            f"chmod o-w {printable(place)}, after a look at what is in it",
            EX_NOPERM,
        )


def choices(file: File) -> dict[str, str]:
    """What the file chooses: key of ``KEYS`` → name. Raises OcdError (exit 65) with what is wrong in it."""
    try:
        said = tomllib.loads(file.content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _unusable(file.shown, "it is not UTF-8", "Save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "nested too deeply"
        raise _unusable(file.shown, f"it is not TOML: {printable(reason, 200)}", "Correct it") from None
    return checked(file.shown, said)


def checked(shown: str, said: Mapping[str, object]) -> dict[str, str]:
    """``said`` if it is made of our keys and of names alone. Raises OcdError (exit 65)."""
    found: dict[str, str] = {}
    for key, value in said.items():
        if key not in KEYS:
            raise _unusable(
                shown,
                f"{printable(repr(key), 60)} is not one of {', '.join(KEYS)}",
                "Take it out; addresses, keys, commands and all else belong into your own ocd.toml",
            )
        if not isinstance(value, str) or not is_model(value, empty=key in SLOTS):
            raise _unusable(shown, f"the value of {key} is not a name", f'Example: {key} = "work"')
        found[key] = value
    return found


def is_model(text: str, *, empty: bool = False) -> bool:
    """Whether a text can be the name of a model group, a profile or an AWS profile."""
    if not text:
        return empty
    return len(text) <= _LONGEST and text.isprintable() and not set(text) & set(" \"'`$\\<>|;&")


def _unusable(shown: str, why: str, step: str, exit_code: int = EX_DATAERR) -> OcdError:
    return OcdError(f"{shown} is not used", why, step, exit_code=exit_code, code="project-file")
