"""One daemon with stand-in upstreams for a file's tests, and a home that others may look into, as many are."""

from __future__ import annotations

from tests.process.conftest import addresses, upstreams

__all__ = ["addresses", "upstreams"]
