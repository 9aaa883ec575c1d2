"""The keeper's loop over socket pairs: whatever it is told and whoever dies, it goes on and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd import __version__
from ocd.ipc import frames, messages
from ocd.keeper import lock, main, notify, system
from ocd.keeper.system import open_listener
from tests.helpers.keeping import ENV, Keeping, alive, forkserver, kill
from tests.unit.test_ipc_frames import open_fds


@pytest.fixture
def keeper() -> Iterator[Keeping]:
    before = open_fds()
    made = Keeping()
    made.begin()
    yield made
    made.end()
    assert open_fds() - before == set(), "descriptors were left open"


# ------------------------------------------------------------------------------------- what it does not understand


@pytest.mark.parametrize(
    "nonsense",
    [
        {"op": "unlisten"},
        {"op": "listen"},
        {"op": "listen", "name": "x", "host": "127.0.0.1", "port": 70_000},
        {"op": "listen", "name": "x", "host": "127.0.0.1", "port": -1},
        {"op": "listen", "name": "x", "host": "127.0.0.1", "port": 2**40},
        {"op": "listen", "name": "x", "host": "localhost", "port": 4000},
        {"op": "listen", "name": "x", "host": "\ud800", "port": 4000},
        {"op": "listen", "name": "x", "path": "/a\0b"},
        {"op": "listen", "name": "x", "path": "/" + "x" * 300},
        {"op": "listen", "name": "x", "path": "/tmp/\ud800"},
        {"op": "spawn", "id": 1},
        {"op": "spawn", "id": 1, "tag": "t", "how": "exec", "argv": [], "env": {}},
        {"op": "spawn", "id": 1, "tag": "t", "how": "exec", "argv": ["/bin/\0"], "env": {}},
        {"op": "spawn", "id": 1, "tag": "t", "how": "exec", "argv": ["/bin/true"], "env": {"A=B": "c"}},
        {"op": "spawn", "id": 1, "tag": "t", "how": "exec", "argv": ["/no/such"], "env": {}},
        {"op": "spawn", "id": 1, "tag": "t", "how": "dance"},
        {"op": "spawn", "id": 1, "tag": "t", "how": "fork"},
        {"op": "host", "argv": [], "env": {}},
        {"op": "host", "argv": ["/no/such"], "env": {}},
        {"op": "kill"},
        {"op": "note"},
        {"op": "notify", "text": "\ud800"},
        {"op": "reexec", "argv": []},
        {"op": "reexec", "argv": ["/no/such"]},
        {"op": "exit", "code": "0"},
        {"op": "dance"},
        {"op": ["exit"]},
        {},
        b"not json\n",
        b"[]\n",
        b"\xff\xfe\n",
        b"[" * 50_000 + b"\n",
        b'{"op":"listen","fds":7,"name":"x"}\n',
    ],
)
def test_nothing_that_a_supervisor_says_ends_the_keeper(
    nonsense: Any, keeper: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    before = len(keeper.spoken.heard)
    keeper.say(nonsense)
    told = {message["op"] for message, _ in keeper.spoken.heard[before:]}
    if "notify" not in str(nonsense):
        assert told, "it is answered"
    assert told <= {"refused", "listen-failed", "spawn-failed", "host-failed", "reexec-failed"}
    assert keeper.exit_code is None and keeper.supervisor and keeper.link is not None
    assert "Traceback" not in capfd.readouterr().err
    assert keeper.guest(), "it goes on"


def test_an_order_that_breaks_us_is_reported_with_its_traceback_and_everything_goes_on(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keeper, "unlisten", lambda order: 1 / 0)
    keeper.say(messages.Unlisten("x"))
    assert keeper.told("refused") == [{"op": "refused", "what": "unlisten", "why": "ZeroDivisionError"}]
    assert "ZeroDivisionError: division by zero" in capfd.readouterr().err
    assert keeper.guest()


def test_descriptors_that_nobody_asked_for_are_closed(keeper: Keeping) -> None:
    read, write = os.pipe()
    keeper.say({"op": "alive"}, [read])
    os.close(read)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


@pytest.mark.parametrize("group", [False, True])
def test_a_kill_reaches_only_what_the_keeper_started_and_that_very_process(
    group: bool, keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No real signal is sent here: with a mistake in the keeper it would go to whoever runs the tests."""
    pid = keeper.guest()
    started = keeper.told("spawned")[-1]["started"]
    sent: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *what: sent.append(what))
        patch.setattr(os, "killpg", lambda *what: sent.append(what))
        for other in (os.getpid(), os.getppid(), 1, 0, -1, -pid, 2**31, keeper.supervisor):
            keeper.say(messages.Kill(other, signal.SIGKILL, group))
        keeper.say(messages.Kill(pid, signal.SIGKILL, group, started + 1))
        assert sent == []
        keeper.say(messages.Kill(pid, signal.SIGTERM, group, started))
        assert sent == [(pid, signal.SIGTERM)]
    keeper.say(messages.Kill(pid, signal.SIGKILL, group, started))
    assert keeper.until(lambda: keeper.told("exit"))[0]["status"] == -signal.SIGKILL


# ------------------------------------------------------------------------------------------------------- versions


def test_both_sides_say_their_protocol_and_version(keeper: Keeping) -> None:
    state = keeper.told("state")[0]
    assert (state["protocol"], state["version"]) == (messages.PROTOCOL, __version__)
    assert keeper.protocol == messages.PROTOCOL


def test_a_supervisor_of_another_version_is_answered_in_its_own_protocol(keeper: Keeping) -> None:
    keeper.say(messages.Hello(messages.PROTOCOL + 5, "9.9"))
    assert keeper.protocol == messages.PROTOCOL
    keeper.say({"op": "hello"})
    assert keeper.protocol == 0
    keeper.say({"op": "unlisten"})
    assert not keeper.told("refused"), "0.1 does not know that answer"
    assert keeper.guest()


def test_a_supervisor_that_is_too_old_is_told_so(keeper: Keeping) -> None:
    before = len(keeper.told("state"))
    keeper.say({"op": "hello", "protocol": -1})
    assert len(keeper.told("state")) == before
    assert "the oldest that we know" in keeper.told("refused")[-1]["why"]


# --------------------------------------------------------------------------------------------- exits, told for sure


def next_supervisor(keeper: Keeping, protocol: int = messages.PROTOCOL) -> dict[str, Any]:
    """The supervisor dies, another says hello; returns the state that it is told."""
    kill(keeper.supervisor)
    links = len(keeper.links)
    keeper.until(lambda: len(keeper.links) > links)
    keeper.say(messages.Hello(protocol))
    return keeper.told("state")[0]


def test_an_exit_that_was_told_to_one_who_died_is_told_to_the_next(keeper: Keeping) -> None:
    pid = keeper.guest(tag="first")
    kill(pid)
    keeper.until(lambda: keeper.told("exit"))
    exits = next_supervisor(keeper)["exits"]
    assert [(e["pid"], e["status"], e["tag"]) for e in exits] == [(pid, -9, "first")]
    # it died too, without a word
    assert next_supervisor(keeper)["exits"] == exits


def test_an_exit_is_forgotten_when_a_note_has_seen_it_and_no_later_one(keeper: Keeping) -> None:
    for number, tag in ((1, "a"), (2, "b")):
        kill(keeper.guest(number, tag))
        keeper.until(lambda number=number: len(keeper.told("exit")) == number)
    first, second = keeper.told("exit")
    assert second["number"] == first["number"] + 1
    keeper.say(messages.Note("notes", first["number"]))
    state = next_supervisor(keeper)
    assert [e["tag"] for e in state["exits"]] == ["b"] and state["notes"] == "notes"
    keeper.say(messages.Note("later", second["number"]))
    assert next_supervisor(keeper)["exits"] == []


def test_a_supervisor_of_0_1_is_told_each_exit_once(keeper: Keeping) -> None:
    kill(keeper.guest())
    keeper.until(lambda: keeper.told("exit"))
    assert len(next_supervisor(keeper, 0)["exits"]) == 1
    assert next_supervisor(keeper, 0)["exits"] == []
    kill(keeper.guest(2))
    keeper.until(lambda: keeper.told("exit"))
    assert next_supervisor(keeper, 0)["exits"] == []


def test_exits_are_bounded_and_the_latest_stay(keeper: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "REMEMBERED_EXITS", 3)
    for number in range(5):
        kill(keeper.guest(number, str(number)))
        keeper.until(lambda number=number: len(keeper.told("exit")) == number + 1)
    assert [e["tag"] for e in next_supervisor(keeper)["exits"]] == ["2", "3", "4"]


def test_notes_that_would_not_come_back_are_refused_and_the_earlier_ones_stay(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "LONGEST_NOTES", 100)
    keeper.say(messages.Note("good"))
    keeper.say(messages.Note("x" * 101))
    assert "too many" in keeper.told("refused")[-1]["why"]
    assert next_supervisor(keeper)["notes"] == "good"


def test_a_new_supervisor_gets_every_socket_and_every_process(keeper: Keeping, tmp_path: Path) -> None:
    keeper.say(messages.Listen("control", path=str(tmp_path / "s")))
    assert keeper.told("listening") == [{"op": "listening", "name": "control"}]
    pid = keeper.guest(tag="guest")
    state = next_supervisor(keeper)
    assert state["listeners"] == ["control"] and state["restarts"] == 1
    with socket.socket(fileno=os.dup(keeper.fds("state")[0])) as sock:
        assert sock.getsockname() == str(tmp_path / "s")
    process = keeper.told("process")[0]
    assert (process["pid"], process["tag"]) == (pid, "guest") and process["started"] > 0
    control, out, err = keeper.fds("process")
    os.set_blocking(out, True)
    os.set_blocking(err, True)
    assert (os.read(out, 9), os.read(err, 9)) == (b"out\n", b"err\n")
    assert socket.socket(fileno=os.dup(control)).recv(99) == b'{"ev":"waiting"}\n'


# ------------------------------------------------------------------------------------------------ processes and pids


def test_the_whole_group_of_a_guest_ends_with_it(keeper: Keeping, tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = (
        f"import os, time\nif os.fork(): time.sleep(600)\nopen({str(child)!r}, 'w').write(str(os.getpid()))\n"
    )
    script += "time.sleep(600)"
    pid = keeper.guest(argv=[sys.executable, "-ISc", script])
    helper = int(keeper.until(lambda: child.exists() and child.read_text()))
    kill(pid)
    keeper.until(lambda: keeper.told("exit"))
    keeper.until(lambda: not _running(helper))


def _running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


PLAIN_FORKSERVER = """
while True:
    message, fds = hear()
    if message["op"] != "fork": continue
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_a_pid_that_somebody_else_had_before_does_not_end_its_new_owner(keeper: Keeping) -> None:
    """What we reaped under a number says nothing about a guest that lives under it now."""
    pid = keeper.guest()
    process = keeper.processes.pop(pid)
    keeper.strays[pid] = -9
    keeper.started(5, pid, "again", process.fds)
    assert not keeper.told("exit") and pid in keeper.processes and not keeper.strays


def test_children_of_others_are_forgotten_at_once_while_no_fork_is_under_way(keeper: Keeping) -> None:
    pid = os.posix_spawn("/bin/true", ["true"], ENV)
    keeper.until(lambda: not alive(pid))
    assert keeper.strays == {}


def test_a_guest_that_died_before_the_forkserver_told_of_it_is_told_with_its_status(
    keeper: Keeping, tmp_path: Path
) -> None:
    """The forkserver's word comes last: an exit before it must be neither lost nor another one's."""
    pids = tmp_path / "pid"
    script = (
        f"message, fds = hear()\nwhile not os.path.exists({str(pids)!r}): time.sleep(0.001)\n"
        f"time.sleep(0.01)\nsay({{'op': 'forked', 'id': message['id'], 'pid': int(open({str(pids)!r}).read())}})\n"
        "hear()"
    )
    keeper.say(messages.StartHost(forkserver(tmp_path, script), ENV))
    keeper.say(messages.Spawn(7, "tag", "fork"))
    dead = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], ENV)
    keeper.until(lambda: dead in keeper.strays)
    (tmp_path / "x").write_text(str(dead))
    os.rename(tmp_path / "x", pids)
    told = keeper.until(lambda: keeper.told("exit"))[0]
    assert (told["pid"], told["status"], told["tag"]) == (dead, 3, "tag")
    assert [m["op"] for m in keeper.told() if m["op"] in ("spawned", "exit")] == ["spawned", "exit"]
    assert not keeper.strays


def test_a_dead_forkserver_is_forgotten_and_another_can_be_started(keeper: Keeping, tmp_path: Path) -> None:
    argv = forkserver(tmp_path, "say({'op': 'host-ready', 'version': '1'})\nwhile True: hear()")
    keeper.say(messages.StartHost(argv, ENV))
    first = keeper.until(lambda: keeper.told("host-started"))[0]["pid"]
    keeper.until(lambda: keeper.told("host"))
    keeper.say(messages.Spawn(7, "tag", "fork"))
    kill(first)
    assert keeper.until(lambda: keeper.told("host-exit"))[0]["status"] == -9
    failed = keeper.told("spawn-failed")[0]
    assert failed["id"] == 7 and failed["transient"] and not keeper.pending
    # an order while there is none is answered, and the next one is started
    keeper.say(messages.Spawn(8, "tag", "fork"))
    assert keeper.told("spawn-failed")[-1]["id"] == 8
    keeper.say(messages.StartHost(argv, ENV))
    second = keeper.until(lambda: len(keeper.told("host-started")) == 2 and keeper.told("host-started")[1])
    assert second["pid"] != first and keeper.until(lambda: len(keeper.told("host")) == 2)


def test_a_fork_that_failed_is_told_with_its_reason_and_closes_what_was_made_for_it(
    keeper: Keeping, tmp_path: Path
) -> None:
    script = (
        "while True:\n  m, fds = hear()\n  for fd in fds: os.close(fd)\n"
        "  say({'op': 'forked', 'id': m['id'], 'pid': 0, 'error': 'fork: no memory'})"
    )
    keeper.say(messages.StartHost(forkserver(tmp_path, script), ENV))
    before = len(open_fds())
    keeper.say(messages.Spawn(7, "tag", "fork"))
    failed = keeper.until(lambda: keeper.told("spawn-failed"))[0]
    assert failed == {"op": "spawn-failed", "id": 7, "error": "fork: no memory", "transient": True}
    assert len(open_fds()) == before


def test_nonsense_from_a_forkserver_is_passed_over(keeper: Keeping, tmp_path: Path) -> None:
    script = (
        "for bad in ({}, {'op': 'forked'}, {'op': 'forked', 'id': 1, 'pid': 'x'},\n"
        "            {'op': 'forked', 'id': 99, 'pid': 1},\n"
        "            {'op': 'exit', 'pid': 1, 'status': 0, 'tag': ''}): say(bad)\n"
        "sock.send(b'nonsense\\n')\nsay({'op': 'host-ready', 'version': '1', 'seconds': 2})\nhear()"
    )
    keeper.say(messages.StartHost(forkserver(tmp_path, script), ENV))
    news = keeper.until(lambda: keeper.told("host"))
    assert news == [{"op": "host", "event": "host-ready", "version": "1", "seconds": 2}]
    assert not keeper.told("exit") and not keeper.told("spawned")


# -------------------------------------------------------------------------------------------- our own descriptors


def test_out_of_descriptors_the_keeper_still_opens_starts_and_loses_nothing(
    keeper: Keeping, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/dev/fd"))
    fill: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
    try:
        with pytest.raises(OSError, match="Too many"):
            while True:
                fill.append(os.open(os.devnull, os.O_RDONLY))
        keeper.obey(messages.Listen("control", path=str(tmp_path / "s")))
        assert "control" in keeper.listeners
        keeper.obey(messages.Spawn(1, "t", "exec", ["/bin/cat"], ENV))
        assert len(keeper.processes) == 1
        # nothing is left of the reserve for this one: an answer, no end
        keeper.reserve.release()
        fill += [os.dup(0) for _ in range(16) if len(os.listdir("/dev/fd")) < highest]
        while True:
            try:
                fill.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        keeper.obey(messages.Spawn(2, "t", "exec", ["/bin/cat"], ENV))
        keeper.obey(messages.Listen("more", path=str(tmp_path / "s2")))
    finally:
        for fd in fill:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    keeper.settle()
    failed = keeper.told("spawn-failed")
    assert [(f["id"], f["transient"]) for f in failed] == [(2, True)]
    assert keeper.told("listen-failed")[0]["errno"] == errno.EMFILE
    keeper.reserve.fill()
    assert len(keeper.reserve.held) == keeper.reserve.count


def test_a_supervisor_is_started_from_the_reserve(keeper: Keeping) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kill(keeper.supervisor)
    os.waitpid(keeper.supervisor, 0)
    keeper.supervisor_ended(-9)
    highest = max(int(name) for name in os.listdir("/dev/fd"))
    fill: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, hard))
    try:
        with pytest.raises(OSError, match="Too many"):
            while True:
                fill.append(os.open(os.devnull, os.O_RDONLY))
        supervisor, link = keeper.reserve.use(keeper._spawn_supervisor)
    finally:
        for fd in fill:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    keeper.supervisor = supervisor
    keeper.attach_supervisor(link)
    keeper.say(messages.Hello(1))
    assert keeper.told("state")


# ------------------------------------------------------------------------------------------------ sockets and lock


def test_the_two_loopback_addresses_are_two_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux does it by itself for ::1 (not for ::), so what counts is that it was asked for."""
    asked: list[Any] = []
    real = socket.socket.setsockopt
    monkeypatch.setattr(
        socket.socket, "setsockopt", lambda sock, *what: (asked.append(what), real(sock, *what))[1]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    six = open_listener(messages.Listen("a", "::1", port))
    assert (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1) in asked
    four = open_listener(messages.Listen("b", "127.0.0.1", port))
    assert not six.getblocking() and not four.getblocking()
    six.close()
    four.close()


def test_only_one_daemon_has_the_lock(tmp_path: Path) -> None:
    from ocd.errors import OcdError

    path = str(tmp_path / "lock")
    fd = lock.take(path)
    with pytest.raises(OcdError, match="runs already") as caught:
        lock.take(path)
    assert f"pid {os.getpid()}" in str(caught.value) and caught.value.exit_code == 75
    os.close(fd)
    os.close(lock.take(path))


def test_a_listener_that_is_there_already_is_handed_out_again(keeper: Keeping, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    keeper.say(messages.Listen("control", path=path))
    keeper.say(messages.Listen("control", path=path))
    assert len(keeper.told("listening")) == 2 and len(keeper.listeners) == 1
    keeper.say(messages.Unlisten("control"))
    keeper.say(messages.Unlisten("control"))
    assert not keeper.listeners


# ------------------------------------------------------------------------------------------- heartbeat and restarts


def test_a_supervisor_that_says_nothing_is_aborted_then_killed(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(keeper, "end_supervisor", sent.append)
    keeper.heartbeat_limit = 5.0
    keeper.heard = time.monotonic() - 4.0
    keeper.on_time()
    assert sent == [] and 0 < keeper.deadline() <= 1.0
    keeper.heard = time.monotonic() - 5.1
    assert keeper.deadline() == 0.0
    keeper.on_time()
    assert sent == [signal.SIGABRT]
    keeper.on_time()
    assert sent == [signal.SIGABRT], "it has a moment to dump its stack"
    keeper.aborted_at -= main.ABORT_PATIENCE
    keeper.on_time()
    assert sent == [signal.SIGABRT, signal.SIGKILL]


def test_any_word_is_a_sign_of_life(keeper: Keeping) -> None:
    keeper.heard = 0.0
    keeper.say({"op": "alive"})
    assert time.monotonic() - keeper.heard < 5


def test_no_signal_goes_to_our_own_group_when_there_is_no_supervisor(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    pid, keeper.supervisor = keeper.supervisor, 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *what: sent.append(what))
        keeper.end_supervisor(signal.SIGKILL)
    assert sent == []
    keeper.supervisor = pid


def test_supervisors_that_die_at_once_come_back_slower_and_slower_to_a_bound(keeper: Keeping) -> None:
    pauses = []
    for _ in range(9):
        keeper.supervisor_started = time.monotonic()
        keeper.schedule_supervisor()
        pauses.append(round(keeper.start_supervisor_at - time.monotonic(), 1))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    keeper.supervisor_started = time.monotonic() - main.SUPERVISOR_SETTLED - 1
    keeper.schedule_supervisor()
    assert keeper.start_supervisor_at <= time.monotonic()


@pytest.mark.parametrize(("greeted", "code", "ends"), [(False, 78, 78), (True, 78, None), (False, 1, None)])
def test_only_a_first_start_that_says_why_it_failed_is_final(
    greeted: bool, code: int, ends: int | None, keeper: Keeping
) -> None:
    kill(keeper.supervisor)
    os.waitpid(keeper.supervisor, 0)
    keeper.greeted = greeted
    keeper.supervisor_ended(code)
    assert keeper.exit_code == ends


# --------------------------------------------------------------------------------------------------------- signals


def test_one_signal_drains_and_another_ends_at_once(keeper: Keeping) -> None:
    keeper.on_signal(signal.SIGINT)
    keeper.on_signal(signal.SIGINT)
    assert keeper.exit_code is None, "a terminal may send one Ctrl-C twice"
    keeper.stopping_since -= main.SECOND_SIGNAL + 0.1
    keeper.on_signal(signal.SIGINT)
    assert keeper.exit_code == 130
    keeper.settle()
    assert [m["name"] for m in keeper.told("signal")] == ["INT", "INT", "INT"]


def test_a_second_sigterm_is_an_orderly_end(keeper: Keeping) -> None:
    keeper.on_signal(signal.SIGTERM)
    keeper.stopping_since -= main.SECOND_SIGNAL + 0.1
    keeper.on_signal(signal.SIGTERM)
    assert keeper.exit_code == 0


def test_sighup_reloads_and_stops_when_the_terminal_is_gone(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.on_signal(signal.SIGHUP)
    keeper.settle()
    assert [m["name"] for m in keeper.told("signal")] == ["HUP"] and not keeper.stopping_since
    monkeypatch.setattr(keeper.terminal, "hung_up", lambda: True)
    keeper.on_signal(signal.SIGHUP)
    keeper.settle()
    assert [m["name"] for m in keeper.told("signal")] == ["HUP", "TERM"] and keeper.stopping_since
    # the shell says it too
    keeper.on_signal(signal.SIGHUP)
    assert keeper.exit_code is None


def test_sigquit_ends_at_once(keeper: Keeping) -> None:
    keeper.on_signal(signal.SIGQUIT)
    assert keeper.exit_code == 131


def test_a_supervisor_that_dies_while_it_drains_has_a_successor_that_is_told(keeper: Keeping) -> None:
    keeper.on_signal(signal.SIGTERM)
    next_supervisor(keeper)
    assert [m["name"] for m in keeper.told("signal")] == ["TERM"]
    assert keeper.told()[-2]["op"] == "state-end" and keeper.exit_code is None
    next_supervisor(keeper)
    kill(keeper.supervisor)
    keeper.until(lambda: keeper.exit_code is not None)
    assert keeper.exit_code == 0 and len(keeper.links) == 3


def test_a_stop_without_a_supervisor_that_answers_ends_after_a_while(keeper: Keeping) -> None:
    keeper.on_signal(signal.SIGTERM)
    kill(keeper.supervisor)
    keeper.until(lambda: keeper.stop_alone_until)
    assert keeper.stop_alone_until <= time.monotonic() + main.ORPHAN_STOP_LIMIT
    keeper.stop_alone_until = time.monotonic()
    keeper.on_time()
    assert keeper.exit_code == 0


def test_exit_ends_what_is_left(keeper: Keeping) -> None:
    pid = keeper.guest()
    keeper.say(messages.Exit(78))
    assert keeper.exit_code == 78
    keeper.finish()
    assert not alive(pid) and not keeper.supervisor


# --------------------------------------------------------------------------------------------------------- re-exec


CODE = [sys.executable, "-ISc"]


def test_new_code_that_does_not_load_changes_nothing(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[Any] = []
    monkeypatch.setattr(keeper, "replace", replaced.append)
    supervisor = keeper.supervisor
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGCHLD)]
    keeper.say(messages.Reexec([*CODE, "import no_such_module"]))
    why = keeper.until(lambda: keeper.told("reexec-failed"))[0]["error"]
    assert why == "the new code does not load: ModuleNotFoundError: No module named 'no_such_module'"
    assert not replaced and keeper.supervisor == supervisor and alive(supervisor)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGCHLD)] == handlers
    assert keeper.guest()


def test_an_interpreter_that_is_gone_changes_nothing(keeper: Keeping) -> None:
    supervisor = keeper.supervisor
    keeper.say(messages.Reexec(["/no/such/python", "-m", "ocd"]))
    assert "No such file" in keeper.told("reexec-failed")[0]["error"]
    assert keeper.supervisor == supervisor and alive(supervisor) and keeper.guest()


def test_new_code_that_hangs_is_given_up_on(keeper: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "replace", lambda order: None)
    keeper.say(messages.Reexec([*CODE, "import time; time.sleep(600)"]))
    keeper.say(messages.Reexec([*CODE, "pass"]))
    assert keeper.told("reexec-failed")[0]["error"] == "it is being tried already"
    keeper.check_until = time.monotonic()
    assert keeper.until(lambda: len(keeper.told("reexec-failed")) == 2)
    assert "signal 9" in keeper.told("reexec-failed")[1]["error"]


def test_an_exec_that_fails_leaves_everything_as_it_was(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The check passed, and then somebody moved the interpreter away."""
    keeper.say(messages.Listen("control", path=str(tmp_path / "s")))
    pid = keeper.guest()
    told: list[str] = []
    monkeypatch.setattr(notify, "send", lambda text, fds=None: told.append(text) or True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    before = open_fds()
    ended: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "end_supervisor", ended.append)
        keeper.replace(messages.Reexec(["/no/such/python", "-m", "ocd"]))
    assert ended == []
    assert open_fds() == before
    assert told == ["RELOADING=1", "READY=1"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    assert alive(keeper.supervisor) and alive(pid) and keeper.link is not None
    fds = [keeper.listeners["control"].fileno(), *keeper.processes[pid].fds]
    assert not any(os.get_inheritable(fd) for fd in fds)
    keeper.settle()
    assert keeper.told("reexec-failed")
    assert keeper.guest(2)


def test_a_state_that_cannot_be_written_leaves_everything_as_it_was(
    keeper: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(main.reexec, "write_state", full)
    keeper.replace(messages.Reexec(["/no/such/python"]))
    keeper.settle()
    assert "No space left" in keeper.told("reexec-failed")[0]["error"] and alive(keeper.supervisor)


def test_the_new_code_takes_over_everything_and_ends_the_old_supervisor(
    keeper: Keeping, tmp_path: Path
) -> None:
    keeper.say(messages.Listen("control", path=str(tmp_path / "s")))
    pid = keeper.guest(tag="guest")
    kill(keeper.guest(2, "dead"))
    keeper.until(lambda: keeper.told("exit"))
    keeper.say(messages.Note("notes"))
    argv = forkserver(tmp_path, "while True: hear()")
    keeper.say(messages.StartHost(argv, ENV))
    old = keeper.supervisor
    state = keeper.state(messages.Reexec(["/py"], ["/py", "-m", "ocd.supervisor"]))
    successor = Keeping()
    # what it inherits, as copies: here both live in one process
    state["listeners"] = {name: os.dup(fd) for name, fd in state["listeners"].items()}
    state["processes"] = [[p, t, [os.dup(fd) for fd in fds], s] for p, t, fds, s in state["processes"]]
    state["host"][1:] = [os.dup(state["host"][1]), [os.dup(fd) for fd in state["host"][2]]]
    successor.resume(main.reexec.write_state(json.loads(json.dumps(state))))
    assert successor.supervisor_argv == ["/py", "-m", "ocd.supervisor"] and successor.greeted
    successor.supervisor_argv = keeper.supervisor_argv
    assert successor.supervisor == old and not successor.links, "no second one while the old one lives"
    successor.until(lambda: successor.links)
    assert not alive(old)
    successor.say(messages.Hello(1))
    told = successor.told("state")[0]
    assert told["listeners"] == ["control"] and told["notes"] == "notes"
    assert [e["tag"] for e in told["exits"]] == ["dead"]
    assert successor.told("process")[0]["pid"] == pid
    assert successor.told("host-started")[0]["old"] is True
    kill(pid)
    number = successor.until(lambda: successor.told("exit"))[0]["number"]
    assert number == told["exits"][0]["number"] + 1
    keeper.supervisor = keeper.host = 0
    keeper.processes[pid].fds, gone = [], keeper.processes[pid].fds
    for fd in gone:
        os.close(fd)
    keeper.listeners.pop("control").close()
    successor.end()


def test_the_state_of_version_0_1_is_taken_over(tmp_path: Path) -> None:
    """What the keeper of 0.1.0 hands to its successor, through a pipe."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    state = {
        "listeners": {"control": sock.detach()},
        "sockets": {"stored": [], "given": []},
        "processes": [],
        "exits": [{"op": "exit", "pid": 5, "status": 1, "tag": "t", "time": 1.5}],
        "notes": "n",
        "supervisor": 2**22 + 1,
        "host": [0, -1, []],
        "restarts": 2,
        "environment": {"PATH": "/bin", "PYTHONPATH": "/old"},
        "supervisor_argv": ["/py", "-m", "ocd.supervisor"],
    }
    read, write = os.pipe()
    os.write(write, json.dumps(state).encode())
    os.close(write)
    keeper = Keeping()
    keeper.resume(read)
    assert list(keeper.listeners) == ["control"] and keeper.exits[0].tag == "t" and keeper.supervisor == 0
    assert keeper.environment["PYTHONPATH"] != "/old" and keeper.environment["PATH"] == "/bin"
    keeper.end()


def test_signals_are_held_back_over_the_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def execve(path: str, argv: list[str], env: dict[str, str]) -> None:
        seen.append((path, argv, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        raise OSError(errno.ENOENT, "gone")

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(OSError, match="gone"):
        main.reexec.replace(["/py", "-m", "ocd"], [], {})
    assert seen[0][1] == ["/py", "-m", "ocd"] and set(main.reexec.HANDLED) <= seen[0][2]


# -------------------------------------------------------------------------------------------------------- children


def test_a_child_starts_with_default_signals_an_open_mask_and_a_session_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import os, signal\n"
        "ignored = [n.name for n in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)"
        " if signal.getsignal(n) is signal.SIG_IGN]\n"
        f"open({str(out)!r}, 'w').write(repr((ignored, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),"
        " os.getsid(0) == os.getpid())))"
    )
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        pid = system.spawn([sys.executable, "-ISc", script], ENV, keep=[])
    finally:
        signal.signal(signal.SIGUSR1, old)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.waitpid(pid, 0)
    assert out.read_text() == "([], [], True)"


def test_a_message_goes_out_in_frames_that_every_reader_takes(keeper: Keeping) -> None:
    keeper.tell(messages.Refused("x" * 10, "y"))
    keeper.settle()
    assert keeper.told("refused") == [{"op": "refused", "what": "x" * 10, "why": "y"}]
    assert frames.MAX_FDS > main.LISTENERS
