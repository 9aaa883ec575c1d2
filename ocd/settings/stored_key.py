"""Keys for servers that somebody else runs: each from its variable, else from a file of the state folder (0600)."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, OcdError
from ocd.settings.folders import Folders, private_folder

_LONGEST = 4096


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
        path = folders.state / self.file
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OcdError(
                f"There is no key for {self.server}",
                f"{self.variable} is not set, and no key was stored",
                f"Run `{self.variable}=… occtl init --preset {self.preset}`, which stores it",
                exit_code=EX_CONFIG,
                code=f"no-{self.preset}-key",
            ) from None
        except OSError as error:
            raise self._not_ours(path, error.strerror or "") from None
        with open(handle, encoding="utf-8", errors="replace") as file:
            found = os.fstat(handle)
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise self._not_ours(path, "others may read or own it")
            return self._checked(file.read(_LONGEST + 1).strip())

    def save(self, folders: Folders, key: str) -> None:
        """Store the key, replacing an earlier one. Raises OcdError, exit 73."""
        key = self._checked(key)
        private_folder(folders.state)
        path = folders.state / self.file
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


EXTERNAL = StoredKey("LITELLM_API_KEY", "external-key", "external", "the external LiteLLM server")
TEAM = StoredKey("OCD_TEAM_KEY", "team-key", "team", "the team's Bedrock proxy")
