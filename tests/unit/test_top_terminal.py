"""``occtl top`` in a real terminal of each size: what can be seen there, and that Ctrl-C gives the terminal back."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from ocd.ctl.control_room.view import ControlRoom
from tests.unit.test_top import NOW, Fake, exchange
source = Fake()
source.news.append(exchange(1))
ControlRoom(source, lambda: NOW).run()
"""


class Terminal:
    """A terminal of ``size`` (columns, lines) with a program in it."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.screen = pyte.Screen(*size)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        for name in ("COLUMNS", "LINES", "TEXTUAL"):
            env.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env=env,
            cwd=ROOT,
            start_new_session=True,
        )

    def read(self, seconds: float) -> None:
        if select.select([self.ours], [], [], seconds)[0]:
            data = os.read(self.ours, 65536)
            self.raw += data
            self.stream.feed(data)

    def shows(self, *words: str) -> str:
        """The screen's text once all of ``words`` are on it. Fails after half a minute."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            text = "\n".join(self.screen.display)
            if all(word in text for word in words):
                return text
            self.read(0.2)
        raise AssertionError(f"{words} are not on it:\n{text}")

    def ended(self) -> int:
        end = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.2)
        self.read(0)
        return self.process.wait(1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 50)])
def test_it_fits_and_ctrl_c_gives_the_terminal_back(size: tuple[int, int]) -> None:
    terminal = Terminal(size)
    try:
        text = terminal.shows("main", "bedrock", "ready", "opus")
        widest = max(len(line.rstrip()) for line in text.splitlines())
        assert widest <= size[0] and (size[0] < 200 or widest > 80), text
        os.write(terminal.ours, b"\x03")
        assert terminal.ended() == 0
        assert terminal.raw.count(b"\x1b[?1049h") == terminal.raw.count(b"\x1b[?1049l") == 1
        assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l"), (
            "the cursor is there again"
        )
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    finally:
        terminal.close()
