"""What processes take of the machine's memory, so that pages that several of them share are counted once.

Linux: the proportional set size, which divides each shared page among those that share it (proc(5), smaps_rollup;
since 4.14). Where that cannot be read (macOS, an older kernel, a process of somebody else's) it is the resident set
size, which counts a shared page in full for each.
"""

import contextlib
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Used:
    """``size`` in bytes; ``proportional`` says that shared pages were divided for every process in it."""

    size: int
    proportional: bool


def of_tree(pid: int) -> Used | None:
    """What a process and all its descendants take, or None when it is gone. Each is counted once."""
    try:
        process = psutil.Process(pid)
        found = _of_one(process)
        descendants = {child.pid: child for child in process.children(recursive=True)}
    except (psutil.Error, OSError):
        return None
    descendants.pop(pid, None)
    for child in descendants.values():
        with contextlib.suppress(psutil.Error, OSError):
            part = _of_one(child)
            found = Used(found.size + part.size, found.proportional and part.proportional)
    return found


def parse_rollup(text: str) -> int | None:
    """Bytes in the line ``Pss:`` of a smaps_rollup; None when there is no such line, or no number in it."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            words = line.split()
            if len(words) == 3 and words[1].isdigit() and words[2] == "kB":
                return int(words[1]) * 1024
    return None


def _of_one(process: psutil.Process) -> Used:
    """One process. Raises psutil.Error when it is gone."""
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii", errors="replace") as file,
    ):
        size = parse_rollup(file.read())
        if size is not None:
            return Used(size, True)
    return Used(int(process.memory_info().rss), False)
