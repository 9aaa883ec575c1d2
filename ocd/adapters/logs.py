"""Log files that cannot fill the disk and cannot stop anybody: bounded rotation, a hard cap, degradation.

A write that fails (disk full, read-only folder, folder gone) is reported once through ``on_trouble``. The newest
lines stay in memory: ``occtl logs`` shows them meanwhile, and they are written as soon as the disk takes them again.
"""

import collections
import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ocd.mask import mask
from ocd.text import printable

_TAIL_LINES = 400
_LONGEST_LINE = 16 * 1024
_LONE = re.compile(r"(?<!\\)(?:\\\\)*\\ud[89a-f][0-9a-f]{2}", re.IGNORECASE)


class LogFile:
    """An append-only file of JSON lines with rotation: ``name.log``, ``name.log.1`` … up to ``keep``.

    ``max_bytes`` bounds each file, so all of them together never exceed ``max_bytes * (keep + 1)``. ``gap`` holds the
    fields that make the note about lines that nobody could keep a record like the others in this file.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        keep: int,
        on_trouble: Callable[[str], None],
        gap: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.keep = keep
        self.on_trouble = on_trouble
        self.gap = gap or {}
        #: lines that are not in the file yet, the newest of them in ``tail``
        self.pending = 0
        #: lines written since the file was last seen in its place; they are lost if it was deleted meanwhile
        self._unseen = 0
        self.degraded = ""
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self.listeners: list[Callable[[str], None]] = []
        self._fd = -1
        self._size = 0

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; never raises for reasons of the disk."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)
        if not line.isascii():
            # The last guard: a lone surrogate would break every reader of this line for as long as it is kept.
            line = line.encode("utf-8", "replace").decode()
        self.tail.append(line)
        for listener in list(self.listeners):
            listener(line)
        self.pending += 1
        self.flush()

    def flush(self) -> None:
        """Bring to the disk what only memory has; never raises for reasons of the disk."""
        try:
            while self.pending:
                gone = self.pending - len(self.tail)
                if gone > 0:
                    text = f"[ocd: {gone} lines could not be written here]"
                    self._append(json.dumps({"time": round(time.time(), 3), **self.gap, "text": text}))
                    self.pending -= gone
                self._append(self.tail[-self.pending])
                self.pending -= 1
                self._unseen += 1
        except OSError as error:
            self._close()
            reason = error.strerror or str(error)
            if reason != self.degraded:
                self.degraded = reason
                self.on_trouble(f"{self.path.name}: {reason}; lines are kept in memory only")
        else:
            self.degraded = ""

    def _append(self, line: str) -> None:
        data = line.encode() + b"\n"
        if self._fd >= 0 and self._size + len(data) > self.max_bytes:
            self._rotate()
        if self._fd < 0:
            self._open()
        done = os.write(self._fd, data)
        self._size += done
        if done != len(data):
            # A torn line at the end of a full disk: take it away, it is written again later.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size - done)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._unseen = 0
        if self._size > self.max_bytes:
            self._rotate()
            self._open()

    def _rotate(self) -> None:
        self._close()
        for number in range(self.keep, 0, -1):
            source = self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, self._numbered(number))
        if self.keep == 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")

    def _close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        self._close()

    def reopen_if_moved(self) -> None:
        """Follow when somebody removed or moved the file under us, and bring there what is still to be written.

        What was written into a deleted file since the last call is written again; a moved one keeps it.
        """
        if self._fd >= 0:
            ours = os.fstat(self._fd)
            try:
                there = os.stat(self.path)
                same = (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
            except OSError:
                same = False
            if not same:
                self._close()
                if ours.st_nlink == 0:
                    self.pending += self._unseen
            self._unseen = 0
        self.flush()

    def last(self, lines: int) -> list[str]:
        """The last ``lines`` lines: from the files, then those that only memory has."""
        if lines <= 0:
            return []
        found: collections.deque[str] = collections.deque(maxlen=lines)
        try:
            for number in range(self.keep, -1, -1):
                with contextlib.suppress(FileNotFoundError):
                    found.extend(_lines(self._numbered(number), lines))
        except OSError:
            return list(self.tail)[-lines:]
        if not found:
            return list(self.tail)[-lines:]
        if self.pending:
            found.extend(list(self.tail)[-self.pending :])
        return list(found)


def _lines(path: Path, lines: int) -> Iterator[str]:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - max(65536, lines * 512)))
        for raw in collections.deque(file, maxlen=lines):
            line = raw.decode("utf-8", "replace").rstrip("\n")
            # 0.1 wrote bytes that are not UTF-8 like this, which JSON's readers take for half a letter.
            yield _LONE.sub("?", line) if "\\ud" in line else line


class Capture:
    """One output stream of a guest, cut into lines, masked, and bounded in what it may cost.

    ``feed`` takes raw bytes as they come from the pipe. More than ``per_second`` bytes are counted and dropped: a
    proxy that writes without end costs neither the disk nor the daemon.
    """

    def __init__(self, emit: Callable[[str], None], per_second: int = 1024 * 1024) -> None:
        self.emit = emit
        self.per_second = per_second
        self._rest = b""
        self._second = 0
        self._spent = 0
        self._dropped = 0

    def feed(self, data: bytes, now: float) -> None:
        second = int(now)
        if second != self._second:
            self._second, self._spent = second, 0
            self._say_dropped()
        self._spent += len(data)
        if self._spent > self.per_second:
            self._dropped += len(data)
            self._rest = b""
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            whole.append(self._rest)
            self._rest = b""
        for line in whole:
            text = line[:_LONGEST_LINE].rstrip(b"\r")
            if text.strip():
                self.emit(mask(printable(text, _LONGEST_LINE)))

    def end(self) -> None:
        """The stream is over: what stands without a line end is a line too."""
        self._say_dropped()
        if self._rest.strip():
            self.emit(mask(printable(self._rest[:_LONGEST_LINE], _LONGEST_LINE)))
        self._rest = b""

    def _say_dropped(self) -> None:
        if self._dropped:
            self.emit(f"[ocd: {self._dropped} bytes of output were dropped here, it came too fast]")
            self._dropped = 0
