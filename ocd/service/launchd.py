"""launchd: a LaunchAgent in ~/Library/LaunchAgents. Never run on a real Mac yet, see docs/macos.md."""

import os
import plistlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ocd import paths
from ocd.errors import EX_UNAVAILABLE, OcdError
from ocd.service.manager import Manager, Result, path_for_service, template

LABEL = "io.github.ocd"
#: errors that launchctl answers for a few seconds after a bootout, which is asynchronous
BUSY = (5, 37)
TRIES = 40

Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def run_launchctl(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """The real launchctl; tests put a recording in its place."""
    try:
        return subprocess.run(
            ["launchctl", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(arguments, 1, "", str(error))


class Launchd(Manager):
    name = "launchd"

    def __init__(self, run: Run = run_launchctl, pause: float = 0.25) -> None:
        self.run = run
        self.pause = pause

    def domain(self) -> str:
        """``gui/UID`` in a graphical session; it does not exist over ssh, where ``user/UID`` does."""
        gui = f"gui/{os.getuid()}"
        return gui if self.run(["print", gui]).returncode == 0 else f"user/{os.getuid()}"

    def available(self) -> str:
        done = self.run(["print", f"user/{os.getuid()}"])
        return "" if done.returncode == 0 else (done.stderr.strip() or "launchctl does not answer")

    def path(self) -> Path:
        return Path(os.path.expanduser("~/Library/LaunchAgents")) / f"{LABEL}.plist"

    def render(self, bin_folder: Path) -> bytes:
        """The plist for this user; values are put in after parsing, so no character needs care."""
        plist = plistlib.loads(template("plists", f"{LABEL}.plist").encode())
        plist["ProgramArguments"] = [str(bin_folder / "ocd")]
        plist["EnvironmentVariables"]["PATH"] = path_for_service(bin_folder)
        if paths.prefix():
            plist["EnvironmentVariables"]["OCD_PREFIX"] = paths.prefix()
        return plistlib.dumps(plist)

    def install(self, bin_folder: Path, *, dry_run: bool = False) -> Result:
        if self.available():
            raise self._missing()
        result = Result()
        data = self.render(bin_folder)
        fresh = not self.path().exists() or self.path().read_bytes() != data
        if fresh:
            result.note(f"write {self.path()}")
        loaded = self._loaded()
        if not loaded or fresh:
            result.note(f"load {LABEL}")
        if dry_run or not result.changed:
            return result
        if loaded:
            # kickstart does not read the plist again.
            self._bootout()
        if fresh:
            self.path().parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path().with_name(f".{LABEL}.{os.getpid()}")
            temporary.write_bytes(data)
            os.replace(temporary, self.path())
        domain = self.domain()
        self.run(["enable", f"{domain}/{LABEL}"])
        self._patiently(["bootstrap", domain, str(self.path())])
        return result

    def uninstall(self, *, dry_run: bool = False) -> Result:
        result = Result()
        if self._loaded():
            result.note(f"unload {LABEL}")
            if not dry_run:
                self._bootout()
        if self.path().exists():
            result.note(f"remove {self.path()}")
            if not dry_run:
                self.path().unlink()
        return result

    def installed(self) -> bool:
        return self.path().exists()

    def state(self) -> str:
        """``running``, ``waiting`` …: the line ``state = …`` of ``launchctl print``."""
        done = self.run(["print", f"{self.domain()}/{LABEL}"])
        if done.returncode:
            return "not loaded" if self.installed() else "not installed"
        return parse_state(done.stdout)

    def _loaded(self) -> bool:
        return self.run(["print", f"{self.domain()}/{LABEL}"]).returncode == 0

    def _bootout(self) -> None:
        self.run(["bootout", f"{self.domain()}/{LABEL}"])
        for _ in range(TRIES):
            if not self._loaded():
                return
            time.sleep(self.pause)

    def _patiently(self, arguments: list[str]) -> None:
        done = self.run(arguments)
        for _ in range(TRIES):
            if done.returncode not in BUSY:
                break
            time.sleep(self.pause)
            done = self.run(arguments)
        if done.returncode:
            raise OcdError(
                f"launchctl {arguments[0]} failed",
                done.stderr.strip() or f"exit status {done.returncode}",
                f"See `launchctl print {self.domain()}/{LABEL}`",
                exit_code=EX_UNAVAILABLE,
                code="service-failed",
            )


def parse_state(text: str) -> str:
    """The service's own state in what ``launchctl print`` says: the line with the least indentation."""
    found = [
        (len(line) - len(line.lstrip()), line.split("=", 1)[1].strip())
        for line in text.splitlines()
        if "state =" in line
    ]
    return min(found)[1] if found else "unknown"
