"""``[search]`` in the real daemon: a web search of the haiku slot is Anthropic's to answer, by the session's login."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

SEARCH: dict[str, Any] = {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}
SETTINGS = (
    '[search]\nslot = "claude-sonnet-9-9"\n[proxies.main]\nspare = false\n[proxies.bedrock]\nspare = false\n'
)


@pytest.fixture(scope="module")
def daemon(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(upstreams=addresses, settings=SETTINGS) as one:
        one.start()
        yield one


@pytest.mark.parametrize("stream", [False, True])
def test_a_search_goes_to_anthropic_and_everything_else_to_aws(
    daemon: Daemon, upstreams: Upstreams, stream: bool
) -> None:
    upstreams.reset()
    assert daemon.ask("qwen-3-coder", stream=stream, **SEARCH).status_code == 200
    assert [(one.upstream, one.model) for one in upstreams.seen()] == [("anthropic", "claude-sonnet-9-9")]
    assert daemon.ask("qwen-3-coder", stream=stream).status_code == 200
    assert [one.upstream for one in upstreams.seen()] == ["anthropic", "bedrock"]

    def told() -> list[Any]:
        with daemon.client() as client:
            found = [json.loads(line) for line in client.get("/v1/requests?lines=100").text.splitlines()]
        return [one["fallback"] for one in found if "search" in one["fallback"]]

    note = "qwen-3-coder to claude-sonnet-9-9 (search: web_search_20250305): answered"
    assert eventually(told)[-1] == note


def test_a_refusal_of_anthropics_is_the_answer(daemon: Daemon, upstreams: Upstreams) -> None:
    upstreams.reset()
    upstreams.behave(Behaviour(upstream="anthropic", status=429))
    answer = daemon.ask("qwen-3-coder", **SEARCH)
    assert answer.status_code == 429 and {one.upstream for one in upstreams.seen()} == {"anthropic"}
    upstreams.reset()


def test_the_setting_is_a_reload_and_without_it_the_search_is_refused(
    daemon: Daemon, upstreams: Upstreams
) -> None:
    upstreams.reset()
    daemon.write_settings(SETTINGS.replace('slot = "claude-sonnet-9-9"', 'slot = ""'))
    answer = eventually(lambda: (got := daemon.ask("qwen-3-coder", **SEARCH)).status_code == 400 and got, 60)
    assert "capability_rejected: server_tool:web_search_20250305" in answer.json()["error"]["message"]
    assert "bedrock" not in {one.upstream for one in upstreams.seen()}
    daemon.write_settings(SETTINGS)
    eventually(lambda: daemon.ask("qwen-3-coder", **SEARCH).status_code == 200, 60)
