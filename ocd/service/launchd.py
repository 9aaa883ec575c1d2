"""launchd: a LaunchAgent in ~/Library/LaunchAgents. Never run on a real Mac yet, see docs/macos.md."""

import os
import plistlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ocd import paths
from ocd.errors import EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.keeper.launchd import LABEL as LABEL
from ocd.service.base import Manager, Result, environment, overlooked, replace_file, template

#: errors that launchctl answers for a few seconds after a bootout, which is asynchronous
BUSY = (5, 37)
#: with ``PAUSE`` seconds between them: a bootout lasts as long as the drain
TRIES = 40
PAUSE = 0.25

Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def run_launchctl(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """The real launchctl; tests put a recording in its place."""
    try:
        return subprocess.run(
            ["launchctl", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(arguments, 1, "", str(error))


class Launchd(Manager):
    name = "launchd"

    def __init__(self, run: Run = run_launchctl, pause: Callable[[float], None] = time.sleep) -> None:
        self.run = run
        self.pause = pause

    def domains(self) -> list[str]:
        """Where an agent of this user may be, the preferred one first: ``gui/UID`` does not exist over ssh."""
        uid = os.getuid()
        return [d for d in (f"gui/{uid}", f"user/{uid}") if self.run(["print", d]).returncode == 0]

    def available(self) -> str:
        done = self.run(["print", f"user/{os.getuid()}"])
        return "" if done.returncode == 0 else (done.stderr.strip() or "launchctl does not answer")

    def path(self) -> Path:
        return Path(os.path.expanduser("~/Library/LaunchAgents")) / f"{LABEL}.plist"

    def files(self, bin_folder: Path, *, hardened: bool | None = None) -> dict[Path, bytes]:
        """The plist for this user; values are put in after parsing, so no character needs care."""
        plist = plistlib.loads(template("plists", f"{LABEL}.plist").encode())
        plist["ProgramArguments"] = [str(bin_folder / "ocd")]
        plist["EnvironmentVariables"] = environment(bin_folder)
        plist["Sockets"]["control"]["SockPathName"] = paths.control_socket()
        return {self.path(): plistlib.dumps(plist)}

    def install(self, bin_folder: Path, *, dry_run: bool = False, hardened: bool | None = None) -> Result:
        if self.available():
            raise self._missing()
        if hardened:
            raise OcdError(
                "launchd has no sandbox for an agent",
                "`--hardened` is made of what systemd can forbid a service",
                "Run `occtl service install` without it",
                exit_code=EX_UNAVAILABLE,
                code="hardened-refused",
            )
        self._check_owner()
        result = Result(notices=overlooked())
        [(path, data)] = self.files(bin_folder).items()
        fresh = not path.exists() or path.read_bytes() != data
        if fresh:
            result.note(f"write {path}")
        loaded = self._loaded()
        if not loaded or fresh:
            result.note(f"load {LABEL}")
        if dry_run or not result.changed:
            return result
        if loaded:
            # kickstart does not read the plist again.
            self._bootout(loaded)
        if fresh:
            replace_file(path, data)
        # launchd makes the socket's file, not its folder; nor does it say so.
        folder = os.path.dirname(paths.control_socket())
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.start()
        return result

    def _check_owner(self) -> None:
        other = self._prefix_of_plist()
        if other is not None and other != paths.prefix():
            raise OcdError(
                "Another installation of ocd is the service already",
                f"it lives in {other or 'the ordinary folders'}",
                f"Run `{f'OCD_PREFIX={other} ' if other else ''}occtl service uninstall` first",
                exit_code=EX_TEMPFAIL,
                code="service-taken",
            )

    def _prefix_of_plist(self) -> str | None:
        """The OCD_PREFIX in the installed plist; empty when it has none, None when there is no plist."""
        try:
            plist: dict[str, Any] = plistlib.loads(self.path().read_bytes())
            return str(plist.get("EnvironmentVariables", {}).get("OCD_PREFIX", ""))
        except OSError:
            return None
        except (plistlib.InvalidFileException, ValueError, AttributeError):
            # A broken file is replaced, or removed.
            return paths.prefix()

    def uninstall(self, *, dry_run: bool = False) -> Result:
        result = Result()
        if self._prefix_of_plist() not in (None, paths.prefix()):
            return result
        loaded = self._loaded()
        if loaded:
            result.note(f"unload {LABEL}")
            if not dry_run:
                self._bootout(loaded)
        if self.path().exists():
            result.note(f"remove {self.path()}")
            if not dry_run:
                self.path().unlink()
        return result

    def start(self) -> None:
        """Load the plist, or start what is loaded; a daemon that runs is left alone."""
        loaded = self._loaded()
        if loaded:
            self._patiently(["kickstart", f"{loaded}/{LABEL}"])
            return
        domains = self.domains()
        if not domains:
            raise self._missing()
        self.run(["enable", f"{domains[0]}/{LABEL}"])
        self._patiently(["bootstrap", domains[0], str(self.path())])

    def stop(self) -> None:
        loaded = self._loaded()
        if loaded:
            # SIGTERM alone: exit 0, so KeepAlive leaves it alone and the socket stays.
            self._patiently(["kill", "SIGTERM", f"{loaded}/{LABEL}"])

    def installed(self) -> bool:
        return self._prefix_of_plist() == paths.prefix()

    def state(self) -> str:
        """``running``, ``waiting`` …: the line ``state = …`` of ``launchctl print``."""
        loaded = self._loaded()
        if not loaded:
            return "not loaded" if self.installed() else "not installed"
        return parse_state(self.run(["print", f"{loaded}/{LABEL}"]).stdout)

    def _loaded(self) -> str:
        """The domain in which our agent is loaded, or an empty string: it may have been loaded over ssh."""
        for domain in (f"gui/{os.getuid()}", f"user/{os.getuid()}"):
            if self.run(["print", f"{domain}/{LABEL}"]).returncode == 0:
                return domain
        return ""

    def _bootout(self, domain: str) -> None:
        """Unload, and wait until it is: a bootout returns before the process has ended. Raises OcdError."""
        self.run(["bootout", f"{domain}/{LABEL}"])
        for _ in range(TRIES):
            if self.run(["print", f"{domain}/{LABEL}"]).returncode:
                return
            self.pause(PAUSE)
        raise OcdError(
            "The daemon is still finishing what it is answering",
            f"launchd unloads {LABEL} when it has ended",
            "Try again, or see `occtl status`",
            exit_code=EX_TEMPFAIL,
            code="service-busy",
        )

    def _patiently(self, arguments: list[str]) -> None:
        done = self.run(arguments)
        for _ in range(TRIES):
            if done.returncode not in BUSY:
                break
            self.pause(PAUSE)
            done = self.run(arguments)
        if done.returncode:
            raise OcdError(
                f"launchctl {arguments[0]} failed",
                done.stderr.strip() or f"exit status {done.returncode}",
                f"See `launchctl print gui/{os.getuid()}/{LABEL}`",
                exit_code=EX_UNAVAILABLE,
                code="service-failed",
            )


def parse_state(text: str) -> str:
    """The service's own state in what ``launchctl print`` says: the line with the least indentation."""
    found = [
        (len(line) - len(line.lstrip()), line.split("=", 1)[1].strip())
        for line in text.splitlines()
        if line.strip().startswith("state =")
    ]
    return min(found)[1] if found else "unknown"
