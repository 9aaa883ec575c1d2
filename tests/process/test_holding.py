"""A daemon that goes while sessions live: nobody else gets its port, and the next daemon gets it back."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest

from ocd.keeper import holding
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as found:
        yield found
        if found.poll() is None:
            found.communicate(b"\n")


def can_bind(port: int) -> bool:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", port))
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            return False
    return True


def stopped(daemon: Daemon) -> None:
    assert daemon.stop() == 0


def killed(daemon: Daemon) -> None:
    assert daemon.process is not None
    tree = [daemon.process.pid]
    os.kill(tree[0], signal.SIGKILL)
    daemon.process.wait(30)


@pytest.mark.parametrize("end", [stopped, killed])
def test_the_port_of_a_living_session_stays_ours(
    addresses: dict[str, str], session: subprocess.Popen[bytes], end: Callable[[Daemon], None]
) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.start()
        daemon.wait_ready()
        body = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
        assert daemon.post("/v1/launch", body)["ready"]
        eventually(lambda: holding.is_held(str(daemon.runtime)), 30)
        end(daemon)
        assert not can_bind(daemon.port)
        said = eventually(lambda: _ask(daemon.port), 30)
        assert said.status_code == 503 and "occtl start" in said.text
        daemon.start()
        daemon.wait_ready()
        assert daemon.ask().status_code == 200
        # The session is known to the next daemon as well, which has somebody hold for it again.
        eventually(lambda: [one["pid"] for one in daemon.get("/v1/status")["sessions"]] == [session.pid], 30)
        assert daemon.stop() == 0
        session.communicate(b"\n")
        eventually(lambda: can_bind(daemon.port), 30)


def _ask(port: int) -> httpx.Response | None:
    """The holder's answer; None while a guest of the daemon that was killed still has the connection."""
    try:
        with httpx.Client(trust_env=False, timeout=10) as client:
            answer = client.post(f"http://127.0.0.1:{port}/v1/messages", content=b"{}")
            return answer if answer.status_code == 503 else None
    except httpx.TransportError:
        return None


def test_stop_says_what_becomes_of_the_port(
    addresses: dict[str, str], session: subprocess.Popen[bytes]
) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.start()
        daemon.wait_ready()
        body = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
        assert daemon.post("/v1/launch", body)["ready"]
        eventually(lambda: holding.is_held(str(daemon.runtime)), 30)
        done = _occtl(daemon, "stop")
        assert "is kept for it and answers 503" in done and not can_bind(daemon.port)
        assert "are free" in _occtl(daemon, "stop", "--now")
        eventually(lambda: can_bind(daemon.port), 30)


def _occtl(daemon: Daemon, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ocd.ctl", *words],
        env=daemon.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
