"""What every guest does at its start and with its first request whatever it serves: done once, before the fork.

A page of memory is shared until one of its processes writes on it, and Python writes wherever it looks: a table that is
built, a class that is completed, a module that is loaded after the fork costs each guest its own copy. Nothing here
reads a configuration, asks anybody, starts a thread or leaves a state behind that an order of the user's could differ
from. What another version of LiteLLM does not have is passed over.

Loaded by path under LiteLLM's interpreter.
"""

import asyncio
import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

#: our own modules that a guest needs, the large ones of the server's parts included
OWN = (
    "discovery",
    "door",
    "reports",
    "server",
    "layers.pipe",
    "layers.meter",
    "layers.upstream",
    "layers.contract",
    "layers.boundary",
)
#: classes of LiteLLM's whose validators are built when they are first used, and are used in every guest
CLASSES = (
    "litellm.types.router:ModelInfo",
    "litellm.types.router:CredentialLiteLLMParams",
    "litellm.types.router:LiteLLM_Params",
    "litellm.types.router:Deployment",
    "litellm.types.passthrough_endpoints.vertex_ai:VertexPassThroughCredentials",
    "litellm.proxy.proxy_cli:DatabaseTimeoutSettings",
    "litellm.proxy._types:LiteLLM_JWTAuth",
    "litellm.proxy._types:ConfigGeneralSettings",
)
#: and those that answer a request of the bedrock proxy's
BEDROCK = (
    "litellm.proxy._types:UserAPIKeyAuth",
    "litellm.types.services:ServiceLoggerPayload",
    "litellm.models.user:LiteLLM_UserTable",
    "litellm.types.router:ModelGroupInfo",
    "litellm.types.router:GenericLiteLLMParams",
    "litellm.proxy.auth.network:TrustedProxyConfig",
    "litellm.proxy.auth.network:NetworkContext",
    "litellm.proxy.auth.resolvers.models:CredentialRef",
    "litellm.proxy.auth.resolvers.models:UserIdentity",
    "litellm.proxy.auth.resolvers.models:Principal",
    "litellm.types.utils:Message",
    "litellm.types.utils:Choices",
    "litellm.types.utils:ModelResponse",
    "litellm.types.utils:Usage",
    "litellm.types.utils:PromptTokensDetailsWrapper",
    "litellm.types.utils:CompletionTokensDetailsWrapper",
    "litellm.types.utils:StreamingChoices",
    "litellm.types.utils:Delta",
    "litellm.types.utils:ModelResponseStream",
    "litellm.types.llms.bedrock:AwsAuthParams",
    "litellm.types.llms.anthropic:AnthropicResponseContentBlockText",
    "litellm.types.llms.openai:ResponseAPIUsage",
    "litellm.litellm_core_utils.streaming_handler:_ParsedChunkHiddenParams",
    "litellm.litellm_core_utils.served_output_texts:_ChatChoices",
    "litellm.litellm_core_utils.served_output_texts:_AnthropicMessage",
    "litellm.litellm_core_utils.served_output_texts:_TextBlock",
    "litellm.llms.anthropic.cost_calculation:_AnthropicResponseProbe",
    "litellm.llms.anthropic.cost_calculation:_AnthropicUsageProbe",
    "litellm.proxy.hooks.batch_enqueued_tokens:_BatchResponseView",
    "litellm.proxy.hooks.prompt_cache_prediction:_Event",
    "litellm.proxy.hooks.prompt_cache_prediction:_Metadata",
    "litellm.proxy.hooks.prompt_cache_prediction:_Logged",
)
#: modules that its first request loads
MODULES = (
    "litellm.litellm_core_utils.default_encoding",
    "litellm.proxy.guardrails.anthropic_sse",
    "litellm.types.proxy.litellm_pre_call_utils",
    "litellm.types.litellm_core_utils.streaming_chunk_builder_utils",
    "litellm.llms.bedrock.chat.chat_completions.transformation",
    "litellm.llms.chatgpt.common_utils",
    "litellm.llms.vertex_ai.vertex_ai_partner_models.anthropic.transformation",
    "litellm.llms.pass_through.guardrail_translation.handler",
    "litellm.llms.mistral.ocr.guardrail_translation.handler",
    "litellm.llms.gemini.google_genai.guardrail_translation.handler",
    "litellm.llms.a2a.chat.guardrail_translation.handler",
    "litellm.llms.bedrock.passthrough.guardrail_translation.handler",
    "litellm.llms.anthropic.chat.guardrail_translation.handler",
    "litellm.llms.openai.transcriptions.guardrail_translation.handler",
    "litellm.llms.openai.videos.guardrail_translation.handler",
    "litellm.llms.openai.completion.guardrail_translation.handler",
    "litellm.llms.openai.speech.guardrail_translation.handler",
    "litellm.llms.openai.embeddings.guardrail_translation.handler",
    "litellm.llms.cohere.rerank.guardrail_translation.handler",
    "litellm.proxy._experimental.mcp_server.guardrail_translation.handler",
)
#: LiteLLM's functions that make a table when they are first asked; the first two are only read
TABLES = (
    ("litellm.utils", "get_bundled_model_cost_map"),
    ("litellm.llms.bedrock.common_utils", "_get_local_model_cost_map"),
    ("litellm.utils", "_rebuild_model_cost_lowercase_map"),
)
#: a model of each kind that LiteLLM's tables are asked about; that it has none of them is an answer, too
MODELS = (("claude-opus-9-9", "anthropic"), ("anthropic.claude-haiku-9-9", "bedrock"))


def own() -> None:
    """Load what is ours; needs LiteLLM's server library, not LiteLLM."""
    for name in OWN:
        with contextlib.suppress(Exception):
            importlib.import_module(f"ocd.guest.{name}")


def steps() -> list[Callable[[], Any]]:
    """What is to be done, each in a moment: the forkserver serves orders in between."""
    return [
        *(functools.partial(complete, name) for name in CLASSES + BEDROCK),
        *(functools.partial(importlib.import_module, name) for name in MODULES),
        *(functools.partial(table, *which) for which in TABLES),
        one_copy,
        look,
        command,
        text,
    ]


def complete(name: str) -> None:
    """Build a class's validators."""
    module, _, attribute = name.partition(":")
    getattr(importlib.import_module(module), attribute).model_rebuild()


def table(module: str, name: str) -> Any:
    """One of LiteLLM's further copies of its table of models, or the index of it: it keeps what it has made."""
    return getattr(importlib.import_module(module), name)()


def one_copy() -> None:
    """The two copies that LiteLLM only reads become one."""
    share(table(*TABLES[0]), table(*TABLES[1]))


def look() -> None:
    """What LiteLLM keeps of a first look into its tables."""
    from litellm import utils

    for model, provider in MODELS:
        with contextlib.suppress(Exception):
            utils.get_model_info(model, custom_llm_provider=provider)


def share(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Have two tables that nobody writes into keep one copy of what is equal in them."""
    for key, value in one.items():
        if other.get(key) == value:
            other[key] = value


def command() -> None:
    """Read the command's options as it will: click prepares each when it first meets it."""
    from litellm.proxy.proxy_cli import run_server

    run_server.make_context("litellm", ["--config", "none.yaml", "--host", "127.0.0.1", "--port", "1"])


def text() -> None:
    """An event loop, and a little YAML."""
    import yaml

    asyncio.run(asyncio.sleep(0))
    yaml.safe_load("a: [b, {c: 'd', e: 1.5}]\nf: null\n")
