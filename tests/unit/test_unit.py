"""What the supervisor does with the core's decisions, without any process: orders, answers, mistakes of its own."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ocd.adapters import ports
from ocd.core import state as core
from ocd.core import step as act
from ocd.core.state import State
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import runner as units
from ocd.supervisor.supervision.idle import Idle
from ocd.supervisor.supervision.runner import Unit


class Log:
    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []
        self.degraded = ""

    def error(self, event: str, **fields: Any) -> None:
        self.errors.append({"event": event, **fields})


class Daemon:
    """As much of the Daemon as one proxy needs."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[str, str]] = []
        self.spawned: list[int] = []
        self.noted: list[int] = []
        self.notes_due = False
        self.stopping = False
        self.listeners: dict[str, socket.socket] = {}
        self.log = Log()
        self.settings = Settings()
        self.link = SimpleNamespace(send=lambda op, **fields: self.orders.append((op, fields)))
        self.exchanges = SimpleNamespace(troubles=lambda _name: [], in_flight={})
        self.units: dict[str, Unit] = {}
        self.idle = Idle(self)  # type: ignore[arg-type]

    def event(self, kind: str, _proxy: str = "", _generation: int | None = None, text: str = "") -> None:
        self.events.append((kind, text))

    def changed(self, _unit: Unit) -> None:
        self.idle.follow()

    def flush_notes(self) -> None:
        self.noted.append(self.units["main"].state.next_generation)

    def on_serves(self, _unit: Unit, _revision: str, _former: str) -> None:
        pass

    def spawn(self, _unit: Unit, generation: int, _revision: str) -> None:
        self.spawned.append(generation)

    def starting_reason(self) -> str:
        return ""

    def config_path(self, name: str) -> Path:
        return Path(f"/nowhere/{name}.yaml")

    def close_listener(self, name: str) -> None:
        self.orders.append(("unlisten", {"name": name}))
        self.idle.unwatch(self.listeners[name].fileno())
        self.listeners.pop(name).close()


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has any port."""
    monkeypatch.setattr(ports, "holder", lambda _port: None)
    monkeypatch.setattr(ports, "busy", lambda _port: False)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    made.units["main"] = Unit(made, "main", SimpleNamespace())  # type: ignore[arg-type]
    yield made
    for sock in made.listeners.values():
        sock.close()


def start(daemon: Daemon, port: int = 4000) -> Unit:
    unit = daemon.units["main"]
    unit.feed(act.Adopt((), frozenset()))
    unit.feed(act.Adjust(core.Limits(), port))
    return unit


def opened(daemon: Daemon, name: str) -> None:
    """The keeper's answer: it listens."""
    daemon.listeners[name] = socket.socket()
    daemon.units["main"].on_listening(name, None)


@pytest.mark.usefixtures("free")
def test_the_wanted_port_is_asked_for_on_both_addresses_and_open_when_both_have_answered(
    daemon: Daemon,
) -> None:
    async def story() -> None:
        unit = start(daemon)
        names = [fields["name"] for op, fields in daemon.orders if op == "listen"]
        assert names == ["main:4000:127.0.0.1", "main:4000:::1"]
        opened(daemon, names[0])
        assert not unit.state.ports.ready
        unit.on_listening(names[1], errno.EADDRNOTAVAIL)
        assert unit.state.ports.ready, "this machine has no IPv6"

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_what_cannot_be_opened_is_no_other_program(daemon: Daemon) -> None:
    async def story() -> None:
        unit = start(daemon, 80)
        opened(daemon, "main:80:::1")
        unit.on_listening("main:80:127.0.0.1", errno.EACCES, "Permission denied")
        assert core.state_of(unit.state) is State.BLOCKED
        status = unit.status()
        assert status.reason == "port 80 cannot be opened: Permission denied"
        assert not daemon.listeners, "no half of a port is kept"

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_an_answer_to_an_attempt_that_was_given_up_leaves_no_listener(daemon: Daemon) -> None:
    async def story() -> None:
        unit = start(daemon)
        unit.feed(act.Adjust(core.Limits(), 4100))
        opened(daemon, "main:4000:127.0.0.1")
        assert ("unlisten", {"name": "main:4000:127.0.0.1"}) in daemon.orders
        assert not unit.state.ports.open

    asyncio.run(story())


def test_a_foreign_program_is_seen_before_we_bind(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "holder", lambda port: core.Holder(pid=7, command="nc", address=f"x:{port}"))

    async def story() -> None:
        unit = start(daemon)
        assert not [op for op, _ in daemon.orders if op == "listen"]
        status = unit.status()
        assert status.state == "blocked" and status.holder is not None and status.holder.pid == 7

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_an_action_that_fails_is_told_with_its_traceback_and_the_rest_is_done(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        unit = start(daemon)
        unit.feed(act.Adjust(core.Limits(spares=0), 4000))
        opened(daemon, "main:4000:127.0.0.1")
        opened(daemon, "main:4000:::1")
        unit.feed(act.Configure("r1"))
        unit.feed(act.Spawned(1, 4711))
        unit.feed(act.Reported(1, act.Says.ACCEPTING, frozenset({4000})))

        def broken(*_arguments: object) -> None:
            raise KeyError("a mistake of ours")

        done = []
        monkeypatch.setattr(daemon, "event", broken)
        monkeypatch.setattr(daemon, "spawn", lambda *a: done.append(a))
        with pytest.raises(KeyError):
            unit.feed(act.MemoryOver(1, "too much"))
        # The news of it failed; the replacement was ordered all the same.
        assert done == [(unit, 2, "r1")]
        (error,) = daemon.log.errors
        assert isinstance(error["exc_info"], KeyError) and error["exc_info"].__traceback__ is not None
        # It can be fed again: it did not stay in the middle of a step.
        monkeypatch.setattr(daemon, "event", lambda *a, **k: None)
        unit.feed(act.Tick())
        assert unit.timer is not None

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_a_generation_is_written_down_before_its_process_is_ordered(daemon: Daemon) -> None:
    async def story() -> None:
        unit = start(daemon)
        unit.feed(act.Configure("r1"))
        assert daemon.spawned == [1] and daemon.noted == [2]

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_who_sleeps_is_woken_on_the_port_of_today(daemon: Daemon) -> None:
    async def story() -> None:
        unit = start(daemon)
        for host in units.spec.HOSTS:
            opened(daemon, f"main:4000:{host}")
        unit.feed(act.Want(core.Wanted.IDLE))
        assert daemon.idle.watching == {sock.fileno() for sock in daemon.listeners.values()}
        unit.feed(act.PortsHeld(frozenset()))
        unit.feed(act.Adjust(core.Limits(), 4100))
        for host in units.spec.HOSTS:
            opened(daemon, f"main:4100:{host}")
        assert {name.split(":")[1] for name in daemon.listeners} == {"4100"}
        assert daemon.idle.watching == {sock.fileno() for sock in daemon.listeners.values()}
        daemon.idle.wake("a connection")
        assert not daemon.idle.watching and unit.state.wanted is core.Wanted.UP

    asyncio.run(story())


@pytest.mark.parametrize(
    ("change", "reason", "step"),
    [
        ({"enabled": False}, "enabled = false", "enabled = true"),
        ({"stopped": True}, "occtl stop", "occtl start"),
        ({"rejected": core.Rejection("", "line 3")}, "line 3", "config check"),
    ],
)
def test_every_state_that_is_not_well_says_why_and_what_to_do(
    daemon: Daemon, change: dict[str, Any], reason: str, step: str
) -> None:
    unit = daemon.units["main"]
    unit.state = replace(unit.state, **change)
    status = unit.status()
    assert reason in status.reason and step in status.next_step


@pytest.mark.parametrize(
    ("ours", "ends"), [({"handle": object()}, [70]), ({"transport": object()}, []), ({}, [])]
)
def test_a_callback_of_ours_that_fails_has_the_supervisor_start_over(
    ours: dict[str, object], ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ocd.supervisor.daemon import Daemon as Real

    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    noted: list[bool] = []
    real = object.__new__(Real)
    real.log = log = Log()
    monkeypatch.setattr(real, "flush_notes", lambda: noted.append(real.notes_due))
    error = KeyError("a mistake of ours")
    real.on_callback_error(None, {"message": "Exception in callback", "exception": error, **ours})  # type: ignore[arg-type]
    assert codes == ends and log.errors[0]["exc_info"] is error
    assert noted == [True] * len(ends), "what was decided is handed on"


def test_an_error_stands_in_the_log_with_its_traceback(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from ocd.settings.folders import Folders
        from ocd.settings.schema import Settings
        from ocd.supervisor.observation import journal
        log, file = journal.open_log(Folders(*[Path(sys.argv[1])] * 5), Settings(), print)
        try:
            {}["of the supervisor"]
        except KeyError as error:
            log.error("a callback failed", exc_info=error)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=30)
    (line,) = (tmp_path / "logs" / "daemon.log").read_text().splitlines()
    assert "Traceback" in line and "of the supervisor" in line and "line 9" in line


@pytest.mark.usefixtures("free")
def test_a_process_of_an_earlier_version_serves_on_all_that_it_was_given(daemon: Daemon) -> None:
    async def story() -> None:
        unit = daemon.units["main"]
        daemon.listeners["main:4000:127.0.0.1"] = socket.socket()
        unit.state = replace(unit.state, ports=core.Ports(4000))
        unit.feed(act.Adopt((act.Found(3, 4711, "r0"),), unit.open_ports()))
        channel = SimpleNamespace(generation=3, given=set(unit.own_listeners()))
        unit._reported(channel, act.Says.ACCEPTING, {"ev": "status", "phase": "accepting"})  # type: ignore[arg-type]
        assert core.state_of(unit.state) is State.READY and unit.state.next_generation == 4

    asyncio.run(story())
