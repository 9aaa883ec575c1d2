"""Anthropic's protocol, held to: Messages events in, in whatever state, Messages events out as Anthropic sends them.

Pure: no clock, no I/O. What goes in comes from Bedrock (``converse.Translation``) or from LiteLLM's own stream
(``Sse``); both may interleave blocks, open empty ones, say a piece twice or end early. What comes out: one
message_start, blocks one after the other with indices from 0, none of them empty, every tool's input whole JSON of the
model's own bytes, one message_delta with a stop reason and usage, message_stop; or an ``error`` event and nothing
after it. Source: Anthropic's API reference (Streaming messages, Messages).
"""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]

EARLY = "Bedrock ended the stream before the answer was complete."
UNFINISHED_TOOL = "Bedrock ended the answer inside a tool call: its input is not whole JSON."
UNFINISHED_BLOCK = "Bedrock ended the answer inside a block."
#: stop reasons after which a tool's input may well be cut off: Anthropic sends it so
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
_TEXT = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
#: bytes of one event of LiteLLM's
LARGEST = 64 * 1024 * 1024
#: bytes of a text that are about one token
TOKEN = 4

PING: Json = {"type": "ping"}


class _Block:
    """One block while it is being received: what came and was not sent yet."""

    __slots__ = ("closed", "head", "opened", "pieces", "raw", "signed", "spoken", "waiting")

    def __init__(self, head: Json) -> None:
        self.head = head
        #: text that the start event carried: said again by the first delta, or said nowhere else
        self.waiting = str(head.get("text") or head.get("thinking") or "")
        self.pieces: list[Json] = []
        self.opened = False
        self.closed = False
        self.spoken = False
        self.signed = ""
        self.raw: list[str] = []

    @property
    def kind(self) -> str:
        return str(self.head.get("type"))


class Answer:
    """One answer on its way to the client.

    ``model`` is what the client called it; ``restore`` gives a tool its name back; ``stops`` are the request's stop
    sequences; ``input_tokens`` stands in message_start, where Bedrock has no count yet.
    """

    def __init__(
        self,
        model: str,
        restore: Callable[[str], str] = str,
        stops: tuple[str, ...] = (),
        input_tokens: int = 0,
        identity: str = "",
    ) -> None:
        self.model = model
        self.restore = restore
        self.stops = stops
        self.input_tokens = input_tokens
        self.identity = identity or f"msg_bdrk_{uuid.uuid4().hex[:24]}"
        self.begun = False
        #: message_stop or an error was sent: nothing comes after it
        self.over = False
        self.failed = False
        self._blocks: dict[Any, _Block] = {}
        self._order: list[Any] = []
        self._sent = 0
        self._text = 0
        self._tools = 0
        self._stop: Json | None = None

    def feed(self, event: Json) -> Iterator[Json]:
        """Take one event; yields what may be sent now."""
        if self.over:
            return
        kind = event.get("type")
        if kind == "message_start":
            message = event.get("message")
            counted = _ints(message.get("usage")) if isinstance(message, dict) else {}
            if counted.get("input_tokens"):
                self.input_tokens = counted["input_tokens"]
            yield from self._begin()
        elif kind == "content_block_start":
            yield from self._begin()
            yield from self._open(event)
        elif kind == "content_block_delta":
            yield from self._begin()
            yield from self._delta(event)
        elif kind == "content_block_stop":
            block = self._blocks.get(event.get("index"))
            if block is not None:
                block.closed = True
                yield from self._flow()
        elif kind == "message_delta":
            yield from self._begin()
            yield from self._delta_of_message(event)
        elif kind == "message_stop":
            yield from self._end()
        elif kind == "error":
            error = event.get("error")
            error = error if isinstance(error, dict) else {}
            yield from self.fail(str(error.get("message") or EARLY), str(error.get("type") or "api_error"))
        elif kind == "ping":
            yield PING

    def fail(self, message: str, kind: str = "api_error") -> Iterator[Json]:
        """End the answer with an error, unless it is over."""
        if not self.over:
            self.over = self.failed = True
            yield {"type": "error", "error": {"type": kind, "message": message}}

    def finish(self) -> Iterator[Json]:
        """Nothing more comes. An answer that is not over by now broke off."""
        if not self.over:
            yield from self.fail(EARLY)

    # ---- blocks

    def _begin(self) -> Iterator[Json]:
        if self.begun:
            return
        self.begun = True
        message: Json = {
            "id": self.identity,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**_usage({}), "input_tokens": self.input_tokens, "output_tokens": 1},
        }
        yield {"type": "message_start", "message": message}

    def _open(self, event: Json) -> Iterator[Json]:
        index, head = event.get("index"), event.get("content_block")
        if not isinstance(head, dict):
            return
        old = self._blocks.get(index)
        if old is not None and not old.closed:
            # The same index again, and no end between: the first one ends here.
            old.closed = True
        head = dict(head)
        if head.get("type") == "tool_use":
            head["name"] = self.restore(str(head.get("name") or ""))
            head["id"] = str(head.get("id") or f"toolu_bdrk_{uuid.uuid4().hex[:24]}")
        block = _Block(head)
        if block.kind == "tool_use":
            given = head.get("input")
            if given:
                block.pieces.append(_json_piece(json.dumps(given, ensure_ascii=False)))
            head["input"] = {}
        elif block.kind == "thinking":
            if head.get("signature"):
                block.signed = str(head["signature"])
            head.update(thinking="", signature="")
        elif block.kind == "text":
            head["text"] = ""
        key = object() if old is not None else index
        if old is not None:
            self._blocks[key] = old
            self._order = [key if one == index else one for one in self._order]
        self._blocks[index] = block
        self._order.append(index)
        yield from self._flow()

    def _delta(self, event: Json) -> Iterator[Json]:
        index, delta = event.get("index"), event.get("delta")
        if not isinstance(delta, dict):
            return
        block = self._blocks.get(index)
        kind = str(delta.get("type"))
        if block is None or block.closed:
            # Pieces of a block that nobody opened: text can be nothing else.
            if kind != "text_delta":
                yield from self.fail(UNFINISHED_BLOCK)
                return
            yield from self._open({"index": index, "content_block": {"type": "text", "text": ""}})
            block = self._blocks[index]
        name = _TEXT.get(kind, "")
        if kind == "signature_delta":
            block.signed += str(delta.get("signature") or "")
            return
        if name:
            text = str(delta.get(name) or "")
            if block.waiting and name != "partial_json":
                said, block.waiting = block.waiting, ""
                if not text.startswith(said):
                    block.pieces.append({"type": kind, name: said})
            if text:
                block.pieces.append({"type": kind, name: text})
        else:
            block.pieces.append(delta)
        yield from self._flow()

    def _flow(self) -> Iterator[Json]:
        """Send what the first unfinished block has; where it is done, the next one's."""
        while self._order and not self.over:
            block = self._blocks[self._order[0]]
            yield from self._pieces(block)
            if not block.closed:
                return
            if block.kind == "tool_use" and not _whole("".join(block.raw)):
                # Whether that is an error only the stop reason says; until then the block is not done.
                if len(self._order) == 1:
                    return
                yield from self.fail(UNFINISHED_TOOL)
                return
            yield from self._close(block)

    def _close(self, block: _Block) -> Iterator[Json]:
        if block.waiting:
            name = "thinking" if block.kind == "thinking" else "text"
            block.pieces.append({"type": f"{name}_delta", name: block.waiting})
            block.waiting = ""
            yield from self._pieces(block)
        if block.signed and block.kind == "thinking":
            yield from self._open_once(block)
            yield self._event(
                "content_block_delta", delta={"type": "signature_delta", "signature": block.signed}
            )
        if block.kind not in ("text", "thinking"):
            yield from self._open_once(block)
        if block.opened:
            yield self._event("content_block_stop")
            self._sent += 1
            self._tools += block.kind == "tool_use"
        self._order.pop(0)

    def _pieces(self, block: _Block) -> Iterator[Json]:
        if block.kind == "tool_use" or block.kind not in ("text", "thinking"):
            yield from self._open_once(block)
        elif not block.spoken:
            # A text of blanks alone is no block of Anthropic's, and cannot be sent back to it.
            if not any(_spoken(piece) for piece in block.pieces):
                return
            block.spoken = True
            yield from self._open_once(block)
        pieces, block.pieces = block.pieces, []
        for piece in pieces:
            if piece.get("type") == "input_json_delta":
                block.raw.append(piece["partial_json"])
            self._text += len(str(piece.get(_TEXT.get(str(piece.get("type")), ""), "")))
            yield self._event("content_block_delta", delta=piece)

    def _open_once(self, block: _Block) -> Iterator[Json]:
        if not block.opened:
            block.opened = True
            yield self._event("content_block_start", content_block=block.head)

    def _event(self, kind: str, **more: Any) -> Json:
        return {"type": kind, "index": self._sent, **more}

    # ---- the end

    def _delta_of_message(self, event: Json) -> Iterator[Json]:
        delta = event.get("delta")
        delta = dict(delta) if isinstance(delta, dict) else {}
        if self._stop is not None:
            # A second one: LiteLLM sends usage by itself.
            self._stop["usage"].update(_ints(event.get("usage")))
            return
        reason = delta.get("stop_reason")
        for index in self._order:
            block = self._blocks[index]
            if block.closed and block.kind == "tool_use" and not _whole("".join(block.raw)):
                if reason not in _CUT:
                    yield from self.fail(UNFINISHED_TOOL)
                    return
            elif not block.closed and reason not in _CUT:
                yield from self.fail(UNFINISHED_TOOL if block.kind == "tool_use" else UNFINISHED_BLOCK)
                return
        while self._order:
            block = self._blocks[self._order[0]]
            yield from self._pieces(block)
            yield from self._close(block)
        self._stop = {"delta": delta, "usage": _ints(event.get("usage"))}

    def _end(self) -> Iterator[Json]:
        if self._stop is None or not self._stop["delta"].get("stop_reason"):
            yield from self.fail(EARLY)
            return
        delta, counted = self._stop["delta"], self._stop["usage"]
        reason = delta["stop_reason"]
        if self._tools and reason in ("end_turn", "stop_sequence"):
            # Some models say that their turn is over where they wait for a tool.
            reason = "tool_use"
        elif reason == "tool_use" and not self._tools:
            reason = "end_turn"
        sequence = delta.get("stop_sequence")
        if reason == "stop_sequence" and sequence is None and len(self.stops) == 1:
            sequence = self.stops[0]
        delta = {**delta, "stop_reason": reason, "stop_sequence": sequence}
        if not counted.get("input_tokens") and not counted.get("cache_read_input_tokens"):
            counted["input_tokens"] = self.input_tokens
        if not counted.get("output_tokens"):
            counted["output_tokens"] = max(1, self._text // TOKEN)
        self.over = True
        yield {"type": "message_delta", "delta": delta, "usage": _usage(counted)}
        yield {"type": "message_stop"}


class Message:
    """A plain answer, put together from the events of an ``Answer``."""

    def __init__(self) -> None:
        self.error: Json | None = None
        self.done = False
        self._message: Json = {}
        self._blocks: list[Json] = []
        self._raw: dict[int, list[str]] = {}

    def add(self, event: Json) -> None:
        kind = event["type"]
        if kind == "message_start":
            self._message = dict(event["message"])
        elif kind == "content_block_start":
            self._blocks.append(dict(event["content_block"]))
        elif kind == "content_block_delta":
            block, delta = self._blocks[-1], event["delta"]
            name = {**_TEXT, "signature_delta": "signature"}.get(delta["type"], "")
            if name == "partial_json":
                self._raw.setdefault(len(self._blocks) - 1, []).append(delta[name])
            elif name:
                block[name] = str(block.get(name) or "") + delta[name]
        elif kind == "message_delta":
            self._message.update(event["delta"])
            self._message["usage"] = event["usage"]
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            self.error = event

    def body(self) -> bytes:
        """The message as JSON. A tool's input is the model's own text: no number in it is read and written again."""
        blocks = []
        for index, block in enumerate(self._blocks):
            raw = "".join(self._raw.get(index, ()))
            if block.get("type") == "tool_use" and raw.strip() and _whole(raw):
                head = _dumps({name: value for name, value in block.items() if name != "input"})
                blocks.append(f'{head[:-1]},"input":{raw}}}')
            else:
                blocks.append(_dumps(block))
        message = {name: value for name, value in self._message.items() if name != "content"}
        return f'{_dumps(message)[:-1]},"content":[{",".join(blocks)}]}}'.encode()


def from_message(message: Json) -> Iterator[Json]:
    """A plain answer (LiteLLM's) as events, for an ``Answer`` to look at."""
    yield {"type": "message_start", "message": message}
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else []):
        if isinstance(block, dict):
            yield {"type": "content_block_start", "index": index, "content_block": block}
            yield {"type": "content_block_stop", "index": index}
    if message.get("stop_reason"):
        delta = {"stop_reason": message["stop_reason"], "stop_sequence": message.get("stop_sequence")}
        yield {"type": "message_delta", "delta": delta, "usage": message.get("usage") or {}}
        yield {"type": "message_stop"}


class Sse:
    """Server-sent events, the receiving half: bytes in any pieces, JSON objects out. Other data is passed over."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[Json]:
        held = self._held + data
        if len(held) > LARGEST:
            held = b""
        at = 0
        while True:
            ends = [
                (end, size)
                for mark, size in ((b"\n\n", 2), (b"\r\n\r\n", 4))
                if (end := held.find(mark, at)) >= 0
            ]
            if not ends:
                break
            end, size = min(ends)
            if (event := _event(held[at:end])) is not None:
                yield event
            at = end + size
        self._held = held[at:]


def _event(block: bytes) -> Json | None:
    lines = [line[5:].lstrip() for line in block.splitlines() if line.startswith(b"data:")]
    try:
        value = json.loads(b"\n".join(lines)) if lines else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def sse(event: Json) -> bytes:
    """One event as it is sent."""
    return f"event: {event['type']}\ndata: {_dumps(event)}\n\n".encode()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


def _json_piece(text: str) -> Json:
    return {"type": "input_json_delta", "partial_json": text}


def _spoken(piece: Json) -> bool:
    name = _TEXT.get(str(piece.get("type")))
    if name is None:
        return True
    text = str(piece.get(name) or "")
    return bool(text if name == "thinking" else text.strip())


def _whole(text: str) -> bool:
    """Whether a tool's input is one JSON object; none at all stands for the empty one."""
    if not text.strip():
        return True
    try:
        return isinstance(json.loads(text, parse_constant=_no_constant, parse_float=str, parse_int=str), dict)
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _ints(counted: Any) -> Json:
    if not isinstance(counted, dict):
        return {}
    return {name: value for name, value in counted.items() if isinstance(value, int) and name in _USAGE}


_USAGE = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


def _usage(counted: Json) -> Json:
    return {name: int(counted.get(name) or 0) for name in _USAGE}
