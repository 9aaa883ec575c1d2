"""Claude Code's own settings.json, where `occtl claude configure` wrote into it: kept in step with what is served."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ocd.claude import configure, permanent
from ocd.claude.overlay import Slots
from ocd.errors import OcdError
from ocd.wire.messages import Problem

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

PROBLEM = "claude-settings"
#: seconds until what could not be written is tried again
RETRY = 60.0


class Configured:
    """``look`` costs nothing while port, key, slots and models are what they were; else it has the files rewritten."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self._served: permanent.Target | None = None
        self._again = 0.0
        self._running = False

    def look(self) -> None:
        """Called with each heartbeat, and after a reload."""
        state = self.daemon.folders.state
        if self._running or not ((state / configure.RECORDS).exists() or (state / configure.FORMER).exists()):
            return
        target = self.target()
        if target is None or (
            target == self._served and not (self._again and time.monotonic() >= self._again)
        ):
            return
        self._running = True
        self.daemon.start(self._refresh(state, target))

    def target(self) -> permanent.Target | None:
        """What is served now; None while main has no port, or an external LiteLLM server is used instead: whether plain
        `claude` sends its login there is for a person to decide (`occtl claude configure`)."""
        daemon = self.daemon
        main = daemon.units.get("main")
        if daemon.settings.external.enabled or main is None or not main.state.ports.ready:
            return None
        return permanent.Target(
            base_url=f"http://127.0.0.1:{main.port}",
            key=daemon.keys.main,
            auth=daemon.settings.auth,
            slots=Slots(**daemon.settings.slots.model_dump()),
            known_models=tuple(daemon.overlays.models()),
        )

    async def _refresh(self, state: Path, target: permanent.Target) -> None:
        try:
            outcome = await asyncio.to_thread(permanent.refresh, state, target)
        except Exception as unknown:
            # Whatever stands in somebody's settings file: it must not end the supervisor.
            self.daemon.log.error("Claude Code's settings could not be refreshed", exc_info=unknown)
            outcome = [OcdError("Claude Code's settings could not be read", type(unknown).__name__)]
        finally:
            self._running = False
        self._served = target
        failed = [one for one in outcome if isinstance(one, OcdError)]
        self._again = time.monotonic() + RETRY if failed else 0.0
        for one in outcome:
            if not isinstance(one, OcdError) and one.changed:
                self.daemon.event("claude-settings-changed", text=f"{one.path} leads to {target.base_url}")
        if not failed:
            self.daemon.problems.pop(PROBLEM, None)
            return
        error = failed[0]
        new = PROBLEM not in self.daemon.problems
        self.daemon.problems[PROBLEM] = Problem(
            code=PROBLEM,
            what="Claude Code's own settings do not follow what is served",
            why=f"{error.what}: {error.why}" if error.why else error.what,
            next=error.next_step or "Run `occtl claude configure`",
            exit=error.exit_code,
        )
        if new:
            self.daemon.event("claude-settings-failed", text=error.sentence())
