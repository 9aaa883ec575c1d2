"""What is refused before anything is built. Each function raises Failure, or returns nothing."""

import contextlib
import importlib.util
import os
import re
import sys
import sysconfig
from pathlib import Path

from ocd import provision
from ocd.errors import EX_CANTCREAT, EX_NOINPUT, EX_NOPERM, EX_UNAVAILABLE, EX_USAGE
from ocd.installer.failure import Failure
from ocd.installer.places import ROOT, Places
from ocd.installer.programs import NO_VENV

#: for which requirements/*.txt have wheels; the README's table and tests/unit/test_platforms.py have the details
SYSTEMS, PROCESSORS = ("linux", "darwin"), ("x86_64", "amd64", "arm64", "aarch64")


def known_bad_locks(root: Path = ROOT) -> None:
    """A requirement file that names a LiteLLM that steals credentials, however it is spelled."""
    named = re.compile(r"^\s*litellm\s*(?:\[[^\]]*\])?\s*===?\s*([^\s;\\]+)", re.MULTILINE | re.IGNORECASE)
    for path in sorted((root / "requirements").glob("*.txt")):
        for version in filter(provision.refused, named.findall(path.read_text())):
            step = f"Get a requirements/{path.name} that names another litellm"
            raise Failure(f"LiteLLM {version} is refused", provision.WHY_REFUSED, step, EX_USAGE)


def anothers_home() -> None:
    """A HOME that belongs to somebody else: `sudo` leaves root's files in a user's folders."""
    home = os.path.expanduser("~")
    with contextlib.suppress(OSError):
        if os.stat(home).st_uid != os.getuid():
            step = "Run this as the user who will use it, without sudo; or name a folder with --prefix"
            why = f"you are user {os.getuid()} here"
            raise Failure(f"{home} does not belong to you", why, step, EX_NOPERM)


def foreign_folders(places: Places) -> None:
    """A prefix is ours alone: --uninstall removes its share, state and run whole."""
    if not places.prefix or places.record.exists():
        return
    for folder in (places.data, places.state, Path(places.prefix) / "run"):
        if folder.is_dir() and any(folder.iterdir()):
            what, why = f"{places.prefix} cannot be the prefix", f"{folder} holds files that are not ours"
            raise Failure(what, why, "Name a new or empty folder with --prefix", EX_CANTCREAT)


def environment(env: Path) -> None:
    """Somebody else's environment without a LiteLLM that may be used. Nothing in it is run."""
    found = provision.versions(env)
    if not os.access(env / "bin" / "python", os.X_OK) or not found:
        raise Failure(
            f"there is no LiteLLM in {env}",
            "its bin/python cannot be run" if found else "",
            "Name the interpreter of a virtual environment that has litellm[proxy], as DIR/bin/python",
            EX_NOINPUT,
        )
    trouble(env, "Name another environment with --litellm-python", EX_USAGE)


def trouble(env: Path, step: str, exit_code: int) -> None:
    """A release that steals, or files that run at every start: so did the stolen releases."""
    what, why = provision.trouble(env)
    if what:
        raise Failure(what, why, step, exit_code)


def system(tools: provision.Tools) -> None:
    """A system or a Python on which nothing can be built."""
    name, machine, own_wheels = sys.platform, os.uname().machine, bool(tools.source)
    if not own_wheels and (name not in SYSTEMS or machine.lower() not in PROCESSORS):
        raise Failure(
            f"ocd cannot be installed on {name} {machine}",
            "there are packages for Linux and macOS on x86_64 and arm64",
            "With packages of your own: --wheels DIR",
            EX_UNAVAILABLE,
        )
    if not own_wheels and sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise Failure(
            f"ocd cannot be installed with {sys.executable}",
            "it is a free-threaded Python, for which LiteLLM's packages are not made",
            "Run this with an ordinary Python: python3.12 install.py",
            EX_UNAVAILABLE,
        )
    missing = [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module) is None]
    if "venv" in missing or (missing and not tools.has_uv()):
        why = f"{sys.executable} has no module {missing[0]}"
        raise Failure("this Python cannot make environments", why, NO_VENV, EX_UNAVAILABLE)
