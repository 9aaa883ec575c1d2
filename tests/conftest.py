"""What the whole suite shares: the checks that nothing is left behind, and that no canary is found anywhere."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from ocd import paths
from tests.helpers import canaries, leaks
from tests.helpers.checkout import wheel_folder
from tests.helpers.daemon import PREFIXES, ROOT

# Examples are drawn from the run's seed (pytest_configure) and nothing else: what failed once in a checkout does not
# fail in its every later run, and what fails is found again anywhere by the seed in the header. No example has a
# deadline: a busy machine is no mistake.
settings.register_profile("thorough", deadline=None, database=None)
# Enough to see a mistake soon; the tests that need many examples say how many, and `OCD_TEST_THOROUGH=1` has all.
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=40)
settings.load_profile("thorough" if os.environ.get("OCD_TEST_THOROUGH") else "quick")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """One seed for everything: the order of the tests, ``random`` and hypothesis. The header of a run shows it."""
    if not config.pluginmanager.hasplugin("randomly"):
        return
    if hasattr(config, "workerinput"):
        config.option.randomly_seed = config.workerinput["randomly_seed"]
    elif config.option.randomly_seed == "default":
        config.option.randomly_seed = random.SystemRandom().getrandbits(32)
    if config.option.hypothesis_seed is None and config.option.randomly_seed != "last":
        config.option.hypothesis_seed = config.option.randomly_seed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The seed at the end as well: with -q there is no header."""
    if config.pluginmanager.hasplugin("randomly"):
        terminalreporter.write_line(f"Seed of this run: make unit SEED={config.option.randomly_seed}")


# Whoever starts this in the background of a script has it ignore Ctrl-C, and what is ignored is inherited: the
# programs that are interrupted here would not be.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: seconds between two looks at all command lines
LOOKS = 1.0
#: what other programs keep in the checkout
NOT_OURS = re.compile(
    r"\.git(?:/|$)|\.venv|\.claude-client|\.mypy_cache|\.ruff_cache|(?:.*/)?__pycache__(?:/|$)"
).match


def _left() -> list[psutil.Process]:
    """Living processes of a daemon that this run started, wherever they hang."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("OCD_PREFIX", "") in PREFIXES:
                found.append(process)
    return found


def _runtime_folders(below: Path) -> Iterator[str]:
    """Runtime folders in /tmp: those of installations in ``below`` whose own was too deep for a socket's name."""
    for folder, _folders, _files in os.walk(below):
        for tail in ("", "run", "ocd", "run/ocd"):
            natural = os.path.join(folder, tail) if tail else folder
            if (short := paths._fit(natural)) != natural and os.path.lexists(short):
                yield short


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test no process, socket or folder of ours is there."""
    yield
    for short in list(_runtime_folders(tmp_path_factory.getbasetemp())):
        sockets = [] if os.path.islink(short) else os.listdir(short)
        assert not sockets, f"{short} was left with {sockets}"
        (os.unlink if os.path.islink(short) else os.rmdir)(short)
    _gone, alive = psutil.wait_procs(_left(), timeout=10)
    assert not alive, f"processes left behind: {alive}"
    folders = [path for path in PREFIXES if os.path.exists(path)]
    folders += [
        path for prefix in PREFIXES if os.path.exists(path := paths._fit(os.path.join(prefix, "run")))
    ]
    assert not folders, f"files left behind: {folders}"


@pytest.fixture(scope="session", autouse=True)
def no_canary_anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of the credentials that the run made up none is in a file, a log or a command line that it made.

    Each daemon's folder is looked through before it goes (tests.helpers.daemon), command lines while the run goes on,
    the rest now. Names are told, values never.
    """
    # The file system's clock may be coarser than ours.
    began, over = time.time() - 2, threading.Event()

    def look() -> None:
        while not over.wait(LOOKS):
            canaries.look_at_arguments()

    thread = threading.Thread(target=look, name="looking at command lines", daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()
    secrets = canaries.FORBIDDEN | canaries.KEYS
    canaries.FOUND.update(canaries.in_files(tmp_path_factory.getbasetemp(), secrets))
    canaries.FOUND.update(canaries.in_files(ROOT, secrets, but=NOT_OURS, since=began))
    for folder in (Path("/tmp"), Path("/dev/shm")):
        canaries.FOUND.update(
            one for path in folder.glob("ocd-*") for one in canaries.in_files(path, secrets, since=began)
        )
    if canaries.FOUND:
        pytest.fail("canaries were found:\n" + "\n".join(canaries.told()), pytrace=False)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every package that install.py needs for ocd itself."""
    return wheel_folder(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(autouse=True)
def nothing_changed() -> Iterator[None]:
    """A test that leaves the process changed fails, instead of one that happens to run after it.

    It is the first fixture of each test, so that it looks again when the others have put everything back.
    """
    before, threads, children = leaks.look(), leaks.threads(), leaks.children()
    yield
    found = leaks.changes(before) + leaks.threads_left(threads) + leaks.children_left(children)
    if found:
        pytest.fail("left behind for the next test:\n" + "\n".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def no_ocd_environment(nothing_changed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings must not reach a test."""
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")) and not name.startswith("OCD_TEST_"):
            monkeypatch.delenv(name)
    for name in ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
