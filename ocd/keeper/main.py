"""The keeper's loop: sockets, processes, and a link to the supervisor. Standard library only; decides nothing.

It is the parent of every process of ours. What it is told (one JSON object a line over a socket pair,
``ocd/ipc/frames.py``):

| op | fields | answer |
|---|---|---|
| hello | | ``state``: listeners and processes with their descriptors, exits not yet seen, notes |
| listen | name, host+port or path | ``listening`` with the descriptor, or ``listen-failed`` |
| unlisten | name | |
| host | argv, env, log | starts the forkserver; its messages come back as ``host`` |
| spawn | id, tag, how (fork or exec), argv, env | ``spawned`` with control, stdout, stderr, or ``spawn-failed`` |
| warm | | the forkserver imports what first requests need, before it forks spares |
| kill | pid, signal, group | only processes that the keeper started |
| note | text | kept, and given to the next supervisor |
| alive | | the supervisor's heartbeat |
| notify | text | passed on to the service manager (sd_notify) |
| reexec | argv | the keeper replaces its own code, keeping everything |
| exit | code | ends every process that is left, then itself |

What it tells: ``exit`` (pid, status, tag), ``signal`` (TERM, INT, HUP).
"""

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import time
from typing import Any

from ocd.ipc import frames
from ocd.keeper import notify
from ocd.keeper.system import (
    F_SETPIPE_SZ,
    PIPE_SIZE,
    children,
    close_all,
    describe,
    log_pipe,
    open_listener,
    say,
    spawn,
)

#: A supervisor that says nothing for this many seconds is hung: SIGABRT (it dumps its stack), then SIGKILL. Half of
#: the service manager's watchdog where that is less: a hung supervisor is no reason to end the keeper.
HEARTBEAT_LIMIT = 30.0
ABORT_PATIENCE = 2.0
#: A supervisor that dies at once is restarted after 0.1 s, 0.2 s … at most this many seconds.
SUPERVISOR_BACKOFF_MAX = 5.0
#: After a stop signal the supervisor drains and then says ``exit``; without a supervisor this is the limit.
ORPHAN_STOP_LIMIT = 10.0
_REMEMBERED_EXITS = 200


class Process:
    """One child: what the supervisor called it, and our ends of its sockets and pipes."""

    def __init__(self, pid: int, tag: str, fds: list[int], started: float) -> None:
        self.pid = pid
        self.tag = tag
        self.fds = fds
        self.started = started


class Keeper:
    """Everything that must outlive the supervisor."""

    def __init__(self, supervisor_argv: list[str], environment: dict[str, str], lock_fd: int = -1) -> None:
        self.supervisor_argv = supervisor_argv
        self.environment = environment
        self.lock_fd = lock_fd
        self.listeners: dict[str, socket.socket] = {}
        self.processes: dict[int, Process] = {}
        self.exits: list[dict[str, Any]] = []
        self.strays: dict[int, int] = {}
        self.notes = ""
        self.selector = selectors.DefaultSelector()
        self.supervisor = 0
        self.link: frames.Reader | None = None
        self.supervisor_started = 0.0
        self.supervisor_failures = 0
        self.supervisor_restarts = 0
        self.start_supervisor_at = 0.0
        self.heard = 0.0
        self.heartbeat_limit = min(HEARTBEAT_LIMIT, notify.watchdog_seconds() / 2 or HEARTBEAT_LIMIT)
        self.aborted_at = 0.0
        self.host = 0
        self.host_link: frames.Reader | None = None
        self.host_streams: list[int] = []
        self.pending: dict[int, tuple[str, list[int], list[int]]] = {}
        self.stopping_since = 0.0
        #: a supervisor has been up: from now on its end is a crash, not a reason to give up
        self.greeted = False
        self.exit_code: int | None = None

    # ------------------------------------------------------------------------------------------ listeners

    def listen(self, message: dict[str, Any]) -> None:
        name = message["name"]
        try:
            sock = self.listeners.get(name) or open_listener(message)
        except OSError as error:
            self.tell(
                {
                    "op": "listen-failed",
                    "name": name,
                    "errno": error.errno or 0,
                    "error": os.strerror(error.errno or 0),
                }
            )
            return
        self.listeners[name] = sock
        notify.store(name, sock.fileno())
        self.tell({"op": "listening", "name": name}, [sock.fileno()])

    def unlisten(self, name: str) -> None:
        sock = self.listeners.pop(name, None)
        if sock is not None:
            notify.forget(name)
            sock.close()

    def adopt_listeners(self) -> None:
        """Sockets that the service manager kept for us (LISTEN_FDS, sd_listen_fds(3))."""
        for name, sock in notify.inherited():
            if name in self.listeners:
                sock.close()
            else:
                self.listeners[name] = sock

    # ------------------------------------------------------------------------------------------ processes

    def start_supervisor(self) -> None:
        ours, theirs = socket.socketpair()
        argv = [*self.supervisor_argv, str(os.getpid()), str(theirs.fileno())]
        try:
            self.supervisor = spawn(argv, self.environment, keep=[theirs.fileno()], session=False)
        except OSError as error:
            say(f"the supervisor cannot be started: {error}")
            self.supervisor = 0
            self.schedule_supervisor()
            ours.close()
            return
        finally:
            theirs.close()
        ours.setblocking(True)
        # A supervisor that is stopped must not stop us: give up on a message after a moment.
        ours.settimeout(1.0)
        self.link = frames.Reader(ours)
        self.selector.register(ours, selectors.EVENT_READ, self.on_supervisor)
        self.supervisor_started = self.heard = time.monotonic()
        self.aborted_at = 0.0

    def schedule_supervisor(self) -> None:
        lived = time.monotonic() - self.supervisor_started
        self.supervisor_failures = 0 if lived > 30 else self.supervisor_failures + 1
        self.supervisor_restarts += 1
        pause = (
            min(SUPERVISOR_BACKOFF_MAX, 0.1 * 2 ** min(self.supervisor_failures - 1, 10))
            if self.supervisor_failures
            else 0.0
        )
        self.start_supervisor_at = time.monotonic() + pause

    def drop_link(self) -> None:
        if self.link is not None:
            self.selector.unregister(self.link.sock)
            self.link.close()
            self.link = None

    def start_host(self, message: dict[str, Any]) -> None:
        """The forkserver; what it says is passed on as it is."""
        if self.host:
            return
        ours, theirs = socket.socketpair()
        out_r, out_w = log_pipe()
        err_r, err_w = log_pipe()
        argv = [*message["argv"], str(os.getpid()), str(theirs.fileno())]
        try:
            self.host = spawn(argv, message["env"], keep=[theirs.fileno()], streams=(out_w, err_w))
        except OSError as error:
            ours.close()
            close_all([out_r, err_r])
            self.tell({"op": "host-failed", "error": str(error)})
            return
        finally:
            theirs.close()
            close_all([out_w, err_w])
        self.host_link = frames.Reader(ours)
        self.host_streams = [out_r, err_r]
        self.selector.register(ours, selectors.EVENT_READ, self.on_host)
        self.tell({"op": "host-started", "pid": self.host}, self.host_streams)

    def drop_host(self) -> None:
        if self.host_link is not None:
            self.selector.unregister(self.host_link.sock)
            self.host_link.close()
            self.host_link = None
        close_all(self.host_streams)
        self.host_streams = []
        for number, (_tag, ours, theirs) in self.pending.items():
            close_all(ours + theirs)
            self.tell(
                {"op": "spawn-failed", "id": number, "transient": True, "error": "the forkserver ended"}
            )
        self.pending.clear()

    def spawn(self, message: dict[str, Any]) -> None:
        number, tag = message["id"], message["tag"]
        control, theirs = socket.socketpair()
        out_r, out_w = log_pipe()
        err_r, err_w = log_pipe()
        ours = [control.detach(), out_r, err_r]
        child = [theirs.detach(), out_w, err_w]
        if message["how"] == "fork":
            if self.host_link is None:
                close_all(ours + child)
                self.tell(
                    {
                        "op": "spawn-failed",
                        "id": number,
                        "transient": True,
                        "error": "no forkserver is running",
                    }
                )
                return
            try:
                frames.send(self.host_link.sock, {"op": "fork", "id": number}, child)
            except OSError as error:
                close_all(ours + child)
                self.tell({"op": "spawn-failed", "id": number, "transient": True, "error": str(error)})
                return
            self.pending[number] = (tag, ours, child)
            return
        argv = [*message["argv"], str(os.getpid()), str(child[0])]
        try:
            pid = spawn(argv, message["env"], keep=[child[0]], streams=(out_w, err_w))
        except OSError as error:
            close_all(ours + child)
            self.tell({"op": "spawn-failed", "id": number, "transient": False, "error": str(error)})
            return
        close_all(child)
        self.started(number, pid, tag, ours)

    def started(self, number: int, pid: int, tag: str, fds: list[int]) -> None:
        self.processes[pid] = Process(pid, tag, fds, time.time())
        self.tell({"op": "spawned", "id": number, "pid": pid, "tag": tag}, fds)
        if pid in self.strays:
            # It was faster in dying than the forkserver in telling us of it.
            self.ended(pid, self.strays.pop(pid))

    def ended(self, pid: int, status: int) -> None:
        process = self.processes.pop(pid, None)
        if process is None:
            self.strays[pid] = status
            while len(self.strays) > _REMEMBERED_EXITS:
                self.strays.pop(next(iter(self.strays)))
            return
        # The whole group ends, not only its leader: nothing may keep the port or the memory.
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        news = {"op": "exit", "pid": pid, "status": status, "tag": process.tag, "time": time.time()}
        # The supervisor has descriptors of its own; what is left in the pipes is still there for it.
        close_all(process.fds)
        if not self.tell(news):
            self.exits = [*self.exits[-_REMEMBERED_EXITS:], news]

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self.supervisor:
                self.supervisor = 0
                self.drop_link()
                if not self.greeted and 64 <= code <= 78:
                    # It said on stderr what is wrong; starting it again would change nothing.
                    self.exit_code = code
                elif self.exit_code is None:
                    say(f"the supervisor ended ({describe(code)}); starting another")
                self.schedule_supervisor()
            elif pid == self.host:
                self.host = 0
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
                self.drop_host()
                self.tell({"op": "host-exit", "status": code})
            else:
                self.ended(pid, code)

    def kill(self, message: dict[str, Any]) -> None:
        pid, number = message["pid"], message["signal"]
        if pid not in self.processes and pid != self.host:
            return
        with contextlib.suppress(OSError):
            if message.get("group"):
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    # ----------------------------------------------------------------------------------------------- talk

    def tell(self, message: dict[str, Any], fds: list[int] | None = None) -> bool:
        if self.link is None:
            return False
        try:
            frames.send(self.link.sock, message, fds or [])
        except OSError:
            # Stopped, or dead and not reaped yet: the heartbeat or SIGCHLD deals with it; half a message would
            # confuse it, so the conversation is over.
            with contextlib.suppress(OSError):
                os.kill(self.supervisor, signal.SIGKILL)
            return False
        return True

    def hello(self) -> None:
        fds: list[int] = []
        listeners = []
        for name, sock in self.listeners.items():
            listeners.append(name)
            fds.append(sock.fileno())
        self.tell(
            {
                "op": "state",
                "pid": os.getpid(),
                "listeners": listeners,
                "notes": self.notes,
                "exits": self.exits,
                "host": self.host,
                "restarts": self.supervisor_restarts,
                "count": len(self.processes),
            },
            fds,
        )
        self.exits = []
        for process in list(self.processes.values()):
            self.tell(
                {"op": "process", "pid": process.pid, "tag": process.tag, "started": process.started},
                process.fds,
            )
        if self.host:
            self.tell({"op": "host-started", "pid": self.host, "old": True}, self.host_streams)
        self.tell({"op": "state-end"})

    def on_supervisor(self) -> None:
        assert self.link is not None
        for message, fds in self.link.feed():
            close_all(fds)
            self.heard = time.monotonic()
            op = message.get("op")
            if op == "hello":
                self.greeted = True
                self.hello()
            elif op == "listen":
                self.listen(message)
            elif op == "unlisten":
                self.unlisten(message["name"])
            elif op == "spawn":
                self.spawn(message)
            elif op == "host":
                self.start_host(message)
            elif op == "warm":
                if self.host_link is not None:
                    with contextlib.suppress(OSError):
                        frames.send(self.host_link.sock, {"op": "warm"})
            elif op == "kill":
                self.kill(message)
            elif op == "alive":
                notify.watchdog()
            elif op == "note":
                self.notes = message["text"]
            elif op == "notify":
                notify.send(message["text"])
            elif op == "reexec":
                self.reexec(message)
            elif op == "exit":
                self.exit_code = message.get("code", 0)
        if self.link is not None and self.link.eof:
            self.drop_link()

    def on_host(self) -> None:
        assert self.host_link is not None
        for message, fds in self.host_link.feed():
            close_all(fds)
            if message.get("op") == "forked":
                tag, ours, theirs = self.pending.pop(message["id"], ("", [], []))
                close_all(theirs)
                if not ours:
                    continue
                if message["pid"] <= 0:
                    close_all(ours)
                    self.tell(
                        {"op": "spawn-failed", "id": message["id"], "transient": True, "error": "fork failed"}
                    )
                else:
                    self.started(message["id"], message["pid"], tag, ours)
            else:
                self.tell({**message, "op": "host", "event": message.get("op", "")})
        if self.host_link is not None and self.host_link.eof and self.host:
            with contextlib.suppress(OSError):
                os.kill(self.host, signal.SIGKILL)
            self.selector.unregister(self.host_link.sock)
            self.host_link.close()
            self.host_link = None

    # ----------------------------------------------------------------------------------------------- loop

    def on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self.reap()
            return
        name = signal.Signals(number).name.removeprefix("SIG")
        if number in (signal.SIGTERM, signal.SIGINT):
            if self.stopping_since and time.monotonic() - self.stopping_since > 0.5:
                say("stopping at once")
                self.exit_code = 128 + number if number == signal.SIGINT else 0
            self.stopping_since = self.stopping_since or time.monotonic()
        self.tell({"op": "signal", "name": name})

    def deadline(self) -> float | None:
        """Seconds until something must be looked at, or None."""
        now = time.monotonic()
        times = []
        if not self.supervisor:
            times.append(self.start_supervisor_at)
            if self.stopping_since:
                times.append(now)
        elif self.aborted_at:
            times.append(self.aborted_at + ABORT_PATIENCE)
        else:
            times.append(self.heard + self.heartbeat_limit)
        return max(0.0, min(times) - now)

    def on_time(self) -> None:
        now = time.monotonic()
        if not self.supervisor:
            if self.stopping_since:
                self.exit_code = 0
            elif now >= self.start_supervisor_at:
                self.start_supervisor()
        elif self.aborted_at:
            if now >= self.aborted_at + ABORT_PATIENCE:
                with contextlib.suppress(OSError):
                    os.kill(self.supervisor, signal.SIGKILL)
        elif now >= self.heard + self.heartbeat_limit:
            say(f"the supervisor has said nothing for {self.heartbeat_limit:.0f} s; ending it")
            self.aborted_at = now
            with contextlib.suppress(OSError):
                os.kill(self.supervisor, signal.SIGABRT)

    def run(self) -> int:
        """Serve until told to end; returns the exit code."""
        wake_r, wake_w = socket.socketpair()
        for end in (wake_r, wake_w):
            end.setblocking(False)
        old = signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
        for caught in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(caught, lambda *_: None)
        self.selector.register(wake_r, selectors.EVENT_READ, None)
        self.adopt_listeners()
        if not self.supervisor:
            self.start_supervisor()
        self.reap()
        while self.exit_code is None:
            for key, _mask in self.selector.select(self.deadline()):
                if key.fileobj is wake_r:
                    with contextlib.suppress(BlockingIOError):
                        for number in wake_r.recv(256):
                            self.on_signal(number)
                elif key.fileobj in (self.link and self.link.sock, self.host_link and self.host_link.sock):
                    key.data()
                if self.exit_code is not None:
                    break
            self.on_time()
        signal.set_wakeup_fd(old)
        self.finish()
        return self.exit_code

    def finish(self) -> None:
        """End everything that is still ours. Nothing stays behind."""
        notify.send("STOPPING=1")
        # Not taken out of the service manager's store: it lets go of them after a stop, and over a restart keeps
        # them, so that a connection made meanwhile waits instead of being refused.
        for name, sock in self.listeners.items():
            with contextlib.suppress(OSError, TypeError):
                if sock.family == socket.AF_UNIX and not notify.from_manager(name):
                    os.unlink(sock.getsockname())
            sock.close()
        self.listeners.clear()
        if self.supervisor:
            with contextlib.suppress(OSError):
                os.kill(self.supervisor, signal.SIGTERM)
        for pid in [*self.processes, *([self.host] if self.host else [])]:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        limit = time.monotonic() + 3
        while time.monotonic() < limit:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == self.supervisor:
                self.supervisor = 0
            if pid == 0:
                if time.monotonic() > limit - 1.5:
                    for child in children():
                        with contextlib.suppress(OSError):
                            os.kill(child, signal.SIGKILL)
                time.sleep(0.01)

    # --------------------------------------------------------------------------------------------- re-exec

    def reexec(self, message: dict[str, Any]) -> None:
        """Replace our own code by what is installed now; sockets, children and notes stay.

        The state travels in an anonymous file; the pid, and so every child, stays the same.
        """
        notify.send("RELOADING=1")
        state = {
            "listeners": {name: sock.fileno() for name, sock in self.listeners.items()},
            "sockets": notify.remembered(),
            "processes": [[p.pid, p.tag, p.fds, p.started] for p in self.processes.values()],
            "exits": self.exits,
            "notes": self.notes,
            "supervisor": self.supervisor,
            "host": [self.host, self.host_link.sock.fileno() if self.host_link else -1, self.host_streams],
            "restarts": self.supervisor_restarts,
            "environment": self.environment,
            "supervisor_argv": message.get("supervisor_argv", self.supervisor_argv),
        }
        for name in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        read, write = os.pipe()
        text = json.dumps(state).encode()
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            fcntl.fcntl(write, F_SETPIPE_SZ, max(PIPE_SIZE, len(text)))
        os.set_blocking(write, False)
        keep = [read, *state["listeners"].values(), *state["host"][2]]
        keep += [fd for p in self.processes.values() for fd in p.fds]
        if state["host"][1] >= 0:
            keep.append(state["host"][1])
        argv = [*message["argv"], f"--resume={read}"]
        if self.lock_fd >= 0:
            keep.append(self.lock_fd)
            argv.append(f"--lock={self.lock_fd}")
        try:
            if os.write(write, text) != len(text):
                raise OSError(errno.ENOSPC, "the state is larger than a pipe")
            os.close(write)
            for fd in keep:
                os.set_inheritable(fd, True)
            # The supervisor is replaced with us: it could not make sense of a successor's answers.
            if self.supervisor:
                os.kill(self.supervisor, signal.SIGKILL)
            os.execve(argv[0], argv, dict(os.environ))
        except OSError as error:
            for fd in keep:
                with contextlib.suppress(OSError):
                    os.set_inheritable(fd, False)
            say(f"re-exec failed, going on with the old code: {error}")
            notify.send("READY=1")
            self.tell({"op": "reexec-failed", "error": str(error)})

    def resume(self, fd: int) -> None:
        """Take over from the code before us."""
        text = b""
        while chunk := os.read(fd, 65536):
            text += chunk
        os.close(fd)
        state = json.loads(text)
        for name, number in state["listeners"].items():
            os.set_inheritable(number, False)
            self.listeners[name] = socket.socket(fileno=number)
        # A version before this one said "stored" alone.
        notify.remember(state.get("sockets") or {"stored": state.get("stored", [])})
        for pid, tag, fds, started in state["processes"]:
            for number in fds:
                os.set_inheritable(number, False)
            self.processes[pid] = Process(pid, tag, fds, started)
        self.exits = state["exits"]
        self.notes = state["notes"]
        self.environment = state["environment"]
        self.supervisor_argv = state["supervisor_argv"]
        self.supervisor_restarts = state["restarts"] + 1
        self.host, link, self.host_streams = state["host"]
        for number in [*self.host_streams, *([link] if link >= 0 else [])]:
            os.set_inheritable(number, False)
        if link >= 0:
            self.host_link = frames.Reader(socket.socket(fileno=link))
            self.selector.register(self.host_link.sock, selectors.EVENT_READ, self.on_host)
