"""A file is written whole or not at all, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from ocd import atomic


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_replaces_and_is_private_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic.replace(path, "ä")
    assert path.read_bytes() == "ä".encode() and mode(path) == 0o600
    atomic.replace(path, b"new", mode=0o644)
    assert path.read_bytes() == b"new" and mode(path) == 0o644
    atomic.replace(path, b"newer", mode=None)
    assert mode(path) == 0o644
    atomic.replace(path, b"")
    assert path.read_bytes() == b"" and mode(path) == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_a_mode_that_is_to_stay_is_private_where_there_is_none(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        atomic.replace(tmp_path / "f", "x", mode=None)
    finally:
        os.umask(old)
    assert mode(tmp_path / "f") == 0o600


def test_a_file_may_keep_its_times(tmp_path: Path) -> None:
    atomic.replace(tmp_path / "f", "x", times=(10**9, 2 * 10**9))
    found = (tmp_path / "f").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (10**9, 2 * 10**9)


def test_a_link_stays_one_only_when_it_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    atomic.replace(link, "new", mode=None, follow=True)
    assert link.is_symlink() and target.read_text() == "new"
    atomic.replace(link, "mine")
    assert not link.is_symlink() and target.read_text() == "new" and link.read_text() == "mine"


class Trouble:
    """A disk that fails at one step."""

    def __init__(self, step: str, number: int = errno.ENOSPC) -> None:
        self.step, self.number = step, number

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("step", ["write", "fchmod", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    before = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, step, Trouble(step))
        atomic.replace(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f"]
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("step", ["write", "fsync", "link"])
def test_a_failed_creation_leaves_nothing(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, step, Trouble(step))
        atomic.create(tmp_path / "f", "new")
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupted)
        atomic.replace(tmp_path / "f", "new")
    assert os.listdir(tmp_path) == []


def test_what_the_disk_takes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
        atomic.replace(tmp_path / "f", "0123456789")
    assert (tmp_path / "f").read_text() == "0123456789"


def test_content_and_name_are_on_the_disk_before_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(fd: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), rename(a, b)))
    atomic.replace(tmp_path / "f", "x")
    assert done == ["file", "rename", "folder"]
    done.clear()
    atomic.replace(tmp_path / "f", "x", durable=False)
    assert done == ["rename"]
    done.clear()
    assert atomic.create(tmp_path / "g", "x")
    assert done == ["file", "folder"]


def test_of_many_who_create_one_wins_and_everybody_finds_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    won: list[int] = []
    gate = threading.Barrier(8)

    def work(number: int) -> None:
        gate.wait()
        if atomic.create(path, str(number) * 10_000):
            won.append(number)
        assert len(path.read_text()) == 10_000

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and path.read_text() == str(won[0]) * 10_000 and os.listdir(tmp_path) == ["f"]


def test_nobody_else_s_link_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses the name beside the file gets nothing written where their link leads."""
    monkeypatch.setattr(os, "urandom", lambda n: b"\0" * n)
    (tmp_path / ".f.00000000").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        atomic.replace(tmp_path / "f", "x")
    assert not (tmp_path / "victim").exists()


def test_a_very_long_name_is_no_trouble(tmp_path: Path) -> None:
    atomic.replace(tmp_path / ("x" * 250), "x")
    assert len(os.listdir(tmp_path)) == 1


def test_nobody_writes_files_by_hand_any_more() -> None:
    """One writer: what renames a file of its own making elsewhere has a reason that is written down here."""
    allowed = {
        "atomic.py": "the one",
        "adapters/logs.py": "rotation",
        "adapters/usage_file.py": "a broken file is put aside",
        "settings/backup.py": "a manifest is renamed",
    }
    root = Path(atomic.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(word in path.read_text() for word in ("os.replace(", "os.rename(", "os.link("))
    }
    assert found == set(allowed)
