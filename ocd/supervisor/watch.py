"""Watching the files that the proxies depend on; several saves in a burst are one reload."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import watchfiles

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

#: milliseconds of quiet that end a burst of saves
QUIET = 150
#: a burst is not waited for longer than this (milliseconds)
LONGEST = 1500
#: when no folder can be watched, look again after this many seconds
RETRY = 5.0


class Watch:
    """Folders are watched, not files: editors save by renaming. What changed is decided by content hashes."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.again = asyncio.Event()
        self.folders: set[Path] = set()
        self.files: set[str] = set()

    def refresh(self) -> None:
        """The set of files may be another one now (an include was added)."""
        folders, files = self._wanted()
        self.files = files
        if folders != self.folders:
            self.again.set()

    def _wanted(self) -> tuple[set[Path], set[str]]:
        config = self.daemon.folders.config
        found = {config / "ocd.toml", config / ".env"}
        found |= {self.daemon.config_path(name) for name in self.daemon.units}
        found |= self.daemon.inputs
        # A symlinked dotfile changes where it really lies.
        files = {os.path.abspath(path) for path in found} | {os.path.realpath(path) for path in found}
        folders = {Path(file).parent for file in files}
        return {folder for folder in folders if folder.is_dir()}, files

    def concerns(self, _change: watchfiles.Change, path: str) -> bool:
        return path in self.files or path.endswith((".yaml", ".yml", ".toml", ".py"))

    async def run(self) -> None:
        while True:
            self.again.clear()
            self.folders, self.files = self._wanted()
            if not self.folders:
                await asyncio.sleep(RETRY)
                continue
            try:
                async for _changes in watchfiles.awatch(
                    *self.folders,
                    watch_filter=self.concerns,
                    debounce=LONGEST,
                    step=QUIET,
                    stop_event=self.again,
                    recursive=False,
                ):
                    await self.daemon.reload("a file changed")
                    if not all(folder.is_dir() for folder in self.folders):
                        break
            except (OSError, RuntimeError) as error:
                self.daemon.log.warning("watching files", error=str(error))
                await asyncio.sleep(RETRY)
