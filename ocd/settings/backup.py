"""Change several files so that it can be taken back: the originals are kept, each change is whole or not done.

A backup is a folder ``state/backups/<time>-<verb>/`` (0700) with the former contents and ``manifest.json``:
for each file its path, the former content's name (null: it did not exist), and the hash of what was written.
What keeps its former state elsewhere (``ocd.claude.configure``) leaves a note here, so that all changes are in one
list: a manifest without files, ``of`` says about what.

The names are the order in which the backups were made. The clock may be set back, so a name has the time of day only
where that is later than in every name before it.
"""

import calendar
import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocd import atomic
from ocd.errors import EX_CANTCREAT, EX_CONFIG, EX_IOERR, EX_NOINPUT, OcdError
from ocd.settings.folders import Folders, private_folder

_MANIFEST = "manifest.json"
#: a backup's name: seconds (UTC), nanoseconds, verb
_NAME = re.compile(r"(\d{8}T\d{6})\.(\d{9})-(.+)")
_SECONDS = "%Y%m%dT%H%M%S"
_SECOND = 1_000_000_000
#: how many times another program may take the name that we were about to
_TRIES = 100
#: backups that are kept of each verb; what a person did lately they may want back
KEPT = 50


@dataclass(frozen=True, slots=True)
class Backup:
    """``files``: path → (where its former content is, None when there was no file; the hash of the new)."""

    folder: Path
    verb: str
    files: Mapping[Path, tuple[Path | None, str]]


def change(folders: Folders, verb: str, texts: Mapping[Path, str | bytes | None]) -> Backup | None:
    """Write each file of ``texts`` (None: remove it), keeping what was there; None when nothing changes.

    A new file is 0600, another keeps its mode; a link stays a link to the changed file. When one file cannot
    be written those before it are put back. Raises OcdError (exit 73, 74).
    """
    wanted: dict[Path, bytes | None] = {}
    before: dict[Path, bytes | None] = {}
    for path, text in texts.items():
        content = text.encode("utf-8") if isinstance(text, str) else text
        before[path] = _content(path)
        if before[path] != content:
            wanted[path] = content
    if not wanted:
        return None
    backup = _keep(folders, verb, wanted, before)
    done: list[Path] = []
    try:
        for path, content in wanted.items():
            done.append(path)
            _put(path, content)
    except OSError as error:
        for path in done:
            try:
                _put(path, before[path])
            except OSError:
                continue
        raise OcdError(
            f"Cannot write {path}",
            f"{error.strerror or error}; nothing was changed",
            "Free some space, or make the folder writable",
            exit_code=EX_CANTCREAT,
            code="file-not-written",
        ) from None
    return backup


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of the list. ``time``: seconds since 1970; ``of``: what a note is about, else empty."""

    backup: Backup
    time: float
    of: str = ""


def note(folders: Folders, verb: str, of: str) -> None:
    """Remember a change whose former state is kept elsewhere. Raises OcdError (exit 73)."""
    _keep(folders, verb, {}, {}, of)


def entries(folders: Folders, but: frozenset[str] = frozenset({"undo"})) -> list[Entry]:
    """All changes that were not taken back yet, the newest first, without those of the verbs ``but``."""
    found = []
    for folder, name in reversed(_named(folders)):
        said = _manifest(folder)
        backup = _backup(folder, said) if said is not None else None
        if backup is None or said is None or backup.verb in but:
            continue
        try:
            moment = calendar.timegm(time.strptime(name[1], _SECONDS)) + int(name[2]) / _SECOND
        except (ValueError, OverflowError):
            continue
        found.append(Entry(backup, moment, str(said.get("of") or "")))
    return found


def settle(backup: Backup) -> None:
    """The change counts as taken back from now on. Raises OSError."""
    os.rename(backup.folder / _MANIFEST, backup.folder / "undone.json")


def latest(folders: Folders, verb: str) -> Backup:
    """The newest backup of ``verb`` that was not taken back yet. Raises OcdError (exit 66) when there is none."""
    for folder in reversed(_folders(folders, verb)):
        found = _read(folder, verb)
        if found is not None:
            return found
    raise OcdError(
        f"There is nothing to take back of `occtl {verb}`",
        "it has changed nothing, or was taken back already",
        exit_code=EX_NOINPUT,
        code="nothing-to-undo",
    )


def restore(folders: Folders, backup: Backup, *, force: bool = False) -> list[Path]:
    """Put the former contents back and return the files' paths; the backup then counts as taken back.

    Raises OcdError (exit 78) when a file was changed since, unless ``force``: then what is there now is kept in
    a backup of its own.
    """
    changed = [path for path, (_, digest) in backup.files.items() if _digest(_content(path)) != digest]
    if changed and not force:
        raise OcdError(
            "The files were changed since",
            ", ".join(map(str, changed)),
            f"Repeat with --force to put back what is in {backup.folder}; what is there now is kept too",
            exit_code=EX_CONFIG,
            code="changed-since",
        )
    texts = {path: _content(kept) if kept is not None else None for path, (kept, _) in backup.files.items()}
    change(folders, "undo", texts)
    settle(backup)
    return list(backup.files)


def _folders(folders: Folders, verb: str) -> list[Path]:
    """The verb's backups, the oldest first."""
    wanted = verb.replace(" ", "-")
    return [folder for folder, name in _named(folders) if name[3] == wanted]


def _named(folders: Folders) -> list[tuple[Path, re.Match[str]]]:
    """All backups with what their names say, the oldest first; what is called otherwise is none."""
    found = ((path, _NAME.fullmatch(path.name)) for path in (folders.state / "backups").glob("*"))
    return sorted(((path, name) for path, name in found if name), key=lambda one: (one[1][1], one[1][2]))


def _new_folder(folders: Folders, verb: str) -> Path:
    """A folder that sorts behind every other, whatever the clock says. Raises OSError and OcdError (exit 73, 77)."""
    parent = folders.state / "backups"
    private_folder(parent)
    for _ in range(_TRIES):
        # One look at the clock: seconds and nanoseconds of two looks may belong to different seconds.
        moment = time.time_ns()
        for _folder, name in _named(folders)[-1:]:
            with contextlib.suppress(ValueError, OverflowError):
                newest = calendar.timegm(time.strptime(name[1], _SECONDS)) * _SECOND + int(name[2])
                moment = max(moment, newest + 1)
        seconds = time.strftime(_SECONDS, time.gmtime(moment // _SECOND))
        folder = parent / f"{seconds}.{moment % _SECOND:09}-{verb.replace(' ', '-')}"
        try:
            folder.mkdir(0o700)
        except FileExistsError:
            continue
        private_folder(folder)
        return folder
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(parent))


def _read(folder: Path, verb: str) -> Backup | None:
    said = _manifest(folder)
    found = _backup(folder, said) if said is not None else None
    return found if found is not None and found.verb == verb else None


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        said = json.loads((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _backup(folder: Path, said: dict[str, Any]) -> Backup | None:
    try:
        files = {
            Path(entry["path"]): (folder / entry["kept"] if entry["kept"] else None, str(entry["wrote"]))
            for entry in said["files"]
        }
    except (KeyError, TypeError):
        return None
    return Backup(folder, str(said.get("verb")), files)


def _keep(
    folders: Folders,
    verb: str,
    wanted: Mapping[Path, bytes | None],
    before: Mapping[Path, bytes | None],
    of: str = "",
) -> Backup:
    folder = folders.state / "backups"
    entries: list[dict[str, Any]] = []
    files: dict[Path, tuple[Path | None, str]] = {}
    try:
        folder = _new_folder(folders, verb)
        for number, (path, content) in enumerate(wanted.items()):
            old = before[path]
            kept = f"{number}-{path.name}" if old is not None else None
            if kept is not None and old is not None:
                _write_new(folder / kept, old)
            entries.append({"path": str(path), "kept": kept, "wrote": _digest(content)})
            files[path] = (folder / kept if kept else None, _digest(content))
        said = {"verb": verb, "files": entries, **({"of": of} if of else {})}
        _write_new(folder / _MANIFEST, json.dumps(said, indent=1).encode())
    except OSError as error:
        raise OcdError(
            f"Cannot keep a copy in {folder}",
            f"{error.strerror or error}; nothing was changed",
            "Free some space, or make the folder writable",
            exit_code=EX_CANTCREAT,
            code="backup-not-written",
        ) from None
    for old_folder in _folders(folders, verb)[:-KEPT]:
        _remove(old_folder)
    return Backup(folder, verb, files)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _content(path: Path) -> bytes | None:
    """The file's bytes, None when there is none. Raises OcdError (exit 74)."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OcdError(
            f"Cannot read {path}", error.strerror or str(error), exit_code=EX_IOERR, code="file-unreadable"
        ) from None


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(content).hexdigest() if content is not None else ""


def _write_new(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def _put(path: Path, content: bytes | None) -> None:
    """``content`` into ``path`` in one step; None removes it."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.replace(target, content, mode=None)
