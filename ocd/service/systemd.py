"""systemd's user manager: two units in ~/.config/systemd/user, rendered from units/."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from ocd import paths
from ocd.errors import EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.keeper.folders import state_dir
from ocd.keeper.lock import held
from ocd.service.base import Manager, Result, environment, overlooked, replace_file, template
from ocd.settings.folders import Folders

UNITS = ("ocd.socket", "ocd.service")
#: the drop-in of ``--hardened``, below the folder of the units
HARDENED = "ocd.service.d/hardened.conf"
#: what it sets that a machine may not grant; the folders are none of that
_NOT_TRIED = "ReadWritePaths"
#: seconds; a cold start of LiteLLM is inside the start job, and a whole drain inside the stop job
PATIENCE = 200.0
STOP_PATIENCE = 3700.0
#: the first version that knows RestartSteps and RestartMaxDelaySec (systemd's NEWS)
HAS_RESTART_STEPS = 254

Completed = subprocess.CompletedProcess[str]
Run = Callable[[list[str], float], Completed]


def run_command(command: list[str], seconds: float) -> Completed:
    """The real command; tests put a recording in its place."""
    environ = dict(os.environ)
    runtime = f"/run/user/{os.getuid()}"
    if not environ.get("XDG_RUNTIME_DIR") and os.path.exists(f"{runtime}/systemd/private"):
        # cron, sudo, ssh without PAM: the manager runs, the shell does not know where.
        environ["XDG_RUNTIME_DIR"] = runtime
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
            env=environ,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


class Systemd(Manager):
    name = "systemd"

    def __init__(self, run: Run = run_command) -> None:
        self.run = run

    def _call(self, *arguments: str, check: bool = False, seconds: float = PATIENCE) -> Completed:
        done = self.run(["systemctl", "--user", *arguments], seconds)
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

    def version(self) -> int:
        """The manager's own version; 0 when it does not say."""
        found = re.match(r"\s*(\d+)", self._call("show", "--property=Version", "--value").stdout)
        return int(found[1]) if found else 0

    def files(self, bin_folder: Path, *, hardened: bool | None = None) -> dict[Path, bytes]:
        version, control = self.version(), unusual_socket()
        variables = environment(bin_folder)
        texts = {
            name: render(template("units", name), bin_folder, variables, version, control) for name in UNITS
        }
        if self.hardened() if hardened is None else hardened:
            texts[HARDENED] = render_hardened(template("units", "hardened.conf"), Folders.find())
        return {self.folder() / name: text.encode() for name, text in texts.items()}

    def hardened(self) -> bool:
        return (self.folder() / HARDENED).is_file()

    def install(self, bin_folder: Path, *, dry_run: bool = False, hardened: bool | None = None) -> Result:
        if self.available():
            raise self._missing()
        self._check_owner()
        result = Result(notices=overlooked())
        before = self.hardened()
        files = self.files(bin_folder, hardened=hardened)
        if hardened and not before:
            self._try_hardened(files[self.folder() / HARDENED].decode())
        for path, data in files.items():
            if path.exists() and path.read_bytes() == data:
                continue
            result.note(f"write {path}")
            if not dry_run:
                replace_file(path, data)
        if before and hardened is False:
            result.note(f"remove {self.folder() / HARDENED}")
            if not dry_run:
                self._remove_hardened()
        active = self.state() == "active"
        if active and result.changed:
            result.notices.append("What runs keeps its old unit until `systemctl --user restart ocd`")
        if self.lingers() is False and os.environ.get("SSH_CONNECTION"):
            result.notices.append("It ends with your last session; `loginctl enable-linger` keeps it running")
        if result.changed and not dry_run:
            self._call("daemon-reload", check=True)
        if self._call("is-enabled", *UNITS).stdout.split() != ["enabled", "enabled"]:
            result.note("enable ocd.socket and ocd.service")
            if not dry_run:
                self._call("enable", "--quiet", *UNITS, check=True)
        if not active:
            if not dry_run:
                self._stop_detached(bin_folder, result)
                try:
                    self.start()
                except OcdError:
                    if hardened and not before:
                        # The next start must not fail for it as well.
                        self._remove_hardened()
                        self._call("daemon-reload")
                    raise
            result.note("start ocd.service")
        return result

    def _check_owner(self) -> None:
        """There is one service of this name: it is not taken from another installation. Raises OcdError."""
        other = self._prefix_of_unit()
        if other is not None and other != paths.prefix():
            where = other or "the user's ordinary folders"
            raise OcdError(
                "Another installation of ocd is the service already",
                f"it lives in {where}",
                f"Run `{f'OCD_PREFIX={other} ' if other else ''}occtl service uninstall` first",
                exit_code=EX_TEMPFAIL,
                code="service-taken",
            )

    def _try_hardened(self, text: str) -> None:
        """Run a program that does nothing under these directives: what a machine does not grant ends the start of a
        service. Raises OcdError."""
        options = [
            f"--property={line}"
            for line in text.splitlines()
            if "=" in line and not line.startswith(("#", _NOT_TRIED))
        ]
        done = self.run(
            ["systemd-run", "--user", "--wait", "--collect", "--quiet", *options, "--", "true"], PATIENCE
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise OcdError(
                "This machine does not grant the hardened sandbox",
                f"a program that does nothing did not start under it: {last}",
                "Where the kernel shuts unprivileged user namespaces, leave `--hardened` out; nothing was changed",
                exit_code=EX_UNAVAILABLE,
                code="hardened-refused",
            )

    def _remove_hardened(self) -> None:
        path = self.folder() / HARDENED
        path.unlink(missing_ok=True)
        _remove_empty(path.parent)

    def _prefix_of_unit(self) -> str | None:
        """The OCD_PREFIX in the installed unit; empty when it has none, None when there is no unit."""
        try:
            text = (self.folder() / "ocd.service").read_text("utf-8", "replace")
        except OSError:
            return None
        found = re.search(r'^Environment="OCD_PREFIX=(.*)"$', text, re.MULTILINE)
        return re.sub(r"\\(.)|%%", lambda m: m[1] or "%", found[1]) if found else ""

    def _stop_detached(self, bin_folder: Path, result: Result) -> None:
        """A daemon that was started by hand gives way to the service: one of them at a time."""
        if self._call("is-active", "ocd.socket").stdout.strip() == "active" or not held(
            os.path.join(state_dir(), "lock")
        ):
            return
        done = self.run([str(bin_folder / "occtl"), "stop"], STOP_PATIENCE)
        if done.returncode:
            raise OcdError(
                "The daemon that runs without a service manager does not stop",
                (done.stderr.strip().splitlines() or [f"occtl stop ended with {done.returncode}"])[0],
                "Run `occtl stop`, then this again",
                exit_code=EX_TEMPFAIL,
                code="detached-daemon",
            )
        result.note("stop the daemon that ran without a service manager")

    def uninstall(self, *, dry_run: bool = False) -> Result:
        result = Result()
        there = self._ours()
        if not there:
            return result
        result.note("stop and disable ocd.service and ocd.socket")
        if not dry_run:
            # Both by name: the socket alone would start the service again with the next connection.
            self._call("disable", "--quiet", "--now", *UNITS, seconds=STOP_PATIENCE)
        for path in there:
            # What a manager that does not answer has left of the enabling goes too.
            if path.is_symlink() and not dry_run:
                path.unlink()
                _remove_empty(path.parent)
            elif not path.is_symlink():
                result.note(f"remove {path}")
                if not dry_run:
                    path.unlink(missing_ok=True)
        if not dry_run:
            _remove_empty((self.folder() / HARDENED).parent)
            self._call("daemon-reload")
            self._call("reset-failed", *UNITS)
            _remove_empty(self.folder(), self.folder().parent)
        return result

    def _ours(self) -> list[Path]:
        """Our units, and the links that enable them; nothing when they are another installation's."""
        if self._prefix_of_unit() not in (None, paths.prefix()):
            return []
        wants = (("default.target.wants", "ocd.service"), ("sockets.target.wants", "ocd.socket"))
        candidates = [self.folder() / name for name in (*UNITS, HARDENED)]
        candidates += [self.folder() / target / name for target, name in wants]
        return [path for path in candidates if path.exists() or path.is_symlink()]

    def start(self) -> None:
        self._call("start", *UNITS, check=True)

    def stop(self) -> None:
        self._call("stop", *UNITS, check=True, seconds=STOP_PATIENCE)

    def installed(self) -> bool:
        return self._prefix_of_unit() == paths.prefix()

    def state(self) -> str:
        if not self.installed():
            return "not installed"
        return self._call("is-active", "ocd.service").stdout.strip() or "unknown"

    def lingers(self) -> bool | None:
        done = self.run(["loginctl", "show-user", "--property=Linger", "--value", str(os.getuid())], 10.0)
        return {"yes": True, "no": False}.get(done.stdout.strip())


def render(
    template_text: str, bin_folder: Path, variables: Mapping[str, str], version: int, control: str = ""
) -> str:
    """A unit's text for this user.

    ``version``: of the manager that will read it, 0 when not known; ``control``: the control socket's path where it
    is not the template's own. Raises OcdError when systemd would not run a program in ``bin_folder``.
    """
    named = dict(variables)
    path = _assignment("PATH", named.pop("PATH"))
    others = "".join(f"Environment={_assignment(name, value)}\n" for name, value in named.items())
    backoff = "RestartSec=1s"
    if version >= HAS_RESTART_STEPS:
        # At once the first time, then slower and slower: a program that cannot start is no reason to heat the room.
        backoff = "RestartSec=200ms\nRestartSteps=8\nRestartMaxDelaySec=30s"
    filled = {"@PATH@": path, "@ENVIRONMENT@\n": others, "@BACKOFF@": backoff}
    if set(str(bin_folder)) & set("\"'\\"):
        raise OcdError(
            f"systemd runs no program in {bin_folder}",
            "it refuses quotes and backslashes in a program's path",
            "Install with --prefix elsewhere, or use `occtl start`",
            exit_code=EX_UNAVAILABLE,
            code="service-path",
        )
    for command in ("ocd", "occtl"):
        filled[f"@BIN@/{command}"] = _quoted(str(bin_folder / command))
    if control:
        # No quotes: the rest of the line is the path.
        filled["%t/ocd/control.sock"] = _percent(control)
    return "".join(_filled(line, filled) for line in template_text.splitlines(keepends=True))


def render_hardened(template_text: str, folders: Folders) -> str:
    """The drop-in of ``--hardened``, with the folders of ocd's that are neither in the home folder nor in /tmp."""
    home = os.path.expanduser("~")
    usual = (home + os.sep, "/tmp/", os.path.join(os.environ.get("XDG_RUNTIME_DIR") or home, ""))
    ours = (folders.config, folders.data, folders.state, folders.runtime)
    others = sorted({str(folder) for folder in ours if not f"{folder}/".startswith(usual)})
    # With a dash: one that is not there (yet) is no reason not to start.
    lines = "".join(f"ReadWritePaths={_quoted(f'-{folder}')}\n" for folder in others)
    return template_text.replace("@FOLDERS@\n", lines)


def _filled(line: str, values: Mapping[str, str]) -> str:
    """A line with its placeholders filled in, each once; a comment stays one line whatever it speaks of."""
    if line.lstrip().startswith(("#", ";")):
        return line
    names = "|".join(re.escape(name) for name in sorted(values, key=len, reverse=True))
    return re.sub(names, lambda found: values[found[0]], line)


def unusual_socket() -> str:
    """The control socket's path where it is not in the manager's runtime folder (%t), else an empty string."""
    found, runtime = paths.control_socket(), os.environ.get("XDG_RUNTIME_DIR", "")
    if paths.prefix() or os.environ.get("OCD_RUNTIME_DIR"):
        return found
    return found if runtime and found != f"{runtime}/ocd/control.sock" else ""


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _percent(text: str) -> str:
    """For a unit file: % starts a specifier there."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a unit file, whatever is in it (systemd.syntax(7), "Quoting")."""
    return '"' + _percent(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _assignment(name: str, value: str) -> str:
    return _quoted(f"{name}={value}")
