"""A small HTTP/1.1 client for the data path: requests go out as given, answers come back as they arrive.

One ``asyncio.Protocol`` a connection, kept alive and handed out again; bodies are passed on in the pieces in which
they arrive, nothing is decoded but the framing (RFC 9112). Redirects are never followed: an answer is an answer.
What an upstream sends is bounded: the head by ``HEAD_LIMIT``, what nobody has taken yet by ``HIGH_WATER``.

TLS, proxies and trust come from an environment, as Claude Code's own do: ``HTTPS_PROXY``, ``HTTP_PROXY``,
``ALL_PROXY`` and ``NO_PROXY`` (lower case too), ``SSL_CERT_FILE``, ``SSL_CERT_DIR``, ``NODE_EXTRA_CA_CERTS``.
Loopback and UNIX sockets never go through a proxy.
"""

import asyncio
import base64
import collections
import contextlib
import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

Headers = list[tuple[bytes, bytes]]

#: bytes of an answer's head, of a chunk's first line, of all trailers
HEAD_LIMIT = 256 * 1024
LINE_LIMIT = 4096
TRAILER_LIMIT = 64 * 1024
#: interim answers (1xx) before the final one
MOST_INTERIM = 16
#: bytes that wait to be taken; above it the upstream has to wait
HIGH_WATER = 256 * 1024
#: connections that are kept for later, in all and for how long (seconds); connections in all
KEPT = 64
IDLE = 55.0
MOST = 1024

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n\0]*)?\r\n")
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*\r\n)*")
_FIELD = re.compile(rb"([^:\r\n]+):[ \t]*([^\r\n]*)\r\n")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class UpstreamError(Exception):
    """No (whole) answer came. ``kind``: "dns", "connect", "timeout", "certificate", "tls", "proxy", "busy", "lost" or
    "nonsense". The text is for people and names hosts only; ``begun``: some of the answer had arrived."""

    def __init__(self, kind: str, text: str, begun: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.begun = begun


class Origin:
    """Where requests go: scheme, host and port, or a UNIX socket; ``base`` is the path in front of theirs."""

    __slots__ = ("base", "host", "key", "name", "port", "scheme", "socket")

    def __init__(self, scheme: str, host: str, port: int, base: str = "", path: str = "") -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.base = base.encode("latin-1")
        self.socket = path
        self.key = (scheme, host, port, path)
        shown = f"[{host}]" if ":" in host else host
        usual = port == (443 if scheme == "https" else 80)
        self.name = (shown if usual else f"{shown}:{port}").encode("latin-1")

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """From ``https://host/base``, ``http://host:port`` or ``unix:/path``. Raises ValueError."""
        if url.startswith("unix:"):
            path = url.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/"):
                raise ValueError("an absolute path is expected behind unix:")
            return cls("http", "localhost", 80, path=path)
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an address is expected: https://HOST or http://HOST:PORT")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a user name in the address is not supported")
        host = parts.hostname
        if not host.isascii():
            host = host.encode("idna").decode()
        base = parts.path.rstrip("/")
        if any(ord(one) <= 32 or ord(one) > 126 for one in base + host):
            raise ValueError("the address has characters that an address does not have")
        return cls(parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80), base)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine."""
    if host.lower() in ("localhost", "localhost.localdomain") or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


class Proxies:
    """Which proxy a request goes through. Raises ValueError for an address that is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.via: dict[str, tuple[Origin, bytes]] = {}
        for scheme in ("http", "https"):
            for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
                if value := environ.get(name, "").strip():
                    self.via[scheme] = _proxy(name, value)
                    break
        text = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        self.without = [one.lower() for one in re.split(r"[\s,]+", text) if one]

    def of(self, origin: Origin) -> tuple[Origin, bytes] | None:
        """The proxy and its Proxy-Authorization (may be empty); None: straight."""
        if origin.socket or is_loopback(origin.host):
            return None
        found = self.via.get(origin.scheme)
        return None if found is None or self._excepted(origin) else found

    def _excepted(self, origin: Origin) -> bool:
        host = origin.host.lower()
        for one in self.without:
            name, colon, port = one.rpartition(":")
            if colon and port.isdigit() and "]" not in port and name.count(":") == 0:
                if int(port) != origin.port:
                    continue
                one = name
            if one == "*":
                return True
            if "/" in one:
                with contextlib.suppress(ValueError):
                    if ipaddress.ip_address(host) in ipaddress.ip_network(one, strict=False):
                        return True
                continue
            bare = one.removeprefix("*").removeprefix(".")
            if host == bare.strip("[]") or host.endswith(f".{bare}"):
                return True
        return False


def _proxy(name: str, value: str) -> tuple[Origin, bytes]:
    parts = urlsplit(value if "://" in value else f"http://{value}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        # The value may hold a password: it is not repeated.
        raise ValueError(f"{name} is not the address of an HTTP proxy (http://HOST:PORT)")
    login = b""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = b"Basic " + base64.b64encode(pair.encode())
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)), login


def trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    """The TLS settings: the system's certificates or ``SSL_CERT_FILE``/``SSL_CERT_DIR``, and
    ``NODE_EXTRA_CA_CERTS``. Raises OSError or ssl.SSLError when a named file cannot be read."""
    file, folder = environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None
    if file or folder:
        context = ssl.create_default_context(cafile=file, capath=folder)
    else:
        context = ssl.create_default_context()
        known = ssl.get_default_verify_paths()
        if not context.cert_store_stats()["x509_ca"] and not (known.cafile or known.capath):
            # An interpreter of its own, without the system's certificates.
            with contextlib.suppress(ImportError):
                import certifi

                context.load_verify_locations(certifi.where())
    if extra := environ.get("NODE_EXTRA_CA_CERTS"):
        context.load_verify_locations(extra)
    # Python 3.13 refuses certificates of companies' proxies that Claude Code accepts.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connection(asyncio.Protocol):
    """One connection: a request at a time, its answer's head and the pieces of its body."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.key: Any = None
        #: how a request's target and headers are written when a proxy takes plain HTTP
        self.absolute: bytes = b""
        self.login: bytes = b""
        self.used = 0
        self.since = 0.0
        self.on_lost: Callable[[Connection], None] | None = None
        self.closed = False
        self.feed: Callable[[bytes], None] = self._unexpected
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.rest = b""
        self.left = 0
        self.keep = False
        self.ended = False
        self.begun = False
        self.interim = 0
        self.trailers = 0
        self.at_payloads_end = False
        self.pieces: list[bytes] = []
        self.waiting_bytes = 0
        self.paused = False
        self.failure: UpstreamError | None = None
        self.waiter: asyncio.Future[None] | None = None
        #: takes a piece as it arrives (and says so); what it does not take waits to be read
        self.on_piece: Callable[[bytes], bool] | None = None
        self.interrupted = False

    # ------------------------------------------------------------------------------------------- transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.feed(data)

    def eof_received(self) -> bool:
        if self.feed == self._until_the_end:
            self._end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._fail("lost", "the connection broke off")
        if self.on_lost is not None:
            self.on_lost(self)

    def _fail(self, kind: str, text: str) -> None:
        if not self.ended and self.failure is None:
            self.failure = UpstreamError(kind, text, self.begun)
            self._wake()
        self.feed = self._unexpected
        self.keep = False

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def interrupt(self) -> None:
        """Have ``read`` return with nothing."""
        self.interrupted = True
        self._wake()

    def abort(self) -> None:
        """End the connection now: who writes at the other side hears of it at once."""
        self.keep = False
        if self.transport is not None and not self.closed:
            self.transport.abort()

    # --------------------------------------------------------------------------------------------- request

    def begin(self, head: bytes, body: bytes, bodiless: bool = False) -> None:
        """Send a request; what arrives from now on is its answer."""
        self._clear()
        self.used += 1
        self.bodiless = bodiless
        self.feed = self._head
        if len(body) < 65536:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    async def head(self) -> None:
        """Wait for the answer's head: ``status`` and ``headers``. Raises UpstreamError."""
        while not self.status:
            if self.failure is not None:
                raise self.failure
            self.waiter = self.loop.create_future()
            await self.waiter

    async def read(self) -> bytes:
        """The next piece of the body as it came; empty: the end, or ``interrupt``. Raises UpstreamError."""
        while not self.pieces:
            if self.ended:
                return b""
            if self.interrupted:
                self.interrupted = False
                return b""
            if self.failure is not None:
                raise self.failure
            self.waiter = self.loop.create_future()
            await self.waiter
        self.interrupted = False
        pieces = self.pieces
        self.pieces = []
        self.waiting_bytes = 0
        if self.paused:
            self.paused = False
            with contextlib.suppress(RuntimeError):
                self.transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # ---------------------------------------------------------------------------------------------- answer

    def _unexpected(self, data: bytes) -> None:
        self.abort()

    def _nonsense(self, text: str) -> None:
        self._fail("nonsense", text)
        self.abort()

    def _head(self, data: bytes) -> None:
        self.begun = True
        if self.rest:
            seen = max(0, len(self.rest) - 3)
            data = self.rest + data
        else:
            seen = 0
        end = data.find(b"\r\n\r\n", seen)
        if end < 0:
            self.rest = data
            if len(data) > HEAD_LIMIT or (len(data) >= 8 and not data.startswith(b"HTTP/1.")):
                self._nonsense("the answer is not HTTP/1.1, or its head is too long")
            return
        end += 2
        if end > HEAD_LIMIT:
            return self._nonsense("the head of the answer is too long")
        first = _STATUS.match(data)
        if first is None or _FIELDS.fullmatch(data, first.end(), end) is None:
            return self._nonsense("the answer is not HTTP/1.1")
        status = int(first[2])
        self.rest = b""
        rest = data[end + 2 :]
        if status < 200:
            self.interim += 1
            if status == 101 or self.interim > MOST_INTERIM:
                return self._nonsense("the answer switches to another protocol")
            if rest:
                self._head(rest)
            return None
        self.headers = [(n, v.rstrip(b" \t")) for n, v in _FIELD.findall(data, first.end(), end)]
        self._framing(first[1] == b"1", status)
        if self.failure is not None:
            return None
        self.status = status
        if rest:
            self.feed(rest)
        self._wake()
        return None

    def _framing(self, one_one: bool, status: int) -> None:
        """How the body ends (RFC 9112, section 6.3), and whether the connection can be used again."""
        length: bytes | None = None
        coding = b""
        keep = one_one
        for name, value in self.headers:
            if _BAD_VALUE.search(value):
                return self._nonsense("a header of the answer has control characters")
            size = len(name)
            if size == 10:
                if name.lower() == b"connection":
                    options = value.lower()
                    keep = b"close" not in options and (keep or b"keep-alive" in options)
            elif size == 14:
                if name.lower() == b"content-length":
                    if not value.isdigit() or len(value) > 15 or length not in (None, value):
                        return self._nonsense("the answer's length makes no sense")
                    length = value
            elif size == 17 and name.lower() == b"transfer-encoding":
                coding = coding + b"," + value.lower() if coding else value.lower()
        self.keep = keep
        if self.bodiless or status in (204, 304):
            self._end()
        elif coding:
            if coding != b"chunked" or not one_one:
                return self._nonsense("the answer has an unknown transfer encoding")
            if length is not None:
                # Two lengths: the framing decides, but nothing behind it can be trusted.
                self.keep = False
            self.feed = self._chunked
        elif length is not None:
            self.left = int(length)
            self.feed = self._sized
            if not self.left:
                self._end()
        else:
            self.keep = False
            self.feed = self._until_the_end
        return None

    def _push(self, piece: bytes) -> None:
        if self.on_piece is not None and self.on_piece(piece):
            if self.ended:
                self._wake()
            return
        self.pieces.append(piece)
        self.waiting_bytes += len(piece)
        if self.waiting_bytes > HIGH_WATER and not self.paused:
            self.paused = True
            with contextlib.suppress(RuntimeError):
                self.transport.pause_reading()
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _end(self) -> None:
        self.ended = True
        self.feed = self._unexpected
        self._wake()

    def _sized(self, data: bytes) -> None:
        extra = len(data) - self.left
        if extra > 0:
            self.keep = False
            data = data[: self.left]
        self.left -= len(data)
        if not self.left:
            self.ended = True
            self.feed = self._unexpected
        self._push(data)

    def _until_the_end(self, data: bytes) -> None:
        self._push(data)

    def _chunked(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
            self.rest = b""
        place, size = 0, len(data)
        if not self.left and not self.at_payloads_end:
            # As it mostly is: one whole chunk, an event.
            line = data.find(b"\r\n", 0, 18)
            if line > 0 and (found := _SIZE.fullmatch(data, 0, line)):
                begin = line + 2
                if int(found[1], 16) == size - begin - 2 > 0 and data.endswith(b"\r\n"):
                    return self._push(data[begin:-2])
        out: list[bytes] = []
        while True:
            if self.left:
                end = place + self.left
                if end > size:
                    if place < size:
                        out.append(data[place:])
                        self.left = end - size
                    break
                out.append(data[place:end])
                place = end
                self.left = 0
                self.at_payloads_end = True
            if self.at_payloads_end:
                if size - place < 2:
                    self.rest = data[place:]
                    break
                if data[place : place + 2] != b"\r\n":
                    self._deliver(out)
                    return self._nonsense("a chunk of the answer is longer than it says")
                place += 2
                self.at_payloads_end = False
            line = data.find(b"\r\n", place)
            if line < 0:
                self.rest = data[place:]
                if len(self.rest) > LINE_LIMIT:
                    self._deliver(out)
                    return self._nonsense("the answer's chunks make no sense")
                break
            found = _SIZE.fullmatch(data, place, line)
            if found is None:
                self._deliver(out)
                return self._nonsense("the answer's chunks make no sense")
            place = line + 2
            self.left = int(found[1], 16)
            if not self.left:
                self.feed = self._trailer
                self._deliver(out)
                self._trailer(data[place:])
                return None
        self._deliver(out)
        return None

    def _deliver(self, out: list[bytes]) -> None:
        if out:
            self._push(out[0] if len(out) == 1 else b"".join(out))

    def _trailer(self, data: bytes) -> None:
        """What follows the last chunk: fields that nobody behind us could be given, and an empty line."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        place = 0
        while True:
            line = data.find(b"\r\n", place)
            if line < 0:
                self.rest = data[place:]
                if len(self.rest) > LINE_LIMIT:
                    self._nonsense("what follows the answer makes no sense")
                return
            if line == place:
                if len(data) > line + 2:
                    self.keep = False
                self._end()
                return
            self.trailers += line - place
            if self.trailers > TRAILER_LIMIT:
                return self._nonsense("what follows the answer makes no sense")
            place = line + 2


class Response:
    """An answer whose head has arrived. ``close`` it in any case: the connection is kept or ended by that."""

    __slots__ = ("_client", "_connection", "headers", "status")

    def __init__(self, client: "Client", connection: Connection) -> None:
        self._client = client
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    @property
    def ended(self) -> bool:
        """Nothing follows what was read so far."""
        return self._connection.ended and not self._connection.pieces

    def read(self) -> Any:
        """A coroutine: the next piece, empty at the end. Raises UpstreamError."""
        return self._connection.read()

    def hand_over(self, take: Callable[[bytes], bool] | None) -> None:
        """Have pieces taken the moment they arrive, without a turn of the loop in between; None: no more."""
        self._connection.on_piece = take

    def interrupt(self) -> None:
        """Have ``read`` return with nothing."""
        self._connection.interrupt()

    async def rest(self, most: int) -> bytes | None:
        """What is left of the body; None when it is more than ``most`` bytes. Raises UpstreamError."""
        pieces: list[bytes] = []
        total = 0
        while piece := await self._connection.read():
            total += len(piece)
            if total > most:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._client.give_back(self._connection)


class Client:
    """Connections to any origin. ``environ`` decides about proxies and trust; times in seconds.

    Raises ValueError when the environment names a proxy that cannot be one.
    """

    def __init__(
        self, environ: Mapping[str, str], *, connect: float = 10.0, idle: float = IDLE, most: int = MOST
    ) -> None:
        self.environ = environ
        self.proxies = Proxies(environ)
        self.connect_limit = connect
        self.idle = idle
        self.most = most
        self.open = 0
        self._kept: dict[Any, collections.deque[Connection]] = {}
        self._kept_count = 0
        self._context: ssl.SSLContext | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def context(self) -> ssl.SSLContext:
        """The TLS settings, made once. Raises UpstreamError when they cannot be."""
        if self._context is None:
            try:
                self._context = trust(self.environ)
            except (OSError, ssl.SSLError) as error:
                named = [
                    n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS") if n in self.environ
                ]
                text = (
                    f"the certificates cannot be read ({' or '.join(named) or 'the system'}): {_why(error)}"
                )
                raise UpstreamError("certificate", text) from None
        return self._context

    async def ask(
        self,
        origin: Origin,
        method: bytes,
        target: bytes,
        headers: bytes,
        body: bytes,
        first: float | None = None,
    ) -> Response:
        """Send a request and wait for the head of its answer.

        ``target``: path and query, without the origin's base; ``headers``: the written lines, each with its line end,
        without Host. ``first``: seconds until the head has to be there (None: no limit). Raises UpstreamError.
        """
        while True:
            connection = self._take(origin)
            reused = connection is not None
            if connection is None:
                connection = await self._open(origin)
            done = False
            try:
                path = connection.absolute + origin.base + target
                head = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b\r\n" % (
                    *(method, path, origin.name),
                    *(connection.login, headers),
                )
                connection.begin(head, body, method == b"HEAD")
                if first is None:
                    await connection.head()
                else:
                    async with asyncio.timeout(first):
                        await connection.head()
                done = True
            except UpstreamError as error:
                if reused and error.kind == "lost" and not error.begun:
                    # The other side closed a kept connection while our request was on its way: it saw nothing of it.
                    continue
                raise
            except TimeoutError:
                text = f"{origin.host} has not begun to answer within {first:.0f} s"
                raise UpstreamError("timeout", text) from None
            finally:
                if not done:
                    connection.abort()
            return Response(self, connection)

    # -------------------------------------------------------------------------------------------- the pool

    def _take(self, origin: Origin) -> Connection | None:
        kept = self._kept.get(origin.key)
        oldest = time.monotonic() - self.idle
        while kept:
            connection = kept.pop()
            self._kept_count -= 1
            if connection.closed or connection.transport.is_closing():
                continue
            if connection.since < oldest:
                connection.abort()
                continue
            return connection
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer is complete; end any other."""
        if not (connection.keep and connection.ended and not connection.closed) or self._kept_count >= KEPT:
            connection.abort()
            return
        connection.pieces = []
        connection.on_piece = None
        if connection.paused:
            connection.paused = False
            with contextlib.suppress(RuntimeError):
                connection.transport.resume_reading()
        connection.keep = False
        connection.since = time.monotonic()
        self._kept.setdefault(connection.key, collections.deque()).append(connection)
        self._kept_count += 1
        if self._sweep is None:
            self._sweep = connection.loop.call_later(self.idle, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        oldest = time.monotonic() - self.idle
        for key, kept in list(self._kept.items()):
            while kept and (kept[0].since <= oldest or kept[0].closed):
                self._kept_count -= 1
                kept.popleft().abort()
            if not kept:
                del self._kept[key]
        if self._kept:
            self._sweep = asyncio.get_running_loop().call_later(self.idle / 2, self._swept)

    def close(self) -> None:
        """End all that is kept."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for kept in self._kept.values():
            for connection in kept:
                connection.abort()
        self._kept = {}
        self._kept_count = 0

    # ----------------------------------------------------------------------------------------- connecting

    async def _open(self, origin: Origin) -> Connection:
        if self.open >= self.most:
            raise UpstreamError("busy", f"{self.open} requests are under way already")
        self.open += 1
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self.connect_limit):
                connection = await self._connect(origin)
        except TimeoutError:
            text = f"no connection to {origin.host} within {self.connect_limit:.0f} s"
            raise UpstreamError("timeout", text) from None
        except socket.gaierror as error:
            raise UpstreamError(
                "dns", f"the name {_named(self, origin)} cannot be resolved: {_why(error)}"
            ) from None
        except ssl.SSLCertVerificationError as error:
            text = f"the certificate of {origin.host} is not trusted: {error.verify_message}"
            raise UpstreamError("certificate", text) from None
        except ssl.SSLError as error:
            text = f"no secure connection to {origin.host}: {error.reason or 'TLS failed'}"
            raise UpstreamError("tls", text) from None
        except OSError as error:
            raise UpstreamError(
                "connect", f"no connection to {_named(self, origin)}: {_why(error)}"
            ) from None
        finally:
            if connection is None:
                self.open -= 1
        connection.key = origin.key
        connection.on_lost = self._lost
        if connection.closed:
            self.open -= 1
            raise UpstreamError("lost", f"{origin.host} closed the connection")
        return connection

    def _lost(self, connection: Connection) -> None:
        self.open -= 1

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        if origin.socket:
            _transport, made = await loop.create_unix_connection(Connection, origin.socket)
            return made
        found = self.proxies.of(origin)
        first, login = found or (origin, b"")
        secure: dict[str, Any] = {}
        if first.scheme == "https":
            secure = {"ssl": self.context(), "server_hostname": first.host}
        _transport, made = await loop.create_connection(Connection, first.host, first.port, **secure)
        if found is None:
            return made
        line = b"proxy-authorization: %b\r\n" % login if login else b""
        if origin.scheme == "http":
            made.absolute, made.login = b"http://" + origin.name, line
            return made
        try:
            await self._tunnel(made, origin, first, line)
            transport = await loop.start_tls(
                made.transport, made, self.context(), server_hostname=origin.host
            )
            made.transport = transport
        except BaseException:
            made.abort()
            raise
        return made

    async def _tunnel(self, made: Connection, origin: Origin, proxy: Origin, line: bytes) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        place = f"{host}:{origin.port}".encode()
        made.begin(b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (place, place, line), b"", True)
        try:
            await made.head()
        except UpstreamError as error:
            raise UpstreamError("proxy", f"the proxy {proxy.host} does not answer: {error}") from None
        if not 200 <= made.status < 300:
            raise UpstreamError("proxy", f"the proxy {proxy.host} refuses {origin.host} ({made.status})")
        made.used = 0
        made._clear()


def _named(client: Client, origin: Origin) -> str:
    """The host that was really asked: the proxy's, where one is used."""
    if origin.socket:
        return "the other proxy's socket"
    found = client.proxies.of(origin)
    return f"{origin.host}:{origin.port}" if found is None else f"the proxy {found[0].host}:{found[0].port}"


def _why(error: BaseException) -> str:
    """The system's own words, without any path or address of asyncio's."""
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return error.strerror or "name resolution failed"
    return os.strerror(number) if isinstance(number, int) and number > 0 else (type(error).__name__)
