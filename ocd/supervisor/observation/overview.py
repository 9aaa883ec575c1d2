"""``GET /v1/status``: all that is known, as one message."""

import datetime
import os
import time
from collections.abc import Callable, Iterable, Mapping

from ocd import __version__
from ocd.core import state as core
from ocd.core.state import State
from ocd.errors import EX_CONFIG
from ocd.settings.schema import Settings
from ocd.stack.retire import Retirement, due
from ocd.supervisor.observation.budget import Budget
from ocd.supervisor.observation.exchanges import Exchanges
from ocd.supervisor.observation.limits import PlanLimits
from ocd.supervisor.observation.news import Counted, News
from ocd.supervisor.observation.sessions import Sessions
from ocd.supervisor.observation.trace import Trace
from ocd.supervisor.supervision import litellm_env
from ocd.supervisor.supervision.forkserver import Forkserver
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Holder, Member, Problem, ProxyStatus, Status, Trouble


class Overview:
    """``since`` is when the daemon began (seconds since 1970), ``config_path`` says where a proxy's file lies,
    ``retiring`` which models go away."""

    def __init__(
        self,
        keeper_pid: int,
        since: Callable[[], float],
        settings: Callable[[], Settings],
        config_path: Callable[[str], str],
        runners: Mapping[str, Runner],
        forkserver: Forkserver,
        news: News,
        exchanges: Exchanges,
        sessions: Sessions,
        limits: PlanLimits,
        budget: Budget,
        problems: Mapping[str, Problem],
        retiring: Callable[[], Iterable[Retirement]],
        trace: Trace,
    ) -> None:
        self._keeper_pid = keeper_pid
        self._since = since
        self._settings = settings
        self._config_path = config_path
        self._runners = runners
        self._forkserver = forkserver
        self._news = news
        self._exchanges = exchanges
        self._sessions = sessions
        self._limits = limits
        self._budget = budget
        self._problems = problems
        self._retiring = retiring
        self._trace = trace

    def status(self) -> Status:
        """The daemon with its proxies, sessions, limits and problems."""
        external = self._settings().external
        version = self._forkserver.version
        return Status(
            version=__version__,
            pid=os.getpid(),
            keeper_pid=self._keeper_pid,
            since=self._since(),
            mode=self._forkserver.mode,
            litellm=version,
            proxies={name: self._proxy(runner) for name, runner in self._runners.items()},
            sessions=self._sessions.messages(self._exchanges.sessions),
            limits=self._limits.messages(),
            budgets=self._budget.messages(),
            problems=[
                *self._problems.values(),
                *litellm_env.worries(version),
                *_goodbyes(self._retiring(), datetime.date.today()),
            ],
            trace_until=self._trace.until,
            external=external.base_url if external.enabled else "",
        )

    def _proxy(self, runner: Runner) -> ProxyStatus:
        return proxy_status(
            runner,
            self._news.of(runner.name),
            self._config_path(runner.name),
            self._exchanges.troubles(runner.name),
            self._exchanges.in_flight.get(runner.name, {}),
        )


def proxy_status(
    runner: Runner, counted: Counted, path: str, troubles: list[Trouble], in_flight: Mapping[int, int]
) -> ProxyStatus:
    """What people and programs see of one proxy. ``path`` is its LiteLLM file, ``in_flight`` the requests that are
    being answered now, by generation."""
    p = runner.state
    now = time.monotonic()
    wall = time.time()
    serving = [m for m in p.members if m.phase_is(core.Serving)]
    first = next((m for m in reversed(serving) if not m.suspect), serving[-1] if serving else None)
    state = core.state_of(p)
    reason, step = runner.explain()
    spare = "none"
    if p.limits.spares and p.wanted is core.Wanted.UP:
        spare = "armed" if any(m.phase_is(core.Armed) for m in p.members) else "arming"
    config = runner.configs.get(p.good) or runner.configs.get(p.revision)
    figures = {m.generation: runner.guests.figures.get(m.generation) for m in p.members}
    shown = figures.get(first.generation) if first else None
    return ProxyStatus(
        state=state,
        wanted=str(p.wanted),
        pid=first.pid if first else None,
        port=runner.port,
        generation=first.generation if first else 0,
        restarts=p.restarts,
        since=wall - (now - p.since),
        reason=reason,
        next_step=step,
        cause=str(p.last_cause or ""),
        holder=_holder(p.ports.holder) if state is State.BLOCKED else None,
        memory=shown.memory if shown else None,
        config=str(config.origin) if config else path,
        revision=first.revision if first else "",
        rejected=p.rejected.reason if p.rejected else "",
        spare=spare,
        retry_at=wall + (p.spell.not_before - now) if p.spell.not_before else None,
        fallbacks=counted.fallbacks,
        last_fallback=counted.last_fallback,
        last_fallback_at=counted.last_fallback_at,
        troubles=troubles,
        members=[
            Member(
                generation=m.generation,
                pid=m.pid,
                role="hung" if m.suspect and m.phase_is(core.Serving) else m.role,
                since=wall - (now - m.phase.since) if isinstance(m.phase, core.Serving) else wall,
                memory=one.memory if one else None,
                connections=one.connections if one else None,
                in_flight=in_flight.get(m.generation),
            )
            for m in p.members
            for one in [figures[m.generation]]
        ],
    )


def _holder(found: core.Holder | None) -> Holder | None:
    if found is None:
        return None
    return Holder(
        pid=found.pid,
        user=found.user,
        command=found.command,
        since=found.since,
        address=found.address,
    )


def _goodbyes(known: Iterable[Retirement], today: datetime.date) -> list[Problem]:
    """A problem for each model that its provider takes away soon, or has taken."""
    return [
        Problem(code="model-retires", what=one.what(today), next=one.fix(), exit=EX_CONFIG)
        for one in due(list(known), today)
    ]
