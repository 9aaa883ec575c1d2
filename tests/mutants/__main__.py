"""Plant each mutant of ``tests/mutants/*.toml`` in a copy, run the tests that answer for it, expect them to fail.

``python -m tests.mutants [WORD]``: all, or those whose file or name has the word. Exit code 1 when one survives.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
#: seconds; a mutant that makes the tests run for ever is found too
LIMIT = 120


@dataclass(frozen=True)
class Mutant:
    """A mistake: in ``file`` the text ``old`` becomes ``new``; ``tests`` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def load() -> list[Mutant]:
    """All mutants. Raises ValueError for one whose text does not stand in its file exactly once."""
    found = []
    for path in sorted(HERE.glob("*.toml")):
        table = tomllib.loads(path.read_text("utf-8"))
        for one in table["mutant"]:
            tests = tuple(one.pop("tests", table["tests"]))
            mutant = Mutant(tests=tests, **one)
            count = (ROOT / mutant.file).read_text("utf-8").count(mutant.old)
            if count != 1:
                raise ValueError(
                    f"{path.name}: {mutant.name!r} stands {count} times in {mutant.file}: mend the mutant"
                )
            found.append(mutant)
    return found


class Copies:
    """One copy of the project for each worker: a mutant must not be seen by another's tests."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.mine = threading.local()
        self.lock = threading.Lock()
        self.count = 0

    def get(self) -> Path:
        if not hasattr(self.mine, "path"):
            with self.lock:
                self.count += 1
                target = self.base / f"copy{self.count}"
            keep = shutil.ignore_patterns("__pycache__", ".*", "node_modules", "dist", "build", "*.egg-info")
            shutil.copytree(ROOT, target, ignore=keep)
            self.mine.path = target
        return Path(self.mine.path)


def killed(mutant: Mutant, copies: Copies) -> bool:
    """Whether the tests notice it."""
    copy = copies.get()
    path = copy / mutant.file
    text = path.read_text("utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    try:
        return run(copy, mutant.tests) != 0
    finally:
        path.write_text(text, "utf-8")


def run(copy: Path, tests: tuple[str, ...]) -> int:
    """The tests' exit code; 1 also when they do not end. One file after the other: the quick ones first."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OCD_TEST_MUTANT": "1",
    }
    for test in tests:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            test,
        ]
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return 1
        if done.returncode not in (0, 1):
            # Neither passed nor failed: the mutant does not even load, which proves nothing of the tests.
            raise RuntimeError(done.stdout.decode() + done.stderr.decode())
        if done.returncode:
            return 1
    return 0


def main(words: list[str]) -> int:
    mutants = [m for m in load() if not words or any(word in m.name or word in m.file for word in words)]
    began = time.monotonic()
    survivors = []
    with tempfile.TemporaryDirectory(prefix="ocdm-") as base:
        copies = Copies(Path(base))
        for tests in sorted({m.tests for m in mutants}):
            if run(copies.get(), tests):
                print(f"without any mutant {tests} fail: nothing can be said")
                return 2
        with concurrent.futures.ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1)))) as pool:
            waiting = {pool.submit(killed, mutant, copies): mutant for mutant in mutants}
            for done in concurrent.futures.as_completed(waiting):
                mutant = waiting[done]
                found = done.result()
                print(f"{'killed  ' if found else 'SURVIVES'} {mutant.file}: {mutant.name}", flush=True)
                if not found:
                    survivors.append(mutant)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed in {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
