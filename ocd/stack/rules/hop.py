"""The way from the main proxy to the bedrock proxy."""

from collections.abc import Iterator

from ocd.settings.findings import Finding
from ocd.stack.stack import (
    ENVIRON,
    LOOPBACK,
    Route,
    Stack,
    found,
    names,
    near,
    port_of,
    routes,
    serves,
)

_URL, _KEY = f"{ENVIRON}OCD_BEDROCK_URL", f"{ENVIRON}OCD_BEDROCK_KEY"
_CHAT = "use_chat_completions_url_for_anthropic_messages"


def _hops(stack: Stack) -> Iterator[Finding]:
    for route in routes(stack.main):
        if stack.is_hop(route):
            yield from _prefix(stack, route)
            yield from _address(stack, route)
            yield from _key(stack, route)
            yield from _model(stack, route)


def _prefix(stack: Stack, route: Route) -> Iterator[Finding]:
    if route.provider == "anthropic" and stack.main is not None:
        model = route.model.partition("/")[2] or route.model
        yield found(
            "error",
            "hop-with-login",
            stack.main,
            route.at("model"),
            "with the prefix anthropic/ the plan's login goes to the bedrock proxy, which refuses it",
            f"Write openai/{model}",
            (route.at("model"), f"openai/{model}"),
        )


def _address(stack: Stack, route: Route) -> Iterator[Finding]:
    file, url, at = stack.main, route.url, route.at(route.base_key)
    if file is None:
        return
    if not stack.settings.proxies.bedrock.enabled and not stack.settings.team.url:
        yield found(
            "error",
            "hop-to-nowhere",
            file,
            at,
            "the bedrock proxy is switched off in ocd.toml",
            "Set enabled = true under [proxies.bedrock], or remove the route",
        )
    if not route.base:
        yield found(
            "error",
            "hop-wrong-port",
            file,
            route.at("model"),
            "the route has the bedrock proxy's key but not its address, so the key goes to "
            "the provider's own",
            f"Add `api_base: {_URL}`",
            (route.at("api_base"), _URL),
        )
    elif url is not None and url.hostname in LOOPBACK and port_of(url) != stack.settings.ports()["bedrock"]:
        yield found(
            "error",
            "hop-wrong-port",
            file,
            at,
            f"the bedrock proxy listens on port {stack.settings.ports()['bedrock']}, not on {port_of(url)}",
            f"Write `{route.base_key}: {_URL}`, which is always right",
            (at, _URL),
        )
    elif url is not None and url.hostname not in LOOPBACK:
        yield found(
            "error",
            "hop-wrong-port",
            file,
            at,
            f"the bedrock proxy's key would be sent to {url.hostname}",
            f"Write `{route.base_key}: {_URL}`, or another api_key",
            (at, _URL),
        )


def _key(stack: Stack, route: Route) -> Iterator[Finding]:
    file, key = stack.main, route.params.get("api_key")
    if file is None:
        return
    fix, change = f"Write `api_key: {_KEY}`", (route.at("api_key"), _KEY)
    theirs = stack.bedrock.section("general_settings").get("master_key") if stack.bedrock else _KEY
    if not key or str(key).lower() == "none":
        yield found(
            "error",
            "hop-without-key",
            file,
            route.at(),
            "without api_key LiteLLM sends `Bearer None`, and the bedrock proxy refuses every request",
            fix,
            change,
        )
    elif key != theirs and key != _KEY:
        yield found(
            "error",
            "hop-wrong-key",
            file,
            route.at("api_key"),
            "this is not the bedrock proxy's key, which refuses every request",
            fix,
            change,
        )
    elif key != _KEY:
        yield found(
            "warning",
            "hop-key-literal",
            file,
            route.at("api_key"),
            "the bedrock proxy's key is written into the file",
            fix,
            change,
        )


def _model(stack: Stack, route: Route) -> Iterator[Finding]:
    if stack.bedrock is None or stack.main is None or stack.settings.team.url:
        return
    model = route.model.partition("/")[2] or route.model
    if "*" not in model and not serves(names(stack.bedrock), model):
        yield found(
            "error",
            "hop-model-missing",
            stack.main,
            route.at("model"),
            f"litellm-bedrock.yaml has no model_name {model}, so its proxy answers 400",
            near(model, names(stack.bedrock)),
        )


def _protocol(stack: Stack) -> Iterator[Finding]:
    file = stack.main
    if file is None or not any(stack.is_hop(route) for route in routes(file)):
        return
    at = ("litellm_settings", _CHAT)
    if file.section("litellm_settings").get(_CHAT) is not True:
        yield found(
            "warning",
            "hop-not-chat-completions",
            file,
            at,
            "LiteLLM takes the hop over /v1/responses, whose stream closes blocks out of order",
            f"Set {_CHAT}: true under litellm_settings",
            (at, True),
        )


RULES = (_hops, _protocol)
