"""The preset "fallback" in a real daemon with the real LiteLLM: what falls back, what does not, and who sees what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ocd.config.presets import PRESETS, files
from ocd.selftest import streams
from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import SLOW, Daemon, eventually

SECRET = "canary-51d0f7a2c4"
TOKEN = f"sk-ant-oat01-{SECRET}"
AWS = (
    "      aws_access_key_id: AKIAIOSFODNN7EXAMPLE\n"
    "      aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
    '      aws_bedrock_runtime_endpoint: "{bedrock}"\n'
)


def to_stand_ins(preset: str, addresses: dict[str, str]) -> dict[str, str]:
    """The preset's own files, with the stand-ins' addresses and no profile."""
    texts = files(PRESETS[preset], "us-west-2")
    main = re.sub(
        r"(?m)^(\s+)(model: \"?anthropic/.*)$",
        rf'\1\2\n\1api_base: "{addresses["anthropic"]}"',
        texts["litellm.yaml"],
    )
    bedrock = re.sub(r"(?m)^\s+aws_profile_name:.*\n", AWS.format(**addresses), texts["litellm-bedrock.yaml"])
    return {"litellm.yaml": main, "litellm-bedrock.yaml": bedrock}


@pytest.fixture(scope="module")
def shared(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(upstreams=addresses, settings='[slots]\nhaiku = "claude-haiku-4-5"\n') as daemon:
        for name, text in to_stand_ins("fallback", addresses).items():
            daemon.write(name, text)
        daemon.start()
        yield daemon


@pytest.fixture(autouse=True)
def watched(upstreams: Upstreams) -> None:
    upstreams.reset()
    upstreams.watch("canary", SECRET)


def post(daemon: Daemon, model: str, stream: bool) -> httpx.Response:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 64,
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    }
    return httpx.post(
        daemon.url() + "/v1/messages?beta=true",
        headers=daemon.headers(TOKEN),
        json=body,
        timeout=60 * SLOW,
        trust_env=False,
    )


FAILS = {
    "429": Behaviour(upstream="anthropic", status=429),
    "500": Behaviour(upstream="anthropic", status=500),
    "503": Behaviour(upstream="anthropic", status=503),
    "529": Behaviour(upstream="anthropic", status=529),
    "reset": Behaviour(upstream="anthropic", drop="before"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILS)
def test_overload_limits_and_outages_fall_back(
    daemon: Daemon, upstreams: Upstreams, failure: str, stream: bool
) -> None:
    before = daemon.proxy()["fallbacks"]
    upstreams.behave(FAILS[failure])
    answer = post(daemon, "claude-opus-4-6", stream)
    assert answer.status_code == 200, answer.text
    _, wrong = streams.check_stream(answer.text) if stream else streams.check_plain(answer.json())
    assert wrong == []
    assert [one.upstream for one in upstreams.seen()][-1] == "bedrock"
    assert upstreams.seen()[-1].model.startswith("us.anthropic.claude-opus-4-6")
    where = upstreams.summary()["canaries"]["canary"]
    assert where["bedrock"] == {}
    assert set(where["anthropic"]) <= {"header authorization"}
    proxy = eventually(
        lambda: (found := daemon.proxy())["fallbacks"] == before + 1 and found, what="the fallback is counted"
    )
    assert proxy["last_fallback"].startswith("claude-opus-4-6 to claude-opus-4-6-bedrock (")
    assert proxy["last_fallback"].endswith("answered") and proxy["last_fallback_at"]
    assert [one for one in daemon.events() if one["kind"] == "fallback"][-1]["text"] == proxy["last_fallback"]
    assert SECRET not in str(daemon.events())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_a_refused_login_or_request_does_not(
    daemon: Daemon, upstreams: Upstreams, status: int, stream: bool
) -> None:
    before = daemon.proxy()["fallbacks"]
    upstreams.behave(Behaviour(upstream="anthropic", status=status))
    answer = post(daemon, "claude-opus-4-6", stream)
    assert 400 <= answer.status_code < 500 or "event: error" in answer.text
    assert {one.upstream for one in upstreams.seen()} == {"anthropic"}, "nothing is billed to AWS"
    assert upstreams.summary()["canaries"]["canary"]["bedrock"] == {}
    assert daemon.proxy()["fallbacks"] == before


def test_by_name_it_is_bedrock_at_once(daemon: Daemon, upstreams: Upstreams) -> None:
    before = daemon.proxy()["fallbacks"]
    assert post(daemon, "claude-haiku-4-5-bedrock", False).status_code == 200
    assert {one.upstream for one in upstreams.seen()} == {"bedrock"}
    assert daemon.proxy()["fallbacks"] == before, "an explicit choice is no fallback"


def test_a_stream_that_breaks_half_way_is_not_begun_again_elsewhere(
    daemon: Daemon, upstreams: Upstreams
) -> None:
    upstreams.behave(Behaviour(upstream="anthropic", drop="during", chunks=20, delay=0.05))
    try:
        answer = post(daemon, "claude-opus-4-6", True)
        assert "message_stop" not in answer.text
        assert "us.anthropic" not in answer.text
    except httpx.TransportError:
        pass
    assert {one.upstream for one in upstreams.seen()} == {"anthropic"}
