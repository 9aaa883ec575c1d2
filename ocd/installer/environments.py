"""The two private environments: named after what is in them, made from locks, kept or chosen, and taken away."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from ocd import __version__, provision
from ocd.errors import EX_OSERR
from ocd.installer import ground
from ocd.installer.places import LOCKS, ROOT, Places
from ocd.installer.screen import Steps

#: what ocd's wheel is built from; nothing else of the checkout is copied
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ocd", "units", "plists", "requirements")
#: what makes the wheel: the build backend's own entrance (PEP 517), with its packages from a folder of their own
BUILD = """import os, sys
tools, source, wheels = sys.argv[1:]
sys.path.insert(0, tools)
os.makedirs(wheels)
os.chdir(source)
from hatchling.build import build_wheel
build_wheel(wheels)
"""


def source_hash(root: Path = ROOT) -> str:
    """A name for exactly this code, these locks and this Python."""
    digest = hashlib.sha256()
    files = [root / "pyproject.toml", root / "install.py"]
    for folder in ("ocd", "units", "plists", "requirements"):
        files += [one for one in sorted((root / folder).rglob("*")) if one.is_file()]
    for path in files:
        if "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(sys.version.encode())
    return digest.hexdigest()[:12]


def is_complete(env: Path) -> bool:
    """Whether an environment was made to the end, and its Python is still there (it is a link out of it)."""
    return (env / ".complete").exists() and (env / "bin" / "python").exists()


class Environments:
    """``tools`` run pip and uv, and each of their programs into the log."""

    def __init__(self, places: Places, steps: Steps, tools: provision.Tools) -> None:
        self.places = places
        self.envs = places.envs
        self.steps = steps
        self.tools = tools
        self.ours_folder = self.envs / f"ocd-{__version__}-{source_hash()}"

    def ours(self) -> Path:
        """This checkout's environment, made if need be."""
        self.make(self.ours_folder, self._fill_ours, f"install ocd {__version__}")
        return self.ours_folder

    def litellm(self, before: str, replaced: bool, full: bool) -> Path:
        """The environment of LiteLLM that serves from now on, made if need be.

        ``before`` serves now; ``replaced``: another ocd than before is being installed; ``full``: with all that
        LiteLLM has for other providers.
        """
        lock = LOCKS / ("litellm-full.txt" if full else "litellm.txt")
        text = lock.read_text()
        version = provision.locked(text)
        digest = hashlib.sha256((text + sys.version).encode()).hexdigest()[:12]
        folder = self.envs / f"litellm-{version}-{digest}"
        chosen = Path(before) if before else folder
        if chosen != folder and (chosen / "bin" / "python").exists():
            # Running this again does not take back what somebody chose: `occtl litellm use` until the next
            # ocd (which was tested with another LiteLLM), an environment of their own for good.
            theirs = chosen.parent != self.envs
            if theirs:
                ground.environment(chosen)
            if theirs or (not replaced and not full and is_complete(chosen)):
                return chosen

        def fill(python: str) -> None:
            self.tools.install(python, lock, "install LiteLLM")
            if not full:
                provision.trim(folder)
            ground.trouble(folder, "Do not use this version; see requirements/litellm.txt", EX_OSERR)

        self.make(folder, fill, f"install LiteLLM {version}")
        return folder

    def make(self, folder: Path, fill: Callable[[str], None], what: str) -> None:
        """A complete environment at its final place."""
        if is_complete(folder) or not self.steps.take(what):
            return
        ground.system(self.tools)
        self.places.make(self.envs)

        def whole(python: str) -> None:
            fill(python)
            # One name whatever the Python's version: launchers go through it and never need to be rewritten.
            (site,) = folder.glob("lib/python*/site-packages")
            (folder / "site").symlink_to(site.relative_to(folder))

        self.tools.environment(folder, whole)

    def _fill_ours(self, python: str) -> None:
        self.tools.install(python, LOCKS / "ocd.txt", "install the daemon's packages")
        # Beside our environment, not in it: nothing of this is needed afterwards.
        tools = str(self.places.build / "tools")
        self.tools.install(python, LOCKS / "build.txt", "install what builds ocd", "--target", tools)
        # A copy: building must not write into the checkout, which may be read-only.
        copy = self.places.build / "source"
        copy.mkdir(parents=True)
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, copy / name)
        wheels = self.places.build / "wheels"
        self.tools.run([python, "-I", "-c", BUILD, tools, str(copy), str(wheels)], "build ocd")
        (wheel,) = wheels.glob("*.whl")
        self.tools.run([*self.tools.installer(python), "--no-index", "--no-deps", str(wheel)], "install ocd")

    def prune(self, *keep: Path) -> None:
        """Remove what no longer serves; a LiteLLM that was made to the end can be chosen again."""
        for folder in self.envs.iterdir():
            chosen = folder.name.startswith("litellm-") and (folder / ".complete").exists()
            if folder.is_dir() and folder not in keep and not chosen:
                provision.remove(folder)
