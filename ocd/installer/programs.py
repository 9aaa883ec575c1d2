"""Programs that do the work, their output in the log, and what their failures mean."""

import concurrent.futures
import contextlib
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ocd import provision
from ocd.errors import EX_IOERR, EX_UNAVAILABLE
from ocd.installer.failure import Failure
from ocd.installer.places import Places
from ocd.installer.screen import Screen

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

_VENV = "Install the system's package python3-venv (Debian, Ubuntu: sudo apt install python3-venv)"
NO_VENV = f"{_VENV}, then run this again"
#: what pip, uv and the system say where no packet gets through
_NO_NETWORK = re.compile(
    r"name resolution|after connection broken|Name or service not known"
    r"|nodename nor servname|dns error|failed to lookup address"
    r"|Network is unreachable|No route to host|Connection refused|[Cc]onnect(ion)? timed out|tcp connect error"
)
_NO_PACKAGE = re.compile(
    r"Could not fetch|(?i:connection)|No matching distribution|Failed to fetch"
    r"|not found in the provided package locations"
)


class Programs:
    """Runs programs, several at once if need be; ``end`` ends those that run."""

    def __init__(self, places: Places, screen: Screen) -> None:
        self.places = places
        self.screen = screen
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def run(self, command: list[str], what: str) -> str:
        """Returns the end of a program's output. Raises Failure with its last lines."""
        self.places.make(self.places.state, 0o700)
        lines: list[str] = []
        counted, began = 0, time.monotonic()
        with self._log() as log, self._start(command, what) as process:
            assert process.stdout is not None
            log.write(f"\n$ {' '.join(command)}\n".encode())
            try:
                with self.screen.moving(lambda: so_far(what, command, counted)):
                    for raw in process.stdout:
                        log.write(raw)
                        lines = [*lines[-40:], raw.decode("utf-8", "replace").rstrip()]
                        counted += lines[-1].startswith(("Collecting", "Processing"))
            except BaseException:
                process.kill()
                raise
            finally:
                self._running.discard(process)
            took = time.monotonic() - began
            log.write(f"({took:.1f} s)\n".encode())
        if process.returncode:
            raise failure(f"{what} failed (exit {process.returncode})", lines, self.places.log)
        return "\n".join(lines)

    def _start(self, command: list[str], what: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise Failure(f"{what} was given up", "another step failed")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.places.environment(),
                # Python looks for modules where it is started, and pip and uv for settings.
                cwd=self.places.state,
            )
            self._running.add(process)
            return process

    @contextlib.contextmanager
    def _log(self) -> Iterator[io.BytesIO]:
        """What is written to it comes into the log in one piece, at the end, whatever that is."""
        piece = io.BytesIO()
        try:
            yield piece
        finally:
            with self._lock, self.places.log.open("ab") as log:
                self.places.log.chmod(0o600)
                log.write(piece.getvalue())

    def end(self) -> None:
        """Kill what runs; nothing is started from now on."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()

    def both(self, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        """Two pieces of work at once, ``second`` in this thread; when one fails the other's programs are ended.

        Returns both results. Raises what the one that failed first has raised.
        """
        reasons: list[BaseException] = []

        def or_end(work: Callable[[], C]) -> C:
            try:
                return work()
            except BaseException as error:
                # What fails after this is a consequence of it.
                reasons.append(error)
                self.end()
                raise

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            beside = pool.submit(or_end, first)
            try:
                here = or_end(second)
                return or_end(beside.result), here
            except BaseException:
                # The other one needs a moment to take away what it has half made.
                concurrent.futures.wait([beside])
                raise reasons[0] from None


def so_far(what: str, command: list[str], counted: int) -> str:
    """The step, with how many of the lock's packages it has come to (pip says so; uv takes seconds in all)."""
    total = provision.packages(Path(command[-1]).read_text()) if command[-2:-1] == ["-r"] else 0
    if not total:
        return what
    return f"{what} ({counted} of {total} packages)" if counted else f"{what} ({total} packages)"


def failure(what: str, lines: list[str], log: Path) -> Failure:
    """What a failed program's last lines mean; its whole output is in ``log``."""
    said = " ".join(line.strip() for line in lines)
    # A lock that has no wheel for this system: no network helps.
    found = re.search(r"(\S+?)(?:\{[^}]*\})?==\S+ has no (?:usable )?wheels", said) or re.search(
        r"satisfies the requirement ([^=\s]+)==\S+ \(from versions: (?!none)", said
    )
    if found:
        version = "{}.{}".format(*sys.version_info[:2])
        return Failure(
            "ocd cannot be installed with this Python on this system",
            f"there is no wheel of {found[1]} for Python {version} on {sys.platform} {os.uname().machine}",
            "Try another Python (3.11 to 3.14), or --litellm-python with an environment of your own",
            EX_UNAVAILABLE,
        )
    useful = [line for line in lines if line.strip() and not line.startswith(("WARNING", "[notice]"))]
    errors = [line for line in useful if line.startswith("ERROR")]
    output = "\n".join(lines)
    exit_code = EX_IOERR if "No space left" in output else EX_UNAVAILABLE
    return Failure(what, " | ".join(errors[-2:] or useful[-3:])[-500:], advice(output, log), exit_code)


def advice(output: str, log: Path) -> str:
    """What to do after a program said this and failed."""
    kept = "what was installed before still works"
    whole = f"The whole output is in {log}"
    if "ensurepip" in output or "No module named venv" in output:
        return NO_VENV
    if "No space left" in output:
        return f"Free some disk space, then run this again; {kept}"
    if _NO_NETWORK.search(output):
        way = "There is no way to the package index: check the network, and HTTPS_PROXY if you need one"
        return f"{way}, or use --wheels DIR; {kept}. {whole}"
    if _NO_PACKAGE.search(output):
        cause = "A Python for which there are no packages yet is another cause: try python3.12 install.py"
        return f"Check the network, or use --wheels DIR; {kept}. {cause}. {whole}"
    return whole
