"""``POST /v1/launch``: is everything ready for a session? Then the overlay; else what is being waited for."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ocd import API_VERSION
from ocd.claude import launch, plan
from ocd.core import accounts
from ocd.core import state as core
from ocd.core.state import State
from ocd.errors import EX_CONFIG, EX_UNAVAILABLE, OcdError
from ocd.settings.schema import Settings
from ocd.supervisor.api.external_launch import ExternalLaunch
from ocd.supervisor.api.http import message_of, problem_response
from ocd.supervisor.observation.overlays import Overlays
from ocd.supervisor.observation.sessions import Sessions
from ocd.supervisor.supervision.idle import Idle
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import LaunchReply, LaunchRequest, PlanLimit, Problem

PLAN = "text/x-ocd-exec"


class Launching:
    """``began`` is called when a session begins (its pid), ``hold_ports`` as soon as it has been told of a port;
    ``problems`` are told to it, and what of ``limits`` its account has to know; ``state`` is the state folder."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        runners: Mapping[str, Runner],
        idle: Idle,
        sessions: Sessions,
        overlays: Overlays,
        external: ExternalLaunch,
        problems: Mapping[str, Problem],
        began: Callable[[int], None],
        hold_ports: Callable[[], None],
        limits: Callable[[], list[PlanLimit]],
        state: Path,
    ) -> None:
        self._settings = settings
        self._runners = runners
        self._idle = idle
        self._sessions = sessions
        self._overlays = overlays
        self._external = external
        self._problems = problems
        self._began = began
        self._hold_ports = hold_ports
        self._limits = limits
        self._state = state

    async def launch(self, request: Request) -> Response:
        """``POST /v1/launch``: as JSON, or as the lines that ``openclaude`` reads."""
        plain = PLAN in request.headers.get("accept", "")
        try:
            order = await message_of(request, LaunchRequest)
            reply = await self.decide(order)
        except OcdError as error:
            if not plain:
                return problem_response(error)
            status = 426 if error.code == "version" else 409
            return Response(plan.encode_problem(error.exit_code, error.sentence()), status, media_type=PLAN)
        if not reply.ready:
            body = plan.encode_progress(reply.progress) if plain else reply.model_dump_json()
        else:
            body = plan.encode_plan(reply) if plain else reply.model_dump_json()
        return Response(body, 200 if reply.ready else 503, media_type=PLAN if plain else "application/json")

    async def decide(self, order: LaunchRequest) -> LaunchReply:
        """Ready, not yet (with what is going on), or OcdError with why never."""
        if order.client_api != API_VERSION:
            raise OcdError(
                "openclaude and the daemon are of different versions",
                f"they speak versions {order.client_api} and {API_VERSION} of the control API",
                "Run `occtl reexec`, or `python3 install.py` again",
                exit_code=EX_CONFIG,
                code="version",
            )
        if self._settings().external.enabled:
            reply = await self._external.prepare(order)
            self._began(order.pid)
            return reply
        self._idle.touch()
        self._idle.wake("openclaude")
        deadline = time.monotonic() + order.wait
        needed = [runner for runner in self._runners.values() if self._needed(runner)]
        for runner in needed:
            self._refuse_if_hopeless(runner)
            await runner.wait(lambda p: _ready(p) or _hopeless(p), max(0.0, deadline - time.monotonic()))
            self._refuse_if_hopeless(runner)
        waiting = [runner for runner in needed if not (_ready(runner.state) or _hopeless(runner.state))]
        if waiting:
            return LaunchReply(ready=False, progress="; ".join(self._progress(runner) for runner in waiting))
        return await self._prepare(order)

    def _needed(self, runner: Runner) -> bool:
        if runner.state.wanted is core.Wanted.STOPPED:
            if runner.name == "main":
                off = not runner.state.enabled
                reason, step = runner.explain()
                raise OcdError(
                    f"the main proxy is {'switched off' if off else 'stopped'}",
                    reason,
                    step or "Run `occtl start`",
                    exit_code=EX_CONFIG if off else EX_UNAVAILABLE,
                    code="disabled" if off else "stopped",
                )
            return False
        return True

    def _refuse_if_hopeless(self, runner: Runner) -> None:
        # Each slot needs its own proxy only: without the other one a session can still ask for Claude's models.
        if runner.name != "main" or not _hopeless(runner.state):
            return
        state = core.state_of(runner.state)
        reason, step = runner.explain()
        raise OcdError(
            f"the {runner.name} proxy does not serve",
            reason or state,
            step or "See `occtl status`",
            exit_code=EX_CONFIG if state is State.FAILED else EX_UNAVAILABLE,
            code=state,
        )

    def _progress(self, runner: Runner) -> str:
        state = core.state_of(runner.state)
        seconds = time.monotonic() - runner.state.since
        why = runner.explain()[0]
        return f"{runner.name} is {state}, {seconds:.0f} s" + (f" ({why})" if why else "")

    async def _prepare(self, order: LaunchRequest) -> LaunchReply:
        account = launch.account_of(order.env, order.cwd)
        self._sessions.add(order.pid, order.cwd, port=self._runners["main"].port, account=account)
        # From now on the port is its; a `stop` may come before anything else does.
        self._hold_ports()
        reply = await asyncio.to_thread(
            launch.prepare,
            order,
            folder=self._overlays.folder,
            served=self._overlays.served(),
            isolation=self._settings().isolation,
            state=self._state,
        )
        self._began(order.pid)
        notices = self._of_account(account)
        for problem in self._problems.values():
            told = f"{problem.what}: {problem.why}" if problem.why else problem.what
            notices.append(f"{told}. {problem.next}" if problem.next else told)
        for runner in self._runners.values():
            if runner.state.rejected:
                notices.append(
                    f"the newer {runner.name} configuration is not used: {runner.state.rejected.reason}."
                    " Run `occtl config check`."
                )
            elif runner.name != "main" and _hopeless(runner.state):
                reason, step = runner.explain()
                notices.append(
                    f"the {runner.name} proxy does not serve, its models will not answer: "
                    f"{reason or core.state_of(runner.state)}. {step or 'See `occtl status`'}"
                )
            elif runner.state.enabled and runner.state.wanted is core.Wanted.STOPPED:
                notices.append(
                    f"the {runner.name} proxy is stopped: its models will not answer. Run `occtl start`."
                )
        reply.notices = [*notices, *reply.notices]
        return reply

    def _of_account(self, account: str) -> list[str]:
        """That the session's login is at its limit, and which account has room."""
        told = accounts.advice(self._limits(), account, time.time(), _clock)
        return [told] if told else []


def _clock(moment: float) -> str:
    """``14:20``, with the day when it is another one."""
    then = time.localtime(moment)
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M" if today else "%a %H:%M", then)


def _ready(p: core.Proxy) -> bool:
    return core.state_of(p) is State.READY


def _hopeless(p: core.Proxy) -> bool:
    return core.state_of(p).hopeless
