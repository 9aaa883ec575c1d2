"""Claude Code's own settings.json, where `occtl claude configure` wrote into it: kept in step with what is served."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ocd.claude import configure, permanent
from ocd.claude.overlay import Slots
from ocd.errors import OcdError
from ocd.settings.schema import Settings
from ocd.supervisor.supervision.reporter import Reporter
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Problem

PROBLEM = "claude-settings"
#: seconds until what could not be written is tried again
RETRY = 60.0


class Configured:
    """``look`` costs nothing while port, key, slots and models are what they were; else it has the files rewritten.

    ``state`` is the state folder, ``key`` main's, ``models`` main's model groups; ``start`` runs a coroutine.
    """

    def __init__(
        self,
        state: Path,
        settings: Callable[[], Settings],
        main: Runner,
        key: Callable[[], str],
        models: Callable[[], list[str]],
        report: Reporter,
        start: Callable[[Any], Any],
    ) -> None:
        self._state = state
        self._settings = settings
        self._main = main
        self._key = key
        self._models = models
        self._report = report
        self._start = start
        self._served: permanent.Target | None = None
        self._again = 0.0
        self._running = False

    def look(self) -> None:
        """Called with each heartbeat, and after a reload."""
        state = self._state
        if self._running or not ((state / configure.RECORDS).exists() or (state / configure.FORMER).exists()):
            return
        target = self.target()
        if target is None or (
            target == self._served and not (self._again and time.monotonic() >= self._again)
        ):
            return
        self._running = True
        self._start(self._refresh(target))

    def target(self) -> permanent.Target | None:
        """What is served now; None while main has no port, or an external LiteLLM server is used instead: whether plain
        `claude` sends its login there is for a person to decide (`occtl claude configure`)."""
        settings = self._settings()
        if settings.external.enabled or not self._main.state.ports.ready:
            return None
        return permanent.Target(
            base_url=f"http://127.0.0.1:{self._main.port}",
            key=self._key(),
            auth=settings.auth,
            slots=Slots(**settings.slots.model_dump()),
            known_models=tuple(self._models()),
        )

    async def _refresh(self, target: permanent.Target) -> None:
        try:
            outcome = await asyncio.to_thread(permanent.refresh, self._state, target)
        except Exception as unknown:
            # Whatever stands in somebody's settings file: it must not end the supervisor.
            self._report.log.error("Claude Code's settings could not be refreshed", exc_info=unknown)
            outcome = [OcdError("Claude Code's settings could not be read", type(unknown).__name__)]
        finally:
            self._running = False
        self._served = target
        failed = [one for one in outcome if isinstance(one, OcdError)]
        self._again = time.monotonic() + RETRY if failed else 0.0
        for one in outcome:
            if not isinstance(one, OcdError) and one.changed:
                self._report.event("claude-settings-changed", text=f"{one.path} leads to {target.base_url}")
        if not failed:
            self._report.problems.pop(PROBLEM, None)
            return
        error = failed[0]
        new = PROBLEM not in self._report.problems
        self._report.problems[PROBLEM] = Problem(
            code=PROBLEM,
            what="Claude Code's own settings do not follow what is served",
            why=f"{error.what}: {error.why}" if error.why else error.what,
            next=error.next_step or "Run `occtl claude configure`",
            exit=error.exit_code,
        )
        if new:
            self._report.event("claude-settings-failed", text=error.sentence())
