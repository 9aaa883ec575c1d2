"""systemd's user manager: two units in ~/.config/systemd/user, rendered from units/."""

import fcntl
import os
import subprocess
from pathlib import Path

from ocd import paths
from ocd.errors import EX_UNAVAILABLE, OcdError
from ocd.keeper.folders import state_dir
from ocd.service.manager import Manager, Result, path_for_service, template

UNITS = ("ocd.socket", "ocd.service")
#: seconds; a cold start of LiteLLM is inside the start job
PATIENCE = 200.0


class Systemd(Manager):
    name = "systemd"

    def _call(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                ["systemctl", "--user", *arguments],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            done = subprocess.CompletedProcess([], 1, "", str(error))
        if check and done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]
            raise OcdError(
                f"systemctl --user {' '.join(arguments)} failed",
                last,
                "See `systemctl --user status ocd` and `journalctl --user -u ocd`",
                exit_code=EX_UNAVAILABLE,
                code="service-failed",
            )
        return done

    def available(self) -> str:
        # "running" or "degraded" (some other unit failed) both mean that it takes orders.
        done = self._call("is-system-running")
        if done.stdout.strip() in ("running", "degraded", "starting", "initializing", "maintenance"):
            return ""
        return (done.stderr.strip().splitlines() or ["systemd's user manager does not answer"])[0]

    def folder(self) -> Path:
        base = os.environ.get("XDG_CONFIG_HOME", "")
        root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.config"))
        return root / "systemd" / "user"

    def render(self, name: str, bin_folder: Path) -> str:
        """A unit's text for this user; % is doubled, as unit files want it."""
        environment = []
        if paths.prefix():
            environment.append(f'Environment="OCD_PREFIX={_escape(paths.prefix())}"')
        text = template("units", name)
        text = text.replace("@BIN@", _escape(str(bin_folder))).replace(
            "@PATH@", _escape(path_for_service(bin_folder))
        )
        text = text.replace("@ENVIRONMENT@\n", "".join(line + "\n" for line in environment))
        if paths.prefix():
            text = text.replace("%t/ocd/control.sock", _escape(paths.control_socket()))
        return text

    def install(self, bin_folder: Path, *, dry_run: bool = False) -> Result:
        if self.available():
            raise self._missing()
        result = Result()
        for name in UNITS:
            path, text = self.folder() / name, self.render(name, bin_folder)
            if path.exists() and path.read_text("utf-8", "replace") == text:
                continue
            result.note(f"write {path}")
            if not dry_run:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{name}.{os.getpid()}")
                temporary.write_text(text)
                os.replace(temporary, path)
        if dry_run:
            return result
        if result.changed:
            self._call("daemon-reload", check=True)
        if self._call("is-enabled", *UNITS).stdout.split() != ["enabled", "enabled"]:
            self._call("enable", "--quiet", *UNITS, check=True)
            result.note("enable ocd.socket and ocd.service")
        if self.state() != "active":
            self._stop_detached(bin_folder, result)
            self._call("start", *UNITS, check=True)
            result.note("start ocd.service")
        return result

    def _stop_detached(self, bin_folder: Path, result: Result) -> None:
        """A daemon that was started by hand gives way to the service: one of them at a time."""
        if self._call("is-active", "ocd.socket").stdout.strip() == "active" or not lock_held():
            return
        subprocess.run(
            [str(bin_folder / "occtl"), "stop"], capture_output=True, check=False, timeout=PATIENCE
        )
        result.note("stop the daemon that ran without a service manager")

    def uninstall(self, *, dry_run: bool = False) -> Result:
        result = Result()
        there = [self.folder() / name for name in UNITS if (self.folder() / name).exists()]
        if not there:
            return result
        result.note("stop and disable ocd.service and ocd.socket")
        if not dry_run:
            # Both by name: the socket alone would start the service again with the next connection.
            self._call("disable", "--quiet", "--now", *UNITS)
        for path in there:
            result.note(f"remove {path}")
            if not dry_run:
                path.unlink()
        if not dry_run:
            self._call("daemon-reload")
            self._call("reset-failed", *UNITS)
            for folder in (self.folder(), self.folder().parent):
                try:
                    folder.rmdir()
                except OSError:
                    break
        return result

    def installed(self) -> bool:
        return (self.folder() / "ocd.service").exists()

    def state(self) -> str:
        if not self.installed():
            return "not installed"
        return self._call("is-active", "ocd.service").stdout.strip() or "unknown"


def lock_held() -> bool:
    """Whether a daemon of this user runs, asked without a connection (which could start one)."""
    try:
        with open(os.path.join(state_dir(), "lock"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _escape(text: str) -> str:
    """For a unit file: % starts a specifier there."""
    return text.replace("%", "%%")
