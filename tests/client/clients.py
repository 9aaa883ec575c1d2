"""The real Claude Code: where it is, and how it comes here.

``make client`` installs it by npm below ``.claude-client/`` in the checkout (not in git). ``OCD_TEST_CLAUDE`` names
programs that are there already instead, separated by ``:``; npm is not needed then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".claude-client"
PACKAGE = "@anthropic-ai/claude-code"
#: what is installed: npm's name of a version → folder. The second is the oldest that is supported.
WANTED = {"latest": "latest", "2.1.197": "2.1.197"}


class NoClient(Exception):
    """There is no Claude Code to test with; the text says why."""


@dataclass(frozen=True)
class Client:
    """One Claude Code: its program and what ``--version`` says."""

    path: Path
    version: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    @property
    def searches_tools(self) -> bool:
        """Whether tool search is on behind a gateway without being asked for (measured: 2.1.197 no, 2.1.332 yes)."""
        return self.number >= (2, 1, 300)


def at(path: Path) -> Client:
    """The client whose program is ``path``. Raises NoClient."""
    try:
        done = subprocess.run(
            [path, "--version"],
            env={"HOME": "/nonexistent", "PATH": os.defpath, "DISABLE_AUTOUPDATER": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoClient(f"{path} does not run: {error}") from None
    words = done.stdout.split()
    if done.returncode or not words:
        raise NoClient(f"{path} --version ended with {done.returncode}: {done.stderr.strip()[:200]}")
    return Client(path.resolve(), words[0])


def installed() -> list[Client]:
    """What can be used now, the newest first; [] when there is none. Raises NoClient for one that does not run."""
    named = os.environ.get("OCD_TEST_CLAUDE")
    if named:
        paths = [Path(one) for one in named.split(os.pathsep) if one]
    else:
        paths = [path for folder in WANTED.values() if (path := _program(FOLDER / folder)) is not None]
    found = {client.version: client for client in map(at, paths)}
    return sorted(found.values(), key=lambda client: client.number, reverse=True)


def _program(folder: Path) -> Path | None:
    """The program that npm put below ``folder``: the platform's own package holds it."""
    modules = folder / "node_modules" / "@anthropic-ai"
    return next(iter(sorted(modules.glob("claude-code-*/claude"))), None)


def install() -> list[Client]:
    """Install what is missing or, for the newest, has changed. Raises NoClient where npm cannot do it."""
    if os.environ.get("OCD_TEST_CLAUDE"):
        return installed()
    npm = shutil.which("npm")
    if npm is None:
        raise NoClient("there is no npm here (Debian: apt install npm)")
    for version, name in WANTED.items():
        folder = FOLDER / name
        if version != "latest" and _program(folder) is not None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True}))
        # No scripts: the platform's package is the program, and nothing of it runs outside the namespace.
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", f"{PACKAGE}@{version}"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            raise NoClient(f"npm did not install {PACKAGE}@{version} within 600 s") from None
        if done.returncode:
            if _program(folder) is not None:
                print(f"npm did not answer; the {name} that is here is used")
                continue
            last = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise NoClient(f"npm could not install {PACKAGE}@{version}: {last}")
    return installed()
