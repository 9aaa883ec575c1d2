"""One proxy at work: feeds the state machine and carries out what it decides. All changes go through ``feed``."""

import asyncio
import collections
import contextlib
import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocd.adapters import ports
from ocd.adapters.logs import Capture, LogFile
from ocd.adapters.mask import mask
from ocd.adapters.unavailable import Apology
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.core.state import State
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.link import GuestChannel
from ocd.supervisor.supervision.reason import CHARACTERS, TAIL, reason_from
from ocd.wire.messages import Holder, Member, ProxyStatus

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

#: signals after which what a process wrote last says nothing of why it ended
_SILENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True)
class Config:
    """What a revision boots from: the snapshot of its files, and the settings (``settings_id``: their snapshot)."""

    revision: str
    path: Path
    origin: Path
    settings: Settings
    settings_id: str


class Unit:
    """One proxy: its state, its processes, its listening sockets."""

    def __init__(self, daemon: "Daemon", name: str, log: LogFile) -> None:
        self.daemon = daemon
        self.name = name
        self.log = log
        self.state = core.Proxy(name, since=time.monotonic())
        self.configs: dict[str, Config] = {}
        self.channels: dict[int, GuestChannel] = {}
        self.by_generation: dict[int, GuestChannel] = {}
        self.captures: dict[tuple[int, str], Capture] = {}
        self.tails: dict[int, collections.deque[str]] = {}
        self.connections: dict[int, int] = {}
        self.accepted: dict[int, int] = {}
        self.memory: dict[int, int] = {}
        #: what each generation took when it was measured for the first time
        self.fresh_memory: dict[int, int] = {}
        self.over_memory: set[int] = set()
        #: listeners that the keeper has been asked for
        self.opening: set[str] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.waiters: list[asyncio.Event] = []
        self.refused_credentials = 0
        self.fallbacks = 0
        self.last_fallback = ""
        self.last_fallback_at: float | None = None
        self.apology: Apology | None = None
        #: generations that a former supervisor started
        self.adopted: set[int] = set()
        self._busy = False
        self._queue: collections.deque[transitions.Event] = collections.deque()

    @property
    def port(self) -> int:
        """The port that the settings say."""
        return self.state.ports.wanted

    # --------------------------------------------------------------------------------------------- events

    def feed(self, event: transitions.Event) -> None:
        """The one door: nothing else changes the state. Events caused by actions wait until the actions are done."""
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        before = self.state
        try:
            while self._queue:
                self._step(self._queue.popleft())
        finally:
            self._busy = False
            self._schedule()
        if self.state is before:
            return
        self._apologise()
        self.daemon.changed(self)
        for waiter in self.waiters:
            waiter.set()

    def _step(self, event: transitions.Event) -> None:
        self.state, actions = transitions.step(self.state, event, time.monotonic(), random.random())
        if any(isinstance(action, transitions.Spawn) for action in actions):
            # The number is written down before the order is given: a successor must not use it again.
            self.daemon.notes_due = True
            self.daemon.flush_notes()
        failed: Exception | None = None
        for action in actions:
            try:
                self._act(action)
            except Exception as error:
                # The state says that all of it is done: the rest is, and then the failure is everybody's (see
                # ``Daemon.on_callback_error``).
                self.daemon.log.error("an action failed", proxy=self.name, text=repr(action), exc_info=error)
                failed = failed or error
        if failed is not None:
            raise failed

    def _apologise(self) -> None:
        """Who cannot be served for long is told so, and why."""
        state = core.state_of(self.state)
        without = (State.CRASH_LOOP, State.FAILED, State.STOPPED, State.DISABLED)
        hopeless = state in without and not self.state.accepting()
        listeners = [self.daemon.listeners[name] for name in self.own_listeners()]
        if hopeless and listeners and self.apology is None:
            status = self.status()
            sentence = (
                f"the {self.name} proxy does not serve: {status.reason.rstrip('.')}. {status.next_step}."
            )
            self.apology = Apology(listeners, mask(sentence))
        elif not hopeless and self.apology is not None:
            self.apology.close()
            self.apology = None

    def _act(self, action: transitions.Action) -> None:
        match action:
            case transitions.Spawn(generation, revision):
                self.daemon.spawn(self, generation, revision)
            case transitions.Accept(generation, listening):
                self._accept(generation, listening)
            case transitions.Drain(generation, limit, flowing):
                self.tell(generation, "drain", limit=limit, flowing=flowing)
                since = " after the last byte" if flowing else ""
                self.daemon.event(
                    "draining", self.name, generation, f"no new connections, at most {limit:.0f} s{since}"
                )
            case transitions.Terminate(_, pid):
                self._signal(pid, signal.SIGTERM)
            case transitions.Abort(_, pid):
                self._signal(pid, signal.SIGABRT)
            case transitions.Kill(_, pid):
                self.daemon.link.send("kill", pid=pid, signal=int(signal.SIGKILL), group=True)
            case transitions.OpenPort(port):
                self._open_port(port)
            case transitions.ClosePort(port):
                self._close_port(port)
            case transitions.Keep(revision, former):
                self.daemon.on_serves(self, revision, former)
            case transitions.Announce(kind, text, generation):
                self.daemon.event(kind, self.name, generation, text)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        self.daemon.link.send("kill", pid=pid, signal=int(number), group=False)

    def tell(self, generation: int, op: str, **fields: Any) -> None:
        """Say something to one of our processes, if it is still there."""
        channel = self.by_generation.get(generation)
        if channel is not None:
            channel.send(op, **fields)

    def _schedule(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        deadline = core.next_deadline(self.state)
        if deadline is not None:
            pause = max(0.0, deadline - time.monotonic()) + 0.001
            self.timer = asyncio.get_running_loop().call_later(pause, self.feed, transitions.Tick())

    async def wait(self, fulfilled: Callable[[core.Proxy], bool], timeout: float | None) -> bool:
        """Wait until the state satisfies a condition; returns False when ``timeout`` (seconds) is over first."""
        news = asyncio.Event()
        self.waiters.append(news)
        try:
            async with asyncio.timeout(timeout):
                while not fulfilled(self.state):
                    await news.wait()
                    news.clear()
        except TimeoutError:
            return False
        finally:
            self.waiters.remove(news)
        return True

    # ---------------------------------------------------------------------------------------------- ports

    def listener_name(self, port: int, host: str) -> str:
        return f"{self.name}:{port}:{host}"

    def own_listeners(self) -> list[str]:
        """All that the keeper holds for us, an earlier port's included."""
        return [name for name in self.daemon.listeners if name.startswith(f"{self.name}:")]

    def open_ports(self) -> frozenset[int]:
        """The ports that the keeper listens on for us, on IPv4 at least."""
        wanted = f":{spec.HOSTS[0]}"
        return frozenset(port_of(name) for name in self.own_listeners() if name.endswith(wanted))

    def _open_port(self, port: int) -> None:
        """Look first, then bind: we never serve beside somebody else. The answer is an event."""
        if port in self.open_ports():
            self.feed(transitions.PortOpened(port))
            return
        if any(port_of(name) == port for name in self.opening):
            # The keeper has not answered yet.
            return
        self.opening.clear()
        known = self.state.ports.holder
        if known is not None and ports.busy(port):
            self.feed(transitions.PortBlocked(port, known))
            return
        holder = ports.holder(port)
        if holder is not None:
            self.feed(transitions.PortBlocked(port, holder))
            return
        self.opening = {self.listener_name(port, host) for host in spec.HOSTS}
        for host in spec.HOSTS:
            self.daemon.link.send("listen", name=self.listener_name(port, host), host=host, port=port)

    def on_listening(self, name: str, error: int | None, text: str = "") -> None:
        """The keeper's answer to ``listen``. IPv6 may be missing on this machine; IPv4 may not."""
        port = port_of(name)
        if name not in self.opening:
            if error is None and port not in self.state.ports.open:
                # The attempt that asked for it was given up; kept, it would be the foreign listener of the next one.
                self.daemon.close_listener(name)
            return
        self.opening.discard(name)
        first = self.listener_name(port, spec.HOSTS[0])
        if error is not None and name == first:
            self._give_up_opening(port)
            taken = error in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            holder = ports.holder(port) if taken else None
            unknown = core.Holder(address=f"port {port}", error="" if taken else text or os.strerror(error))
            self.feed(transitions.PortBlocked(port, holder or unknown))
            return
        if error is not None and first not in self.daemon.listeners and (holder := ports.holder(port)):
            self._give_up_opening(port)
            self.feed(transitions.PortBlocked(port, holder))
            return
        if not self.opening:
            self.feed(transitions.PortOpened(port))

    def _give_up_opening(self, port: int) -> None:
        """Close what this attempt opened. An earlier port keeps serving."""
        self.opening.clear()
        for name in self.own_listeners():
            if port_of(name) == port:
                self.daemon.close_listener(name)

    def _close_port(self, port: int) -> None:
        if self.daemon.stopping:
            # The keeper closes them when it ends. A service manager that restarts us keeps them until then, and a
            # connection made meanwhile waits instead of being refused.
            return
        for member in self.state.members:
            self.tell(member.generation, "release", port=port)
        for name in self.own_listeners():
            if port_of(name) == port:
                self.daemon.close_listener(name)

    def _accept(self, generation: int, listening: frozenset[int]) -> None:
        channel = self.by_generation.get(generation)
        if channel is None:
            return
        mine = [name for name in self.own_listeners() if port_of(name) in listening]
        fresh = [name for name in mine if name not in channel.given]
        channel.given.update(fresh)
        channel.send("accept", fds=[self.daemon.listeners[name].fileno() for name in fresh])

    # ---------------------------------------------------------------------------------------------- guests

    def attach(self, generation: int, pid: int, fds: list[int]) -> GuestChannel:
        """Take a process's control socket and output."""
        channel = GuestChannel(
            generation, pid, fds, self._on_message, self._on_output, self.daemon.on_link_fault
        )
        self.channels[pid] = channel
        self.by_generation[generation] = channel
        self.tails.setdefault(generation, collections.deque(maxlen=TAIL))
        return channel

    def on_spawned(self, generation: int, pid: int, fds: list[int]) -> None:
        member = self.state.member(generation)
        channel = self.attach(generation, pid, fds)
        self.daemon.event("spawned", self.name, generation, f"pid {pid}")
        config = self.configs.get(member.revision) if member else None
        if member is not None and config is not None:
            channel.send("boot", **self.daemon.boot_message(self, generation, config))
        self.feed(transitions.Spawned(generation, pid, cold=self.daemon.host.cold))

    def on_exit(self, pid: int, status: int, generation: int) -> None:
        channel = self.channels.pop(pid, None)
        if channel is not None:
            channel.drain_output()
            channel.close()
            self.by_generation.pop(channel.generation, None)
        for name in ("stdout", "stderr"):
            capture = self.captures.pop((generation, name), None)
            if capture is not None:
                capture.end()
        for table in (self.connections, self.accepted, self.memory, self.fresh_memory):
            table.pop(generation, None)
        self.daemon.exchanges.on_guest_end(self.name, generation)
        self.over_memory.discard(generation)
        with contextlib.suppress(OSError):
            os.unlink(spec.socket_path(self.daemon.folders, self.name, generation))
        tail = self.tails.pop(generation, collections.deque())
        silent = status < 0 and -status in _SILENT
        self.adopted.discard(generation)
        self.feed(transitions.Exited(generation, status, "" if silent else self._reason(list(tail))))

    def _reason(self, tail: list[str]) -> str:
        """Why it ended. People know their own file's place, not that of its snapshot."""
        folders = [folder for c in self.configs.values() for folder in (c.path.parent, c.origin.parent)]
        text = reason_from(tail, tuple(f"{folder}/" for folder in folders))
        for config in self.configs.values():
            text = text.replace(str(config.path.parent), str(config.origin.parent))
        return text

    def _on_message(self, channel: GuestChannel, message: dict[str, Any]) -> None:
        kind = message.get("ev")
        generation = channel.generation
        if kind == "armed":
            self._reported(channel, transitions.Says.ARMED, message)
        elif kind == "accepting":
            self.daemon.event("accepting", self.name, generation)
            self._reported(channel, transitions.Says.ACCEPTING, message)
        elif kind == "accept-failed":
            # It is out of descriptors: the sockets are offered again with the next change, and with each status.
            channel.given.clear()
            self.daemon.log.warning(
                "accept-failed", proxy=self.name, generation=generation, text=message.get("error")
            )
        elif kind == "status":
            with contextlib.suppress(ValueError):
                self._reported(channel, transitions.Says(message.get("phase", "")), message)
            self.connections[generation] = int(message.get("connections", 0))
            self.accepted[generation] = int(message.get("counters", {}).get("accepted", 0))
            self.daemon.exchanges.on_guest_status(self.name, generation, message)
            self.daemon.on_guest_status(self)
        elif kind == "request":
            self.daemon.exchanges.take(self.name, generation, message)
        elif kind == "version":
            self.daemon.litellm_version = str(message.get("version", ""))
        elif kind == "report":
            self.daemon.on_report(self, generation, message)

    def _reported(self, channel: GuestChannel, says: transitions.Says, message: dict[str, Any]) -> None:
        # A guest of an earlier version does not name its ports: it accepts on all that it was given.
        named = message.get("ports")
        listening = (
            frozenset(map(port_of, channel.given))
            if says is transitions.Says.ACCEPTING and named is None
            else frozenset(int(port) for port in named or ())
        )
        member = self.state.member(channel.generation)
        if (
            says is transitions.Says.DRAINING
            and "quiet" not in message
            and member
            and member.role == "draining"
        ):
            # Only its numbers: nothing that we do not know.
            return
        if says is transitions.Says.ARMED:
            channel.given.clear()
        quiet = float(message.get("quiet", 0.0))
        self.feed(transitions.Reported(channel.generation, says, listening, quiet))

    def on_fallback(self, text: str) -> None:
        """A request moved to another model group: who looks at the status must see it, it may cost money."""
        self.fallbacks += 1
        self.last_fallback, self.last_fallback_at = text, time.time()

    def _on_output(self, channel: GuestChannel, stream: str, data: bytes) -> None:
        key = (channel.generation, stream)
        capture = self.captures.get(key)
        if capture is None:

            def emit(text: str, generation: int = channel.generation, pid: int = channel.pid) -> None:
                self.tails.setdefault(generation, collections.deque(maxlen=TAIL)).append(text[:CHARACTERS])
                self.log.write(
                    {
                        "time": round(time.time(), 3),
                        "proxy": self.name,
                        "generation": generation,
                        "pid": pid,
                        "stream": stream,
                        "text": text,
                    }
                )

            capture = self.captures[key] = Capture(emit)
        capture.feed(data, time.monotonic())

    # ---------------------------------------------------------------------------------------------- status

    def status(self) -> ProxyStatus:
        """What people and programs see."""
        p = self.state
        now = time.monotonic()
        wall = time.time()
        serving = [m for m in p.members if m.phase_is(core.Serving)]
        first = next((m for m in reversed(serving) if not m.suspect), serving[-1] if serving else None)
        state = core.state_of(p)
        reason, step = self._explain(state)
        spare = "none"
        if p.limits.spares and p.wanted is core.Wanted.UP:
            spare = "armed" if any(m.phase_is(core.Armed) for m in p.members) else "arming"
        config = self.configs.get(p.good) or self.configs.get(p.revision)
        holder = p.ports.holder if state is State.BLOCKED else None
        return ProxyStatus(
            state=state,
            wanted=str(p.wanted),
            pid=first.pid if first else None,
            port=self.port,
            generation=first.generation if first else 0,
            restarts=p.restarts,
            since=wall - (now - p.since),
            reason=reason,
            next_step=step,
            cause=str(p.last_cause or ""),
            holder=Holder(
                pid=holder.pid,
                user=holder.user,
                command=holder.command,
                since=holder.since,
                address=holder.address,
            )
            if holder
            else None,
            memory=self.memory.get(first.generation) if first else None,
            config=str(config.origin) if config else str(self.daemon.config_path(self.name)),
            revision=first.revision if first else "",
            rejected=p.rejected.reason if p.rejected else "",
            spare=spare,
            retry_at=wall + (p.spell.not_before - now) if p.spell.not_before else None,
            fallbacks=self.fallbacks,
            last_fallback=self.last_fallback,
            last_fallback_at=self.last_fallback_at,
            troubles=self.daemon.exchanges.troubles(self.name),
            members=[
                Member(
                    generation=m.generation,
                    pid=m.pid,
                    role="hung" if m.suspect and m.phase_is(core.Serving) else m.role,
                    since=wall - (now - m.phase.since) if isinstance(m.phase, core.Serving) else wall,
                    memory=self.memory.get(m.generation),
                    connections=self.connections.get(m.generation),
                    in_flight=self.daemon.exchanges.in_flight.get(self.name, {}).get(m.generation),
                )
                for m in p.members
            ],
        )

    def _explain(self, state: State) -> tuple[str, str]:
        p = self.state
        match state:
            case State.BLOCKED if p.ports.holder is not None and p.ports.holder.error:
                return (
                    f"port {self.port} cannot be opened: {p.ports.holder.error}",
                    "Fix that, or choose another port in ocd.toml; it is tried again by itself",
                )
            case State.BLOCKED:
                return (
                    f"port {self.port} is taken: {core.describe_holder(p.ports.holder)}",
                    "End that program, or choose another port in ocd.toml; the port is taken as soon as it is free",
                )
            case State.DISABLED:
                return (
                    f"[proxies.{self.name}] has enabled = false in ocd.toml",
                    f"Set enabled = true under [proxies.{self.name}] in ocd.toml",
                )
            case State.STOPPED:
                return "stopped with `occtl stop`", f"Run `occtl start {self.name}`"
            case State.FAILED if p.rejected:
                return p.rejected.reason, "Run `occtl config check`, correct the file and save it"
            case State.CRASH_LOOP:
                again = "It is tried again by itself, and at once when the configuration changes"
                return p.spell.reason, f"See `occtl logs {self.name}`. {again}"
            case State.READY if p.rejected:
                return "", "Run `occtl config check`; the last good configuration keeps serving"
            case State.STARTING if any(m.suspect for m in p.members):
                return "its process does not answer; another is being started beside it", ""
            case State.STARTING:
                return p.spell.reason or self.daemon.starting_reason(), ""
        return "", ""


def port_of(listener: str) -> int:
    """The port in a listener's name: ``main:4000:::1``."""
    return int(listener.split(":")[1])


def tag(proxy: str, generation: int, revision: str) -> str:
    """How the keeper knows a process: enough for a new supervisor to recognise it."""
    return json.dumps({"proxy": proxy, "generation": generation, "revision": revision})
