"""The pipe alone: added latency and processor time, beside the stand-in asked directly.

``python -m bench.pipe`` under an interpreter that has uvicorn, httptools and uvloop (LiteLLM's environment has). Three
processes: a stand-in upstream, the layers as a guest has them (without LiteLLM behind), and this one, the client.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

KEY = "sk-main-0123456789abcdef"
HEADERS = [
    "Host: 127.0.0.1",
    f"x-litellm-api-key: Bearer {KEY}",
    "Authorization: Bearer sk-ant-oat01-benchmark",
    "anthropic-version: 2023-06-01",
    "anthropic-beta: claude-code-20250219,oauth-2025-04-20,interleaved-thinking-2025-05-14",
    "User-Agent: claude-cli/2.1.332 (external, cli)",
    "x-app: cli",
    "x-claude-code-session-id: 5f0c5f0c-0000-4000-8000-000000000000",
    *(f"x-stainless-{name}: value" for name in ("lang", "os", "arch", "runtime", "timeout", "retry-count")),
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Content-Type: application/json",
]


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


USAGE = {"input_tokens": 4242, "cache_read_input_tokens": 17, "output_tokens": 1}
START = event("message_start", message={"model": "claude-opus-9-9", "usage": USAGE})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "some words of an answer"})
STOP = event("message_delta", usage={"output_tokens": 99}) + event("message_stop")


def request(size: int, events: int, pause: float) -> bytes:
    body = {"model": "claude-opus-9-9", "max_tokens": 9, "stream": True, "x": [events, pause]}
    body["messages"] = (
        [{"role": "user", "content": "word " * 100} for _ in range(max(1, size // 540))] if size else []
    )
    text = json.dumps(body).encode()
    head = ["POST /v1/messages?beta=true HTTP/1.1", *HEADERS, f"Content-Length: {len(text)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + text


# ----------------------------------------------------------------------------------------------- processes


class Standin(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = b""
        self.missing = 0

    def data_received(self, data: bytes) -> None:
        if self.missing > 0:
            self.missing -= len(data)
            if self.missing <= 0:
                self.answer()
            return
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if found:
            at = head.lower().index(b"content-length:") + 15
            self.missing = int(head[at : at + 12].split(b"\r\n")[0]) - len(rest)
            place = rest.find(b'"x": [')
            self.what = json.loads(rest[place + 5 : rest.index(b"]", place) + 1]) if place >= 0 else [3, 0]
            self.buffer = b""
            if self.missing <= 0:
                self.answer()

    def answer(self) -> None:
        self.missing = 0
        count, pause = self.what
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nrequest-id: req_1\r\n"
            b"anthropic-ratelimit-unified-status: allowed\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.transport.write(head + self.chunk(START))
        if pause:
            self.rest, self.pause = count, pause
            self.due = asyncio.get_running_loop().time() + pause
            asyncio.get_running_loop().call_at(self.due, self.next)
        else:
            for _ in range(count):
                self.transport.write(self.chunk(DELTA))
            self.transport.write(self.chunk(STOP) + b"0\r\n\r\n")

    @staticmethod
    def chunk(text: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(text), text)

    def next(self) -> None:
        if self.transport.is_closing():
            return
        if not self.rest:
            self.transport.write(self.chunk(STOP) + b"0\r\n\r\n")
            return
        self.rest -= 1
        self.transport.write(self.chunk(DELTA))
        self.due += self.pause
        asyncio.get_running_loop().call_at(self.due, self.next)


async def stand_in() -> None:
    server = await asyncio.get_running_loop().create_server(Standin, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def guest(upstream: str) -> None:
    import uvicorn

    from ocd.guest.layers import boundary
    from ocd.guest.layers import meter as meters
    from ocd.guest.layers import pipe as pipes
    from ocd.guest.layers import upstream as clients
    from ocd.ipc import frames

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    table = pipes.Table(
        {"groups": {"claude-*": {"way": "anthropic", "base": upstream, "model": "claude-*"}}}, {}
    )

    def told(fields: dict[str, Any]) -> None:
        frames.send(ours, {"ev": "request", **fields})
        theirs.recv(65536)

    meter = meters.Meter(told, table.names, KEY, "salt")
    meter.prices = {("claude-opus-9-9", ""): (1e-6, 1e-6, 1e-6, 1e-6)}

    async def nobody(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("nothing of this goes to LiteLLM")

    pipe = pipes.Pipe(nobody, table, clients.Client({}), told, key=KEY)
    app: Any = boundary.wrap(meter.inside(pipe), {"role": "main", "key": KEY}, told, pipe.direct)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    print(sock.getsockname()[1], flush=True)
    options: dict[str, Any] = {
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "log_level": "warning",
    }
    config = uvicorn.Config(meter.outside(app), lifespan="off", access_log=False, backlog=1024, **options)
    uvicorn.Server(config).run(sockets=[sock])


def started(*words: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "bench.pipe", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


# -------------------------------------------------------------------------------------------------- client


def cpu(pid: int) -> float:
    """Seconds of processor time of a process's first thread, to the nanosecond."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


async def one_by_one(port: int, raw: bytes, times: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        writer.write(raw)
        await reader.readuntil(b"0\r\n\r\n")
        taken.append(time.perf_counter() - began)
    writer.close()
    return taken


async def stream(port: int, raw: bytes, seen: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    got = await reader.readuntil(b"0\r\n\r\n")
    seen.append(got.count(b"content_block_delta") // 2)
    writer.close()


def middle(taken: list[float]) -> str:
    ordered = sorted(taken)
    return f"median {statistics.median(ordered) * 1e3:.3f} ms, p99 {ordered[int(len(ordered) * 0.99)] * 1e3:.3f} ms"


async def measure(up: int, port: int, pid: int) -> None:
    for name, size, times in (("small stream", 0, 1500), ("124 KB stream", 124_000, 400)):
        raw = request(size, 5, 0)
        await one_by_one(port, raw, 50)
        direct: list[float] = []
        ours: list[float] = []
        spent = 0.0
        for _ in range(10):
            direct += await one_by_one(up, raw, times // 10)
            before = cpu(pid)
            ours += await one_by_one(port, raw, times // 10)
            spent += cpu(pid) - before
        added = statistics.median(ours) - statistics.median(direct)
        print(f"{name}: direct {middle(direct)}; ours {middle(ours)}; added {added * 1e3:.3f} ms; "
              f"CPU {spent / len(ours) * 1e3:.3f} ms a request")  # fmt: skip
    seen: list[int] = []
    before, began = cpu(pid), time.perf_counter()
    await asyncio.gather(*(stream(port, request(0, 150, 0.02), seen) for _ in range(60)))
    spent = cpu(pid) - before
    print(f"60 streams of 50 events/s: {sum(seen)} of {60 * 150} events in {time.perf_counter() - began:.1f} s; "
          f"CPU {spent / sum(seen) * 1e3:.4f} s per 1,000 events")  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["standin"]:
        import uvloop  # type: ignore[import-not-found,unused-ignore]

        uvloop.run(stand_in())
    elif sys.argv[1:2] == ["guest"]:
        guest(sys.argv[2])
    else:
        up, up_port = started("standin")
        ours, port = started("guest", f"http://127.0.0.1:{up_port}")
        try:
            asyncio.run(measure(up_port, port, ours.pid))
        finally:
            for process in (ours, up):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", os.getcwd())
    main()
