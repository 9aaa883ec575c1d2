"""Liveness over a guest's private socket: GET /health/liveliness. Never /health, which makes billed calls (FACTS)."""

import asyncio
import errno
from enum import StrEnum


class Answer(StrEnum):
    ALIVE = "alive"
    #: nothing came in time, or something that is no 200
    MISSED = "missed"
    #: the socket's file is gone: says nothing about the process
    NO_SOCKET = "no-socket"
    #: we are out of descriptors or memory ourselves: says nothing about the process
    CANNOT_ASK = "cannot-ask"


_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


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
    except MemoryError:
        return Answer.CANNOT_ASK
    except (OSError, TimeoutError, ValueError) as error:
        return Answer.CANNOT_ASK if getattr(error, "errno", None) in _OURS else Answer.MISSED
    return Answer.ALIVE if b" 200 " in line else Answer.MISSED
