"""What survives a supervisor: notes with the keeper, processes that answer for themselves, the last good revision."""

import contextlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocd import atomic
from ocd.core import notes as core_notes
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.supervisor import spec
from ocd.supervisor.unit import Config, port_of

if TYPE_CHECKING:
    from ocd.supervisor.daemon import Daemon
    from ocd.supervisor.unit import Unit

_KILL = 9


class Handover:
    """What the keeper says about the time before us, collected until it is complete."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self.exits: list[dict[str, Any]] = []
        self.processes: list[tuple[dict[str, Any], list[int]]] = []
        self.listeners: dict[str, int] = {}
        self.host: tuple[int, list[int]] | None = None
        self.restarts = 0

    def proxy(self, name: str) -> dict[str, Any]:
        """What was noted about one proxy."""
        return dict(self.notes.get("proxies", {}).get(name, {}))

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
    proxies = {
        name: {
            "state": core_notes.dump(unit.state),
            "configs": {r: [str(c.path), str(c.origin), c.settings_id] for r, c in unit.configs.items()},
        }
        for name, unit in daemon.units.items()
    }
    return json.dumps(
        {
            "started": daemon.started,
            "proxies": proxies,
            "sessions": daemon.sessions.notes(),
            "exchanges": daemon.exchanges.notes(),
            "limits": daemon.limits.notes(),
            "usage": daemon.usage.notes(),
            "budget": daemon.budget.notes(),
            "litellm": daemon.litellm_version,
            "host": daemon.host.runs,
        }
    )


def restore(daemon: "Daemon") -> bool:
    """Take over sockets, processes, history; returns whether there was somebody before us."""
    handover = daemon.handover
    assert handover is not None
    for name, fd in handover.listeners.items():
        daemon.listeners[name] = socket.socket(fileno=fd)
    daemon.started = handover.notes.get("started", daemon.started)
    daemon.litellm_version = handover.notes.get("litellm", "")
    for name, unit in daemon.units.items():
        _restore_state(daemon, unit, handover.proxy(name))
    found: dict[str, list[transitions.Found]] = {name: [] for name in daemon.units}
    for message, fds in handover.processes:
        _attach(daemon, message, fds, found)
    if handover.host is not None:
        daemon.host.on_started(*handover.host, True)
        daemon.host.runs = handover.notes.get("host", "")
    for name, unit in daemon.units.items():
        _adopt(daemon, unit, found[name], _exits(handover, name))
    daemon.exchanges.restore(handover.notes.get("exchanges", {}))
    daemon.limits.restore(handover.notes.get("limits", []))
    daemon.budget.restore(handover.notes.get("budget"))
    daemon.usage.restore(handover.notes.get("usage", {}))
    daemon.overlays.restore(handover.notes)
    return bool(handover.notes)


def _restore_state(daemon: "Daemon", unit: "Unit", known: dict[str, Any]) -> None:
    """Begin where the notes end; notes of another form are left out, and what runs is adopted all the same."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        state = core_notes.load(unit.name, known["state"])
        for revision, (path, origin, settings_id) in known["configs"].items():
            settings = daemon.settings_file.kept(settings_id) or daemon.settings
            unit.configs[revision] = Config(revision, Path(path), Path(origin), settings, settings_id)
        unit.state = state
    if "state" not in known and known:
        # Version 0.1.0: the wishes count, the rest is asked of the processes.
        wanted, number = known.get("wanted"), known.get("next_generation")
        unit.state = replace(
            unit.state,
            stopped=wanted == "stopped",
            asleep=wanted == "idle",
            next_generation=number if isinstance(number, int) else 1,
        )
    # Nothing happens yet: what is there comes first.
    adjust = spec.adjust(daemon.settings, unit.name)
    port = unit.state.ports.wanted or adjust.port
    ports = replace(unit.state.ports, wanted=port)
    unit.state = replace(unit.state, limits=adjust.limits, enabled=adjust.enabled, ports=ports)


def _attach(
    daemon: "Daemon", message: dict[str, Any], fds: list[int], found: dict[str, list[transitions.Found]]
) -> None:
    """A process that a former supervisor started: recognised by its tag, or ended if nobody can use it."""
    pid = message["pid"]
    try:
        tag = json.loads(message["tag"])
        unit = daemon.units[tag["proxy"]]
        generation, revision = int(tag["generation"]), str(tag["revision"])
        noted = unit.state.member(generation)
        if noted is not None and noted.pid not in (None, pid):
            raise ValueError("another process has this number")
    except (ValueError, KeyError, TypeError):
        for fd in fds:
            os.close(fd)
        daemon.link.send("kill", pid=pid, signal=_KILL, group=True)
        return
    channel = unit.attach(generation, pid, fds)
    unit.adopted.add(generation)
    # Of what a version before this one noted nothing is known: it may accept on all that is open.
    mine = unit.own_listeners()
    channel.given.update(name for name in mine if noted is None or port_of(name) in noted.ports)
    found[unit.name].append(transitions.Found(generation, pid, revision))


def _exits(handover: Handover, name: str) -> dict[int, int]:
    """How processes of a proxy ended while no supervisor looked, by generation."""
    statuses = {}
    for message in handover.exits:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            tag = json.loads(message["tag"])
            if tag["proxy"] == name:
                statuses[int(tag["generation"])] = int(message["status"])
    return statuses


def _adopt(daemon: "Daemon", unit: "Unit", found: list[transitions.Found], statuses: dict[int, int]) -> None:
    """Begin with the processes that are there; those that ended meanwhile ended like others: counted, explained,
    cleaned up after. How may be unknown: the keeper's news of it may have died with the supervisor it was sent to."""
    unit.feed(transitions.Adopt(tuple(found), unit.open_ports()))
    living = {one.generation for one in found}
    for member in unit.state.members:
        if member.generation not in living:
            unit.on_exit(member.pid or 0, statuses.get(member.generation, -_KILL), member.generation)
    for one in found:
        adopted = unit.state.member(one.generation)
        config = unit.configs.get(one.revision)
        channel = unit.by_generation[one.generation]
        if adopted is not None and adopted.phase_is(core.Booting) and config is not None:
            # The order may have died with our predecessor: say it again, a guest that has booted does not listen.
            channel.send("boot", **daemon.boot_message(unit, one.generation, config))
        channel.send("status")
    unit.feed(spec.adjust(daemon.settings, unit.name))


def remember_good(daemon: "Daemon", name: str, config: Config) -> None:
    """Write down which revision has been ready: the next daemon serves it when the files are broken by then."""
    path = daemon.folders.state / "revisions" / name / "good.json"
    text = json.dumps(
        {
            "revision": config.revision,
            "path": str(config.path),
            "origin": str(config.origin),
            "settings": config.settings_id,
        }
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.replace(path, text)
    except OSError as error:
        daemon.log.warning("the last good revision could not be noted", proxy=name, error=error.strerror)
    from ocd.stack import snapshot

    unit = daemon.units[name]
    keep = {r.split("-")[0] for r in (unit.state.good, unit.state.revision)}
    keep |= {m.revision.split("-")[0] for m in unit.state.members}
    with contextlib.suppress(OSError):
        snapshot.prune(daemon.folders, name, keep)
    forget_settings(daemon, config)


def forget_settings(daemon: "Daemon", *more: Config) -> None:
    """Remove what is kept of ``ocd.toml`` for revisions that nobody can come back to: its secrets may have gone."""
    configs = [c for u in daemon.units.values() for c in u.configs.values()]
    others = [last_good(daemon, other) for other in daemon.units]
    daemon.settings_file.prune({c.settings_id for c in [*more, *configs, *others] if c is not None})


def last_good(daemon: "Daemon", name: str) -> Config | None:
    """The revision that an earlier daemon served last, if its snapshot is still there."""
    path = daemon.folders.state / "revisions" / name / "good.json"
    try:
        known = json.loads(path.read_text())
        kept = known.get("settings", "")
        settings = daemon.settings_file.kept(kept) or daemon.settings
        # The ports are today's: the other proxy may have moved.
        ports = {"port": daemon.settings.port, "bedrock_port": daemon.settings.bedrock_port}
        settings = settings.model_copy(update=ports)
        config = Config(known["revision"], Path(known["path"]), Path(known["origin"]), settings, kept)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return config if config.path.is_file() else None
