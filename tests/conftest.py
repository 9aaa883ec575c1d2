"""What the whole suite shares: stand-in upstreams, and the check that nothing is left behind."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator

import psutil
import pytest


def _ours() -> set[int]:
    """Processes of a daemon under test, wherever they hang."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("OCD_PREFIX", "").startswith("/tmp/ocd-t-"):
                found.add(process.pid)
            elif "guest.py" in " ".join(process.cmdline()) and "ocd" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def _files() -> set[str]:
    return {path for pattern in ("t-*", f"{os.getuid()}*") for path in glob.glob(f"/tmp/ocd-{pattern}")}


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After the last test no process, socket or folder of ours is there that was not there before."""
    processes, files = _ours(), _files()
    yield
    left = _ours() - processes
    _gone, alive = psutil.wait_procs([psutil.Process(pid) for pid in left if psutil.pid_exists(pid)], timeout=10)
    assert not alive, f"processes left behind: {alive}"
    assert not _files() - files, f"files left behind: {_files() - files}"


@pytest.fixture(autouse=True)
def no_ocd_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings must not reach a test."""
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")) and not name.startswith("OCD_TEST_"):
            monkeypatch.delenv(name)
