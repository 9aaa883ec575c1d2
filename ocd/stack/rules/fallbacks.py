"""Fallbacks: do they lead anywhere, and who pays?"""

from collections.abc import Iterator
from typing import Any

from ocd.settings.findings import Finding
from ocd.stack.litellm_file import LiteLLMFile, Where
from ocd.stack.stack import Stack, found, names, near, routes, serves

_KEYS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


def _fallbacks(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        for section in ("router_settings", "litellm_settings"):
            for key in _KEYS:
                value = file.section(section).get(key)
                if value is not None:
                    yield from _one(stack, file, (section, key), value)
            plain = file.section(section).get("default_fallbacks")
            for index, target in enumerate(plain if isinstance(plain, list) else []):
                yield from _target(file, (section, "default_fallbacks", index), target)


def _one(stack: Stack, file: LiteLLMFile, at: Where, value: Any) -> Iterator[Finding]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        yield found(
            "error",
            "fallback-wrong-form",
            file,
            at,
            "a list of one-entry mappings is expected",
            'Write `fallbacks: [{"from": ["to"]}]`',
        )
        return
    for index, entry in enumerate(value):
        for source, targets in entry.items():
            where = (*at, index, source)
            if source != "*" and not serves(names(file), str(source)):
                yield found(
                    "warning",
                    "fallback-unknown",
                    file,
                    where,
                    f"there is no model_name {source}, so this never happens",
                    near(str(source), names(file)),
                )
            items = targets if isinstance(targets, list) else [targets]
            for number, target in enumerate(items):
                yield from _target(file, (*where, number), target)
            if file is stack.main:
                yield from _bill(file, where, str(source), [t for t in items if isinstance(t, str)])


def _target(file: LiteLLMFile, where: Where, target: Any) -> Iterator[Finding]:
    name = target.get("model") if isinstance(target, dict) else target
    if isinstance(name, str) and not serves(names(file), name):
        yield found(
            "warning",
            "fallback-unknown",
            file,
            where,
            f"there is no model_name {name}: instead of falling back the request fails",
            near(name, names(file)),
        )


def _bill(file: LiteLLMFile, where: Where, source: str, targets: list[str]) -> Iterator[Finding]:
    providers = {route.name: route.provider for route in routes(file)}
    if source not in providers:
        served = (route.provider for route in routes(file) if serves([route.name], source))
        providers[source] = next(served, "")
    if providers.get(source) == "anthropic" and any(
        providers.get(t, "anthropic") != "anthropic" for t in targets
    ):
        yield found(
            "note",
            "fallback-bills",
            file,
            where,
            "AWS bills what this fallback answers: on overload, rate limit, other 5xx and lost connections "
            "(ocd keeps LiteLLM from falling back on a refused login or request)",
            "Keep it only if that is what you want; `occtl status` shows each fallback",
        )


RULES = (_fallbacks,)
