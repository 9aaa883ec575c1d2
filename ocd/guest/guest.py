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
import os
import select
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
#: Where our interpreter's modules are. Importing LiteLLM adds the current folder and others to sys.path.
STARTED_WITH = tuple(sys.path)


def _own_package() -> None:
    """Make ``ocd.guest`` and ``ocd.ipc`` importable without putting our folder on LiteLLM's import path."""
    if "ocd" not in sys.modules:
        package = types.ModuleType("ocd")
        package.__path__ = [os.path.dirname(HERE)]
        sys.modules["ocd"] = package


_own_package()
# Only now can these be found: this file is run by path.
from ocd.guest import confine, preload  # noqa: E402
from ocd.ipc import frames, parent_death, sockets  # noqa: E402


def _sibling(name: str) -> Any:
    """A module of ``ocd.guest`` that is loaded when it is needed, after LiteLLM."""
    return importlib.import_module(f"ocd.guest.{name}")


#: The forkserver goes on importing when nobody has asked for a fork for so long (seconds).
QUIET = 1.0

EX_CONFIG = 78
EX_UNAVAILABLE = 69


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
                    boot: dict[str, Any] = message
                    return boot
                if message.get("op") == "status":
                    self.status()
            self.end_if_abandoned()

    def end_if_abandoned(self) -> None:
        """The keeper's end and the supervisor's are gone: nobody looks after us any more."""
        if self.reader.eof:
            os._exit(EX_UNAVAILABLE)

    def private_socket(self) -> socket.socket:
        """Listen where the supervisor asks whether we live, and nobody else. Raises OSError."""
        private: socket.socket = sockets.listen_unix(self.spec["socket"], 16)
        return private

    @staticmethod
    def settle() -> None:
        """What is alive now stays: the collector need not touch it again, and the system gets what is free."""
        gc.collect()
        preload.give_back()
        gc.freeze()

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
    os.environ.update(preload.IMPORT_ENVIRONMENT)
    os.environ.update(spec["env"])
    time.tzset()
    with contextlib.suppress(OSError):
        os.makedirs(os.environ["HOME"], mode=0o700, exist_ok=True)
    with contextlib.suppress(OSError):
        os.chdir(spec["cwd"])
    for folder in reversed(spec.get("path", [])):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    code = 1
    try:
        if spec.get("confine"):
            guest.tell("confined", text=confine.confine(own_folders(spec["confine"])))
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


def own_folders(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan of what this process may reach, with the folders that its own code is in."""
    code = [sys.prefix, sys.base_prefix, os.path.dirname(HERE), *STARTED_WITH]
    return {**plan, "read": [*plan["read"], *(folder for folder in code if os.path.isabs(folder))]}


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
    server = _sibling("server")
    private = guest.private_socket()

    def run(app: Any, **options: Any) -> None:
        for name in ("host", "port", "workers", "uds", "fd", "reload"):
            options.pop(name, None)
        if isinstance(app, str):
            module, _, attribute = app.partition(":")
            app = getattr(importlib.import_module(module), attribute)
        app = meter.inside(app)
        if "contract" in guest.spec:
            app = _sibling("layers.contract").wrap(app, guest.spec["contract"])
        policy = guest.spec.get("policy")
        if policy:
            app = _sibling("layers.boundary").wrap(app, policy, lambda event: guest.tell("report", **event))
        config = uvicorn.Config(server.answer_liveness(meter.outside(app)), **options)
        server.GuestServer(config, guest).run(sockets=[private])

    uvicorn.run = run
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
    version = preload.import_litellm()
    preload.give_back()
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
                cold = [functools.partial(importlib.import_module, name) for name in preload.FIRST_REQUEST]
                cold.append(preload.prepare_routes)
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
    if not parent_death.die_with_parent(keeper):
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
    if not parent_death.die_with_parent(keeper, patience=0.5):
        os._exit(EX_UNAVAILABLE)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, value in preload.IMPORT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.stdout = Output(1)
    sys.stderr = Output(2)
    link = socket.socket(fileno=fd)
    try:
        if role == "forkserver":
            forkserver(keeper, link)
        import faulthandler

        faulthandler.enable(file=2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        frames.send(link, {"ev": "importing", "pid": os.getpid()})
        frames.send(link, {"ev": "version", "version": preload.import_litellm()})
    except ImportError as error:
        print(f"LiteLLM cannot be imported by {sys.executable}: {error}", file=sys.stderr)
        os._exit(EX_CONFIG)
    serve(link)


if __name__ == "__main__":
    main()
