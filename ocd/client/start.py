"""Start the daemon: through the service manager where it knows ours, else detached.

Used by openclaude (which shows progress meanwhile) and by ``occtl start``. Many may try at the same time:
one takes the lock beside the control socket and starts, the others wait for the socket. A daemon that finds
another one running ends with exit code 75, which is no failure here.
"""

import fcntl
import os
import select
import subprocess
import sys
import time

from ocd.client.asking import connect
from ocd.errors import EX_CANTCREAT, EX_NOPERM, EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.paths import program, runtime_dir

UNIT = "ocd.service"
LABEL = "io.github.ocd"

#: A daemon started from a shell must be no different from one started at login, and its processes hold no
#: credential that they are not meant to hold.
_NOT_PASSED = (
    "ANTHROPIC_",
    "CLAUDE",
    "AWS_ACCESS_KEY",
    "AWS_SECRET",
    "AWS_SESSION_TOKEN",
    "AWS_BEARER",
    "OCD_SESSION",
)
_LOG_TAIL = 2000


class Starting:
    """One effort to bring the daemon up. ``poll`` while there is no socket, ``close`` in every case."""

    def __init__(self) -> None:
        self._lock = -1
        self._watcher: _Watched | None = None
        self._service: list[str] = []
        self._next_try = 0.0
        self._tries = 0

    def poll(self) -> None:
        """Do what there is to do now; never blocks for long. Raises OcdError when starting failed."""
        if self._watcher is not None:
            code = self._watcher.ended()
            if code is None:
                return
            self._watcher.close()
            self._watcher = None
            if code not in (0, EX_TEMPFAIL) or self._tries >= 20:
                raise _failed(code)
            self._next_try = time.monotonic() + 0.5
        if time.monotonic() < self._next_try:
            return
        if self._service:
            self._check_service()
            return
        if not self._take_lock():
            self._next_try = time.monotonic() + 0.1
            return
        if _listens():  # the one who had the lock before us has done it
            return
        self._tries += 1
        self._service = _service_commands()
        if self._service:
            _run(self._service, "The service manager could not start ocd")
            self._next_try = time.monotonic() + 1
        else:
            self._watcher = _Watched(_command())

    def close(self) -> None:
        """Let go of the lock and of the process that watches; the daemon itself goes on."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> bool:
        if self._lock >= 0:
            return True
        folder = private_runtime_dir()
        lock = os.open(os.path.join(folder, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _check_service(self) -> None:
        self._next_try = time.monotonic() + 1
        if sys.platform != "darwin" and _succeeds(["systemctl", "--user", "is-failed", "--quiet", UNIT]):
            raise OcdError(
                "The service ocd failed to start",
                "systemd gave up on it",
                f"Run: systemctl --user status {UNIT}",
                exit_code=EX_UNAVAILABLE,
                code="service-failed",
            )


def start_daemon(timeout: float = 30.0) -> None:
    """Start the daemon and return as soon as its control socket accepts; at once when it already does.

    ``timeout`` in seconds. Raises OcdError: exit 69 when it does not come up, 77 when the runtime folder is
    not ours.
    """
    deadline = time.monotonic() + timeout
    starting = Starting()
    try:
        while True:
            if _listens():
                return
            starting.poll()
            if time.monotonic() >= deadline:
                raise OcdError(
                    f"The daemon does not answer after {timeout:g} seconds",
                    _tail(),
                    "Run: ocd",
                    exit_code=EX_UNAVAILABLE,
                    code="start-timeout",
                )
            time.sleep(0.05)
    finally:
        starting.close()


def _listens() -> bool:
    try:
        connection = connect(1.0)
    except OSError:
        return False
    if connection is None:
        return False
    connection.close()
    return True


def private_runtime_dir() -> str:
    """The runtime folder, made if need be (0700). Raises OcdError (exit 77, 73) when it cannot be ours."""
    folder = runtime_dir()
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as error:
        raise OcdError(
            f"The runtime folder {folder} cannot be made",
            error.strerror or "",
            "Set XDG_RUNTIME_DIR",
            exit_code=EX_CANTCREAT,
            code="runtime-folder",
        ) from None
    if found.st_uid != os.getuid():
        raise OcdError(
            f"The runtime folder {folder} belongs to another user",
            "",
            "Remove it, or set XDG_RUNTIME_DIR",
            exit_code=EX_NOPERM,
            code="foreign-runtime-folder",
        )
    return folder


# ---- the service manager


def _service_commands() -> list[str]:
    """The command that makes the service manager start ours; empty when it does not know it."""
    # A stack of its own (tests, --prefix, the self-test) is never the user's service.
    if os.environ.get("OCD_PREFIX") or os.environ.get("OCD_RUNTIME_DIR"):
        return []
    if sys.platform == "darwin":
        # `gui` does not exist over SSH.
        for domain in (f"gui/{os.getuid()}", f"user/{os.getuid()}"):
            if _succeeds(["launchctl", "print", f"{domain}/{LABEL}"]):
                return ["launchctl", "kickstart", f"{domain}/{LABEL}"]
        return []
    if _succeeds(["systemctl", "--user", "cat", UNIT]):
        return ["systemctl", "--user", "--no-block", "start", UNIT]
    return []


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OcdError(
            what, type(error).__name__, "Run: ocd", exit_code=EX_UNAVAILABLE, code="service"
        ) from None
    if done.returncode:
        why = done.stderr.decode("utf-8", "replace").strip().replace("\n", " ")
        raise OcdError(what, why, f"Run: {' '.join(command)}", exit_code=EX_UNAVAILABLE, code="service")


# ---- detached


def _command() -> tuple[list[str], dict[str, str]]:
    """The daemon's command line and environment: the ``ocd`` beside openclaude, else ``python -m ocd``."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED)}
    environ["OCD_DETACHED"] = "1"
    # Under `python -c` there is no such folder, and the current one is not to be trusted.
    if os.sep in sys.argv[0]:
        for own in (os.path.abspath(sys.argv[0]), os.path.realpath(sys.argv[0])):
            beside = os.path.join(os.path.dirname(own), "ocd")
            if os.path.isfile(beside) and os.access(beside, os.X_OK):
                return [beside], environ
    return program("ocd"), environ


class _Watched:
    """The daemon and, for as long as we wait for it, a process between us that tells how it ended.

    Without that process the daemon would be a child of the Claude Code that we are about to become.
    """

    def __init__(self, what: tuple[list[str], dict[str, str]]) -> None:
        command, environ = what
        log = os.open(_log_path(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        hold, self._hold = os.pipe()
        self._news, news = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._hold)
                os.close(self._news)
                _watch(command, environ, log, hold, news)
            finally:
                os._exit(0)
        for descriptor in (log, hold, news):
            os.close(descriptor)
        os.set_blocking(self._news, False)

    def ended(self) -> int | None:
        """The daemon's exit code, None while it runs."""
        try:
            told = os.read(self._news, 16)
        except BlockingIOError:
            return None
        return int(told) if told else EX_TEMPFAIL

    def close(self) -> None:
        """End the process between; the daemon is then nobody's child but init's."""
        os.close(self._hold)
        os.close(self._news)
        os.waitpid(self._pid, 0)


def _watch(command: list[str], environ: dict[str, str], log: int, hold: int, news: int) -> None:
    os.setsid()  # Ctrl-C in the terminal is not for us
    try:
        daemon = subprocess.Popen(
            command,
            env=environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        os.write(log, f"{command[0]}: {error.strerror}\n".encode())
        os.write(news, b"71")
        return
    while not select.select([hold], [], [], 0.05)[0]:
        code = daemon.poll()
        if code is not None:
            os.write(news, str(code if code >= 0 else 128 - code).encode())
            return


def _log_path() -> str:
    return os.path.join(private_runtime_dir(), "start.log")


def _tail() -> str:
    try:
        with open(_log_path(), "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except (OSError, OcdError):
        return ""
    return lines[-1].strip() if lines else ""


def _failed(code: int) -> OcdError:
    return OcdError(
        "The daemon could not be started",
        _tail() or f"it ended with exit code {code}",
        "Run ocd in a terminal to see more",
        exit_code=code if 64 <= code <= 78 else EX_UNAVAILABLE,
        code="start-failed",
    )
