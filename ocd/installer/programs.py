"""Programs that do the work, their output in the log, and what their failures mean."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ocd import provision
from ocd.errors import EX_IOERR, EX_UNAVAILABLE
from ocd.installer.failure import Failure
from ocd.installer.places import Places
from ocd.installer.screen import Screen

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


def run(places: Places, screen: Screen, command: list[str], what: str) -> str:
    """Returns the end of a program's output. Raises Failure with its last lines."""
    places.make(places.state, 0o700)
    with places.log.open("ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        places.log.chmod(0o600)
        lines: list[str] = []
        counted = 0
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=places.environment(),
            # Python looks for modules where it is started, and pip and uv for settings.
            cwd=places.state,
        ) as process:
            assert process.stdout is not None
            try:
                with screen.moving(lambda: so_far(what, command, counted)):
                    for raw in process.stdout:
                        log.write(raw)
                        lines = [*lines[-40:], raw.decode("utf-8", "replace").rstrip()]
                        counted += lines[-1].startswith(("Collecting", "Processing"))
            except BaseException:
                process.kill()
                raise
    if process.returncode:
        raise failure(f"{what} failed (exit {process.returncode})", lines, places.log)
    return "\n".join(lines)


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
