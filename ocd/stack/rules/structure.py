"""Is it a LiteLLM configuration at all? Sections, entries, names, variables."""

import difflib
from collections.abc import Iterator
from typing import Any

from ocd.settings.findings import Finding
from ocd.stack.litellm_file import LiteLLMFile, Where
from ocd.stack.stack import ENVIRON, PROVIDED, Stack, found, remove, routes

#: the sections that every configuration is made of, and what each holds
MAIN = {"model_list": list, "litellm_settings": dict, "general_settings": dict, "router_settings": dict}
#: further top-level keys that LiteLLM 1.106.2 reads (litellm/proxy/proxy_server.py, load_config)
SECTIONS = frozenset(
    (
        *MAIN,
        *("agent_list", "agents", "assistant_settings", "callback_settings", "credential_list", "include"),
        *(
            "default_vertex_config",
            "environment_variables",
            "files_settings",
            "finetune_settings",
            "guardrails",
        ),
        *("mcp_servers", "mcp_tools", "policies", "policy_attachments", "prompts", "sandbox_tools"),
        *("search_tools", "vector_store_registry", "worker_registry"),
    )
)


def _sections(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        for name, value in file.data.items():
            expected = MAIN.get(str(name))
            close = difflib.get_close_matches(str(name), SECTIONS, 1, 0.7)
            if expected is not None and value is not None and not isinstance(value, expected):
                kind = "a list" if expected is list else "a mapping"
                fix = f"Write {name}: with indented entries below it"
                yield found("error", "section-wrong-kind", file, (name,), f"{kind} is expected here", fix)
            elif str(name) not in SECTIONS and close:
                what = "LiteLLM does not know this section and ignores it"
                yield found("warning", "section-unknown", file, (name,), what, f"Did you mean {close[0]}?")


def _entries(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        entries = file.data.get("model_list")
        if entries is None or entries == []:
            yield found(
                "error",
                "no-models",
                file,
                ("model_list",),
                "the file has no models, so nothing is served",
                "Add entries below model_list:, as in `occtl init`",
            )
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            at: Where = ("model_list", index)
            if not isinstance(entry, dict):
                yield found(
                    "error",
                    "entry-incomplete",
                    file,
                    at,
                    "an entry needs model_name and litellm_params",
                    "Write it as in `occtl init`, or remove it",
                )
                continue
            params = entry.get("litellm_params")
            if not isinstance(entry.get("model_name"), str) or not entry["model_name"]:
                yield found(
                    "error",
                    "entry-incomplete",
                    file,
                    at,
                    "the entry has no model_name",
                    "Add `model_name:` and the name that requests will use",
                )
            elif (
                not isinstance(params, dict)
                or not isinstance(params.get("model"), str)
                or not params["model"]
            ):
                yield found(
                    "error",
                    "entry-incomplete",
                    file,
                    at,
                    f"{entry['model_name']} has no litellm_params.model, so it leads nowhere",
                    "Add `litellm_params:` with `model:` below it",
                )


def _duplicates(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        first: dict[str, Any] = {}
        for route in routes(file):
            if route.name not in first:
                first[route.name] = route
                continue
            other = first[route.name]
            line = file.line(other.at())
            if other.params == route.params:
                yield found(
                    "warning",
                    "model-duplicate",
                    file,
                    route.at(),
                    f"{route.name} stands here again, exactly as on line {line}",
                    "Remove one of the two",
                    remove(*route.at()),
                )
            else:
                yield found(
                    "warning",
                    "model-duplicate",
                    file,
                    route.at(),
                    f"{route.name} stands on line {line} too: LiteLLM spreads its requests over both "
                    "at random",
                    "Give one of them another model_name, unless that is what you want",
                )


def _variables(stack: Stack) -> Iterator[Finding]:
    for proxy, file in stack.files():
        given = PROVIDED[proxy] | set(stack.settings.proxy(proxy).env)
        more = file.section("environment_variables")
        for where, text in _texts(file, file.data, ()):
            name = text.removeprefix(ENVIRON)
            if not text.startswith(ENVIRON) or name in given or name in more:
                continue
            if where[-1] in ("master_key", "api_key") and name.startswith("OCD_"):
                continue  # the rules on keys say more
            yield found(
                "warning",
                "variable-not-set",
                file,
                where,
                f"{name} is not set for this proxy, which inherits nothing from your shell: the "
                "value is empty",
                f"Set it in ocd.toml under [proxies.{proxy}.env]",
            )


def _texts(file: LiteLLMFile, value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(file, inner, (*where, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(file, inner, (*where, index))


RULES = (_sections, _entries, _duplicates, _variables)
