"""Keys for servers that somebody else runs: each from its variable, else from a file of the state folder (0600).

With ``[keys] store = "keyring"`` the file names the entry of the desktop's keyring that has the key.
"""

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, OcdError
from ocd.settings import keyring_store
from ocd.settings.folders import Folders, private_folder

_LONGEST = 4096
#: how a file begins that names an entry of the keyring; no key has a space in it
_IN_KEYRING = "in keyring: "
#: entry → key: the keyring is asked once by a process, an entry never changes
_asked: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class StoredKey:
    """``variable`` of the environment, ``file`` in the state folder, the preset that asks for it, and ``server`` in
    words."""

    variable: str
    file: str
    preset: str
    server: str

    def load(self, folders: Folders, environ: Mapping[str, str]) -> str:
        """The key. Raises OcdError: exit 78 when there is none, 77 when its file is not ours alone."""
        given = environ.get(self.variable, "").strip()
        if given:
            return self._checked(given)
        text = self._stored(folders)
        if text is None:
            raise OcdError(
                f"There is no key for {self.server}",
                f"{self.variable} is not set, and no key was stored",
                f"Run `{self.variable}=… occtl init --preset {self.preset}`, which stores it",
                exit_code=EX_CONFIG,
                code=f"no-{self.preset}-key",
            )
        return self._checked(self._secret(text))

    def save(self, folders: Folders, key: str, store: str = keyring_store.FILES) -> None:
        """Store the key, replacing an earlier one, where ``[keys] store`` says. Raises OcdError, exit 73 (78, 75: the
        keyring)."""
        key = self._checked(key)
        private_folder(folders.state)
        former = ""
        with contextlib.suppress(OcdError):
            former = _entry(self._stored(folders) or "")
        text, entry = key, ""
        if store == keyring_store.KEYRING:
            entry = keyring_store.entry(self.file, folders.state)
            keyring_store.put(entry, key)
            text = _IN_KEYRING + entry
        path = folders.state / self.file
        try:
            atomic.replace(path, text)
        except OSError as error:
            former = entry
            raise OcdError(
                f"Cannot write {path}",
                error.strerror or "",
                "Free some space",
                exit_code=EX_CANTCREAT,
                code="key-not-stored",
            ) from None
        finally:
            if former:
                with contextlib.suppress(OcdError):
                    keyring_store.drop(former)

    def settle(self, folders: Folders, store: str) -> None:
        """Move a stored key to where ``[keys] store`` says. Raises OcdError; then it is where it was."""
        text = self._stored(folders)
        if text is not None and bool(_entry(text)) is not (store == keyring_store.KEYRING):
            self.save(folders, self._secret(text), store)

    def _stored(self, folders: Folders) -> str | None:
        """What the file says, None when there is none. Raises OcdError, exit 77, when it is not ours alone."""
        path = folders.state / self.file
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._not_ours(path, error.strerror or "") from None
        with open(handle, encoding="utf-8", errors="replace") as file:
            found = os.fstat(handle)
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise self._not_ours(path, "others may read or own it")
            return file.read(_LONGEST + 1).strip()

    @staticmethod
    def _secret(text: str) -> str:
        entry = _entry(text)
        if not entry:
            return text
        if entry not in _asked:
            _asked[entry] = keyring_store.get(entry)
        return _asked[entry]

    def _checked(self, key: str) -> str:
        """A key that fits into a header; anything else is refused without being quoted."""
        unfit = not key.isascii() or any(ord(c) <= 32 or ord(c) == 127 for c in key)
        if not key or len(key) > _LONGEST or unfit:
            raise OcdError(
                f"The key for {self.server} cannot be used",
                "it is empty, too long, or holds spaces or characters that no header can carry",
                f"Run `{self.variable}=… occtl init --preset {self.preset}` with the right one",
                exit_code=EX_CONFIG,
                code=f"{self.preset}-key-refused",
            )
        return key

    def _not_ours(self, path: Path, why: str) -> OcdError:
        return OcdError(
            f"Cannot trust {path}",
            why,
            f"Remove it and run `{self.variable}=… occtl init --preset {self.preset}`",
            exit_code=EX_NOPERM,
            code=f"{self.preset}-key-not-ours",
        )


def _entry(text: str) -> str:
    """The keyring's entry that a file names; empty: it has the key itself."""
    return text[len(_IN_KEYRING) :] if text.startswith(_IN_KEYRING) else ""


EXTERNAL = StoredKey("LITELLM_API_KEY", "external-key", "external", "the external LiteLLM server")
TEAM = StoredKey("OCD_TEAM_KEY", "team-key", "team", "the team's Bedrock proxy")
