"""Which interpreter has LiteLLM, and how guests are started under it."""

import os
import sys
import zlib
from pathlib import Path

import ocd
from ocd import provision
from ocd.errors import EX_CONFIG, EX_DATAERR, EX_UNAVAILABLE, OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.wire.messages import Problem

#: The first LiteLLM that keeps the plan's token from Bedrock by itself (BerriAI/litellm#37905; 1.82.6, 1.90.7 and
#: 1.98.1 do not, measured).
TIGHT = (1, 99)
GUEST_FOLDER = os.path.join(os.path.dirname(os.path.abspath(ocd.__file__)), "guest")
#: what runs in a guest
GUEST_CODE = (Path(GUEST_FOLDER), Path(GUEST_FOLDER).parent / "ipc")


def worries(version: str) -> list[Problem]:
    """What to say about serving with this LiteLLM; empty when nothing, or when the version cannot be told."""
    try:
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return []
    if not numbers or numbers >= TIGHT:
        return []
    return [
        Problem(
            code="litellm-old",
            what=f"LiteLLM {version} by itself would pass the plan's login on to Bedrock",
            why="only ocd's two proxies and the boundary in front of them hold it back (true before 1.99)",
            next="Run `occtl litellm use` with a newer version",
            exit=EX_CONFIG,
        )
    ]


def python(settings: Settings, folders: Folders) -> str:
    """The interpreter that has LiteLLM: the one in the settings, else the installed one.

    Raises OcdError: exit code 69 when there is none, 65 when what is named must not run. Nothing of it is run here.
    """
    if settings.litellm.python:
        path = os.path.expanduser(settings.litellm.python)
        if os.access(path, os.X_OK):
            refuse(path)
            return path
        raise OcdError(
            f"LiteLLM's interpreter {path} cannot be run",
            "litellm.python in ocd.toml names it, but no program is there",
            "Correct litellm.python, or remove it to use the installed one",
            exit_code=EX_UNAVAILABLE,
            code="no-litellm",
        )
    installed = folders.data / "litellm" / "bin" / "python"
    if os.access(installed, os.X_OK):
        refuse(str(installed))
        return str(installed)
    raise OcdError(
        "LiteLLM is not installed",
        f"there is no {installed}",
        "Run `python3 install.py` again, or set litellm.python in ocd.toml",
        exit_code=EX_UNAVAILABLE,
        code="no-litellm",
    )


def refuse(interpreter: str) -> None:
    """Raise OcdError (exit code 65) for an environment that would run stolen or unknown code at its start."""
    what, why = provision.trouble(Path(os.path.abspath(interpreter)).parent.parent)
    if what:
        raise OcdError(
            f"LiteLLM in {os.path.dirname(os.path.dirname(interpreter))} must not run",
            f"{what}: {why}",
            "Use another environment: `occtl litellm use`, or litellm.python in ocd.toml",
            exit_code=EX_DATAERR,
            code="litellm-refused",
        )


def site_packages(interpreter: str) -> Path | None:
    """The site-packages folder of a virtual environment, or None; nothing is run for it."""
    root = Path(interpreter).parent.parent
    for found in sorted(root.glob("lib/python3*/site-packages")):
        if (found / "litellm").is_dir():
            return found
    return None


def identity(interpreter: str) -> str:
    """A name for what a guest consists of: LiteLLM's environment and our own guest code.

    It is part of each revision, so that another LiteLLM, or an upgrade of ours, is a reload like any other.
    """
    folder = os.path.realpath(os.path.dirname(os.path.dirname(interpreter)))
    crc = zlib.crc32(folder.encode())
    for code in GUEST_CODE:
        for path in sorted(code.rglob("*.py")):
            crc = zlib.crc32(path.read_bytes(), crc)
    return f"{crc:08x}"


def mode(settings: Settings) -> str:
    """``fork`` where forking after the import is safe (Linux), else ``spawn``."""
    if settings.litellm.mode != "auto":
        return settings.litellm.mode
    return "fork" if sys.platform.startswith("linux") else "spawn"
