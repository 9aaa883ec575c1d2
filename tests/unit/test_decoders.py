"""Decompressing a copy of an answer: bounded, in pieces of any size, and never an error.

Real libraries for br and zstd are in LiteLLM's environment: ``tests/process/test_litellm_environment.py``.
"""

from __future__ import annotations

import gzip
import sys
import types
import zlib
from typing import Any

import pytest

from ocd.guest.layers import decoders

TEXT = b'data: {"usage": {"output_tokens": 7}}\n\n' * 500


def fed(encoding: bytes, raw: bytes, size: int) -> bytes:
    one = decoders.decoder(encoding)
    assert one is not None
    return b"".join(one.decompress(raw[at : at + size]) for at in range(0, len(raw), size))


class Brotli:
    """brotli's interface (1.2), with zlib inside."""

    class Decompressor:
        def __init__(self) -> None:
            self.one = zlib.decompressobj()

        def process(self, data: bytes, output_buffer_limit: int) -> bytes:
            return self.one.decompress(data, output_buffer_limit)

        def is_finished(self) -> bool:
            return self.one.eof

        def can_accept_more_data(self) -> bool:
            return not self.one.unconsumed_tail


class Zstd:
    """The interface of compression.zstd and backports.zstd, with zlib inside."""

    windows: list[Any]

    class DecompressionParameter:
        window_log_max = "window_log_max"

    class ZstdDecompressor:
        def __init__(self, options: dict[str, int]) -> None:
            Zstd.windows.append(options["window_log_max"])
            self.one = zlib.decompressobj()

        def decompress(self, data: bytes, most: int) -> bytes:
            return self.one.decompress(data, most)

        @property
        def eof(self) -> bool:
            return self.one.eof

        @property
        def unused_data(self) -> bytes:
            return self.one.unused_data


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    Zstd.windows = []
    package = types.ModuleType("backports")
    for name, module in (("brotli", Brotli), ("backports", package), ("backports.zstd", Zstd)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)


@pytest.mark.parametrize("size", [1, 13, 100_000])
@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        (b"gzip", gzip.compress(TEXT)),
        (b"x-gzip", gzip.compress(TEXT)),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", zlib.compress(TEXT, wbits=-15)),
        (b"br", zlib.compress(TEXT)),
        (b"zstd", zlib.compress(TEXT)),
        (b"zstd", zlib.compress(TEXT[:900]) + zlib.compress(TEXT[900:])),
    ],
)
def test_every_encoding_in_pieces_of_any_size(encoding: bytes, raw: bytes, size: int) -> None:
    assert fed(encoding, raw, size) == TEXT


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"compress", b"br, gzip"])
def test_nonsense_is_nothing_and_stays_nothing(encoding: bytes) -> None:
    one = decoders.decoder(encoding)
    assert one is not None
    assert [one.decompress(b"nonsense" * 9), one.decompress(b"more"), one.decompress(b"")] == [b"", b"", b""]


def test_what_breaks_off_says_what_it_said() -> None:
    for encoding in (b"gzip", b"br", b"zstd"):
        raw = gzip.compress(TEXT) if encoding == b"gzip" else zlib.compress(TEXT)
        assert TEXT.startswith(fed(encoding, raw[:40], 7))


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd"])
def test_a_bomb_is_bounded(encoding: bytes) -> None:
    bomb = b"0" * 30_000_000
    one = decoders.decoder(encoding)
    assert one is not None
    raw = gzip.compress(bomb) if encoding == b"gzip" else zlib.compress(bomb)
    assert len(one.decompress(raw)) == decoders.EXPANDED
    assert encoding != b"zstd" or set(Zstd.windows) == {23}


def test_without_the_libraries_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("brotli", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    for encoding in (b"br", b"zstd"):
        one = decoders.decoder(encoding)
        assert one is not None and one.decompress(zlib.compress(TEXT)) == b""
    assert decoders.decoder(b"") is None and decoders.decoder(b"identity") is None


def test_python_314s_own_zstd_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
    monkeypatch.setitem(sys.modules, "compression.zstd", Zstd)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    assert fed(b"zstd", zlib.compress(TEXT), 50) == TEXT
