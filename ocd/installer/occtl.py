"""The installed ``occtl``, and that of an environment that need not be the one in use."""

import json
import subprocess
from pathlib import Path
from typing import Any

from ocd.installer.failure import Failure
from ocd.installer.places import Places
from ocd.installer.screen import Screen

Done = subprocess.CompletedProcess[bytes]


class Occtl:
    def __init__(self, places: Places, screen: Screen) -> None:
        self.places = places
        self.screen = screen

    def run(self, *arguments: str, check: bool = False) -> Done:
        """The result, with its output. Raises Failure when it ends badly and ``check`` is set."""
        words = " ".join(arguments)
        with self.screen.moving(lambda: f"waiting for occtl {words}"):
            done = self.quietly(*arguments)
        if check and done.returncode:
            raise Failure(f"occtl {words} failed (exit {done.returncode})", complaint(done))
        return done

    def quietly(self, *arguments: str) -> Done:
        """The result, with its output; nothing moves meanwhile."""
        return self._run(str(self.places.bin / "occtl"), *arguments)

    def show(self, *arguments: str) -> None:
        """What it says is for the person."""
        self._run(str(self.places.bin / "occtl"), *arguments, output=None)

    def of(self, environment: Path, *arguments: str) -> Done:
        return self._run(str(environment / "bin" / "python"), "-I", "-m", "ocd.ctl", *arguments)

    def asked(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """(exit code, what it answers with ``--json``)."""
        done = self.run(*arguments, "--json")
        return done.returncode, answer(done)

    def _run(self, *command: str, output: int | None = subprocess.PIPE) -> Done:
        env = self.places.environment()
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )


def answer(done: Done) -> dict[str, Any]:
    """What a command printed as JSON; empty when it did not."""
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def complaint(done: Done) -> str:
    """What occtl said went wrong and why, on one line; what to do next is for us to say here."""
    lines = (done.stderr or b"").decode("utf-8", "replace").splitlines()
    return " ".join(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("next:"))
