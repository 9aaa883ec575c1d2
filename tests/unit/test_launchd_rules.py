"""Our plist under launchd's rules: a stand-in runs it, and ocd/service/launchd.py drives it as on a Mac."""

from __future__ import annotations

import itertools
import os
import plistlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd import paths
from ocd.errors import OcdError
from ocd.keeper import folders, lock
from ocd.service import base
from ocd.service.launchd import LABEL, Launchd, run_launchctl
from ocd.service.manager import current
from tests.helpers.launchd import FDS, Standin

#: one of the plist's seconds in ours: ThrottleInterval 10 is 0.2 s, ExitTimeOut 660 is 13.2 s
SCALE = 0.02
GUI = f"gui/{os.getuid()}"
TARGET = f"{GUI}/{LABEL}"

#: a daemon: does what its folder's file ``does`` says, and writes a line for each start
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys, time
here = {here!r}
with open(here + "/starts", "a") as file:
    file.write(json.dumps([os.getpid(), time.monotonic(), dict(os.environ), os.umask(0)]) + "\\n")
with open(here + "/does") as file:
    verb, _, number = file.read().strip().partition(" ")
if verb == "exit":
    sys.exit(int(number))
if verb == "die":
    os.kill(os.getpid(), int(number))
leave = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if verb == "stubborn" else lambda *_: leave.append(1))
if verb == "child" and not os.fork():
    with open(here + "/child", "w") as file:
        file.write(str(os.getpid()))
fds = json.loads(os.environ.get({fds!r}) or "{{}}")
server = socket.socket(fileno=fds["control"]) if fds else None
if server is not None:
    server.settimeout(0.01)
while not leave:
    if server is None:
        time.sleep(0.01)
        continue
    try:
        link, _ = server.accept()
        link.sendall(b"here")
        link.close()
    except TimeoutError:
        pass
time.sleep(float(number or 0))
"""


class Mac:
    """A home with the stand-in's launchctl on PATH, and a program in place of ``ocd``."""

    def __init__(self, home: Path, standin: Standin) -> None:
        self.home, self.standin = home, standin
        self.bin = home / "programs"
        self.bin.mkdir()
        self.program(PROGRAM.format(python=sys.executable, here=str(home), fds=FDS))
        self.does("serve")
        self.service = Launchd(pause=lambda seconds: time.sleep(seconds * SCALE))

    def program(self, text: str) -> None:
        for name in ("ocd", "occtl"):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def does(self, text: str) -> None:
        (self.home / "does").write_text(text)

    def starts(self) -> list[list[Any]]:
        import json

        try:
            return [json.loads(line) for line in (self.home / "starts").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def field(self, name: str) -> str:
        return self.standin.fields(TARGET).get(name, "")

    def wait(self, holds: Any) -> None:
        self.standin.wait(holds)

    def started(self, times: int = 1) -> None:
        self.wait(lambda: len(self.starts()) >= times)

    def settled(self, state: str) -> None:
        self.wait(lambda: self.field("state") == state)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mac]:
    # not tmp_path: its names may be too long for a socket
    with (
        tempfile.TemporaryDirectory(prefix="ocdl", dir="/tmp") as folder,
        Standin(Path(folder), SCALE) as one,
    ):
        for name in (*base.TAKEN_ALONG, "XDG_RUNTIME_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", folder)
        monkeypatch.setenv("PATH", f"{one.bin}:{os.environ['PATH']}")
        monkeypatch.setattr(sys, "platform", "darwin")
        yield Mac(Path(folder), one)


def knock() -> bytes:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(paths.control_socket())
        return link.recv(100)


def test_it_is_launchd_that_is_found(mac: Mac) -> None:
    found = current()
    assert isinstance(found, Launchd) and found.run is run_launchctl and found.available() == ""
    assert found.domains() == [GUI, f"user/{os.getuid()}"]


def test_bootstrap_runs_it_at_once_with_what_the_plist_says_and_nothing_of_the_shell(
    mac: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "made-up")
    assert mac.service.install(mac.bin).changed
    mac.started()
    [[pid, _, environment, umask]] = mac.starts()
    assert "ANTHROPIC_API_KEY" not in environment and umask == 0o077
    assert environment["PATH"].split(":")[0] == str(mac.bin) and environment["XPC_SERVICE_NAME"] == LABEL
    assert mac.service.state() == "running" and mac.field("pid") == str(pid)
    assert not mac.service.install(mac.bin).changed
    assert mac.field("runs") == "1", "installing again starts nothing"


def test_a_crash_is_started_again_and_not_before_the_throttle(mac: Mac) -> None:
    mac.does("die 9")
    mac.service.install(mac.bin)
    mac.started(4)
    mac.does("serve")
    mac.settled("running")
    times = [moment for _, moment, _, _ in mac.starts()]
    # A lower bound, which a busy machine cannot break: launchd never starts it sooner.
    assert all(later - earlier > 10 * SCALE * 0.5 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("code", [1, 69, 70])
def test_an_end_that_a_restart_may_mend_is_started_again(mac: Mac, code: int) -> None:
    mac.does(f"exit {code}")
    mac.service.install(mac.bin)
    mac.started(3)
    assert mac.field("last exit code") == str(code)


def test_an_orderly_end_stays_down_until_somebody_connects(mac: Mac) -> None:
    mac.service.install(mac.bin)
    mac.started()
    mac.service.stop()
    mac.settled("waiting")
    assert mac.field("last exit code") == "0" and mac.service.installed()
    assert knock() == b"here"
    assert len(mac.starts()) == 2


def test_start_and_stop_as_occtl_does_them(mac: Mac) -> None:
    mac.service.install(mac.bin)
    mac.started()
    mac.service.start()
    assert mac.field("runs") == "1", "kickstart without -k leaves what runs alone"
    mac.service.stop()
    mac.settled("waiting")
    mac.service.start()
    mac.started(2)


def test_kickstart_k_replaces_the_process_and_reads_no_plist(mac: Mac) -> None:
    mac.service.install(mac.bin)
    mac.started()
    path = mac.service.path()
    plist = plistlib.loads(path.read_bytes())
    plist["EnvironmentVariables"]["NEW"] = "1"
    path.write_bytes(plistlib.dumps(plist))
    assert mac.standin("kickstart", "-k", TARGET).returncode == 0
    mac.started(2)
    first, second = mac.starts()
    assert first[0] != second[0] and "NEW" not in second[2]


def test_a_changed_plist_waits_for_the_bootout_that_drains(mac: Mac) -> None:
    mac.does("serve 0.1")
    mac.service.install(mac.bin)
    mac.started()
    (mac.home / "more").mkdir()
    os.environ["PATH"] += f":{mac.home}/more"  # monkeypatch puts PATH back
    assert mac.service.install(mac.bin).changed
    mac.started(2)
    assert mac.starts()[1][2]["PATH"].endswith("/more")


def test_a_bootout_of_a_daemon_that_drains_for_long_is_not_taken_for_done(mac: Mac) -> None:
    mac.does("serve 600")
    mac.service.install(mac.bin)
    mac.started()
    with pytest.raises(OcdError) as caught:
        mac.service.uninstall()
    assert caught.value.exit_code == 75 and mac.service.path().exists()


def test_uninstall_ends_it_and_leaves_nothing(mac: Mac) -> None:
    mac.service.install(mac.bin)
    mac.started()
    [[pid, *_]] = mac.starts()
    assert mac.service.uninstall().changed
    assert not os.path.exists(f"/proc/{pid}") and not mac.service.path().exists()
    assert mac.service.state() == "not installed" and not mac.service.uninstall().changed


def test_at_log_out_it_has_its_time_and_no_more(mac: Mac) -> None:
    """SIGTERM, then SIGKILL after ExitTimeOut; nothing is started again."""
    mac.does("stubborn")
    plist = plistlib.loads(next(iter(mac.service.files(mac.bin).values())))
    assert plist["ExitTimeOut"] == 660
    plist["ExitTimeOut"] = 5
    mac.service.path().parent.mkdir(parents=True)
    mac.service.path().write_bytes(plistlib.dumps(plist))
    os.makedirs(os.path.dirname(paths.control_socket()))
    mac.service.start()
    mac.started()
    [[pid, *_]] = mac.starts()
    began = time.monotonic()
    mac.standin("logout")
    mac.wait(lambda: not mac.service._loaded())
    assert time.monotonic() - began > 5 * SCALE * 0.9
    assert not os.path.exists(f"/proc/{pid}") and len(mac.starts()) == 1


def test_what_is_left_of_its_group_is_ended_when_it_dies(mac: Mac) -> None:
    mac.does("child")
    mac.service.install(mac.bin)
    mac.started()
    mac.wait(lambda: (mac.home / "child").exists() and (mac.home / "child").read_text())
    child = int((mac.home / "child").read_text())
    [[pid, *_]] = mac.starts()
    mac.does("serve")
    os.kill(pid, 9)
    mac.started(2)

    def gone() -> bool:
        try:
            with open(f"/proc/{child}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    mac.wait(gone)


@pytest.mark.parametrize(
    ("keep", "code", "again"),
    [
        (True, "exit 0", True),
        (False, "exit 1", False),
        ({"SuccessfulExit": True}, "exit 0", True),
        ({"SuccessfulExit": True}, "exit 1", False),
        ({"SuccessfulExit": False}, "exit 0", False),
        ({"SuccessfulExit": False}, "die 9", True),
        ({"Crashed": True}, "die 11", True),
        ({"Crashed": True}, "exit 1", False),
        ({"Crashed": True, "SuccessfulExit": False}, "exit 1", True),
    ],
)
def test_the_stand_in_has_launchds_rules_of_keepalive(mac: Mac, keep: Any, code: str, again: bool) -> None:
    """Were they wrong here, the tests above would prove nothing."""
    plist = plistlib.loads(next(iter(mac.service.files(mac.bin).values())))
    plist["KeepAlive"] = keep
    del plist["Sockets"]
    mac.does(code)
    mac.service.path().parent.mkdir(parents=True)
    mac.service.path().write_bytes(plistlib.dumps(plist))
    mac.service.start()
    mac.started(2 if again else 1)
    if not again:
        mac.settled("not running")


# ---- the real `ocd`, which ends before it has a supervisor

REAL = """#!{python} -P
import ctypes, json, os, sys
sys.path.insert(0, {root!r})
from ocd.keeper import activation
integers = ctypes.POINTER(ctypes.c_int)
kept = []
def activate(name, fds, count):
    fd = json.loads(os.environ[{fds!r}]).get(name.decode())
    if fd is None:
        return 2
    kept.append((ctypes.c_int * 1)(fd))
    fds[0] = ctypes.cast(kept[-1], integers)
    count[0] = 1
    return 0
signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(integers), ctypes.POINTER(ctypes.c_size_t))
call = signature(activate)
activation._library = lambda: (call, lambda _: None)
activation.launchd_sockets.__defaults__ = (activation._library,)
with open({here!r} + "/starts", "a") as file:
    file.write(json.dumps([os.getpid(), 0, {{}}, 0]) + "\\n")
sys.argv[0] = "ocd"
sys.platform = "darwin"
from ocd.__main__ import main
sys.exit(main())
"""


def test_what_no_restart_mends_is_not_started_again_for_ever(mac: Mac) -> None:
    """Another daemon has the lock (75; 77 and 78 go the same way). Neither KeepAlive nor a knock makes it a loop."""
    state = mac.home / "Library/Application Support/ocd/state"
    state.mkdir(parents=True)
    state.chmod(0o700)
    held = lock.take(str(state / "lock"))
    lock.write(held)
    try:
        mac.program(
            REAL.format(python=sys.executable, root=folders.package_root(), fds=FDS, here=str(mac.home))
        )
        mac.service.install(mac.bin)
        mac.settled("waiting")
        assert mac.field("runs") == "1" and mac.field("last exit code") == "0"
        assert knock() == b"", "who connects is turned away, not left waiting"
        mac.settled("waiting")
        runs = mac.field("runs")
        # Longer than two throttle intervals: what is left in the backlog would have started it twice by now.
        until = time.monotonic() + 3 * 10 * SCALE
        while time.monotonic() < until:
            assert mac.field("runs") == runs
    finally:
        os.close(held)
