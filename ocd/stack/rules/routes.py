"""Where each model leads: provider, address, model id."""

import re
from collections.abc import Iterator

from ocd.settings.edits import Edit
from ocd.settings.findings import Finding
from ocd.stack.litellm_file import LiteLLMFile
from ocd.stack.stack import AWS, ENVIRON, LOOPBACK, Route, Stack, found, names, remove, routes

_SUFFIX = re.compile(r"\[1m\]$", re.IGNORECASE)
_STREAMING = "InvokeModelWithResponseStream"


def hop_params(model: str) -> dict[str, str]:
    """The litellm_params of a route of the main file to ``model`` of the bedrock file."""
    return {
        "model": f"openai/{model}",
        "api_base": f"{ENVIRON}OCD_BEDROCK_URL",
        "api_key": f"{ENVIRON}OCD_BEDROCK_KEY",
    }


def _addresses(stack: Stack) -> Iterator[Finding]:
    file = stack.main
    for route in routes(file):
        url = route.url
        if file is None or route.provider != "anthropic" or url is None or stack.is_hop(route):
            continue
        at = route.at(route.base_key)
        path = url.path.rstrip("/")
        if url.hostname == "api.anthropic.com":
            if path.endswith(("/v1", "/v1/messages")):
                yield found(
                    "error",
                    "api-base-v1",
                    file,
                    at,
                    "LiteLLM adds /v1/messages to it: the request goes to /v1/v1/messages and gets 404",
                    "Remove api_base",
                    remove(*at),
                )
        elif url.hostname in LOOPBACK:
            yield found(
                "warning",
                "anthropic-elsewhere",
                file,
                at,
                f"whatever listens on {url.netloc} gets the plan's login, because of the prefix anthropic/",
                "Be sure that it is yours; with openai/ instead the login stays here",
            )
        else:
            yield found(
                "error",
                "anthropic-elsewhere",
                file,
                at,
                f"{url.hostname} would get the plan's login: LiteLLM sends it with every anthropic/ "
                "route, even when the route has a key of its own",
                "Use another prefix (openai/), or move the route to litellm-bedrock.yaml",
            )


def _aws_in_main(stack: Stack) -> Iterator[Finding]:
    file = stack.main
    for route in routes(file):
        if file is None or route.provider not in AWS:
            continue
        edits = _to_the_other_file(stack, file, route)
        yield Finding(
            "error",
            "bedrock-route-in-main",
            str(file.file(route.at("model"))),
            file.line(route.at("model")),
            f"model_list[{route.index}].litellm_params.model",
            "the main proxy has no AWS credentials, and some LiteLLM versions send the "
            "plan's login along to Bedrock",
            "Move the route to litellm-bedrock.yaml and lead to it from here over openai/ "
            "(`occtl config check --fix`)",
            bool(edits),
            edits,
        )


def _to_the_other_file(stack: Stack, file: LiteLLMFile, route: Route) -> tuple[Edit, ...]:
    edits = [file.edit(route.at(name), value) for name, value in hop_params(route.name).items()]
    edits += [file.edit(*remove(*route.at(name))) for name in route.params if name not in hop_params("")]
    if route.name not in names(stack.bedrock):
        if stack.bedrock is None:
            return ()
        params = {
            name: value for name, value in route.params.items() if name != "forward_client_headers_to_llm_api"
        }
        if any(isinstance(value, dict | list) for value in params.values()):
            return ()
        if not str(params["model"]).startswith("bedrock/"):
            params["model"] = f"bedrock/{params['model']}"
        params.setdefault("aws_profile_name", f"{ENVIRON}OCD_AWS_PROFILE")
        region = params.get("aws_region_name")
        if region is None or str(region).startswith(ENVIRON):
            params["aws_region_name"] = f"{ENVIRON}OCD_AWS_REGION"
        entry = {"model_name": route.name, "litellm_params": params}
        edits.append(Edit(stack.bedrock.path, ("model_list",), entry, True))
    return tuple(edits)


def _anthropic_in_bedrock(stack: Stack) -> Iterator[Finding]:
    file = stack.bedrock
    for route in routes(file):
        if file is not None and route.provider == "anthropic":
            key = route.params.get("api_key")
            yield found(
                "warning" if key else "error",
                "anthropic-route-in-bedrock",
                file,
                route.at("model"),
                "the plan's login never reaches this proxy, so the route has "
                + ("only the key written here" if key else "no credential and fails"),
                "Move the route to litellm.yaml, or use Bedrock's Claude (bedrock/…)",
            )


def _model_ids(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        for route in routes(file):
            plain = _SUFFIX.sub("", route.model)
            if plain != route.model:
                yield found(
                    "error",
                    "one-m-suffix",
                    file,
                    route.at("model"),
                    "[1m] is Claude Code's own mark, not part of a model id: the request gets 404",
                    f"Write {plain}",
                    (route.at("model"), plain),
                )
            bare = _SUFFIX.sub("", route.name)
            if bare != route.name:
                yield found(
                    "warning",
                    "one-m-suffix",
                    file,
                    (*route.at(), "model_name"),
                    "Claude Code takes [1m] off before it sends a name, so this one is never asked for",
                    f"Write {bare}",
                    ((*route.at(), "model_name"), bare),
                )
            if stack.ids is None or "*" in plain or plain.startswith(ENVIRON) or "arn:aws" in plain:
                continue
            if route.provider == "anthropic" or route.provider in AWS:
                yield from _known(stack, file, route, plain)


def _known(stack: Stack, file: LiteLLMFile, route: Route, model: str) -> Iterator[Finding]:
    ids = stack.ids
    if ids is None or ids.knows(model):
        return
    at = route.at("model")
    undated = ids.undated(model)
    if undated:
        head = model[: len(model) - len(model.rpartition("/")[2])]
        yield found(
            "error" if route.provider == "anthropic" else "warning",
            "model-id-dated",
            file,
            at,
            f"{model} is no model id: {undated} exists, with that date it does not, and requests get 404",
            f"Write {head}{undated}",
            (at, head + undated),
        )
        return
    nearest = ids.nearest(model)
    yield found(
        "warning",
        "model-id-unknown",
        file,
        at,
        f"the installed LiteLLM does not know {model}: if the provider does not either, requests get 404",
        f"Did you mean {nearest}?" if nearest else "Compare it with the provider's list of models",
    )


def _permissions(stack: Stack) -> Iterator[Finding]:
    file = stack.bedrock
    if file is None or any(_STREAMING in document.text for document in file.documents):
        return
    for route in routes(file):
        if route.provider in AWS:
            yield found(
                "note",
                "streaming-permission",
                file,
                route.at("model"),
                f"Claude Code streams, so the AWS user needs bedrock:{_STREAMING} beside "
                "bedrock:InvokeModel; without it every request gets 403",
                "`occtl aws policy` prints the policy; a comment here that names the action ends this",
            )
            return


RULES = (_addresses, _aws_in_main, _anthropic_in_bedrock, _model_ids, _permissions)
