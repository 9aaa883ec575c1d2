"""HTTP/1.1 over the control socket, as much as it takes: a client library would cost more than all the rest.

``http.client`` imports the e-mail package for the header lines; that alone is longer than a command may take.
"""

import os

try:
    from _socket import AF_UNIX, SOCK_STREAM, socket
except ImportError:  # another Python implementation
    from socket import AF_UNIX, SOCK_STREAM, socket  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PART = 65536
#: bytes of status line and headers; ours are a few hundred
_HEAD = 65536


class BrokenOff(Exception):
    """The answer is not HTTP, or ended before its end."""


class Unreachable(Exception):
    """Nobody listens on the socket."""


class Reply:
    """One answer. ``body`` and ``lines`` read it; raises TimeoutError, OSError, BrokenOff like ``request``."""

    def __init__(self, connection: socket, wait: float | None) -> None:
        self._connection = connection
        self._rest = b""
        connection.settimeout(wait)
        while b"\r\n\r\n" not in self._rest:
            part = connection.recv(_PART)
            if not part or len(self._rest) > _HEAD:
                raise BrokenOff("the server disconnected without an answer")
            self._rest += part
            if not self._rest.startswith(b"HTTP/"[: len(self._rest)]):
                raise BrokenOff("it is not HTTP")
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            self.status = int(first.split(" ", 2)[1])
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
            }
            length = headers.get("content-length")
            self._length = None if length is None else int(length)
        except (IndexError, ValueError):
            raise BrokenOff("it is not HTTP") from None
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()

    def body(self) -> bytes:
        """The whole of it."""
        return b"".join(self._parts())

    def lines(self) -> "Iterator[bytes]":
        """Line by line as they come, without their ends; empty ones are left out."""
        rest = b""
        for part in self._parts():
            *whole, rest = (rest + part).split(b"\n")
            yield from (line for line in whole if line.strip())
        if rest.strip():
            yield rest

    def _parts(self) -> "Iterator[bytes]":
        if self._chunked:
            yield from self._chunks()
            return
        left = self._length
        while left is None or left > 0:
            part = self._rest or self._connection.recv(_PART)
            self._rest = b""
            if not part:
                if left is None:
                    return
                raise BrokenOff(f"{left} bytes are missing")
            if left is not None:
                part = part[:left]
                left -= len(part)
            yield part

    def _chunks(self) -> "Iterator[bytes]":
        """RFC 9112, 7.1."""
        while True:
            while b"\r\n" not in self._rest:
                self._more()
            size, _, self._rest = self._rest.partition(b"\r\n")
            try:
                left = int(size.partition(b";")[0], 16)
            except ValueError:
                raise BrokenOff("a chunk without a size") from None
            if not left:
                return
            left += 2  # the chunk's own line end
            while left:
                if not self._rest:
                    self._more()
                part, self._rest = self._rest[:left], self._rest[left:]
                left -= len(part)
                # of the last two bytes neither is content
                text = part[: max(0, len(part) - max(0, 2 - left))]
                if text:
                    yield text

    def _more(self) -> None:
        part = self._connection.recv(_PART)
        if not part:
            raise BrokenOff("the answer ended in the middle")
        self._rest += part


class Request:
    """A request on a connection of its own: ``with Request(…) as reply``.

    ``connect`` and ``wait``: seconds for the connection and for each piece of the answer, None: for ever. Raises
    Unreachable, TimeoutError, OSError, BrokenOff.
    """

    def __init__(
        self,
        path: str,
        method: str,
        target: str,
        body: bytes | None,
        *,
        agent: str,
        connect: float,
        wait: float | None,
    ) -> None:
        kind = "Content-Type: application/json\r\n" if body else ""
        self._sent = (
            f"{method} {target} HTTP/1.1\r\nHost: ocd\r\nConnection: close\r\nUser-Agent: {agent}\r\n{kind}"
            f"Content-Length: {len(body or b'')}\r\n\r\n"
        ).encode() + (body or b"")
        self._path, self._connect, self._wait = path, connect, wait
        self._connection: socket | None = None

    def __enter__(self) -> Reply:
        self._connection = connection = socket(AF_UNIX, SOCK_STREAM)
        try:
            connection.settimeout(self._connect)
            try:
                connection.connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError):
                raise Unreachable(self._path) from None
            connection.sendall(self._sent)
            return Reply(connection, self._wait)
        except BaseException:
            connection.close()
            raise

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()


def target(path: str, query: dict[str, object]) -> str:
    """``path?a=b``; what stands in a query of ours is quoted as far as a line of HTTP needs it."""
    if not query:
        return path
    return path + "?" + "&".join(f"{name}={_quoted(str(value))}" for name, value in query.items())


def _quoted(text: str) -> str:
    safe = "-._~"
    return "".join(
        one
        if one.isascii() and (one.isalnum() or one in safe)
        else "".join(f"%{b:02X}" for b in os.fsencode(one))
        for one in text
    )
