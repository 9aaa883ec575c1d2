"""The small file behind ``occtl statusline``: written when something changed, at most once a second.

A line a fact, fields separated by tabs (``ocd/client/statusline.py`` reads it without a parser); 0600, in the
runtime folder, replaced in one step.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ocd import atomic
from ocd.client.statusline import DEFAULT_PARTS, FALLBACK_SHOWN, NAME
from ocd.core.limits import percent
from ocd.core.state import State
from ocd.supervisor.observation.exchanges import Tally
from ocd.wire.messages import BudgetUse, PlanLimit, Problem, Status

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
    """``news`` after anything that may show; the write follows within a second. ``content`` says what it is to hold
    now; None: nothing is written."""

    def __init__(self, runtime: Path, content: Callable[[], str | None]) -> None:
        self.path = os.path.join(runtime, NAME)
        self._content = content
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
        text = self._content()
        if text is None or text == self.written:
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


def compose(
    status: Status,
    tallies: Mapping[int, Tally],
    problems: Iterable[Problem],
    warn_at: Sequence[int],
    parts: Sequence[str] = DEFAULT_PARTS,
) -> str:
    """The file's content now. ``tallies`` are what sessions asked for, by pid; ``problems`` those of the daemon itself;
    ``warn_at`` the per cents of ``[plan]``; ``parts`` what the line is made of."""
    now = time.time()
    rows: list[tuple[object, ...]] = [("ocd", 1, status.keeper_pid)]
    if tuple(parts) != DEFAULT_PARTS:
        rows.append(("parts", *parts))
    if status.external:
        rows.append(("external", urlsplit(status.external).netloc))
    else:
        for name, proxy in status.proxies.items():
            if not proxy.state.well and proxy.state is not State.DISABLED:
                rows.append(("proxy", name, proxy.state))
    for session in status.sessions:
        tally = tallies.get(session.pid)
        if tally is None or tally.latest is None:
            continue
        upstream = session.last_upstream.removesuffix(":443")
        taken, fallback = tally.fallback
        if now - taken > FALLBACK_SHOWN:
            taken, fallback = 0.0, ""
        used = (session.last_slot, upstream, tally.requests, tally.tokens)
        cost = f"{tally.cost:.2f}" if tally.cost else ""
        rows.append(("session", session.pid, *used, f"{taken:.0f}", fallback, cost))
    for proxy in status.proxies.values():
        if proxy.last_fallback_at is not None and now - proxy.last_fallback_at < FALLBACK_SHOWN:
            rows.append(("fallback", f"{proxy.last_fallback_at:.0f}", proxy.last_fallback))
        for trouble in proxy.troubles:
            if now - trouble.last < TROUBLE_SHOWN:
                who = trouble.slot or trouble.model
                rows.append(("trouble", f"{who}: {SHORT[trouble.kind]}" if who else SHORT[trouble.kind]))
    rows += limit_rows(status.limits, min(warn_at or [100]))
    rows += budget_rows(status.budgets)
    if status.trace_until:
        rows.append(("notice", f"tracing until {clock(status.trace_until)}", "near"))
    rows += [("problem", f"{problem.what}: occtl status") for problem in problems]
    return "".join("\t".join(_field(one) for one in row) + "\n" for row in rows)


def limit_rows(limits: Sequence[PlanLimit], warn_at: int) -> list[tuple[object, ...]]:
    """The binding window of the login seen last: how much of it is used, and whether its requests go to AWS."""
    for login in limits[:1]:
        for window in login.windows:
            if window.name == login.binding:
                named = len(limits) > 1 and login.accounts
                who = f"plan {', '.join(login.accounts)}" if named else "plan"
                text = f"{who} {window.name} {percent(window.used)}"
                if login.spilling:
                    text += ", spilling to AWS"
                near = login.spilling or window.used * 100 >= warn_at
                return [("limit", text, "near" if near else "")]
    return []


def budget_rows(budgets: Sequence[BudgetUse]) -> list[tuple[object, ...]]:
    """The budget for AWS that is used most, once it is worth a word."""
    near = [one for one in budgets if one.near]
    if not near:
        return []
    most = max(near, key=lambda one: one.spent / one.limit)
    when = "today" if most.period == "day" else "this month"
    over = {"refuse": ", refused", "plan": ", to the plan"}.get(most.action, "") if most.used_up else ""
    return [("limit", f"AWS {when} ${most.spent:.2f} of ${most.limit:.2f}{over}", "near")]


def clock(moment: float) -> str:
    return time.strftime("%H:%M", time.localtime(moment))


def _field(value: object) -> str:
    return _UNFIT.sub(" ", str(value))[:LONGEST]
