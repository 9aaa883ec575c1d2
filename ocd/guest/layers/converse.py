"""What Bedrock really said: Converse answers and ConverseStream events as events of the Messages API. Pure.

One to one: indices and order are Bedrock's, ``answers.Answer`` makes the protocol of them. Sources: Amazon Bedrock's
API reference (Converse, ConverseStreamOutput, TokenUsage) and Smithy's "Amazon Event Stream" for the framing.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

#: bytes of one event-stream message; AWS allows 24 MB with its headers (Smithy, Amazon Event Stream)
LARGEST = 25_165_824
#: value type of a header → bytes of its value; 6 and 7 carry their length
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}

#: Converse's stop reasons that are another word of Anthropic's. The same words pass (end_turn, tool_use, max_tokens,
#: stop_sequence, model_context_window_exceeded), and so does one that is new.
STOP_REASONS = {"guardrail_intervened": "refusal", "content_filtered": "refusal"}
#: Converse's stop reasons that mean: what was sent is not an answer.
BROKEN = {
    "malformed_model_output": "The model's output was malformed and cannot be used.",
    "malformed_tool_use": "The model called a tool in a form that cannot be read.",
}


class Framing(ValueError):
    """These bytes are not an event stream."""


class Frames:
    """AWS's event stream, the receiving half: bytes in any pieces, messages out."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def partial(self) -> bool:
        """Whether the bytes end inside a message."""
        return bool(self._held)

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, str], bytes]]:
        """Headers and payload of each whole message. Raises Framing."""
        held = self._held + data
        at = 0
        try:
            while len(held) - at >= 12:
                total, length, check = struct.unpack_from("!III", held, at)
                if total < 16 + length or total > LARGEST or zlib.crc32(held[at : at + 8]) != check:
                    raise Framing("the event stream's framing is broken")
                if len(held) - at < total:
                    break
                end = at + total
                (check,) = struct.unpack_from("!I", held, end - 4)
                if zlib.crc32(held[at : end - 4]) != check:
                    raise Framing("an event's checksum is wrong")
                message = _headers(held[at + 12 : at + 12 + length]), held[at + 12 + length : end - 4]
                at = end
                yield message
        finally:
            self._held = held[at:]


def _headers(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(raw):
            size = raw[at]
            name = raw[at + 1 : at + 1 + size].decode("utf-8", "replace")
            kind = raw[at + 1 + size]
            at += 2 + size
            if kind in _FIXED:
                at += _FIXED[kind]
                continue
            if kind not in (6, 7):
                raise Framing("an event's header has an unknown type")
            (length,) = struct.unpack_from("!H", raw, at)
            found[name] = raw[at + 2 : at + 2 + length].decode("utf-8", "replace")
            at += 2 + length
    except (IndexError, struct.error):
        raise Framing("an event's headers are cut off") from None
    return found


class Translation:
    """The events of one answer of Converse's, as Messages events with Converse's own block indices.

    ``json_tool`` names the tool by which LiteLLM gets JSON of a schema out of a model that has no other way: its input
    is the answer's text. ``ended`` is whether Bedrock said why the model stopped.
    """

    def __init__(self, json_tool: str = "") -> None:
        self.json_tool = json_tool
        self.ended = False
        self._stop: Json | None = None
        self._kinds: dict[int, str] = {}
        self._usage: Json | None = None

    def stream(self, kind: str, value: Json) -> Iterator[Json]:
        """One event of ConverseStream's; ``kind`` is its member's name. Unknown ones say nothing."""
        if kind == "messageStart":
            yield {"type": "message_start"}
        elif kind == "contentBlockStart":
            yield from self._start(_index(value), _dict(value.get("start")))
        elif kind == "contentBlockDelta":
            yield from self._delta(_index(value), _dict(value.get("delta")))
        elif kind == "contentBlockStop":
            yield {"type": "content_block_stop", "index": _index(value)}
        elif kind == "messageStop":
            self.ended = True
            self._stop = {"stop_reason": str(value.get("stopReason") or "end_turn")}
        elif kind == "metadata":
            self._usage = usage(_dict(value.get("usage")))
            yield from self.close()

    def close(self) -> Iterator[Json]:
        """The end of the answer, where its stop reason is known; nothing otherwise, and nothing twice."""
        if self._stop is None:
            return
        delta, self._stop = self._stop, None
        reason = delta["stop_reason"]
        if reason in BROKEN:
            yield {"type": "error", "error": {"type": "api_error", "message": BROKEN[reason]}}
            return
        if reason == "tool_use" and self._kinds and "tool_use" not in self._kinds.values():
            # LiteLLM's tool for JSON was the only one.
            reason = "end_turn"
        delta["stop_reason"] = STOP_REASONS.get(reason, reason)
        yield {"type": "message_delta", "delta": delta, "usage": self._usage or {}}
        yield {"type": "message_stop"}

    def plain(self, value: Json) -> Iterator[Json]:
        """A whole answer of Converse's (not a stream) as the same events."""
        yield {"type": "message_start"}
        message = _dict(_dict(value.get("output")).get("message"))
        for index, block in enumerate(_dicts(message.get("content"))):
            if "toolUse" in block:
                call = _dict(block["toolUse"])
                yield from self._start(index, {"toolUse": call})
                text = json.dumps(call.get("input") or {}, separators=(",", ":"), ensure_ascii=False)
                yield from self._delta(index, {"toolUse": {"input": text}})
            elif "reasoningContent" in block:
                reasoning = _dict(block["reasoningContent"])
                whole = _dict(reasoning.get("reasoningText"))
                for name in ("text", "signature"):
                    if whole.get(name):
                        yield from self._delta(index, {"reasoningContent": {name: whole[name]}})
                if "redactedContent" in reasoning:
                    yield from self._delta(index, {"reasoningContent": reasoning})
            elif "citationsContent" in block:
                parts = _dicts(_dict(block["citationsContent"]).get("content"))
                yield from self._delta(index, {"text": "".join(str(one.get("text") or "") for one in parts)})
            elif isinstance(block.get("text"), str):
                yield from self._delta(index, {"text": block["text"]})
            else:
                continue
            yield {"type": "content_block_stop", "index": index}
        if value.get("stopReason"):
            self.ended = True
            self._stop = {"stop_reason": str(value["stopReason"])}
        self._usage = usage(_dict(value.get("usage")))
        yield from self.close()

    def _start(self, index: int, start: Json) -> Iterator[Json]:
        call = _dict(start.get("toolUse"))
        if call:
            name = str(call.get("name") or "")
            if self.json_tool and name == self.json_tool:
                yield self._begin(index, {"type": "text", "text": ""})
                self._kinds[index] = "json"
            else:
                tool = {"type": "tool_use", "id": str(call.get("toolUseId") or ""), "name": name, "input": {}}
                yield self._begin(index, tool)
        elif "reasoningContent" in start:
            yield from self._delta(index, start)

    def _delta(self, index: int, delta: Json) -> Iterator[Json]:
        if isinstance(delta.get("text"), str):
            if index not in self._kinds:
                yield self._begin(index, {"type": "text", "text": ""})
            yield _piece(index, "text_delta", "text", delta["text"])
        elif "toolUse" in delta:
            piece = str(_dict(delta["toolUse"]).get("input") or "")
            if self._kinds.get(index) == "json":
                yield _piece(index, "text_delta", "text", piece)
            else:
                yield _piece(index, "input_json_delta", "partial_json", piece)
        elif "reasoningContent" in delta:
            reasoning = _dict(delta["reasoningContent"])
            if "redactedContent" in reasoning:
                data = str(reasoning["redactedContent"])
                yield self._begin(index, {"type": "redacted_thinking", "data": data})
                return
            if index not in self._kinds:
                yield self._begin(index, {"type": "thinking", "thinking": "", "signature": ""})
            if isinstance(reasoning.get("text"), str):
                yield _piece(index, "thinking_delta", "thinking", reasoning["text"])
            if isinstance(reasoning.get("signature"), str):
                yield _piece(index, "signature_delta", "signature", reasoning["signature"])

    def _begin(self, index: int, block: Json) -> Json:
        self._kinds[index] = str(block["type"])
        return {"type": "content_block_start", "index": index, "content_block": block}


def usage(counted: Json) -> Json:
    """Converse's token usage in Anthropic's words; what Bedrock does not say is left out."""
    pairs = (
        ("input_tokens", "inputTokens"),
        ("cache_creation_input_tokens", "cacheWriteInputTokens"),
        ("cache_read_input_tokens", "cacheReadInputTokens"),
        ("output_tokens", "outputTokens"),
    )
    return {ours: counted[theirs] for ours, theirs in pairs if isinstance(counted.get(theirs), int)}


def _piece(index: int, kind: str, name: str, text: str) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: text}}


def _index(value: Json) -> int:
    found = value.get("contentBlockIndex")
    return found if isinstance(found, int) else 0


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
