"""The revision that a proxy comes back with: the last one that served, for a daemon that finds the files broken."""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ocd import atomic
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack import snapshot
from ocd.supervisor.files.settings_file import SettingsFile
from ocd.supervisor.supervision.config import Config
from ocd.supervisor.supervision.runner import Runner


class Revisions:
    """``runners`` are all proxies; ``warn`` is told what could not be written (proxy, why)."""

    def __init__(
        self,
        folders: Folders,
        settings_file: SettingsFile,
        runners: Mapping[str, Runner],
        warn: Callable[[str, str], None],
    ) -> None:
        self._folders = folders
        self._settings_file = settings_file
        self._runners = runners
        self._warn = warn

    def _file(self, name: str) -> Path:
        return self._folders.state / "revisions" / name / "good.json"

    def remember(self, name: str, config: Config) -> None:
        """Write down which revision has been ready, and forget those that nobody can come back to."""
        path = self._file(name)
        text = json.dumps(
            {
                "revision": config.revision,
                "path": str(config.path),
                "origin": str(config.origin),
                "settings": config.settings_id,
            }
        )
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic.replace(path, text)
        except OSError as error:
            self._warn(name, error.strerror or str(error))
        state = self._runners[name].state
        keep = {r.split("-")[0] for r in (state.good, state.revision)}
        keep |= {m.revision.split("-")[0] for m in state.members}
        with contextlib.suppress(OSError):
            snapshot.prune(self._folders, name, keep)
        self.forget_settings([config])

    def forget_settings(self, more: Iterable[Config] = ()) -> None:
        """Remove what is kept of ``ocd.toml`` for revisions that nobody can come back to: its secrets may have gone."""
        configs = [c for runner in self._runners.values() for c in runner.configs.values()]
        others = [self.last_good(name) for name in self._runners]
        self._settings_file.prune({c.settings_id for c in [*more, *configs, *others] if c is not None})

    def last_good(self, name: str) -> Config | None:
        """The revision that was served last, by an earlier daemon perhaps, if its snapshot is still there."""
        now = self._settings_file.now
        try:
            known = json.loads(self._file(name).read_text())
            kept = known.get("settings", "")
            settings: Settings = self._settings_file.kept(kept) or now
            # The ports are today's: the other proxy may have moved.
            ports = {"port": now.port, "bedrock_port": now.bedrock_port}
            settings = settings.model_copy(update=ports)
            config = Config(known["revision"], Path(known["path"]), Path(known["origin"]), settings, kept)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return config if config.path.is_file() else None
