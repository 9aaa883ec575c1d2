"""Keeps the sessions' overlay files true, and finds the sessions that Claude Code itself started with them.

Claude Code notes each of its processes in ``sessions/PID.json`` of its folder (2.1.197 and 2.1.332), with the
session's id and folder: that joins what main sees (``x-claude-code-session-id``) with a process, and shows
background sessions, whose processes are not ours.
"""

import asyncio
import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ocd.claude import files, lasting, launch
from ocd.claude.overlay import Slots

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

#: seconds between two looks at Claude Code's notes of its processes
LOOK = 3.0
#: seconds between two looks for overlays that nobody needs any more
PRUNE = 3600.0
#: files that are looked at in one folder of Claude Code's
MOST = 500
_MODEL_NAME = re.compile(r"""^\s*(?:-\s*)?["']?model_name["']?\s*:\s*["']?([^"'#\s,}]+)""", re.MULTILINE)


class Overlays:
    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.folder = str(daemon.folders.state / "overlays")
        self._kept_in = daemon.folders.state / "sessions.json"
        self._lost = False
        self._rows_in = daemon.folders.state / "models.json"
        self.rows: list[dict[str, Any]] = self._known_rows()
        self._models: tuple[str, list[str]] = ("", [])
        self._written: object = None
        #: config folders of Claude Code that sessions were started with
        self._folders: set[Path] = set()
        #: note → (when it was changed, what was in it)
        self._notes: dict[Path, tuple[int, dict[str, Any]]] = {}
        #: (pid, when it began) → whether it runs on one of our overlays
        self._ours: dict[tuple[int, float], bool] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._remove_former()
        prune_at = loop.time() + 60
        while True:
            await self.follow()
            await self.find()
            self.keep()
            if loop.time() >= prune_at:
                prune_at = loop.time() + PRUNE
                removed = await asyncio.to_thread(self.prune)
                if removed:
                    self.daemon.log.info("overlays that nobody uses are gone", count=len(removed))
            await asyncio.sleep(LOOK)

    # ---------------------------------------------------------------------------------------------- the files

    def served(self) -> launch.Served:
        """What a session of our own proxies has to be told now."""
        daemon = self.daemon
        return launch.Served(
            slots=Slots(**daemon.settings.slots.model_dump()),
            base_url=f"http://127.0.0.1:{daemon.units['main'].port}",
            key=daemon.keys.main,
            auth=daemon.settings.auth,
            known_models=self.models(),
            rows=self.rows,
        )

    def take_rows(self, rows: Any) -> None:
        """What the examination says of main's model groups; kept for a daemon that takes over."""
        if not isinstance(rows, list) or rows == self.rows:
            return
        self.rows = rows
        with contextlib.suppress(OSError):
            lasting.replace(str(self._rows_in), json.dumps(rows).encode())

    def _known_rows(self) -> list[dict[str, Any]]:
        try:
            rows = json.loads(lasting.read_small(str(self._rows_in)))
        except (OSError, ValueError):
            return []
        return rows if isinstance(rows, list) else []

    def models(self) -> list[str]:
        """The model groups of main's configuration, as it is being served; empty: none is yet."""
        unit = self.daemon.units["main"]
        config = unit.configs.get(unit.state.good)
        if config is None:
            return []
        if self._models[0] != config.revision:
            names: list[str] = []
            for path in sorted(config.path.parent.rglob("*.y*ml")):
                try:
                    names += _MODEL_NAME.findall(path.read_text("utf-8", "replace"))
                except OSError:
                    continue
            self._models = (config.revision, list(dict.fromkeys(names)))
        return self._models[1]

    async def follow(self) -> None:
        """Write the files anew when port, key, slots or routes are others than at the last time."""
        if self.daemon.settings.external.enabled or not self.daemon.units["main"].port:
            return
        served = self.served()
        if not served.known_models:
            return
        known = tuple(served.known_models), json.dumps(served.rows)
        now = (served.slots, served.base_url, served.key, served.auth, known)
        if now == self._written:
            return
        self._written = now
        changed, trouble = await asyncio.to_thread(self._rewrite, served)
        if changed:
            self.daemon.log.info("overlays follow the configuration", count=changed)
        for text in trouble:
            self.daemon.log.warning("an overlay stays as it was", reason=text)

    def _rewrite(self, served: launch.Served) -> tuple[int, list[str]]:
        def build(recipe: lasting.Recipe) -> tuple[dict[str, Any], str]:
            made = launch.make(recipe, served, [], folder=self.folder)
            return made.settings, made.script

        return lasting.rewrite(self.folder, build)

    def config_folders(self) -> set[Path]:
        """Claude Code's folders that we know of: the user's own, and those that sessions were started with."""
        known = {files.config_folder({}, "/"), *self._folders}
        known |= {files.config_folder(one.env, "/") for one in lasting.recipes(self.folder).values()}
        self._folders = known
        return known

    def prune(self) -> list[str]:
        return lasting.prune(self.folder, _command_lines, self.config_folders())

    def _remove_former(self) -> None:
        """Overlays of earlier versions, a file a process: Claude Code has read what is left of them."""
        with contextlib.suppress(OSError):
            for path in (self.daemon.folders.runtime / "sessions").glob("overlay-*.json"):
                pid = path.stem.rpartition("-")[2]
                if pid.isdigit() and not psutil.pid_exists(int(pid)):
                    path.unlink()

    # ------------------------------------------------------------------------------------------- the sessions

    def restore(self, notes: dict[str, Any]) -> None:
        """Who lived under a former supervisor, or else under a former daemon."""
        if notes:
            self.daemon.sessions.restore(notes.get("sessions", []))
        else:
            self.daemon.exchanges.restore({"sessions": self.daemon.sessions.find_again(self._kept_in)})

    def keep(self) -> None:
        """Write down who lives, for a daemon after this one."""
        figures = self.daemon.exchanges.notes()["sessions"]
        try:
            self.daemon.sessions.keep(self._kept_in, figures)
            self._lost = False
        except OSError as error:
            if not self._lost:
                self.daemon.log.warning("the living sessions could not be noted", error=error.strerror)
            self._lost = True

    async def find(self) -> None:
        """Join Claude Code's notes of its processes with what we know; background sessions are found here."""
        notes = await asyncio.to_thread(self._read_notes)
        sessions = self.daemon.sessions
        before = len(sessions.living)
        for note in notes:
            pid, identity = note["pid"], note["id"]
            if pid not in sessions.living and not sessions.add(
                pid, note["cwd"], port=self.daemon.units["main"].port, kind=note["kind"]
            ):
                continue
            if sessions.name(pid, identity):
                self.daemon.exchanges.claim(identity, pid)
                self.daemon.note_soon()
        if len(sessions.living) > before:
            self.daemon.hold_ports()

    def _read_notes(self) -> list[dict[str, Any]]:
        """The notes of living processes that run on an overlay of ours."""
        found: list[dict[str, Any]] = []
        seen: dict[Path, tuple[int, dict[str, Any]]] = {}
        for folder in self.config_folders():
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
                self._ours[key] = any(self.folder in word for word in process.cmdline())
            ours = self._ours[key] or process.pid in self.daemon.sessions.living
            if not ours and known[1].get("kind") == "bg":
                # 2.1.332 starts these processes ahead and tells them later what to be.
                job = Path(path.parent.parent, "jobs", os.path.basename(str(known[1].get("jobId") or "")))
                self._ours[key] = ours = self.folder.encode() in lasting.read_small(str(job / "state.json"))
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


def _command_lines() -> list[str]:
    """The arguments of this user's processes."""
    found, uid = [], os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real == uid:
                found.append(" ".join(process.cmdline()))
    return found
