"""What is loaded and prepared once, before the fork: it takes no longer than in one process, and all guests share it.

Loaded by path under LiteLLM's interpreter.
"""

import contextlib
import ctypes
import importlib
import threading
from typing import Any

#: What LiteLLM reads while it is being imported (FACTS): set before the import, for every guest alike.
IMPORT_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "NO_OPENAPI": "True",
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "True",
}

#: What LiteLLM imports in every process while its server starts, measured on the pinned version: done once, before the
#: fork, it takes no longer and all guests share it. A name that another version lacks is passed over.
START_UP = (
    "litellm.llms.anthropic.completion.transformation",
    "litellm.llms.bedrock.passthrough.transformation",
    "litellm.llms.edenai.chat.transformation",
    "litellm.llms.edenai.common_utils",
    "litellm.llms.fal_ai.chat.transformation",
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.proxy._experimental.mcp_server.faults.classify",
    "litellm.proxy._experimental.mcp_server.faults.render_oauth",
    "litellm.proxy._experimental.mcp_server.faults.traversal",
    "litellm.proxy._experimental.mcp_server.faults.types",
    "litellm.proxy._experimental.mcp_server.semantic_tool_filter",
    "litellm.proxy._experimental.mcp_server.utils",
    "litellm.proxy.admin_mcp",
    "litellm.proxy.common_utils.banner",
    "litellm.proxy.hooks.mcp_semantic_filter.hook",
    "litellm.proxy.pass_through_endpoints.common_utils",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    "litellm.proxy.pass_through_endpoints.passthrough_endpoint_router",
    "litellm.proxy.policy_engine.init_policies",
    "litellm.sandbox.sandbox_tools",
    "litellm.types.passthrough_endpoints.vertex_ai",
)
#: What LiteLLM imports when its first requests arrive, measured on the pinned version: imported before the fork, it
#: costs no request any time and all guests share the memory. A name that another version lacks is passed over.
#: Left out: litellm.litellm_core_utils.default_encoding, a tokenizer's table, 40 MB for 77 ms.
FIRST_REQUEST = (
    "litellm.proxy.anthropic_endpoints.endpoints",
    "litellm.proxy.guardrails.guardrail_helpers",
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    "litellm.integrations.websearch_interception.tools",
    "litellm.integrations.shadow_eval_logger",
    "litellm.litellm_core_utils.streaming_chunk_builder_utils",
    "litellm.llms.anthropic.pass_through.messages.streaming_iterator",
    "litellm.llms.bedrock.chat.converse_handler",
    "openai.resources.beta.assistants",
    "openai.resources.chat.completions.completions",
    "anyio._backends._asyncio",
    "boto3",
    "botocore.auth",
    "botocore.eventstream",
)


def import_litellm() -> str:
    """Import LiteLLM's proxy and what its first request would import; returns its version."""
    # By name, because nothing here uses them: what counts is that they are loaded.
    importlib.import_module("litellm.proxy.proxy_cli")
    importlib.import_module("litellm.proxy.proxy_server")
    importlib.import_module("uvicorn")
    # The command's own imports, which would otherwise happen once per guest.
    for name in (
        "uvicorn.protocols.http.h11_impl",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto",
        "uvicorn.lifespan.on",
        "uvicorn.loops.uvloop",
        "litellm.litellm_core_utils.litellm_logging",
        "litellm.llms.anthropic.chat.transformation",
        *START_UP,
    ):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with contextlib.suppress(Exception):
        late_tokenizer()
    from importlib.metadata import version

    return version("litellm")


def late_tokenizer() -> None:
    """Have tiktoken's table of tokens read when somebody counts with it, not when LiteLLM looks for it.

    LiteLLM hands it to every request of Bedrock's, which counts by itself: 40 MB and 80 ms for nothing. tiktoken keeps
    the encodings that were made in a table; there a place is kept for this one.
    """
    import tiktoken
    from tiktoken import registry

    name = "cl100k_base"
    lock = threading.RLock()

    class Late(tiktoken.Encoding):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.name = name

        def __getattr__(self, attribute: str) -> Any:
            # Only what is not there yet comes here.
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            with lock:
                if "_core_bpe" not in self.__dict__:
                    from tiktoken_ext import openai_public

                    super().__init__(**openai_public.cl100k_base())
            return object.__getattribute__(self, attribute)

    registry.ENCODINGS.setdefault(name, Late())


def prepare_routes() -> None:
    """Have LiteLLM's application prepare its routes, which it otherwise does when its first request arrives.

    FastAPI does that on the first match of each of several hundred routes: 0.3 s and 16 MB, here once for all.
    """
    from litellm.proxy.proxy_server import app

    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}
    for route in app.router.routes:
        route.matches(scope)


def give_back() -> None:
    """Return free memory to the system (malloc_trim(3), glibc): a fork shares pages, not what is free in them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
