"""Keeps the sessions' overlay files true to what is served."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ocd.claude import files, lasting, launch, profiles
from ocd.claude.overlay import Slots
from ocd.errors import OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.families import SLOTS, without_1m
from ocd.supervisor.supervision.runner import Runner

_MODEL_NAME = re.compile(r"""^\s*(?:-\s*)?["']?model_name["']?\s*:\s*["']?([^"'#\s,}]+)""", re.MULTILINE)


class Overlays:
    """``main`` is the proxy that sessions talk to, ``key`` its key, ``log`` a structlog logger."""

    def __init__(
        self,
        folders: Folders,
        settings: Callable[[], Settings],
        main: Runner,
        key: Callable[[], str],
        log: Any,
    ) -> None:
        self._settings = settings
        self._main = main
        self._key = key
        self._log = log
        self._runtime = folders.runtime
        self.folder = str(folders.state / "overlays")
        self._rows_in = folders.state / "models.json"
        self.rows: list[dict[str, Any]] = self._known_rows()
        self._models: tuple[str, list[str]] = ("", [])
        self._written: object = None
        #: groups that sessions have in a slot by a profile → that slot
        self.pinned: dict[str, str] = {}
        #: config folders of Claude Code that sessions were started with
        self._folders: set[Path] = set()

    def served(self) -> launch.Served:
        """What a session of our own proxies has to be told now."""
        settings = self._settings()
        return launch.Served(
            slots=Slots(**settings.slots.model_dump()),
            base_url=f"http://127.0.0.1:{self._main.port}",
            key=self._key(),
            auth=settings.auth,
            known_models=self.models(),
            rows=[row for row in self.rows if "*" not in row["model"]],
            patterns=[row for row in self.rows if "*" in row["model"]],
            profiles=profiles.named(settings),
            ours=True,
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
        config = self._main.configs.get(self._main.state.good)
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
        if self._settings().external.enabled or not self._main.port:
            return
        served = self.served()
        if not served.known_models:
            return
        known = tuple(served.known_models), json.dumps([self.rows, served.profiles])
        now = (served.slots, served.base_url, served.key, served.auth, known)
        if now == self._written:
            return
        self._written = now
        changed, trouble = await asyncio.to_thread(self._rewrite, served)
        if changed:
            self._log.info("overlays follow the configuration", count=changed)
        for text in trouble:
            self._log.warning("an overlay stays as it was", reason=text)

    def _rewrite(self, served: launch.Served) -> tuple[int, list[str]]:
        def build(recipe: lasting.Recipe) -> tuple[dict[str, Any], str]:
            made = launch.make(recipe, served, [], folder=self.folder)
            return made.settings, made.script

        return lasting.rewrite(self.folder, build)

    def config_folders(self) -> set[Path]:
        """Claude Code's folders that we know of: the user's own, and those that sessions were started with."""
        known = {files.config_folder({}, "/"), *self._folders}
        recipes = lasting.recipes(self.folder).values()
        known |= {files.config_folder(one.env, "/") for one in recipes}
        self._folders = known
        self.pinned = self._pinned([one.profile for one in recipes if one.profile])
        return known

    def _pinned(self, choices: list[dict[str, str]]) -> dict[str, str]:
        """Group → slot, of what profiles have in slots; one that cannot be made any more has nothing."""
        served = self.served()
        found: dict[str, str] = {}
        for choice in choices:
            with contextlib.suppress(OcdError):
                slots, _ = profiles.resolve(
                    choice,
                    served.profiles,
                    served.slots,
                    served.known_models,
                    [*served.rows, *served.patterns],
                )
                for slot in SLOTS:
                    group = without_1m(getattr(slots, slot))
                    if group:
                        found.setdefault(group, slot)
        return found

    def prune(self) -> list[str]:
        return lasting.prune(self.folder, _command_lines, self.config_folders())

    def remove_former(self) -> None:
        """Overlays of earlier versions, a file a process: Claude Code has read what is left of them."""
        with contextlib.suppress(OSError):
            for path in (self._runtime / "sessions").glob("overlay-*.json"):
                pid = path.stem.rpartition("-")[2]
                if pid.isdigit() and not psutil.pid_exists(int(pid)):
                    path.unlink()


def _command_lines() -> list[str]:
    """The arguments of this user's processes."""
    found, uid = [], os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real == uid:
                found.append(" ".join(process.cmdline()))
    return found
