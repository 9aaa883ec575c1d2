"""Start, stop, restart a proxy; wait for a state of it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from ocd.core import state as core
from ocd.core import step as transitions
from ocd.errors import EX_CONFIG, EX_USAGE, OcdError
from ocd.settings.schema import Supervision
from ocd.supervisor.api.http import json_response, number
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Outcome

#: seconds for the keeper to close a port; another program may have it by then, and answers in its place
CLOSING = 1.0


class ProxyVerbs:
    """``times`` are the settings that say how long something may take."""

    def __init__(self, runners: Mapping[str, Runner], times: Callable[[], Supervision]) -> None:
        self._runners = runners
        self._times = times

    async def change(self, request: Request) -> Response:
        """``POST /v1/proxies/NAME/VERB``"""
        runner = self.find(request.path_params["name"])
        verb = request.path_params["verb"]
        before = runner.state
        if not before.enabled and verb in ("start", "restart"):
            reason, step = runner.explain()
            raise OcdError(
                f"the {runner.name} proxy is switched off", reason, step, exit_code=EX_CONFIG, code="disabled"
            )
        match verb:
            case "stop":
                done = await self._stop(runner)
            case "start":
                done = await self._start(runner, transitions.Want(core.Wanted.UP))
            case "restart":
                up = transitions.Restart() if before.members else transitions.Want(core.Wanted.UP)
                done = await self._start(runner, up)
            case _:
                raise OcdError(
                    f"there is no verb {verb!r}",
                    "known are start, stop, restart",
                    exit_code=EX_USAGE,
                    code="not-found",
                )
        state = core.state_of(runner.state)
        changed = before.members != runner.state.members
        reason = "" if done else runner.explain()[0] or f"it is {state}"
        return json_response(Outcome(ok=done, changed=changed, reason=reason, proxies={runner.name: state}))

    async def _stop(self, runner: Runner) -> bool:
        before = runner.state.ports.open
        runner.feed(transitions.Want(core.Wanted.STOPPED))
        limit = self._times().drain_timeout + 2 * self._times().stop_timeout
        done = await runner.wait(lambda p: not p.members or p.wanted is not core.Wanted.STOPPED, limit)
        await _closed(before - runner.state.ports.open)
        return done

    async def _start(self, runner: Runner, event: transitions.Event) -> bool:
        runner.feed(event)
        limit = self._times().start_timeout * 2 + 30
        done = await runner.wait(
            lambda p: core.settled(p) or core.state_of(p).hopeless or p.wanted is not core.Wanted.UP, limit
        )
        return done and core.settled(runner.state) and runner.state.wanted is core.Wanted.UP

    async def wait(self, request: Request) -> Response:
        """``GET /v1/proxies/NAME/wait?for=STATE&timeout=SECONDS``"""
        runner = self.find(request.path_params["name"])
        wanted = request.query_params.get("for", "ready")
        limit = number(request, "timeout", 60.0)
        met = await runner.wait(lambda p: core.state_of(p) == wanted, limit)
        state = core.state_of(runner.state)
        reason = "" if met else f"after {limit:g} s it is {state}. {runner.explain()[0]}".strip()
        return json_response(Outcome(ok=met, reason=reason, proxies={runner.name: state}))

    def find(self, name: str) -> Runner:
        """The proxy of that name. Raises OcdError (code ``not-found``)."""
        runner = self._runners.get(name)
        if runner is None:
            raise unknown_proxy(name, self._runners)
        return runner


async def _closed(ports: Iterable[int]) -> None:
    """Wait until the keeper has closed these: whoever stops a proxy may want its port at once."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING):
            for port in ports:
                while True:
                    try:
                        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        break
                    writer.close()
                    await asyncio.sleep(0.005)


def unknown_proxy(name: str, known: Iterable[str]) -> OcdError:
    """What is said to somebody who names a proxy that there is not."""
    return OcdError(
        f"there is no proxy {name!r}", f"there are {', '.join(known)}", exit_code=EX_USAGE, code="not-found"
    )
