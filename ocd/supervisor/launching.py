"""``POST /v1/launch``: is everything ready for a session? Then the overlay; else what is being waited for."""

import asyncio
import os
import time
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from ocd import API_VERSION
from ocd.adapters import external
from ocd.claude import launch, plan
from ocd.claude.overlay import Slots
from ocd.core import state as core
from ocd.core.state import State
from ocd.errors import EX_CONFIG, EX_NOPERM, EX_UNAVAILABLE, OcdError
from ocd.settings import external_key
from ocd.wire.messages import LaunchReply, LaunchRequest

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon
    from ocd.supervisor.unit import Unit

PLAN = "text/x-ocd-exec"
#: a LiteLLM elsewhere: how long one question may take, how long a good answer holds (seconds)
IDENTITY_TIMEOUT = 5.0
IDENTITY_SECONDS = 30.0


class Launching:
    def __init__(self, daemon: "Daemon") -> None:
        self.daemon = daemon
        self._elsewhere_known: tuple[tuple[str, int], float, list[str]] | None = None

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
        if daemon.settings.external.enabled:
            return await self._elsewhere(order)
        daemon.idle.touch()
        daemon.idle.wake("openclaude")
        deadline = time.monotonic() + order.wait
        needed = [unit for unit in daemon.units.values() if self._needed(unit)]
        for unit in needed:
            self._refuse_if_hopeless(unit)
            await unit.wait(lambda p: _ready(p) or _hopeless(p), max(0.0, deadline - time.monotonic()))
            self._refuse_if_hopeless(unit)
        waiting = [unit for unit in needed if not (_ready(unit.state) or _hopeless(unit.state))]
        if waiting:
            return LaunchReply(ready=False, progress="; ".join(self._progress(unit) for unit in waiting))
        return await self._prepare(order)

    def _needed(self, unit: "Unit") -> bool:
        if unit.state.wanted is core.Wanted.STOPPED:
            if unit.name == "main":
                off = not unit.state.enabled
                status = unit.status()
                raise OcdError(
                    f"the main proxy is {'switched off' if off else 'stopped'}",
                    status.reason,
                    status.next_step or "Run `occtl start`",
                    exit_code=EX_CONFIG if off else EX_UNAVAILABLE,
                    code="disabled" if off else "stopped",
                )
            return False
        return True

    def _refuse_if_hopeless(self, unit: "Unit") -> None:
        # Each slot needs its own proxy only: without the other one a session can still ask for Claude's models.
        if unit.name != "main" or not _hopeless(unit.state):
            return
        status = unit.status()
        raise OcdError(
            f"the {unit.name} proxy does not serve",
            status.reason or status.state,
            status.next_step or "See `occtl status`",
            exit_code=EX_CONFIG if status.state == State.FAILED else EX_UNAVAILABLE,
            code=status.state,
        )

    def _progress(self, unit: "Unit") -> str:
        state = core.state_of(unit.state)
        seconds = time.monotonic() - unit.state.since
        why = unit.status().reason
        return f"{unit.name} is {state}, {seconds:.0f} s" + (f" ({why})" if why else "")

    async def _prepare(self, order: LaunchRequest) -> LaunchReply:
        daemon = self.daemon
        daemon.sessions.add(order.pid, order.cwd, port=daemon.units["main"].port)
        # From now on the port is its; a `stop` may come before anything else does.
        daemon.hold_ports()
        reply = await asyncio.to_thread(
            launch.prepare,
            order,
            folder=daemon.overlays.folder,
            served=daemon.overlays.served(),
            isolation=daemon.settings.isolation,
        )
        daemon.event("session-started", text=f"pid {order.pid}")
        daemon.note_soon()
        notices = []
        for problem in daemon.problems.values():
            told = f"{problem.what}: {problem.why}" if problem.why else problem.what
            notices.append(f"{told}. {problem.next}" if problem.next else told)
        for unit in daemon.units.values():
            if unit.state.rejected:
                notices.append(
                    f"the newer {unit.name} configuration is not used: {unit.state.rejected.reason}."
                    " Run `occtl config check`."
                )
            elif unit.name != "main" and _hopeless(unit.state):
                status = unit.status()
                notices.append(
                    f"the {unit.name} proxy does not serve, its models will not answer: "
                    f"{status.reason or status.state}. {status.next_step or 'See `occtl status`'}"
                )
            elif unit.state.enabled and unit.state.wanted is core.Wanted.STOPPED:
                notices.append(
                    f"the {unit.name} proxy is stopped: its models will not answer. Run `occtl start`."
                )
        reply.notices = [*notices, *reply.notices]
        return reply

    async def _elsewhere(self, order: LaunchRequest) -> LaunchReply:
        """A LiteLLM that somebody else runs: be sure that it is one, then send Claude Code there."""
        daemon = self.daemon
        settings = daemon.settings
        key = external_key.load(daemon.folders, os.environ)
        url = settings.external.base_url
        if not url:
            raise OcdError(
                "There is no address of the LiteLLM elsewhere",
                "base_url under [external] in ocd.toml is empty",
                "Run `LITELLM_BASE_URL=https://… occtl init --preset external`",
                exit_code=EX_CONFIG,
                code="no-external-address",
            )
        try:
            known = await asyncio.to_thread(self._identity, url, key)
        except external.KeyRefused as error:
            raise OcdError(
                f"The LiteLLM at {url} refuses the key",
                str(error),
                f"Run `{external_key.VARIABLE}=… occtl init --preset external` with the right one",
                exit_code=EX_NOPERM,
                code="external-key-refused",
            ) from None
        except external.NotLiteLLM as error:
            raise OcdError(
                f"What answers at {url} is no LiteLLM",
                str(error),
                "Correct base_url under [external] in ocd.toml, then `occtl reload`",
                exit_code=EX_CONFIG,
                code="external-not-litellm",
            ) from None
        except external.NotThere as error:
            raise OcdError(
                f"No LiteLLM answers at {url}",
                str(error),
                "Start it there, or correct base_url under [external] in ocd.toml",
                exit_code=EX_UNAVAILABLE,
                code="external-not-there",
            ) from None
        daemon.sessions.add(order.pid, order.cwd)
        reply = await asyncio.to_thread(
            launch.prepare,
            order,
            folder=daemon.overlays.folder,
            served=launch.Served(Slots(**settings.slots.model_dump()), url, key, settings.auth, known),
            isolation=settings.isolation,
        )
        daemon.event("session-started", text=f"pid {order.pid}")
        daemon.note_soon()
        notices = []
        if settings.auth != "none":
            notices.append(f"this session's login goes to {url}: only send it to a LiteLLM that is yours")
        if url.startswith("http://") and not external.is_loopback(url):
            notices.append(f"{url} is not encrypted: others on the way can read key and conversation")
        reply.notices = [*notices, *reply.notices]
        return reply

    def _identity(self, url: str, key: str) -> list[str]:
        """Its model groups; asked anew when the last good answer is older than IDENTITY_SECONDS."""
        now = time.monotonic()
        asked = (url, hash(key))
        if (
            self._elsewhere_known is None
            or self._elsewhere_known[0] != asked
            or self._elsewhere_known[1] < now
        ):
            found = external.identify(url, key, IDENTITY_TIMEOUT)
            self._elsewhere_known = (asked, now + IDENTITY_SECONDS, list(found.models))
        return self._elsewhere_known[2]


def _ready(p: core.Proxy) -> bool:
    return core.state_of(p) is State.READY


def _hopeless(p: core.Proxy) -> bool:
    return core.state_of(p).hopeless
