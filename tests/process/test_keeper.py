"""The keeper with everything real below it: every signal to every process, a terminal, broken new code, no cores."""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import ROOT, SLOW, Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


def settle(daemon: Daemon) -> None:
    """Until both proxies are ready with a spare each and nothing drains any more; then a request."""
    daemon.wait_ready()

    def calm() -> bool:
        roles = [m["role"] for p in daemon.status()["proxies"].values() for m in p["members"]]
        return sorted(set(roles)) == ["serving", "spare"]

    eventually(calm, 90)
    assert daemon.ask().status_code == 200


def victims(daemon: Daemon) -> dict[str, int]:
    return {
        "supervisor": daemon.supervisor_pid(),
        "forkserver": eventually(daemon.host_pid, 60),
        "serving": int(daemon.proxy()["pid"]),
        "spare": eventually(daemon.spare_pid, 60),
    }


@pytest.fixture(scope="module")
def with_cores(addresses: dict[str, str]) -> Iterator[Daemon]:
    """A daemon whose starter allows core files of any size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    with Daemon(
        upstreams=addresses,
        settings="[supervision]\nrestart_intensity = 1000\nsustained_ready = 0.5\nbackoff_first = 0.05\n",
    ) as daemon:
        daemon.start()
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
        yield daemon


#: what does not end a process: its terminal's signals are the keeper's business
IGNORED = {
    "supervisor": {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT},
    "forkserver": {signal.SIGINT, signal.SIGHUP},
}
SIGNALS = [
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGSEGV,
    signal.SIGABRT,
]


@pytest.mark.parametrize("victim", ["serving", "spare", "forkserver", "supervisor"])
def test_no_signal_to_any_process_ends_the_service_or_writes_a_core(
    victim: str, with_cores: Daemon, upstreams: Upstreams
) -> None:
    daemon = with_cores
    upstreams.behave()
    settle(daemon)
    for number in SIGNALS:
        pid = victims(daemon)[victim]
        os.kill(pid, number)
        if number not in IGNORED.get(victim, ()):
            eventually(lambda pid=pid: not psutil.pid_exists(pid), 30, f"{victim} ends by {number.name}")
        settle(daemon)
        assert daemon.process is not None and daemon.process.poll() is None
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        return
    found = [*daemon.prefix.rglob("core*"), *Path("/").glob("core*"), *ROOT.glob("core*")]
    assert not [path for path in found if path.is_file() and not path.name.endswith((".py", ".toml"))]


def test_every_process_may_write_no_core_and_open_many_files(with_cores: Daemon) -> None:
    settle(with_cores)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for name, pid in {**victims(with_cores), "keeper": with_cores.keeper}.items():
        process = psutil.Process(pid)
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0), name
        soft, _ = process.rlimit(psutil.RLIMIT_NOFILE)
        assert soft >= min(hard, 65536), name


def test_the_stack_of_an_aborted_process_is_in_its_log(with_cores: Daemon) -> None:
    settle(with_cores)
    os.kill(int(with_cores.proxy()["pid"]), signal.SIGABRT)
    settle(with_cores)
    eventually(lambda: "Fatal Python error: Aborted" in with_cores.tail("main", 400), 20)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE])
def test_a_stray_signal_does_not_end_the_keeper(number: signal.Signals, with_cores: Daemon) -> None:
    os.kill(with_cores.keeper, number)
    settle(with_cores)
    assert with_cores.process is not None and with_cores.process.poll() is None


# --------------------------------------------------------------------------------------------------- a terminal


class Terminal:
    """A daemon in the foreground of a terminal of its own."""

    def __init__(self, daemon: Daemon, nohup: bool = False) -> None:
        self.daemon = daemon
        self.output = b""
        pid, self.master = pty.fork()
        if pid == 0:
            # Whatever the suite itself was started under.
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
            os.chdir("/")
            os.execve(sys.executable, [sys.executable, "-m", "ocd"], daemon.env)
        self.pid = daemon.keeper = pid
        self.closed = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        daemon.process = None
        daemon.wait_ready()

    def _read(self) -> None:
        while not self.closed:
            with contextlib.suppress(OSError):
                if select.select([self.master], [], [], 0.05)[0]:
                    data = os.read(self.master, 65536)
                    if not data:
                        return
                    self.output += data
                continue
            return

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def hang_up(self) -> None:
        self.closed = True
        self.reader.join()
        os.close(self.master)

    def ended(self, timeout: float = 60.0) -> int:
        """The exit code."""

        def look() -> list[int]:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return [os.waitstatus_to_exitcode(status)] if pid else []

        code = int(eventually(look, timeout, "the keeper ends")[0])
        if not self.closed:
            self.hang_up()
        return code


def stream(daemon: Daemon, upstreams: Upstreams, chunks: int) -> tuple[threading.Thread, list[str]]:
    """A stream under way, ten chunks a second; and what came of it."""
    upstreams.behave(Behaviour(model="sonnet", chunks=chunks, delay=0.1))
    came: list[str] = []
    body = {
        "model": "claude-sonnet-9-9",
        "max_tokens": 64,
        "stream": True,
        "messages": [{"role": "user", "content": "x"}],
    }
    headers, url = daemon.headers(), f"{daemon.url()}/v1/messages"

    def run() -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream(
                "POST", url, headers=headers, json=body, timeout=60 * SLOW, trust_env=False
            ) as answer,
        ):
            for part in answer.iter_text():
                came.append(part)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: came, 20, "the stream begins")
    return thread, came


def test_ctrl_c_drains_and_says_nothing_ugly(addresses: dict[str, str], upstreams: Upstreams) -> None:
    with Daemon(upstreams=addresses) as daemon:
        terminal = Terminal(daemon)
        thread, came = stream(daemon, upstreams, 20)
        terminal.press(b"\x03")
        assert terminal.ended() == 0
        thread.join(30)
        assert "message_stop" in "".join(came), "the stream was cut"
        assert b"Traceback" not in terminal.output and b"draining" in terminal.output
        eventually(lambda: not daemon.leftovers(), 10)


def test_a_second_ctrl_c_ends_at_once(addresses: dict[str, str], upstreams: Upstreams) -> None:
    with Daemon(upstreams=addresses) as daemon:
        terminal = Terminal(daemon)
        thread, _came = stream(daemon, upstreams, 400)
        terminal.press(b"\x03")
        eventually(lambda: b"draining" in terminal.output, 10)
        deadline = time.monotonic() + 0.6
        eventually(lambda: time.monotonic() > deadline, 5)
        terminal.press(b"\x03")
        assert terminal.ended(10) == 130
        thread.join(30)
        assert b"Traceback" not in terminal.output
        eventually(lambda: not daemon.leftovers(), 10)


def test_a_terminal_that_closes_ends_it_cleanly(addresses: dict[str, str], upstreams: Upstreams) -> None:
    with Daemon(upstreams=addresses) as daemon:
        terminal = Terminal(daemon)
        thread, came = stream(daemon, upstreams, 20)
        terminal.hang_up()
        assert terminal.ended() == 0
        thread.join(30)
        assert "message_stop" in "".join(came), "the stream was cut"
        eventually(lambda: not daemon.leftovers(), 10)


def test_kill_hup_in_a_terminal_reloads_and_nohup_outlives_it(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses) as daemon:
        terminal = Terminal(daemon, nohup=True)
        terminal.hang_up()
        os.kill(terminal.pid, signal.SIGHUP)
        settle(daemon)
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.ended() == 0


# ------------------------------------------------------------------------------------------------------ re-exec


def environment(folder: Path) -> Path:
    """A virtual environment of our own that is this one, apart from its ``bin``; returns its interpreter."""
    ours = Path(sys.prefix)
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_bytes((ours / "pyvenv.cfg").read_bytes())
    (folder / "lib").symlink_to((ours / "lib").resolve())
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    return python


def test_an_interpreter_that_was_moved_away_costs_nothing(addresses: dict[str, str], tmp_path: Path) -> None:
    python = environment(tmp_path / "env")
    with Daemon(upstreams=addresses) as daemon:
        with open(daemon.output, "ab") as out:
            daemon.process = subprocess.Popen(
                [str(python), "-m", "ocd"],
                env=daemon.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
            )
        daemon.keeper = daemon.process.pid
        daemon.wait_ready()
        before = daemon.status()
        python.rename(tmp_path / "away")
        assert daemon.post("/v1/reexec")["ok"]
        eventually(lambda: "reexec-failed" in daemon.kinds(), 20)
        assert daemon.status()["pid"] == before["pid"]
        settle(daemon)
        # Now the supervisor dies as well: nobody can start another, requests are answered, and it comes when it can.
        os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(before["pid"]), 10)
        assert daemon.ask().status_code == 200
        (tmp_path / "away").rename(python)
        eventually(lambda: daemon.status()["pid"] != before["pid"], 20)
        settle(daemon)
        assert daemon.post("/v1/reexec")["ok"]
        now = daemon.status()["pid"]
        eventually(lambda: daemon.status()["pid"] != now, 30)
        settle(daemon)
