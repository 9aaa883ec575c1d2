"""Faults at random, from a seed; after each round: it serves, nothing leaked, status is the truth.

``make chaos`` runs the long form, ``SEED=n make chaos`` repeats a run; ``make test`` runs a short form.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.helpers.clock import Clock
from tests.helpers.daemon import Daemon, eventually
from tests.helpers.load import steady

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(7200 if os.environ.get("OCD_TEST_CHAOS") == "full" else 1800),
]

FULL = os.environ.get("OCD_TEST_CHAOS") == "full"
#: these faults and no others, with a comma between
ONLY = os.environ.get("OCD_TEST_CHAOS_ONLY", "")
#: ``make chaos`` takes another one each time; ``make test`` fails for a change's own reasons only
SEED = int(os.environ.get("OCD_TEST_SEED") or (random.SystemRandom().randrange(10**6) if FULL else 1))
#: of the long form; each fault comes once before one comes twice
ROUNDS = int(os.environ.get("OCD_TEST_CHAOS_ROUNDS") or 100)
#: the short form: what no other test of the suite does, and in spawn mode, where a start takes long, the least
SHORT = {
    "fork": (
        "clock_jumps,full_disk,read_only_logs,broken_files,thousand_saves,garbage,grandchild-fork,kill_spare"
    ),
    "spawn": "kill_serving,kill_supervisor,reload,read_only_logs,garbage",
}
#: megabytes of output: 10 GB
FLOOD = 10_000 if FULL else 500

SETTINGS = """
[supervision]
liveness_interval = 1.0
liveness_timeout = 1.0
stop_timeout = 2.0
start_timeout = 40.0
memory_interval = 2.0
[proxies.main]
memory_limit_mb = 900
[logs]
max_mb = 1
keep = 1
total_mb = 8
"""

#: A module beside the YAML that makes its process misbehave as a file says.
MISCHIEF = """
import os, pathlib, signal, subprocess, sys, threading, time
from litellm.integrations.custom_logger import CustomLogger

kind = (pathlib.Path(r"{folder}") / "mischief").read_text().strip()
if kind == "exit-at-once":
    sys.stderr.write("mischief: leaving at once\\n")
    os._exit(7)
if kind == "hang-at-start":
    time.sleep(3600)

kept = []

def later():
    if kind == "exit-soon":
        time.sleep(1.1)
        os._exit(8)
    if kind == "leak":
        time.sleep(2.5)
        kept.append(b"x" * 900_000_000)
    if kind == "grandchild-fork":
        time.sleep(1.5)
        if os.fork() == 0:
            # With everything that its parent has open, the port too.
            time.sleep(3600)
    if kind == "hang-soon":
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "flood":
        lines = ("x" * 1000 + "\\n") * 1000
        for _ in range({flood}):
            print(lines)
            time.sleep(0)
        # Its own folder of configuration it may only read.
        (pathlib.Path(r"{runtime}") / "said").touch()

if kind == "ignore-term":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "grandchild":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
threading.Thread(target=later, daemon=True).start()

class Hook(CustomLogger):
    pass

hook = Hook()
"""

#: what the events must say after a fault; one of these words
EXPLAINED = {
    "kill_serving": ("crashed",),
    "kill_supervisor": ("supervisor-restarted",),
    "kill_forkserver": ("forkserver-exited", "forkserver-started"),
    "kill_importing_forkserver": ("forkserver-exited", "forkserver-started"),
    "kill_spare": ("crashed", "exited"),
    "kill_all_but_the_keeper": ("supervisor-restarted", "crashed"),
    "stop_serving": ("hang",),
    "broken_files": ("reload-rejected",),
    "reload": ("reload-done",),
    "port_thief": ("blocked",),
    "runtime_folder": ("control-reopened",),
    "full_disk": ("crashed",),
    "verbs": ("stopped", "exited", "reload-done"),
    "exit-at-once": ("reload-rejected",),
    "exit-soon": ("crashed",),
    "hang-soon": ("hang",),
    "hang-at-start": ("reload-rejected", "boot-failed"),
    "ignore-term": ("reload-done",),
    "grandchild": ("reload-done",),
    "grandchild-fork": ("reload-done",),
    "flood": ("reload-done",),
    "leak": ("memory-limit",),
}


class Chaos:
    """One daemon under attack."""

    def __init__(self, daemon: Daemon, dice: random.Random, clock: Clock | None) -> None:
        self.d = daemon
        self.clock = clock
        self.dice = dice
        self.good = {name: daemon.read(name) for name in ("litellm.yaml", "litellm-bedrock.yaml", "ocd.toml")}
        #: connections that were refused; resets of requests in flight are the killed process's own
        self.refused: list[str] = []

    # --------------------------------------------------------------------------------------------- faults

    def kill_serving(self) -> None:
        for _ in range(self.dice.randint(1, 3)):
            name = self.dice.choice(["main", "bedrock"])
            pid = self.d.proxy(name)["pid"]
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        os.kill(self.d.supervisor_pid(), signal.SIGKILL)

    def kill_forkserver(self) -> None:
        os.kill(self.d.host_pid(), signal.SIGKILL)

    def kill_importing_forkserver(self) -> None:
        """Again while it imports: each is started behind the proxies, and the last one is there in the end."""
        for _ in range(3):
            pid = self.d.host_pid()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: self.d.host_pid() != pid, 30)  # type: ignore[misc]

    def clock_jumps(self) -> None:
        """The wall clock an hour back and ten years on, a night's sleep: no reason to end any process."""
        assert self.clock is not None
        before = [m["pid"] for p in self.d.status()["proxies"].values() for m in p["members"]]
        for wall, slept in ((-3600, 0), (315_000_000, 0), (0, 30_000), (-315_000_000, 0), (0, 5)):
            self.clock.move(wall, slept)
            self.ask_for(1.5)
        after = [m["pid"] for p in self.d.status()["proxies"].values() for m in p["members"]]
        assert after == before, "a clock that jumps ended a process"

    def ask_for(self, seconds: float) -> None:
        """Requests, whatever comes of them, for as long as a fault needs to show."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.d.url()}/health/liveliness", timeout=30, trust_env=False)
            time.sleep(0.05)

    def kill_spare(self) -> None:
        os.kill(self.d.spare_pid(self.dice.choice(["main", "bedrock"])), signal.SIGKILL)

    def kill_all_but_the_keeper(self) -> None:
        for child in psutil.Process(self.d.keeper).children():
            with contextlib.suppress(psutil.Error):
                child.kill()

    def stop_serving(self) -> None:
        pid = self.d.proxy()["pid"]
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: self.d.proxy()["pid"] not in (pid, None), 40)

    def broken_files(self) -> None:
        for text in ("model_list: [", "", "\x00", "model_list: {a: b}"):
            self.save("litellm.yaml", text)
            self.d.post("/v1/reload")
        self.save("litellm.yaml", self.good["litellm.yaml"])

    def reload(self) -> None:
        self.save("litellm.yaml", self.good["litellm.yaml"] + f"\n# changed {self.dice.random()}\n")
        assert self.d.post("/v1/reload")["ok"]
        self.good["litellm.yaml"] = self.d.read("litellm.yaml")

    def thousand_saves(self) -> None:
        for number in range(1000):
            self.save("litellm.yaml", self.good["litellm.yaml"] + f"\n# save {number}\n")
        self.save("litellm.yaml", self.good["litellm.yaml"])

    def save(self, name: str, text: str) -> None:
        """Editors of every manner."""
        path = self.d.config / name
        manner = self.dice.randrange(4)
        if manner == 0:
            self.d.write(name, text)
        elif manner == 1:
            path.write_text(text)
        elif manner == 2:
            path.unlink(missing_ok=True)
            path.write_text(text)
        else:
            target = self.d.config / f"dotfile-{name}"
            target.write_text(text)
            link = self.d.config / f".{name}.link"
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            os.replace(link, path)

    def port_thief(self) -> None:
        self.d.post("/v1/proxies/main/stop")
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", self.d.port))
            thief.listen()
            self.d.post("/v1/proxies/main/start")
            assert self.d.proxy()["state"] == "blocked"
            assert self.d.proxy()["holder"]["pid"] == os.getpid()

    def runtime_folder(self) -> None:
        shutil.rmtree(self.d.runtime, ignore_errors=True)
        eventually(lambda: self.d.socket.exists() and self.d.status(), 30)

    def full_disk(self) -> None:
        filler = self.d.prefix / "state" / "filler"
        if not os.path.ismount(self.d.prefix / "state"):
            return
        with contextlib.suppress(OSError), open(filler, "wb") as file:
            while True:
                file.write(b"0" * 65536)
        try:
            self.kill_serving()
            self.d.post("/v1/proxies/main/restart")
            assert self.d.ask().status_code == 200
            self.d.write("litellm.yaml", self.good["litellm.yaml"] + "\n# on a full disk\n")
            self.d.post("/v1/reload")
            assert self.d.ask().status_code == 200
        finally:
            filler.unlink()
            self.d.write("litellm.yaml", self.good["litellm.yaml"])

    def read_only_logs(self) -> None:
        logs = self.d.prefix / "state" / "logs"
        shutil.rmtree(logs)
        logs.write_text("in the way")
        self.kill_serving()
        eventually(lambda: self.d.ask().status_code == 200, 30)
        logs.unlink()

    def verbs(self) -> None:
        paths = [
            "/v1/proxies/main/restart",
            "/v1/reload",
            "/v1/proxies/bedrock/stop",
            "/v1/proxies/bedrock/start",
        ]
        orders = [self.dice.choice(paths) for _ in range(50)]

        def give(path: str) -> None:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                self.d.post(path)

        threads = [threading.Thread(target=give, args=(path,)) for path in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    def launches(self) -> None:
        with subprocess.Popen(["sleep", "300"]) as session:
            body = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(self.d.prefix)}, "wait": 10}
            answers: list[bool] = []
            threads = [
                threading.Thread(target=lambda: answers.append(self.d.post("/v1/launch", body)["ready"]))
                for _ in range(50)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            session.kill()
        assert answers == [True] * 50
        # Who keeps its port ends with it.
        eventually(lambda: not self.d.status()["sessions"], 20)

    def garbage(self) -> None:
        for _ in range(40):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(self.d.socket))
                sock.sendall(self.dice.randbytes(self.dice.randint(1, 4000)))
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.d.port), 5) as tcp:
                tcp.sendall(self.dice.randbytes(self.dice.randint(1, 400)))

    def misbehave(self, kind: str) -> None:
        """The next configuration's code misbehaves; the good one serves on or comes back."""
        (self.d.config / "mischief").write_text(kind)
        (self.d.config / "mischief.py").write_text(
            MISCHIEF.format(folder=self.d.config, runtime=self.d.runtime, flood=FLOOD)
        )
        bad = self.good["litellm.yaml"].replace(
            "litellm_settings: {", "litellm_settings: {callbacks: [mischief.hook], ", 1
        )
        self.save("litellm.yaml", bad + f"\n# {kind} {self.dice.random()}\n")
        outcome = self.d.post("/v1/reload")
        if kind == "exit-at-once":
            assert not outcome["ok"] and "leaving at once" in outcome["reason"], outcome
        self.ask_for(4)
        if kind == "leak":
            eventually(lambda: "memory-limit" in self.d.tail("events"), 60)
        if kind == "flood":
            eventually((self.d.runtime / "said").exists, 180)
            logs = self.d.prefix / "state" / "logs"
            assert sum(path.stat().st_size for path in logs.iterdir()) < 12_000_000, "total_mb is 8"
            (self.d.runtime / "said").unlink()
        self.save("litellm.yaml", self.good["litellm.yaml"])
        (self.d.config / "mischief.py").unlink()
        self.d.post("/v1/reload")

    def faults(self) -> dict[str, Callable[[], None]]:
        table: dict[str, Callable[[], None]] = {
            name: getattr(self, name)
            for name in (
                "kill_serving",
                "kill_supervisor",
                "kill_forkserver",
                "kill_importing_forkserver",
                "clock_jumps",
                "kill_spare",
                "kill_all_but_the_keeper",
                "stop_serving",
                "broken_files",
                "reload",
                "thousand_saves",
                "port_thief",
                "runtime_folder",
                "full_disk",
                "read_only_logs",
                "verbs",
                "launches",
                "garbage",
            )
        }
        for kind in (
            "exit-at-once",
            "exit-soon",
            "hang-soon",
            "ignore-term",
            "grandchild",
            "grandchild-fork",
            "flood",
            "leak",
        ):
            table[kind] = lambda kind=kind: self.misbehave(kind)  # type: ignore[misc]
        if self.d.mode == "spawn":
            # No forkserver there, and by default no spare.
            del table["kill_forkserver"], table["kill_importing_forkserver"], table["kill_spare"]
        if self.clock is None:
            print("no C compiler: the clock stays as it is", end=" ")
            del table["clock_jumps"]
        if FULL:
            table["hang-at-start"] = lambda: self.misbehave("hang-at-start")
        return table

    # ---------------------------------------------------------------------------------------------- checks

    def mend(self) -> None:
        for name, text in self.good.items():
            if (self.d.config / name).is_symlink() or self.d.read(name) != text:
                (self.d.config / name).unlink(missing_ok=True)
                self.d.write(name, text)
        for name in ("main", "bedrock"):
            self.d.post(f"/v1/proxies/{name}/start")
        self.d.post("/v1/reload")

    def check(self) -> None:
        """It serves, nothing leaked, status is the truth."""
        self.mend()
        self.d.wait_ready()

        def calm() -> bool:
            status = self.d.status()
            members = [m for p in status["proxies"].values() for m in p["members"]]
            children = {
                c.pid
                for c in psutil.Process(self.d.keeper).children(recursive=True)
                if c.status() != psutil.STATUS_ZOMBIE
            }
            host = {self.d.host_pid()} if self.d.mode == "fork" else set()
            expected = {m["pid"] for m in members} | {status["pid"]} | host
            # Where nothing is forked a spare costs as much as what serves, and by default there is none.
            spares = ["spare"] * 2 if self.d.mode == "fork" else []
            return sorted(m["role"] for m in members) == ["serving", "serving", *spares] and (
                children == expected
            )

        try:
            eventually(calm, 90, "only what serves, the spares, the forkserver and the supervisor are left")
        except AssertionError as error:
            left = [
                (c.pid, c.status(), c.cmdline()[-4:]) for c in psutil.Process(self.d.keeper).children(True)
            ]
            raise AssertionError(f"{error}\n{self.d.status()['proxies']}\n{left}") from None
        for model in ("claude-opus-9-9", "qwen-3-coder"):
            answer = self.d.ask(model)
            assert answer.status_code == 200, answer.text
        sockets = {path.name for path in self.d.runtime.glob("*.sock")}
        generations = {
            f"guest-{name}-{m['generation']}.sock"
            for name, proxy in self.d.status()["proxies"].items()
            for m in proxy["members"]
        }
        eventually(
            lambda: {p.name for p in self.d.runtime.glob("*.sock")} == generations | {"control.sock"},
            60,
            f"{sockets} against {generations}",
        )

    def explained(self, fault: str, since: float) -> None:
        """The events say what happened; they are on disk, so a new supervisor knows them too."""
        wanted = EXPLAINED.get(fault, ())
        if fault == "full_disk" and not os.path.ismount(self.d.prefix / "state"):
            return

        def kinds() -> set[str]:
            lines = self.d.tail("events", 100_000).splitlines()
            return {event["kind"] for event in map(json.loads, lines) if event.get("time", 0) >= since}

        if wanted:
            eventually(lambda: kinds().intersection(wanted), 20, f"{fault}: an event {wanted}")

    def descriptors(self) -> tuple[int, int]:
        return (
            psutil.Process(self.d.keeper).num_fds(),
            psutil.Process(self.d.supervisor_pid()).num_fds(),
        )


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A state folder with room for 24 MB, where we may mount one; else an ordinary one."""
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(folder)]
    mounted = (
        sys.platform == "linux"
        and os.getuid() == 0
        and subprocess.run(command, capture_output=True).returncode == 0
    )
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("mode", ["fork", "spawn"])
def test_chaos(mode: str, addresses: dict[str, str]) -> None:
    print(f"\nchaos seed {SEED}, {mode} mode" + (f" (repeat with SEED={SEED} make chaos)" if FULL else ""))
    dice = random.Random(SEED)
    chosen = ONLY or ("" if FULL else SHORT[mode])
    with (
        Daemon(upstreams=addresses, settings=SETTINGS, mode=mode) as daemon,
        small_disk(daemon.prefix / "state"),
    ):
        try:
            clock = Clock.install(daemon.prefix, daemon.env)
            daemon.start()
            chaos = Chaos(daemon, dice, clock)
            chaos.check()
            keeper_fds, supervisor_fds = chaos.descriptors()
            deck: list[str] = [name for name in chosen.split(",") if name in chaos.faults()]
            dice.shuffle(deck)
            rounds = len(deck) or ROUNDS
            for number in range(rounds):
                if not deck:
                    deck = sorted(chaos.faults())
                    dice.shuffle(deck)
                fault = deck.pop()
                began, started = time.monotonic(), time.time()
                print(f"round {number:2} {fault:24}", end=" ", flush=True)
                with steady(daemon.port, daemon.headers(), rate=5) as load:
                    chaos.faults()[fault]()
                    chaos.check()
                    chaos.explained(fault, started)
                # A foreign holder and a stopped proxy do refuse, and should; nothing else may.
                refused = [f for f in load.failed if "ConnectionRefused" in f]
                if fault not in ("port_thief", "verbs", "kill_all_but_the_keeper"):
                    assert not refused, f"seed {SEED}, round {number}, {fault}: {refused[:3]}"
                print(
                    f"{time.monotonic() - began:5.1f} s, "
                    f"{load.sent} requests, {len(load.failed)} failed in flight, {len(refused)} refused"
                )
                now = chaos.descriptors()
                assert now[0] <= keeper_fds + 4, (
                    f"seed {SEED}, {fault}: the keeper's descriptors {keeper_fds} -> {now[0]}"
                )
                assert now[1] <= supervisor_fds + 12, f"seed {SEED}, {fault}: {supervisor_fds} -> {now[1]}"
        except BaseException:
            print(f"chaos seed {SEED}\n{daemon.output.read_text()[-3000:] if daemon.output.exists() else ''}")
            print(daemon.tail("events", 20_000), daemon.tail("main", 5_000), sep="\n")
            with contextlib.suppress(Exception):
                print(json.dumps(daemon.status(), indent=1), daemon.events(), sep="\n")
            raise
        finally:
            if daemon.process is not None:
                daemon.stop()
                daemon.process = None
