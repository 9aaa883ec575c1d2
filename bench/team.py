"""A team's servers: what a request costs with one, two and four of them; twenty people while both of two are replaced,
and while one is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.rows import Row, Run, cpu, ms, p99, pss
from tests.helpers import team_servers
from tests.helpers.daemon import eventually, free_ports

PEOPLE, SESSIONS = 20, 2
#: seconds that a server goes on accepting after SIGTERM: longer than who spreads the connections takes to see it
LINGER = 5.0


@dataclass
class Load:
    """What the clients got. ``broken``: what is not a whole answer, in words."""

    done: int = 0
    broken: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Counts:
    """What goes to a server: how many connections are open, and whether it gets new ones."""

    open: int
    up: bool


class Clients:
    """``keys`` that each ask in turn, one connection for each request, until the block ends."""

    def __init__(
        self, urls: list[str], authority: Path, keys: list[str], stream: bool, pause: float = 0.0
    ) -> None:
        self.urls, self.keys, self.stream, self.pause = urls, keys, stream, pause
        self.trust = ssl.create_default_context(cafile=str(authority))
        self.load = Load()
        self.ended = threading.Event()
        self.threads = [
            threading.Thread(target=self._ask, args=(n, key), daemon=True) for n, key in enumerate(keys)
        ]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self.load

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(120)

    def _ask(self, number: int, key: str) -> None:
        url = self.urls[number % len(self.urls)]
        ask = team_servers.body(stream=self.stream)
        while not self.ended.is_set():
            began, said = time.monotonic(), ""
            try:
                with httpx.Client(verify=self.trust, trust_env=False, timeout=60) as client:
                    headers = {"authorization": f"Bearer {key}"}
                    answer = client.post(f"{url}/v1/messages", headers=headers, json=ask)
                    whole = "message_stop" in answer.text if self.stream else answer.status_code == 200
                    said = "" if whole else f"{answer.status_code} {answer.text[-100:]}"
            except httpx.HTTPError as error:
                said = repr(error)
            self.load.seconds.append(time.monotonic() - began)
            self.load.done += not said
            if said:
                self.load.broken.append(said)
            self.ended.wait(max(0.0, self.pause - self.load.seconds[-1]))


def processes(server: team_servers.Server) -> list[int]:
    own = psutil.Process(server.process.pid)
    return [own.pid, *(child.pid for child in own.children(recursive=True))]


def people(team: team_servers.Team, count: int, sessions: int = 1) -> list[str]:
    return [team.invite(f"person-{n}") for n in range(count)] * sessions


@contextlib.contextmanager
def front(ports: list[int]) -> Iterator[tuple[int, Callable[[], dict[int, Counts]]]]:
    """HAProxy as `occtl export compose` sets it up, in front of these ports; its port, and how many connections each
    server has by its port."""
    found = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        raise RuntimeError("haproxy is needed (Debian: apt-get install haproxy)")
    port = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp") as folder:
        servers = "".join(f"  server s{one} 127.0.0.1:{one}\n" for one in ports)
        Path(folder, "cfg").write_text(
            f"global\n  stats socket {folder}/stats\ndefaults\n  mode tcp\n  timeout connect 5s\n"
            "  timeout client 1h\n  timeout server 1h\n"
            f"frontend team\n  bind 127.0.0.1:{port}\n  default_backend servers\n"
            "backend servers\n  balance leastconn\n  option httpchk GET /health/readiness\n  option redispatch 1\n"
            f"  default-server check check-ssl verify none inter 2s fall 2 rise 1\n{servers}"
        )

        def table() -> list[list[str]]:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(f"{folder}/stats")
                asking.sendall(b"show stat\n")
                with asking.makefile() as answer:
                    text = answer.read()
            return [line.split(",") for line in text.splitlines() if line.startswith("servers,s")]

        def connections() -> dict[int, Counts]:
            # "show stat" (HAProxy's management guide): scur, stot, status
            return {int(row[1][1:]): Counts(int(row[4]), row[17].startswith("UP")) for row in table()}

        with subprocess.Popen([found, "-db", "-f", f"{folder}/cfg"], stderr=subprocess.DEVNULL) as running:
            try:
                eventually(lambda: Path(folder, "stats").exists(), 20)
                yield port, connections
            finally:
                running.send_signal(signal.SIGTERM)
                running.wait(20)


def team(run: Run) -> Iterator[Row]:
    if team_servers.missing():
        raise RuntimeError(team_servers.missing())
    yield from throughput(run)
    yield from replaced(run)


def throughput(run: Run) -> Iterator[Row]:
    seconds, cores, costs = run.times(15, 5), os.cpu_count() or 1, {}
    run.behave({"upstream": "bedrock", "chunks": 3})
    for replicas in (1, 2, 4):
        folder = tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp")
        with folder as place, team_servers.running(Path(place), run.upstreams["bedrock"], replicas) as found:
            keys, authority = people(found, 16), found.pki / "authority.pem"
            urls = [server.url for server in found.servers]
            everybody = [pid for server in found.servers for pid in processes(server)]
            measured = []
            # Without pause the machine is full, and what shares a core costs more: the cost is taken at half of that.
            for pause in (0.0, 0.5):
                with Clients(urls, authority, keys, stream=False, pause=pause) as load:
                    eventually(lambda load=load: load.done >= 50, 60)
                    used, done, began = cpu(everybody), load.done, time.monotonic()
                    time.sleep(seconds)
                    used, done = cpu(everybody) - used, load.done - done
                    measured.append((done / (time.monotonic() - began), used / done, len(load.broken)))
            memory = pss(everybody) / replicas
        (most, full, failed), (rate, costs[replicas], failed_too) = measured
        yield Row(
            f"team: {rate:.0f} plain requests a second with {replicas} server{'s' if replicas > 1 else ''}",
            f"{ms(costs[replicas])} of CPU each: {1 / costs[replicas]:.0f} a second for a core",
            "at most 1.15 times what it costs with one",
            # Where servers share cores they lose their caches to one another: no figure for one that has its own.
            (not failed + failed_too and costs[replicas] <= 1.15 * costs[1]) if replicas <= cores else None,
            f"16 clients without pause: {most:.0f} a second, {ms(full)} each; clients, stand-in and PostgreSQL "
            f"have the same {cores} cores; {memory:.0f} MB a server; {failed + failed_too} failed",
        )


def replaced(run: Run) -> Iterator[Row]:
    run.behave({"upstream": "bedrock", "chunks": 20, "delay": 0.1})
    words = ("--linger", str(LINGER))
    folder = tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp")
    with folder as place, team_servers.running(Path(place), run.upstreams["bedrock"], 2, *words) as found:
        keys = people(found, PEOPLE, SESSIONS)
        spare = [free_ports(2), free_ports(2)]
        ports = [server.port for server in found.servers] + spare
        with front(ports) as (port, connections):
            eventually(lambda: sum(one.up for one in connections().values()) == 2, 30)
            url = [f"https://127.0.0.1:{port}"]
            asked = "new first, one at a time: SIGTERM, five seconds of accepting, what runs is finished"
            with Clients(url, found.pki / "authority.pem", keys, stream=True) as load:
                eventually(lambda: load.done >= 40, 60)
                began = time.monotonic()
                for old, place_of in zip(tuple(found.servers), spare, strict=True):
                    new = team_servers.Server(found, *words, port=place_of)
                    found.servers.append(new)
                    eventually(lambda p=place_of: connections()[p].up, 120)
                    old.process.send_signal(signal.SIGTERM)
                    assert old.process.wait(120) == 0
                    found.servers.remove(old)
                    old.close()
                lasted = time.monotonic() - began
                eventually(lambda n=load.done: load.done >= n + 40, 60)
            yield Row(
                f"team: {PEOPLE} people with {SESSIONS} streams each while both servers are replaced, {lasted:.0f} s",
                f"{load.done} answers, {len(load.broken)} refused or cut",
                "none",
                not load.broken,
                f"{asked}; median {ms(statistics.median(load.seconds))}, 99 % within {ms(p99(load.seconds))} of "
                f"streams that take 2 s; {load.broken[:2] or ''}",
            )
            with Clients(url, found.pki / "authority.pem", keys, stream=True) as load:
                eventually(lambda: load.done >= 40, 60)
                time.sleep(1.0)
                killed = found.servers[0]
                victims, before = processes(killed), connections()[killed.port]
                for pid in victims:
                    with contextlib.suppress(psutil.Error):
                        psutil.Process(pid).kill()
                eventually(lambda: not connections()[killed.port].up, 30)
                eventually(lambda n=load.done: load.done >= n + 80, 60)
            yield Row(
                "team: SIGKILL of one of two under the same load",
                f"{load.done} answers, {len(load.broken)} cut",
                "none but those that were open on the killed one",
                # One or two may begin between that look and the kill.
                len(load.broken) <= before.open + 2,
                f"{before.open} were open on it; refused: {sum('Connect' in one for one in load.broken)}; "
                f"{load.broken[:1]}",
            )
    run.behave()
