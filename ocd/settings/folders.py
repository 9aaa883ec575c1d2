"""The five folders that the daemon uses. Rules: ``docs/architecture.md``, table Folders."""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from ocd import paths
from ocd.errors import EX_CANTCREAT, EX_NOPERM, OcdError


@dataclass(frozen=True, slots=True)
class Folders:
    """``config``: the user's files; ``data``: environments; ``state``: keys, snapshots, lock, logs;
    ``runtime``: sockets and session overlays; ``bin``: the three commands."""

    config: Path
    data: Path
    state: Path
    runtime: Path
    bin: Path

    @classmethod
    def find(cls) -> "Folders":
        """The folders of this user, or those under ``OCD_PREFIX``. Nothing is created.

        ``OCD_CONFIG_DIR`` overrides the config folder, ``OCD_RUNTIME_DIR`` the runtime folder.
        """
        runtime = Path(paths.runtime_dir())
        prefix = paths.prefix()
        if prefix:
            root = Path(os.path.abspath(os.path.expanduser(prefix)))
            found = cls(root / "config", root / "share", root / "state", runtime, root / "bin")
        else:
            found = cls._of_user(runtime)
        explicit = os.environ.get("OCD_CONFIG_DIR")
        if explicit:
            config = Path(os.path.abspath(os.path.expanduser(explicit)))
            found = cls(config, found.data, found.state, found.runtime, found.bin)
        return found

    @classmethod
    def _of_user(cls, runtime: Path) -> "Folders":
        import platformdirs

        config = platformdirs.user_config_path("ocd", appauthor=False)
        data = platformdirs.user_data_path("ocd", appauthor=False)
        state = platformdirs.user_state_path("ocd", appauthor=False)
        if sys.platform == "darwin":
            # There platformdirs answers one folder for all three; removing our data must spare the user's.
            data, state = data / "share", state / "state"
        return cls(config, data, state, runtime, Path.home() / ".local" / "bin")

    def ensure(self) -> "Folders":
        """Make state, runtime and data, 0700 each, and return self.

        Raises OcdError: exit 77 when one of them belongs to somebody else (or is a link, in the runtime
        folder's case, which may lie in a shared folder), exit 73 when one cannot be made.
        """
        for folder in (self.data, self.state):
            private_folder(folder)
        private_folder(self.runtime, links=False)
        return self


def private_folder(folder: Path, *, links: bool = True) -> None:
    """Make ``folder`` (with its parents) 0700 and be sure that it is ours.

    ``links`` false refuses a symbolic link. Raises OcdError like ``Folders.ensure``.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat() if links else folder.lstat()
    except FileExistsError:
        raise OcdError(
            f"Cannot use {folder}",
            "something that is not a folder has its name",
            f"Move {folder} away",
            exit_code=EX_CANTCREAT,
            code="folder-not-a-folder",
        ) from None
    except OSError as error:
        raise OcdError(
            f"Cannot make the folder {folder}",
            error.strerror or str(error),
            "Free some space, or make its parent folder writable",
            exit_code=EX_CANTCREAT,
            code="folder-not-made",
        ) from None
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid():
        who = "it is a symbolic link" if stat.S_ISLNK(found.st_mode) else f"it belongs to user {found.st_uid}"
        raise OcdError(
            f"Cannot trust the folder {folder}",
            who,
            f"Remove {folder}, or name another folder in OCD_RUNTIME_DIR",
            exit_code=EX_NOPERM,
            code="folder-not-ours",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
