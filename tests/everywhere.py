"""The unit suite as other machines run it: ``make unit-everywhere``.

Each test file alone, then the whole suite with 1, 2, 4, 8 and 16 workers, each time in another order and in another
environment (locale, time zone, width, umask, a home with a blank …). One line per run; a run that fails is shown with
the command that repeats it, and the exit code is 1. ``--minutes`` bounds all of it: what was not run is said.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = (1, 2, 4, 8, 16)
#: what the user's shell may bring along, by name; ``~`` stands for a folder that is made for it
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as here": {},
    "plain C": {"LC_ALL": "C", "LANG": "C"},
    "German, east": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "TZ": "Pacific/Chatham"},
    "narrow, no colour": {"COLUMNS": "40", "LINES": "10", "NO_COLOR": "1", "TERM": "dumb"},
    "colour, west": {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TZ": "America/St_Johns"},
    "a home with a blank": {"HOME": "~/a home", "XDG_CONFIG_HOME": "", "PAGER": "more"},
    "hardened": {"UMASK": "077", "XDG_RUNTIME_DIR": "", "LC_ALL": "C.UTF-8"},
    "shared": {"UMASK": "002", "TZ": "UTC"},
}


@dataclass
class Run:
    """One start of pytest. ``limit``: seconds after which it counts as failed."""

    name: str
    arguments: list[str]
    seed: int
    environment: dict[str, str] = field(default_factory=dict)
    limit: float = 600.0

    def command(self) -> list[str]:
        base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        return [*base, *self.arguments, f"--randomly-seed={self.seed}"]

    def __call__(self) -> str:
        """Run it; the output when it fails, else an empty string."""
        # A short place for temporary files: a socket's name may have a hundred letters.
        folder = Path(tempfile.mkdtemp(prefix="ocdu-", dir="/tmp"))
        environ = os.environ | self.environment
        umask = int(environ.pop("UMASK", "-1"), 8)
        for name, value in self.environment.items():
            if value.startswith("~"):
                environ[name] = str(folder) + value[1:]
                os.makedirs(environ[name])
        try:
            done = subprocess.run(
                [*self.command(), f"--basetemp={folder}/t"],
                cwd=ROOT,
                env=environ,
                umask=umask,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=self.limit,
            )
        except subprocess.TimeoutExpired:
            return f"not done after {self.limit:.0f} s"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        # 5: nothing in this file is meant for the fast suite.
        return "" if done.returncode in (0, 5) else done.stdout


def runs(seeds: int, dice: random.Random, alone: bool) -> list[Run]:
    """What is to be run, the cheapest first."""
    planned = []
    if alone:
        for path in sorted((ROOT / "tests" / "unit").glob("test_*.py")):
            name = str(path.relative_to(ROOT))
            planned.append(Run(f"{path.name} alone", ["-n", "0", name], dice.getrandbits(32)))
    turns = zip(itertools.cycle(WORKERS[::-1]), itertools.cycle(ENVIRONMENTS), range(seeds))
    for workers, environment, _ in turns:
        planned.append(
            Run(
                f"{workers} workers, {environment}",
                ["-n", str(workers), "--dist", "worksteal", "tests/unit"],
                dice.getrandbits(32),
                ENVIRONMENTS[environment],
            )
        )
    return planned


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="whole runs, each with a seed of its own (10)")
    parser.add_argument("--seed", type=int, help="repeat: the seed that all others are drawn from")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no further run after so long (20)")
    parser.add_argument("--whole", action="store_true", help="only the whole suite, no file alone")
    given = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + given.minutes * 60
    planned = runs(given.seeds, random.Random(seed), not given.whole)
    failed = left = 0
    for run in planned:
        if time.monotonic() > end:
            left += 1
            continue
        begun = time.monotonic()
        output = run()
        failed += bool(output)
        print(f"{'FAILED' if output else 'passed'} {time.monotonic() - begun:6.1f} s  {run.name}", flush=True)
        if output:
            shell = [f"{name}={shlex.quote(value)}" for name, value in run.environment.items()]
            print(f"{output}\nrepeat: {' '.join(shell)} {shlex.join(run.command())}", flush=True)
    print(f"{len(planned) - left} runs, {failed} failed" + (f", {left} not begun: no time" if left else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
