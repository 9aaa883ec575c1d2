"""Liveness over a guest's private socket: GET /health/liveliness. Never /health, which makes billed calls (FACTS)."""

import asyncio
from enum import StrEnum


class Answer(StrEnum):
    ALIVE = "alive"
    #: nothing came in time, or something that is no 200
    MISSED = "missed"
    #: the socket's file is gone: says nothing about the process
    NO_SOCKET = "no-socket"


_REQUEST = b"GET /health/liveliness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def liveness(path: str, timeout: float) -> Answer:
    """Ask once; ``timeout`` in seconds bounds the whole exchange."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(_REQUEST)
                line = await reader.readline()
            finally:
                writer.close()
    except (FileNotFoundError, NotADirectoryError):
        return Answer.NO_SOCKET
    except (OSError, TimeoutError, ValueError):
        return Answer.MISSED
    return Answer.ALIVE if b" 200 " in line else Answer.MISSED
