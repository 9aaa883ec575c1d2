"""Our two keys on a real daemon: renewed when nobody kept the port, never under a session, whole after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def daemon(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(addresses) as daemon:
        daemon.start()
        yield daemon


def renewals(daemon: Daemon) -> int:
    return daemon.kinds().count("keys-renewed")


def pair(daemon: Daemon) -> set[str]:
    return {daemon.keys()[name] for name in ("main", "bedrock")}


def works(daemon: Daemon) -> bool:
    """Both ways: the plan's, and the hop to the bedrock proxy."""
    return [daemon.ask(model).status_code for model in ("claude-opus-9-9", "qwen-3-coder")] == [200, 200]


def test_a_daemon_that_comes_back_has_other_keys_unless_a_session_lives(addresses: dict[str, str]) -> None:
    with Daemon(addresses) as daemon:
        daemon.start()
        first, headers = pair(daemon), daemon.headers()
        with subprocess.Popen(["sleep", "600"]) as session:
            try:
                order = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 10}
                assert daemon.post("/v1/launch", order).get("ready")
                daemon.stop()
                daemon.start()
                assert pair(daemon) == first and works(daemon) and renewals(daemon) == 0
            finally:
                session.kill()
        eventually(lambda: not daemon.status()["sessions"], 20)
        daemon.stop()
        daemon.start()
        assert not first & pair(daemon)
        assert works(daemon) and renewals(daemon) == 1
        body = {"model": "claude-opus-9-9", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
        url = f"{daemon.url()}/v1/messages"
        old = httpx.post(url, headers=headers, json=body, timeout=30, trust_env=False)
        assert old.status_code in (403, 424), "who has the old key has nothing"


def test_a_supervisor_that_is_killed_leaves_one_pair_of_keys(daemon: Daemon) -> None:
    """The next one has the keys that the processes were booted with."""
    before, times = daemon.keys(), renewals(daemon)
    pid = daemon.supervisor_pid()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: daemon.supervisor_pid() != pid, 30)
    assert daemon.keys() == before and works(daemon)
    assert renewals(daemon) == times


def test_keys_that_are_due_are_renewed_when_the_proxies_sleep(daemon: Daemon) -> None:
    first, before = daemon.keys(), renewals(daemon)
    assert daemon.post("/v1/proxies/main/stop")["ok"]
    eventually(lambda: daemon.keys().get("due"), 20)
    assert daemon.post("/v1/proxies/bedrock/stop")["ok"]
    # Nobody runs: from here on everybody who is started has the new ones.
    eventually(lambda: daemon.keys()["main"] != first["main"], 40)
    for name in ("main", "bedrock"):
        outcome = daemon.post(f"/v1/proxies/{name}/start")
        assert outcome["ok"], outcome
    daemon.wait_ready()
    assert works(daemon) and renewals(daemon) == before + 1
