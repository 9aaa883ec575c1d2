"""Finds the sessions that Claude Code itself started with an overlay of ours.

Claude Code notes each of its processes in ``sessions/PID.json`` of its folder (2.1.197 and 2.1.332), with the
session's id and folder: that joins what main sees (``x-claude-code-session-id``) with a process, and shows
background sessions, whose processes are not ours.
"""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ocd.claude import configure, lasting, living
from ocd.errors import OcdError
from ocd.supervisor.observation.exchanges import Exchanges
from ocd.supervisor.observation.overlays import Overlays
from ocd.supervisor.observation.sessions import Sessions

#: seconds between two looks at Claude Code's notes of its processes
LOOK = 3.0
#: seconds between two looks for overlays that nobody needs any more
PRUNE = 3600.0
#: files that are looked at in one folder of Claude Code's
MOST = 500


class SessionFinder:
    """``state`` is the state folder, ``port`` main's port now; ``changed`` is called when a successor must know,
    ``hold_ports`` when sessions were found."""

    def __init__(
        self,
        state: Path,
        overlays: Overlays,
        sessions: Sessions,
        exchanges: Exchanges,
        port: Callable[[], int],
        changed: Callable[[], None],
        hold_ports: Callable[[], None],
        log: Any,
    ) -> None:
        self._overlays = overlays
        self._sessions = sessions
        self._exchanges = exchanges
        self._port = port
        self._changed = changed
        self._hold_ports = hold_ports
        self._log = log
        self._state = state
        self._kept_in = state / "sessions.json"
        self._lost = False
        #: note → (when it was changed, what was in it)
        self._notes: dict[Path, tuple[int, dict[str, Any]]] = {}
        #: (pid, when it began) → whether it runs on one of our overlays
        self._ours: dict[tuple[int, float], bool] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._overlays.remove_former()
        prune_at = loop.time() + 60
        while True:
            await self._overlays.follow()
            await self.find()
            self.keep()
            if loop.time() >= prune_at:
                prune_at = loop.time() + PRUNE
                removed = await asyncio.to_thread(self._overlays.prune)
                if removed:
                    self._log.info("overlays that nobody uses are gone", count=len(removed))
            await asyncio.sleep(LOOK)

    def restore(self, notes: dict[str, Any]) -> None:
        """Who lived under a former supervisor, or else under a former daemon."""
        if notes:
            self._sessions.restore(notes.get("sessions", []))
        else:
            self._exchanges.restore({"sessions": self._sessions.find_again(self._kept_in)})

    def keep(self) -> None:
        """Write down who lives, for a daemon after this one."""
        figures = self._exchanges.notes()["sessions"]
        try:
            self._sessions.keep(self._kept_in, figures)
            self._lost = False
        except OSError as error:
            if not self._lost:
                self._log.warning("the living sessions could not be noted", error=error.strerror)
            self._lost = True

    async def anybody(self) -> bool:
        """Whether a session lives, or a Claude Code that ``occtl claude configure`` wrote for: they hold our key."""
        await self.find()
        return bool(self._sessions.living) or await asyncio.to_thread(self._configured)

    def _configured(self) -> bool:
        try:
            known = configure.known(self._state)
        except OcdError:
            # Who was written for cannot be read any more: assume the user's own.
            return living.any_in(self._overlays.config_folders())
        return living.any_in({one.path.parent for one in known if one.address})

    async def find(self) -> None:
        """Join Claude Code's notes of its processes with what we know; background sessions are found here."""
        notes = await asyncio.to_thread(self._read_notes)
        sessions = self._sessions
        before = len(sessions.living)
        for note in notes:
            pid, identity = note["pid"], note["id"]
            if pid not in sessions.living and not sessions.add(
                pid, note["cwd"], port=self._port(), kind=note["kind"]
            ):
                continue
            if sessions.name(pid, identity):
                self._exchanges.claim(identity, pid)
                self._changed()
        if len(sessions.living) > before:
            self._hold_ports()

    def _read_notes(self) -> list[dict[str, Any]]:
        """The notes of living processes that run on an overlay of ours."""
        found: list[dict[str, Any]] = []
        seen: dict[Path, tuple[int, dict[str, Any]]] = {}
        for folder in self._overlays.config_folders():
            try:
                paths = [entry for entry in os.scandir(folder / "sessions") if entry.name.endswith(".json")]
            except OSError:
                continue
            for entry in paths[:MOST]:
                note = self._note(entry, seen)
                if note is not None:
                    found.append(note)
        self._notes = seen
        living = {(note["pid"], note["born"]) for note in found}
        self._ours = {key: value for key, value in self._ours.items() if key in living or not value}
        if len(self._ours) > 4 * MOST:
            self._ours.clear()
        return found

    def _note(
        self, entry: os.DirEntry[str], seen: dict[Path, tuple[int, dict[str, Any]]]
    ) -> dict[str, Any] | None:
        stem, path = entry.name.removesuffix(".json"), Path(entry.path)
        if not stem.isdigit():
            return None
        try:
            changed = entry.stat(follow_symlinks=False).st_mtime_ns
            known = self._notes.get(path)
            if known is None or known[0] != changed:
                said = json.loads(lasting.read_small(entry.path))
                known = (changed, said if isinstance(said, dict) else {})
            seen[path] = known
            process = psutil.Process(int(stem))
            born = process.create_time()
            key = (process.pid, born)
            if key not in self._ours:
                self._ours[key] = any(self._overlays.folder in word for word in process.cmdline())
            ours = self._ours[key] or process.pid in self._sessions.living
            if not ours and known[1].get("kind") == "bg":
                # 2.1.332 starts these processes ahead and tells them later what to be.
                job = Path(path.parent.parent, "jobs", os.path.basename(str(known[1].get("jobId") or "")))
                self._ours[key] = ours = self._overlays.folder.encode() in lasting.read_small(
                    str(job / "state.json")
                )
            if not ours:
                return None
        except (OSError, ValueError, psutil.Error):
            return None
        said = known[1]
        return {
            "pid": process.pid,
            "born": born,
            "id": str(said.get("sessionId", ""))[:100],
            "cwd": str(said.get("cwd", ""))[:4096],
            "kind": "background" if said.get("kind") == "bg" else "",
        }
