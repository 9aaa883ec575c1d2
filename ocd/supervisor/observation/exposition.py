"""What ``GET /metrics`` says, as OpenMetrics text: what was counted, and the rest looked up when asked."""

from collections.abc import Mapping

from ocd.core.state import State
from ocd.supervisor.observation.metrics import Counts
from ocd.supervisor.observation.openmetrics import Family, render
from ocd.wire.messages import Status


def exposition(status: Status, counts: Counts, refused: Mapping[str, int], misunderstood: int) -> str:
    """All figures as OpenMetrics text. ``refused`` are the credentials that each proxy's boundary refused,
    ``misunderstood`` the reports of requests that were not understood."""
    up = Family("ocd_proxy_up", "gauge", "1: the proxy serves, or will at the next connection (idle).")
    state = Family("ocd_proxy_state", "gauge", "1 for the state that the proxy is in.")
    restarts = Family("ocd_restarts", "counter", "New processes in the place of one that ended.")
    memory = Family(
        "ocd_memory_bytes",
        "gauge",
        "Memory of a proxy's processes: PSS, which divides shared pages, or RSS where there is no PSS.",
        "bytes",
    )
    members = Family("ocd_processes", "gauge", "Processes of a proxy.")
    in_flight = Family("ocd_in_flight_requests", "gauge", "Requests that are being answered now.")
    fallbacks = Family("ocd_fallbacks", "counter", "Requests that moved to another model group.")
    refusals = Family(
        "ocd_refused_credentials", "counter", "Requests refused for a credential in the wrong place."
    )
    troubles = Family("ocd_upstream_trouble", "gauge", "1: an upstream answers so until a request succeeds.")
    for name, proxy in status.proxies.items():
        up.add(proxy.state.well, proxy=name)
        for one in State:
            state.add(one == proxy.state, proxy=name, state=one)
        restarts.add(proxy.restarts, proxy=name)
        memory.add(sum(member.memory or 0 for member in proxy.members), proxy=name)
        members.add(len(proxy.members), proxy=name)
        flying = [member.in_flight for member in proxy.members if member.in_flight is not None]
        if flying:
            in_flight.add(sum(flying), proxy=name)
        fallbacks.add(proxy.fallbacks, proxy=name)
        refusals.add(refused.get(name, 0), proxy=name)
        for trouble in {(found.kind, found.slot) for found in proxy.troubles}:
            troubles.add(1, proxy=name, trouble=trouble[0], slot=trouble[1])
    info = Family("ocd_build", "info", "Versions.").add(1, version=status.version, litellm=status.litellm)
    since = Family("ocd_start_time_seconds", "gauge", "When the daemon started.", "seconds").add(status.since)
    sessions = Family("ocd_sessions", "gauge", "Living openclaude processes.").add(len(status.sessions))
    problems = Family("ocd_problems", "gauge", "Problems that `occtl status` shows.").add(
        len(status.problems)
    )
    lost = Family("ocd_dropped_reports", "counter", "Reports of requests that were not understood.")
    lost.add(misunderstood)
    used = Family("ocd_plan_used_ratio", "gauge", "Share of a plan's limit that is used, by window.", "ratio")
    reset = Family("ocd_plan_reset_seconds", "gauge", "When the window begins again.", "seconds")
    spilling = Family("ocd_plan_spilling", "gauge", "1: the login's requests go to AWS until the reset.")
    for login in status.limits:
        spilling.add(login.spilling, login=login.login)
        for window in login.windows:
            used.add(window.used, login=login.login, window=window.name)
            if window.reset is not None:
                reset.add(window.reset, login=login.login, window=window.name)
    standing = [
        used,
        reset,
        spilling,
        up,
        state,
        restarts,
        memory,
        members,
        in_flight,
        fallbacks,
        refusals,
        troubles,
    ]
    return render([info, since, sessions, problems, lost, *standing, *requests_of(counts)])


def requests_of(counts: Counts) -> list[Family]:
    """What was counted of requests."""
    requests = Family("ocd_requests", "counter", "Answered requests; trouble is empty when all went well.")
    for (proxy, slot, model, status, trouble), count in counts.requests.items():
        requests.add(count, proxy=proxy, slot=slot, model=model, status=status, trouble=trouble)
    tokens = Family("ocd_tokens", "counter", "Tokens as the upstream counted them; a hop is in both proxies.")
    for (proxy, slot, model, kind), count in counts.tokens.items():
        tokens.add(count, proxy=proxy, slot=slot, model=model, kind=kind)
    seconds = Family(
        "ocd_request_seconds", "histogram", "From the request to the end of its answer.", "seconds"
    )
    for (proxy, slot), histogram in counts.seconds.items():
        seconds.add_histogram(histogram, proxy=proxy, slot=slot)
    first = Family(
        "ocd_first_token_seconds",
        "histogram",
        "From the request to the first token of a stream.",
        "seconds",
    )
    for (proxy, slot), histogram in counts.first.items():
        first.add_histogram(histogram, proxy=proxy, slot=slot)
    return [requests, tokens, seconds, first]
