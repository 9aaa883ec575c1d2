"""Stand-ins for Anthropic and for Bedrock that keep the exact bytes of what they are sent.

Standard library alone, one thread a connection, HTTP/1.1 by hand: a library between the socket and the record would
have an opinion about header names. The stand-in for Anthropic serves plain HTTP (behind main) and TLS (as the
recorder in the place of api.anthropic.com); both answer alike, so that a session can be compared over both.

Words in the last text of the user make the answer call a tool; the next request, with the tool's result, ends the
turn. Each needs its tool in the request, else the answer is plain text:

========================  ============================================================================
``SPAWN:<model>``         a subagent; ``SPAWN:-`` names no model
``BASH:<command>``        the Bash tool, to the end of the line
``WEBSEARCH``             the WebSearch tool (which asks again, with Anthropic's server tool)
``TSEARCH:<names>``       the ToolSearch tool, ``select:<names>``
========================  ============================================================================
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

#: bytes; Anthropic's own limit of a request is 32 MB
LARGEST_HEAD = 1 << 20
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
AWS_ERRORS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


@dataclass(slots=True)
class Seen:
    """One request: ``head`` and ``body`` byte for byte; header names in ``headers`` as they were written."""

    server: str
    number: int
    time: float
    head: bytes
    body: bytes = b""
    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    status: int | str = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str:
        """The first value of a header, "" when there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def json(self) -> dict[str, Any]:
        """The body as an object, decompressed if need be; {} when it is none."""
        data = self.body
        with contextlib.suppress(OSError, ValueError, zlib.error):
            if self.header("content-encoding") == "gzip":
                data = gzip.decompress(data)
            value = json.loads(data)
            if isinstance(value, dict):
                return value
        return {}

    @property
    def model(self) -> str:
        found = re.match(r"/model/(.+)/(?:converse|invoke)", self.path)
        return unquote(found[1]) if found else str(self.json.get("model", ""))

    @property
    def tools(self) -> list[str]:
        if "toolConfig" in self.json:
            return [one["toolSpec"]["name"] for one in self.json["toolConfig"]["tools"] if "toolSpec" in one]
        return [one.get("name", one.get("type", "?")) for one in self.json.get("tools") or []]

    def __str__(self) -> str:
        return (
            f"{self.server} {self.method} {self.target} model={self.model} {len(self.body)} B → {self.status}"
        )


@dataclass(slots=True)
class Rule:
    """What is done with requests that fit, instead of a good answer; the first that fits is used.

    ``model`` and ``path`` are regular expressions; ``times``: how often (-1: always). ``status`` answers with that
    status, ``message``, ``headers``. ``cut``: the stream's connection is closed after so many events, ``how``:
    "reset" (RST), "close" (FIN without the last chunk), "end" (a proper end of the body), "error" (an SSE event
    ``error``, then a proper end). ``before`` raw bytes are written before the first event, ``wait`` seconds pass
    before the answer's first byte, ``pause`` seconds before each event.
    """

    model: str = ""
    path: str = r"/v1/messages$|/model/"
    times: int = 1
    status: int = 0
    message: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    cut: int = -1
    how: str = "reset"
    before: bytes = b""
    wait: float = 0.0
    pause: float = 0.0
    text: str = ""


class Standin:
    """One listener. ``flavour``: "anthropic" or "bedrock"."""

    def __init__(
        self,
        name: str,
        flavour: str,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.flavour = flavour
        self.tls = tls
        self.rules: list[Rule] = []
        #: utilization of the plan's five-hour window, as Anthropic writes it on each answer
        self.used = "0.31"
        #: when that window ends, in seconds since 1970
        self.window_ends = 0
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._hung_up = False
        self._listener = socket.create_server((host, port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{host}:{self.port}"
        threading.Thread(target=self._accept, name=f"stand-in {name}", daemon=True).start()

    def close(self) -> None:
        # A thread in accept() keeps the listener alive; shutdown wakes it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def hang_up(self) -> None:
        """End every connection, those that a client keeps for its next request too; their threads end with them.

        Until ``reset`` new ones are closed at once: a request that is tried again is not served between two tests.
        """
        with self._lock:
            self._hung_up = True
            served = list(self._open.items())
        for connection, _thread in served:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for _connection, thread in served:
            thread.join(5)

    def reset(self) -> None:
        """Forget requests and rules."""
        with self._lock:
            self._hung_up = False
            self._seen.clear()
            self.rules = []
            self.used = "0.31"

    def seen(self, path: str = "", model: str = "") -> list[Seen]:
        """What arrived so far, oldest first; ``path`` and ``model`` are regular expressions."""
        with self._lock:
            return [
                one
                for one in self._seen
                if re.search(path, one.target) and (not model or re.search(model, one.model))
            ]

    def messages(self, model: str = "") -> list[Seen]:
        """The requests for an answer of a model (no counting of tokens)."""
        return [one for one in self.seen(r"/v1/messages(?:\?|$)|/model/", model) if one.method == "POST"]

    # ------------------------------------------------------------------------------------------- connections

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                if self._hung_up:
                    connection.close()
                    continue
                self._open[connection] = thread
                thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        connection = accepted
        try:
            with contextlib.suppress(OSError, ValueError, EOFError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(300)
                if self.tls is not None:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                    with self._lock:
                        # The socket underneath is a shell now.
                        self._open[connection] = self._open.pop(accepted)
                with connection.makefile("rb") as reader:
                    while self._one(connection, reader):
                        pass
        finally:
            with contextlib.suppress(OSError):
                connection.close()
            with self._lock:
                self._open.pop(connection, None)
                self._open.pop(accepted, None)

    def _one(self, connection: socket.socket, reader: Any) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reader.readline(LARGEST_HEAD)
            if not line:
                return False
            head += line
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ")
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)
        ]
        seen = Seen(self.name, 0, time.time(), head, b"", method, target, headers)
        if seen.header("expect").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if seen.header("transfer-encoding").lower() == "chunked":
            while size := int(reader.readline().split(b";")[0], 16):
                seen.body += reader.read(size)
                reader.readline()
            reader.readline()
        elif length := int(seen.header("content-length") or 0):
            seen.body = reader.read(length)
        with self._lock:
            seen.number = len(self._seen) + 1
            self._seen.append(seen)
            rule = next((one for one in self.rules if one.times and self._fits(one, seen)), Rule())
            rule.times -= 1
        time.sleep(rule.wait)
        return self._answer(_Answer(connection, seen), rule)

    @staticmethod
    def _fits(rule: Rule, seen: Seen) -> bool:
        return bool(re.search(rule.path, seen.path) and (not rule.model or re.search(rule.model, seen.model)))

    # ----------------------------------------------------------------------------------------------- answers

    def _answer(self, answer: _Answer, rule: Rule) -> bool:
        seen = answer.seen
        if rule.status:
            return answer.plain(rule.status, self._error(rule), self._extra(seen, rule) + list(rule.headers))
        if self.flavour == "bedrock":
            if not re.match(r"/model/.+/converse", seen.path):
                return answer.plain(404, {"message": f"stand-in: no {seen.path}"})
            make: Callable[..., Iterator[bytes]] = converse_events
            kind, whole = "application/vnd.amazon.eventstream", converse(seen, rule.text)
            streamed = seen.path.endswith("-stream")
        elif seen.path == "/v1/messages" and seen.method == "POST":
            make, kind, whole = message_events, "text/event-stream; charset=utf-8", message(seen, rule.text)
            streamed = bool(seen.json.get("stream"))
        elif seen.path == "/v1/messages/count_tokens":
            return answer.plain(200, {"input_tokens": 4242}, self._extra(seen, rule))
        elif seen.path == "/api/hello":
            return answer.plain(200, {"message": "hello"})
        else:
            return answer.plain(404, {"type": "error", "error": {"type": TYPES[404], "message": "Not Found"}})
        if not streamed:
            return answer.plain(200, whole, self._extra(seen, rule))
        return answer.stream(kind, make(whole), rule, self._extra(seen, rule))

    def _error(self, rule: Rule) -> dict[str, Any]:
        message = rule.message or f"stand-in: {rule.status}"
        if self.flavour == "bedrock":
            return {"message": message}
        return {"type": "error", "error": {"type": TYPES.get(rule.status, "api_error"), "message": message}}

    def _extra(self, seen: Seen, rule: Rule) -> list[tuple[str, str]]:
        if self.flavour == "bedrock":
            kind = AWS_ERRORS.get(rule.status, "InternalServerException")
            errors = [("x-amzn-ErrorType", f"{kind}:http://internal.amazon.com/")] if rule.status else []
            return [("x-amzn-RequestId", f"00000000-0000-0000-0000-{seen.number:012d}"), *errors]
        # As a window's end is: the same for two requests a minute apart, whose answers are compared.
        if self.window_ends < time.time() + 1800:
            self.window_ends = int(time.time()) + 3600
        reset = str(self.window_ends)
        limits = {
            "status": "allowed",
            "reset": reset,
            "representative-claim": "five_hour",
            "5h-status": "allowed",
            "5h-reset": reset,
            "5h-utilization": self.used,
            "7d-status": "allowed",
            "7d-reset": str(int(reset) + 86_400),
            "7d-utilization": "0.12",
        }
        return [
            ("request-id", f"req_standin{seen.number}"),
            *((f"anthropic-ratelimit-unified-{name}", value) for name, value in limits.items()),
        ]


class _Answer:
    """Writes one answer; each method returns whether the connection goes on."""

    def __init__(self, connection: socket.socket, seen: Seen) -> None:
        self.connection = connection
        self.seen = seen

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        lines = [f"HTTP/1.1 {status} Stand-in", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.connection.sendall("\r\n".join(lines).encode("latin-1"))

    def plain(self, status: int, value: Any, extra: list[tuple[str, str]] | None = None) -> bool:
        self.seen.status = status
        data = json.dumps(value).encode()
        self.head(
            status, [("content-type", "application/json"), ("content-length", str(len(data))), *(extra or [])]
        )
        if self.seen.method != "HEAD":
            self.connection.sendall(data)
        return True

    def stream(self, kind: str, events: Iterator[bytes], rule: Rule, extra: list[tuple[str, str]]) -> bool:
        self.head(
            200,
            [("content-type", kind), ("cache-control", "no-cache"), ("transfer-encoding", "chunked"), *extra],
        )
        self.chunk(rule.before)
        for number, event in enumerate(events):
            if number == rule.cut:
                self.seen.status = f"cut ({rule.how})"
                if rule.how == "reset":
                    # What was sent before is to be read: a reset may throw away what waits at the other side.
                    time.sleep(0.1)
                    # No lingering: the kernel sends RST.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    return False
                if rule.how == "close":
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return False
                if rule.how == "error":
                    error = {"type": "overloaded_error", "message": "Overloaded"}
                    self.chunk(sse("error", {"error": error}))
                break
            time.sleep(rule.pause)
            self.chunk(event)
        else:
            self.seen.status = 200
        self.connection.sendall(b"0\r\n\r\n")
        return True

    def chunk(self, data: bytes) -> None:
        if data:
            self.connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))


# ------------------------------------------------------------------------------------------- what is answered


def wanted_tool(text: str, tools: list[str]) -> tuple[str, dict[str, Any]] | None:
    """The tool call that a word in ``text`` asks for, when the request has that tool."""
    call: tuple[str, dict[str, Any]] | None = None
    if found := re.search(r"SPAWN:(\S+)", text):
        values = {
            "description": "a sub-task",
            "prompt": "say ok from the subagent",
            "subagent_type": "general-purpose",
        }
        if found[1] != "-":
            values["model"] = found[1]
        call = ("Agent" if "Agent" in tools else "Task"), values
    elif found := re.search(r"BASH:(.*)", text):
        call = "Bash", {"command": found[1].strip(), "description": "run it"}
    elif "WEBSEARCH" in text:
        call = "WebSearch", {"query": "stand-in"}
    elif found := re.search(r"TSEARCH:(\S+)", text):
        call = "ToolSearch", {"query": f"select:{found[1]}", "max_results": 5}
    return call if call and call[0] in tools else None


def last_words(body: dict[str, Any]) -> tuple[str, bool]:
    """The last message's text, and whether it holds a tool's result (of Anthropic's or Converse's form)."""
    for one in reversed(body.get("messages") or []):
        if one.get("role") != "user":
            continue
        content = one.get("content")
        if isinstance(content, str):
            return content, False
        blocks = [block for block in content or [] if isinstance(block, dict)]
        text = "\n".join(block["text"] for block in blocks if isinstance(block.get("text"), str))
        return text, any(block.get("type") == "tool_result" or "toolResult" in block for block in blocks)
    return "", False


def _said(body: dict[str, Any], text: str) -> str:
    """Plain text, or JSON where the request asks for a form."""
    form = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    if form.get("schema"):
        return json.dumps({name: "stand-in" for name in form["schema"].get("properties") or {}})
    return text


def message(seen: Seen, text: str = "") -> dict[str, Any]:
    """A whole answer of Anthropic's Messages API."""
    body = seen.json
    words, is_result = last_words(body)
    call = None if is_result else wanted_tool(words, seen.tools)
    identity = f"msg_standin{seen.number}"
    blocks: list[dict[str, Any]] = []
    usage: dict[str, Any] = {
        "input_tokens": 10,
        "output_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    if any(str(tool.get("type", "")).startswith("web_search_") for tool in body.get("tools") or []):
        found = {
            "type": "web_search_result",
            "url": "https://example.org/",
            "title": "Found",
            "encrypted_content": "e",
        }
        blocks = [
            {
                "type": "server_tool_use",
                "id": "srvtoolu_1",
                "name": "web_search",
                "input": {"query": "stand-in"},
            },
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]},
            {"type": "text", "text": "Searched by Anthropic."},
        ]
        usage["server_tool_use"] = {"web_search_requests": 1}
    elif call:
        blocks = [{"type": "tool_use", "id": f"toolu_{identity}", "name": call[0], "input": call[1]}]
    else:
        blocks = [{"type": "text", "text": _said(body, text or "ok")}]
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": blocks,
        "stop_reason": "tool_use" if call else "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def sse(kind: str, value: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **value})}\n\n".encode()


def message_events(whole: dict[str, Any]) -> Iterator[bytes]:
    """The same answer as Anthropic streams it."""
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield sse("message_start", {"message": start})
    yield sse("ping", {})
    for index, block in enumerate(whole["content"]):
        kind = block["type"]
        empty = {"text": {"text": ""}, "tool_use": {"input": {}}, "server_tool_use": {"input": {}}}.get(
            kind, {}
        )
        yield sse("content_block_start", {"index": index, "content_block": {**block, **empty}})
        if kind == "text":
            for word in re.findall(r"\S+\s*", block["text"]):
                yield sse(
                    "content_block_delta", {"index": index, "delta": {"type": "text_delta", "text": word}}
                )
        elif kind.endswith("tool_use"):
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield sse("content_block_delta", {"index": index, "delta": delta})
        yield sse("content_block_stop", {"index": index})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield sse("message_delta", {"delta": delta, "usage": {"output_tokens": whole["usage"]["output_tokens"]}})
    yield sse("message_stop", {})


def converse(seen: Seen, text: str = "") -> dict[str, Any]:
    """A whole answer of Bedrock's Converse."""
    words, is_result = last_words(seen.json)
    call = None if is_result else wanted_tool(words, seen.tools)
    block: dict[str, Any] = {"text": text or "ok from bedrock"}
    if call:
        block = {"toolUse": {"toolUseId": f"tooluse_{seen.number}", "name": call[0], "input": call[1]}}
    return {
        "output": {"message": {"role": "assistant", "content": [block]}},
        "stopReason": "tool_use" if call else "end_turn",
        "usage": {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8},
        "metrics": {"latencyMs": 1},
    }


def converse_events(whole: dict[str, Any]) -> Iterator[bytes]:
    """The same as ConverseStream's binary event stream."""
    (block,) = whole["output"]["message"]["content"]
    yield frame("messageStart", {"role": "assistant"})
    if use := block.get("toolUse"):
        start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
        yield frame("contentBlockStart", {"contentBlockIndex": 0, "start": start})
        delta = {"toolUse": {"input": json.dumps(use["input"])}}
        yield frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta})
    else:
        for word in re.findall(r"\S+\s*", block["text"]):
            yield frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}})
    yield frame("contentBlockStop", {"contentBlockIndex": 0})
    yield frame("messageStop", {"stopReason": whole["stopReason"]})
    yield frame("metadata", {"usage": whole["usage"], "metrics": whole["metrics"]})


def frame(kind: str, value: dict[str, Any]) -> bytes:
    """One event of AWS's event stream (its encoding: prelude, headers, payload, two CRC-32)."""

    def header(name: str, text: str) -> bytes:
        return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(text)) + text.encode()

    heads = (
        header(":event-type", kind)
        + header(":content-type", "application/json")
        + header(":message-type", "event")
    )
    payload = json.dumps(value).encode()
    prelude = struct.pack(">II", 16 + len(heads) + len(payload), len(heads))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + heads + payload
    return data + struct.pack(">I", zlib.crc32(data))
