"""What Bedrock answers, seen as it comes in: the bytes of a Converse call, before LiteLLM makes its own of them.

One wrapper of ``httpx.AsyncClient.send``, through which LiteLLM 1.90 to 1.109 sends everything, joined with the request
at hand by a context variable. A LiteLLM that sends another way is not seen: then its own stream is all there is.

Loaded by path inside a guest: uses httpx, which LiteLLM brings, and nothing else.
"""

import contextlib
import contextvars
import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

#: the Converse operations' paths (Amazon Bedrock's API reference)
_CONVERSE = re.compile(r"/model/[^/]+/converse(-stream)?$")
_STREAM = "application/vnd.amazon.eventstream"
#: bytes of an upstream's error that are looked at, by us and by LiteLLM, whose search for secrets in a megabyte stops
#: the event loop for seconds; bytes of a plain answer
ERROR = 65536
PLAIN = 64 * 1024 * 1024


class Watcher(Protocol):
    """Who wants to know what the upstream answers to the request at hand."""

    def calling(self) -> None:
        """A call begins, the first or another try."""

    def refused(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """The latest call ended with an error."""

    def answering(self, headers: dict[str, str]) -> None:
        """The latest call's answer is good and begins."""

    async def piece(self, data: bytes, *, stream: bool) -> None:
        """Bytes of a good answer: of an event stream, or of one JSON object."""

    def ended(self, *, stream: bool) -> Awaitable[None]:
        """The answer's last byte came."""


current: contextvars.ContextVar[Watcher | None] = contextvars.ContextVar("ocd_upstream", default=None)


def install() -> bool:
    """Watch what this process sends. Returns whether it could be done; never raises."""
    try:
        import httpx
    except ImportError:
        return False
    sending = httpx.AsyncClient.send

    class Seen(httpx.AsyncByteStream):
        """An answer's bytes on their way to LiteLLM."""

        def __init__(self, inner: Any, watcher: Watcher, stream: bool) -> None:
            self.inner = inner
            self.watcher = watcher
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for data in self.inner:
                await self.watcher.piece(data, stream=self.stream)
                yield data
            await self.watcher.ended(stream=self.stream)

        async def aclose(self) -> None:
            await self.inner.aclose()

    async def some(response: Any, most: int) -> bytes:
        """The first bytes of a body, decoded; the connection is let go of. What cannot be decoded is left out."""
        held = bytearray()
        try:
            async for piece in response.aiter_bytes():
                held += piece[: most - len(held)]
                if len(held) >= most:
                    break
        except httpx.DecodingError:
            pass
        finally:
            await response.aclose()
        return bytes(held)

    async def send(client: Any, request: Any, **options: Any) -> Any:
        watcher = current.get()
        if watcher is None or not _CONVERSE.search(request.url.path):
            return await sending(client, request, **options)
        watcher.calling()
        # LiteLLM's client follows redirects to any host, with the conversation and AWS's session token. AWS sends none.
        # It would also read whatever comes, to its end: we do, as far as there is a point to it.
        own = {"follow_redirects": False, "stream": True}
        response = await sending(client, request, **{**options, **own})
        headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code >= 300:
            body = await some(response, ERROR)
            watcher.refused(response.status_code, headers, body)
            kept = [(n, v) for n, v in headers.items() if n not in ("content-encoding", "content-length")]
            kept = [(n, v) for n, v in kept if n != "transfer-encoding"]
            return httpx.Response(response.status_code, headers=kept, content=body, request=request)
        if not options.get("stream"):
            body = await some(response, PLAIN + 1)
            if len(body) > PLAIN:
                raise httpx.RemoteProtocolError("the answer is larger than 64 MiB", request=request)
            # As aread() leaves it.
            response._content = body
        kind = headers.get("content-type", "")
        stream = kind.startswith(_STREAM)
        if response.is_stream_consumed:
            watcher.answering(headers)
            await watcher.piece(response.content, stream=stream)
            await watcher.ended(stream=stream)
        elif "content-encoding" not in headers and (stream or kind.startswith("application/json")):
            watcher.answering(headers)
            response.stream = Seen(response.stream, watcher, stream)
        return response

    httpx.AsyncClient.send = send  # type: ignore[assignment, method-assign]
    return True


@contextlib.contextmanager
def watched(watcher: Watcher) -> Any:
    """Calls made inside, tasks started inside included, are ``watcher``'s."""
    mark = current.set(watcher)
    try:
        yield
    finally:
        current.reset(mark)
