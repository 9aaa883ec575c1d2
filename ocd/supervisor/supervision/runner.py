"""One proxy at work: feeds the state machine and carries out what it decides. All changes go through ``feed``."""

import asyncio
import collections
import contextlib
import json
import random
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol

from ocd.adapters.logs import LogFile
from ocd.adapters.unavailable import Unavailable
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.core.state import State
from ocd.mask import mask
from ocd.settings.folders import Folders
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.config import Config
from ocd.supervisor.supervision.guests import Guests
from ocd.supervisor.supervision.link import GuestChannel
from ocd.supervisor.supervision.listeners import Listeners, port_of
from ocd.supervisor.supervision.opening import Opening
from ocd.supervisor.supervision.reporter import Reporter


class Starter(Protocol):
    """Starts processes (``forkserver.Forkserver``)."""

    @property
    def cold(self) -> bool: ...

    def spawn(
        self,
        tag: str,
        spare: bool,
        started: Callable[[int, list[int]], None],
        failed: Callable[[str, bool], None],
    ) -> None: ...

    def starting_reason(self) -> str: ...


class Owner(Protocol):
    """Who has to know what a proxy does."""

    def before_spawn(self) -> None:
        """A number is about to be given away: it is to be noted with the keeper first."""

    def changed(self) -> None:
        """The state of a proxy is another one."""

    def serves(self, proxy: str, revision: str, former: str) -> None:
        """A revision serves, in the place of ``former`` (empty: of none)."""

    def boot_message(self, proxy: str, generation: int, config: Config) -> dict[str, Any]:
        """What a new process needs to know; it holds keys."""

    def heard(self, proxy: str, generation: int, message: dict[str, Any]) -> None:
        """A process said something that is not about its own state."""

    def ended_process(self, proxy: str, generation: int) -> None:
        """A process is gone."""

    def closing(self) -> bool:
        """Whether the daemon ends: then the ports stay open until the keeper goes."""


class Runner:
    """One proxy: its state, its processes, its listening sockets. ``send`` gives the keeper an order."""

    def __init__(
        self,
        name: str,
        log: LogFile,
        folders: Folders,
        send: Callable[..., None],
        listeners: Listeners,
        starter: Starter,
        report: Reporter,
        owner: Owner,
    ) -> None:
        self.name = name
        self.log = log
        self._send = send
        self._listeners = listeners
        self._starter = starter
        self._report = report
        self._owner = owner
        self.state = core.Proxy(name, since=time.monotonic())
        self.configs: dict[str, Config] = {}
        self.ports = Opening(name, listeners, lambda: self.state.ports, self.feed)
        self.guests = Guests(
            name,
            log,
            lambda generation: spec.socket_path(folders, name, generation),
            self._on_message,
            lambda text: report.log.warning("a message was not understood", text=text),
        )
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Event] = []
        self._unavailable: Unavailable | None = None
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
        self._answer_for_it()
        self._owner.changed()
        for waiter in self._waiters:
            waiter.set()

    def _step(self, event: transitions.Event) -> None:
        self.state, actions = transitions.step(self.state, event, time.monotonic(), random.random())
        if any(isinstance(action, transitions.Spawn) for action in actions):
            # The number is written down before the order is given: a successor must not use it again.
            self._owner.before_spawn()
        failed: Exception | None = None
        for action in actions:
            try:
                self._act(action)
            except Exception as error:
                # The state says that all of it is done: the rest is, and then the failure is everybody's (see
                # ``Daemon.on_callback_error``).
                self._report.log.error("an action failed", proxy=self.name, text=repr(action), exc_info=error)
                failed = failed or error
        if failed is not None:
            raise failed

    def _answer_for_it(self) -> None:
        """Who cannot be served for long is told so, and why."""
        state = core.state_of(self.state)
        without = (State.CRASH_LOOP, State.FAILED, State.STOPPED, State.DISABLED)
        hopeless = state in without and not self.state.accepting()
        listeners = (
            [self._listeners.sockets[name] for name in self._listeners.of(self.name)] if hopeless else []
        )
        if listeners and self._unavailable is None:
            reason, step = self.explain()
            sentence = f"the {self.name} proxy does not serve: {reason.rstrip('.')}. {step}."
            self._unavailable = Unavailable(listeners, mask(sentence))
        elif not listeners and self._unavailable is not None:
            # Its copies would keep a port that was given up, and the next start would find it taken: by us.
            self._unavailable.close()
            self._unavailable = None

    def _act(self, action: transitions.Action) -> None:
        match action:
            case transitions.Spawn(generation, revision):
                self._spawn(generation, revision)
            case transitions.Accept(generation, listening):
                self._accept(generation, listening)
            case transitions.Drain(generation, limit, flowing):
                self.guests.tell(generation, "drain", limit=limit, flowing=flowing)
                since = " after the last byte" if flowing else ""
                self._report.event(
                    "draining", self.name, generation, f"no new connections, at most {limit:.0f} s{since}"
                )
            case transitions.Terminate(_, pid):
                self._send("kill", pid=pid, signal=int(signal.SIGTERM), group=False)
            case transitions.Abort(_, pid):
                self._send("kill", pid=pid, signal=int(signal.SIGABRT), group=False)
            case transitions.Kill(_, pid):
                self._send("kill", pid=pid, signal=int(signal.SIGKILL), group=True)
            case transitions.OpenPort(port):
                self.ports.open(port)
            case transitions.ClosePort(port):
                self._close_port(port)
            case transitions.Keep(revision, former):
                self._owner.serves(self.name, revision, former)
            case transitions.Announce(kind, text, generation):
                self._report.event(kind, self.name, generation, text)

    def _spawn(self, generation: int, revision: str) -> None:
        self._starter.spawn(
            tag(self.name, generation, revision),
            self.state.accepting(fresh=True) >= self.state.limits.workers,
            lambda pid, fds: self._spawned(generation, pid, fds),
            lambda reason, transient: self.feed(transitions.SpawnFailed(generation, reason, transient)),
        )

    def _close_port(self, port: int) -> None:
        if self._owner.closing():
            # The keeper closes them when it ends. A service manager that restarts us keeps them until then, and a
            # connection made meanwhile waits instead of being refused.
            return
        for member in self.state.members:
            self.guests.tell(member.generation, "release", port=port)
        self.ports.close(port)

    def _accept(self, generation: int, listening: frozenset[int]) -> None:
        channel = self.guests.channels.get(generation)
        if channel is None:
            return
        mine = [name for name in self._listeners.of(self.name) if port_of(name) in listening]
        fresh = [name for name in mine if name not in channel.given]
        channel.given.update(fresh)
        channel.send("accept", fds=[self._listeners.sockets[name].fileno() for name in fresh])

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = core.next_deadline(self.state)
        if deadline is not None:
            pause = max(0.0, deadline - time.monotonic()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(pause, self.feed, transitions.Tick())

    async def wait(self, fulfilled: Callable[[core.Proxy], bool], timeout: float | None) -> bool:
        """Wait until the state satisfies a condition; returns False when ``timeout`` (seconds) is over first."""
        news = asyncio.Event()
        self._waiters.append(news)
        try:
            async with asyncio.timeout(timeout):
                while not fulfilled(self.state):
                    await news.wait()
                    news.clear()
        except TimeoutError:
            return False
        finally:
            self._waiters.remove(news)
        return True

    # ------------------------------------------------------------------------------------------- processes

    def _spawned(self, generation: int, pid: int, fds: list[int]) -> None:
        member = self.state.member(generation)
        channel = self.guests.attach(generation, pid, fds)
        self._report.event("spawned", self.name, generation, f"pid {pid}")
        config = self.configs.get(member.revision) if member else None
        if member is not None and config is not None:
            self.boot(channel, generation, config)
        self.feed(transitions.Spawned(generation, pid, cold=self._starter.cold))

    def boot(self, channel: GuestChannel, generation: int, config: Config) -> None:
        """Tell a process what it is to serve."""
        message = self._owner.boot_message(self.name, generation, config)
        if self.state.accepting() >= self.state.limits.workers:
            # Nobody waits for this one: one request through LiteLLM's routes now, so that its first is not slow.
            message["warm"] = [{"method": "GET", "path": "/health/readiness"}]
        channel.send("boot", **message)

    def exited(self, pid: int, status: int, generation: int) -> None:
        """A process of ours is gone."""
        folders = [(config.path.parent, config.origin.parent) for config in self.configs.values()]
        reason = self.guests.end(pid, status, generation, folders)
        self._owner.ended_process(self.name, generation)
        self.feed(transitions.Exited(generation, status, reason))

    def _on_message(self, channel: GuestChannel, message: dict[str, Any]) -> None:
        kind = message.get("ev")
        generation = channel.generation
        if kind == "armed":
            self._reported(channel, transitions.Says.ARMED, message)
        elif kind == "accepting":
            self._report.event("accepting", self.name, generation)
            self._reported(channel, transitions.Says.ACCEPTING, message)
        elif kind == "accept-failed":
            # It is out of descriptors: the sockets are offered again with the next change, and with each status.
            channel.given.clear()
            self._report.log.warning(
                "accept-failed", proxy=self.name, generation=generation, text=message.get("error")
            )
        elif kind == "status":
            with contextlib.suppress(ValueError):
                self._reported(channel, transitions.Says(message.get("phase", "")), message)
            figures = self.guests.of(generation)
            figures.connections = int(message.get("connections", 0))
            figures.accepted = int(message.get("counters", {}).get("accepted", 0))
            self._owner.heard(self.name, generation, message)
        else:
            self._owner.heard(self.name, generation, message)

    def _reported(self, channel: GuestChannel, says: transitions.Says, message: dict[str, Any]) -> None:
        # A guest of an earlier version does not name its ports: it accepts on all that it was given.
        named = message.get("ports")
        listening = (
            frozenset(map(port_of, channel.given))
            if says is transitions.Says.ACCEPTING and named is None
            else frozenset(int(port) for port in named or ())
        )
        member = self.state.member(channel.generation)
        draining = member is not None and member.role == "draining"
        if says is transitions.Says.DRAINING and "quiet" not in message and draining:
            # Only its numbers: nothing that we do not know.
            return
        if says is transitions.Says.ARMED:
            channel.given.clear()
        quiet = float(message.get("quiet", 0.0))
        self.feed(transitions.Reported(channel.generation, says, listening, quiet))

    # ---------------------------------------------------------------------------------------------- status

    def explain(self) -> tuple[str, str]:
        """Why the proxy is in the state that it is in, and what to do; both empty where all is well."""
        p = self.state
        state = core.state_of(p)
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
                return p.spell.reason or self._starter.starting_reason(), ""
        return "", ""


def tag(proxy: str, generation: int, revision: str) -> str:
    """How the keeper knows a process: enough for a new supervisor to recognise it."""
    return json.dumps({"proxy": proxy, "generation": generation, "revision": revision})
