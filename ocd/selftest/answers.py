"""What the stand-in upstreams say: pure functions from a request's body to an answer and its stream events.

Sources: Anthropic's API reference (Messages, Streaming messages, Errors, Rate limits) and AWS's API
reference for the Bedrock Runtime (Converse, ConverseStream, InvokeModel, common errors).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

#: The words that make a request's last text ask for a tool, beside tool_choice.
TOOL_WORDS = "use the tool"
TOKENS = 4242


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer's blocks: text always; where asked for, thinking before it and a tool's call after it."""

    model: str
    texts: tuple[str, ...]
    thinking: bool
    tool: str

    @property
    def stop_reason(self) -> str:
        return "tool_use" if self.tool else "end_turn"


def plan_anthropic(body: Json, model: str, chunks: int) -> Plan:
    """The plan for a Messages request."""
    thinking = _dict(body.get("thinking")).get("type") in ("enabled", "adaptive")
    choice = _dict(body.get("tool_choice"))
    names = [str(tool.get("name", "")) for tool in _dicts(body.get("tools"))]
    wanted = choice.get("type") in ("any", "tool") or _asks_for_tool(body)
    tool = str(choice.get("name") or (names[0] if names else "")) if wanted and names else ""
    return Plan(model, _texts(model, chunks), thinking, tool)


def plan_converse(body: Json, model: str, chunks: int) -> Plan:
    """The plan for a Converse request."""
    config = _dict(body.get("toolConfig"))
    names = [str(_dict(tool.get("toolSpec")).get("name", "")) for tool in _dicts(config.get("tools"))]
    choice = _dict(config.get("toolChoice"))
    wanted = "any" in choice or "tool" in choice or _asks_for_tool(body)
    tool = (
        str(_dict(choice.get("tool")).get("name") or (names[0] if names else "")) if wanted and names else ""
    )
    return Plan(model, _texts(model, chunks), False, tool)


# ---- Anthropic


def message(plan: Plan) -> Json:
    """The plain answer to POST /v1/messages."""
    content: list[Json] = []
    if plan.thinking:
        content.append({"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmF0dXJl"})
    content.append({"type": "text", "text": "".join(plan.texts)})
    if plan.tool:
        content.append(
            {"type": "tool_use", "id": "toolu_01standin", "name": plan.tool, "input": {"value": "x"}}
        )
    return {
        "id": "msg_01standin",
        "type": "message",
        "role": "assistant",
        "model": plan.model,
        "content": content,
        "stop_reason": plan.stop_reason,
        "stop_sequence": None,
        "usage": _usage(len(plan.texts)),
    }


def message_events(plan: Plan) -> Iterator[tuple[Json, bool]]:
    """The same as stream events in the published order; true marks those before which a slow answer waits."""
    start = message(plan) | {"content": [], "stop_reason": None, "usage": _usage(1)}
    yield {"type": "message_start", "message": start}, False
    index = 0
    if plan.thinking:
        yield _start(index, {"type": "thinking", "thinking": "", "signature": ""}), False
        yield _delta(index, {"type": "thinking_delta", "thinking": "Let me see."}), False
        yield _delta(index, {"type": "signature_delta", "signature": "c2lnbmF0dXJl"}), False
        yield _stop(index), False
        index += 1
    yield _start(index, {"type": "text", "text": ""}), False
    yield {"type": "ping"}, False
    for text in plan.texts:
        yield _delta(index, {"type": "text_delta", "text": text}), True
    yield _stop(index), False
    if plan.tool:
        index += 1
        call = {"type": "tool_use", "id": "toolu_01standin", "name": plan.tool, "input": {}}
        yield _start(index, call), False
        for part in ("", '{"value":', ' "x"}'):
            yield _delta(index, {"type": "input_json_delta", "partial_json": part}), False
        yield _stop(index), False
    ending = {"stop_reason": plan.stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": len(plan.texts)}}, False
    yield {"type": "message_stop"}, False


def sse(event: Mapping[str, Any]) -> bytes:
    """One server-sent event, named after its type."""
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


_ANTHROPIC_ERRORS = {
    400: ("invalid_request_error", "messages: at least one message is required"),
    401: (
        "authentication_error",
        "OAuth token has expired. Please obtain a new token or refresh your existing token.",
    ),
    403: ("permission_error", "Your account does not have permission to use the specified resource."),
    404: ("not_found_error", "model: not found"),
    413: ("request_too_large", "Request exceeds the maximum allowed number of bytes."),
    429: ("rate_limit_error", "This request would exceed your account's rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}


def anthropic_error(status: int) -> Json:
    kind, text = _ANTHROPIC_ERRORS.get(status, ("api_error", f"Status {status}"))
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_01standin"}


def anthropic_headers(status: int, retry_after: int) -> dict[str, str]:
    """Headers of every answer: request id and rate limits, the plan's (unified) ones too."""
    limited = status == 429
    headers = {
        "request-id": "req_01standin",
        "anthropic-organization-id": "00000000-0000-0000-0000-000000000000",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0" if limited else "49",
        "anthropic-ratelimit-requests-reset": "2030-01-01T00:00:00Z",
        "anthropic-ratelimit-unified-status": "rejected" if limited else "allowed",
        "anthropic-ratelimit-unified-reset": "1893456000",
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
    }
    if status in (429, 529):
        headers["retry-after"] = str(retry_after)
    return headers


# ---- Bedrock


def converse(plan: Plan) -> Json:
    """The plain answer to POST /model/{id}/converse."""
    content: list[Json] = [{"text": "".join(plan.texts)}]
    if plan.tool:
        content.append(
            {"toolUse": {"toolUseId": "tooluse_standin", "name": plan.tool, "input": {"value": "x"}}}
        )
    return {
        "metrics": {"latencyMs": 1},
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": plan.stop_reason,
        "usage": _bedrock_usage(plan),
    }


def converse_events(plan: Plan) -> Iterator[tuple[str, Json, bool]]:
    """The same as ConverseStream's events (kind, payload, wait before it when slow)."""
    yield "messageStart", {"p": "abcd", "role": "assistant"}, False
    # A text block has no contentBlockStart there; only a tool's call has.
    for text in plan.texts:
        yield "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}, "p": "abcdef"}, True
    yield "contentBlockStop", {"contentBlockIndex": 0, "p": "ab"}, False
    if plan.tool:
        call = {"toolUse": {"toolUseId": "tooluse_standin", "name": plan.tool}}
        yield "contentBlockStart", {"contentBlockIndex": 1, "start": call}, False
        for part in ("", '{"value":', ' "x"}'):
            yield "contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": part}}}, False
        yield "contentBlockStop", {"contentBlockIndex": 1}, False
    yield "messageStop", {"p": "abc", "stopReason": plan.stop_reason}, False
    yield "metadata", {"metrics": {"latencyMs": 1}, "usage": _bedrock_usage(plan)}, False


def completion(plan: Plan) -> Json:
    """InvokeModel's answer of a model that is not Anthropic's (chat completions, as Qwen's are)."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(plan.texts)},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": TOKENS, "completion_tokens": len(plan.texts)}
    return {"id": "chatcmpl-standin", "object": "chat.completion", "choices": [choice], "usage": usage}


def completion_chunks(plan: Plan) -> Iterator[tuple[Json, bool]]:
    """The same in pieces."""
    for text in plan.texts:
        yield {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}, True
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, False


_BEDROCK_ERRORS = {
    400: ("ValidationException", "The provided model identifier is invalid."),
    403: ("AccessDeniedException", "You don't have access to the model with the specified model ID."),
    404: ("ResourceNotFoundException", "Could not resolve the foundation model."),
    408: ("ModelTimeoutException", "The request took too long to process."),
    424: ("ModelErrorException", "The request failed due to an error while processing the model."),
    429: ("ThrottlingException", "Too many requests, please wait before trying again."),
    500: ("InternalServerException", "An internal server error occurred."),
    503: ("ServiceUnavailableException", "The service isn't currently available."),
}
_BEDROCK_TEXTS = {
    "ExpiredTokenException": "The security token included in the request is expired",
    "MissingAuthenticationTokenException": "Missing Authentication Token",
    "UnrecognizedClientException": "The security token included in the request is invalid.",
}


def bedrock_error(status: int, kind: str = "") -> tuple[str, Json]:
    """The error's type (for ``x-amzn-ErrorType``) and its body; ``kind`` overrides the status's usual one."""
    usual, text = _BEDROCK_ERRORS.get(status, ("InternalServerException", f"Status {status}"))
    return kind or usual, {"message": _BEDROCK_TEXTS.get(kind, text)}


# ---- pieces


def _texts(model: str, chunks: int) -> tuple[str, ...]:
    return (f"Hello from {model}.", *(f" {number}" for number in range(2, chunks + 1)))


def _usage(output: int) -> Json:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": TOKENS, **cache, "output_tokens": output}


def _bedrock_usage(plan: Plan) -> Json:
    output = len(plan.texts)
    return {"inputTokens": TOKENS, "outputTokens": output, "totalTokens": TOKENS + output}


def _start(index: int, block: Json) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, delta: Json) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _stop(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def _asks_for_tool(body: Json) -> bool:
    messages = _dicts(body.get("messages"))
    content = messages[-1].get("content") if messages else ""
    if isinstance(content, str):
        return TOOL_WORDS in content.lower()
    return any(TOOL_WORDS in str(block.get("text", "")).lower() for block in _dicts(content))


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
