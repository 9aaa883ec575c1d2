"""Clocks that a test moves for one daemon, and for nobody else on the machine (``clock.c``, preloaded)."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path


class Clock:
    """``wall``: seconds that the wall clock is wrong by; ``slept``: seconds that the machine seems to have slept."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"
        self.library = folder / "clock.so"
        self.slept = 0
        self.path.write_bytes(struct.pack("qq", 0, 0))

    @classmethod
    def install(cls, folder: Path, env: dict[str, str]) -> Clock | None:
        """Have every process that is started with ``env`` use it. None where there is no C compiler, or no preload."""
        compiler = shutil.which("cc")
        if sys.platform != "linux" or compiler is None:
            return None
        clock = cls(folder)
        source = Path(__file__).with_name("clock.c")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(clock.library), str(source), "-ldl"]
        if subprocess.run(command, capture_output=True).returncode != 0:
            return None
        env["LD_PRELOAD"] = str(clock.library)
        env["OCD_TEST_CLOCK"] = str(clock.path)
        return clock

    def move(self, wall: int = 0, slept: int = 0) -> None:
        """Set the wall clock ``wall`` seconds off, and let ``slept`` more seconds of sleep pass."""
        self.slept += slept
        with open(self.path, "r+b") as file:
            file.write(struct.pack("qq", wall, self.slept))
