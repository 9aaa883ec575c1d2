"""The table of routes as the guest has it: which group a name means, which way it takes, who answers instead.

Made of ``spec["pipe"]`` (``ocd/stack/pipe.py``); ``os.environ/NAME`` in an address is looked up here. Pure.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from .upstream import Origin

MESSAGES = "/v1/messages"
ANTHROPIC = "https://api.anthropic.com"
ENVIRON = "os.environ/"
#: model groups that are tried for one request
MOST_TRIES = 6
#: names whose routes are remembered, and how long one may be (a megabyte, a thousand times, is a gigabyte)
REMEMBERED = 1000
LONGEST = 512


class Route(NamedTuple):
    """``way``: anthropic, hop or litellm; ``model``: what to ask for there; ``group``: LiteLLM's name for it."""

    group: str
    way: str
    origin: Origin | None
    model: str
    timeout: float | None
    #: AWS is paid for it
    aws: bool = False


class Table:
    """The routes of ``spec["pipe"]``. An address that cannot be used makes its route LiteLLM's; never raises."""

    def __init__(self, table: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.aliases: dict[str, str] = dict(table.get("aliases") or {})
        self.entries: dict[str, Mapping[str, Any]] = dict(table.get("groups") or {})
        self.patterns = [
            (re.compile("(.*)".join(map(re.escape, name.split("*")))), name)
            for name in self.entries
            if "*" in name
        ]
        # LiteLLM asks the most specific pattern first.
        self.patterns.sort(key=lambda one: -len(one[1]))
        self.fallbacks: dict[str, list[str]] = dict(table.get("fallbacks") or {})
        #: who is asked where a tool of the request runs on Anthropic's servers alone; empty: nobody
        self.search = str((table.get("search") or {}).get("model") or "")
        #: what people may choose: ``id``, ``display_name``, ``description``
        self.models: list[dict[str, str]] = list(table.get("models") or ())
        self.routes: dict[str, Route] = {}
        self.origins: dict[str, Origin | None] = {}

    def entry(self, name: str) -> tuple[str, str]:
        """The group that serves a name, and what its wildcard stands for; an empty group: none does."""
        name = self.aliases.get(name, name)
        if name in self.entries and "*" not in name:
            return name, ""
        for pattern, group in self.patterns:
            if found := pattern.fullmatch(name):
                return group, found[1]
        return "", ""

    def find(self, name: str) -> Route | None:
        """The route for a name that a client asked for; None: LiteLLM knows better."""
        route = self.routes.get(name)
        if route is None:
            group, filling = self.entry(name)
            if not group:
                return None
            entry = self.entries[group]
            model = str(entry.get("model") or "").replace("*", filling, 1)
            way = str(entry.get("way"))
            origin = None
            if way == "hop":
                origin = self.origin(self.hop())
            elif way == "anthropic":
                origin = self.origin(str(entry.get("base") or ANTHROPIC))
            way = way if origin is not None else "litellm"
            timeout = entry.get("timeout")
            route = Route(
                self.aliases.get(name, name) if "*" in group else group,
                way,
                origin,
                model or name,
                float(timeout) if timeout else None,
                entry.get("way") == "hop" or str(entry.get("provider") or "").startswith("bedrock"),
            )
            if len(self.routes) < REMEMBERED and len(name) <= LONGEST:
                self.routes[name] = route
        return route

    def searching(self) -> Route | None:
        """The route to Anthropic for requests that Bedrock cannot answer; None: there is none."""
        route = self.find(self.search) if self.search else None
        return route if route is not None and route.way == "anthropic" else None

    def hop(self) -> str:
        """The bedrock proxy's address: its private socket where we are told of one, else its port."""
        path = self.environ.get("OCD_BEDROCK_SOCKET", "")
        return f"unix:{path}" if path else self.environ.get("OCD_BEDROCK_URL", "").removesuffix("/v1")

    def origin(self, base: str) -> Origin | None:
        if base.startswith(ENVIRON):
            base = self.environ.get(base.removeprefix(ENVIRON), "")
        if base not in self.origins:
            try:
                plain = base.rstrip("/").removesuffix(MESSAGES) if "://" in base else base
                self.origins[base] = Origin.parse(plain)
            except ValueError:
                self.origins[base] = None
        return self.origins[base]

    def chain(self, group: str, asked: str) -> list[str]:
        """The groups that may answer instead, in LiteLLM's order: a target's own come right behind it."""
        found: list[str] = []
        seen = {group, asked}

        def follow(name: str) -> None:
            for target in self.targets(name):
                if target not in seen and len(found) < MOST_TRIES:
                    seen.add(target)
                    found.append(target)
                    follow(target)

        follow(asked if asked in self.fallbacks else group)
        return found

    def targets(self, name: str) -> list[str]:
        """A group's own list, else that of the longest pattern that matches it, else that of all others. A pattern that
        matches a target of its own list does not move that target."""
        if name in self.fallbacks:
            return self.fallbacks[name]
        best = ""
        for pattern, listed in self.fallbacks.items():
            if (
                len(best) < len(pattern) > 1
                and "*" in pattern
                and name not in listed
                and _matches(pattern, name)
            ):
                best = pattern
        return self.fallbacks.get(best or "*", [])

    def names(self, asked: str) -> dict[str, str]:
        """What the configuration says of the upstream of a group that LiteLLM routes; for the meter."""
        group, filling = self.entry(asked)
        entry = self.entries.get(group, {})
        model = str(entry.get("asks") or "").replace("*", filling, 1)
        return {
            "provider": str(entry.get("provider") or ""),
            "host": str(entry.get("host") or ""),
            "model": model,
        }


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


class Budget:
    """What is done with requests that would go to AWS while a budget is used up: ``refuse``, ``plan``, or nothing."""

    def __init__(self) -> None:
        self.action = ""
        self.model = ""
        self.until = 0.0
        self.why = ""

    def take(self, message: Mapping[str, Any]) -> None:
        action = message.get("action")
        self.action = action if action in ("refuse", "plan") else ""
        self.model = str(message.get("model") or "") if self.action == "plan" else ""
        until = message.get("until")
        self.until = float(until) if isinstance(until, int | float) else 0.0
        self.why = str(message.get("why") or "the AWS budget is used up")[:200]

    @property
    def used_up(self) -> bool:
        """Whether something is to be done now; its time ends by itself."""
        if self.action and self.until and time.time() >= self.until:
            self.action = ""
        return bool(self.action)


class Spill:
    """Which groups go elsewhere first, and until when."""

    def __init__(self) -> None:
        self.groups: dict[str, str] = {}
        self.logins: frozenset[str] = frozenset()
        self.until = 0.0
        self.why = ""

    def take(self, message: Mapping[str, Any]) -> None:
        groups = message.get("groups")
        self.groups = {str(k): str(v) for k, v in groups.items()} if isinstance(groups, dict) else {}
        logins = message.get("logins")
        self.logins = frozenset(map(str, logins)) if isinstance(logins, list) else frozenset()
        until = message.get("until")
        self.until = float(until) if isinstance(until, int | float) else 0.0
        self.why = str(message.get("why") or "the plan's limit")[:200]

    def target(self, asked: str, group: str, login: str = "") -> str:
        """The group that a request of ``login`` goes to first; empty: where it always goes."""
        if not self.groups or (self.logins and login not in self.logins):
            return ""
        if self.until and time.time() > self.until:
            self.groups = {}
            return ""
        for name in (asked, group):
            if name in self.groups:
                return self.groups[name]
        for name, target in self.groups.items():
            if "*" in name and _matches(name, asked):
                return target
        return ""
