"""A checkout that nobody edits while it is being installed, and changed copies of it."""

from __future__ import annotations

import re
import shutil
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
