"""A checkout that nobody edits while it is being installed, and changed copies of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.daemon import ROOT

#: what install.py needs of a checkout
SOURCES = ("install.py", "pyproject.toml", "README.md", "LICENSE", "ocd", "units", "plists", "requirements")


def copy_sources(target: Path, version: str = "") -> Path:
    """Copy what is installed to ``target``, a new folder; with ``version`` as that version. Returns it."""
    target.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    if version:
        edit(target / "ocd" / "__init__.py", r'^__version__ = ".*"', f'__version__ = "{version}"')
    return target


def edit(path: Path, pattern: str, replacement: str) -> None:
    """Replace the first match in a file, which must have one."""
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, f"{pattern} is not in {path}"
    path.write_text(text)


def wheel_folder(folder: Path) -> Path:
    """What somebody carries to a machine without a network; OCD_TEST_WHEELS names a folder that is ready."""
    ready = os.environ.get("OCD_TEST_WHEELS")
    if ready:
        return Path(ready)
    for lock in ("ocd", "build"):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
        subprocess.run([*command, "-r", str(ROOT / "requirements" / f"{lock}.txt")], check=True, timeout=300)
    return folder
