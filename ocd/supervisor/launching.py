"""``POST /v1/launch``: is everything ready for a session? Then the overlay; else what is being waited for."""

import asyncio
import re
import time
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from ocd import API_VERSION
from ocd.claude import launch, plan
from ocd.claude.overlay import Slots
from ocd.core import proxy as core
from ocd.errors import EX_CONFIG, EX_UNAVAILABLE, OcdError
from ocd.wire.messages import LaunchReply, LaunchRequest

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon
    from ocd.supervisor.unit import Unit

PLAN = "text/x-ocd-exec"
_MODEL_NAME = re.compile(r"""^\s*(?:-\s*)?["']?model_name["']?\s*:\s*["']?([^"'#\s,}]+)""", re.MULTILINE)


class Launching:
    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self._models: tuple[str, list[str]] = ("", [])

    async def launch(self, request: Request) -> Response:
        from ocd.supervisor.control import _body, problem_response

        plain = PLAN in request.headers.get("accept", "")
        try:
            order = await _body(request, LaunchRequest)
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
        daemon = self.daemon
        daemon.idle.touch()
        daemon.idle.wake("openclaude")
        deadline = time.monotonic() + order.wait
        needed = [unit for unit in daemon.units.values() if self._needed(unit)]
        for unit in needed:
            self._refuse_if_hopeless(unit)
            await unit.wait(lambda p: _ready(p) or _hopeless(p), max(0.0, deadline - time.monotonic()))
            self._refuse_if_hopeless(unit)
        waiting = [unit for unit in needed if not _ready(unit.state)]
        if waiting:
            return LaunchReply(ready=False, progress="; ".join(self._progress(unit) for unit in waiting))
        return await self._prepare(order)

    def _needed(self, unit: "Unit") -> bool:
        if unit.state.wanted is core.Wanted.STOPPED:
            if unit.name == "main":
                raise OcdError(
                    "the main proxy is stopped",
                    "somebody stopped it",
                    "Run `occtl start`",
                    exit_code=EX_UNAVAILABLE,
                    code="stopped",
                )
            return False
        return True

    def _refuse_if_hopeless(self, unit: "Unit") -> None:
        if not _hopeless(unit.state):
            return
        status = unit.status()
        raise OcdError(
            f"the {unit.name} proxy does not serve",
            status.reason or status.state,
            status.next_step or "See `occtl status`",
            exit_code=EX_CONFIG if status.state == "failed" else EX_UNAVAILABLE,
            code=status.state,
        )

    def _progress(self, unit: "Unit") -> str:
        state = core.public_state(unit.state, time.monotonic())
        seconds = time.monotonic() - unit.state.since
        why = unit.status().reason
        return f"{unit.name} is {state}, {seconds:.0f} s" + (f" ({why})" if why else "")

    async def _prepare(self, order: LaunchRequest) -> LaunchReply:
        daemon = self.daemon
        slots = daemon.settings.slots
        folder = daemon.folders.runtime / "sessions"
        daemon.sessions.add(order.pid, order.cwd, port=daemon.units["main"].port)
        reply = await asyncio.to_thread(
            launch.prepare,
            order,
            folder=str(folder),
            slots=Slots(slots.opus, slots.sonnet, slots.haiku),
            base_url=f"http://127.0.0.1:{daemon.units['main'].port}",
            key=daemon.keys.main,
            auth=daemon.settings.auth,
            known_models=self.models(),
        )
        daemon.event("session-started", text=f"pid {order.pid}")
        daemon.notes_due = True
        notices = []
        for problem in daemon.problems.values():
            notices.append(f"{problem.what}: {problem.why}" if problem.why else problem.what)
        for unit in daemon.units.values():
            if unit.state.rejected:
                notices.append(
                    f"the newer {unit.name} configuration is not used: {unit.state.rejected.reason}."
                    " Run `occtl config check`."
                )
            elif unit.state.wanted is core.Wanted.STOPPED:
                notices.append(
                    f"the {unit.name} proxy is stopped: its models will not answer. Run `occtl start`."
                )
        reply.notices = [*notices, *reply.notices]
        return reply

    def models(self) -> list[str]:
        """The model groups of main's configuration, as it is being served."""
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


def _ready(p: core.Proxy) -> bool:
    return core.public_state(p, time.monotonic()) == "ready"


def _hopeless(p: core.Proxy) -> bool:
    return core.public_state(p, time.monotonic()) in ("blocked", "crash-loop", "failed")
