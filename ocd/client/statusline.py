"""``occtl statusline``: one short line for Claude Code's status line, from the file that the supervisor writes.

Claude Code runs it after each message (at most every 300 ms) and waits for its output, so it may cost next to
nothing: no JSON, no socket (a connection would start an activated daemon), no import beyond these. What Claude Code
writes to standard input is not needed and not understood. ``ocd/supervisor/observation/statusfile.py`` writes the file:
a line a fact, its fields separated by tabs.
"""

import os
import sys
import time

from ocd.paths import runtime_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "statusline"
_LARGEST = 65536
#: seconds that a fallback stays in view after it was taken
FALLBACK_SHOWN = 600.0
#: seconds that the user's own command may take
PATIENCE = 2.0
#: what a line is made of, in the order of the default (``[statusline] parts``)
PARTS = ("state", "route", "tokens", "limits", "fallback", "troubles", "cost")
DEFAULT_PARTS = PARTS[:-1]
#: what no choice of parts hides: that exchanges are kept
_ALWAYS = "notice"

_RED, _YELLOW, _DIM, _END = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


def main(wrapped: str = "") -> int:
    """Print the line, behind what the command ``wrapped`` of the user's prints when it is given the same standard
    input. Always ends with 0: Claude Code shows nothing at all after anything else."""
    # It reads our standard input to its end, so first.
    theirs = _theirs(wrapped) if wrapped else ""
    text = line(read(), session(os.environ), time.time())
    if os.environ.get("NO_COLOR"):
        for code in (_RED, _YELLOW, _DIM, _END):
            text = text.replace(code, "")
    if theirs:
        text = f"{theirs} | {text}" if text else theirs
    try:
        os.write(1, text.encode("utf-8", "replace") + b"\n")
        _drain()
    except OSError:
        pass
    return 0


def _theirs(command: str) -> str:
    """What the command prints; empty when it fails or takes longer than PATIENCE."""
    # Only who has a line of their own pays for the import.
    import signal
    import subprocess

    try:
        process = subprocess.Popen(
            command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except (OSError, ValueError):
        return ""
    with process:
        try:
            told = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            # It has not been waited for, so the group is still its own: what it started goes with it.
            os.killpg(process.pid, signal.SIGKILL)
            return ""
    return "" if process.returncode else told[:_LARGEST].decode("utf-8", "replace").rstrip()


def _drain() -> None:
    """Take what is there of our standard input: who still writes to it must not meet a closed pipe."""
    if os.isatty(0):
        return
    os.set_blocking(0, False)
    try:
        for _ in range(64):
            if not os.read(0, 65536):
                break
    finally:
        os.set_blocking(0, True)


def session(environ: "Mapping[str, str]") -> int:
    """The pid of the openclaude session that we run in; 0: in none (``claude`` itself, a shell)."""
    number = environ.get("OCD_SESSION_PID", "")
    return int(number) if number.isdigit() else 0


def read() -> str:
    """What the supervisor wrote; empty when no daemon of this user runs."""
    for folder in runtime_dirs():
        try:
            fd = os.open(f"{folder}/{NAME}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            # In /tmp anybody can make a folder of that name.
            if os.fstat(fd).st_uid == os.getuid():
                text = os.read(fd, _LARGEST).decode("utf-8", "replace")
                if _lives(text):
                    return text
        except OSError:
            pass
        finally:
            os.close(fd)
    return ""


def _lives(text: str) -> bool:
    """Whether the daemon that the file speaks of still runs: one that was killed could not remove it."""
    words = text.partition("\n")[0].split("\t")
    if len(words) < 3 or words[0] != "ocd" or not words[2].isdigit():
        return False
    try:
        os.kill(int(words[2]), 0)
    except (OSError, OverflowError):
        return False
    return True


def line(text: str, pid: int, now: float) -> str:
    """The status line for the session ``pid``, with colours; ``text`` is the file's content."""
    if not text:
        return f"{_RED}ocd: not running{_END}"
    wanted, pieces = _pieces(text, pid, now)
    shown = [piece for part in (*wanted, _ALWAYS) for piece in pieces.get(part, ())]
    return " | ".join(shown) or f"{_DIM}ocd{_END}"


def _pieces(text: str, pid: int, now: float) -> "tuple[list[str], dict[str, list[str]]]":
    """Which parts are wanted, in their order, and what there is to say in each."""
    wanted = list(DEFAULT_PARTS)
    pieces: dict[str, list[str]] = {}
    moved: dict[str, str] = {}

    def say(part: str, piece: str) -> None:
        if piece:
            pieces.setdefault(part, []).append(piece)

    for row in text.split("\n")[1:]:
        what, *fields = row.split("\t")
        if what == "parts":
            wanted = fields
        elif what == "external" and len(fields) >= 1:
            say("state", f"{_DIM}ocd: {fields[0]}{_END}")
        elif what == "proxy" and len(fields) >= 2:
            color = _YELLOW if fields[1] in ("starting", "draining", "stopped", "disabled") else _RED
            say("state", f"{color}{fields[0]} {fields[1]}{_END}")
        elif what == "session" and len(fields) >= 7 and fields[0] == str(pid):
            _pid, slot, upstream, requests, tokens = fields[:5]
            say("route", f"{slot} {_DIM}→ {upstream}{_END}" if upstream else slot)
            if tokens.isdigit() and tokens != "0":
                say("tokens", f"{_DIM}{_count(int(tokens))} tok, {requests} req{_END}")
            if len(fields) >= 8 and fields[7]:
                say("cost", f"{_DIM}AWS ${fields[7]}{_END}")
            _note(moved, fields[5], fields[6])
        elif what == "fallback" and len(fields) >= 2 and not moved:
            # Somebody's fallback: it may cost money, so all may see it.
            _note(moved, fields[0], fields[1])
        elif what in ("limit", _ALWAYS) and len(fields) >= 1:
            color = _YELLOW if len(fields) > 1 and fields[1] == "near" else _DIM
            say("limits" if what == "limit" else _ALWAYS, f"{color}{fields[0]}{_END}")
        elif what in ("trouble", "problem") and len(fields) >= 1 and len(pieces.get("troubles", ())) < 2:
            say("troubles", f"{_RED}{fields[0]}{_END}")
    for text_of, taken in moved.items():
        if _recent(taken, now):
            say("fallback", f"{_YELLOW}fell back: {text_of}{_END}")
    return wanted, pieces


def _note(moved: "dict[str, str]", taken: str, text: str) -> None:
    if text:
        moved[text] = taken


def _recent(taken: str, now: float) -> bool:
    try:
        return now - float(taken) < FALLBACK_SHOWN
    except ValueError:
        return False


def _count(number: int) -> str:
    """``950``, ``12.3k``, ``4.5M``."""
    if number < 1000:
        return str(number)
    value, unit = (number / 1000, "k") if number < 999_950 else (number / 1_000_000, "M")
    return f"{value:.1f}{unit}"


if __name__ == "__main__":
    sys.exit(main())
