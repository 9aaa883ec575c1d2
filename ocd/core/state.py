"""What is known about one proxy, and what follows from it. Types and derived views only; ``step`` has the transitions.

Three things are kept apart: what is *wanted* (``enabled`` by the configuration, ``stopped`` by the operator, ``asleep``
by the idle timer, the port, the revision), what is *observed* (members, open ports, who holds a port, silence), and
the *status*, which is never stored but derived (``state_of``): so it cannot say "ready" where nobody listens.
All times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from ocd.core.restart import Spell


class State(StrEnum):
    """What people and programs see of a proxy: the wire, the CLI, the doctor, the installer and the documents."""

    #: the configuration has switched it off
    DISABLED = "disabled"
    #: stopped with ``occtl stop``
    STOPPED = "stopped"
    #: on its way to stopped or disabled: the last answers are being given
    DRAINING = "draining"
    #: nobody needs it; the port is open and wakes it
    IDLE = "idle"
    STARTING = "starting"
    #: the wanted port is open and a process accepts on it
    READY = "ready"
    #: another program has the wanted port
    BLOCKED = "blocked"
    #: processes do not come up; tried again more and more slowly, and at once when the configuration changes
    CRASH_LOOP = "crash-loop"
    #: there is no configuration that could be served
    FAILED = "failed"

    @property
    def hopeless(self) -> bool:
        """Nothing good is to be expected soon without somebody's help: whoever waits may stop waiting."""
        return self in (State.BLOCKED, State.CRASH_LOOP, State.FAILED)

    @property
    def well(self) -> bool:
        """As it should be: a request is, or would be, served."""
        return self in (State.READY, State.IDLE)

    @property
    def off(self) -> bool:
        """Somebody wants it so: neither a trouble nor something to wait for."""
        return self in (State.DISABLED, State.STOPPED, State.DRAINING)


class Wanted(StrEnum):
    """What is wanted of the processes, everything considered (``Proxy.wanted``)."""

    UP = "up"
    STOPPED = "stopped"
    IDLE = "idle"


class Cause(StrEnum):
    """Why a process goes or went. Different causes are never mixed up in status and events."""

    CRASH = "crash"
    BOOT_FAILURE = "boot-failure"
    HANG = "hang"
    MEMORY = "memory"
    OPERATOR = "operator"
    RELOAD = "reload"
    IDLE = "idle"
    SURPLUS = "surplus"
    COLD_START = "cold-start"


# ------------------------------------------------------------------------------------------------- members


@dataclass(frozen=True, slots=True)
class Spawning:
    deadline: float


@dataclass(frozen=True, slots=True)
class Booting:
    pid: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Armed:
    pid: int


@dataclass(frozen=True, slots=True)
class Accepting:
    """Told to accept, and not heard of since: it does not serve yet."""

    pid: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Serving:
    """It has said that it accepts."""

    pid: int
    since: float


@dataclass(frozen=True, slots=True)
class Draining:
    """``flowing``: its limit counts from the last byte that it sent; else the deadline is final."""

    pid: int
    deadline: float
    cause: Cause
    flowing: bool = False


@dataclass(frozen=True, slots=True)
class Stopping:
    pid: int
    deadline: float
    cause: Cause


Phase = Spawning | Booting | Armed | Accepting | Serving | Draining | Stopping

_ROLES: dict[type, str] = {
    Spawning: "booting",
    Booting: "booting",
    Armed: "spare",
    Accepting: "accepting",
    Serving: "serving",
    Draining: "draining",
    Stopping: "stopping",
}


@dataclass(frozen=True, slots=True)
class Silence:
    """It has not answered since; ``suspect``: often enough to believe that it hangs."""

    since: float
    misses: int
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a proxy, known by its generation.

    ``leaving``: why it is to be replaced. ``told``: the ports that it was told to accept on, ``ports``: those that it
    says it accepts on. ``cold``: it was forked before the forkserver had everything that requests need.
    """

    generation: int
    revision: str
    phase: Phase
    leaving: Cause | None = None
    silence: Silence | None = None
    cold: bool = False
    told: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()

    @property
    def pid(self) -> int | None:
        return None if isinstance(self.phase, Spawning) else self.phase.pid

    @property
    def role(self) -> str:
        return _ROLES[type(self.phase)]

    @property
    def suspect(self) -> bool:
        """It seems to hang: another must serve beside it."""
        return self.silence is not None and self.silence.suspect

    def phase_is(self, *kinds: type[Phase]) -> bool:
        return isinstance(self.phase, kinds)


# --------------------------------------------------------------------------------------------------- ports


@dataclass(frozen=True, slots=True)
class Holder:
    """A foreign process on our port; what could not be known is empty. ``error``: not a process, but why the port
    cannot be opened."""

    pid: int | None = None
    user: str = ""
    command: str = ""
    since: float | None = None
    address: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ports:
    """``wanted`` is what the configuration says, ``open`` what the keeper listens on for us.

    ``due``: when to ask for the wanted port (again); None: an answer has come and it is open, or nothing is asked.
    ``holder``: who has the wanted port. ``held``: ports that living sessions were told of; None: not known yet, so
    that none may be closed.
    """

    wanted: int = 0
    open: frozenset[int] = frozenset()
    due: float | None = None
    holder: Holder | None = None
    held: frozenset[int] | None = None

    @property
    def ready(self) -> bool:
        return self.wanted in self.open


# --------------------------------------------------------------------------------------------------- proxy


@dataclass(frozen=True, slots=True)
class Limits:
    """Policy, all times in seconds."""

    workers: int = 1
    spares: int = 1
    start_timeout: float = 60.0
    accept_timeout: float = 5.0
    drain_timeout: float = 600.0
    stop_timeout: float = 10.0
    abort_timeout: float = 2.0
    hang_timeout: float = 30.0
    liveness_misses: int = 2
    max_draining: int = 8


@dataclass(frozen=True, slots=True)
class Rejection:
    """A newer configuration that does not serve, and why."""

    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Proxy:
    """Everything that is known about one proxy. ``revision`` is what should serve, ``good`` what has served.

    ``warm``: the forkserver that forks its members has everything that requests need.
    """

    name: str
    limits: Limits = field(default_factory=Limits)
    enabled: bool = True
    stopped: bool = False
    asleep: bool = False
    revision: str = ""
    good: str = ""
    rejected: Rejection | None = None
    ports: Ports = field(default_factory=Ports)
    members: tuple[Member, ...] = ()
    next_generation: int = 1
    warm: bool = False
    spell: Spell = field(default_factory=Spell)
    restarts: int = 0
    last_cause: Cause | None = None
    last_reason: str = ""
    since: float = 0.0

    @property
    def wanted(self) -> Wanted:
        if not self.enabled or self.stopped:
            return Wanted.STOPPED
        return Wanted.IDLE if self.asleep else Wanted.UP

    def member(self, generation: int) -> Member | None:
        return next((m for m in self.members if m.generation == generation), None)

    def put(self, member: Member) -> Proxy:
        """This proxy with the member added or replaced; members stay in the order of their generations."""
        others = [m for m in self.members if m.generation != member.generation]
        return replace(self, members=tuple(sorted([*others, member], key=lambda m: m.generation)))

    def drop(self, generation: int) -> Proxy:
        return replace(self, members=tuple(m for m in self.members if m.generation != generation))

    def fresh(self, member: Member) -> bool:
        """Whether the member is what is wanted now."""
        return member.revision == self.revision and member.leaving is None

    def accepting(self, fresh: bool = False) -> int:
        """How many answer, or are about to: told to accept and not suspected of hanging."""
        return sum(
            m.phase_is(Accepting, Serving) and not m.suspect and (self.fresh(m) or not fresh)
            for m in self.members
        )

    def serving(self, fresh: bool = False) -> int:
        """How many have said that they accept on a port of ours, and are not suspected of hanging."""
        return sum(
            m.phase_is(Serving) and not m.suspect and (self.fresh(m) or not fresh) for m in self.members
        )


# ------------------------------------------------------------------------------------------------- derived


def state_of(p: Proxy) -> State:
    """The state that people see."""
    if not p.enabled or p.stopped:
        if p.members:
            return State.DRAINING
        return State.STOPPED if p.enabled else State.DISABLED
    if not p.ports.ready and p.ports.holder is not None:
        return State.BLOCKED
    if p.asleep:
        return State.IDLE if p.ports.ready else State.STARTING
    if p.ports.ready and any(
        m.phase_is(Serving) and not m.suspect and p.ports.wanted in m.ports for m in p.members
    ):
        return State.READY
    if not p.revision:
        return State.FAILED if p.rejected else State.STARTING
    return State.CRASH_LOOP if p.spell.looping else State.STARTING


def settled(p: Proxy) -> bool:
    """Whether nothing more is to come without news from outside: the wish is fulfilled."""
    if p.wanted is not Wanted.UP:
        return not any(m.phase_is(Spawning, Booting, Armed, Accepting, Serving) for m in p.members)
    stale = any(not p.fresh(m) for m in p.members if m.phase_is(Accepting, Serving))
    return state_of(p) is State.READY and p.serving(fresh=True) >= p.limits.workers and not stale


def next_deadline(p: Proxy) -> float | None:
    """When something happens by the clock alone (monotonic seconds), or None. Derived, so none can be forgotten."""
    waiting = Spawning | Booting | Accepting | Draining | Stopping
    times = [m.phase.deadline for m in p.members if isinstance(m.phase, waiting)]
    if p.spell.not_before is not None and p.wanted is Wanted.UP:
        times.append(p.spell.not_before)
    if p.ports.due is not None and p.wanted is not Wanted.STOPPED:
        times.append(p.ports.due)
    return min(times) if times else None


def describe_holder(holder: Holder | None) -> str:
    """One sentence about who has the port."""
    if holder is None or holder.error:
        return holder.error if holder else ""
    who = f"pid {holder.pid}" if holder.pid else "a process whose pid cannot be seen"
    if holder.user:
        who += f" of {holder.user}"
    text = f"{who} listens on {holder.address}" if holder.address else who
    return f"{text}: {holder.command}" if holder.command else text
