"""The guard around every test (tests/conftest.py) sees what a test leaves behind."""

from __future__ import annotations

import locale
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import structlog

from ocd.ctl import reload as verb
from ocd.ctl import screen
from ocd.ctl.app import VERBS
from tests.helpers import leaks
from tests.helpers.daemon import ROOT


def _help(names: list[str]) -> None:
    verb.reload._help_option = None
    verb.reload.get_help_option(click.Context(verb.reload, help_option_names=names))


def _other_folder() -> Callable[[], None]:
    here = os.getcwd()
    os.chdir("/")
    return lambda: os.chdir(here)


def _environment() -> Callable[[], None]:
    os.environ["OCD_TEST_LEFT"] = "1"
    return lambda: os.environ.__delitem__("OCD_TEST_LEFT")


def _changed_environment() -> Callable[[], None]:
    path = os.environ["PATH"]
    os.environ["PATH"] = "/nowhere"
    return lambda: os.environ.__setitem__("PATH", path)


def _umask() -> Callable[[], object]:
    mask = os.umask(0o027)
    return lambda: os.umask(mask)


def _handler() -> Callable[[], object]:
    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    return lambda: signal.signal(signal.SIGUSR1, former)


def _blocked() -> Callable[[], object]:
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2,))
    return lambda: signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _limit() -> Callable[[], None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _path() -> Callable[[], object]:
    sys.path.append("/nowhere")
    return sys.path.pop


def _module_by_hand() -> Callable[[], object]:
    sys.modules["litellm_of_a_test"] = types.ModuleType("litellm_of_a_test")
    return lambda: sys.modules.pop("litellm_of_a_test")


def _module_again() -> Callable[[], None]:
    module = sys.modules.pop("ocd.ctl.reload")
    return lambda: sys.modules.__setitem__("ocd.ctl.reload", module)


def _global() -> Callable[[], None]:
    former = screen.duration
    screen.duration = str  # type: ignore[assignment]
    return lambda: setattr(screen, "duration", former)


def _table() -> Callable[[], object]:
    VERBS["Look"]["nothing"] = "nothing"
    return lambda: VERBS["Look"].pop("nothing")


def _parameter() -> Callable[[], None]:
    former, verb.reload.params[0].opts = verb.reload.params[0].opts, ["--other"]
    return lambda: setattr(verb.reload.params[0], "opts", former)


def _help_option() -> Callable[[], None]:
    former = getattr(verb.reload, "_help_option", None)
    _help(["--help"])
    return lambda: setattr(verb.reload, "_help_option", former)


def _logger() -> Callable[[], None]:
    logging.getLogger("asyncio").disabled = True
    return lambda: setattr(logging.getLogger("asyncio"), "disabled", False)


def _root_handler() -> Callable[[], None]:
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    return lambda: logging.root.removeHandler(handler)


def _structlog() -> Callable[[], None]:
    structlog.configure(cache_logger_on_first_use=True)
    return structlog.reset_defaults


def _warnings() -> Callable[[], object]:
    warnings.simplefilter("ignore", BytesWarning)
    return lambda: warnings.filters.pop(0)  # type: ignore[attr-defined]


def _locale() -> Callable[[], object]:
    former = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C" if former != "C" else "C.UTF-8")
    return lambda: locale.setlocale(locale.LC_ALL, former)


def _temporary() -> Callable[[], None]:
    former, tempfile.tempdir = tempfile.tempdir, "/nowhere"
    return lambda: setattr(tempfile, "tempdir", former)


def _zone() -> Callable[[], None]:
    former = os.environ.get("TZ")
    os.environ["TZ"] = "XYZ-3"
    time.tzset()

    def back() -> None:
        if former is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = former
        time.tzset()

    return back


KINDS = {
    "current folder": _other_folder,
    "environment variable OCD_TEST_LEFT is new": _environment,
    "environment variable PATH was": _changed_environment,
    "umask": _umask,
    "handler of signal": _handler,
    "blocked signals": _blocked,
    "limit NOFILE": _limit,
    "sys.path": _path,
    "module litellm_of_a_test was made by hand": _module_by_hand,
    "module ocd.ctl.reload is gone": _module_again,
    "global of ocd.ctl.screen duration": _global,
    "click command ocd.ctl.reload.reload was": _parameter,
    "click command ocd.ctl.reload.reload": _help_option,
    "ocd.ctl.app.VERBS": _table,
    "logger asyncio": _logger,
    "logger root": _root_handler,
    "structlog": _structlog,
    "warning filters": _warnings,
    "locale": _locale,
    "tempfile.tempdir": _temporary,
    "time zone": _zone,
}


@pytest.mark.parametrize("what", KINDS)
def test_each_kind_of_change_is_told(what: str) -> None:
    before = leaks.look()
    back = KINDS[what]()
    try:
        found = leaks.changes(before)
    finally:
        back()
    assert any(what in one for one in found), found
    assert not leaks.changes(before)


def test_threads_and_processes_that_go_on_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "PATIENCE", 0.0)
    threads, children, over = leaks.threads(), leaks.children(), threading.Event()
    thread = threading.Thread(target=over.wait, name="of a test")
    thread.start()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert leaks.threads_left(threads) == ["thread of a test still runs"]
        assert leaks.children_left(children) == [f"child process {process.pid} still runs"]
        over.set()
        thread.join()
    assert not leaks.threads_left(threads) and not leaks.children_left(children)


def test_the_test_that_leaves_something_fails_and_not_the_next(tmp_path: Path) -> None:
    """With the suite's own conftest, in a run of its own."""
    (tmp_path / "test_it.py").write_text(
        "import os\n"
        "def test_leaves(): os.environ['LEFT'] = '1'\n"
        "def test_puts_back(monkeypatch): monkeypatch.setenv('OTHER', '1')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-rA"]
    command += ["-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", f"--basetemp={tmp_path}/t"]
    done = subprocess.run(
        [*command, "--color=no", str(tmp_path / "test_it.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "environment variable LEFT is new" in done.stdout
    assert re.search(r"^ERROR .*::test_leaves - Failed", done.stdout, re.MULTILINE)
    assert "2 passed, 1 error" in done.stdout
