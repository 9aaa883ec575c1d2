"""Packages of other systems' managers. Each brings the checkout and a command, `ocd-setup`, which is its install.py.

What ocd consists of is made for each user, from the locks: a package of the system's has no business in their HOME.
"""

import hashlib
import os
import shutil
from pathlib import Path

from ocd import __version__
from ocd.installer.environments import SOURCES

ROOT = Path(__file__).resolve().parent.parent
NAME, VERSION = "openclaude-daemon", __version__


def copy(target: Path) -> None:
    """What install.py needs of the checkout, below ``target``; writable for its owner alone, without bytecode."""
    target.mkdir(parents=True)
    for name in (*SOURCES, "install.py"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.name == "install.py" else 0o644)


def stamp(folder: Path) -> None:
    """The same times for the same code: those of SOURCE_DATE_EPOCH, or of the newest file of the checkout."""
    files = [path for path in folder.rglob("*") if not path.is_symlink()]
    newest = max((int(path.stat().st_mtime) for path in (ROOT / "ocd").rglob("*.py")), default=0)
    when = int(os.environ.get("SOURCE_DATE_EPOCH") or newest)
    for path in [*files, folder]:
        os.utime(path, (when, when))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
