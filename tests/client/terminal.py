"""Claude Code in a terminal: a pty whose screen is kept by pyte, as a person would see it."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
import time
from collections.abc import Mapping, Sequence

import psutil
import pyte

from tests.client.box import Box
from tests.helpers.daemon import SLOW

ENTER, ESCAPE, UP, DOWN = "\r", "\x1b", "\x1b[A", "\x1b[B"


class Terminal:
    """``with Terminal(box, ["openclaude"]) as t``: the program runs until the end of the block.

    ``screen()`` is what stands there now, ``everything`` all text that the program wrote, controls included.
    """

    def __init__(
        self,
        box: Box,
        command: Sequence[str],
        env: Mapping[str, str | None] | None = None,
        columns: int = 140,
        rows: int = 50,
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)
        self._lock = threading.Lock()
        self.everything = ""
        environment = box.environment(TERM="xterm-256color", **(env or {}))
        program = str(box.bin / command[0])
        pid, descriptor = pty.fork()
        if pid == 0:
            os.chdir(box.work)
            os.execve(program, [program, *command[1:]], environment)
        self.pid, self._descriptor = pid, descriptor
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:
                return
            if not data:
                return
            # What a real terminal answers when it is asked what it is and where the cursor stands.
            if b"\x1b[c" in data or b"\x1b[0c" in data:
                self.send("\x1b[?62;22c")
            if b"\x1b[6n" in data:
                self.send("\x1b[1;1R")
            text = decoder.decode(data)
            with self._lock, contextlib.suppress(Exception):
                self.everything += text
                # pyte knows no private forms of SGR and the like: what it trips over is not what is looked for.
                self._stream.feed(text)

    def screen(self) -> str:
        """The lines that are not empty."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display if line.strip())

    def wait(self, pattern: str, timeout: float = 20.0) -> str:
        """The screen as soon as the regular expression is on it. Raises AssertionError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout * SLOW
        while time.monotonic() < deadline:
            screen = self.screen()
            if re.search(pattern, screen):
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} was not on the screen within {timeout} s:\n{self.screen()}")

    def shows(self, pattern: str, timeout: float = 10.0) -> bool:
        with contextlib.suppress(AssertionError):
            self.wait(pattern, timeout)
            return True
        return False

    def send(self, keys: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, keys.encode())

    def type(self, line: str) -> None:
        """A line and Enter; Enter only when the line is on the screen, else it is taken for a paste."""
        self.send(line)
        with contextlib.suppress(AssertionError):
            self.wait(re.escape(line[:40]), 5)
        time.sleep(0.2)
        self.send(ENTER)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_error: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            with contextlib.suppress(psutil.Error):
                psutil.Process(self.pid).wait(3)
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    break
        os.close(self._descriptor)
        self._reader.join(5)
