"""What the whole suite shares: stand-in upstreams, and the check that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil
import pytest

from ocd import paths
from tests.helpers.daemon import PREFIXES


def _left() -> list[psutil.Process]:
    """Living processes of a daemon that this run started, wherever they hang."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("OCD_PREFIX", "") in PREFIXES:
                found.append(process)
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After the last test no process, socket or folder of ours is there."""
    yield
    _gone, alive = psutil.wait_procs(_left(), timeout=10)
    assert not alive, f"processes left behind: {alive}"
    folders = [path for path in PREFIXES if os.path.exists(path)]
    folders += [
        path for prefix in PREFIXES if os.path.exists(path := paths._fit(os.path.join(prefix, "run")))
    ]
    assert not folders, f"files left behind: {folders}"


@pytest.fixture(autouse=True)
def no_ocd_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings must not reach a test."""
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")) and not name.startswith("OCD_TEST_"):
            monkeypatch.delenv(name)
