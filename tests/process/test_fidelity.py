"""What arrives is what was sent, both ways, through the real daemon and the real LiteLLM beside it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

HELLO = [
    {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}
]
BASH = {
    "name": "Bash",
    "description": "d",
    "input_schema": {
        "type": "object",
        "properties": {"c": {"type": "string"}},
        "additionalProperties": False,
    },
    "eager_input_streaming": True,
    "cache_control": {"type": "ephemeral", "ttl": "1h"},
}
#: shapes of requests as Claude Code sends them, and fields of a future one
SHAPES: dict[str, dict[str, Any]] = {
    "system and metadata": {
        "system": [{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}}],
        "metadata": {"user_id": "user_1_account__session_1"},
    },
    "tools": {
        "tools": [BASH, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        "tool_choice": {"type": "auto"},
    },
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 31999}},
    "little thinking": {
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    },
    "adaptive thinking": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    "structured output": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    "context management": {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                ],
            }
        ]
    },
    "tool loop": {
        "tools": [BASH],
        "messages": [
            {"role": "user", "content": "run"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s=="},
                    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"c": "ls"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", "is_error": True}],
            },
        ],
    },
    "sampling": {"temperature": 1, "stop_sequences": ["x"], "top_k": 5, "service_tier": "auto", "container": "c"},
    "unknown": {"x_future_field": {"a": [1, None]}, "speed": "fast", "inference_geo": "eu"},
}  # fmt: skip
HEADERS = {
    "user-agent": "claude-cli/2.1.0 (external, cli)",
    "anthropic-beta": "x-future-beta,claude-code-20250219,oauth-2025-04-20,context-management-2025-06-27",
    "x-app": "cli",
    "x-stainless-lang": "js",
    "x-claude-code-session-id": "abc",
    "accept": "application/json",
    "accept-language": "*",
}
ERRORS = (400, 401, 403, 413, 429, 529)


#: of one connection, or ours: all that may differ
OURS = ("host", "connection", "x-litellm-api-key", "x-ocd-session")


def post(
    base: str, headers: dict[str, str], body: dict[str, Any], path: str = "/v1/messages?beta=true"
) -> Any:
    body = {"model": "claude-opus-9-9", "max_tokens": 64000, "messages": HELLO, **body}
    return httpx.post(base + path, headers=headers, json=body, trust_env=False, timeout=60)


def both(daemon: Daemon, up: Upstreams, body: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """The same through the proxy and straight to the stand-in."""
    headers = {**daemon.headers(), **HEADERS, "x-ocd-session": "7"}
    straight = {name: value for name, value in headers.items() if not name.startswith(("x-litellm", "x-ocd"))}
    return post(daemon.url(), headers, body, **more), post(up.anthropic, straight, body, **more)


def essential(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name not in OURS]


@pytest.mark.parametrize("shape", SHAPES)
def test_up_the_way(daemon: Daemon, upstreams: Upstreams, shape: str) -> None:
    for more in ({"stream": True}, {}, {"model": "claude-sonnet-9-9"}):
        upstreams.reset()
        ours, direct = both(daemon, upstreams, {**SHAPES[shape], **more})
        assert ours.status_code == direct.status_code == 200, ours.text
        through, straight = upstreams.seen("anthropic")
        assert through.path == straight.path and through.body == straight.body
        assert essential(through.headers) == essential(straight.headers)


def test_up_the_way_to_be_counted(daemon: Daemon, upstreams: Upstreams) -> None:
    upstreams.reset()
    path = "/v1/messages/count_tokens?beta=true"
    ours, direct = both(daemon, upstreams, {}, path=path)
    assert ours.content == direct.content and ours.status_code == direct.status_code
    through, straight = upstreams.seen("anthropic")
    assert (through.path, through.body) == (straight.path, straight.body) == (path, straight.body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        *(Behaviour(status=number) for number in (400, 401, 403, 404, 413, 429, 500, 503, 529)),
        *(Behaviour(), Behaviour(drop="error"), Behaviour(chunks=40)),
    ],
    ids=lambda how: str(how.status or how.drop or how.chunks),
)
def test_and_back(daemon: Daemon, upstreams: Upstreams, how: Behaviour, stream: bool) -> None:
    if how.drop and not stream:
        pytest.skip("an error event is for streams")
    upstreams.reset()
    upstreams.behave(how)
    ours, direct = both(daemon, upstreams, {"stream": stream})
    assert ours.status_code == direct.status_code
    assert sorted(essential(ours.headers.items())) == sorted(essential(direct.headers.items()))
    if how.status or stream:
        assert ours.content == direct.content
    else:
        assert {**ours.json(), "id": ""} == {**direct.json(), "id": ""}


def test_an_answer_that_breaks_off_is_a_connection_that_breaks_off(
    daemon: Daemon, upstreams: Upstreams
) -> None:
    """No error event is made up, and no clean end: Claude Code does what it would do without us."""
    upstreams.reset()
    upstreams.behave(Behaviour(drop="during", chunks=20, delay=0.01))
    for base in (daemon.url(), upstreams.anthropic):
        headers = {**daemon.headers(), **HEADERS}
        if base == upstreams.anthropic:
            del headers["x-litellm-api-key"]
        with pytest.raises(httpx.TransportError):
            post(base, headers, {"stream": True})


def test_switched_off_everything_goes_through_litellm(daemon: Daemon, upstreams: Upstreams) -> None:
    def asks_as_litellm() -> bool:
        upstreams.reset()
        ours, _direct = both(daemon, upstreams, {})
        return ours.status_code == 200 and upstreams.seen("anthropic")[0].path == "/v1/messages"

    assert not asks_as_litellm()
    for name in ('pipe = "off"', "fidelity = false"):
        daemon.write_settings(f"{name}\n" + daemon.settings)
        assert daemon.post("/v1/reload")["ok"]
        try:
            if "pipe" in name:
                eventually(asks_as_litellm, 60)
        finally:
            daemon.write_settings(daemon.settings)
            assert daemon.post("/v1/reload")["ok"]
            eventually(lambda: not asks_as_litellm(), 60)
