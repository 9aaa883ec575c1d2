"""Another user of the machine, without a key: what they can read, take, stop or slow down."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.attack import second
from tests.attack.second import CROWD
from tests.helpers import load
from tests.helpers.daemon import Daemon, eventually

pytestmark = second.needs_second_user

#: what they ask at the ports, and what comes back
ASK = """
import http.client
found = {}
for port in given[0]:
    for method, path, headers, body in given[1]:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        c.request(method, path, body, headers)
        a = c.getresponse()
        found[f"{port} {method} {path} {sorted(headers.items())}"] = [a.status, a.read().decode("latin-1")]
        c.close()
print(json.dumps(found))
"""
#: which files below some folders, and which of some processes' secrets, they can open
READ = """
import os
found = []
for root in given[0]:
    for folder, folders, files in os.walk(root):
        found += [os.path.join(folder, one) for one in files if os.access(os.path.join(folder, one), os.R_OK)]
for pid in given[1]:
    for name in ("environ", "mem", "maps", "io", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                file.read(1)
                found.append(f"{pid} {name}")
        except OSError:
            pass
    for name in ("fd", "cwd", "exe", "root"):
        try:
            os.listdir(f"/proc/{pid}/fd") if name == "fd" else os.readlink(f"/proc/{pid}/{name}")
            found.append(f"{pid} {name}")
        except OSError:
            pass
    try:
        os.kill(pid, 0)
        found.append(f"{pid} kill")
    except OSError:
        pass
print(json.dumps(found))
"""
CONNECT = """
import socket
found = {}
for path in given[0]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        found[path] = "connected"
    except OSError as error:
        found[path] = type(error).__name__
print(json.dumps(found))
"""
BIND = """
import socket
found = []
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"),
                     (socket.AF_INET6, "::")):
    for port in given[0]:
        for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket(family) as sock:
                if option:
                    sock.setsockopt(socket.SOL_SOCKET, option, 1)
                try:
                    sock.bind((host, port))
                    sock.listen()
                    found.append([host, port, str(option)])
                except OSError:
                    pass
print(json.dumps(found))
"""
#: connections of the crowd in this file; test_crowd.py has many more for two minutes
IDLE, HALF_SENT = 1500, 100


@pytest.fixture(scope="module")
def daemon(addresses: dict[str, str]) -> Iterator[Daemon]:
    limits = "[supervision]\nmemory_interval = 1\n"
    with Daemon(addresses, settings=limits) as daemon:
        # A home that others may enter, with a configuration that others may list: what is inside must hold.
        daemon.prefix.chmod(0o755)
        daemon.start()
        yield daemon


def ours(daemon: Daemon) -> list[psutil.Process]:
    keeper = psutil.Process(daemon.keeper)
    return [keeper, *keeper.children(recursive=True)]


def secrets(daemon: Daemon) -> list[str]:
    return [*daemon.keys().values(), "sk-ant-", "AKIA"]


def test_without_the_key_the_ports_say_nothing(daemon: Daemon, upstreams: Upstreams) -> None:
    before = len(upstreams.seen())
    key, body = "sk-" + "0" * 64, '{"model": "claude-opus-9-9", "max_tokens": 1, "messages": []}'
    asked = [
        ["POST", path, headers, body]
        for path in (
            "/v1/messages",
            "/v1/chat/completions",
            "/key/generate",
            "/anthropic/v1/messages",
            "/v1/models",
        )
        for headers in (
            {},
            {"x-litellm-api-key": key},
            {"authorization": f"Bearer {key}"},
            {"x-api-key": "sk-ant-x"},
        )
    ]
    asked += [
        ["GET", path, {}, None]
        for path in ("/", "/v1/models", "/metrics", "/health", "/config/yaml", "/v1/x")
    ]
    answers = second.run(ASK, [daemon.port, daemon.port + 1], asked)
    assert answers
    for what, (status, text) in answers.items():
        assert status in (403, 424), (what, status)
        assert not [one for one in secrets(daemon) if one in text], what
    assert len(upstreams.seen()) == before


def test_what_is_open_without_the_key_says_nothing_of_us(daemon: Daemon) -> None:
    asked = [["GET", path, {}, None] for path in ("/health/liveliness", "/health/readiness", "/api/hello")]
    for what, (status, text) in second.run(ASK, [daemon.port, daemon.port + 1], asked).items():
        assert status == 200 or "/api/hello" in what, (what, status)
        assert len(text) < 2000 and str(daemon.prefix) not in text, what


def test_no_file_and_no_process_can_be_read(daemon: Daemon) -> None:
    daemon.ask()
    folders = [str(daemon.prefix / name) for name in ("state", "run", "share", "bin")]
    runtime = os.path.dirname(str(daemon.socket))
    found = second.run(READ, [*folders, runtime], [one.pid for one in ours(daemon)])
    assert found == []
    for process in ours(daemon):
        # Everybody can see how a program was started.
        with contextlib.suppress(psutil.NoSuchProcess):
            assert not [one for one in secrets(daemon) if one in " ".join(process.cmdline())]


def test_no_socket_of_ours_lets_them_in(daemon: Daemon) -> None:
    paths = [str(daemon.socket), *map(str, Path(os.path.dirname(daemon.socket)).glob("*.sock"))]
    assert len(paths) >= 3
    assert set(second.run(CONNECT, paths).values()) == {"PermissionError"}


def test_a_port_that_serves_cannot_be_taken(daemon: Daemon) -> None:
    assert second.run(BIND, [daemon.port, daemon.port + 1]) == []


def test_a_port_that_a_session_was_told_of_cannot_be_taken_when_its_proxy_stops(daemon: Daemon) -> None:
    with sleeper() as pid:
        reply = daemon.post(
            "/v1/launch", {"pid": pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
        )
        assert reply.get("ready"), reply
        try:
            assert daemon.post("/v1/proxies/main/stop")["ok"]
            assert [one for one in second.run(BIND, [daemon.port]) if one[1] == daemon.port] == []
        finally:
            daemon.post("/v1/proxies/main/start")
    daemon.wait_ready()


class sleeper:
    """A process that stands for a session."""

    def __enter__(self) -> int:
        import subprocess

        self.process = subprocess.Popen(["sleep", "600"])
        return self.process.pid

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()


def test_a_crowd_without_a_key_harms_nobody(daemon: Daemon, upstreams: Upstreams) -> None:
    """Silent connections, half-sent bodies and floods: no request fails, no stream is cut, nobody grows."""
    upstreams.behave(Behaviour(chunks=40, delay=0.1))
    before = daemon.status()
    crowd = second.start(CROWD, [daemon.port, daemon.port + 1], IDLE, HALF_SENT, 4)
    made = load.Load()
    grown: dict[int, int] = {}
    fresh = {process.pid: process.memory_info().rss for process in ours(daemon)}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for process in ours(daemon):
                with contextlib.suppress(psutil.NoSuchProcess):
                    grown[process.pid] = max(grown.get(process.pid, 0), process.memory_info().rss)

    watching = threading.Thread(target=watch)
    try:
        assert crowd.stdout is not None and "started" in crowd.stdout.readline()
        watching.start()
        port, headers = daemon.port, daemon.headers()
        streams = [
            threading.Thread(target=load.stream, args=(port, headers, model, made))
            for model in ("claude-opus-9-9", "qwen-3-coder") * 3
        ]
        for one in streams:
            one.start()
        upstreams.behave()
        for number in range(60):
            load.one(port, headers, ("claude-opus-9-9", "qwen-3-coder")[number % 2], made)
        for one in streams:
            one.join()
    finally:
        over.set()
        if watching.ident:
            watching.join()
        crowd.communicate("")
        crowd.wait()
    assert made.failed == [] and made.cut == [] and made.sent >= 60
    after = eventually(daemon.status, 30)
    assert after["pid"] == before["pid"]
    for name, proxy in after["proxies"].items():
        assert proxy["state"] == "ready" and proxy["pid"] == before["proxies"][name]["pid"], name
        assert grown[proxy["pid"]] < 2048 * 1.1 * 1024 * 1024
        assert grown[proxy["pid"]] < fresh[proxy["pid"]] + 100e6, "the crowd's bodies are kept"
    assert not [kind for kind in daemon.kinds() if kind in ("proxy-hung", "crash-loop", "probe-failed")]
