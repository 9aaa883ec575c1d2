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
import re
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
from ocd.ipc import frames, messages, parent_death, sockets, title  # noqa: E402


def _sibling(name: str) -> Any:
    """A module of ``ocd.guest`` that is loaded when it is needed, after LiteLLM."""
    return importlib.import_module(f"ocd.guest.{name}")


#: The forkserver goes on importing when nobody has asked for a fork for so long (seconds).
QUIET = 1.0

#: variables whose values no trace may hold
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
#: seconds that the last exchanges of a trace may take to be written
TRACE_PATIENCE = 5.0

EX_CONFIG = 78
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70


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
        self.reader = frames.Reader(control, self.misunderstood)
        self.spec: dict[str, Any] = {}
        self.phase = "booting"
        self.counters: dict[str, int] = {}
        self.meter: Any = None
        self.pipe: Any = None
        self.trace: Any = None
        self.reports: Any = None

    @staticmethod
    def misunderstood(text: object) -> None:
        """Reported where people look, and passed over: a supervisor of another version may say more than we know."""
        print(f"ocd: a message was not understood: {text}", file=sys.stderr)

    def hear(self) -> list[tuple[dict[str, Any], list[int]]]:
        """The messages that have arrived and fit."""
        found = []
        for message, fds in self.reader.feed():
            try:
                messages.to_guest(message)
            except messages.Misfit as error:
                self.misunderstood(error)
                for fd in fds:
                    os.close(fd)
                continue
            found.append((message, fds))
        return found

    def tell(self, event: str, **fields: Any) -> None:
        """Report; a supervisor that is away finds the message in the socket's buffer when it is back."""
        with contextlib.suppress(OSError):
            frames.send(self.control, {"ev": event, **fields})

    def wait_for_boot(self) -> dict[str, Any]:
        """Block until the supervisor says what to serve. Exits when both keeper and supervisor are gone."""
        self.control.setblocking(True)
        while True:
            for message, fds in self.hear():
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

    def status(self, connections: int = 0, requests: int = 0, **more: Any) -> None:
        """``more``: the ports that it accepts on, and while it drains how much of the limit is used up (quiet)."""
        self.tell(
            "status",
            **more,
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
    spec = guest.spec
    pipes, meters, upstream = (_sibling(f"layers.{name}") for name in ("pipe", "meter", "upstream"))
    table = pipes.Table(spec.get("pipe") or {}, os.environ)
    policy = spec.get("policy") or {}
    reports = guest.reports = _sibling("reports").Reports(
        lambda fields: guest.tell("request", **fields), lambda: frames.has_room(guest.control)
    )
    meter = guest.meter = meters.Meter(reports.add, table.names, policy.get("key", ""), spec.get("salt", ""))
    trace = guest.trace = _sibling("trace").Trace(
        os.environ.get("OCD_PROXY", "main"),
        [policy.get("key", ""), *(value for name, value in os.environ.items() if SECRET.search(name))],
        lambda why: guest.tell("report", kind="trace-failed", where=why),
    )
    trace.take(spec.get("trace") or {})
    server = _sibling("server")
    door = _sibling("door").Door()
    private = guest.private_socket()

    def make_pipe(app: Any) -> Any:
        try:
            client = upstream.Client(dict(os.environ))
        except ValueError as error:
            print(f"[proxies.main.env]: {error}", file=sys.stderr)
            raise SystemExit(EX_CONFIG) from None
        pipe = pipes.Pipe(
            app,
            table,
            client,
            lambda event: guest.tell("report", **event),
            key=policy.get("key", ""),
            hop_key=os.environ.get("OCD_BEDROCK_KEY", ""),
        )
        pipe.spill.take(spec.get("spill") or {})
        pipe.budget.take(spec.get("budget") or {})
        return pipe

    def run(app: Any, **options: Any) -> None:
        title.show(f"ocd: {os.environ.get('OCD_PROXY', 'proxy')}")
        for name in ("host", "port", "workers", "uds", "fd", "reload"):
            options.pop(name, None)
        if isinstance(app, str):
            module, _, attribute = app.partition(":")
            app = getattr(importlib.import_module(module), attribute)
        pipe = None
        if os.environ.get("OCD_PROXY") == "main":
            app = pipe = guest.pipe = make_pipe(app)
        app = meter.inside(app)
        if "contract" in guest.spec:
            app = _sibling("layers.contract").wrap(app, guest.spec["contract"])
        if policy:
            app = _sibling("layers.boundary").wrap(
                app,
                policy,
                lambda event: guest.tell("report", **event),
                direct=pipe and pipe.direct,
                known=door.known,
            )
        # An upstream's own Date and Server pass; a second one beside them would not be what was sent.
        options.update(server_header=False, date_header=False)
        # A client of this machine is who it is, whatever X-Forwarded-For says. What was asked is told by the meter.
        options.update(proxy_headers=False, access_log=False)
        config = uvicorn.Config(server.answer_liveness(trace.outside(meter.outside(app))), **options)
        server.GuestServer(config, guest, door).run(sockets=[private])
        trace.finish(TRACE_PATIENCE)

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
    reader = frames.Reader(link, Guest.misunderstood)
    started = time.monotonic()

    def tell(message: messages.FromForkserver) -> None:
        frames.send(link, messages.wire(message))

    tell(messages.Importing())
    # An import makes hardly any garbage, and looking for it again and again takes a tenth of the time.
    gc.disable()
    version = preload.import_litellm()
    rehearsal = _sibling("rehearsal")
    rehearsal.own()
    preload.give_back()
    # What is alive now is shared by all guests; without this the collector would touch, and so copy, every page.
    gc.freeze()
    gc.enable()
    tell(messages.HostReady(version, round(time.monotonic() - started, 3)))
    cold: list[Callable[[], Any]] = []
    steps = 0
    poll = select.poll()
    poll.register(link, select.POLLIN)
    while not reader.eof:
        if cold and not poll.poll(QUIET * 1000 if len(cold) == steps else 0):
            # Nobody waits: get on with what the first requests will need. Serving comes first.
            with contextlib.suppress(Exception):
                cold.pop(0)()
            if not cold:
                gc.collect()
                preload.give_back()
                gc.freeze()
                tell(messages.HostWarm(round(time.monotonic() - started, 3)))
            continue
        for message, fds in reader.feed():
            try:
                order = messages.to_forkserver(message)
            except messages.Misfit as error:
                Guest.misunderstood(error)
                order = None
            if isinstance(order, messages.Warm):
                # There will be spares. Without any, these modules would only cost memory.
                cold = [functools.partial(importlib.import_module, name) for name in preload.FIRST_REQUEST]
                cold += [preload.prepare_routes, *rehearsal.steps()]
                steps = len(cold)
            answer = fork_guest(keeper, link, order.id, fds) if isinstance(order, messages.Fork) else None
            for fd in fds:
                os.close(fd)
            if answer is not None:
                tell(answer)
    os._exit(0)


def fork_guest(keeper: int, link: socket.socket, number: int, fds: list[int]) -> messages.Forked:
    """Fork twice, so that the guest's parent becomes the keeper (a subreaper); returns the answer to the order.

    A fork that fails (no memory, too many processes, no descriptors) is an answer with the reason, and its traceback
    is in our output.
    """
    if len(fds) != 3:
        return messages.Forked(number, 0, "its sockets did not arrive: the forkserver is out of descriptors")
    try:
        pid = _fork_twice(keeper, link, fds)
    except OSError as error:
        traceback.print_exc()
        return messages.Forked(number, 0, f"fork: {error.strerror or error}")
    return messages.Forked(number, pid, "" if pid else "the second fork failed")


def _fork_twice(keeper: int, link: socket.socket, fds: list[int]) -> int:
    """The guest's pid, 0 when the fork in the middle failed. Raises OSError when the first one does."""
    told, tell = os.pipe()
    try:
        middle = os.fork()
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    if middle == 0:
        code = EX_SOFTWARE
        try:
            pid = os.fork()
            if pid:
                os.write(tell, str(pid).encode())
                code = 0
            else:
                os.close(told)
                os.close(tell)
                link.close()
                os.setsid()
                become_guest(keeper, *fds)
        except BaseException:
            # Nobody else would ever say why.
            traceback.print_exc()
        finally:
            os._exit(code)
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
        title.show("ocd: litellm")
        if role == "forkserver":
            forkserver(keeper, link)
        import faulthandler

        faulthandler.enable(file=2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        frames.send(link, messages.wire_event(messages.GuestImporting(os.getpid())))
        frames.send(link, messages.wire_event(messages.Version(preload.import_litellm())))
    except ImportError as error:
        print(f"LiteLLM cannot be imported by {sys.executable}: {error}", file=sys.stderr)
        os._exit(EX_CONFIG)
    serve(link)


if __name__ == "__main__":
    main()
