"""AWS's binary event stream, the sending half (application/vnd.amazon.eventstream).

Source: Smithy's specification "Amazon Event Stream". One message is: total length and headers' length
(uint32, big endian), CRC32 of those eight bytes, headers, payload, CRC32 of everything before. A header is:
name length (uint8), name, value type (uint8; 7 = string), value length (uint16), value.
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message as it travels."""
    packed = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack("!I", zlib.crc32(message))


def event(kind: str, value: Mapping[str, Any]) -> bytes:
    """An event with a JSON payload; ``kind`` is the member's name (messageStart, contentBlockDelta …)."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps(value, separators=(",", ":")).encode())


def chunk(value: Mapping[str, Any]) -> bytes:
    """One piece of an invoke-with-response-stream answer: JSON in base64 in JSON."""
    inner = json.dumps(value, separators=(",", ":")).encode()
    return event("chunk", {"bytes": base64.b64encode(inner).decode()})


def exception(kind: str, message: str) -> bytes:
    """An error in mid-stream (throttlingException, modelStreamErrorException …)."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, json.dumps({"message": message}).encode())


def _header(name: str, value: str) -> bytes:
    raw_name, raw = name.encode(), value.encode()
    return struct.pack("!B", len(raw_name)) + raw_name + struct.pack("!BH", _STRING, len(raw)) + raw
