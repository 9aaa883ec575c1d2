"""The data path, side by side in one run: what ocd adds to a request, and what others add.

``python -m bench datapath``: each request goes to all in turn, on connections that stay open, from one client, to one
cheap stand-in (``bench/standin.py``); processor time is that of each proxy's own processes alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import alternatives
from bench.rows import Row, Run, cpu, ms, p99, pss
from tests.helpers.daemon import ROOT, Daemon, free_ports

TOKEN = "sk-ant-oat01-benchmark"
#: others that people use; where one cannot be had on this machine it is passed over with a line
ABSENT = {
    "claude gateway": "starts (client 2.1.332), but serves nobody without PostgreSQL and a sign-in at "
    "an OIDC provider; by hand: 1.0 ms added to a small request, 1.4 ms to a stream, 1.1 ms to 124 KB",
}


#: where it cannot be had: processor time of claudish as a share of LiteLLM's, measured on one machine (0.37 of 6.9 ms
#: for a small request, 0.017 of 0.092 s for a thousand events); the share moves less than the seconds
CLAUDISH_REQUEST, CLAUDISH_STREAM = 0.054, 0.185


@dataclass
class Target:
    """Something that answers ``/v1/messages``; ``pids`` are its own processes."""

    name: str
    port: int
    headers: tuple[str, ...]
    pids: list[int]
    model: str = "claude-opus-9-9"


def request(target: Target, mark: str, stream: bool = False, size: int = 0) -> bytes:
    """One request as Claude Code sends it, as bytes. ``mark`` tells the stand-in how to answer."""
    system = [{"type": "text", "text": "some words of a prompt " * (size // 23)}] if size else []
    body = json.dumps(
        {
            "model": target.model,
            "max_tokens": 64,
            "stream": stream,
            "system": system,
            "messages": [{"role": "user", "content": [{"type": "text", "text": f"hello bench:{mark}"}]}],
        }
    ).encode()
    lines = [
        "POST /v1/messages?beta=true HTTP/1.1",
        f"Host: 127.0.0.1:{target.port}",
        "content-type: application/json",
        "anthropic-version: 2023-06-01",
        "anthropic-beta: claude-code-20250219,oauth-2025-04-20",
        "user-agent: claude-cli/2.1.332 (external, cli)",
        "x-app: cli",
        *target.headers,
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def whole(data: bytes) -> bool:
    """Whether one answer has come to its end."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return len(body) >= int(length.group(1)) if length else body.endswith(b"0\r\n\r\n")


class Client:
    """A blocking connection that stays open, so that the client's own time is small and the same for all."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.sock: socket.socket | None = None

    def ask(self, data: bytes, again: bool = True) -> float:
        """Seconds until the answer's last byte. Raises RuntimeError for anything but a 200."""
        if self.sock is None:
            self.sock = socket.create_connection(("127.0.0.1", self.target.port), 30)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        answer = bytearray()
        try:
            self.sock.sendall(data)
            while not whole(answer):
                piece = self.sock.recv(1 << 18)
                if not piece:
                    raise ConnectionError("closed")
                answer += piece
        except ConnectionError:
            self.close()
            if not again or answer:
                raise RuntimeError(f"{self.target.name} closes the connection") from None
            return self.ask(data, again=False)
        seconds = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{self.target.name}: {bytes(answer[:300])!r}")
        if b"connection: close" in answer[:600].lower():
            self.close()
        return seconds

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def interleaved(targets: list[Target], times: int, **how: Any) -> dict[str, list[float]]:
    """Each request to each target in turn; the first ones warm up and do not count."""
    clients = [Client(target) for target in targets]
    data = {target.name: request(target, "3,0,0,x", **how) for target in targets}
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    try:
        for number in range(times + 20):
            for client in clients if number % 2 else clients[::-1]:
                seconds = client.ask(data[client.target.name])
                if number >= 20:
                    found[client.target.name].append(seconds)
    finally:
        for client in clients:
            client.close()
    return found


def processor(target: Target, times: int) -> float:
    """Processor seconds of one small request, of the target's own processes."""
    client, data = Client(target), request(target, "3,0,0,x")
    try:
        for _ in range(20):
            client.ask(data)
        before = cpu(target.pids)
        for _ in range(times):
            client.ask(data)
        return (cpu(target.pids) - before) / times
    finally:
        client.close()


# ------------------------------------------------------------------------------------------------- streams


class Stream(asyncio.Protocol):
    """One stream's client: counts its events and how late each one is."""

    def __init__(self, data: bytes, done: asyncio.Future[None], late: list[float]) -> None:
        self.data, self.done, self.late = data, done, late
        self.rest = b""
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.data)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self.rest + data
        end = 0
        for found in re.finditer(rb"t=(\d+) ", data):
            self.late.append((now - int(found.group(1))) / 1e9)
            end = found.end()
        # what may go on in the next piece, and never what was counted
        self.rest = data[max(end, len(data) - 40) :]
        if b"message_stop" in data:
            self.ended = True
        if data.endswith(b"0\r\n\r\n") and not self.done.done():
            self.done.set_result(None)
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def streams(target: Target, count: int, texts: int, rate: float) -> tuple[list[float], int]:
    """(how late each event was, how many streams came to their end), ``count`` streams at once."""
    loop = asyncio.get_running_loop()
    late: list[float] = []
    data = request(target, f"{texts},{rate},0,x", stream=True)
    all_: list[Stream] = []
    for _ in range(count):
        stream = Stream(data, loop.create_future(), late)
        all_.append(stream)
        await loop.create_connection(lambda stream=stream: stream, "127.0.0.1", target.port)
    await asyncio.wait_for(asyncio.gather(*(one.done for one in all_)), 60)
    return late, sum(one.ended for one in all_)


# ------------------------------------------------------------------------------------------------- the others


@dataclass
class Upstream:
    """The stand-in's process."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def seen(self) -> dict[str, dict[str, float]]:
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"GET /seen HTTP/1.1\r\n\r\n")
            answer = bytearray()
            while not whole(answer):
                answer += sock.recv(1 << 16)
        found: dict[str, dict[str, float]] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.standin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        yield Upstream(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate(timeout=10)


def tree(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


NGINX = """
daemon off; worker_processes 1; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; client_max_body_size 40m;
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder}; keepalive_requests 100000;
  upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_request_buffering off; }} }}
}}
"""


@contextlib.contextmanager
def nginx(up: Upstream, tools: Path) -> Iterator[Target | str]:
    program = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else "")
    if not program:
        yield "nginx: not on this machine (apt-get install nginx-light)"
        return
    port, folder = free_ports(), tools / "nginx"
    folder.mkdir()
    (folder / "conf").write_text(NGINX.format(folder=folder, upstream=up.port, port=port))
    process = subprocess.Popen(
        [program, "-c", str(folder / "conf"), "-p", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        listening(port)
        yield Target("nginx", port, (f"authorization: Bearer {TOKEN}",), tree(process.pid))
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def claude_code_router(up: Upstream, tools: Path) -> Iterator[Target | str]:
    """It has no way for a plan's login; asked with its own key, its provider in Anthropic's form."""
    folder = Path(os.environ.get("BENCH_TOOLS", str(tools))) / "ccr"
    script = folder / "node_modules" / "@musistudio" / "claude-code-router" / "dist" / "cli.js"
    if not shutil.which("npm"):
        yield "claude-code-router: no npm here"
        return
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(
                [*command, "--prefix", str(folder), "@musistudio/claude-code-router@2"],
                capture_output=True,
                timeout=90,
                check=True,
            )
    if not script.exists():
        yield "claude-code-router: cannot be installed here"
        return
    home, port = tools / "ccr-home", free_ports()
    (home / ".claude-code-router").mkdir(parents=True)
    provider = {
        "name": "bench",
        "api_base_url": f"{up.url}/v1/messages",
        "api_key": "sk-bench",
        "models": ["claude-opus-9-9"],
        "transformer": {"use": ["Anthropic"]},
    }
    (home / ".claude-code-router" / "config.json").write_text(
        json.dumps(
            {
                "PORT": port,
                "HOST": "127.0.0.1",
                "LOG": False,
                "NON_INTERACTIVE_MODE": True,
                "Providers": [provider],
                "Router": {"default": "bench,claude-opus-9-9"},
            }
        )
    )
    process = subprocess.Popen(
        ["node", str(script), "start"],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home,
    )
    try:
        listening(port)
        yield Target("claude-code-router", port, ("authorization: Bearer x",), tree(process.pid))
    except (TimeoutError, RuntimeError) as error:
        yield f"claude-code-router: {error}"
    finally:
        alternatives.end_tree(process.pid)
        process.wait(10)


@contextlib.contextmanager
def claudish(up: Upstream, tools: Path) -> Iterator[Target | str]:
    """Its MiniMax provider speaks Anthropic's form and takes an address; a stand-in for Claude Code waits beside it."""
    folder = Path(os.environ.get("BENCH_TOOLS", str(tools))) / "claudish"
    programs = folder / "node_modules" / ".bin"
    if not shutil.which("npm"):
        yield "claudish: no npm here"
        return
    if not (programs / "claudish").exists():
        folder.mkdir(parents=True, exist_ok=True)
        # It asks for a pre-release that not every registry has, for a store of keys that is not used here.
        (folder / "package.json").write_text('{"private": true, "overrides": {"@1password/sdk": "0.4.0"}}')
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run([*command, "claudish@10", "bun"], capture_output=True, timeout=180, check=True)
    if not (programs / "claudish").exists():
        yield "claudish: cannot be installed here"
        return
    home, port = tools / "claudish-home", free_ports()
    home.mkdir(parents=True)
    (home / "claude").write_text("#!/bin/sh\nexec sleep 3600\n")
    (home / "claude").chmod(0o755)
    env = {
        "PATH": f"{home}:{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "MINIMAX_BASE_URL": up.url,
        "MINIMAX_API_KEY": "sk-bench",
        # Its catalogue and its statistics stay here.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    options = [
        "--model",
        "mm@claude-opus-9-9",
        "--port",
        str(port),
        "--models-skip-update",
        "--log-off",
        "-y",
    ]
    process = subprocess.Popen(
        [str(programs / "claudish"), *options, "hello"],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home,
    )
    try:
        listening(port)
        yield Target("claudish", port, ("authorization: Bearer x",), tree(process.pid))
    except (TimeoutError, RuntimeError) as error:
        yield f"claudish: {error}"
    finally:
        alternatives.end_tree(process.pid)
        process.wait(10)


def listening(port: int, limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {port}")


@contextlib.contextmanager
def bare_bedrock(up: dict[str, str]) -> Iterator[alternatives.Bench]:
    """One ``litellm`` with the bedrock file alone, asked directly."""
    bench = alternatives.Bench(up)
    try:
        bench.popen(alternatives.command(bench.bedrock, bench.port))
        alternatives.wait_alive(bench.port)
        yield bench
    finally:
        bench.close()


# ---------------------------------------------------------------------------------------------------- the rows


def added(found: dict[str, list[float]], name: str) -> tuple[float, float]:
    """What a target adds over the direct way: at the median, and at the 99th percentile over direct's median."""
    direct = statistics.median(found["direct"])
    return statistics.median(found[name]) - direct, p99(found[name]) - p99(found["direct"])


def datapath(run: Run) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(upstream())
        urls = {"anthropic": up.url, "bedrock": up.url}
        d = stack.enter_context(Daemon(upstreams=urls))
        d.start()
        bare = stack.enter_context(alternatives.bare(urls))
        bedrock = stack.enter_context(bare_bedrock(urls))
        token = f"authorization: Bearer {TOKEN}"
        keys = d.keys()

        def members(*names: str) -> list[int]:
            status = d.status()["proxies"]
            return [m["pid"] for name in names for m in status[name]["members"] if m["role"] == "serving"]

        ours = Target("ocd", d.port, (token, f"x-litellm-api-key: Bearer {keys['main']}"), members("main"))
        theirs = [pid for process in bare.started for pid in tree(process.pid)]
        litellm = Target(
            "litellm", bare.port, (token, f"x-litellm-api-key: Bearer {alternatives.KEY}"), theirs
        )
        targets = [Target("direct", up.port, (token,), []), ours, litellm]
        for other in (nginx, claude_code_router, claudish):
            found = stack.enter_context(other(up, run.tools))
            if isinstance(found, str):
                yield Row("not measured", found)
                continue
            try:
                Client(found).ask(request(found, "3,0,0,x"))
                Client(found).ask(request(found, "3,0,0,x", stream=True))
                targets.append(found)
            except (RuntimeError, OSError) as error:
                yield Row("not measured", f"{found.name}: {str(error)[:120]}")
        for name, why in ABSENT.items():
            yield Row("not measured", f"{name}: {why}")
        yield from _latency(run, targets)
        yield from _processor(run, targets)
        yield from _streams(run, targets)
        yield from _haiku(run, d, bedrock, members("main", "bedrock"), keys["main"])
        yield from _memory(d, [*theirs, *(pid for p in bedrock.started for pid in tree(p.pid))])
        yield from _cancelled(ours, up)


def _latency(run: Run, targets: list[Target]) -> Iterator[Row]:
    shapes: tuple[tuple[str, dict[str, Any], int, int], ...] = (
        ("a small request", {}, 600, 120),
        ("a small stream", {"stream": True}, 400, 100),
        ("a body of 124 KB", {"size": 124_000}, 300, 60),
    )
    for what, how, full, quick in shapes:
        found = interleaved(targets, run.times(full, quick), **how)
        middle, tail = added(found, "ocd")
        others = [
            f"{target.name} {ms(added(found, target.name)[0])} / {ms(added(found, target.name)[1])}"
            for target in targets
            if target.name not in ("direct", "ocd")
        ]
        yield Row(
            f"added to {what} on the plan's leg (median / p99)",
            f"{ms(middle)} / {ms(tail)}",
            "<= 1.2 ms / <= 4 ms",
            middle <= 0.0012 and tail <= 0.004,
            f"direct {ms(statistics.median(found['direct']))}; added by " + ", ".join(others),
        )


def at_most(spent: dict[str, float], share: float) -> tuple[str, bool]:
    """What ours may spend, and whether it does: claudish's of the same run, else its share of LiteLLM's."""
    if "claudish" in spent:
        return "<= claudish's", spent["ocd"] <= spent["claudish"]
    return f"<= {share:.3f} x litellm (claudish)", spent["ocd"] <= share * spent["litellm"]


def _processor(run: Run, targets: list[Target]) -> Iterator[Row]:
    found = {t.name: processor(t, run.times(300, 80)) for t in targets if t.pids}
    yield Row(
        "processor time of a small request",
        ms(found["ocd"]),
        *at_most(found, CLAUDISH_REQUEST),
        ", ".join(f"{name} {seconds * 1000:.2f} ms" for name, seconds in found.items() if name != "ocd"),
    )


def _streams(run: Run, targets: list[Target]) -> Iterator[Row]:
    spent: dict[str, float] = {}
    for target in targets:
        if target.pids:
            asyncio.run(streams(target, 10, 17, 0))
            before = cpu(target.pids)
            late, ended = asyncio.run(streams(target, 60, 100, 50))
            spent[target.name] = (cpu(target.pids) - before) / max(1, len(late)) * 1000
            if target.name == "ocd":
                yield Row(
                    "60 streams of 50 events a second: delay of an event (median / p99)",
                    f"{ms(statistics.median(late))} / {ms(p99(late))}, {len(late)} of 6000 events, {ended} of 60 whole",
                    "<= 20 ms at p99, all",
                    p99(late) <= 0.020 and len(late) == 6000 and ended == 60,
                )
    yield Row(
        "processor time of 1,000 streamed events, 60 streams",
        f"{spent['ocd']:.3f} s",
        *at_most(spent, CLAUDISH_STREAM),
        ", ".join(f"{name} {seconds:.3f} s" for name, seconds in spent.items() if name != "ocd"),
    )


def _haiku(run: Run, d: Daemon, bedrock: alternatives.Bench, pids: list[int], key: str) -> Iterator[Row]:
    token = f"authorization: Bearer {TOKEN}"
    both = Target("ocd", d.port, (token, f"x-litellm-api-key: Bearer {key}"), pids, "qwen-3-coder")
    alone = Target(
        "litellm",
        bedrock.port,
        (f"x-litellm-api-key: Bearer {alternatives.KEY}",),
        [pid for p in bedrock.started for pid in tree(p.pid)],
        "qwen-3-coder",
    )
    for what, stream in (("plain", False), ("stream", True)):
        found = interleaved([both, alone], run.times(200, 50), stream=stream)
        ours, theirs = (statistics.median(found[name]) for name in ("ocd", "litellm"))
        yield Row(
            f"haiku end to end, {what}",
            f"{ms(ours)}, {ours / theirs:.2f} x one bare litellm asked directly",
            "<= 1.10 x",
            ours / theirs <= 1.10,
            f"bare litellm {ms(theirs)}; processor time {ms(processor(both, 50))} / {ms(processor(alone, 50))}",
        )


def _memory(d: Daemon, bare: list[int]) -> Iterator[Row]:
    ours, theirs = pss(tree(d.keeper)), pss(bare)
    yield Row(
        "memory (PSS) in use after traffic on both legs, shipped defaults",
        f"{ours:.0f} MB, {ours / theirs:.2f} x two bare litellm",
        "<= 0.80 x",
        ours / theirs <= 0.80,
        f"two bare litellm {theirs:.0f} MB",
    )


def _cancelled(ours: Target, up: Upstream) -> Iterator[Row]:
    """The client goes; how long until the stand-in's connection is closed."""
    worst, said = 0.0, []
    legs = (("plan", "claude-opus-9-9"), ("haiku", "qwen-3-coder"))
    moments = (
        ("before the first byte", True, "5,1,4"),
        ("mid-stream", True, "40,10,0"),
        ("plain", False, "1,0,4"),
    )
    for leg, model in legs:
        target = Target(ours.name, ours.port, ours.headers, [], model)
        for number, (moment, stream, mark) in enumerate(moments):
            name = f"gone{leg}{number}"
            with socket.create_connection(("127.0.0.1", target.port), 30) as sock:
                sock.sendall(request(target, f"{mark},{name}", stream=stream))
                end = time.monotonic() + 10
                while name not in up.seen()["arrived"] and time.monotonic() < end:
                    time.sleep(0.01)
                time.sleep(0.5)
            gone = time.monotonic()
            seen = up.seen()
            while time.monotonic() < gone + 4 and name not in seen["lost"] and name not in seen["done"]:
                time.sleep(0.02)
                seen = up.seen()
            late = seen["lost"][name] - gone if name in seen["lost"] else float("inf")
            worst = max(worst, late)
            said.append(f"{leg}, {moment} {'never' if late == float('inf') else ms(max(0.0, late))}")
    yield Row(
        "upstream cancelled after the client goes, the worst of six",
        "never" if worst == float("inf") else ms(worst),
        "<= 100 ms",
        worst <= 0.1,
        "; ".join(said),
    )
