"""Compressed answers, for the meter's copy of them: bounded, never an error. What the client gets is never touched.

gzip and deflate are the standard library's; br and zstd are where LiteLLM's environment has a library for them
(``brotli``, ``backports.zstd``; Python 3.14 has zstd itself).
"""

import contextlib
import importlib
import zlib
from typing import Any, Protocol

#: bytes that one piece may become
EXPANDED = 8 * 1024 * 1024
#: a window of 8 MB is the most that HTTP allows for zstd (RFC 9659)
_WINDOW_LOG = 23


class Decoder(Protocol):
    def decompress(self, data: bytes, most: int = EXPANDED) -> bytes:
        """What the next piece of the answer says, about ``most`` bytes of it at most; empty for what makes no sense."""


def decoder(encoding: bytes) -> Decoder | None:
    """For a ``content-encoding``; None: nothing was encoded."""
    if encoding in (b"", b"identity"):
        return None
    if encoding in (b"gzip", b"x-gzip"):
        return _Zlib(zlib.MAX_WBITS | 16)
    if encoding == b"deflate":
        return _Zlib(zlib.MAX_WBITS)
    with contextlib.suppress(ImportError):
        if encoding == b"br":
            return _Brotli(importlib.import_module("brotli"))
        if encoding == b"zstd":
            return _Zstd(_zstd())
    return _Unknown()


def _zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


class _Zlib:
    """gzip and deflate, the latter with or without the head that it should have."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.one: Any = None
        self.head = b""

    def decompress(self, data: bytes, most: int = EXPANDED) -> bytes:
        if self.one is None:
            self.head += data
            if len(self.head) < 2:
                return b""
            data = self.head
            named = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            bits = self.bits if named or self.bits != zlib.MAX_WBITS else -zlib.MAX_WBITS
            self.one = zlib.decompressobj(bits)
        try:
            return bytes(self.one.decompress(data, most))
        except zlib.error:
            return b""


class _Brotli:
    def __init__(self, library: Any) -> None:
        self.one: Any = library.Decompressor()

    def decompress(self, data: bytes, most: int = EXPANDED) -> bytes:
        if self.one is None:
            return b""
        try:
            found = bytes(self.one.process(data, output_buffer_limit=most))
            if not self.one.is_finished() and not self.one.can_accept_more_data():
                # More than is looked at.
                self.one = None
        except Exception:  # the library's own, whose name has changed
            self.one = None
            return b""
        return found


class _Zstd:
    def __init__(self, library: Any) -> None:
        self.library = library
        self.one = self.new()

    def new(self) -> Any:
        limit = {self.library.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return self.library.ZstdDecompressor(options=limit)

    def decompress(self, data: bytes, most: int = EXPANDED) -> bytes:
        if self.one is None:
            return b""
        found = b""
        try:
            while True:
                found += bytes(self.one.decompress(data, most - len(found)))
                if not self.one.eof or len(found) >= most:
                    return found
                # One frame after the other.
                data, self.one = self.one.unused_data, self.new()
                if not data:
                    return found
        except Exception:  # the library's own
            self.one = None
            return found


class _Unknown:
    def decompress(self, data: bytes, most: int = EXPANDED) -> bytes:
        return b""
