"""Desktop notifications, where they are wanted: ``notify-send`` (Linux) or ``osascript`` (macOS), in a short process.

Nothing waits for it and nothing depends on it. What it shows is an event's text, which is masked before it gets here.
"""

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Collection

#: seconds in which the same kind of event of the same proxy is shown once
PAUSE = 60.0
#: notifications in a minute, of whatever kind
MOST = 5
#: seconds that the program may take
PATIENCE = 5.0
LONGEST = 300

#: AppleScript that takes its texts as arguments: nothing in them can be script (osascript(1))
_SCRIPT = (
    "on run argv",
    "display notification (item 2 of argv) with title (item 1 of argv)",
    "end run",
)


def command(title: str, text: str, platform: str = sys.platform) -> list[str] | None:
    """The command that shows it, or None where there is no program for it."""
    name = "osascript" if platform == "darwin" else "notify-send"
    program = shutil.which(name)
    if program is None:
        return None
    if platform == "darwin":
        return [program, *(word for line in _SCRIPT for word in ("-e", line)), title, text]
    # A server may take the body for markup (Desktop Notifications Specification, Markup).
    body = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return [program, "--app-name=ocd", "--", title, body]


class Desktop:
    """``trouble`` is told once why nothing can be shown."""

    def __init__(self, trouble: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.trouble = trouble
        self.clock = clock
        self.last: dict[tuple[str, str], float] = {}
        self.shown: list[float] = []
        self.work: set[asyncio.Task[None]] = set()
        self.told = False

    def due(self, kind: str, proxy: str) -> bool:
        """Whether this one is to be shown now; it counts as shown then."""
        now = self.clock()
        self.shown = [moment for moment in self.shown if now - moment < 60]
        if now - self.last.get((kind, proxy), -PAUSE) < PAUSE or len(self.shown) >= MOST:
            return False
        if len(self.last) > 200:
            self.last.clear()
        self.last[kind, proxy] = now
        self.shown.append(now)
        return True

    def take(self, wanted: Collection[str], kind: str, proxy: str, text: str) -> None:
        """Show an event if its kind is wanted. Returns at once and never raises."""
        if kind not in wanted or not self.due(kind, proxy):
            return
        with contextlib.suppress(RuntimeError):  # no loop: the daemon is starting or ending
            task = asyncio.get_running_loop().create_task(self._show(kind, proxy, text))
            self.work.add(task)
            task.add_done_callback(self.work.discard)

    async def _show(self, kind: str, proxy: str, text: str) -> None:
        title = f"ocd: {proxy} {kind}" if proxy else f"ocd: {kind}"
        argv = command(title, "".join(c if c.isprintable() else " " for c in text[:LONGEST]) or kind)
        if argv is None:
            return self._cannot("there is no notify-send (or osascript) on the PATH")
        null = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null, stderr=null)
        except OSError as error:
            return self._cannot(str(error))
        try:
            code = await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return self._cannot(f"{argv[0]} did not end within {PATIENCE:g} s")
        if code:
            self._cannot(f"{argv[0]} ended with {code}; is there a desktop session?")

    def _cannot(self, why: str) -> None:
        if not self.told:
            self.told = True
            self.trouble(why)
