"""What Claude Code runs (Bash, hooks, MCP servers): the same user, without our key in its environment."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Upstreams
from tests.helpers.daemon import Daemon

BODY = {"model": "claude-opus-9-9", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def daemon(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(addresses) as daemon:
        daemon.start()
        yield daemon


def test_a_program_without_the_key_gets_nothing_from_the_ports(daemon: Daemon, upstreams: Upstreams) -> None:
    before = len(upstreams.seen())
    for proxy in ("main", "bedrock"):
        answer = httpx.post(f"{daemon.url(proxy)}/v1/messages", json=BODY, trust_env=False, timeout=30)
        assert answer.status_code in (403, 424)
    assert len(upstreams.seen()) == before


def test_the_control_api_hands_out_no_key(daemon: Daemon) -> None:
    """It may stop what is theirs; a key or a token is in no answer."""
    daemon.ask()
    paths = (
        "/v1/status",
        "/v1/config",
        "/v1/events?lines=1000",
        "/v1/requests",
        "/v1/logs/daemon",
        "/v1/logs/main",
    )
    with daemon.client() as client:
        for path in (*paths, "/metrics", "/v1/version"):
            text = client.get(path).text
            for key in (*daemon.keys().values(), "sk-ant-", "AKIA"):
                assert key not in text, path


def test_no_process_shows_a_key_in_its_arguments_or_environment(daemon: Daemon) -> None:
    keeper = psutil.Process(daemon.keeper)
    for process in [keeper, *keeper.children(recursive=True)]:
        try:
            shown = " ".join([*process.cmdline(), *process.environ().values()])
        except psutil.NoSuchProcess:
            continue
        for key in (*daemon.keys().values(), "sk-ant-"):
            assert key not in shown, process
