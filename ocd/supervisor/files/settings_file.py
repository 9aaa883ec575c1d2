"""``ocd.toml`` and what is kept of it: the last good text, and the settings that each revision was checked with.

A revision is its files *and* its settings: one that comes back (after a crash, a refused change, a restart) comes back
with the arguments and the environment that it has served with. Everything here may hold values of [proxies.*.env]:
files 0600 in a folder 0700.
"""

import contextlib
import hashlib
from pathlib import Path

from ocd import atomic
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.load import FILE, from_json, parse, read_text, to_json
from ocd.settings.schema import Settings


class SettingsFile:
    """Reads ``ocd.toml`` with the environment; keeps what was good. ``now`` are the settings that are followed."""

    def __init__(self, folders: Folders) -> None:
        self.toml = folders.config / FILE
        self.folder = folders.state / "settings"
        self._good = ""
        self.now = Settings()

    def first(self) -> ConfigError | None:
        """Begin. A mistake in ``ocd.toml`` does not stop the daemon: it serves with the last good ones and says so."""
        try:
            self.now = self.load()
        except ConfigError as error:
            self.now = self.last_good()
            return error
        return None

    def load(self) -> Settings:
        """The settings in force now. Raises ConfigError. What passes is kept as the last good text."""
        text = read_text(self.toml)
        settings = parse(self.toml, text)
        if text != self._good:
            self._write("last-good.toml", text)
            self._good = text
        return settings

    def last_good(self) -> Settings:
        """What to serve with while ``load`` raises: the last good text, else the file or the environment alone, else
        the defaults. Never raises."""
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (self.folder / "last-good.toml").read_text("utf-8")
        tries: list[tuple[str | None, dict[str, str] | None]] = [
            (text, None),
            (None, {}),
            (text, {}),
            ("", None),
        ]
        for content, environ in tries:
            with contextlib.suppress(ConfigError):
                return parse(self.toml, read_text(self.toml) if content is None else content, environ)
        return Settings()

    def keep(self, settings: Settings) -> str:
        """Write a snapshot of ``settings``; returns its name. A disk that takes nothing is no reason not to serve."""
        text = to_json(settings)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        if not self.path(name).exists():
            self._write(f"{name}.json", text)
        return name

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def kept(self, name: str) -> Settings | None:
        """The settings of that name; None when they are gone or of a version that we do not understand."""
        with contextlib.suppress(OSError, ValueError):
            return from_json(self.path(name).read_text("utf-8"))
        return None

    def prune(self, keep: set[str]) -> None:
        """Remove snapshots that nobody refers to."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*.json"):
                if path.stem not in keep:
                    path.unlink()

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            atomic.replace(path, text)
