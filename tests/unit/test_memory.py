"""Memory: shared pages are divided, nobody is counted twice, what cannot be read is said."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import psutil
import pytest

from ocd.adapters import memory

SIZE = 64 * 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00400000-7ff [rollup]\nRss:   300 kB\nPss:    101 kB\nPss_Dirty: 9 kB\n", 101 * 1024),
        ("Rss: 300 kB\nPss_Anon: 4 kB\n", None),
        ("Pss: many kB\n", None),
        ("Pss: 3 MB\n", None),
        ("", None),
    ],
)
def test_the_line_that_counts(text: str, expected: int | None) -> None:
    assert memory.parse_rollup(text) == expected


@pytest.fixture
def family() -> Iterator[list[int]]:
    """Three processes that all have the same 64 MB mapped and touched; each waits for its pipe's end."""
    pages = mmap.mmap(-1, SIZE)
    pages.write(b"x" * SIZE)
    read, write = os.pipe()
    ready, tell = os.pipe()
    pids = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            os.close(write)
            for place in range(0, SIZE, 4096):
                pages[place]
            os.write(tell, b"r")
            os.read(read, 1)
            os._exit(0)
        pids.append(pid)
    got = 0
    while got < 3:
        got += len(os.read(ready, 3))
    yield pids
    os.close(write)
    for pid in pids:
        os.waitpid(pid, 0)
    for fd in (read, ready, tell):
        os.close(fd)
    pages.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the kernel has no smaps_rollup")
def test_shared_pages_are_counted_once(family: list[int]) -> None:
    found = [memory.of_tree(pid) for pid in family]
    assert all(one is not None and one.proportional for one in found)
    # Four processes share them, and three are asked: three times all as resident memory, three quarters here.
    resident = sum(psutil.Process(pid).memory_info().rss for pid in family)
    assert sum(one.size for one in found if one) < resident - 2 * SIZE


def test_who_has_ended_has_none() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert memory.of_tree(pid) is None
