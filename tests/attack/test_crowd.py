"""A crowd of another user's, 10,000 idle connections and 200 half-sent bodies for two minutes, and the owner beside it.

``OCD_TEST_CROWD_SECONDS`` makes it shorter or longer. The figures are printed.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator

import pytest

from tests.attack import second
from tests.helpers import load
from tests.helpers.daemon import Daemon

pytestmark = [second.needs_second_user, pytest.mark.timeout(900)]

IDLE, HALF_SENT = 10_000, 200
SECONDS = float(os.environ.get("OCD_TEST_CROWD_SECONDS", "120"))
#: requests a second of the owner's, each on a connection of its own
RATE = 8.0
MODELS = ("claude-opus-9-9", "qwen-3-coder")


@pytest.fixture
def daemon(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(addresses) as daemon:
        daemon.start()
        yield daemon


def ask_for(daemon: Daemon, seconds: float) -> load.Load:
    """The owner's requests at a steady rate, whatever each takes."""
    made, port, headers = load.Load(), daemon.port, daemon.headers()
    threads = []
    for number in range(math.ceil(seconds * RATE)):
        due = time.monotonic() + 1 / RATE
        thread = threading.Thread(target=load.one, args=(port, headers, MODELS[number % 2], made))
        thread.start()
        threads.append(thread)
        time.sleep(max(0.0, due - time.monotonic()))
    for thread in threads:
        thread.join()
    return made


def p99(made: load.Load) -> float:
    """Milliseconds."""
    return sorted(made.times)[math.ceil(len(made.times) * 0.99) - 1] * 1000


def test_ten_thousand_connections_of_another_user(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    before = daemon.status()
    ask_for(daemon, 5)
    quiet = ask_for(daemon, max(10.0, SECONDS / 4))
    crowd = second.start(second.CROWD, [daemon.port, daemon.port + 1], IDLE, HALF_SENT, 0)
    try:
        assert crowd.stdout is not None and "started" in crowd.stdout.readline()
        loud = ask_for(daemon, SECONDS)
    finally:
        out, _ = crowd.communicate("")
    after = daemon.status()
    with capsys.disabled():
        print(
            f"\ncrowd: {IDLE} idle, {HALF_SENT} half-sent, {SECONDS:.0f} s, {out.strip()} connections made; "
            f"owner: {loud.sent} requests, {len(loud.failed)} failed, p99 {p99(loud):.0f} ms, "
            f"longest {loud.longest * 1000:.0f} ms; quiet: {quiet.sent} requests, p99 {p99(quiet):.0f} ms, "
            f"longest {quiet.longest * 1000:.0f} ms"
        )
    assert quiet.failed == [] and loud.failed == []
    for name, proxy in after["proxies"].items():
        assert proxy["state"] == "ready" and proxy["pid"] == before["proxies"][name]["pid"], name
    assert not [kind for kind in daemon.kinds() if kind in ("hang", "crash-loop", "probe-failed")]
    assert p99(loud) <= 2 * p99(quiet)
