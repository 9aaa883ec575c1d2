"""What a test may not leave changed for the next one: everything that one process has only once.

``look`` takes a picture, ``changes`` says in words what is another now. Both are cheap (about a millisecond), because
they run around every test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import locale
import logging
import multiprocessing.resource_tracker
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import click
import psutil

# It adds filters for its warnings when it is first imported, which may be in any test.
import ruamel.yaml  # noqa: F401
import structlog

#: seconds that a thread or a child process has to end by itself
PATIENCE = 3.0
#: changed by pytest itself with each phase of a test
OF_PYTEST = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")
Picture = dict[str, Any]

_SIGNALS = sorted(signal.valid_signals())
#: module → its globals, and those of them that can be changed in place; as long as the first are the same
_KNOWN: dict[str, tuple[dict[str, Any], list[tuple[str, Any]], list[tuple[str, click.Command]]]] = {}


def look() -> Picture:
    """The state of this process, as far as a test can change it: what → its value, or name → value."""
    return dict(_state())


def _state() -> Iterator[tuple[str, Any]]:
    yield "environment variable", {name: text for name, text in os.environ.items() if name not in OF_PYTEST}
    yield "current folder", _folder()
    yield "umask", _umask()
    yield "handler of signal", {int(number): _handler(number) for number in _SIGNALS}
    yield "blocked signals", signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for name in ("NOFILE", "CORE", "STACK"):
        yield f"limit {name}", resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    yield "sys.path", tuple(sys.path)
    yield "sys.argv", tuple(sys.argv)
    yield "sys.meta_path", tuple(sys.meta_path)
    yield "sys.excepthook", sys.excepthook
    yield "threading.excepthook", threading.excepthook
    yield "recursion limit", sys.getrecursionlimit()
    yield "garbage collector", gc.isenabled()
    yield "warning filters", tuple(warnings.filters)
    yield "locale", locale.setlocale(locale.LC_ALL)
    yield "time zone", time.tzname
    yield "tempfile.tempdir", tempfile.tempdir
    yield "socket time-out", socket.getdefaulttimeout()
    yield "running event loop", asyncio._get_running_loop()
    yield "logging.disable", logging.root.manager.disable
    yield "logger", dict(_loggers())
    yield "structlog", structlog.get_config() if structlog.is_configured() else None
    yield "module", dict(sys.modules)
    commands: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if name == "ocd" or name.startswith("ocd."):
            values, containers, verbs = _globals(name, module)
            yield f"global of {name}", values
            for one, container in containers:
                yield f"{name}.{one}", _copy(container)
            for one, verb in verbs:
                commands[f"{name}.{one}"] = list(_command(verb))
    yield "click command", commands


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "one that is gone"


def _copy(container: Any) -> Any:
    """The container and what lies directly in it: the tables of ours are tables of tables at most."""
    if isinstance(container, dict):
        return {
            key: one.copy() if isinstance(one, dict | list | set) else one for key, one in container.items()
        }
    return container.copy()


def _handler(number: signal.Signals) -> Any:
    found = signal.getsignal(number)
    # pytest-timeout takes its own away from a test that failed.
    return signal.SIG_DFL if getattr(found, "__module__", "") == "pytest_timeout" else found


def _umask() -> int:
    # Asking the system means setting it, for all threads: only where nothing tells it.
    with contextlib.suppress(OSError, StopIteration, ValueError), open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _loggers() -> Iterator[tuple[str, Any]]:
    for name, logger in (("root", logging.root), *logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            # pytest's own come and go with each phase of a test.
            own = [one for one in logger.handlers if not type(one).__module__.startswith("_pytest.")]
            yield name, (logger.level, own, logger.propagate, logger.disabled)


def _globals(name: str, module: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
    found = vars(module)
    known = _KNOWN.get(name)
    if known is None or known[0] != found:
        mine = {one: value for one, value in found.items() if not one.startswith("__")}
        known = _KNOWN[name] = (
            found.copy(),
            [(one, value) for one, value in mine.items() if isinstance(value, dict | list | set)],
            [(one, value) for one, value in mine.items() if isinstance(value, click.Command)],
        )
    return known


def _command(command: click.Command) -> Iterator[Any]:
    yield from (command.help, command.hidden, command.callback)
    for one in command.params:
        yield from (one, tuple(one.opts), one.default, getattr(one, "help", None))
    # Made when it is first asked for, with the settings of that moment, and kept.
    kept = getattr(command, "_help_option", None)
    yield tuple(kept.opts) if kept is not None else ("-h", "--help")


def changes(before: Picture) -> list[str]:
    """What is not as it was, one sentence each. What was not there yet may come (a module, its globals, a logger)."""
    now = look()
    found = []
    for what, was in before.items():
        value = now.get(what, was)
        if value is was or value == was:
            continue
        if what.startswith(("environment", "handler", "logger", "module", "global of ", "click")):
            for name, one in was.items():
                if name not in value:
                    found.append(f"{what} {name} is gone")
                elif one is not value[name] and one != value[name] and not str(name).startswith("__"):
                    found.append(f"{what} {name} was {_short(one)} and is {_short(value[name])}")
        else:
            found.append(f"{what} was {_short(was)} and is {_short(value)}")
    new = now["environment variable"].keys() - before["environment variable"].keys()
    found += [f"environment variable {name} is new" for name in sorted(new)]
    # Made by hand instead of imported: the next test would take it for the real one.
    new = now["module"].keys() - before["module"].keys()
    found += [
        f"module {name} was made by hand" for name in new if not getattr(now["module"][name], "__spec__", 0)
    ]
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def threads_left(before: set[threading.Thread]) -> list[str]:
    """The threads that were not there before and do not end within PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    for thread in threads() - before:
        with contextlib.suppress(RuntimeError):
            thread.join(max(0.0, deadline - time.monotonic()))
    return [f"thread {one.name} still runs" for one in threads() - before if one.is_alive()]


def children() -> set[psutil.Process]:
    """The child processes of this one; without any, one call of the system says so."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    # multiprocessing keeps a helper of its own, on purpose until the end.
    tracker = getattr(multiprocessing.resource_tracker._resource_tracker, "_pid", None)
    return {one for one in psutil.Process().children() if one.pid != tracker}


def children_left(before: set[psutil.Process]) -> list[str]:
    """The children that were not there before and do not end within PATIENCE."""
    new = list(children() - before)
    if not new:
        return []
    _, alive = psutil.wait_procs(new, timeout=PATIENCE)
    return [f"child process {one.pid} still runs" for one in alive]
