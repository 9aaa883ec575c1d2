"""``python -m tests.client``: the suite with the real Claude Code, in a network of its own.

Options come first, everything else goes to pytest. Without a client or a namespace it says why and ends with 69
(``--if-possible``: with 0, for a CI that has neither).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.client import clients, namespace

EX_UNAVAILABLE = 69
HERE = str(Path(__file__).parent.relative_to(clients.ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.client", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--install-only", action="store_true", help="install Claude Code by npm, test nothing"
    )
    parser.add_argument("--no-install", action="store_true", help="use what is there, ask npm for nothing")
    parser.add_argument(
        "--short", action="store_true", help="the newest client alone, the tests that matter most"
    )
    parser.add_argument("--if-possible", action="store_true", help="nothing to test with is no failure")
    options, rest = parser.parse_known_args()
    if os.environ.get(namespace.MARK) == "entering":
        return inside(rest)
    try:
        found = clients.installed() if options.no_install else clients.install()
        if not found:
            raise clients.NoClient("no Claude Code is installed for the tests (make client installs it)")
        if options.install_only:
            print("\n".join(f"Claude Code {one.version}" for one in found))
            return 0
        start = namespace.way()
        if isinstance(start, str):
            raise clients.NoClient(start)
    except clients.NoClient as reason:
        print(f"The suite with the real Claude Code does not run: {reason}", flush=True)
        return 0 if options.if_possible else EX_UNAVAILABLE
    if options.short:
        found = found[:1]
        rest = ["-m", "not thorough", *rest]
    print("With Claude Code", ", ".join(one.version for one in found), flush=True)
    os.environ["OCD_TEST_CLAUDE"] = os.pathsep.join(str(one.path) for one in found)
    namespace.enter(start, [sys.executable, "-m", "tests.client", *rest])


def inside(rest: list[str]) -> int:
    """In the namespaces: prepare them, run pytest, take the folder away."""
    folder = namespace.prepare()
    named = [
        one
        for before, one in zip(["", *rest], rest, strict=False)
        if one.startswith(HERE) and before not in ("--deselect", "--ignore")
    ]
    paths = [] if named else [HERE]
    try:
        return subprocess.run([sys.executable, "-m", "pytest", *paths, *rest], cwd=clients.ROOT).returncode
    finally:
        namespace.leave(folder)


if __name__ == "__main__":
    sys.exit(main())
