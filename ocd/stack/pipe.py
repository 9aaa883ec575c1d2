"""Which way requests for each model group of the main proxy take, and why: the table that its guest gets.

Three ways (docs/decisions/0009): ``anthropic``, bytes to Anthropic with the session's own login; ``hop``, bytes to the
bedrock proxy with that proxy's key; ``litellm``, through LiteLLM as its file says. The first two are taken where they
come to the same, apart from what LiteLLM would lose. That is decided by an open rule: what is known to change nothing
about those requests is listed here, and any other key sends its route, or the whole file, to LiteLLM, with the reason.

Pure: reads what is already parsed. The table holds no secret; ``os.environ/NAME`` stays as it is written.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ocd.stack import families
from ocd.stack import routes as ways_of
from ocd.stack.litellm_file import LiteLLMFile, Where
from ocd.stack.stack import AWS, ENVIRON, LOOPBACK, Route, Stack, port_of, routes, serves, url_of

#: the table's name beside the LiteLLM file of each revision
FILE = "ocd-pipe.json"
ANTHROPIC, HOP, LITELLM = "anthropic", "hop", "litellm"
DEFAULT_BASE = "https://api.anthropic.com"
FALLBACKS = "fallbacks"

#: Keys that say nothing about a request that goes on as it came (LiteLLM 1.90 to 1.110): they are about translation,
#: retries within LiteLLM, logs, its admin side, or are read here (timeouts, fallbacks, aliases).
HARMLESS: dict[str, frozenset[str]] = {
    "litellm_settings": frozenset(
        {
            *("drop_params", "modify_params", "use_chat_completions_url_for_anthropic_messages"),
            *(
                "num_retries",
                "request_timeout",
                "telemetry",
                "set_verbose",
                "json_logs",
                "suppress_debug_info",
            ),
            *("turn_off_message_logging", "redact_user_api_key_info", "log_raw_request_response"),
            *("fallbacks", "default_fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
            *("model_cost_map_url", "custom_prometheus_metadata_labels", "aiohttp_trust_env"),
            *("disable_aiohttp_transport", "use_aiohttp_transport", "enable_json_schema_validation"),
        }
    ),
    "router_settings": frozenset(
        {
            *(
                "num_retries",
                "max_retries",
                "retry_after",
                "disable_cooldowns",
                "allowed_fails",
                "cooldown_time",
            ),
            *("timeout", "stream_timeout", "routing_strategy", "model_group_alias", "max_fallbacks"),
            *("fallbacks", "default_fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
            *("set_verbose", "debug_level", "retry_policy", "allowed_fails_policy"),
        }
    ),
    "general_settings": frozenset(
        {
            *("master_key", "forward_client_headers_to_llm_api", "health_check_interval"),
            *("background_health_checks", "health_check_details", "disable_spend_logs", "disable_error_logs"),
            *("disable_spend_updates", "proxy_batch_write_at", "disable_master_key_return", "ui_access_mode"),
            *("infer_model_from_keys", "use_redis_transaction_buffer", "allow_requests_on_db_unavailable"),
        }
    ),
}
#: sections that say nothing about requests, or are judged by themselves
SECTIONS = frozenset({"model_list", "include", *HARMLESS})
#: what else an entry of model_list may have
ENTRY = frozenset({"model_name", "litellm_params", "model_info"})
#: keys of ``litellm_params`` that a request which goes on as it came does not need
PARAMS = frozenset(
    {
        *("model", "api_base", "base_url", "custom_llm_provider", "timeout", "stream_timeout"),
        *(
            "max_retries",
            "num_retries",
            "weight",
            "order",
            "drop_params",
            "modify_params",
            "use_in_pass_through",
        ),
        *("use_chat_completions_url_for_anthropic_messages", "mock_response_delay"),
    }
)
_COST = ("_cost_per_token", "_cost_per_second", "_cost_per_pixel", "_cost_per_character", "_cost_per_query")
#: off, and off means that it does nothing; a switch whose default is on must not stand here
_DEFAULT_ON = ("ssl_", "verify")
#: variables of [proxies.main.env] that make LiteLLM keep records of requests
_DATABASES = ("DATABASE_URL", "DIRECT_URL", "DATABASE_HOST", "REDIS_URL", "REDIS_HOST")
#: options of the litellm command that say nothing about requests
_ARGS = frozenset({"--debug", "--detailed_debug", "--telemetry", "--keepalive_timeout", "--log_config"})
#: providers that speak OpenAI's protocol with whatever stands at api_base: what a hop is written with
_OPENAI = frozenset({"openai", "litellm_proxy", "hosted_vllm", "custom_openai", "openai_like"})
_OWN_KEY = "api_key: the route has a key of its own"


@dataclass(frozen=True, slots=True)
class Way:
    """``way``: anthropic, hop or litellm, ``why`` in words. ``base``: the address, ``model``: what is asked for there,
    a wildcard included. ``where``: what in the file decided against the pipe."""

    group: str
    way: str
    why: str
    base: str = ""
    model: str = ""
    timeout: float | None = None
    where: Where = ()


def whole(stack: Stack) -> tuple[str, Where]:
    """Why everything goes to LiteLLM, and which key says so; an empty text: nothing does."""
    if stack.settings.litellm.pipe == "off":
        return 'pipe = "off" in ocd.toml', ()
    file = stack.main
    if file is None:
        return "litellm.yaml cannot be read", ()
    for argument in stack.settings.litellm.args:
        name = argument.partition("=")[0]
        if name.startswith("-") and name not in _ARGS:
            return f"litellm.args in ocd.toml has {name}", ()
    for name in _DATABASES:
        if name in stack.settings.proxies.main.env:
            return f"{name} in [proxies.main.env]: LiteLLM keeps records of requests", ()
    for section, value in file.data.items():
        if section not in SECTIONS and not _is_off(section, value):
            return f"{section}: LiteLLM may want to see every request", (section,)
        for key, inner in value.items() if section in HARMLESS and isinstance(value, dict) else ():
            if key not in HARMLESS[section] and not _is_off(str(key), inner):
                return f"{section}.{key}: LiteLLM may want to see every request", (section, key)
    return "", ()


def _is_off(key: str, value: Any) -> bool:
    if value is False:
        return not key.startswith(_DEFAULT_ON)
    return value is None or value == "" or value == [] or value == {}


def ways(stack: Stack) -> list[Way]:
    """One for each model group of the main file, wildcards included."""
    reason, where = whole(stack)
    groups: dict[str, list[Route]] = {}
    for route in routes(stack.main):
        groups.setdefault(route.name, []).append(route)
    found = []
    for name, members in groups.items():
        if reason:
            found.append(Way(name, LITELLM, reason, where=where))
            continue
        each = [_one(stack, route) for route in members]
        first = next((way for way in each if way.way == LITELLM), each[0])
        if len({(way.way, way.base, way.model) for way in each}) > 1 and first.way != LITELLM:
            first = Way(name, LITELLM, "several deployments: LiteLLM takes turns", where=members[1].at())
        found.append(_with_fallbacks(stack, first))
    return found


def _with_fallbacks(stack: Stack, way: Way) -> Way:
    """Fallbacks by the content of an error are LiteLLM's: nobody else reads it."""
    if way.way == LITELLM or stack.main is None:
        return way
    for key in ("context_window_fallbacks", "content_policy_fallbacks"):
        for section in ("router_settings", "litellm_settings"):
            sources = _sources(stack.main, section, key)
            if way.group in sources or "*" in sources:
                return Way(way.group, LITELLM, f"{section}.{key} names it", where=(section, key))
    return way


def _one(stack: Stack, route: Route) -> Way:
    hop = is_own_hop(stack, route)
    if not hop and route.provider != "anthropic":
        kind = f"the provider {route.provider}" if route.provider else f"the model {route.model}"
        return Way(route.name, LITELLM, f"{kind} needs LiteLLM's translation", where=route.at("model"))
    for key, value in route.params.items():
        if key == "api_key":
            if not hop and value not in (None, ""):
                return Way(route.name, LITELLM, _OWN_KEY, where=route.at("api_key"))
            continue
        if key in PARAMS or key.endswith(_COST) or value is None or value == [] or value == {}:
            continue
        return Way(
            route.name, LITELLM, f"litellm_params.{key}: LiteLLM has to see to it", where=route.at(key)
        )
    assert stack.main is not None
    entries = stack.main.data.get("model_list")
    entry = entries[route.index] if isinstance(entries, list) else {}
    for key in entry:
        if key not in ENTRY:
            return Way(
                route.name,
                LITELLM,
                f"{key}: LiteLLM has to see to it",
                where=("model_list", route.index, key),
            )
    timeout = _timeout(stack.main, route)
    head, slash, model = route.model.partition("/")
    asked = model if slash and (hop or head == "anthropic") else route.model
    if hop:
        if team := stack.settings.team.url:
            why = f"the Messages API of {team}, with your key for it and none of the session's"
            return Way(route.name, HOP, why, f"{ENVIRON}OCD_BEDROCK_URL", asked, timeout)
        why = "the bedrock proxy's own /v1/messages, with its own key and none of the session's"
        return Way(route.name, HOP, why, f"{ENVIRON}OCD_BEDROCK_URL", asked, timeout)
    base = route.base or _default_base(stack.settings.proxies.main.env)
    if trouble := _unusable(base):
        return Way(route.name, LITELLM, f"{route.base_key}: {trouble}", where=route.at(route.base_key))
    why = "to Anthropic byte for byte, with the session's own login; without one through LiteLLM"
    return Way(route.name, ANTHROPIC, why, base, asked, timeout)


def is_own_hop(stack: Stack, route: Route) -> bool:
    """Whether a route really leads to our bedrock proxy, with its key."""
    if route.provider not in _OPENAI:
        return False
    if stack.settings.team.url:
        own = (f"{ENVIRON}OCD_BEDROCK_URL", f"{ENVIRON}OCD_BEDROCK_KEY")
        return (route.base, route.params.get("api_key")) == own
    if not stack.settings.proxies.bedrock.enabled:
        return False
    key = route.params.get("api_key")
    theirs = stack.bedrock.section("general_settings").get("master_key") if stack.bedrock else None
    if key != f"{ENVIRON}OCD_BEDROCK_KEY" and (key is None or key != theirs):
        return False
    if route.base == f"{ENVIRON}OCD_BEDROCK_URL":
        return True
    url = route.url
    return url is not None and url.hostname in LOOPBACK and port_of(url) == stack.settings.ports()["bedrock"]


def _default_base(env: Mapping[str, Any]) -> str:
    """Where LiteLLM looks for Anthropic's address when the route has none."""
    for name in ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"):
        if name in env:
            return f"{ENVIRON}{name}"
    return DEFAULT_BASE


def _unusable(base: str) -> str:
    if base.startswith(ENVIRON):
        return ""
    url = url_of(base)
    if url is None or url.scheme not in ("http", "https"):
        return "not an address that can be asked directly"
    if urlsplit(base).username is not None:
        return "the address has a user name in it"
    return "the address has a query in it" if url.query or url.fragment else ""


def _timeout(file: LiteLLMFile, route: Route) -> float | None:
    """Seconds until an answer has to begin: the route's, else the router's, else LiteLLM's own setting if it is set."""
    for holder, key in (
        (route.params, "timeout"),
        (file.section("router_settings"), "timeout"),
        (file.section("litellm_settings"), "request_timeout"),
    ):
        value = holder.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


# ---------------------------------------------------------------------------------------------- fallbacks


def fallbacks(file: LiteLLMFile | None) -> dict[str, list[str]]:
    """Group → the groups that may answer instead, as LiteLLM reads it; "*" stands for all that have none."""
    found: dict[str, list[str]] = {}
    if file is None:
        return found
    for section in ("litellm_settings", "router_settings"):
        for entry in _list(file.section(section).get(FALLBACKS)):
            for source, targets in entry.items() if isinstance(entry, dict) else ():
                found[str(source)] = list(_names(targets))
        if plain := list(_names(file.section(section).get("default_fallbacks"))):
            found.setdefault("*", plain)
    return {source: targets for source, targets in found.items() if targets}


def _sources(file: LiteLLMFile, section: str, key: str) -> set[str]:
    return {
        str(source)
        for entry in _list(file.section(section).get(key))
        if isinstance(entry, dict)
        for source in entry
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(targets: Any) -> Iterator[str]:
    for one in targets if isinstance(targets, list) else [targets]:
        name = one.get("model") if isinstance(one, dict) else one
        if isinstance(name, str) and name:
            yield name


def search(stack: Stack) -> tuple[str, str]:
    """The model that answers requests with tools of Anthropic's servers ([search]), and why it cannot; both may be
    empty. Of a slot that is not pinned it is the newest of its family that LiteLLM's table knows."""
    slot = stack.settings.search.slot
    if not slot:
        return "", ""
    name = ways_of.plain_name(slot)
    if slot in families.SLOTS:
        name = ways_of.slot_group(stack, slot) or (stack.ids.newest(slot) if stack.ids else "")
        if not name:
            return "", f"no model of the {slot} family is known"
    way = find(stack, name, ways(stack))
    if way is None:
        return name, f"no model group of litellm.yaml serves {name}"
    if way.way == ANTHROPIC:
        return name, ""
    where = (
        "leads to the bedrock proxy, which cannot either" if way.way == HOP else f"is LiteLLM's: {way.why}"
    )
    return name, f"{name} {where}"


# ---------------------------------------------------------------------------------------------- the tables


def table(stack: Stack, proxy: str) -> dict[str, Any]:
    """What the guest gets as ``spec["pipe"]``: plain data, no secret.

    ``groups``: name → ``way``, ``base``, ``model``, ``timeout``, ``why``; ``provider``, ``host`` and ``asks`` name the
    upstream of what LiteLLM routes. ``aliases``: other names of groups. ``fallbacks``: as ``fallbacks`` returns them.
    ``search``: ``model`` is who answers where a tool needs Anthropic's servers.
    """
    file = stack.main if proxy == "main" else stack.bedrock
    if file is None:
        return {}
    found: dict[str, Any] = {"groups": {}, "aliases": aliases(file)}
    decided = {way.group: way for way in ways(stack)} if proxy == "main" else {}
    for route in routes(file):
        if route.name in found["groups"]:
            continue
        way = decided.get(route.name) or Way(route.name, LITELLM, "")
        entry: dict[str, Any] = {"way": way.way, "why": way.why}
        if way.way == LITELLM:
            entry |= _named(stack, route)
        else:
            entry |= {
                "base": way.base,
                "model": way.model,
                "provider": "anthropic" if way.way == ANTHROPIC else "hop",
            }
            if way.timeout:
                entry["timeout"] = way.timeout
        found["groups"][route.name] = entry
    if proxy == "main":
        found["fallbacks"] = fallbacks(file)
        model, trouble = search(stack)
        if model and not trouble:
            found["search"] = {"model": model}
    return found


def _named(stack: Stack, route: Route) -> dict[str, str]:
    address = ways_of.upstream(stack, route)
    parts = urlsplit(address) if "://" in address else None
    provider = "bedrock" if route.provider in AWS else route.provider
    if stack.is_hop(route):
        return {
            "provider": "bedrock",
            "host": "bedrock",
            "asks": route.model.partition("/")[2] or route.model,
        }
    return {
        "provider": provider,
        "host": (parts.hostname or "") if parts else "",
        "asks": route.model.rpartition("/")[2],
    }


def aliases(file: LiteLLMFile) -> dict[str, str]:
    """Other names of model groups: ``router_settings.model_group_alias``."""
    value = file.section("router_settings").get("model_group_alias")
    found = {}
    for name, target in value.items() if isinstance(value, dict) else ():
        group = target.get("model") if isinstance(target, dict) else target
        if isinstance(group, str):
            found[str(name)] = group
    return found


def find(stack: Stack, name: str, known: Iterable[Way]) -> Way | None:
    """The way of a name as it is asked for; None: no group serves it."""
    if stack.main is None:
        return None
    name = aliases(stack.main).get(name, name)
    matching = [way for way in known if serves([way.group], name)]
    exact = [way for way in matching if way.group == name]
    return exact[0] if exact else max(matching, key=lambda way: len(way.group), default=None)


def explained(stack: Stack, found: Iterable[ways_of.Way]) -> list[ways_of.Way]:
    """What ``ocd.stack.routes`` found, with the way that is taken there and why, fallbacks included."""
    known = ways(stack)

    def told(way: ways_of.Way) -> ways_of.Way:
        decided = find(stack, way.name, known)
        further = tuple(replace(one, ways=tuple(told(other) for other in one.ways)) for one in way.fallbacks)
        named = (decided.way, decided.why) if decided else ("", "")
        return replace(way, fallbacks=further, way=named[0], why=named[1])

    return [told(way) for way in found]


def spill_targets(made: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, str]:
    """Group of main (or pattern of names) -> group that goes to AWS instead.

    ``own`` are the settings' own (slots stand for their family); without any, each group's first fallback that is
    paid on AWS. ``made`` is what ``table`` returns.
    """
    groups: Mapping[str, Mapping[str, Any]] = made.get("groups") or {}
    if own:
        return {
            f"claude-{name}-*" if name in families.SLOTS else name: target for name, target in own.items()
        }
    found = {}
    for name, ways in (made.get("fallbacks") or {}).items():
        if str((groups.get(name) or {}).get("way")) != "anthropic":
            continue
        for target in ways:
            entry = groups.get(target) or {}
            if entry.get("way") == "hop" or str(entry.get("provider", "")).startswith("bedrock"):
                found[name] = target
                break
    return found
