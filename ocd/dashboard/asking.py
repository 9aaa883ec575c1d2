"""Asks the supervisor's control API over its UNIX socket, as every other command does."""

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]

#: seconds for an answer; an action waits longer, because the supervisor has a limit of its own and knows why
QUICK = 10.0


class Gone(Exception):
    """Nobody answers; the text is for a person."""


class Api(Protocol):
    """What the page needs of the control API."""

    async def ask(self, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """One request and its whole answer: HTTP status and body. Raises Gone."""

    async def follow(self, path: str, query: str, take: Callable[[str], None]) -> None:
        """Hand each line of an answer to ``take`` until it ends. Raises Gone."""


class Socket:
    """The control API on a UNIX socket.

    ``find`` returns the socket's path, or raises an exception whose text says why there is none; it is asked anew each
    time, for a connection may start a supervisor that was stopped (a service manager holds the socket).
    """

    def __init__(self, find: Callable[[], str]) -> None:
        self.find = find

    async def ask(self, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        patience = httpx.Timeout(QUICK, read=QUICK if method == "GET" else None)
        async with self._client() as client:
            try:
                answer = await client.request(method, _url(path, query), content=body, timeout=patience)
            except httpx.HTTPError as error:
                raise Gone(f"The daemon does not answer: {str(error) or type(error).__name__}") from None
        return answer.status_code, answer.content

    async def follow(self, path: str, query: str, take: Callable[[str], None]) -> None:
        patience = httpx.Timeout(QUICK, read=None)
        async with self._client() as client:
            try:
                async with client.stream("GET", _url(path, query), timeout=patience) as answer:
                    if answer.status_code != 200:
                        raise Gone(f"The daemon answered {answer.status_code}")
                    async for line in answer.aiter_lines():
                        if line:
                            take(line)
            except httpx.HTTPError as error:
                raise Gone(f"The daemon does not answer: {str(error) or type(error).__name__}") from None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        try:
            # In a thread: it looks whether somebody listens, who may be slow to accept.
            path = await asyncio.to_thread(self.find)
        except Exception as error:
            raise Gone(str(error)) from None
        # No certificates: nothing is encrypted here. No proxy of the environment: it has no business here.
        transport = httpx.AsyncHTTPTransport(uds=path, verify=False, trust_env=False)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            yield client


def _url(path: str, query: str) -> str:
    return f"http://ocd{path}{'?' if query else ''}{query}"
