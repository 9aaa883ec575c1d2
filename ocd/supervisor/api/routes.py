"""The table of the control API (``docs/api.md``): one function a verb."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ocd.supervisor.api.daemon_verbs import DaemonVerbs
from ocd.supervisor.api.http import guarded
from ocd.supervisor.api.launching import Launching
from ocd.supervisor.api.proxy_verbs import ProxyVerbs
from ocd.supervisor.api.streams import Streams
from ocd.supervisor.api.trace_verbs import TraceVerbs


def routes(
    daemon: DaemonVerbs, proxies: ProxyVerbs, streams: Streams, launching: Launching, trace: TraceVerbs
) -> list[Route]:
    """All routes of the API; an OcdError that a verb raises is its answer."""
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/v1/version", daemon.version),
        ("GET", "/v1/status", daemon.status),
        ("POST", "/v1/launch", launching.launch),
        ("POST", "/v1/reload", daemon.reload),
        ("POST", "/v1/proxies/{name}/{verb}", proxies.change),
        ("GET", "/v1/proxies/{name}/wait", proxies.wait),
        ("GET", "/v1/logs/{name}", streams.logs),
        ("GET", "/v1/events", streams.events),
        ("GET", "/v1/requests", streams.requests),
        ("POST", "/v1/usage/write", daemon.write_usage),
        ("POST", "/v1/trace", trace.trace),
        ("GET", "/v1/config", daemon.config),
        ("GET", "/metrics", daemon.metrics),
        ("POST", "/v1/shutdown", daemon.shutdown),
        ("POST", "/v1/reexec", daemon.reexec),
    ]
    return [Route(path, guarded(call), methods=[method]) for method, path, call in table]
