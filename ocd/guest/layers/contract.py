"""Bedrock's side held to Anthropic's contract: an ASGI layer between the boundary and LiteLLM.

``POST /v1/messages`` and ``/v1/messages/count_tokens`` come as Claude Code sends them and are answered as Anthropic
would: ``requests`` makes of a request what the model can take, ``converse`` and ``answers`` make of Bedrock's answer
what the client is used to, ``refusals`` says errors in Anthropic's words. This file is what is left: bytes, time and
the client's going away. Everything else passes untouched.

The answer is taken from Bedrock's own bytes where they can be seen (``watching``) and nothing in LiteLLM's file wants
to change it (callbacks, guardrails, a cache); else from LiteLLM's stream, held to the same protocol.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from . import answers, converse, refusals, requests, watching

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Json = dict[str, Any]

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
#: seconds of silence after which a stream's client gets a ping; it shows a banner after 20 and gives up after 300
SILENCE = 10.0
#: bytes of a request that is looked at beside the event loop
LARGE = 512 * 1024
#: bytes of a plain answer of LiteLLM's
LARGEST = 64 * 1024 * 1024
#: says that a count of tokens is an estimate of ours
ESTIMATE = (b"x-token-count", b"estimate")

_JSON = (b"content-type", b"application/json")
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


def wrap(app: App, facts: Json) -> App:
    """``app`` behind the contract. ``facts`` is the boot message's: ``groups`` (name → what its model can do), ``open``
    (other names may exist) and ``direct`` (nothing in LiteLLM's file wants to see or change answers)."""
    watching.install()
    return Contract(app, facts)


class Contract:
    def __init__(self, app: App, facts: Json, silence: float = SILENCE) -> None:
        self.app = app
        self.silence = silence
        self.groups = {
            str(name): requests.Facts.of(given) for name, given in (facts.get("groups") or {}).items()
        }
        self.open = bool(facts.get("open"))
        self.direct = bool(facts.get("direct"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("method") != "POST" or scope["path"] not in (MESSAGES, COUNT):
            await self.app(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:
            return
        try:
            if len(body) > LARGE:
                # Nobody else waits while it is looked at.
                asked, facts, rewritten = await asyncio.to_thread(self.read, body, scope["path"])
            else:
                asked, facts, rewritten = self.read(body, scope["path"])
        except refusals.Refusal as refusal:
            await _refuse(send, refusal)
            return
        if scope["path"] == COUNT:
            await self.count(scope, receive, send, rewritten, facts)
            return
        conversation = Conversation(self, scope, send, rewritten, asked)
        await conversation.run(receive)

    def read(self, body: bytes, path: str) -> tuple[Json, requests.Facts, requests.Rewritten]:
        """The request, the facts about its model, and what it becomes. Raises Refusal."""
        try:
            asked = _parse(body)
            facts = self.facts(str(asked.get("model") or ""))
            # What only counts has no limit of its own.
            more = {"max_tokens": 1} if path == COUNT else {}
            return asked, facts, requests.rewrite({**more, **asked}, facts)
        except RecursionError:
            raise refusals.invalid("The request is nested too deeply.") from None

    def facts(self, name: str) -> requests.Facts:
        found = self.groups.get(name)
        if found is None:
            if not self.open and name:
                raise refusals.unknown_model(name, list(self.groups))
            # Of a name that a star lets in, its own words are all that is known.
            claude = "claude" in name.lower()
            thinking = "claude" if claude else ""
            found = requests.Facts(name, thinking, caching=claude, thinking=thinking)
        return found

    async def count(
        self, scope: Scope, receive: Receive, send: Send, rewritten: requests.Rewritten, facts: requests.Facts
    ) -> None:
        """Bedrock counts for Claude's models, through LiteLLM; for all others, and where that fails, we estimate."""
        about = await asyncio.to_thread(requests.estimate, rewritten.body)
        if facts.family == "claude":
            counted = await self.counted(scope, receive, rewritten.body)
            # LiteLLM counts by itself where Bedrock does not, and then by far too little.
            if counted is not None and counted * 4 >= about:
                await _plain(send, 200, {"input_tokens": counted}, [])
                return
        await _plain(send, 200, {"input_tokens": about}, [ESTIMATE])

    async def counted(self, scope: Scope, receive: Receive, body: Json) -> int | None:
        """LiteLLM's count; None when it has none."""
        taken: list[bytes] = []
        status = 0

        async def take(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            elif message["type"] == "http.response.body":
                taken.append(message.get("body", b""))

        body = {name: body[name] for name in ("model", "messages", "system", "tools") if name in body}
        raw, gone = json.dumps(body).encode(), asyncio.Event()
        scope = {**scope, "headers": _headers(scope["headers"], len(raw))}
        with contextlib.suppress(Exception):
            async with _until_gone(receive, gone):
                await self.app(scope, _replay(raw, gone), take)
            value = json.loads(b"".join(taken))
            if status == 200 and isinstance(value.get("input_tokens"), int) and value["input_tokens"] > 0:
                return int(value["input_tokens"])
        return None


class Conversation:
    """One request and its answer."""

    def __init__(
        self,
        contract: Contract,
        scope: Scope,
        send: Send,
        rewritten: requests.Rewritten,
        asked: Json,
    ) -> None:
        self.contract = contract
        self.scope = scope
        self.send = send
        self.rewritten = rewritten
        self.stream = bool(asked.get("stream"))
        self.raw = json.dumps(rewritten.body).encode()
        # Bedrock counts at the end; a closer look would take longer than everything else here.
        about = len(self.raw) // answers.TOKEN
        self.answer = answers.Answer(str(asked["model"]), rewritten.restore, rewritten.stops, about)
        self.message = answers.Message()
        #: the head of the answer is sent
        self.headed = False
        #: its last byte is sent
        self.done = False
        self.sent_at = 0.0
        # What LiteLLM says
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.taken = bytearray()
        self.sse = answers.Sse()
        # What Bedrock says
        self.frames = converse.Frames()
        self.translation = converse.Translation(rewritten.json_tool)
        self.body = bytearray()
        #: an answer of Bedrock's can be seen; it is being told from its own bytes; how it ended
        self.watching = False
        self.seeing = False
        self.told: Json | None = None
        #: another call came after one whose answer had begun: what it says is nobody's
        self.deaf = False
        #: why that ended, or what a call upstream ended with
        self.refusal: refusals.Refusal | None = None
        self.request_id = ""

    async def run(self, receive: Receive) -> None:
        gone = asyncio.Event()
        scope = {**self.scope, "headers": _headers(self.scope["headers"], len(self.raw))}
        loop = asyncio.get_running_loop()
        self.sent_at = loop.time()
        timer = Timer(self.contract.silence, self.ping) if self.stream else None
        try:
            async with _until_gone(receive, gone, lambda: self.done, self.whole):
                with watching.watched(self):
                    await self.contract.app(scope, _replay(self.raw, gone), self.take)
                await self.finish()
        except Exception as error:
            if self.done or gone.is_set():
                return
            self.refusal = self.refusal or refusals.from_upstream(500, "", str(error))
            await self.finish()
        finally:
            if timer is not None:
                timer.cancel()

    # ---- from LiteLLM

    async def take(self, message: Message) -> None:
        """LiteLLM's ``send``."""
        if self.done:
            return
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            self.headers = list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            piece = message.get("body", b"")
            if self.streaming:
                if not self.seeing:
                    await self.tell(self.corrected(event) for event in self.sse.feed(piece))
            elif len(self.taken) + len(piece) <= LARGEST:
                self.taken += piece
            if not message.get("more_body"):
                await self.finish()

    def whole(self) -> bool:
        """Whether the client has its answer and nothing of it is left upstream."""
        return self.done and self.translation.ended and not self.answer.failed

    @property
    def streaming(self) -> bool:
        return self.status == 200 and _header(self.headers, b"content-type").startswith(b"text/event-stream")

    async def finish(self) -> None:
        """LiteLLM has said everything."""
        if self.done:
            return
        if not self.seeing and not self.answer.over:
            if self.status >= 400 or (not self.streaming and not self.status):
                text = _error_text(bytes(self.taken))
                found = self.refusal or refusals.from_upstream(
                    self.status or 500, "", text, _kept(self.headers)
                )
                await self.refuse(found)
                return
            if not self.streaming:
                value = _loads(bytes(self.taken))
                events = answers.from_message(value) if isinstance(value, dict) else iter(())
                await self.tell(self.corrected(event) for event in events)
        if self.seeing and not self.answer.over:
            await self.tell(self.translation.close())
        if not self.answer.over:
            why = self.refusal
            if not self.answer.begun and why is not None:
                await self.refuse(why)
                return
            await self.tell(
                self.answer.fail(why.message, why.kind) if why else self.answer.finish(), made=True
            )
        await self.end()

    def corrected(self, event: Json) -> Json:
        """An event of LiteLLM's own stream with what it lost on the way put back: how the answer ended."""
        kind = event.get("type")
        if kind == "error":
            error = event.get("error")
            text = str(error.get("message") or "") if isinstance(error, dict) else ""
            return (self.refusal or refusals.from_upstream(500, "", text)).value()
        if kind == "message_delta" and self.watching:
            if self.told is None:
                why = self.refusal or refusals.Refusal(500, answers.EARLY)
                return why.value()
            if self.told["type"] == "error":
                return self.told
            return {**event, "delta": {**(event.get("delta") or {}), **self.told["delta"]}}
        return event

    # ---- from Bedrock (watching.Watcher)

    def calling(self) -> None:
        if self.seeing and self.answer.begun:
            # A try again, or of another group, in the middle of an answer: that one broke off, and is told so.
            self.deaf = True
            return
        self.seeing = self.watching = False
        self.refusal = self.told = None
        self.frames, self.body = converse.Frames(), bytearray()
        self.translation = converse.Translation(self.rewritten.json_tool)

    def answering(self, headers: dict[str, str]) -> None:
        if self.deaf:
            return
        self.request_id = headers.get("x-amzn-requestid", self.request_id)
        self.watching = True
        # LiteLLM begins its own stream before Bedrock's first event. One that it has begun stays its own to tell.
        self.seeing = self.contract.direct and not self.answer.begun

    def note(self, events: Iterable[Json]) -> None:
        """Remember how the answer ended; LiteLLM tells the rest."""
        for event in events:
            if event["type"] in ("message_delta", "error"):
                self.told = event

    def refused(self, status: int, headers: dict[str, str], body: bytes) -> None:
        kind = headers.get("x-amzn-errortype", "")
        text = body.decode("utf-8", "replace")
        if not kind:
            value = _loads(body)
            kind = str(value.get("__type") or "") if isinstance(value, dict) else ""
        self.request_id = headers.get("x-amzn-requestid", self.request_id)
        self.refusal = refusals.from_upstream(status, kind, text, headers)

    async def piece(self, data: bytes, *, stream: bool) -> None:
        if self.done or self.deaf:
            return
        if not stream:
            if len(self.body) + len(data) <= LARGEST:
                self.body += data
            return
        try:
            for headers, payload in self.frames.feed(data):
                await self.frame(headers, payload)
        except converse.Framing as error:
            await self.tell(self.answer.fail(f"Bedrock's stream cannot be read: {error}."), made=True)

    async def frame(self, headers: dict[str, str], payload: bytes) -> None:
        value = _loads(payload)
        value = value if isinstance(value, dict) else {}
        kind = headers.get(":event-type", "")
        failed = headers.get(":exception-type") or headers.get(":error-code", "")
        if headers.get(":message-type", "event") != "event" or failed or kind.endswith("Exception"):
            text = str(value.get("message") or headers.get(":error-message") or "")
            self.refusal = refusals.from_upstream(500, failed or kind, text)
            if self.seeing and self.answer.begun:
                why = self.refusal
                await self.tell(self.answer.fail(why.message, why.kind), made=True)
            return
        events = self.translation.stream(kind, value)
        if self.seeing:
            await self.tell(events)
        else:
            self.note(events)

    async def ended(self, *, stream: bool) -> None:
        if self.done or self.deaf:
            return
        if stream:
            events = self.translation.close()
        else:
            value = _loads(bytes(self.body))
            if not isinstance(value, dict) or "output" not in value:
                self.seeing = self.watching = False
                return
            events = self.translation.plain(value)
        if self.seeing:
            await self.tell(events)
        else:
            self.note(events)

    # ---- to the client

    async def tell(self, events: Iterable[Json], *, made: bool = False) -> None:
        """Give events to the client, those that are not ``made`` by ``answer`` through it."""
        ready = list(events) if made else [out for event in events for out in self.answer.feed(event)]
        if not ready:
            return
        if not self.stream:
            for event in ready:
                self.message.add(event)
            return
        await self.write(b"".join(answers.sse(event) for event in ready))
        if self.answer.over:
            await self.end()

    async def write(self, data: bytes) -> None:
        if self.done:
            return
        self.sent_at = asyncio.get_running_loop().time()
        if not self.headed:
            self.headed = True
            headers = [*_EVENTS, *self.identity()]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def ping(self) -> float:
        """Called when it may be time for one; returns the seconds until the next look."""
        left = self.sent_at + self.contract.silence - asyncio.get_running_loop().time()
        if left <= 0 and not self.done:
            await self.write(answers.sse(answers.PING))
            left = self.contract.silence
        return max(left, 0.01)

    async def end(self) -> None:
        """The answer's last byte."""
        if self.done:
            return
        if self.stream:
            self.done = True
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        error = self.message.error
        if error is not None or not self.message.done:
            inner = (error or {}).get("error") or {"type": "api_error", "message": answers.EARLY}
            status = next((code for code, kind in refusals.TYPES.items() if kind == inner["type"]), 502)
            await self.refuse(
                refusals.Refusal(502 if status == 500 else status, inner["message"], inner["type"])
            )
            return
        self.done = True
        await _bytes(self.send, 200, self.message.body(), self.identity())

    async def refuse(self, refusal: refusals.Refusal) -> None:
        if self.done:
            return
        if self.headed:
            await self.tell([refusal.value()], made=True)
            self.answer.over = True
            await self.end()
            return
        self.done = True
        await _refuse(self.send, refusal, self.identity())

    def identity(self) -> list[tuple[bytes, bytes]]:
        """What the answer's head says of where it came from."""
        known = [one for one in self.headers if one[0].lower().startswith(b"x-litellm-")]
        return (
            [*known, (b"request-id", self.request_id.encode("ascii", "replace"))]
            if self.request_id
            else known
        )


class Timer:
    """Calls ``look`` now and then, without a task for anything that passes: one timer, one task when it is due."""

    def __init__(self, first: float, look: Callable[[], Awaitable[float]]) -> None:
        self.look = look
        self.loop = asyncio.get_running_loop()
        self.handle: asyncio.TimerHandle | None = self.loop.call_later(first, self.due)
        self.task: asyncio.Task[None] | None = None

    def due(self) -> None:
        self.handle = None
        self.task = self.loop.create_task(self.step())

    async def step(self) -> None:
        with contextlib.suppress(OSError):
            self.handle = self.loop.call_later(await self.look(), self.due)

    def cancel(self) -> None:
        if self.handle is not None:
            self.handle.cancel()
        if self.task is not None and not self.task.done():
            self.task.cancel()


@contextlib.asynccontextmanager
async def _until_gone(
    receive: Receive,
    gone: asyncio.Event,
    done: Callable[[], bool] = lambda: False,
    whole: Callable[[], bool] = lambda: False,
) -> Any:
    """Cancel what is done inside as soon as the client has gone, and go on after it as if it had ended.

    ``done``: the client has its answer, and nothing is cancelled. ``whole``: the upstream has said everything too.
    """
    work = asyncio.current_task()
    assert work is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if whole():
            # A server says so too after the last byte. LiteLLM would count the tokens of an answer that broke off.
            return
        gone.set()
        if not done():
            work.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone.is_set() or done():
            raise
        work.uncancel()
    finally:
        watching.cancel()


async def _whole(receive: Receive) -> bytes | None:
    """The request's body; None when the client went away in the middle. The boundary has limited its size."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


def _replay(body: bytes, gone: asyncio.Event) -> Receive:
    """A receive that gives the body once, and then the client's going away when it goes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


def _headers(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """The client's headers with another body's length. Betas are the client's wish to Anthropic: LiteLLM would hand
    them to Bedrock, which refuses those that it does not know."""
    ours = (b"content-length", b"transfer-encoding", b"content-type", b"anthropic-beta")
    kept = [(name, value) for name, value in headers if name.lower() not in ours]
    return [*kept, _JSON, (b"content-length", str(length).encode())]


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    return next((value for name, value in headers if name.lower() == wanted), b"")


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _parse(body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise refusals.invalid("The request's body is not JSON.") from None
    if not isinstance(value, dict):
        raise refusals.invalid("The request's body is not a JSON object.")
    return value


def _loads(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _error_text(raw: bytes) -> str:
    """The message of an error of LiteLLM's, in whatever form."""
    value = _loads(raw)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or "")
    return str(error or "") or raw[:2000].decode("utf-8", "replace")


async def _refuse(send: Send, refusal: refusals.Refusal, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    more = [(name.encode(), value.encode("latin-1", "replace")) for name, value in refusal.headers.items()]
    if refusal.trouble:
        # For the meter, in whichever process: it ends there.
        more.append((b"x-ocd-trouble", refusal.trouble.encode()))
    await _plain(send, refusal.status, refusal.value(), [*more, *headers])


async def _plain(send: Send, status: int, value: Json, headers: Iterable[tuple[bytes, bytes]]) -> None:
    await _bytes(send, status, json.dumps(value).encode(), headers)


async def _bytes(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    head = [_JSON, (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})
