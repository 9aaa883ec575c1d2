"""The way that one request takes: slot or name → model group → main → bedrock → upstream, fallbacks included.

Reads the same two files as LiteLLM; nothing is asked of anybody, no credential is looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ocd.stack.families import SLOTS, family, group_of, without_1m
from ocd.stack.litellm_file import LiteLLMFile
from ocd.stack.stack import AWS, ENVIRON, Route, Stack, names, port_of, routes, serves

#: what must have happened before another group answers; ``ocd.guest.layers.pipe`` sees to it
WHEN = {
    "fallbacks": "on overload (503, 529), rate limit (429), other 5xx, a time-out or a lost connection",
    "context_window_fallbacks": "when the request is too long for the model",
    "content_policy_fallbacks": "when the model refuses the content",
}
#: deeper chains of fallbacks are not followed (LiteLLM: max_fallbacks, 5)
_DEEPEST = 5


@dataclass(frozen=True, slots=True)
class Hop:
    """One station: the proxy, its model group, what it asks for, where, and with which credential."""

    proxy: str
    group: str
    model: str
    upstream: str
    credential: str


@dataclass(frozen=True, slots=True)
class Fallback:
    when: str
    ways: tuple["Way", ...]


@dataclass(frozen=True, slots=True)
class Way:
    """``hops`` in order, the last one leaves this machine; ``broken`` says why there is no way on."""

    name: str
    hops: tuple[Hop, ...]
    broken: str = ""
    fallbacks: tuple[Fallback, ...] = field(default=())
    #: anthropic, hop or litellm, and why (``ocd.stack.pipe.explained``)
    way: str = ""
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def slot_of(text: str) -> str:
    """The slot that ``text`` names, else an empty text."""
    return text if text in SLOTS else ""


def plain_name(text: str) -> str:
    """``litellm@NAME``, ``ll@NAME`` and ``NAME[1m]`` are all NAME."""
    prefix, at, name = text.partition("@")
    if not at or prefix not in ("litellm", "ll"):
        name = text
    return without_1m(name)


def slot_group(stack: Stack, slot: str) -> str:
    """The model group that a slot is pinned to; empty: what Claude Code chooses."""
    return group_of(slot, plain_name(getattr(stack.settings.slots, slot)), names(stack.main))


def asked_in(stack: Stack, slot: str, seen: Mapping[str, str]) -> str:
    """What requests of a slot ask for: its group; else the model last seen in it (``seen``: slot → model), as far
    as that is one that Claude Code chose; else all names of its family, as a pattern."""
    group = slot_group(stack, slot)
    if group:
        return group
    last = seen.get(slot, "")
    return last if family(last) == slot and find(stack, last) else f"claude-{slot}-*"


def find(stack: Stack, name: str) -> list[Way]:
    """The ways of the main proxy's model group: one a deployment (LiteLLM takes turns); empty: no such group."""
    return list(_ways(stack, name, ()))


def _ways(stack: Stack, name: str, been: tuple[str, ...]) -> Iterator[Way]:
    fallbacks = _fallbacks(stack, name, (*been, name)) if len(been) < _DEEPEST else ()
    for route in _matching(stack.main, name):
        yield _way(stack, name, route, fallbacks)


def _way(stack: Stack, name: str, route: Route, fallbacks: tuple[Fallback, ...]) -> Way:
    if not stack.is_hop(route):
        return Way(name, (_leaves(stack, "main", name, route),), fallbacks=fallbacks)
    wanted = _asked(route, name).partition("/")[2] or route.model
    if team := stack.settings.team.url:
        kept = "your key for it; the session's login stays behind"
        return Way(name, (Hop("main", name, wanted, team, kept),), fallbacks=fallbacks)
    port = stack.settings.ports()["bedrock"]
    first = Hop(
        "main",
        name,
        _asked(route, name),
        f"the bedrock proxy, http://127.0.0.1:{port}",
        "the bedrock proxy's key; the session's login stays behind",
    )
    onward = _matching(stack.bedrock, wanted)
    if not onward:
        why = "the bedrock proxy is off, or its file cannot be read"
        if stack.bedrock is not None:
            why = f"the bedrock proxy has no model_name {wanted}"
        return Way(name, (first,), why, fallbacks)
    return Way(name, (first, _leaves(stack, "bedrock", wanted, onward[0])), fallbacks=fallbacks)


def _matching(file: LiteLLMFile | None, name: str) -> list[Route]:
    """Exact names go before wildcards; aliases are other names."""
    aliases = file.section("router_settings").get("model_group_alias") if file is not None else None
    if isinstance(aliases, dict) and name in aliases:
        target = aliases[name]
        name = str(target.get("model") if isinstance(target, dict) else target)
    everything = routes(file)
    exact = [route for route in everything if route.name == name]
    if exact:
        return exact
    # LiteLLM tries the longest pattern first (``PatternUtils.calculate_pattern_specificity``).
    patterns = [route for route in everything if serves([route.name], name)]
    longest = max((len(route.name) for route in patterns), default=0)
    chosen = next((route.name for route in patterns if len(route.name) == longest), "")
    return [route for route in patterns if route.name == chosen][:1]


def _asked(route: Route, name: str) -> str:
    """The model with its wildcard filled in, as LiteLLM does (``anthropic/claude-*``)."""
    if "*" not in route.model or "*" not in route.name:
        return route.model
    head, _, tail = route.name.partition("*")
    filling = name[len(head) : len(name) - len(tail) if tail else None]
    return route.model.replace("*", filling, 1)


def _leaves(stack: Stack, proxy: str, name: str, route: Route) -> Hop:
    return Hop(proxy, name, _asked(route, name), upstream(stack, route), credential(stack, proxy, route))


def upstream(stack: Stack, route: Route) -> str:
    """The address that the route's requests go to."""
    if route.provider in AWS:
        endpoint = route.params.get("aws_bedrock_runtime_endpoint")
        if isinstance(endpoint, str) and endpoint and not endpoint.startswith(ENVIRON):
            return endpoint
        region = route.params.get("aws_region_name")
        if not isinstance(region, str) or not region or region.startswith(ENVIRON):
            region = stack.settings.aws_region
        return f"https://bedrock-runtime.{region}.amazonaws.com"
    if route.url is not None:
        return f"{route.url.scheme}://{route.url.hostname}:{port_of(route.url)}{route.url.path}".rstrip("/")
    if route.base:
        return route.base
    return (
        "https://api.anthropic.com"
        if route.provider == "anthropic"
        else f"{route.provider or 'its provider'}'s own"
    )


def credential(stack: Stack, proxy: str, route: Route) -> str:
    """What the request is paid with, in words."""
    if route.provider in AWS:
        if route.params.get("aws_access_key_id"):
            return "the AWS key pair in the file"
        profile = route.params.get("aws_profile_name")
        if not isinstance(profile, str) or profile.startswith(ENVIRON):
            profile = stack.settings.aws_profile
        return f"AWS profile {profile}" if profile else "AWS's default credentials"
    key = route.params.get("api_key")
    if route.provider == "anthropic" and proxy == "main" and stack.settings.auth != "none":
        login = "the Claude plan's login" if stack.settings.auth == "plan" else "your Anthropic API key"
        return f"{login}, sent by Claude Code"
    if isinstance(key, str) and key.startswith(ENVIRON):
        return f"the key in {key.removeprefix(ENVIRON)}"
    return "the key in the file" if key else "none"


def _fallbacks(stack: Stack, name: str, been: tuple[str, ...]) -> tuple[Fallback, ...]:
    if stack.main is None:
        return ()
    found = []
    for key, when in WHEN.items():
        targets = _targets(stack.main, key, name)
        ways = [way for target in targets if target not in been for way in _ways(stack, target, been)]
        missing = [Way(target, (), "there is no such model group") for target in targets]
        ways += [way for way in missing if way.name not in been and not serves(names(stack.main), way.name)]
        if ways:
            found.append(Fallback(when, tuple(ways)))
    return tuple(found)


def _targets(file: LiteLLMFile, key: str, name: str) -> list[str]:
    """The fallbacks of a model group: its own list, else that of the longest pattern (``ocd.guest.layers.pipe`` sees
    to that), else that of "*", else the default ones."""
    general: list[str] = []
    best = ""
    for section in ("router_settings", "litellm_settings"):
        entries = file.section(section).get(key)
        for entry in entries if isinstance(entries, list) else []:
            for source, targets in entry.items() if isinstance(entry, dict) else ():
                listed = [_name(one) for one in (targets if isinstance(targets, list) else [targets])]
                if source == name:
                    return listed
                if source == "*" and not best:
                    general = listed
                elif _better(str(source), best, name) and name not in listed:
                    best, general = str(source), listed
        plain = file.section(section).get("default_fallbacks")
        if key == "fallbacks" and isinstance(plain, list) and not general:
            general = [_name(one) for one in plain]
    return [one for one in general if one != name]


def _better(pattern: str, best: str, name: str) -> bool:
    """Whether a pattern serves ``name`` and says more of it than ``best``."""
    return "*" in pattern and len(pattern) > max(len(best), 1) and serves([pattern], name)


def _name(target: Any) -> str:
    return str(target.get("model", "")) if isinstance(target, dict) else str(target)
