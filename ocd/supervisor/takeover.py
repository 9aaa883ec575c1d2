"""What survives a supervisor: notes with the keeper, processes that answer for themselves, the last good revision."""

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocd.core import proxy as core
from ocd.supervisor.unit import Config

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon
    from ocd.supervisor.link import GuestChannel
    from ocd.supervisor.unit import Unit

_KILL = 9


class Former:
    """What the keeper says about the time before us, collected until it is complete."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self.exits: list[dict[str, Any]] = []
        self.processes: list[tuple[dict[str, Any], list[int]]] = []
        self.listeners: dict[str, int] = {}
        self.host: tuple[int, list[int]] | None = None
        self.restarts = 0

    def take(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "state":
            with contextlib.suppress(ValueError):
                self.notes = json.loads(message["notes"] or "{}")
            self.exits = message["exits"]
            self.restarts = message["restarts"]
            self.listeners = dict(zip(message["listeners"], fds, strict=True))
        elif message["op"] == "process":
            self.processes.append((message, fds))


def notes(daemon: "Daemon") -> str:
    """History and wishes; what the processes are is asked of themselves."""
    proxies = {}
    for name, unit in daemon.units.items():
        p = unit.state
        proxies[name] = {
            "wanted": str(p.wanted),
            "revision": p.revision,
            "good": p.good,
            "rejected": [p.rejected.revision, p.rejected.reason] if p.rejected else None,
            "restarts": p.restarts,
            "next_generation": p.next_generation,
            "failure": asdict(p.failure),
            "last_cause": p.last_cause,
            "last_reason": p.last_reason,
            "since": p.since,
            "port": unit.port,
            "roles": {str(m.generation): m.role for m in p.members},
            "pids": {str(m.generation): m.pid for m in p.members},
            "revisions": {str(m.generation): m.revision for m in p.members},
            "serving_since": {
                str(m.generation): m.phase.since for m in p.members if isinstance(m.phase, core.Serving)
            },
            "configs": {r: [str(c.path), str(c.origin)] for r, c in unit.configs.items()},
        }
    return json.dumps(
        {
            "started": daemon.started,
            "proxies": proxies,
            "sessions": daemon.sessions.notes(),
            "exchanges": daemon.exchanges.notes(),
            "usage": daemon.usage.notes(),
            "litellm": daemon.litellm_version,
            "host": daemon.host.runs,
        }
    )


def restore(daemon: "Daemon") -> bool:
    """Take over sockets, processes, history; returns whether there was somebody before us."""
    former = daemon.former
    assert former is not None
    for name, fd in former.listeners.items():
        daemon.listeners[name] = socket.socket(fileno=fd)
    daemon.started = former.notes.get("started", daemon.started)
    daemon.litellm_version = former.notes.get("litellm", "")
    for name, unit in daemon.units.items():
        _restore_state(unit, former.notes.get("proxies", {}).get(name, {}))
    found: dict[str, list[core.Member]] = {name: [] for name in daemon.units}
    for message, fds in former.processes:
        _attach(daemon, message, fds, found)
    if former.host is not None:
        daemon.host.on_started(*former.host, True)
        daemon.host.runs = former.notes.get("host", "")
    for name, unit in daemon.units.items():
        living = found[name]
        dead = _dead(unit, former, {m.generation for m in living})
        port_open = any(listener in daemon.listeners for listener in unit.listener_names())
        if living or dead or port_open:
            unit.feed(core.Adopt((*living, *(member for member, _status in dead)), port_open))
        for member in living:
            unit.tell(member.generation, "status")
        for member, status in dead:
            unit.on_exit(member.pid or 0, status, member.generation)
    daemon.exchanges.restore(former.notes.get("exchanges", {}))
    daemon.usage.restore(former.notes.get("usage", {}))
    daemon.sessions.restore(former.notes.get("sessions", []), daemon.folders.runtime / "sessions")
    return bool(former.notes)


def _dead(unit: "Unit", former: Former, living: set[int]) -> list[tuple[core.Member, int]]:
    """Members that ended while no supervisor looked: failures like others, counted, explained, cleaned up after.

    How one ended may be unknown: the keeper's news of it may have died with the supervisor that it was sent to.
    """
    statuses = {}
    for message in former.exits:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            tag = json.loads(message["tag"])
            if tag["proxy"] == unit.name:
                statuses[int(tag["generation"])] = int(message["status"])
    found = []
    for text, role in unit.restored.get("roles", {}).items():
        pid = unit.restored.get("pids", {}).get(text)
        if int(text) in living or pid is None:
            continue
        revision = unit.restored.get("revisions", {}).get(text, "")
        member = core.Member(int(text), revision, _phase(unit, role, pid, text))
        found.append((member, statuses.get(int(text), -_KILL)))
    return found


def _phase(unit: "Unit", role: str, pid: int, generation: str) -> core.Phase:
    """A member's phase from what the notes call its role."""
    now = time.monotonic()
    limits = unit.state.limits
    match role:
        case "serving":
            return core.Serving(pid, unit.restored.get("serving_since", {}).get(generation, now))
        case "spare":
            return core.Armed(pid)
        case "draining":
            return core.Draining(pid, now + limits.drain_timeout, core.Cause.RELOAD)
        case "stopping":
            return core.Stopping(pid, now + limits.stop_timeout, core.Cause.OPERATOR)
        case _:
            return core.Booting(pid, now + limits.start_timeout)


def _restore_state(unit: "Unit", known: dict[str, Any]) -> None:
    if not known:
        return
    with contextlib.suppress(KeyError, TypeError, ValueError):
        failure = known["failure"]
        cause = core.Cause(failure["cause"]) if failure["cause"] else None
        unit.state = core.Proxy(
            unit.name,
            limits=unit.state.limits,
            wanted=core.Wanted(known["wanted"]),
            revision=known["revision"],
            good=known["good"],
            rejected=core.Rejection(*known["rejected"]) if known["rejected"] else None,
            next_generation=known["next_generation"],
            failure=core.Failure(
                tuple(failure["times"]), failure["retry_at"], failure["looping"], failure["reason"], cause
            ),
            restarts=known["restarts"],
            last_cause=core.Cause(known["last_cause"]) if known["last_cause"] else None,
            last_reason=known["last_reason"],
            since=known["since"],
        )
        unit.port = known["port"]
        unit.configs = {r: Config(r, Path(p), Path(o)) for r, (p, o) in known["configs"].items()}
        unit.restored = known


def _attach(
    daemon: "Daemon", message: dict[str, Any], fds: list[int], found: dict[str, list[core.Member]]
) -> None:
    """A process that a former supervisor started: recognised by its tag, or ended if nobody can use it."""
    pid = message["pid"]
    try:
        tag = json.loads(message["tag"])
        unit = daemon.units[tag["proxy"]]
        generation, revision = int(tag["generation"]), str(tag["revision"])
    except (ValueError, KeyError, TypeError):
        for fd in fds:
            os.close(fd)
        daemon.link.send("kill", pid=pid, signal=_KILL, group=True)
        return
    role = unit.restored.get("roles", {}).get(str(generation), "booting")
    channel = unit.attach(generation, pid, fds)
    if role in ("serving", "draining"):
        channel.given.update(unit.own_listeners())
    found[unit.name].append(core.Member(generation, revision, _phase(unit, role, pid, str(generation))))
    config = unit.configs.get(revision)
    if role == "booting" and config is not None:
        # The order may have died with our predecessor: say it again, a guest that has booted does not listen.
        channel.send("boot", **daemon.boot_message(unit, generation, config))


def on_guest_status(unit: "Unit", channel: "GuestChannel", message: dict[str, Any]) -> None:
    """What an adopted process says of itself corrects what the notes said."""
    member = unit.state.member(channel.generation)
    if member is None:
        return
    phase = message.get("phase")
    if phase == "armed" and member.phase_is(core.Booting):
        unit.feed(core.Ready(channel.generation))
    elif phase == "armed" and member.phase_is(core.Serving):
        # It was to accept, but the order was lost on the way.
        channel.given.clear()
        unit.offer_listeners()


def remember_good(daemon: "Daemon", name: str, config: Config) -> None:
    """Write down which revision has been ready: the next daemon serves it when the files are broken by then."""
    path = daemon.folders.state / "revisions" / name / "good.json"
    text = json.dumps({"revision": config.revision, "path": str(config.path), "origin": str(config.origin)})
    temporary = path.with_name(f".good.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        daemon.log.warning("the last good revision could not be noted", proxy=name, error=error.strerror)
        with contextlib.suppress(OSError):
            temporary.unlink()
    from ocd.stack import snapshot

    unit = daemon.units[name]
    keep = {r.split("-")[0] for r in (unit.state.good, unit.state.revision)}
    keep |= {m.revision.split("-")[0] for m in unit.state.members}
    with contextlib.suppress(OSError):
        snapshot.prune(daemon.folders, name, keep)


def last_good(daemon: "Daemon", name: str) -> Config | None:
    """The revision that an earlier daemon served last, if its snapshot is still there."""
    path = daemon.folders.state / "revisions" / name / "good.json"
    try:
        known = json.loads(path.read_text())
        config = Config(known["revision"], Path(known["path"]), Path(known["origin"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return config if config.path.is_file() else None
