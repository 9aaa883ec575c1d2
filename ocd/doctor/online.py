"""One smallest real request per slot, through the proxies as Claude Code sends it. Costs money: the caller asks."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ocd.adapters.usage_file import last_seen
from ocd.ctl.daemon import Daemon
from ocd.doctor.report import Row
from ocd.errors import EX_CONFIG, OcdError
from ocd.mask import mask
from ocd.settings.folders import Folders
from ocd.settings.load import Settings, load
from ocd.stack import routes
from ocd.stack.families import SLOTS, made_up
from ocd.stack.models import site_packages
from ocd.stack.stack import Stack
from ocd.stack.swap import read_stack
from ocd.wire.messages import Exchange, Status

#: seconds for one answer
_LIMIT = 60.0
#: what one request is about, in tokens; LiteLLM and the upstream count a little differently
_INPUT, _OUTPUT = 12, 1
#: Nobody's login: Anthropic refuses it, and a refusal by Anthropic itself proves the way there.
_NO_LOGIN = "sk-ant-oat01-nobodys-login-sent-by-occtl-doctor"


@dataclass(frozen=True, slots=True)
class Probe:
    """One request. ``real`` false: the plan's login is missing, only the way to Anthropic can be proved.
    ``price`` in US dollars at list price, None: not known."""

    slot: str
    group: str
    upstream: str
    real: bool
    price: float | None
    #: ``group`` is a name that no model has: Claude Code chooses, and has not asked yet
    made_up: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    url: str
    headers: dict[str, str]
    auth: str
    probes: list[Probe]


def plan() -> Plan:
    """What would be sent. Raises OcdError: exit 69 when the daemon does not run, 78 for a broken configuration."""
    from ocd.settings.keys import load_or_create

    folders = Folders.find()
    settings = load(folders)
    if settings.external.enabled:
        raise OcdError(
            "Sessions use an external LiteLLM server",
            "what it leads to and costs is not known here",
            "Ask it yourself: `curl -X POST $LITELLM_BASE_URL/v1/messages …`",
            exit_code=EX_CONFIG,
            code="external",
        )
    with Daemon() as daemon:
        daemon.get(Status, "/v1/status")
    stack = read_stack(folders, settings)
    site = site_packages(settings.litellm.python or folders.data / "litellm" / "bin" / "python")
    table = _prices(site)
    seen = last_seen(str(folders.state / "usage.db"))
    found = [_probe(slot, settings, stack, table, seen) for slot in SLOTS]
    # A slot that is not pinned and has no route is nobody's: Claude Code may not even have it.
    probes = [one for one in found if one.upstream or routes.slot_group(stack, one.slot)]
    headers = {
        "x-litellm-api-key": f"Bearer {load_or_create(folders).main}",
        "anthropic-version": "2023-06-01",
    }
    if settings.auth == "api-key" and os.environ.get("ANTHROPIC_API_KEY"):
        headers["x-api-key"] = os.environ["ANTHROPIC_API_KEY"]
    elif settings.auth != "none":
        headers |= {
            "authorization": f"Bearer {_NO_LOGIN}",
            "anthropic-beta": "oauth-2025-04-20",
            "x-ocd-probe": "1",
        }
    return Plan(f"http://127.0.0.1:{settings.port}", headers, settings.auth, probes)


def _probe(
    slot: str, settings: Settings, stack: Stack, table: dict[str, Any], seen: Mapping[str, str]
) -> Probe:
    group = routes.asked_in(stack, slot, seen)
    unknown = "*" in group
    if unknown:
        # No name of ours would stay right: a login is refused before the model is looked at, and a route to one
        # model takes any name.
        group = made_up(slot)
    ways = [way for way in routes.find(stack, group) if not way.broken]
    last = ways[0].hops[-1] if ways else None
    login = bool(last and "sent by Claude Code" in last.credential)
    real = not login or (settings.auth == "api-key" and bool(os.environ.get("ANTHROPIC_API_KEY")))
    price = _price(last.model if last else "", table) if real else 0.0
    return Probe(slot, group, last.upstream if last else "", real, price, unknown and login)


def _prices(site: Any) -> dict[str, Any]:
    import json

    try:
        found = json.loads((site / "litellm" / "model_prices_and_context_window_backup.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _price(model: str, table: dict[str, Any]) -> float | None:
    entry = table.get(model) or table.get(model.rpartition("/")[2]) or {}
    try:
        return float(_INPUT * entry["input_cost_per_token"] + _OUTPUT * entry["output_cost_per_token"])
    except (KeyError, TypeError):
        return None


def costs(found: Plan) -> str:
    """What sending the plan costs, in words."""
    total = sum(probe.price or 0.0 for probe in found.probes)
    unknown = [probe.slot for probe in found.probes if probe.price is None]
    text = (
        f"One request per slot, about {_INPUT} tokens in and {_OUTPUT} out: about ${total:.6f} at list price"
    )
    if unknown:
        text += f", plus {', '.join(unknown)}, whose price is not known"
    unproved = [probe.slot for probe in found.probes if not probe.real]
    if unproved:
        text += (
            f". {', '.join(unproved)}: only Claude Code has the login, so only the way to Anthropic is proved, by"
            " its refusal of a made-up one; that costs nothing"
        )
    return text + "."


def send(found: Plan) -> list[Row]:
    """Send them one after the other; a row for each, and one for what it came to."""
    rows, spent, unknown = [], 0.0, 0
    for probe in found.probes:
        begun = time.time()
        status, detail = _ask(found, probe)
        seen = _exchange(probe, begun)
        rows.append(verdict(probe, status, detail, seen))
        if status == 200:
            if seen is None or seen.cost is None:
                unknown += 1
            else:
                spent += seen.cost
    more = f", and {unknown} whose price is not known" if unknown else ""
    rows.append(Row("ok", "online", "cost", f"The requests cost ${spent:.6f} at list price{more}"))
    return rows


def _ask(found: Plan, probe: Probe) -> tuple[int, str]:
    body = {"model": probe.group, "max_tokens": _OUTPUT, "messages": [{"role": "user", "content": "Hi"}]}
    try:
        # no proxy of the environment's between us and the loopback address
        answer = httpx.post(
            f"{found.url}/v1/messages", json=body, headers=found.headers, timeout=_LIMIT, trust_env=False
        )
    except httpx.HTTPError as error:
        return 0, type(error).__name__
    try:
        detail = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        detail = ""
    return answer.status_code, mask(detail)[:200]


def _exchange(probe: Probe, begun: float) -> Exchange | None:
    """The proxy's own account of the request: which host answered, what it cost."""
    try:
        with Daemon() as daemon:
            for _ in range(20):
                found = [
                    one
                    for one in daemon.lines(Exchange, "/v1/requests", lines=50)
                    if one.time >= begun - 1 and one.model == probe.group and not one.hop
                ]
                if found:
                    return found[-1]
                # it comes over the guest's socket, just after the answer
                time.sleep(0.05)
    except OcdError:
        pass
    return None


def verdict(probe: Probe, status: int, detail: str, seen: Exchange | None) -> Row:
    """What one answer means. ``status`` 0: there was none, ``detail`` says why."""
    host = (seen.upstream if seen else "") or probe.upstream
    who = f"{probe.slot} ({probe.group})"
    if status == 200:
        return Row("ok", "online", "answered", f"{who}: {host} answered")
    if not probe.real and status == 401:
        if seen is not None and seen.upstream:
            what = f"{who}: the way to {host} is open"
            why = "it refused a made-up login itself; whether yours is good is seen when Claude Code asks"
            return Row("ok", "online", "reachable", what, why)
        what = f"{who}: the way to Anthropic is not proved"
        return Row("warning", "online", "unproved", what, "something on the way said 401", "`occtl status`")
    if probe.made_up and status == 404 and seen is not None and seen.upstream:
        what = f"{probe.slot}: the way to {host} is open, and the credential is good"
        return Row("ok", "online", "reachable", what, "it was asked for a model that does not exist")
    why = f"{status}: {detail}" if status else detail
    # who answers for AWS says it with many numbers: 401, 403, 404, 500
    fix = (
        "`occtl aws status`, then `occtl status`" if "bedrock" in host or "aws" in host else "`occtl status`"
    )
    return Row("error", "online", "refused", f"{who} was not answered by {host}", why, fix)
