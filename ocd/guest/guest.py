"""A process under LiteLLM's own interpreter: imports LiteLLM once, forks guests, or is one guest itself.

Run by path, never imported by the daemon: ``python -I guest.py forkserver KEEPER_PID FD`` or
``python -I guest.py spawn KEEPER_PID FD``. It uses the standard library and what LiteLLM brings.

*forkserver* reads ``{"op": "fork", "id": n}`` with three descriptors (control socket, stdout, stderr) and answers
``{"op": "forked", "id": n, "pid": p}``. The guest is forked twice, so that it becomes the keeper's child: one process
reaps everything, and this one may die without taking a guest along. It holds no secret: what a guest needs to know
comes over the guest's own control socket after the fork.

*guest*: waits for ``boot`` (environment, arguments, private socket), runs LiteLLM's official command with
``uvicorn.run`` replaced, so that configuration, callbacks and database set-up are LiteLLM's own, and serves the
private socket. ``accept`` brings the shared listening sockets, ``drain`` gives them back and waits for the streams.
"""

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))


def _sibling(name: str) -> Any:
    """Load a module that lies beside this file, without putting our folder on LiteLLM's import path."""
    full = f"_ocd_guest_{name}"
    if full in sys.modules:
        return sys.modules[full]
    spec = importlib.util.spec_from_file_location(full, os.path.join(HERE, f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


frames = _sibling("frames")
lifeline = _sibling("lifeline")

#: What LiteLLM reads while it is being imported (FACTS): set before the import, for every guest alike.
IMPORT_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "NO_OPENAPI": "True",
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "True",
}

#: What LiteLLM imports in every process while its server starts, measured on the pinned version: done once, before the
#: fork, it takes no longer and all guests share it. A name that another version lacks is passed over.
START_UP = (
    "litellm.llms.anthropic.completion.transformation",
    "litellm.llms.bedrock.passthrough.transformation",
    "litellm.llms.edenai.chat.transformation",
    "litellm.llms.edenai.common_utils",
    "litellm.llms.fal_ai.chat.transformation",
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.proxy._experimental.mcp_server.faults.classify",
    "litellm.proxy._experimental.mcp_server.faults.render_oauth",
    "litellm.proxy._experimental.mcp_server.faults.traversal",
    "litellm.proxy._experimental.mcp_server.faults.types",
    "litellm.proxy._experimental.mcp_server.semantic_tool_filter",
    "litellm.proxy._experimental.mcp_server.utils",
    "litellm.proxy.admin_mcp",
    "litellm.proxy.common_utils.banner",
    "litellm.proxy.hooks.mcp_semantic_filter.hook",
    "litellm.proxy.pass_through_endpoints.common_utils",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    "litellm.proxy.pass_through_endpoints.passthrough_endpoint_router",
    "litellm.proxy.policy_engine.init_policies",
    "litellm.sandbox.sandbox_tools",
    "litellm.types.passthrough_endpoints.vertex_ai",
)
#: What LiteLLM imports when its first requests arrive, measured on the pinned version: imported before the fork, it
#: costs no request any time and all guests share the memory. A name that another version lacks is passed over.
#: Left out: litellm.litellm_core_utils.default_encoding, a tokenizer's table, 40 MB for 77 ms.
FIRST_REQUEST = (
    "litellm.proxy.anthropic_endpoints.endpoints",
    "litellm.proxy.guardrails.guardrail_helpers",
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    "litellm.integrations.websearch_interception.tools",
    "litellm.integrations.shadow_eval_logger",
    "litellm.litellm_core_utils.streaming_chunk_builder_utils",
    "litellm.llms.anthropic.pass_through.messages.streaming_iterator",
    "litellm.llms.bedrock.chat.converse_handler",
    "openai.resources.beta.assistants",
    "openai.resources.chat.completions.completions",
    "anyio._backends._asyncio",
    "boto3",
    "botocore.auth",
    "botocore.eventstream",
)
#: The forkserver goes on importing when nobody has asked for a fork for so long (seconds).
QUIET = 1.0

EX_CONFIG = 78
EX_UNAVAILABLE = 69

#: A listening connection on which no request came is closed this many seconds after the drain began.
SILENT_CONNECTION = 5.0
#: A connection that the kernel handed us just before we stopped listening shows up a few loop turns later.
ACCEPT_SETTLE = 0.2


class Output:
    """Standard output that never blocks and never fails: what the pipe does not take is counted and dropped.

    A proxy must not stop because nobody reads its log, the reader is slow, or the reader is gone.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.dropped = 0
        os.set_blocking(fd, False)

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            if self.dropped and data:
                note = f"[ocd: {self.dropped} bytes of output were dropped here]\n".encode()
                if os.write(self.fd, note) == len(note):
                    self.dropped = 0
            done = os.write(self.fd, data) if data else 0
            self.dropped += len(data) - done
            return len(text)
        self.dropped += len(data)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.fd

    @property
    def buffer(self) -> "Output.Bytes":
        return Output.Bytes(self)

    class Bytes:
        def __init__(self, text: "Output") -> None:
            self.text = text

        def write(self, data: bytes) -> int:
            self.text.write(bytes(data).decode("utf-8", "backslashreplace"))
            return len(data)

        def flush(self) -> None:
            pass


def import_litellm() -> str:
    """Import LiteLLM's proxy and what its first request would import; returns its version."""
    # By name, because nothing here uses them: what counts is that they are loaded.
    importlib.import_module("litellm.proxy.proxy_cli")
    importlib.import_module("litellm.proxy.proxy_server")
    importlib.import_module("uvicorn")
    # The command's own imports, which would otherwise happen once per guest.
    for name in (
        "uvicorn.protocols.http.h11_impl",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto",
        "uvicorn.lifespan.on",
        "uvicorn.loops.uvloop",
        "litellm.litellm_core_utils.litellm_logging",
        "litellm.llms.anthropic.chat.transformation",
        *START_UP,
    ):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    from importlib.metadata import version

    return version("litellm")


def prepare_routes() -> None:
    """Have LiteLLM's application prepare its routes, which it otherwise does when its first request arrives.

    FastAPI does that on the first match of each of several hundred routes: 0.3 s and 16 MB, here once for all.
    """
    from litellm.proxy.proxy_server import app

    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}
    for route in app.router.routes:
        route.matches(scope)


def give_back() -> None:
    """Return free memory to the system (malloc_trim(3), glibc): a fork shares pages, not what is free in them."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


# ---------------------------------------------------------------------------------------------------- guest


class Guest:
    """One LiteLLM process's side of the conversation with the supervisor."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.reader = frames.Reader(control)
        self.spec: dict[str, Any] = {}
        self.phase = "booting"
        self.counters: dict[str, int] = {}
        self.meter: Any = None

    def tell(self, event: str, **fields: Any) -> None:
        """Report; a supervisor that is away finds the message in the socket's buffer when it is back."""
        with contextlib.suppress(OSError):
            frames.send(self.control, {"ev": event, **fields})

    def tell_request(self, fields: dict[str, Any]) -> None:
        """Report an answered request, unless nobody takes it just now: no request waits for its own figures."""
        if select.select([], [self.control], [], 0)[1]:
            self.tell("request", **fields)
        else:
            self.counters["untold"] = self.counters.get("untold", 0) + 1

    def wait_for_boot(self) -> dict[str, Any]:
        """Block until the supervisor says what to serve. Exits when both keeper and supervisor are gone."""
        self.control.setblocking(True)
        while True:
            for message, fds in self.reader.feed():
                for fd in fds:
                    os.close(fd)
                if message.get("op") == "boot":
                    return message
                if message.get("op") == "status":
                    self.status()
            if self.reader.eof:
                os._exit(EX_UNAVAILABLE)

    def status(self, connections: int = 0, requests: int = 0) -> None:
        self.tell(
            "status",
            phase=self.phase,
            pid=os.getpid(),
            connections=connections,
            requests=requests,
            in_flight=self.meter.now if self.meter else 0,
            counters=self.counters,
        )


def serve(control: socket.socket) -> None:
    """Be a guest: from the boot message to the end of the process. Never returns."""
    guest = Guest(control)
    guest.tell("waiting", pid=os.getpid())
    spec = guest.wait_for_boot()
    guest.spec = spec
    os.environ.clear()
    os.environ.update(IMPORT_ENVIRONMENT)
    os.environ.update(spec["env"])
    time.tzset()
    with contextlib.suppress(OSError):
        os.chdir(spec["cwd"])
    for folder in reversed(spec.get("path", [])):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    code = 1
    try:
        code = run_command(guest)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        os.unlink(spec["socket"])
    sys.stdout.flush()
    os._exit(code)


def run_command(guest: Guest) -> int:
    """LiteLLM's official command with its last step, ``uvicorn.run``, replaced."""
    import uvicorn
    from litellm.proxy.proxy_cli import run_server

    _sibling("discovery").install()
    meters = _sibling("meter")
    faithful = None
    if guest.spec.get("fidelity"):
        keeping = _sibling("fidelity")
        faithful = keeping.Fidelity(keeping.untouched(guest.spec["config"]))
    meter = guest.meter = meters.Meter(guest.tell_request, faithful)
    meter.install(meters.own_hop())

    def on_fallback(event: dict[str, Any]) -> None:
        exchange = meters.current.get()
        if exchange is not None and event.get("kind") == "fallback":
            exchange.fallback = str(event.get("where", ""))
        guest.tell("report", **event)

    _sibling("fallbacks").install(on_fallback, guest.spec["config"])
    if os.environ.get("OCD_PROXY") == "bedrock":
        _sibling("signing").install(meters.signing_failed)
    private = private_socket(guest.spec["socket"])
    server_class = make_server_class()

    def run(app: Any, **options: Any) -> None:
        for name in ("host", "port", "workers", "uds", "fd", "reload"):
            options.pop(name, None)
        if isinstance(app, str):
            module, _, attribute = app.partition(":")
            app = getattr(importlib.import_module(module), attribute)
        app = meter.inside(app)
        policy = guest.spec.get("policy")
        if policy:
            app = _sibling("boundary").wrap(app, policy, lambda event: guest.tell("report", **event))
        config = uvicorn.Config(answer_liveness(meter.outside(app)), **options)
        server_class(config, guest).run(sockets=[private])

    uvicorn.run = run  # type: ignore[assignment]
    # 4000 would make the command look for another port when it sees ours taken, by us (FACTS): any other number.
    arguments = [
        "--config",
        guest.spec["config"],
        "--host",
        "127.0.0.1",
        "--port",
        "1",
        *guest.spec.get("args", []),
    ]
    sys.argv = ["litellm", *arguments]
    run_server.main(arguments, standalone_mode=False)
    return 0


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
        else:
            await app(scope, receive, send)

    return answering


def private_socket(path: str) -> socket.socket:
    """Listen on the guest's own UNIX socket, mode 0600."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    private = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        private.bind(path)
    finally:
        os.umask(old)
    private.listen(16)
    private.setblocking(False)
    return private


def make_server_class() -> Any:
    """The server class; uvicorn exists only in LiteLLM's environment, so the class is made when it is needed."""
    import asyncio

    import uvicorn

    class GuestServer(uvicorn.Server):
        """uvicorn's server with shared listeners that come late and go early."""

        def __init__(self, config: uvicorn.Config, guest: Guest) -> None:
            super().__init__(config)
            self.guest = guest
            self.shared: list[Any] = []
            self.work: set[asyncio.Task[None]] = set()

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
            warm = self.guest.spec.get("warm")
            if warm:
                started = time.monotonic()
                for request in warm:
                    with contextlib.suppress(Exception):
                        await asyncio.wait_for(private_request(self.guest.spec["socket"], request), 20)
                self.guest.counters["warm_ms"] = int((time.monotonic() - started) * 1000)
            gc.collect()
            give_back()
            gc.freeze()
            if self.guest.phase == "booting":
                self.guest.phase = "armed"
                self.guest.tell("armed", warm_ms=self.guest.counters.get("warm_ms", 0))

        def on_control(self) -> None:
            for message, fds in self.guest.reader.feed():
                op = message.get("op")
                if op == "accept":
                    self.start(self.accept(fds))
                    continue
                for fd in fds:
                    os.close(fd)
                if op == "drain":
                    self.start(self.drain(float(message.get("limit", 600))))
                elif op == "release":
                    self.release(int(message["port"]))
                elif op == "rebind":
                    self.start(self.rebind())
                elif op == "status":
                    self.guest.status(self.client_connections(), self.server_state.total_requests)
            if self.guest.reader.eof:
                # The keeper's end and the supervisor's are gone: nobody looks after us any more.
                os._exit(EX_UNAVAILABLE)

        def client_connections(self) -> int:
            return sum(1 for one in self.server_state.connections if getattr(one, "client", None))

        async def accept(self, fds: list[int]) -> None:
            """Serve the shared listening sockets, those of an earlier ``accept`` too (a change of ports)."""
            if self.guest.phase == "draining":
                for fd in fds:
                    os.close(fd)
                return
            loop = asyncio.get_running_loop()
            for fd in fds:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                server = await loop.create_server(self.protocol, sock=sock, backlog=self.config.backlog)
                self.shared.append(server)
                self.servers.append(server)
            self.guest.phase = "accepting"
            self.guest.tell("accepting")

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
                private = private_socket(self.guest.spec["socket"])
                server = await asyncio.get_running_loop().create_server(self.protocol, sock=private)
                self.servers.append(server)

        def protocol(self) -> Any:
            self.guest.counters["accepted"] = self.guest.counters.get("accepted", 0) + 1
            return self.config.http_protocol_class(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        async def drain(self, limit: float) -> None:
            """Stop accepting, let what runs finish (at most ``limit`` seconds), then end.

            Idle keep-alive connections are not cut: a client may be sending on one right now. Their next answer
            carries ``Connection: close``, and uvicorn's keep-alive timer closes the silent ones.
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
            began = time.monotonic()
            await asyncio.sleep(ACCEPT_SETTLE)
            while self.client_connections() and time.monotonic() - began < limit:
                if time.monotonic() - began > SILENT_CONNECTION:
                    for connection in list(self.server_state.connections):
                        if getattr(connection, "client", None) and getattr(connection, "cycle", True) is None:
                            connection.transport.close()
                await asyncio.sleep(0.05)
            self.guest.tell(
                "drained", left=self.client_connections(), seconds=round(time.monotonic() - began, 3)
            )
            self.config.timeout_graceful_shutdown = 1
            self.should_exit = True

    return GuestServer


async def private_request(path: str, request: dict[str, Any]) -> int:
    """One request to our own private socket; returns the status code."""
    import asyncio
    import json

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


# ------------------------------------------------------------------------------------------------ processes


def take_over_streams(out: int, err: int) -> None:
    """Make two pipes our standard output and error."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    for fd in (1, 2):
        os.set_inheritable(fd, True)
        os.set_blocking(fd, False)


def forkserver(keeper: int, link: socket.socket) -> None:
    """Import LiteLLM, then fork a guest for each request, until the keeper goes away."""
    reader = frames.Reader(link)
    started = time.monotonic()
    frames.send(link, {"op": "importing"})
    # An import makes hardly any garbage, and looking for it again and again takes a tenth of the time.
    gc.disable()
    version = import_litellm()
    give_back()
    # What is alive now is shared by all guests; without this the collector would touch, and so copy, every page.
    gc.freeze()
    gc.enable()
    frames.send(
        link, {"op": "host-ready", "version": version, "seconds": round(time.monotonic() - started, 3)}
    )
    cold: list[Callable[[], Any]] = []
    steps = 0
    while not reader.eof:
        if cold and not select.select([link], [], [], QUIET if len(cold) == steps else 0)[0]:
            # Nobody waits: get on with what the first requests will need. Serving comes first.
            with contextlib.suppress(Exception):
                cold.pop(0)()
            if not cold:
                gc.collect()
                gc.freeze()
                frames.send(link, {"op": "host-warm", "seconds": round(time.monotonic() - started, 3)})
            continue
        for message, fds in reader.feed():
            if message.get("op") == "warm":
                # There will be spares. Without any, these modules would only cost memory.
                cold = [functools.partial(importlib.import_module, name) for name in FIRST_REQUEST]
                cold.append(prepare_routes)
                steps = len(cold)
            if message.get("op") != "fork" or len(fds) != 3:
                for fd in fds:
                    os.close(fd)
                continue
            pid = fork_guest(keeper, link, fds)
            for fd in fds:
                os.close(fd)
            frames.send(link, {"op": "forked", "id": message.get("id"), "pid": pid})
    os._exit(0)


def fork_guest(keeper: int, link: socket.socket, fds: list[int]) -> int:
    """Fork twice; returns the guest's pid. The guest's parent becomes the keeper (a subreaper)."""
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            pid = os.fork()
            if pid:
                os.write(tell, str(pid).encode())
                os._exit(0)
            os.close(told)
            os.close(tell)
            link.close()
            os.setsid()
            become_guest(keeper, *fds)
        finally:
            os._exit(70)
    os.close(tell)
    text = b""
    while chunk := os.read(told, 32):
        text += chunk
    os.close(told)
    os.waitpid(middle, 0)
    return int(text or b"0")


def become_guest(keeper: int, control: int, out: int, err: int) -> None:
    """In the forked child: streams, death signal, fresh randomness, then serve."""
    take_over_streams(out, err)
    os.close(out)
    os.close(err)
    if not lifeline.die_with_parent(keeper):
        os._exit(EX_UNAVAILABLE)
    import random

    random.seed()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    import faulthandler

    faulthandler.enable(file=2)
    serve(socket.socket(fileno=control))


def main() -> None:
    role, keeper, fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if not lifeline.die_with_parent(keeper, patience=0.5):
        os._exit(EX_UNAVAILABLE)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, value in IMPORT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.stdout = Output(1)  # type: ignore[assignment]
    sys.stderr = Output(2)  # type: ignore[assignment]
    link = socket.socket(fileno=fd)
    try:
        if role == "forkserver":
            forkserver(keeper, link)
        import faulthandler

        faulthandler.enable(file=2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        frames.send(link, {"ev": "importing", "pid": os.getpid()})
        frames.send(link, {"ev": "version", "version": import_litellm()})
    except ImportError as error:
        print(f"LiteLLM cannot be imported by {sys.executable}: {error}", file=sys.stderr)
        os._exit(EX_CONFIG)
    serve(link)


if __name__ == "__main__":
    main()
