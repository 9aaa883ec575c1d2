"""Taking over from a supervisor that ended: its notes, the sockets, and processes that answer for themselves."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ocd.core import notes as core_notes
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.config import Config
from ocd.supervisor.supervision.listeners import Listeners, port_of
from ocd.supervisor.supervision.runner import Runner

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
        """One message of the keeper's about what there is."""
        if message["op"] == "state":
            with contextlib.suppress(ValueError):
                self.notes = json.loads(message["notes"] or "{}")
            self.exits = message["exits"]
            self.restarts = message["restarts"]
            self.listeners = dict(zip(message["listeners"], fds, strict=True))
        elif message["op"] == "process":
            self.processes.append((message, fds))

    def exit_statuses(self, name: str) -> dict[int, int]:
        """How processes of a proxy ended while no supervisor looked, by generation."""
        statuses = {}
        for message in self.exits:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                tag = json.loads(message["tag"])
                if tag["proxy"] == name:
                    statuses[int(tag["generation"])] = int(message["status"])
        return statuses


def proxy_notes(runner: Runner) -> dict[str, Any]:
    """History and wishes of a proxy; what its processes are is asked of themselves."""
    return {
        "state": core_notes.dump(runner.state),
        "configs": {r: [str(c.path), str(c.origin), c.settings_id] for r, c in runner.configs.items()},
    }


def restore(
    handover: Handover,
    runners: Mapping[str, Runner],
    listeners: Listeners,
    settings: Settings,
    kept: Callable[[str], Settings | None],
    send: Callable[..., None],
    told: Callable[[str, int], int] | None,
) -> None:
    """Give each proxy its history, its sockets and its processes. ``kept`` finds the settings of a revision by their
    name, ``send`` gives the keeper an order, ``told`` says up to which number a process's reports are known; None:
    nobody knows."""
    listeners.adopt(handover.listeners)
    for name, runner in runners.items():
        _restore_state(runner, handover.proxy(name), settings, kept)
    found: dict[str, list[transitions.Found]] = {name: [] for name in runners}
    for message, fds in handover.processes:
        one = _attach(runners, listeners, message, fds)
        if one is None:
            for fd in fds:
                os.close(fd)
            send("kill", pid=message["pid"], signal=_KILL, group=True)
        else:
            found[one[0]].append(one[1])
    for name, runner in runners.items():
        _adopt(runner, found[name], handover.exit_statuses(name), told)
        runner.feed(spec.adjust(settings, name))


def _restore_state(
    runner: Runner, known: dict[str, Any], now: Settings, kept: Callable[[str], Settings | None]
) -> None:
    """Begin where the notes end; notes of another form are left out, and what runs is adopted all the same."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        state = core_notes.load(runner.name, known["state"])
        for revision, (path, origin, settings_id) in known["configs"].items():
            settings = kept(settings_id) or now
            runner.configs[revision] = Config(revision, Path(path), Path(origin), settings, settings_id)
        runner.state = state
    if "state" not in known and known:
        # Version 0.1.0: the wishes count, the rest is asked of the processes.
        wanted, number = known.get("wanted"), known.get("next_generation")
        runner.state = replace(
            runner.state,
            stopped=wanted == "stopped",
            asleep=wanted == "idle",
            next_generation=number if isinstance(number, int) else 1,
        )
    # Nothing happens yet: what is there comes first.
    adjust = spec.adjust(now, runner.name)
    port = runner.state.ports.wanted or adjust.port
    ports = replace(runner.state.ports, wanted=port)
    runner.state = replace(runner.state, limits=adjust.limits, enabled=adjust.enabled, ports=ports)


def _attach(
    runners: Mapping[str, Runner], listeners: Listeners, message: dict[str, Any], fds: list[int]
) -> tuple[str, transitions.Found] | None:
    """A process that a former supervisor started, recognised by its tag; None: nobody can use it."""
    pid = message["pid"]
    try:
        tag = json.loads(message["tag"])
        runner = runners[tag["proxy"]]
        generation, revision = int(tag["generation"]), str(tag["revision"])
    except (ValueError, KeyError, TypeError):
        return None
    noted = runner.state.member(generation)
    if noted is not None and noted.pid not in (None, pid):
        # Another process has this number.
        return None
    channel = runner.guests.attach(generation, pid, fds)
    runner.guests.adopted.add(generation)
    # Of what a version before this one noted nothing is known: it may accept on all that is open.
    mine = listeners.of(runner.name)
    channel.given.update(name for name in mine if noted is None or port_of(name) in noted.ports)
    return runner.name, transitions.Found(generation, pid, revision)


def _adopt(
    runner: Runner,
    found: list[transitions.Found],
    statuses: dict[int, int],
    told: Callable[[str, int], int] | None,
) -> None:
    """Begin with the processes that are there; those that ended meanwhile ended like others: counted, explained,
    cleaned up after. How may be unknown: the keeper's news of it may have died with the supervisor it was sent to."""
    runner.feed(transitions.Adopt(tuple(found), runner.ports.ports()))
    living = {one.generation for one in found}
    for member in runner.state.members:
        if member.generation not in living:
            runner.exited(member.pid or 0, statuses.get(member.generation, -_KILL), member.generation)
    for one in found:
        adopted = runner.state.member(one.generation)
        config = runner.configs.get(one.revision)
        channel = runner.guests.channels[one.generation]
        if adopted is not None and adopted.phase_is(core.Booting) and config is not None:
            # The order may have died with our predecessor: say it again, a guest that has booted does not listen.
            runner.boot(channel, one.generation, config)
        # What our predecessor heard and had not noted is told once more.
        known = {} if told is None else {"after": told(runner.name, one.generation)}
        channel.send("status", None, **known)
