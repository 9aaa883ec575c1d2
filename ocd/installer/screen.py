"""What is shown meanwhile: a line per step; on a terminal the step under way moves."""

import contextlib
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator


class Screen:
    def __init__(self) -> None:
        self.began = time.monotonic()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A folder's name that the terminal cannot show must not end the installation.
                stream.reconfigure(errors="replace")
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        #: what is under way, in the order in which it began, and who shows it
        self._moving: list[Callable[[], str]] = []
        self._ended = threading.Event()
        self._beat: threading.Thread | None = None
        self._lock = threading.RLock()

    def _timed(self, text: str) -> str:
        seconds = time.monotonic() - self.began
        return f"[{seconds:5.1f} s] {text}"

    def say(self, text: str) -> None:
        with self._lock:
            self.clear()
            self.put(self._timed(text))

    def put(self, text: str) -> None:
        """One line, or several, as they are."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # Whoever read us (`| head`) has enough; that is no reason to stop half-way.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def tick(self, text: str) -> None:
        if self.live:
            line = "\r\033[K" + self._timed(text)
            with self._lock:
                print(line[: 3 + shutil.get_terminal_size().columns], end="", flush=True)

    @contextlib.contextmanager
    def moving(self, text: Callable[[], str]) -> Iterator[None]:
        """Seconds count on while the block runs; ``text`` is asked four times a second.

        Blocks of several threads share the line.
        """
        with self._lock:
            self._moving.append(text)
            if self._beat is None:
                self._ended = threading.Event()
                self._beat = threading.Thread(target=self._show, args=(self._ended,), daemon=True)
                self._beat.start()
        try:
            yield
        finally:
            last = None
            with self._lock:
                self._moving.remove(text)
                if not self._moving:
                    last, self._beat = self._beat, None
                    self._ended.set()
            if last is not None:
                last.join()
                self.clear()

    def _show(self, ended: threading.Event) -> None:
        # Not a terminal: a line now and then, so that nobody takes a slow network for a hang.
        while not ended.wait(0.25 if self.live else 10):
            with self._lock:
                texts = [text() for text in self._moving]
            if not texts:
                continue
            if self.live:
                self.tick("; ".join(texts))
            else:
                self.say("  … " + "; ".join(texts))

    def clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", flush=True)


class Steps:
    """The changes of this run. Each is skipped when its result is there; ``changed``: whether any was needed."""

    def __init__(self, screen: Screen, dry_run: bool = False) -> None:
        self.screen = screen
        self.dry_run = dry_run
        self.changed = False

    def take(self, text: str) -> bool:
        """Announce one change; returns False when it is only to be talked about."""
        self.changed = True
        if self.dry_run:
            self.screen.put("would " + text)
        else:
            self.screen.say(text)
        return not self.dry_run
