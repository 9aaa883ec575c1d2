"""Switches that are missing, harmful, or in a place where they do nothing."""

from collections.abc import Iterator

from ocd.settings.findings import Finding
from ocd.stack.litellm_file import Where
from ocd.stack.stack import Stack, found, remove, routes

_FORWARD = "forward_client_headers_to_llm_api"
#: options of the litellm command that ocd sets itself, or whose effect it does not allow
_OURS = (
    "--port",
    "--host",
    "--config",
    "-c",
    "--num_workers",
    "--run_gunicorn",
    "--run_hypercorn",
    "--ssl_keyfile_path",
)


def _forwarding(stack: Stack) -> Iterator[Finding]:
    for proxy, file in stack.files():
        places: list[Where] = [(name, _FORWARD) for name in ("litellm_settings", "router_settings")]
        places += [route.at(_FORWARD) for route in routes(file)]
        places += [(_FORWARD,)]
        for at in places:
            if at in file.marks:
                yield found(
                    "warning",
                    "forwarding-misplaced",
                    file,
                    at,
                    "it has no effect here",
                    "Remove it: the plan's login is forwarded without it",
                    remove(*at),
                )
        at = ("general_settings", _FORWARD)
        value = file.section("general_settings").get(_FORWARD)
        if proxy == "main" and value is None:
            yield found(
                "note",
                "forwarding-not-set",
                file,
                at,
                "Claude Code's own x-… headers (not its login) stay behind; Anthropic does without them",
                f"Write `{_FORWARD}: false` under general_settings to say that this is meant",
                (at, False),
            )
        elif value is True:
            yield found(
                "note",
                "forwarding-everywhere",
                file,
                at,
                "all x-… headers of a request, session ids among them, go to every upstream, "
                "Bedrock included",
                "Set it to false: the plan's login is forwarded without it",
            )


def _drop_params(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        at = ("litellm_settings", "drop_params")
        if file.section("litellm_settings").get("drop_params") is not True:
            yield found(
                "warning",
                "drop-params-missing",
                file,
                at,
                "parameters of Claude Code that a model does not take (thinking, tool_choice) end in 400",
                "Set drop_params: true under litellm_settings",
                (at, True),
            )


def _modify_params(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        at = ("litellm_settings", "modify_params")
        if file.section("litellm_settings").get("modify_params"):
            yield found(
                "warning",
                "modify-params",
                file,
                at,
                "LiteLLM then invents assistant turns that nobody said",
                "Remove it: drop_params is enough",
                remove(*at),
            )


def _retries(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        settings = file.section("router_settings")
        at: Where = ("router_settings", "num_retries")
        value = settings.get("num_retries")
        if value != 0 or isinstance(value, bool):
            yield found(
                "note",
                "retries-twice",
                file,
                at,
                "LiteLLM retries (twice unless told otherwise) before Claude Code does: failures take longer",
                "Set num_retries: 0 under router_settings",
                (at, 0),
            )
        at = ("router_settings", "disable_cooldowns")
        if settings.get("disable_cooldowns") is not True:
            yield found(
                "warning",
                "cooldowns",
                file,
                at,
                "one refused request locks the model for a while (429 No deployments available)",
                "Set disable_cooldowns: true under router_settings",
                (at, True),
            )


def _debug(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        at = ("litellm_settings", "set_verbose")
        if file.section("litellm_settings").get("set_verbose"):
            yield found(
                "warning",
                "debug-logs-prompts",
                file,
                at,
                "whole prompts are written to the log",
                "Remove it",
                remove(*at),
            )
    for argument in stack.settings.litellm.args:
        name = argument.partition("=")[0]
        if name == "--detailed_debug":
            yield Finding(
                "warning",
                "debug-logs-prompts",
                str(stack.toml),
                None,
                "litellm.args",
                "--detailed_debug writes whole prompts to the log",
                "Remove it from args",
            )
        elif name in _OURS:
            yield Finding(
                "error",
                "option-is-ours",
                str(stack.toml),
                None,
                "litellm.args",
                f"{name} is ocd's to set, LiteLLM cannot have it twice",
                "Remove it from args",
            )


RULES = (_forwarding, _drop_params, _modify_params, _retries, _debug)
