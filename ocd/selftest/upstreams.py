"""Stand-ins for Anthropic's Messages API and AWS's Bedrock Runtime, on loopback alone; all is recorded.

In a program: ``async with Upstreams() as up: …``, or ``with in_thread() as up: …`` beside blocking code. As a
process: ``python -m ocd.selftest.upstreams --json`` prints one line with its addresses; ``/_control`` on
either of them takes behaviours and gives the summary (``Upstreams.control`` describes both).
"""

import argparse
import asyncio
import base64
import contextlib
import json
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

import h11

from ocd.selftest import answers, eventstream

Name = Literal["anthropic", "bedrock"]
NAMES: tuple[Name, ...] = ("anthropic", "bedrock")
T = TypeVar("T")
#: requests that are kept with headers and body; older ones remain in the counts
KEPT = 20_000
#: bytes; Anthropic's own limit
LARGEST = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How requests are answered. The first in the list that fits a request is used.

    ``upstream`` and ``model`` (a part of its name) say which requests; ``times`` how many (None: all from
    now on). ``chunks`` and ``delay`` (seconds before each piece of text) make long streams; ``first`` is
    the wait in seconds before the answer begins. ``status`` fails with that status, ``error`` names AWS's
    exception for it. ``drop``: "before" resets the connection instead of an answer, "during" after half of
    the text, "error" sends the protocol's own error event there, "end" closes the stream cleanly there.
    """

    upstream: str = ""
    model: str = ""
    times: int | None = None
    chunks: int = 3
    delay: float = 0.0
    first: float = 0.0
    status: int = 0
    error: str = ""
    retry_after: int = 7
    drop: str = ""

    def fits(self, upstream: str, model: str) -> bool:
        return self.upstream in ("", upstream) and self.model in model

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> "Behaviour":
        """From JSON. Raises ValueError for a key that there is not."""
        unknown = set(value) - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"no such behaviour: {', '.join(sorted(unknown))}")
        return cls(**value)


@dataclass(slots=True)
class Seen:
    """One request as it arrived. ``credential``: plan token, API key, AWS signature, other, none."""

    upstream: Name
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    time: float
    model: str = ""
    credential: str = "none"
    status: int = 0

    def header(self, name: str) -> str:
        """The header's value, of several the first; empty when there is none."""
        return next((value for key, value in self.headers if key == name.lower()), "")

    def json(self) -> dict[str, Any]:
        """The body; an empty dictionary when it is no JSON object."""
        with contextlib.suppress(ValueError):
            value = json.loads(self.body)
            if isinstance(value, dict):
                return value
        return {}

    def where(self, text: str) -> list[str]:
        """The places in which ``text`` stands: path, header NAME, body."""
        found = ["path"] if text in self.path or text in unquote(self.path) else []
        found += [f"header {name}" for name, value in self.headers if text in value or text in name]
        if text.encode() in self.body:
            found.append("body")
        return found


def credential_kind(headers: list[tuple[str, str]]) -> str:
    """What kind of credential the headers carry, in words."""
    kinds = []
    for name, value in headers:
        if name == "authorization":
            bare = value.removeprefix("Bearer ").strip()
            if value.startswith("AWS4-HMAC-SHA256 "):
                kinds.append("AWS signature")
            elif bare.startswith("sk-ant-oat"):
                kinds.append("plan token")
            else:
                kinds.append("API key" if bare.startswith("sk-ant-") else "other")
        elif name in ("x-api-key", "api-key", "x-litellm-api-key"):
            kinds.append("API key" if name == "x-api-key" and value.startswith("sk-ant-api") else "other")
    return " + ".join(sorted(set(kinds))) or "none"


class _Dropped(Exception):
    """The connection was reset on purpose."""


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    open: int = 0
    routes: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    credentials: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        counters = {"routes": self.routes, "models": self.models, "credentials": self.credentials}
        plain = {name: dict(counter) for name, counter in (counters | {"statuses": self.statuses}).items()}
        return {"requests": self.requests, "open": self.open, **plain}


class Upstreams:
    """Both stand-ins on ports of their own. ``anthropic`` and ``bedrock`` are their addresses (http://127.0.0.1:N)."""

    def __init__(self, *, keep: int = KEPT) -> None:
        self.anthropic = ""
        self.bedrock = ""
        self.behaviours: list[Behaviour] = []
        self._seen: deque[Seen] = deque(maxlen=keep)
        self._tally: dict[str, _Tally] = {name: _Tally() for name in NAMES}
        self._watched: dict[str, str] = {}
        self._found: dict[str, dict[str, Counter[str]]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Upstreams":
        try:
            for name in NAMES:
                setattr(self, name, await self._listen(name))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def urls(self) -> dict[str, str]:
        """Both addresses by name."""
        return {"anthropic": self.anthropic, "bedrock": self.bedrock}

    async def close(self) -> None:
        """Close the listeners and every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._servers.clear()

    # ---- what tests ask

    def seen(self, upstream: str = "", model: str = "") -> list[Seen]:
        """The requests so far, oldest first, of one upstream, of models whose name has ``model`` in it."""
        return [one for one in list(self._seen) if upstream in ("", one.upstream) and model in one.model]

    def behave(self, *behaviours: Behaviour) -> None:
        """Replace all behaviours; none: answer well and at once."""
        self.behaviours = list(behaviours)

    def watch(self, name: str, text: str) -> None:
        """From now on note where ``text`` (a canary) stands in requests; the summary calls it ``name``."""
        self._watched[name] = text
        self._found[name] = {upstream: Counter() for upstream in NAMES}

    def reset(self) -> None:
        """Forget all requests, behaviours and canaries."""
        self.behaviours = []
        self._seen.clear()
        self._watched.clear()
        self._found.clear()
        for name, old in self._tally.items():
            self._tally[name] = _Tally(open=old.open)

    def summary(self) -> dict[str, Any]:
        """Counts per upstream, and per canary where it was seen how often. Holds no canary itself."""
        found = {
            name: {upstream: dict(places) for upstream, places in places_of.items()}
            for name, places_of in self._found.items()
        }
        return {**{name: tally.as_dict() for name, tally in self._tally.items()}, "canaries": found}

    def control(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What POST /_control does; the answer is the summary.

        ``{"reset": true, "watch": {NAME: TEXT}, "behaviours": [{…}]}``, each optional, in this order. Raises
        ValueError. GET /_control is the summary alone, GET /_control/requests all that is kept.
        """
        behaviours = [Behaviour.parse(one) for one in request.get("behaviours", [])]
        if request.get("reset"):
            self.reset()
        for name, text in dict(request.get("watch", {})).items():
            self.watch(str(name), str(text))
        if "behaviours" in request:
            self.behave(*behaviours)
        return self.summary()

    # ---- serving

    async def _listen(self, name: Name) -> str:
        """Listen on one free port of 127.0.0.1 and, where there is IPv6, of ::1."""

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(_Connection(self, name, reader, writer).run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        for _attempt in range(20):
            server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
            port: int = server.sockets[0].getsockname()[1]
            try:
                other = await asyncio.start_server(connected, "::1", port, backlog=1024)
            except OSError as error:
                with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
                    probe.bind(("::1", 0))
                    # There is IPv6, so it was the port that is taken there: try another one.
                    del error
                    server.close()
                    continue
                self._servers.append(server)
            else:
                self._servers += [server, other]
            return f"http://127.0.0.1:{port}"
        raise OSError("no port is free on both loopback addresses")

    def take(self, seen: Seen) -> Behaviour:
        """Record a request; returns the behaviour for it."""
        self._seen.append(seen)
        tally = self._tally[seen.upstream]
        tally.requests += 1
        tally.routes[f"{seen.method} {_route(seen.path)}"] += 1
        tally.models[seen.model] += 1
        tally.credentials[seen.credential] += 1
        for name, text in self._watched.items():
            self._found[name][seen.upstream].update(seen.where(text))
        for index, behaviour in enumerate(self.behaviours):
            if behaviour.fits(seen.upstream, seen.model):
                if behaviour.times is not None:
                    left = behaviour.times - 1
                    self.behaviours[index : index + 1] = [replace(behaviour, times=left)] if left > 0 else []
                return behaviour
        return Behaviour()

    def begin(self, seen: Seen) -> None:
        self._tally[seen.upstream].open += 1

    def end(self, seen: Seen) -> None:
        tally = self._tally[seen.upstream]
        tally.open -= 1
        tally.statuses[str(seen.status or "dropped")] += 1

    def everything(self) -> list[dict[str, Any]]:
        """What is kept, as JSON; bodies in base64."""
        return [asdict(one) | {"body": base64.b64encode(one.body).decode()} for one in list(self._seen)]


def _route(path: str) -> str:
    """The path without its query, with the model's id out of it."""
    bare = path.partition("?")[0]
    parts = bare.split("/")
    return f"/model/{{id}}/{parts[-1]}" if parts[1:2] == ["model"] and len(parts) > 3 else bare


class _Connection:
    """One client's connection: h11 for the protocol, one request after the other."""

    def __init__(
        self, up: Upstreams, name: Name, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.up = up
        self.name = name
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        try:
            while await self.one_request():
                self.http.start_next_cycle()
        except (ConnectionError, TimeoutError, h11.ProtocolError, _Dropped):
            pass
        finally:
            self.writer.close()

    async def one_request(self) -> bool:
        """Answer one request; false when the connection is done."""
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self.http.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        await self.answer(request, bytes(body))
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    async def answer(self, request: h11.Request, body: bytes) -> None:
        method, path = request.method.decode(), request.target.decode("latin-1")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        bare = path.partition("?")[0]
        if bare.startswith("/_control"):
            return await self.answer_control(method, bare, body)
        seen = Seen(self.name, method, path, headers, body, time.time())
        seen.credential = credential_kind(headers)
        asked = seen.json()
        if self.name == "bedrock":
            parts = bare.split("/")
            seen.model = unquote("/".join(parts[2:-1])) if parts[1:2] == ["model"] else ""
        else:
            seen.model = str(asked.get("model", ""))
        behaviour = self.up.take(seen)
        self.up.begin(seen)
        try:
            await asyncio.sleep(behaviour.first)
            if behaviour.drop == "before":
                self.reset()
            if self.name == "bedrock":
                await self.answer_bedrock(seen, bare, asked, behaviour)
            else:
                await self.answer_anthropic(seen, bare, asked, behaviour)
        finally:
            self.up.end(seen)

    async def answer_control(self, method: str, path: str, body: bytes) -> None:
        try:
            if path == "/_control/requests":
                return await self.plain(None, 200, {"requests": self.up.everything()})
            await self.plain(
                None, 200, self.up.control(json.loads(body)) if method == "POST" else self.up.summary()
            )
        except (ValueError, TypeError, AttributeError) as error:
            await self.plain(None, 400, {"error": str(error)})

    async def answer_anthropic(self, seen: Seen, path: str, asked: dict[str, Any], how: Behaviour) -> None:
        status = how.status
        if seen.method == "HEAD":
            return await self.plain(seen, status or (200 if path == "/" else 404), None)
        known = seen.method == "POST" and path in ("/v1/messages", "/v1/messages/count_tokens")
        if not status and not known:
            status = 404
        elif not status and seen.credential not in ("plan token", "API key"):
            status = 401
        elif not status and len(seen.body) > LARGEST:
            status = 413
        elif not status and not isinstance(asked.get("messages"), list):
            status = 400
        extra = answers.anthropic_headers(status or 200, how.retry_after)
        if status:
            return await self.plain(seen, status, answers.anthropic_error(status), extra)
        if path.endswith("/count_tokens"):
            return await self.plain(seen, 200, {"input_tokens": answers.TOKENS}, extra)
        plan = answers.plan_anthropic(asked, seen.model, how.chunks)
        if not asked.get("stream"):
            await asyncio.sleep(how.delay * how.chunks)
            if how.drop:
                self.reset()
            return await self.plain(seen, 200, answers.message(plan), extra)

        async def pieces() -> AsyncIterator[bytes]:
            async for event in _paced(answers.message_events(plan), how):
                yield answers.sse(event)
            if how.drop == "error":
                yield answers.sse(answers.anthropic_error(529))

        extra["cache-control"] = "no-cache"
        await self.stream(seen, "text/event-stream; charset=utf-8", pieces(), how, extra)

    async def answer_bedrock(self, seen: Seen, path: str, asked: dict[str, Any], how: Behaviour) -> None:
        verb = path.rpartition("/")[2]
        status, error = how.status, how.error
        verbs = ("converse", "converse-stream", "invoke", "invoke-with-response-stream")
        if not status and seen.credential != "AWS signature":
            none = seen.credential == "none"
            status, error = (
                403,
                "MissingAuthenticationTokenException" if none else "UnrecognizedClientException",
            )
        elif not status and (seen.method != "POST" or verb not in verbs or not seen.model):
            status = 404
        elif not status and not isinstance(asked.get("messages"), list):
            status = 400
        extra = {"x-amzn-requestid": "00000000-0000-0000-0000-000000000000"}
        if status:
            kind, value = answers.bedrock_error(status, error)
            extra["x-amzn-errortype"] = f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"
            return await self.plain(seen, status, value, extra)
        anthropic = "anthropic" in seen.model or "anthropic_version" in asked
        converse = verb.startswith("converse")
        make = answers.plan_converse if converse else answers.plan_anthropic
        plan = make(asked, seen.model, how.chunks)
        if "stream" not in verb:
            await asyncio.sleep(how.delay * how.chunks)
            if how.drop:
                self.reset()
            plain = answers.converse if converse else answers.message if anthropic else answers.completion
            return await self.plain(seen, 200, plain(plan), extra)

        async def pieces() -> AsyncIterator[bytes]:
            if converse:
                events = (((kind, value), slow) for kind, value, slow in answers.converse_events(plan))
                async for kind, value in _paced(events, how):
                    yield eventstream.event(kind, value)
            else:
                chunks = answers.message_events(plan) if anthropic else answers.completion_chunks(plan)
                async for value in _paced(chunks, how):
                    yield eventstream.chunk(value)
            if how.drop == "error":
                yield eventstream.exception("modelStreamErrorException", "The model's stream broke.")

        await self.stream(seen, eventstream.CONTENT_TYPE, pieces(), how, extra)

    # ---- sending

    async def plain(
        self, seen: Seen | None, status: int, value: Any, extra: Mapping[str, str] | None = None
    ) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        if seen is not None:
            seen.status = status
        headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
        headers += (extra or {}).items()
        await self.send(h11.Response(status_code=status, headers=headers))
        if data:
            await self.send(h11.Data(data=data))
        await self.send(h11.EndOfMessage())

    async def stream(
        self, seen: Seen, kind: str, pieces: AsyncIterator[bytes], how: Behaviour, extra: Mapping[str, str]
    ) -> None:
        headers = [("content-type", kind), ("transfer-encoding", "chunked"), *extra.items()]
        await self.send(h11.Response(status_code=200, headers=headers))
        async for piece in pieces:
            await self.send(h11.Data(data=piece))
        if how.drop == "during":
            self.reset()
        seen.status = 200
        await self.send(h11.EndOfMessage())

    async def send(self, event: Any) -> None:
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    def reset(self) -> None:
        """Reset the connection (RST): close with no lingering. Raises _Dropped."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise _Dropped


async def _paced(events: Iterator[tuple[T, bool]], how: Behaviour) -> AsyncIterator[T]:
    """The events at the behaviour's pace; with ``drop`` they end after half of the text."""
    texts = 0
    for event, slow in events:
        if slow:
            texts += 1
            if how.drop and texts > max(1, how.chunks // 2):
                return
            await asyncio.sleep(how.delay)
        yield event


@contextlib.contextmanager
def in_thread() -> Iterator[Upstreams]:
    """The stand-ins in a thread of their own, for blocking code; methods may be called from any thread."""
    up = Upstreams()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stand-in upstreams", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(up.__aenter__(), loop).result(30)
        yield up
    finally:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(up.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _serve(as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Upstreams() as up:
        where = {"anthropic": up.anthropic, "bedrock": up.bedrock, "control": f"{up.anthropic}/_control"}
        print(json.dumps(where) if as_json else "\n".join(f"{k:10}{v}" for k, v in where.items()), flush=True)
        await stop.wait()


def main() -> None:
    """``python -m ocd.selftest.upstreams [--json]``: serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m ocd.selftest.upstreams", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the addresses as one JSON line")
    asyncio.run(_serve(parser.parse_args().json))
    sys.exit(0)


if __name__ == "__main__":
    main()
