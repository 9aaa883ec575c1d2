"""Whole exchanges in files, while somebody has asked for them (``occtl trace on``): what was sent, what was answered.

An ASGI layer around the meter keeps a copy of each request and its answer, up to a size; credentials are masked, and
the file is written, in a thread of its own: the event loop only hands over. When that thread cannot keep up the
exchange is dropped and counted; when a file cannot be written the trace ends, and requests go on. While it is off it
costs a request one look at an attribute. It ends by itself at the time that the order says::

    {"op": "trace", "until": SECONDS SINCE 1970, "folder": PATH, "slot": "" | "opus" | …, "pins": {SLOT: GROUP}}

``until`` 0, or none: off.
"""

import asyncio
import contextlib
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from ocd import atomic
from ocd.guest.layers import decoders
from ocd.guest.layers.meter import EXCHANGE, App, Message, Receive, Scope, Send
from ocd.mask import MASK, mask

#: bytes of one body that are kept
BODY = 4 * 1024 * 1024
#: a body is masked with so much more, so that a credential at the cut is seen whole
BEYOND = 8192
#: files of one proxy, and their bytes together; there are two proxies
FILES, BYTES = 100, 100 * 1024 * 1024
#: seconds that a file is kept
AGE = 86400.0
#: exchanges, and bytes of their bodies, that wait to be written
WAITING, WAITING_BYTES = 32, 64 * 1024 * 1024
#: a text is masked in pieces of about this many characters: other threads run between two of them
PIECE = 65536

#: headers and fields whose value is a credential, whatever it looks like
_SECRET = re.compile(
    r"(?i)(?:.*[-_])?(?:authorization|cookie2?|token|secret|password|signature|credential|key|apikey)(?:-id)?"
)
_FIELD = re.compile(
    r'(?i)("(?:[\w-]*[_-])?(?:api_?key|(?:access|auth|refresh|id|session|security)_?token|secret(?:_?access)?(?:_?key)?'
    r'|password|authorization)"\s*:\s*)"(?:[^"\\]|\\.)*"'
)


class Kept:
    """One exchange while it passes."""

    __slots__ = ("asked", "began", "end", "first", "headers", "meter", "scope", "size", "status", "told")

    def __init__(self, scope: Scope) -> None:
        #: what the layers behind us may change is copied now
        self.scope = {
            "method": scope["method"],
            "path": scope["path"],
            "query": bytes(scope.get("query_string", b"")),
            "headers": list(scope["headers"]),
        }
        self.began = time.time()
        self.first = self.end = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.asked = Body()
        self.told = Body()
        self.meter: Any = None


class Body:
    """The beginning of a body, and how many bytes it had."""

    __slots__ = ("kept", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.kept = self.size = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if piece and (room := BODY + BEYOND - self.kept) > 0:
            self.pieces.append(bytes(piece[:room]))
            self.kept += min(room, len(piece))


class Trace:
    """``proxy`` is our name, ``secrets`` are texts that no file may hold; ``failed`` is called on
    the loop with the reason when a file could not be written, after the trace has ended."""

    def __init__(self, proxy: str, secrets: Iterable[str], failed: Callable[[str], None]) -> None:
        self.proxy = proxy
        self.secrets = [one for one in secrets if len(one) >= 8]
        self.failed = failed
        #: seconds since 1970; 0: off
        self.until = 0.0
        self.folder = ""
        self.slot = ""
        self.pins: dict[str, str] = {}
        self.dropped = self.written = 0
        self._bytes = 0
        self._queue: queue.Queue[Kept | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def take(self, order: Mapping[str, Any]) -> None:
        """What the supervisor says, each time in place of what it said before; what makes no sense is off."""
        until, folder, pins = order.get("until"), order.get("folder"), order.get("pins")
        well = isinstance(until, (int, float)) and isinstance(folder, str) and folder.startswith("/")
        self.slot = str(order.get("slot") or "")
        self.pins = {str(k): str(v) for k, v in pins.items()} if isinstance(pins, dict) else {}
        self.folder = str(folder) if well else ""
        self.until = float(until or 0) if well else 0.0

    # ------------------------------------------------------------------------------------------- on the loop

    def outside(self, app: App) -> App:
        """Wrap everything. A plain function: while it is off there is not even a coroutine of ours."""

        def traced(scope: Scope, receive: Receive, send: Send) -> Any:
            if not self.until:
                return app(scope, receive, send)
            return self._keep(app, scope, receive, send)

        return traced

    async def _keep(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        if time.time() >= self.until:
            self.until = 0.0
        if not self.until or scope["type"] != "http" or scope.get("client") is None:
            await app(scope, receive, send)
            return
        kept = Kept(scope)

        async def read() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                kept.asked.add(message.get("body", b""))
            return message

        async def write(message: Message) -> None:
            if message["type"] == "http.response.body":
                kept.first = kept.first or time.time()
                kept.told.add(message.get("body", b""))
            elif message["type"] == "http.response.start":
                kept.status = message["status"]
                kept.headers = list(message.get("headers", ()))
            kept.meter = kept.meter or scope.get(EXCHANGE)
            await send(message)

        try:
            await app(scope, read, write)
        finally:
            kept.meter = kept.meter or scope.get(EXCHANGE)
            kept.end = time.time()
            # A mistake in here costs a file, never an answer.
            with contextlib.suppress(Exception):
                self._hand_over(kept)

    def _hand_over(self, kept: Kept) -> None:
        if not self.until or (self.slot and self.slot != self.slot_of(kept)):
            return
        size = kept.asked.kept + kept.told.kept
        if self._bytes + size > WAITING_BYTES:
            self.dropped += 1
            return
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ocd-trace", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(kept)
            self._count(size)
        except queue.Full:
            self.dropped += 1

    def slot_of(self, kept: Kept) -> str:
        """Which slot's request it is: the group that is pinned there, else the family in the model's name."""
        model = (kept.meter.model if kept.meter else "").removesuffix("[1m]")
        for slot, group in self.pins.items():
            if model and model == group:
                return slot
        return next((one for one in ("opus", "sonnet", "haiku", "fable") if one in model.lower()), "")

    # ------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while (kept := self._queue.get()) is not None:
            try:
                if self.until:
                    self.write(kept)
            except OSError as error:
                self.until = 0.0
                self._tell(error.strerror or str(error))
            except Exception:
                self.dropped += 1
            finally:
                self._count(-kept.asked.kept - kept.told.kept)

    def _count(self, size: int) -> None:
        with self._lock:
            self._bytes += size

    def _tell(self, why: str) -> None:
        # A loop that has ended has nobody to tell.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.failed, why)

    def finish(self, seconds: float) -> None:
        """The process ends: write what waits, at most so long."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
                self._thread.join(seconds)

    def write(self, kept: Kept) -> None:
        """Mask it and write its file; the oldest go where there are too many. Raises OSError."""
        text = json.dumps(self.record(kept)).encode()
        folder = self.folder
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        prune(folder, time.time() - AGE, FILES - 1, BYTES - len(text))
        # By its beginning, to the microsecond: a request and the one that it leads to may share a millisecond.
        path = f"{folder}/{int(kept.began * 1e6):016d}-{os.getpid()}-{self.written}.json"
        atomic.replace(path, text, durable=False)
        self.written += 1

    def record(self, kept: Kept) -> dict[str, Any]:
        """What the file holds: nothing in it is a credential that we know one by."""
        own = getattr(kept.meter, "own", b"") or b""
        given = [own.decode("latin-1")] if len(own) >= 8 else []
        for name, value in kept.scope["headers"]:
            if secret_name(name.decode("latin-1")):
                word = value.decode("latin-1").strip()
                given.append(word.partition(" ")[2] or word)
        hide = Masking([*self.secrets, *(one for one in given if len(one) >= 8)])
        query = parse_qsl(kept.scope["query"].decode("latin-1"), keep_blank_values=True)
        meter = kept.meter
        return {
            "version": 1,
            "proxy": self.proxy,
            "pid": os.getpid(),
            "start": round(kept.began, 3),
            "first_byte": round(kept.first, 3) if kept.first else None,
            "end": round(kept.end, 3),
            "method": kept.scope["method"],
            "path": hide.text(kept.scope["path"]),
            "query": [[hide.text(n), MASK if secret_name(n) else hide.text(v)] for n, v in query],
            "headers": hide.headers(kept.scope["headers"]),
            "body": hide.body(kept.asked, kept.scope["headers"]),
            "status": kept.status or None,
            "answer_headers": hide.headers(kept.headers),
            "answer": hide.body(kept.told, kept.headers),
            "slot": self.slot_of(kept),
            "model": hide.text(meter.model) if meter else "",
            "upstream": hide.text(str(meter.upstream)) if meter else "",
            "dropped_before": self.dropped,
        }


class Masking:
    """``secrets`` are texts that are hidden wherever they stand, beside all that looks like a credential."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = sorted(set(secrets), key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return "".join(_FIELD.sub(rf'\1"{MASK}"', mask(piece)) for piece in pieces(text))

    def headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[list[str]]:
        found = []
        for raw, value in headers:
            name = raw.decode("latin-1")
            hidden = MASK if secret_name(name) else self.text(value.decode("latin-1"))
            found.append([self.text(name), hidden])
        return found

    def body(self, body: Body, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
        """``text``, the ``size`` in bytes as it was sent, whether it was ``cut``, and why a body is not there."""
        encoding = next((v.strip().lower() for n, v in headers if n.lower() == b"content-encoding"), b"")
        raw, cut = b"".join(body.pieces), body.size > BODY
        decoder = decoders.decoder(encoding)
        if decoder is not None and raw:
            # Compressed, a credential would not be seen.
            raw = decoder.decompress(raw, BODY + BEYOND)
            if not raw:
                left = f"not kept: its encoding {encoding.decode('latin-1')!a} is not understood here"
                return {"text": "", "size": body.size, "cut": True, "note": left}
            cut = cut or len(raw) > BODY
        text = self.text(raw.decode("utf-8", "backslashreplace"))
        note = f"cut: the first {BODY} bytes are kept" if cut else ""
        return {"text": text[:BODY] if cut else text, "size": body.size, "cut": cut, "note": note}


def secret_name(name: str) -> bool:
    """Whether a header or a field of that name holds a credential."""
    return _SECRET.fullmatch(name) is not None


def pieces(text: str) -> Iterable[str]:
    """The text in pieces that end with a comma or a line's end: no credential has one in it."""
    at = 0
    while len(text) - at > PIECE:
        end = max(text.rfind(",", at, at + PIECE), text.rfind("\n", at, at + PIECE)) + 1
        if end <= at:
            ends = [found for mark in ",\n" if (found := text.find(mark, at)) >= 0]
            end = min(ends) + 1 if ends else len(text)
        yield text[at:end]
        at = end
    yield text[at:]


def prune(folder: str, before: float, files: int, size: int) -> None:
    """Remove what was written before (seconds since 1970), and the oldest until ``files`` files of ``size`` bytes
    together are left. Raises OSError when the folder cannot be read."""
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            looked = entry.stat(follow_symlinks=False)
            found.append((looked.st_mtime, entry.path, looked.st_size))
    total = sum(one[2] for one in found)
    found.sort()
    for index, (written, path, length) in enumerate(found):
        if written >= before and len(found) - index <= files and total <= size:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= length
