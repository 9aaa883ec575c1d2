"""One set of certificates for all the HTTP clients of a test process.

httpx reads the certificates of the system for each client, which takes 20 ms of a processor; a test that polls makes
twenty clients a second, and two at a time would keep a machine busy with nothing else. Nothing is encrypted there.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

_make = ssl.create_default_context


@functools.cache
def _made(cafile: str) -> ssl.SSLContext:
    return _make(cafile=cafile)


def _context(*args: Any, **named: Any) -> ssl.SSLContext:
    # As httpx asks for them. Everybody else gets one of their own.
    if args or set(named) != {"cafile"} or not named["cafile"]:
        return _make(*args, **named)
    return _made(named["cafile"])


def install() -> None:
    """From now on ``ssl.create_default_context`` gives out the same context for the same files."""
    ssl.create_default_context = _context
