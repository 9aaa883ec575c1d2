"""No change of a file is lost: not between two watches, not in a folder that begins to exist."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ocd.supervisor.files import watch as module
from ocd.supervisor.files.watch import Watch


class Files:
    """What is watched, and how often it was read."""

    def __init__(self, folder: Path) -> None:
        self.paths = {folder / "a.toml", folder / "later" / "b"}
        self.warned: list[str] = []
        self.reads = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.watch = Watch(lambda: self.paths, self.reload, self.warned.append)

    async def reload(self, _why: str) -> None:
        self.watch.reading()
        self.reads += 1
        then, self.meanwhile = self.meanwhile, lambda: None
        then()
        self.watch.refresh()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    def run(self, *story: Callable[[], None]) -> int:
        """Each of the story's changes must be read; returns how often something was read at all."""

        async def told() -> None:
            await self.reload("start")
            task = asyncio.ensure_future(self.watch.run())
            try:
                for change in story:
                    reads = self.reads
                    change()
                    await self.until(lambda reads=reads: self.reads > reads)  # type: ignore[misc]
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

        asyncio.run(told())
        return self.reads


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(module, "LOOK", 0.1)
    (tmp_path / "a.toml").write_text("1")
    return Files(tmp_path)


def save(path: Path, text: str) -> None:
    """As editors do."""
    path.with_name(".new").write_text(text)
    os.replace(path.with_name(".new"), path)


def test_a_folder_that_begins_to_exist_is_noticed_and_then_watched(files: Files, tmp_path: Path) -> None:
    later = tmp_path / "later"

    def appears() -> None:
        later.mkdir()
        (later / "b").write_text("1")

    files.run(appears, lambda: save(later / "b", "22"), lambda: save(tmp_path / "a.toml", "22"))
    assert not files.warned


def test_a_change_while_the_files_are_read_is_read_again(files: Files, tmp_path: Path) -> None:
    files.meanwhile = lambda: save(tmp_path / "a.toml", "333")
    assert files.run(lambda: None) == 2


def test_what_was_read_is_no_change(files: Files, tmp_path: Path) -> None:
    async def story() -> None:
        await files.reload("start")
        assert not files.watch.changed() and files.watch.reading() == set()
        save(tmp_path / "a.toml", "4444")
        assert files.watch.changed()
        assert files.watch.reading() == {str(tmp_path / "a.toml")}
        assert not files.watch.changed()

    asyncio.run(story())
