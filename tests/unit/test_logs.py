"""Log files: bounded, and what the disk would not take is written as soon as it does."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ocd.adapters.logs import LogFile
from ocd.wire.messages import Event

GAP = {"kind": "log-degraded"}


class Disk:
    """A disk that may be full: ``room`` bytes are left, None: any number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.really = os.write
        monkeypatch.setattr("ocd.adapters.logs.os.write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.room is None:
            return self.really(fd, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self.really(fd, data[: self.room])
        self.room -= done
        return done


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def event(number: int) -> dict[str, Any]:
    return Event(time=float(number), kind="ready", text=str(number)).model_dump()


def read(path: Path) -> list[Event]:
    return [Event.model_validate_json(line) for line in path.read_text().splitlines()]


def log(path: Path, troubles: list[str], max_bytes: int = 10**6, keep: int = 1) -> LogFile:
    return LogFile(path, max_bytes, keep, troubles.append, gap=GAP)


def test_what_a_full_disk_refused_is_written_later_in_its_order(tmp_path: Path, disk: Disk) -> None:
    troubles: list[str] = []
    file = log(tmp_path / "events.log", troubles)
    file.write(event(0))
    disk.room = 30
    for number in range(1, 6):
        file.write(event(number))
    assert len(troubles) == 1 and "no space" in troubles[0].lower(), troubles
    assert [e.text for e in read(file.path)] == ["0"], "half a line is no line"
    assert [json.loads(line)["text"] for line in file.last(3)] == ["3", "4", "5"], (
        "memory shows them meanwhile"
    )
    disk.room = None
    file.write(event(6))
    assert [e.text for e in read(file.path)] == [str(n) for n in range(7)]
    assert not file.degraded and file.pending == 0


def test_it_does_not_need_another_line_to_recover(tmp_path: Path, disk: Disk) -> None:
    file = log(tmp_path / "events.log", [])
    disk.room = 0
    file.write(event(1))
    disk.room = None
    file.reopen_if_moved()
    assert [e.text for e in read(file.path)] == ["1"] and not file.degraded


def test_what_memory_could_not_keep_is_counted_in_a_record_like_the_others(
    tmp_path: Path, disk: Disk
) -> None:
    file = log(tmp_path / "events.log", [])
    disk.room = 0
    for number in range(1000):
        file.write(event(number))
    disk.room = None
    file.flush()
    first, *rest = read(file.path)
    assert first.kind == "log-degraded" and first.text == "[ocd: 600 lines could not be written here]"
    assert [e.text for e in rest] == [str(n) for n in range(600, 1000)]


def test_a_folder_that_is_a_file_degrades_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("in the way")
    troubles: list[str] = []
    file = log(folder / "events.log", troubles)
    file.write(event(1))
    file.write(event(2))
    assert len(troubles) == 1 and [json.loads(line)["text"] for line in file.last(5)] == ["1", "2"]
    folder.unlink()
    file.reopen_if_moved()
    assert [e.text for e in read(file.path)] == ["1", "2"]


def test_lines_written_into_a_deleted_file_are_written_again(tmp_path: Path) -> None:
    file = log(tmp_path / "logs" / "events.log", [])
    file.write(event(1))
    file.reopen_if_moved()
    file.write(event(2))
    file.path.unlink()
    file.path.parent.rmdir()
    file.write(event(3))
    file.reopen_if_moved()
    # "1" was seen in its place and was deleted as a part of the log; "2" and "3" may never have been there.
    assert [e.text for e in read(file.path)] == ["2", "3"]


def test_a_file_that_was_moved_keeps_its_lines_and_they_are_not_written_twice(tmp_path: Path) -> None:
    file = log(tmp_path / "events.log", [])
    file.write(event(1))
    moved = file.path.rename(tmp_path / "events.old")
    file.write(event(2))
    file.reopen_if_moved()
    file.write(event(3))
    assert [e.text for e in read(moved)] == ["1", "2"] and [e.text for e in read(file.path)] == ["3"]


def test_trouble_that_is_itself_a_line_of_this_file(tmp_path: Path, disk: Disk) -> None:
    file = log(tmp_path / "events.log", [])
    file.on_trouble = lambda text: file.write({"time": 2.0, "kind": "log-degraded", "text": text})
    disk.room = 0
    file.write(event(1))
    disk.room = None
    file.flush()
    assert [e.kind for e in read(file.path)] == ["ready", "log-degraded"]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_all_files_together_stay_within_their_share(tmp_path: Path, keep: int) -> None:
    file = log(tmp_path / "events.log", [], max_bytes=2000, keep=keep)
    for number in range(300):
        file.write(event(number))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= 2000 * (keep + 1)
    assert json.loads(file.last(1)[0])["text"] == "299"
    assert len(list(tmp_path.iterdir())) <= keep + 1


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    file = log(tmp_path / "logs" / "events.log", [])
    file.write(event(1))
    assert file.path.stat().st_mode & 0o777 == 0o600 and file.path.parent.stat().st_mode & 0o777 == 0o700
