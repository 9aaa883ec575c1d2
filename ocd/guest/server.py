"""How a guest serves: uvicorn's server with a private socket of its own and shared listeners that come and go.

Loaded by path inside a guest, after LiteLLM was imported: uvicorn is LiteLLM's.
"""

import asyncio
import contextlib
import json
import os
import socket
import time
from typing import Any

import uvicorn

from ocd.guest.waiting import Waiting, most

#: A listening connection on which no request came is closed this many seconds after the drain began.
SILENT_CONNECTION = 5.0
#: A connection that the kernel handed us just before we stopped listening shows up a few loop turns later.
ACCEPT_SETTLE = 0.2


#: While it drains it says how far it is, every so many seconds, and at least twice in its limit.
DRAIN_REPORTS = 15.0


class Flow:
    """When the last byte of any answer went to a client (monotonic seconds)."""

    last = 0.0


def answer_liveness(app: Any) -> Any:
    """Answer the supervisor's probe on the private socket ourselves, on the same event loop.

    LiteLLM's own answer says no more (FACTS: it answers anyone and proves nothing), but finding the route touches the
    objects of several hundred others: 18 MB of pages that an idle process would no longer share.
    """
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"12")],
    }

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope.get("client") is None and scope["path"] == "/health/liveliness":
            await send(start)
            await send({"type": "http.response.body", "body": b'"I\'m alive!"'})
            return

        async def noted(message: Any) -> None:
            Flow.last = time.monotonic()
            await send(message)

        await app(scope, receive, noted)

    return answering


class GuestServer(uvicorn.Server):
    """uvicorn's server with shared listeners that come late and go early."""

    def __init__(self, config: uvicorn.Config, guest: Any, door: Any) -> None:
        super().__init__(config)
        self.guest = guest
        self.door = door
        self.shared: list[Any] = []
        self.work: set[asyncio.Task[None]] = set()
        #: the drain's limit (seconds), whether it counts from the last byte, and when it was ordered
        self.limit, self.flowing, self.ordered = 600.0, False, 0.0

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        loop = asyncio.get_running_loop()
        self.guest.control.setblocking(False)
        loop.add_reader(self.guest.control.fileno(), self.on_control)
        self.start(self.arm())

    def start(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    async def arm(self) -> None:
        """Say that the private socket answers; then make the lazy imports of a first request happen now."""
        if self.guest.pipe is not None:
            self.guest.pipe.prepare()
        warm = self.guest.spec.get("warm")
        if warm:
            started = time.monotonic()
            for request in warm:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(private_request(self.guest.spec["socket"], request), 20)
            self.guest.counters["warm_ms"] = int((time.monotonic() - started) * 1000)
        self.guest.settle()
        if self.guest.phase == "booting":
            self.guest.phase = "armed"
            self.guest.tell("armed", warm_ms=self.guest.counters.get("warm_ms", 0))

    def on_control(self) -> None:
        for message, fds in self.guest.hear():
            op = message.get("op")
            if op == "accept":
                if "fds" in message:
                    self.guest.tell("accept-failed", error="the process is out of descriptors")
                else:
                    self.start(self.accept(fds))
                continue
            for fd in fds:
                os.close(fd)
            if op == "drain":
                self.limit, self.flowing = float(message.get("limit", 600)), bool(message.get("flowing"))
                self.ordered = time.monotonic()
                self.start(self.drain())
            elif op == "release":
                self.release(int(message["port"]))
            elif op == "spill" and self.guest.pipe is not None:
                self.guest.pipe.spill.take(message)
            elif op == "budget" and self.guest.pipe is not None:
                self.guest.pipe.budget.take(message)
            elif op == "trace" and self.guest.trace is not None:
                self.guest.trace.take(message)
            elif op == "rebind":
                self.start(self.rebind())
            elif op == "status":
                self.tell_status()
                if "after" in message:
                    self.start(self.guest.reports.again(message["after"]))
                else:
                    self.guest.reports.tell()
        self.guest.end_if_abandoned()

    def client_connections(self) -> int:
        return sum(1 for one in self.server_state.connections if getattr(one, "client", None))

    async def accept(self, fds: list[int]) -> None:
        """Serve the shared listening sockets, those of an earlier ``accept`` too (a change of ports)."""
        if self.guest.phase == "draining":
            for fd in fds:
                os.close(fd)
            return
        for fd in fds:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            server: Any = Waiting(sock, self.protocol, most() // 2)
            self.shared.append(server)
            self.servers.append(server)
        self.guest.phase = "accepting"
        self.guest.tell("accepting", ports=self.ports())

    def tell_status(self, **more: Any) -> None:
        requests = self.server_state.total_requests
        self.guest.status(self.client_connections(), requests, ports=self.ports(), **more)

    def ports(self) -> list[int]:
        """The ports that it accepts on."""
        return sorted({sock.getsockname()[1] for server in self.shared for sock in server.sockets})

    def release(self, port: int) -> None:
        """Stop accepting on one port; its connections go on."""
        for server in list(self.shared):
            if any(sock.getsockname()[1] == port for sock in server.sockets):
                server.close()
                self.shared.remove(server)
                self.servers.remove(server)

    async def rebind(self) -> None:
        """Make the private socket anew: somebody removed the folder that it was in."""
        with contextlib.suppress(OSError):
            loop = asyncio.get_running_loop()
            server = await loop.create_server(self.protocol, sock=self.guest.private_socket())
            self.servers.append(server)

    def protocol(self) -> Any:
        self.guest.counters["accepted"] = self.guest.counters.get("accepted", 0) + 1
        make: Any = self.config.http_protocol_class
        made = make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return self.door.watch(made)

    async def drain(self) -> None:
        """Stop accepting, let what runs finish, then end; said again, only the limit is another one.

        The limit counts from the order, or (``flowing``) from the last byte of any answer: a stream that flows is not
        cut off because we exchange processes. Idle keep-alive connections are not cut: a client may be sending on one
        right now. Their next answer carries ``Connection: close``, and uvicorn's keep-alive timer closes the silent
        ones.
        """
        if self.guest.phase == "draining":
            return
        self.guest.phase = "draining"
        for server in self.shared:
            server.close()
            self.servers.remove(server)
        self.shared = []
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        began = told = time.monotonic()
        await asyncio.sleep(ACCEPT_SETTLE)
        while self.client_connections() and self.drain_time() < self.limit:
            now = time.monotonic()
            if now - began > SILENT_CONNECTION:
                for connection in list(self.server_state.connections):
                    if getattr(connection, "client", None) and getattr(connection, "cycle", True) is None:
                        connection.transport.close()
            if now - told > min(DRAIN_REPORTS, self.limit / 2):
                told = now
                self.tell_status(quiet=round(self.drain_time(), 3))
            await asyncio.sleep(0.05)
        seconds = round(time.monotonic() - began, 3)
        self.guest.tell("drained", left=self.client_connections(), seconds=seconds)
        self.config.timeout_graceful_shutdown = 1
        self.should_exit = True

    def drain_time(self) -> float:
        """Seconds of the drain's limit that are used up."""
        return time.monotonic() - (max(self.ordered, Flow.last) if self.flowing else self.ordered)


async def private_request(path: str, request: dict[str, Any]) -> int:
    """One request to our own private socket; returns the status code."""
    body = json.dumps(request.get("body")).encode() if "body" in request else b""
    head = [
        f"{request.get('method', 'POST')} {request['path']} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
    ]
    head += [f"{name}: {value}" for name, value in request.get("headers", {}).items()]
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.close()
