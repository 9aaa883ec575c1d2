"""Logs, events and requests: the latest lines, and those to come for who follows."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ocd.adapters.logs import LogFile
from ocd.supervisor.api.http import lines, number, stream
from ocd.supervisor.api.proxy_verbs import unknown_proxy
from ocd.supervisor.observation.exchanges import Exchanges


class Streams:
    """``logs`` are the files by name: each proxy's, and ``daemon``; ``events`` is the events' file."""

    def __init__(self, logs: Mapping[str, LogFile], events: LogFile, exchanges: Exchanges) -> None:
        self._logs = logs
        self._events = events
        self._exchanges = exchanges

    async def logs(self, request: Request) -> Response:
        """``GET /v1/logs/NAME?lines=N&follow=1``"""
        name = request.path_params["name"]
        log = self._logs.get(name)
        if log is None:
            raise unknown_proxy(name, [one for one in self._logs if one != "daemon"])
        return self._of(log, request)

    async def events(self, request: Request) -> Response:
        """``GET /v1/events?lines=N&follow=1``"""
        return self._of(self._events, request)

    async def requests(self, request: Request) -> Response:
        """``GET /v1/requests?lines=N&follow=1``"""
        count, follow = _asked(request)
        found = self._exchanges
        return stream(lines(found.last(count), found.followers if follow else None))

    def _of(self, log: LogFile, request: Request) -> Response:
        count, follow = _asked(request)
        return stream(lines(log.last(count), log.listeners if follow else None))


def _asked(request: Request) -> tuple[int, bool]:
    return int(number(request, "lines", 100)), request.query_params.get("follow", "0") not in (
        "",
        "0",
        "false",
    )
