"""What keeper, supervisor, forkserver and guests say to each other: every message, once. Standard library only.

One JSON object a line (``frames.py``); ``"op"`` names the message, from a guest ``"ev"``. A field that has its
default is left out. Read strictly: a name that is not known, a missing field or one of another kind is refused with a
``Misfit`` that names it, and the reader goes on with the next message. A field that is not known is passed over: a
later version may have added it. The wire form is pinned by ``tests/unit/golden_ipc/``.

**Versions.** Keeper and supervisor say ``PROTOCOL`` in ``hello`` and ``state``; who says none is of version 0.1 (0).
Each understands every protocol from ``OLDEST`` to its own, and both speak the lower of the two. A change that an
older side would misread raises ``PROTOCOL``; a new field with a default, or a new message that is only sent to who
knows it, does not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args, get_origin

PROTOCOL = 2
#: the oldest that is still understood: a supervisor of new code under the keeper of 0.1
OLDEST = 0

Wire = dict[str, Any]
M = TypeVar("M")


class Misfit(ValueError):
    """A message that cannot be read. Names the message and the field, never a value."""


def common(theirs: int) -> int:
    """The protocol that both sides speak. Raises Misfit when there is none."""
    if theirs < OLDEST:
        raise Misfit(f"it speaks version {theirs} of our protocol, and the oldest that we know is {OLDEST}")
    return min(theirs, PROTOCOL)


# ------------------------------------------------------------------------------------------- supervisor → keeper


class Hello(NamedTuple):
    """The first one: who we are. The answer is State, a Process each, HostStarted, StateEnd."""

    protocol: int = 0
    version: str = ""


class Listen(NamedTuple):
    """Open a listening socket: TCP on ``host`` and ``port``, or a UNIX socket at ``path``."""

    name: str
    host: str = ""
    port: int = 0
    path: str = ""


class Unlisten(NamedTuple):
    name: str


class StartHost(NamedTuple):
    """Start the forkserver; what it says comes back as HostNews."""

    argv: list[str]
    env: dict[str, str]


class Spawn(NamedTuple):
    """Start a guest: ``how`` is fork (through the forkserver) or exec (argv, env). ``tag`` is the supervisor's own."""

    id: int
    tag: str
    how: str
    argv: list[str] = []
    env: dict[str, str] = {}


class Warm(NamedTuple):
    """Have the forkserver import what first requests need."""


class Kill(NamedTuple):
    """Signal a process, or its group. ``started`` is what Spawned or Process said: a pid may be used again."""

    pid: int
    signal: int
    group: bool = False
    started: float = 0.0


class Note(NamedTuple):
    """Opaque, for the next supervisor. ``seen``: the number of the last Exited that is worked into it."""

    text: str
    seen: int = 0


class Alive(NamedTuple):
    """The heartbeat."""


class Notify(NamedTuple):
    """Pass a text on to the service manager (sd_notify(3))."""

    text: str


class Reexec(NamedTuple):
    """Replace the keeper's code and then the supervisor, keeping everything."""

    argv: list[str]
    supervisor_argv: list[str] = []


class Hold(NamedTuple):
    """The sessions (pids) that were told of a port of ours: it stays ours until they end. Since protocol 2."""

    sessions: list[int]


class Exit(NamedTuple):
    """End every process that is left, then the keeper."""

    code: int = 0


# ------------------------------------------------------------------------------------------- keeper → supervisor


class State(NamedTuple):
    """What there is. With one descriptor for each name in ``listeners``."""

    pid: int
    listeners: list[str]
    notes: str
    exits: list[dict[str, Any]]
    restarts: int
    host: int = 0
    protocol: int = 0
    version: str = ""


class Process(NamedTuple):
    """A guest that lives; three descriptors: control socket, stdout, stderr."""

    pid: int
    tag: str
    started: float = 0.0


class StateEnd(NamedTuple):
    """Nothing more of the time before."""


class Listening(NamedTuple):
    """The socket is open; with its descriptor."""

    name: str


class ListenFailed(NamedTuple):
    name: str
    errno: int = 0
    error: str = ""


class Spawned(NamedTuple):
    """The guest runs; three descriptors as with Process."""

    id: int
    pid: int
    tag: str
    started: float = 0.0


class SpawnFailed(NamedTuple):
    """``transient``: trying again may help."""

    id: int
    error: str = ""
    transient: bool = False


class Exited(NamedTuple):
    """A guest ended: exit status, or minus the signal. Told again to each supervisor until a Note has seen it."""

    pid: int
    status: int
    tag: str
    time: float = 0.0
    number: int = 0


class HostStarted(NamedTuple):
    """The forkserver runs; with its stdout and stderr. ``old``: since before this supervisor."""

    pid: int
    old: bool = False


class HostFailed(NamedTuple):
    error: str = ""


class HostExited(NamedTuple):
    status: int


class HostNews(NamedTuple):
    """What the forkserver says: host-ready (version, seconds) and host-warm (seconds)."""

    event: str
    version: str = ""
    seconds: float = 0.0


class Signal(NamedTuple):
    """The keeper received TERM, INT or HUP."""

    name: str


class ReexecFailed(NamedTuple):
    """Nothing was replaced, everything goes on."""

    error: str = ""


class Refused(NamedTuple):
    """A message was not understood, or could not be followed. Only to who speaks protocol 1 or later."""

    what: str
    why: str


# ----------------------------------------------------------------------------------- keeper → forkserver, and back


class Fork(NamedTuple):
    """Fork a guest; three descriptors: control socket, stdout, stderr."""

    id: int


class Forked(NamedTuple):
    """``pid`` 0: it failed, for the reason in ``error``; the traceback is in the forkserver's output."""

    id: int
    pid: int
    error: str = ""


class Importing(NamedTuple):
    """The forkserver has begun."""


class HostReady(NamedTuple):
    version: str = ""
    seconds: float = 0.0


class HostWarm(NamedTuple):
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------- supervisor → guest


class Boot(NamedTuple):
    """What to be: environment, configuration, the boundary's policy (``ocd/supervisor/supervision/spec.py``)."""

    env: dict[str, str]
    cwd: str
    config: str
    socket: str
    args: list[str] = []
    path: list[str] = []
    policy: dict[str, Any] = {}
    fidelity: bool = False
    warm: list[dict[str, Any]] = []
    confine: Any = None
    pipe: Any = None
    contract: Any = None
    salt: str = ""


class Accept(NamedTuple):
    """Serve the listening sockets that come with it, too."""


class Drain(NamedTuple):
    """Accept nothing more, let what runs finish, end. ``limit`` in seconds, with ``flowing`` from the last byte."""

    limit: float = 600.0
    flowing: bool = False


class Release(NamedTuple):
    """Stop accepting on one port."""

    port: int


class Spill(NamedTuple):
    """Where main's requests go near the plan's limit (``ocd/supervisor/observation/limits.py``)."""


class Budget(NamedTuple):
    """What main does with requests for AWS while a budget is used up (``ocd/supervisor/observation/budget.py``)."""


class Trace(NamedTuple):
    """Whether whole exchanges are kept, and until when (``ocd/guest/trace.py``)."""


class Rebind(NamedTuple):
    """Make the private socket's file again."""


class AskStatus(NamedTuple):
    """Say Status; with ``after``, and once more each Request with a number above it."""

    after: int = 0


# ------------------------------------------------------------------------------------------- guest → supervisor


class GuestImporting(NamedTuple):
    """Spawn mode: it has begun to import LiteLLM."""

    pid: int = 0


class Version(NamedTuple):
    """Spawn mode: the version of LiteLLM that was imported."""

    version: str = ""


class Waiting(NamedTuple):
    """It waits for Boot."""

    pid: int = 0


class Confined(NamedTuple):
    """What the process is shut off from now (``ocd/guest/confine.py``)."""

    text: str = ""


class Armed(NamedTuple):
    """Its private socket answers."""

    warm_ms: int = 0


class Accepting(NamedTuple):
    """It serves the shared sockets, on these ports."""

    ports: list[int] = []


class AcceptFailed(NamedTuple):
    """The sockets did not arrive: the process is out of descriptors."""

    error: str = ""


class Drained(NamedTuple):
    left: int = 0
    seconds: float = 0.0


class Status(NamedTuple):
    phase: str = ""
    pid: int = 0
    connections: int = 0
    requests: int = 0
    in_flight: int = 0
    counters: dict[str, int] = {}
    ports: list[int] = []
    quiet: float = 0.0


class Request(NamedTuple):
    """One answered request; the other fields are the meter's (``ocd/guest/layers/meter.py``). ``number``: counted
    from 1 in each process; 0: it is of a version that does not count."""

    number: int = 0


class Report(NamedTuple):
    """News of a layer; further fields are its own."""

    kind: str = "report"


ToKeeper: TypeAlias = (
    Hello | Listen | Unlisten | StartHost | Spawn | Warm | Kill | Note | Alive | Notify | Reexec | Hold | Exit
)
FromKeeper: TypeAlias = (
    State
    | Process
    | StateEnd
    | Listening
    | ListenFailed
    | Spawned
    | SpawnFailed
    | Exited
    | HostStarted
    | HostFailed
    | HostExited
    | HostNews
    | Signal
    | ReexecFailed
    | Refused
)
ToForkserver: TypeAlias = Fork | Warm
FromForkserver: TypeAlias = Forked | Importing | HostReady | HostWarm
ToGuest: TypeAlias = Boot | Accept | Drain | Release | Spill | Budget | Trace | Rebind | AskStatus
FromGuest: TypeAlias = (
    GuestImporting
    | Version
    | Waiting
    | Confined
    | Armed
    | Accepting
    | AcceptFailed
    | Drained
    | Status
    | Request
    | Report
)

TO_KEEPER: dict[str, type[ToKeeper]] = {
    "hello": Hello,
    "listen": Listen,
    "unlisten": Unlisten,
    "host": StartHost,
    "spawn": Spawn,
    "warm": Warm,
    "kill": Kill,
    "note": Note,
    "alive": Alive,
    "notify": Notify,
    "reexec": Reexec,
    "hold": Hold,
    "exit": Exit,
}
FROM_KEEPER: dict[str, type[FromKeeper]] = {
    "state": State,
    "process": Process,
    "state-end": StateEnd,
    "listening": Listening,
    "listen-failed": ListenFailed,
    "spawned": Spawned,
    "spawn-failed": SpawnFailed,
    "exit": Exited,
    "host-started": HostStarted,
    "host-failed": HostFailed,
    "host-exit": HostExited,
    "host": HostNews,
    "signal": Signal,
    "reexec-failed": ReexecFailed,
    "refused": Refused,
}
TO_FORKSERVER: dict[str, type[ToForkserver]] = {"fork": Fork, "warm": Warm}
FROM_FORKSERVER: dict[str, type[FromForkserver]] = {
    "forked": Forked,
    "importing": Importing,
    "host-ready": HostReady,
    "host-warm": HostWarm,
}
TO_GUEST: dict[str, type[ToGuest]] = {
    "boot": Boot,
    "accept": Accept,
    "drain": Drain,
    "release": Release,
    "spill": Spill,
    "budget": Budget,
    "trace": Trace,
    "rebind": Rebind,
    "status": AskStatus,
}
FROM_GUEST: dict[str, type[FromGuest]] = {
    "importing": GuestImporting,
    "version": Version,
    "waiting": Waiting,
    "confined": Confined,
    "armed": Armed,
    "accepting": Accepting,
    "accept-failed": AcceptFailed,
    "drained": Drained,
    "status": Status,
    "request": Request,
    "report": Report,
}


def to_keeper(message: Wire) -> ToKeeper:
    """Raises Misfit, as all of these do."""
    return _build(TO_KEEPER, "op", message)


def from_keeper(message: Wire) -> FromKeeper:
    return _build(FROM_KEEPER, "op", message)


def to_forkserver(message: Wire) -> ToForkserver:
    return _build(TO_FORKSERVER, "op", message)


def from_forkserver(message: Wire) -> FromForkserver:
    return _build(FROM_FORKSERVER, "op", message)


def to_guest(message: Wire) -> ToGuest:
    return _build(TO_GUEST, "op", message)


def from_guest(message: Wire) -> FromGuest:
    return _build(FROM_GUEST, "ev", message)


_NAMES: dict[Any, str] = {
    kind: name
    for table in (TO_KEEPER, FROM_KEEPER, TO_FORKSERVER, FROM_FORKSERVER, TO_GUEST)
    for name, kind in table.items()
}


def wire(message: Any) -> Wire:
    """A message for keeper, supervisor or guest as ``frames.send`` takes it; a field with its default is left out."""
    return {"op": _NAMES[type(message)], **_told(message)}


def wire_event(message: FromGuest) -> Wire:
    """The same for what a guest says."""
    name = next(name for name, kind in FROM_GUEST.items() if kind is type(message))
    return {"ev": name, **_told(message)}


def _told(message: Any) -> Wire:
    defaults = message._field_defaults
    return {
        name: value
        for name, value in message._asdict().items()
        if name not in defaults or value != defaults[name]
    }


def _build(table: Mapping[str, type[M]], key: str, message: Wire) -> M:
    name = message.get(key)
    kind: Any = table.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Misfit(f"{_word(name)} is not a message that we know")
    fields = {}
    for field, wanted in kind.__annotations__.items():
        if field in message:
            if not _fits(message[field], wanted):
                raise Misfit(
                    f"{name}: {field} is not {_KINDS.get(get_origin(wanted) or wanted, 'as expected')}"
                )
            fields[field] = message[field]
        elif field not in kind._field_defaults:
            raise Misfit(f"{name}: {field} is missing")
    made: M = kind(**fields)
    return made


_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list as expected",
    dict: "an object as expected",
}
#: what a C long takes: pids, ports, signals and sizes go to the operating system
_LARGEST = 2**63 - 1


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value read from JSON is of the kind that a field's annotation says."""
    if wanted is Any:
        return True
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if wanted is bool or isinstance(value, bool):
        return wanted is bool and isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and abs(value) <= _LARGEST
    if wanted is float:
        return isinstance(value, (int, float)) and abs(value) <= _LARGEST
    return wanted is str and isinstance(value, str)


def _word(name: object) -> str:
    """What stands for a message's name, harmless in a log."""
    return ascii(name)[:40] if isinstance(name, str) else "a message without a name"
