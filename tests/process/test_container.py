"""``ocd`` as the main process of a container: PID 1 of a namespace of its own, with what an engine does to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import SLOW, Daemon, eventually
from tests.helpers.load import Load, steady, stream

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("nsenter"),
        reason="needs root, unshare and nsenter (util-linux)",
    ),
]


class Container(Daemon):
    """The daemon in a PID namespace; ``keeper`` is its number outside of it."""

    def start(self, wait: bool = True) -> Container:
        # Engines read what it says from a pipe.
        enter = 'exec unshare --pid --fork --mount-proc "$@" > >(exec cat) 2>&1'
        self.command = ["bash", "-c", enter, "bash", *self.command]
        super().start(wait=False)
        assert self.process is not None
        engine = psutil.Process(self.process.pid)
        [keeper] = eventually(lambda: [one for one in engine.children() if "python" in one.name()], 20)
        self.keeper = keeper.pid
        if wait:
            self.wait_ready(settled=True)
        return self

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec` does."""
        enter = ["nsenter", "--target", str(self.keeper), "--pid", "--mount"]
        return subprocess.run(
            [*enter, *command], env=self.env, capture_output=True, text=True, timeout=60 * SLOW
        )

    def end(self) -> int:
        """As `docker stop` does; returns the exit code."""
        assert self.process is not None
        os.kill(self.keeper, signal.SIGTERM)
        return self.process.wait(60 * SLOW)


@pytest.fixture
def container(addresses: dict[str, str], upstreams: Upstreams) -> Iterator[Container]:
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"this machine grants no PID namespace: {tried.stderr.strip()}")
    upstreams.behave()
    with Container(upstreams=addresses) as made:
        try:
            yield made.start()
        finally:
            if made.process is not None and made.process.poll() is None:
                os.kill(made.keeper, signal.SIGTERM)
                made.process.wait(60 * SLOW)


def test_as_the_main_process_it_serves_reaps_and_ends_in_order(
    container: Container, upstreams: Upstreams
) -> None:
    assert container.exec("sh", "-c", "echo $PPID; readlink /proc/1/exe").stdout.count("python") == 1
    assert container.ask().status_code == 200 and container.ask("qwen-3-coder").status_code == 200
    # What loses its parent becomes PID 1's child, and must not stay as a zombie.
    container.exec("sh", "-c", "for n in 1 2 3; do (sleep 0.1 & ) ; done")
    keeper = psutil.Process(container.keeper)
    eventually(lambda: not [c for c in keeper.children() if c.status() == psutil.STATUS_ZOMBIE], 20)
    eventually(lambda: not [c for c in keeper.children(recursive=True) if c.name() == "sleep"], 20)
    occtl = (sys.executable, "-m", "ocd.ctl")
    looked = container.exec(*occtl, "status", "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["proxies"]["main"]["state"] == "ready"
    inside = json.loads(looked.stdout)["proxies"]["main"]["pid"]
    with steady(container.port, container.headers(), rate=10) as load:
        # By its number in there, as whoever is in there sees it.
        assert container.exec("sh", "-c", f"kill -KILL {inside}").returncode == 0
        eventually(lambda: container.proxy()["pid"] != inside and container.proxy()["state"] == "ready", 60)
    assert len(load.failed) <= 1, load.failed
    lines = container.output.read_text()
    assert "\x1b" not in lines and "ocd: main/" in lines, f"what `docker logs` shows: {lines}"

    upstreams.behave(Behaviour(chunks=20, delay=0.1))
    upstreams.reset()
    upstreams.behave(Behaviour(chunks=20, delay=0.1))
    last = Load()
    under_way = threading.Thread(
        target=stream, args=(container.port, container.headers(), "claude-opus-9-9", last)
    )
    under_way.start()
    eventually(lambda: upstreams.seen("anthropic"), 20)
    assert container.end() == 0
    under_way.join(20)
    assert last.streams == 1 and not last.failed and not last.cut, "what was under way is finished"
    upstreams.behave()


def test_a_session_in_it_is_known_and_ends_with_its_process(container: Container) -> None:
    # exec'd in there by `docker exec`, whose parent is outside of the namespace.
    container.env["OPENCLAUDE_CLAUDE"] = str(container.prefix / "claude")
    claude = container.prefix / "claude"
    claude.write_text("#!/bin/sh\nexec sleep 300\n")
    claude.chmod(0o755)
    enter = ["nsenter", "--target", str(container.keeper), "--pid", "--mount"]
    with subprocess.Popen([*enter, sys.executable, "-m", "ocd.client"], env=container.env) as session:
        try:
            [found] = eventually(lambda: container.status()["sessions"], 30)
            assert found["pid"] != session.pid, "its number is the one in there"
        finally:
            for child in psutil.Process(session.pid).children():
                child.kill()
            session.wait(20)
    eventually(lambda: not container.status()["sessions"], 30)
