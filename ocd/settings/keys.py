"""The two proxies' keys: 256 random bits each, in the state folder, readable by their owner alone."""

import json
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ocd.errors import EX_CANTCREAT, EX_NOPERM, EX_OSERR, OcdError
from ocd.settings.folders import Folders, private_folder

_NAME = "keys.json"
_FORM = re.compile(r"sk-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Keys:
    """Each proxy's master key. ``repr`` hides them."""

    main: str = field(repr=False)
    bedrock: str = field(repr=False)


def load_or_create(folders: Folders) -> Keys:
    """The keys of this installation; the first caller makes them, all others read the same ones.

    A mode that lets others read is repaired. Raises OcdError: exit 77 when the file is not ours or is a link,
    exit 74/73 when it cannot be read or made, exit 71 when its content is not what we wrote.
    """
    path = folders.state / _NAME
    keys = _read(path)
    if keys is None:
        private_folder(folders.state)
        _create(path)
        keys = _read(path)
        if keys is None:
            raise _refused(path, "it disappeared while it was being read", EX_OSERR)
    return keys


def _create(path: Path) -> None:
    """Write new keys under a temporary name, then link: it either wins or finds another's whole file."""
    text = json.dumps({name: "sk-" + secrets.token_hex(32) for name in ("main", "bedrock")})
    temporary = path.with_name(f".{_NAME}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except FileExistsError:
        return
    except OSError as error:
        raise OcdError(
            f"Cannot write the proxies' keys to {path}",
            error.strerror or "",
            "Free some space, or make the folder writable",
            exit_code=EX_CANTCREAT,
            code="keys-not-written",
        ) from None


def _read(path: Path) -> Keys | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error.strerror or "", EX_NOPERM) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "it is not a plain file", EX_NOPERM)
        if found.st_uid != os.getuid():
            raise _refused(path, f"it belongs to user {found.st_uid}", EX_NOPERM)
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(handle, 0o600)
        raw = os.read(handle, 4096)
    finally:
        os.close(handle)
    try:
        value = json.loads(raw)
        keys = Keys(main=value["main"], bedrock=value["bedrock"])
        whole = all(_FORM.fullmatch(key) for key in (keys.main, keys.bedrock)) and keys.main != keys.bedrock
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        # `from None` and no content: whatever stands there may be half a key.
        raise _refused(path, "its content is not the two keys that ocd wrote", EX_OSERR)
    return keys


def _refused(path: Path, why: str, exit_code: int) -> OcdError:
    return OcdError(
        f"Cannot use the proxies' keys in {path}",
        why,
        f"Remove {path} and start the daemon again: new keys are made, running sessions must be restarted",
        exit_code=exit_code,
        code="keys-refused",
    )
