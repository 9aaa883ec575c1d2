"""One proxy at work: feeds the state machine and carries out what it decides. All changes go through ``feed``."""

import asyncio
import collections
import contextlib
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
from ocd.core import proxy as core
from ocd.supervisor import spec
from ocd.supervisor.link import GuestChannel
from ocd.supervisor.reason import CHARACTERS, TAIL, reason_from
from ocd.wire.messages import Holder, Member, ProxyStatus

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon

#: While somebody else has the port, look this often (seconds): it is to be ours within a second.
PORT_POLL = 0.25


@dataclass
class Config:
    """What a revision boots from."""

    revision: str
    path: Path
    origin: Path


class Unit:
    """One proxy: its state, its processes, its listening sockets."""

    def __init__(self, daemon: "Daemon", name: str, port: int, log: LogFile) -> None:
        self.daemon = daemon
        self.name = name
        self.port = port
        self.log = log
        self.state = core.Proxy(name, limits=spec.limits(daemon.settings, name), since=time.monotonic())
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
        self.opening: set[str] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.port_timer: asyncio.TimerHandle | None = None
        self.waiters: list[asyncio.Event] = []
        self.refused_credentials = 0
        self.fallbacks = 0
        self.last_fallback = ""
        self.last_fallback_at: float | None = None
        self.apology: Apology | None = None
        #: what a former supervisor noted about this proxy
        self.restored: dict[str, Any] = {}
        self._depth = 0
        self._queue: collections.deque[core.Event] = collections.deque()

    # --------------------------------------------------------------------------------------------- events

    def feed(self, event: core.Event) -> None:
        """The one door: nothing else changes the state. Events caused by actions wait until the actions are done."""
        self._queue.append(event)
        if self._depth:
            return
        self._depth += 1
        before = self.state
        try:
            while self._queue:
                self._step(self._queue.popleft())
        finally:
            self._depth -= 1
        self._schedule()
        if self.state is before:
            return
        self._apologise()
        self.daemon.changed(self)
        for waiter in self.waiters:
            waiter.set()

    def _step(self, event: core.Event) -> None:
        good = self.state.good
        self.state, actions = core.step(self.state, event, time.monotonic(), random.random())
        for action in actions:
            self._act(action)
        if self.state.good != good and self.state.good:
            self.daemon.remember_good(self)
            if good:
                self.daemon.event("reload-done", self.name, text=self.state.good)

    def _apologise(self) -> None:
        """Who cannot be served for long is told so, and why."""
        hopeless = core.public_state(self.state, time.monotonic()) in ("crash-loop", "failed")
        listeners = [self.daemon.listeners[name] for name in self.own_listeners()]
        if hopeless and self.state.port_open and listeners and self.apology is None:
            status = self.status()
            sentence = (
                f"the {self.name} proxy does not serve: {status.reason.rstrip('.')}. {status.next_step}."
            )
            self.apology = Apology(listeners, mask(sentence))
        elif not hopeless and self.apology is not None:
            self.apology.close()
            self.apology = None

    def _act(self, action: core.Action) -> None:
        match action:
            case core.Spawn(generation, revision):
                self.daemon.spawn(self, generation, revision)
            case core.Accept(generation):
                self._accept(generation)
            case core.Drain(generation, limit):
                self.tell(generation, "drain", limit=limit)
                self.daemon.event(
                    "draining", self.name, generation, f"no new connections, at most {limit:.0f} s"
                )
            case core.Terminate(generation, pid):
                self._signal(pid, signal.SIGTERM)
            case core.Abort(generation, pid):
                self._signal(pid, signal.SIGABRT)
            case core.Kill(generation, pid):
                self.daemon.link.send("kill", pid=pid, signal=int(signal.SIGKILL), group=True)
            case core.OpenPort():
                self.open_port()
            case core.ClosePort():
                self.close_ports()
            case core.Announce(kind, text, generation):
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
            self.timer = asyncio.get_running_loop().call_later(pause, self.feed, core.Tick())

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

    def listener_names(self) -> list[str]:
        return [f"{self.name}:{self.port}:{host}" for host in spec.HOSTS]

    def own_listeners(self) -> list[str]:
        """All that the keeper holds for us, an earlier port's included."""
        return [name for name in self.daemon.listeners if name.startswith(f"{self.name}:")]

    def open_port(self) -> None:
        """Look first, then bind: we never serve beside somebody else."""
        if self.opening or self.port_timer is not None:
            return
        if all(name in self.daemon.listeners for name in self.listener_names()[:1]):
            self._queue.append(core.PortOpened())
            return
        holder = ports.holder(self.port)
        if holder is not None:
            self._blocked(holder)
            return
        self.opening = set(self.listener_names())
        for host in spec.HOSTS:
            self.daemon.link.send("listen", name=f"{self.name}:{self.port}:{host}", host=host, port=self.port)

    def _blocked(self, holder: core.Holder) -> None:
        self._queue.append(core.PortBlocked(holder))
        self.port_timer = asyncio.get_running_loop().call_later(PORT_POLL, self._look_again)
        if not self._depth:
            self.feed(core.Tick())

    def _look_again(self) -> None:
        self.port_timer = None
        if self.state.wanted is not core.Wanted.UP or self.state.port_open:
            return
        if ports.busy(self.port):
            self.port_timer = asyncio.get_running_loop().call_later(PORT_POLL, self._look_again)
            return
        self.open_port()
        if not self._depth:
            self.feed(core.Tick())

    def on_listening(self, name: str, error: int | None) -> None:
        """The keeper's answer to ``listen``. IPv6 may be missing on this machine; IPv4 may not."""
        if name not in self.opening:
            ours = name in self.listener_names() and (self.opening or self.state.port_open)
            if error is None and not ours:
                # The attempt that asked for it was given up; kept, it would be the foreign listener of the next one.
                self.daemon.close_listener(name)
            return
        self.opening.discard(name)
        if error is not None and not name.endswith("::1"):
            self._give_up_opening()
            self._blocked(ports.holder(self.port) or core.Holder(address=f"port {self.port}"))
            return
        if error is not None:
            holder = (
                ports.holder(self.port)
                if f"{self.name}:{self.port}:127.0.0.1" not in self.daemon.listeners
                else None
            )
            if holder is not None:
                self._give_up_opening()
                self._blocked(holder)
                return
        if not self.opening:
            self.feed(core.PortOpened())
            self.offer_listeners()

    def _give_up_opening(self) -> None:
        """Close what this attempt opened. An earlier port goes on serving."""
        self.opening.clear()
        for name in self.listener_names():
            if name in self.daemon.listeners:
                self.daemon.close_listener(name)

    def close_ports(self) -> None:
        if self.daemon.stopping:
            # The keeper closes them when it ends. A service manager that restarts us keeps them until then, and a
            # connection made meanwhile waits instead of being refused.
            return
        for name in self.own_listeners():
            self.daemon.close_listener(name)

    def change_port(self, port: int) -> None:
        """Another port: the new one opens first; the old one closes when its last session ends."""
        if port == self.port:
            return
        self.port = port
        self.opening.clear()
        if self.port_timer is not None:
            self.port_timer.cancel()
            self.port_timer = None
        if self.state.wanted is core.Wanted.UP:
            self.open_port()
            if not self._depth:
                self.feed(core.Tick())

    def offer_listeners(self) -> None:
        """Give all open listeners to those who serve already (a port was added)."""
        for member in self.state.members:
            if member.phase_is(core.Serving):
                self._accept(member.generation)

    def release_port(self, port: int) -> None:
        for member in self.state.members:
            self.tell(member.generation, "release", port=port)
        for name in self.own_listeners():
            if name.split(":")[1] == str(port):
                self.daemon.close_listener(name)

    def _accept(self, generation: int) -> None:
        channel = self.by_generation.get(generation)
        if channel is None:
            return
        fresh = [name for name in self.own_listeners() if name not in channel.given]
        channel.given.update(fresh)
        channel.send("accept", fds=[self.daemon.listeners[name].fileno() for name in fresh])

    # ---------------------------------------------------------------------------------------------- guests

    def attach(self, generation: int, pid: int, fds: list[int]) -> GuestChannel:
        """Take a process's control socket and output."""
        channel = GuestChannel(generation, pid, fds, self._on_message, self._on_output)
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
        self.feed(core.Spawned(generation, pid, cold=self.daemon.host.cold))

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
        self.feed(core.Exited(generation, status, self._reason(list(tail))))

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
            self.feed(core.Ready(generation))
        elif kind == "accepting":
            self.daemon.event("accepting", self.name, generation)
        elif kind == "status":
            self.connections[generation] = int(message.get("connections", 0))
            self.accepted[generation] = int(message.get("counters", {}).get("accepted", 0))
            self.daemon.exchanges.on_guest_status(self.name, generation, message)
            self.daemon.on_guest_status(self, channel, message)
        elif kind == "request":
            self.daemon.exchanges.take(self.name, generation, message)
        elif kind == "version":
            self.daemon.litellm_version = str(message.get("version", ""))
        elif kind == "report":
            self.daemon.on_report(self, generation, message)

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
        first = serving[-1] if serving else None
        state = core.public_state(p, now)
        reason, step = self._explain(state)
        spare = "none"
        if p.limits.spares and p.wanted is core.Wanted.UP:
            spare = "armed" if any(m.phase_is(core.Armed) for m in p.members) else "arming"
        config = self.configs.get(p.good) or self.configs.get(p.revision)
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
                pid=p.holder.pid,
                user=p.holder.user,
                command=p.holder.command,
                since=p.holder.since,
                address=p.holder.address,
            )
            if p.holder and state == "blocked"
            else None,
            memory=self.memory.get(first.generation) if first else None,
            config=str(config.origin) if config else str(self.daemon.config_path(self.name)),
            revision=first.revision if first else "",
            rejected=p.rejected.reason if p.rejected else "",
            spare=spare,
            retry_at=wall + (p.failure.retry_at - now) if p.failure.retry_at else None,
            fallbacks=self.fallbacks,
            last_fallback=self.last_fallback,
            last_fallback_at=self.last_fallback_at,
            troubles=self.daemon.exchanges.troubles(self.name),
            members=[
                Member(
                    generation=m.generation,
                    pid=m.pid,
                    role=m.role,
                    since=wall - (now - m.phase.since) if isinstance(m.phase, core.Serving) else wall,
                    memory=self.memory.get(m.generation),
                    connections=self.connections.get(m.generation),
                    in_flight=self.daemon.exchanges.in_flight.get(self.name, {}).get(m.generation),
                )
                for m in p.members
            ],
        )

    def _explain(self, state: str) -> tuple[str, str]:
        p = self.state
        if state == "blocked":
            return (
                f"port {self.port} is taken: {core.describe_holder(p.holder)}",
                "End that program, or choose another port in ocd.toml; the port is taken as soon as it is free",
            )
        if state == "failed" and p.rejected:
            return p.rejected.reason, "Run `occtl config check`, correct the file and save it"
        if state in ("crash-loop", "backoff"):
            again = "It is tried again by itself, and at once when the configuration changes"
            return p.failure.reason, f"See `occtl logs {self.name}`. {again}"
        if p.rejected:
            return "", "Run `occtl config check`; the last good configuration serves on"
        if state == "starting":
            return self.daemon.starting_reason(), ""
        return "", ""


def tag(proxy: str, generation: int, revision: str) -> str:
    """How the keeper knows a process: enough for a new supervisor to recognise it."""
    return json.dumps({"proxy": proxy, "generation": generation, "revision": revision})
