"""The verbs that concern the daemon as a whole."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from ocd import __version__
from ocd.core import state as core
from ocd.supervisor.api.http import json_response, message_of
from ocd.supervisor.api.proxy_verbs import ProxyVerbs
from ocd.supervisor.files.reload import Reload
from ocd.supervisor.observation.metrics import CONTENT_TYPE
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import ConfigReply, Outcome, ReloadRequest, Status, Version

#: seconds between two questions to the processes that serve, however often the status is looked at
ASK_PAUSE = 0.5


class DaemonVerbs:
    """``config`` says where the files are and what is set, ``write_usage`` returns why it could not write."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        proxies: ProxyVerbs,
        reload: Reload,
        status: Callable[[], Status],
        exposition: Callable[[], str],
        config: Callable[[], ConfigReply],
        write_usage: Callable[[], Awaitable[str]],
        shutdown: Callable[[], None],
        reexec: Callable[[], None],
    ) -> None:
        self._runners = runners
        self._proxies = proxies
        self._reload = reload
        self._status = status
        self._exposition = exposition
        self._config = config
        self._write_usage = write_usage
        self._shutdown = shutdown
        self._reexec = reexec
        self._asked = 0.0

    async def version(self, _request: Request) -> Response:
        """``GET /v1/version``"""
        return json_response(Version(version=__version__, pid=os.getpid(), litellm=self._status().litellm))

    async def status(self, _request: Request) -> Response:
        """``GET /v1/status``"""
        self._ask_members()
        return json_response(self._status())

    def _ask_members(self) -> None:
        """Have who serves tell its numbers again: whoever looks again soon sees what is in flight now."""
        now = time.monotonic()
        if now - self._asked < ASK_PAUSE:
            return
        self._asked = now
        for runner in self._runners.values():
            for member in runner.state.members:
                channel = runner.guests.channels.get(member.generation)
                if member.phase_is(core.Serving) and channel is not None and channel.has_room():
                    channel.send("status")

    async def reload(self, request: Request) -> Response:
        """``POST /v1/reload``"""
        order = await message_of(request, ReloadRequest)
        if order.proxy is not None:
            self._proxies.find(order.proxy)
        if order.dry_run:
            return json_response(await self._reload.reload("dry run", order.proxy, dry_run=True))
        return json_response(await self._reload.reload_and_wait(order.proxy))

    async def write_usage(self, _request: Request) -> Response:
        """``POST /v1/usage/write``"""
        reason = await self._write_usage()
        return json_response(Outcome(ok=not reason, reason=reason))

    async def metrics(self, _request: Request) -> Response:
        """``GET /metrics``"""
        return Response(self._exposition(), headers={"content-type": CONTENT_TYPE})

    async def config(self, _request: Request) -> Response:
        """``GET /v1/config``"""
        return json_response(self._config())

    async def shutdown(self, _request: Request) -> Response:
        """``POST /v1/shutdown``"""
        self._shutdown()
        return json_response(Outcome(ok=True, changed=True, reason="draining, then the daemon ends"))

    async def reexec(self, _request: Request) -> Response:
        """``POST /v1/reexec``"""
        asyncio.get_running_loop().call_later(0.1, self._reexec)
        return json_response(
            Outcome(ok=True, changed=True, reason="the daemon replaces its code; the proxies go on")
        )
