"""What the page asks of other programs: figures from usage.db, and verbs of ``occtl`` that look or switch something.

Each runs as a short-lived process, one of a kind at a time: what takes long holds up no other viewer.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ocd import paths
from ocd.adapters import usage_file

#: seconds that a program may take
PATIENCE = 60.0
#: seconds for which an answer of a program that only looks is good for others, too
FRESH = 5.0
LARGEST = 8 * 1024 * 1024
#: name → arguments of ``occtl``
LOOKS = {"doctor": ("doctor", "--json"), "routes": ("models", "--json")}
SWITCHES = {"spill-on": ("spill", "on", "--json"), "spill-off": ("spill", "off", "--json")}
#: what figures can be told apart by
KEYS = ("day", *usage_file.DETAILS)


class Programs:
    """``usage``: the file with the figures."""

    def __init__(self, usage: Path) -> None:
        self.usage = usage
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: dict[str, tuple[float, int, Any]] = {}

    async def figures(self, keys: Sequence[str], since: str) -> tuple[int, Any]:
        """HTTP status and rows of ``usage_file.grouped``."""
        if not keys or not set(keys) <= set(KEYS) or len(since) > 10:
            return 400, {"error": {"what": "there are no such figures"}}
        return await self._run(
            "usage",
            (
                sys.executable,
                "-I",
                "-S",
                usage_file.__file__,
                str(self.usage),
                "grouped",
                ",".join(keys),
                since,
            ),
        )

    async def look(self, name: str) -> tuple[int, Any]:
        """HTTP status and what ``occtl`` says; an answer is kept for some seconds."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            at, status, said = self._known.get(name, (0.0, 0, None))
            if not status or time.monotonic() - at > FRESH:
                status, said = await self._run(name, _occtl(LOOKS[name]))
                self._known[name] = (time.monotonic(), status, said)
            return status, said

    async def switch(self, name: str) -> tuple[int, Any]:
        """HTTP status and what ``occtl`` says of a change."""
        self._known.clear()
        return await self._run(name, _occtl(SWITCHES[name]))

    async def _run(self, name: str, command: Sequence[str]) -> tuple[int, Any]:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=LARGEST,
            )
        except OSError as error:
            return 503, {"error": {"what": f"{name} cannot be run", "why": error.strerror or str(error)}}
        try:
            async with asyncio.timeout(PATIENCE):
                out, _ = await process.communicate()
            said = json.loads(out)
        except TimeoutError:
            return 504, {"error": {"what": f"{name} took longer than {PATIENCE:.0f} s"}}
        except ValueError:
            return 500, {"error": {"what": f"{name} ended with status {process.returncode}"}}
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        failed = isinstance(said, dict) and "error" in said
        return (409 if failed else 200), said


def _occtl(arguments: Sequence[str]) -> tuple[str, ...]:
    return (*paths.program("ocd.ctl"), *arguments)
