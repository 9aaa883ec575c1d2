"""The user's two LiteLLM files, copied into a private folder with every address turned to the stand-ins.

What decides about credentials and routes stays: names, providers, references to keys, settings, custom code.
What would contact anything but the stand-ins is taken out: other providers, databases, caches, remote
callbacks, and keys that stand in the file itself.
"""

import fnmatch
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.inputs import config_path, litellm_inputs, module_file
from ocd.stack.litellm_file import load_litellm

#: Loopback's discard port: nothing listens, nothing leaves the machine.
NOWHERE = "http://127.0.0.1:9"
DUMMY = "sk-selftest-dummy"
ANTHROPIC_HOST = "api.anthropic.com"
_BEDROCK_OPTIONS = frozenset({"aws_region_name", "aws_profile_name"})
_HOP_KEY = "os.environ/OCD_BEDROCK_KEY"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model group of the main file leads: ``to`` is anthropic, bedrock or other."""

    group: str
    model: str
    to: str


@dataclass(slots=True)
class Turned:
    """``routes`` of the main file in order; AWS ``profiles`` that are named; ``problems`` for people."""

    routes: list[Route] = field(default_factory=list)
    profiles: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def route(self, group: str) -> Route | None:
        """The route of a model group; a group with a star serves what has no route of its own."""
        exact = next((one for one in self.routes if one.group == group), None)
        patterns = [one for one in self.routes if fnmatch.fnmatchcase(group, one.group)]
        # as LiteLLM: the longest pattern goes first
        return exact or max(patterns, key=lambda one: len(one.group), default=None)


def turn(
    folders: Folders, settings: Settings, into: Path, anthropic: str, bedrock: str, ports: Mapping[str, int]
) -> Turned:
    """Write ``litellm.yaml`` and ``litellm-bedrock.yaml`` and the modules beside them to ``into``.

    ``ports`` are those of the private stack. Raises ConfigError when a file cannot be read as YAML.
    """
    turned = Turned()
    for proxy, name in (("main", "litellm.yaml"), ("bedrock", "litellm-bedrock.yaml")):
        origin = config_path(folders, settings, proxy)
        data = json.loads(json.dumps(load_litellm(origin).data, default=str))
        data.pop("include", None)
        copied = copy_code(origin, into)
        turn_routes(data, proxy, turned, anthropic, bedrock, settings.ports(), ports)
        take_out_remotes(data, into if copied else None)
        # JSON is YAML; every YAML reader agrees about it.
        path = into / name
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
        path.chmod(0o600)
    return turned


def copy_code(origin: Path, into: Path) -> bool:
    """Copy the Python files beside ``origin`` that it needs, in their places; true when there are any."""
    _yaml, code = litellm_inputs(origin)
    for file in code:
        target = into / os.path.relpath(file, origin.parent)
        if into in target.parents:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(file, target)
    return bool(code)


def turn_routes(
    data: dict[str, Any],
    proxy: str,
    turned: Turned,
    anthropic: str,
    bedrock: str,
    real: Mapping[str, int],
    private: Mapping[str, int],
) -> None:
    """Point each route's address to its stand-in, in place."""
    for entry in _dicts(data.get("model_list")):
        params = entry.get("litellm_params")
        if not isinstance(params, dict):
            continue
        group, model = str(entry.get("model_name", "")), str(params.get("model", ""))
        provider = str(params.get("custom_llm_provider") or model.partition("/")[0])
        base = str(params.get("api_base") or params.get("base_url") or "")
        params.pop("base_url", None)
        to = "other"
        if provider == "anthropic" or (model.startswith("claude-") and "/" not in model):
            to = "anthropic"
            _look_at_base(turned, group, base, real)
            params["api_base"] = anthropic
            _hide_key(params)
        elif provider in ("bedrock", "bedrock_converse", "bedrock_mantle"):
            to = "bedrock"
            if params.get("aws_profile_name"):
                turned.profiles.add(str(params["aws_profile_name"]))
            for name in [one for one in params if one.startswith("aws_") and one not in _BEDROCK_OPTIONS]:
                del params[name]
            params.pop("api_key", None)
            params.pop("api_base", None)
            params["aws_bedrock_runtime_endpoint"] = bedrock
        elif base and is_hop(base, real["bedrock"]):
            to = "bedrock"
            if not base.startswith("os.environ/"):
                params["api_base"] = f"http://127.0.0.1:{private['bedrock']}{urlsplit(base).path}"
            if params.get("api_key") not in (None, _HOP_KEY):
                params["api_key"] = _HOP_KEY
        else:
            # Another provider: kept as a name, so that lists and fallbacks still fit, but leading nowhere.
            entry["litellm_params"] = {"model": "openai/not-tested", "api_base": NOWHERE, "api_key": DUMMY}
        if proxy == "main":
            turned.routes.append(Route(group, model, to))


def is_hop(base: str, port: int) -> bool:
    """Whether an address is the bedrock proxy's."""
    if base == "os.environ/OCD_BEDROCK_URL":
        return True
    try:
        parts = urlsplit(base)
        return parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port == port
    except ValueError:
        return False


def take_out_remotes(data: dict[str, Any], code: Path | None) -> None:
    """Databases, caches, alerts and callbacks that are not the user's own code beside the file, in place."""
    general = data.get("general_settings")
    if isinstance(general, dict):
        for name in [
            one
            for one in general
            if one.startswith(("database", "alert", "slack")) or "pass_through_end" in one
        ]:
            del general[name]
    litellm = data.get("litellm_settings")
    if isinstance(litellm, dict):
        for name in ("cache", "cache_params", "default_team_settings", "langfuse_default_tags"):
            litellm.pop(name, None)
        for name in (
            "callbacks",
            "success_callback",
            "failure_callback",
            "service_callback",
            "audit_log_callbacks",
        ):
            found = litellm.get(name)
            if isinstance(found, list):
                litellm[name] = [one for one in found if _own_code(one, code)]
            elif found is not None and not _own_code(found, code):
                del litellm[name]
    router = data.get("router_settings")
    if isinstance(router, dict):
        for name in [one for one in router if one.startswith("redis")]:
            del router[name]
    for name in (
        "environment_variables",
        "vector_store_registry",
        "mcp_servers",
        "guardrails",
        "search_tools",
    ):
        data.pop(name, None)


def _own_code(name: Any, code: Path | None) -> bool:
    return isinstance(name, str) and code is not None and module_file(name, code) is not None


def _look_at_base(turned: Turned, group: str, base: str, real: Mapping[str, int]) -> None:
    """An anthropic/ route hands the plan's token to whatever address it has: name one that is not theirs."""
    if not base or base.startswith("os.environ/"):
        return
    host = urlsplit(base).hostname
    if host != ANTHROPIC_HOST:
        what = "the bedrock proxy" if is_hop(base, real["bedrock"]) else str(host)
        turned.problems.append(
            f"The route {group} has the prefix anthropic/ but leads to {what}, which would get the plan's "
            "token. Use the prefix openai/ for other servers."
        )


def _hide_key(params: dict[str, Any]) -> None:
    key = params.get("api_key")
    if isinstance(key, str):
        params["api_key"] = DUMMY


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
