"""Boundary, pipe, control API and configuration, each fed with made-up inputs: 100,000 of them in full.

``SEED=n make attack`` repeats a run; one input alone is ``look_at_…(Random(f"{SEED}-{name}-{number}"))``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import warnings
from collections.abc import Callable, Iterator

import pytest

from tests.attack import inputs
from tests.helpers.daemon import Daemon, eventually

#: inputs for each of the four, in pieces that run beside each other
INPUTS = int(os.environ.get("OCD_TEST_ATTACK_INPUTS") or 100_000)
PIECES = 10


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("randomly_seed", 0) or 0)


def numbers(piece: int) -> range:
    return range(piece * INPUTS // PIECES, (piece + 1) * INPUTS // PIECES)


def feed(name: str, seed: int, piece: int, look: Callable[[random.Random], str]) -> None:
    for number in numbers(piece):
        dice = random.Random(f"{seed}-{name}-{number}")
        wrong = look(dice)
        assert not wrong, f"SEED={seed}, input {number}: {wrong}"


@pytest.mark.parametrize("piece", range(PIECES))
def test_boundary(piece: int, seed: int) -> None:
    feed("boundary", seed, piece, inputs.look_at_boundary)


@pytest.mark.parametrize("piece", range(PIECES))
def test_pipe(piece: int, seed: int) -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        feed("pipe", seed, piece, lambda dice: inputs.look_at_pipe(dice, loop))


@pytest.mark.parametrize("piece", range(PIECES))
def test_configuration(piece: int, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        feed("configuration", seed, piece, inputs.look_at_configuration)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        daemon.start()
        yield daemon


@pytest.mark.timeout(1200)
def test_control(daemon: Daemon, seed: int) -> None:
    """The same daemon answers all of them, does not grow, and has done nothing."""
    import psutil

    before = daemon.status()
    supervisor = psutil.Process(daemon.supervisor_pid())
    grown = 0
    for number in range(INPUTS):
        raw = inputs.control_request(random.Random(f"{seed}-control-{number}"))
        answer = ask(str(daemon.socket), raw)
        assert not answer.startswith(b"HTTP/1.1 500"), (
            f"SEED={seed}, input {number}: {raw!r}: {answer[:300]!r}"
        )
        for key in daemon.keys().values() if number % 1000 == 0 else ():
            assert key.encode() not in answer
        if number == INPUTS // 10:
            grown = supervisor.memory_info().rss
    assert supervisor.memory_info().rss < grown * 1.1 + 16e6, "the supervisor grows with what it is asked"
    after = eventually(daemon.status, 10)
    assert after["pid"] == before["pid"], "the same supervisor"
    for name, proxy in after["proxies"].items():
        assert (proxy["state"], proxy["pid"]) == ("ready", before["proxies"][name]["pid"])


def ask(path: str, raw: bytes) -> bytes:
    """What is answered to these bytes, up to 64 kB; empty when nothing is."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        with contextlib.suppress(ConnectionError):
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(65536)
    return b""
