"""While a proxy cannot serve: answer at once with the reason, instead of letting clients wait for nothing.

A short outage is better waited out in the backlog, where no client notices it; this is for a proxy that is in a crash
loop or has no configuration. 503 makes Claude Code try again and finally show the sentence (FACTS: 503 is retried, a
401 would rotate the user's login).
"""

import asyncio
import contextlib
import json
import socket

#: seconds for a request's head to arrive
PATIENCE = 5.0
LARGEST_HEAD = 64 * 1024


class Unavailable:
    """Listens on copies of the proxy's own listening sockets until ``close``."""

    def __init__(self, listeners: list[socket.socket], sentence: str) -> None:
        self.sentence = sentence
        self._copies = [listener.dup() for listener in listeners]
        self._servers: list[asyncio.Server] = []
        self._task = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        for copy in self._copies:
            copy.setblocking(False)
            self._servers.append(await asyncio.start_server(self._answer, sock=copy, limit=LARGEST_HEAD))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError
        ):
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(response(self.sentence))
                await writer.drain()
                writer.write_eof()
                # Reading what is still coming keeps the answer from being lost in a reset.
                while await reader.read(LARGEST_HEAD):
                    pass
        writer.close()

    def close(self) -> None:
        self._task.cancel()
        for server in self._servers:
            server.close()
        for copy in self._copies:
            with contextlib.suppress(OSError):
                copy.close()


def response(sentence: str) -> bytes:
    """A complete HTTP answer with the sentence in the form of Anthropic's errors."""
    error = {"type": "error", "error": {"type": "api_error", "message": f"ocd: {sentence}"}}
    body = json.dumps(error).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
