"""Where everything goes, with the rules of ocd/settings/folders.py, and the folders that are made on the way."""

import contextlib
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ocd import paths, provision
from ocd.errors import EX_CANTCREAT, EX_TEMPFAIL
from ocd.installer.failure import Failure

#: the checkout
ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements"
CONFIGURATION = ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml")


class Places:
    """As ``Folders`` of the daemon has them. ``prefix``: the one folder that holds all, or empty."""

    def __init__(self, prefix: str) -> None:
        home = Path(os.path.expanduser("~"))
        self.prefix = os.path.abspath(os.path.expanduser(prefix)) if prefix else ""
        self.bin = home / ".local" / "bin"
        if prefix:
            root = Path(self.prefix)
            self.config, self.data, self.state = root / "config", root / "share", root / "state"
            self.bin = root / "bin"
            self.runtime = [Path(paths.runtime_below(self.prefix))]
        elif sys.platform == "darwin":
            self.config = home / "Library" / "Application Support" / "ocd"
            self.data, self.state = self.config / "share", self.config / "state"
            self.runtime = [home / "Library" / "Caches" / "TemporaryItems" / "ocd"]
        else:
            self.config = Path(paths.xdg("XDG_CONFIG_HOME", ".config"))
            self.data = Path(paths.xdg("XDG_DATA_HOME", ".local/share"))
            self.state = Path(paths.xdg("XDG_STATE_HOME", ".local/state"))
            run = Path(paths.xdg("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
            self.runtime = [run, Path(f"/tmp/ocd-{os.getuid()}")]
        self.envs = self.data / "envs"
        #: what is needed while installing only: uv, pip, what builds the daemon; removed at the end
        self.build = provision.build_folder(self.envs)
        self.current = self.data / "current"
        self.litellm = self.data / "litellm"
        self.log = self.state / "install.log"
        #: of the folders that were made
        self.record = self.data / "made-folders"
        # Two environments are made at once.
        self._lock = threading.Lock()

    def environment(self) -> dict[str, str]:
        """For our own commands: the user's, with the prefix and without another project's Python settings."""
        env = provision.isolated(os.environ, self.build)
        if self.prefix:
            env["OCD_PREFIX"] = self.prefix
        # pip asks `rustc --version` for its user agent, and rustup then makes a folder in the user's HOME.
        env.setdefault("RUSTUP_HOME", str(self.data / ".rustup"))
        return env

    def made(self) -> list[Path]:
        """The folders that were made for this installation, and are ours to remove again."""
        return [Path(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def make(self, path: Path, mode: int = 0o755) -> None:
        """Make a folder and those above it, and note them. Raises Failure."""
        with self._lock:
            missing = [one for one in (path, *path.parents) if not one.exists()]
            try:
                path.mkdir(parents=True, exist_ok=True, mode=mode)
            except OSError as error:
                here = missing[-1].parent if missing else path
                step = f"Make {here} writable, or name another place with --prefix DIR"
                what, why = f"the folder {path} cannot be made", error.strerror or ""
                raise Failure(what, why, step, EX_CANTCREAT) from None
            known = self.made()
            fresh = [one for one in missing if one not in known]
            if fresh and self.data.is_dir():
                with self.record.open("a") as file:
                    file.write("".join(f"{one}\n" for one in fresh))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One install.py at a time; the lock is on the data folder itself and ends with this process."""
        self.make(self.data, 0o700)
        handle = os.open(self.data, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                what = f"another install.py is at work in {self.data}"
                step = "Wait until it is done, then run this again"
                raise Failure(what, "", step, EX_TEMPFAIL) from None
            yield
        finally:
            os.close(handle)


def listens(folder: Path) -> bool:
    """Whether a daemon listens in a runtime folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(paths.control_socket(str(folder)))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True
