"""What the supervisor does with the core's decisions, without any process: orders, answers, mistakes of its own."""

from __future__ import annotations

import asyncio
import errno
import json
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
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor.observation.news import Counted
from ocd.supervisor.observation.overview import proxy_status
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.idle import Idle
from ocd.supervisor.supervision.listeners import Listeners
from ocd.supervisor.supervision.notes import Notes
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Problem, ProxyStatus


class Log:
    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []
        self.degraded = ""

    def error(self, event: str, **fields: Any) -> None:
        self.errors.append({"event": event, **fields})


class Report:
    """What would be told to people."""

    def __init__(self) -> None:
        self.log = Log()
        self.problems: dict[str, Problem] = {}
        self.events: list[tuple[str, str]] = []

    def event(
        self, kind: str, proxy: str = "", generation: int | None = None, text: str = "", **data: Any
    ) -> None:
        self.events.append((kind, text))


class Starter:
    """Writes down what it is to start."""

    cold = False

    def __init__(self) -> None:
        self.spawned: list[dict[str, Any]] = []

    def spawn(self, tag: str, spare: bool, started: object, failed: object) -> None:
        self.spawned.append(json.loads(tag))

    def starting_reason(self) -> str:
        return ""


class House:
    """One proxy with everything around it that it needs; nothing of it is real but the proxy and its idling."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.noted: list[int] = []
        self.stopping = False
        self.report = Report()
        self.starter = Starter()
        self.listeners = Listeners(self.send)
        folders = Folders(*[Path("/nowhere")] * 5)
        file: Any = SimpleNamespace()
        self.runner = Runner(
            "main", file, folders, self.send, self.listeners, self.starter, self.report, self
        )
        self.idle = Idle(
            Settings,
            {"main": self.runner},
            self.listeners,
            lambda: False,
            self.report.event,
            lambda: None,
            lambda _coroutine: None,
        )

    def send(self, op: str, **fields: Any) -> None:
        self.orders.append((op, fields))

    def before_spawn(self) -> None:
        self.noted.append(self.runner.state.next_generation)

    def changed(self) -> None:
        self.idle.follow()

    def serves(self, proxy: str, revision: str, former: str) -> None:
        pass

    def boot_message(self, proxy: str, generation: int, config: object) -> dict[str, Any]:
        return {}

    def heard(self, proxy: str, generation: int, message: dict[str, Any]) -> None:
        pass

    def ended_process(self, proxy: str, generation: int) -> None:
        pass

    def closing(self) -> bool:
        return self.stopping

    def status(self) -> ProxyStatus:
        return proxy_status(self.runner, Counted(), "/nowhere/main.yaml", [], {})


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has any port."""
    monkeypatch.setattr(ports, "holder", lambda _port: None)
    monkeypatch.setattr(ports, "busy", lambda _port: False)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    for sock in made.listeners.sockets.values():
        sock.close()


def start(house: House, port: int = 4000) -> Runner:
    house.runner.feed(act.Adopt((), frozenset()))
    house.runner.feed(act.Adjust(core.Limits(), port))
    return house.runner


def opened(house: House, name: str) -> None:
    """The keeper's answer: it listens."""
    house.listeners.sockets[name] = socket.socket()
    house.runner.ports.answered(name, None)


@pytest.mark.usefixtures("free")
def test_the_wanted_port_is_asked_for_on_both_addresses_and_open_when_both_have_answered(
    house: House,
) -> None:
    async def story() -> None:
        runner = start(house)
        names = [fields["name"] for op, fields in house.orders if op == "listen"]
        assert names == ["main:4000:127.0.0.1", "main:4000:::1"]
        opened(house, names[0])
        assert not runner.state.ports.ready
        runner.ports.answered(names[1], errno.EADDRNOTAVAIL)
        assert runner.state.ports.ready, "this machine has no IPv6"

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_what_cannot_be_opened_is_no_other_program(house: House) -> None:
    async def story() -> None:
        runner = start(house, 80)
        opened(house, "main:80:::1")
        runner.ports.answered("main:80:127.0.0.1", errno.EACCES, "Permission denied")
        assert core.state_of(runner.state) is State.BLOCKED
        status = house.status()
        assert status.reason == "port 80 cannot be opened: Permission denied"
        assert not house.listeners.sockets, "no half of a port is kept"

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_an_answer_to_an_attempt_that_was_given_up_leaves_no_listener(house: House) -> None:
    async def story() -> None:
        runner = start(house)
        runner.feed(act.Adjust(core.Limits(), 4100))
        opened(house, "main:4000:127.0.0.1")
        assert ("unlisten", {"name": "main:4000:127.0.0.1"}) in house.orders
        assert not runner.state.ports.open

    asyncio.run(story())


def test_a_foreign_program_is_seen_before_we_bind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "holder", lambda port: core.Holder(pid=7, command="nc", address=f"x:{port}"))

    async def story() -> None:
        start(house)
        assert not [op for op, _ in house.orders if op == "listen"]
        status = house.status()
        assert status.state == "blocked" and status.holder is not None and status.holder.pid == 7

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_an_action_that_fails_is_told_with_its_traceback_and_the_rest_is_done(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        runner = start(house)
        runner.feed(act.Adjust(core.Limits(spares=0), 4000))
        opened(house, "main:4000:127.0.0.1")
        opened(house, "main:4000:::1")
        runner.feed(act.Configure("r1"))
        runner.feed(act.Spawned(1, 4711))
        runner.feed(act.Reported(1, act.Says.ACCEPTING, frozenset({4000})))

        def broken(*_arguments: object) -> None:
            raise KeyError("a mistake of ours")

        house.starter.spawned.clear()
        monkeypatch.setattr(house.report, "event", broken)
        with pytest.raises(KeyError):
            runner.feed(act.MemoryOver(1, "too much"))
        # The news of it failed; the replacement was ordered all the same.
        assert house.starter.spawned == [{"proxy": "main", "generation": 2, "revision": "r1"}]
        (error,) = house.report.log.errors
        assert isinstance(error["exc_info"], KeyError) and error["exc_info"].__traceback__ is not None
        # It can be fed again: it did not stay in the middle of a step.
        monkeypatch.setattr(house.report, "event", lambda *a, **k: None)
        runner.feed(act.Tick())
        assert runner._timer is not None

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_a_generation_is_written_down_before_its_process_is_ordered(house: House) -> None:
    async def story() -> None:
        runner = start(house)
        runner.feed(act.Configure("r1"))
        assert [tag["generation"] for tag in house.starter.spawned] == [1] and house.noted == [2]

    asyncio.run(story())


@pytest.mark.usefixtures("free")
def test_who_sleeps_is_woken_on_the_port_of_today(house: House) -> None:
    async def story() -> None:
        runner = start(house)
        for host in spec.HOSTS:
            opened(house, f"main:4000:{host}")
        runner.feed(act.Want(core.Wanted.IDLE))
        assert house.idle.watching == {sock.fileno() for sock in house.listeners.sockets.values()}
        runner.feed(act.PortsHeld(frozenset()))
        runner.feed(act.Adjust(core.Limits(), 4100))
        for host in spec.HOSTS:
            opened(house, f"main:4100:{host}")
        assert {name.split(":")[1] for name in house.listeners.sockets} == {"4100"}
        assert house.idle.watching == {sock.fileno() for sock in house.listeners.sockets.values()}
        house.idle.wake("a connection")
        assert not house.idle.watching and runner.state.wanted is core.Wanted.UP

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
    house: House, change: dict[str, Any], reason: str, step: str
) -> None:
    runner = house.runner
    runner.state = replace(runner.state, **change)
    status = house.status()
    assert reason in status.reason and step in status.next_step


@pytest.mark.parametrize(
    ("ours", "ends"), [({"handle": object()}, [70]), ({"transport": object()}, []), ({}, [])]
)
def test_a_callback_of_ours_that_fails_has_the_supervisor_start_over(
    ours: dict[str, object], ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ocd.supervisor.daemon import Daemon

    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    noted: list[bool] = []
    real = object.__new__(Daemon)
    report: Any = Report()
    real.report = report
    real.notes = Notes(str, lambda *_a, **_k: None, lambda: noted.append(True))
    error = KeyError("a mistake of ours")
    real.on_callback_error(None, {"message": "Exception in callback", "exception": error, **ours})  # type: ignore[arg-type]
    assert codes == ends and report.log.errors[0]["exc_info"] is error
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
def test_a_process_of_an_earlier_version_serves_on_all_that_it_was_given(house: House) -> None:
    async def story() -> None:
        runner = house.runner
        house.listeners.sockets["main:4000:127.0.0.1"] = socket.socket()
        runner.state = replace(runner.state, ports=core.Ports(4000))
        runner.feed(act.Adopt((act.Found(3, 4711, "r0"),), runner.ports.ports()))
        channel = SimpleNamespace(generation=3, given=set(house.listeners.of("main")))
        runner._reported(channel, act.Says.ACCEPTING, {"ev": "status", "phase": "accepting"})  # type: ignore[arg-type]
        assert core.state_of(runner.state) is State.READY and runner.state.next_generation == 4

    asyncio.run(story())


def test_a_port_that_is_given_up_is_free_although_somebody_answered_503_on_it(
    house: House, free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while a session lived, whose end gives the port up: the next start must not find it taken, by us."""

    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        runner = start(house, port)
        names = [f"main:{port}:{host}" for host in spec.HOSTS]
        house.listeners.sockets[names[0]] = listener
        for name, error in zip(names, (None, errno.EADDRNOTAVAIL), strict=True):
            runner.ports.answered(name, error)
        assert runner.state.ports.open == {port}
        runner.feed(act.PortsHeld(frozenset({port})))
        runner.feed(act.Want(core.Wanted.STOPPED))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 503 ")
        writer.close()
        await writer.wait_closed()
        runner.feed(act.PortsHeld(frozenset()))
        assert not house.listeners.of("main")
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind(("127.0.0.1", port))
            next_one.listen()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
        # A transport is closed in the turn after its task.
        await asyncio.sleep(0)

    asyncio.run(scenario())
