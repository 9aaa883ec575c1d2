"""Watching the files that the proxies depend on; several saves in a burst are one reload."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import watchfiles

#: milliseconds of quiet that end a burst of saves
QUIET = 150
#: a burst is not waited for longer than this (milliseconds)
LONGEST = 1500
#: look by ourselves every so many seconds: for folders that begin to exist, and for what a watch missed
LOOK = 4.0

#: what of a file tells that it is another one: inode, size, time of change; None: there is none
Mark = tuple[int, int, int] | None


class Watch:
    """Folders are watched, not files: editors save by renaming. What changed is decided by content hashes.

    ``paths`` names the files that count now, existing or not; ``reload`` (why) reads them again, and begins with
    ``reading``; ``warn`` is told why watching fails.
    """

    def __init__(
        self,
        paths: Callable[[], Iterable[Path]],
        reload: Callable[[str], Awaitable[Any]],
        warn: Callable[[str], None],
    ) -> None:
        self.paths = paths
        self.reload = reload
        self.warn = warn
        self.again = asyncio.Event()
        self.folders: set[Path] = set()
        self.files: set[str] = set()
        #: the files as they were when they were last read
        self.seen: dict[str, Mark] = {}

    def reading(self) -> set[str]:
        """The files are about to be read: what changes from now on is a change. Returns those that changed since the
        last time."""
        _folders, self.files = self._wanted()
        now = {file: _mark(file) for file in self.files}
        changed = {file for file, mark in now.items() if file in self.seen and self.seen[file] != mark}
        self.seen = now
        return changed

    def changed(self) -> bool:
        """Whether a file is not as it was read."""
        return any(_mark(file) != mark for file, mark in self.seen.items())

    def refresh(self) -> None:
        """The set of files may be another one now (an include was added)."""
        folders, files = self._wanted()
        self.files = files
        self.seen.update({file: _mark(file) for file in files - self.seen.keys()})
        if folders != self.folders:
            self.again.set()

    def _wanted(self) -> tuple[set[Path], set[str]]:
        found = set(self.paths())
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
                await asyncio.sleep(LOOK)
                continue
            try:
                async for changes in watchfiles.awatch(
                    *self.folders,
                    watch_filter=self.concerns,
                    debounce=LONGEST,
                    step=QUIET,
                    stop_event=self.again,
                    rust_timeout=int(LOOK * 1000),
                    yield_on_timeout=True,
                    recursive=False,
                ):
                    # Between two watches, in a folder that is new, on a file system that tells nothing: no change is
                    # lost for longer than a look.
                    if changes or self.changed():
                        await self.reload("a file changed")
                    if self._wanted()[0] != self.folders:
                        break
            except (OSError, RuntimeError) as error:
                self.warn(str(error))
                await asyncio.sleep(LOOK)


def _mark(file: str) -> Mark:
    try:
        there = os.stat(file)
    except OSError:
        return None
    return there.st_ino, there.st_size, there.st_mtime_ns
