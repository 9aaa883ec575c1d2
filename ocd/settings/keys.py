"""The two proxies' keys: 256 random bits each, readable by their owner alone.

They are in ``keys.json`` of the state folder, or in the desktop's keyring (``[keys] store``); then the file names the
entry, so whoever reads the file finds them. The file changes in one step (``ocd.atomic``), and a keyring's entry is
never overwritten: a new one is made, the file names it, the old one goes. So a kill at any moment leaves the old keys
or the new ones.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CANTCREAT, EX_NOPERM, EX_OSERR, OcdError
from ocd.settings import keyring_store
from ocd.settings.folders import Folders, private_folder

NAME = "keys.json"
_FORM = re.compile(r"sk-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Keys:
    """Each proxy's master key. ``repr`` hides them.

    ``due``: why they are to be renewed as soon as nobody uses them, empty: they are not. ``entry``: the keyring's that
    they are in, empty: they are in the file. ``salt``: what renewed keys keep of the first ones.
    """

    main: str = field(repr=False)
    bedrock: str = field(repr=False)
    due: str = ""
    entry: str = ""
    salt: str = field(default="", repr=False)

    @property
    def login_salt(self) -> str:
        """What logins are hashed with: the same before and after a renewal."""
        return self.salt or hashlib.sha256(b"login of " + self.main.encode()).hexdigest()


def load_or_create(folders: Folders) -> Keys:
    """The keys of this installation; the first caller makes them, all others read the same ones.

    A mode that lets others read is repaired. Raises OcdError: exit 77 when the file is not ours or is a link,
    exit 74/73 when it cannot be read or made, exit 71 when its content is not what we wrote.
    """
    path = folders.state / NAME
    keys = _read(path)
    if keys is None:
        private_folder(folders.state)
        _create(path)
        keys = _read(path)
        if keys is None:
            raise _refused(path, "it disappeared while it was being read", EX_OSERR)
    return keys


def renew(folders: Folders, keys: Keys) -> Keys:
    """Other keys in the place of these. Only while no process lives that knows them. Raises OcdError."""
    fresh = Keys(**_made(), entry=keys.entry, salt=keys.login_salt)
    return _put(folders, fresh, bool(keys.entry), keys.entry)


def mark(folders: Folders, keys: Keys, why: str) -> Keys:
    """Note that they are to be renewed, and why. Raises OcdError."""
    marked = replace(keys, due=why)
    _write(folders.state / NAME, marked)
    return marked


def settle(folders: Folders, keys: Keys, store: str) -> Keys:
    """The same keys, in the place that ``[keys] store`` says. Raises OcdError; then they are where they were."""
    if bool(keys.entry) is (store == keyring_store.KEYRING):
        return keys
    return _put(folders, replace(keys, salt=keys.login_salt), store == keyring_store.KEYRING, keys.entry)


def _made() -> dict[str, str]:
    return {name: "sk-" + secrets.token_hex(32) for name in ("main", "bedrock")}


def _put(folders: Folders, keys: Keys, in_keyring: bool, former: str) -> Keys:
    """Write them into the keyring (an entry of its own) or the file; ``former``: the entry that is not needed then."""
    entry = ""
    if in_keyring:
        entry = keyring_store.entry("keys", folders.state)
        keyring_store.put(entry, json.dumps({"main": keys.main, "bedrock": keys.bedrock}))
    keys = replace(keys, entry=entry)
    try:
        _write(folders.state / NAME, keys)
    except OcdError:
        former = entry
        raise
    finally:
        if former:
            # It may be locked by now: an entry that nobody names is worth nothing.
            with contextlib.suppress(OcdError):
                keyring_store.drop(former)
    return keys


def _write(path: Path, keys: Keys) -> None:
    said = {"keyring": keys.entry} if keys.entry else {"main": keys.main, "bedrock": keys.bedrock}
    said |= {"due": keys.due} if keys.due else {}
    said |= {"salt": keys.salt} if keys.salt else {}
    try:
        atomic.replace(path, json.dumps(said))
    except OSError as error:
        raise _not_written(path, error) from None


def _create(path: Path) -> None:
    """Write new keys, unless somebody else has by then: it either wins or finds another's whole file."""
    try:
        atomic.create(path, json.dumps(_made()))
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> OcdError:
    return OcdError(
        f"Cannot write the proxies' keys to {path}",
        error.strerror or "",
        "Free some space, or make the folder writable",
        exit_code=EX_CANTCREAT,
        code="keys-not-written",
    )


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
    entry = _entry(raw)
    if entry:
        secret = keyring_store.get(entry).encode()
    try:
        value, held = json.loads(raw), json.loads(secret if entry else raw)
        keys = Keys(
            held["main"], held["bedrock"], str(value.get("due", "")), entry, str(value.get("salt", ""))
        )
        whole = all(_FORM.fullmatch(key) for key in (keys.main, keys.bedrock)) and keys.main != keys.bedrock
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        # `from None` and no content: whatever stands there may be half a key.
        raise _refused(path, "its content is not the two keys that ocd wrote", EX_OSERR)
    return keys


def _entry(raw: bytes) -> str:
    """The keyring's entry that the file names; empty: it names none."""
    with contextlib.suppress(ValueError):
        value = json.loads(raw)
        if isinstance(value, dict) and isinstance(value.get("keyring"), str):
            return str(value["keyring"])
    return ""


def _refused(path: Path, why: str, exit_code: int) -> OcdError:
    return OcdError(
        f"Cannot use the proxies' keys in {path}",
        why,
        f"Remove {path} and start the daemon again: new keys are made, running sessions must be restarted",
        exit_code=exit_code,
        code="keys-refused",
    )
