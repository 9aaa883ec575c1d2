"""Is an answer of the Messages API well-formed? Pure. Source: Anthropic's API reference, Streaming."""

import json
from typing import Any


def check_stream(text: str) -> tuple[list[str], list[str]]:
    """Block types of a streamed answer and what is wrong with it (empty: nothing)."""
    wrong: list[str] = []
    blocks: list[str] = []
    open_index: int | None = None
    seen: list[str] = []
    for event in _events(text, wrong):
        kind = str(event.get("type"))
        if seen and seen[-1] == "message_stop":
            wrong.append(f"{kind} after message_stop")
        if kind != "ping":
            seen.append(kind)
        if kind == "content_block_start":
            if open_index is not None:
                wrong.append(f"block {event.get('index')} opened before block {open_index} was closed")
            if event.get("index") != len(blocks):
                wrong.append(f"block {event.get('index')} opened where {len(blocks)} was due")
            open_index = event.get("index")
            block = event.get("content_block")
            blocks.append(str(block.get("type")) if isinstance(block, dict) else "?")
        elif kind in ("content_block_delta", "content_block_stop"):
            if open_index is None or event.get("index") != open_index:
                wrong.append(f"{kind} for block {event.get('index')}, which is not open")
            if kind == "content_block_stop":
                open_index = None
        elif kind == "message_delta":
            wrong += _delta(event, open_index)
        elif kind == "error":
            wrong.append("the stream ends with an error event")
    if seen[:1] != ["message_start"]:
        wrong.append("the stream does not begin with message_start")
    if seen[-2:] != ["message_delta", "message_stop"]:
        wrong.append("the stream does not end with message_delta and message_stop")
    if seen.count("message_start") > 1:
        wrong.append("more than one message_start")
    return blocks, wrong


def check_plain(value: Any) -> tuple[list[str], list[str]]:
    """Block types of a plain answer and what is wrong with it."""
    if not isinstance(value, dict) or not isinstance(value.get("content"), list):
        return [], ["the answer is no message"]
    wrong = []
    if value.get("type") != "message" or value.get("role") != "assistant":
        wrong.append("the answer is no message of the assistant")
    if not value.get("stop_reason"):
        wrong.append("no stop_reason")
    usage = value.get("usage")
    if not isinstance(usage, dict) or not usage.get("output_tokens"):
        wrong.append("no usage")
    return [str(one.get("type")) for one in value["content"] if isinstance(one, dict)], wrong


def _events(text: str, wrong: list[str]) -> list[dict[str, Any]]:
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if not block.strip():
            continue
        fields = dict(line.partition(":")[::2] for line in block.split("\n") if not line.startswith(":"))
        try:
            event = json.loads(fields.get("data", ""))
            if not isinstance(event, dict):
                raise ValueError
        except ValueError:
            wrong.append("an event without JSON")
            continue
        if fields.get("event", "").strip() != event.get("type"):
            wrong.append(f"the event's name and its type {event.get('type')} differ")
        found.append(event)
    return found


def _delta(event: dict[str, Any], open_index: int | None) -> list[str]:
    wrong = []
    if open_index is not None:
        wrong.append(f"message_delta before block {open_index} was closed")
    delta, usage = event.get("delta"), event.get("usage")
    if not isinstance(delta, dict) or not delta.get("stop_reason"):
        wrong.append("no stop_reason")
    if not isinstance(usage, dict) or not usage.get("output_tokens"):
        wrong.append("no usage")
    return wrong
