"""The small file behind ``occtl statusline``: written when something changed, at most once a second.

A line a fact, fields separated by tabs (``ocd/client/statusline.py`` reads it without a parser); 0600, in the
runtime folder, replaced in one step.
"""

import asyncio
import contextlib
import os
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ocd import atomic
from ocd.client.statusline import FALLBACK_SHOWN, NAME
from ocd.core import state as core
from ocd.core.limits import percent
from ocd.core.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocd.supervisor.daemon import Daemon
    from ocd.wire.messages import BudgetUse, PlanLimit

#: seconds between two writes
PAUSE = 1.0
#: what may stand in one field
LONGEST = 90
#: a trouble is in view for so long after it happened last (seconds); ``occtl status`` shows it for longer
TROUBLE_SHOWN = 3600.0

#: trouble → what fits into a status line
SHORT = {
    "login-expired": "login expired: /login",
    "plan-limit": "plan limit reached",
    "overloaded": "overloaded",
    "access-denied": "AWS denies access: occtl aws policy",
    "model-access": "no access to the model: occtl status",
    "aws-expired": "AWS login expired: occtl aws login",
    "throttled": "throttled by Bedrock",
    "unreachable": "upstream unreachable",
    "model-gone": "the model is gone: occtl status",
}
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


class StatusFile:
    """``news`` after anything that may show; the write follows within a second."""

    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self.path = os.path.join(daemon.folders.runtime, NAME)
        self.written = ""
        self.latest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def news(self, *_what: object) -> None:
        """Something changed: write it now, or as soon as a second has passed since the last time."""
        if self._timer is None:
            pause = max(0.02, self.latest + PAUSE - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(pause, self._write)

    def look(self) -> None:
        """Now and then: what nobody told of, or a file that somebody removed."""
        if self.written and not os.path.exists(self.path):
            self.written = ""
        self.news()

    def _write(self) -> None:
        self._timer = None
        text = compose(self.daemon)
        if text == self.written or self.daemon.stopping:
            return
        self.latest = time.monotonic()
        try:
            atomic.replace(self.path, text.encode("utf-8", "replace"), durable=False)
        except OSError:
            # A status line that is old is no trouble of anybody's; the next change tries again.
            return
        self.written = text

    def remove(self) -> None:
        """The daemon ends."""
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def compose(daemon: "Daemon") -> str:
    """The file's content now."""
    now = time.time()
    rows: list[tuple[object, ...]] = [("ocd", 1, daemon.keeper_pid)]
    if daemon.settings.external.enabled:
        rows.append(("external", urlsplit(daemon.settings.external.base_url).netloc))
    else:
        for name, unit in daemon.units.items():
            state = core.state_of(unit.state)
            if not state.well and state is not State.DISABLED:
                rows.append(("proxy", name, state))
    for pid in daemon.sessions.living:
        tally = daemon.exchanges.sessions.get(pid)
        if tally is None or tally.latest is None:
            continue
        last = tally.latest
        upstream = last.upstream.removesuffix(":443")
        taken, fallback = tally.fallback
        if now - taken > FALLBACK_SHOWN:
            taken, fallback = 0.0, ""
        what = last.slot or last.model
        rows.append(("session", pid, what, upstream, tally.requests, tally.tokens, f"{taken:.0f}", fallback))
    for name, unit in daemon.units.items():
        if unit.last_fallback_at is not None and now - unit.last_fallback_at < FALLBACK_SHOWN:
            rows.append(("fallback", f"{unit.last_fallback_at:.0f}", unit.last_fallback))
        for trouble in daemon.exchanges.troubles(name):
            if now - trouble.last < TROUBLE_SHOWN:
                who = trouble.slot or trouble.model
                rows.append(("trouble", f"{who}: {SHORT[trouble.kind]}" if who else SHORT[trouble.kind]))
    rows += limit_rows(daemon.limits.messages(), min(daemon.settings.plan.warn_at or [100]))
    rows += budget_rows(daemon.budget.messages())
    rows += [("problem", f"{problem.what}: occtl status") for problem in daemon.problems.values()]
    return "".join("\t".join(_field(one) for one in row) + "\n" for row in rows)


def limit_rows(limits: "Sequence[PlanLimit]", warn_at: int) -> list[tuple[object, ...]]:
    """The binding window of the login seen last: how much of it is used, and whether its requests go to AWS."""
    for login in limits[:1]:
        for window in login.windows:
            if window.name == login.binding:
                text = f"plan {window.name} {percent(window.used)}"
                if login.spilling:
                    text += ", spilling to AWS"
                near = login.spilling or window.used * 100 >= warn_at
                return [("limit", text, "near" if near else "")]
    return []


def budget_rows(budgets: "Sequence[BudgetUse]") -> list[tuple[object, ...]]:
    """The budget for AWS that is used most, once it is worth a word."""
    near = [one for one in budgets if one.near]
    if not near:
        return []
    most = max(near, key=lambda one: one.spent / one.limit)
    when = "today" if most.period == "day" else "this month"
    over = {"refuse": ", refused", "plan": ", to the plan"}.get(most.action, "") if most.used_up else ""
    return [("limit", f"AWS {when} ${most.spent:.2f} of ${most.limit:.2f}{over}", "near")]


def _field(value: object) -> str:
    return _UNFIT.sub(" ", str(value))[:LONGEST]
