"""What reaches Anthropic is what the client sent, and back: measured, held against the table of docs/fidelity.md."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually, litellm_python

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

DOCS = Path(__file__).parents[2] / "docs" / "fidelity.md"
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


class Measuring:
    """Sends the same through the proxy and straight to the stand-in; ``lost`` are the differences."""

    def __init__(self, daemon: Daemon, upstreams: Upstreams) -> None:
        self.d, self.up = daemon, upstreams
        self.lost: set[str] = set()
        self.client = httpx.Client(trust_env=False, timeout=60)

    def post(self, base: str, body: dict[str, Any], path: str = "/v1/messages?beta=true") -> httpx.Response:
        headers = {**self.d.headers(), **HEADERS, "x-ocd-session": "7"}
        if base != self.d.url():
            headers = {k: v for k, v in headers.items() if not k.startswith(("x-litellm", "x-ocd"))}
        body = {"model": "claude-opus-4-6", "max_tokens": 64000, "messages": HELLO, **body}
        return self.client.post(base + path, headers=headers, json=body)

    def both(self, body: dict[str, Any]) -> tuple[httpx.Response, httpx.Response]:
        return self.post(self.d.url(), body), self.post(self.up.anthropic, body)

    def up_the_way(self) -> None:
        for shape in SHAPES.values():
            self.up.reset()
            ours, direct = self.both({"stream": True, **shape})
            assert ours.status_code == direct.status_code == 200, ours.text
            through, straight = self.up.seen("anthropic")
            if through.path != straight.path:
                self.lost.add("the query ?beta=true")
            sent, got = straight.json(), through.json()
            self.lost.update(f"field {name}" for name in sent if name not in got or got[name] != sent[name])
            self.lost.update(f"field {name} (made up)" for name in set(got) - set(sent))
            if missing := set(HEADERS["anthropic-beta"].split(",")) - set(
                through.header("anthropic-beta").split(",")
            ):
                self.lost.add(f"header anthropic-beta: {', '.join(sorted(missing))}")
            for name in set(HEADERS) - {"anthropic-beta"}:
                if through.header(name) != straight.header(name):
                    self.lost.add(f"header {name}")
            assert through.header("authorization") == straight.header("authorization")
            leaked = [name for name, _value in through.headers if name.startswith(("x-ocd", "x-litellm"))]
            assert not leaked, "our key and our headers stay here"

    def back(self) -> None:
        for number in ERRORS:
            self.up.behave(Behaviour(status=number))
            for stream in (False, True):
                ours, direct = self.both({"stream": stream})
                if ours.status_code != direct.status_code:
                    self.lost.add(f"status {number}")
                if ours.content != direct.content:
                    self.lost.add("an error's own body")
                self.headers_of(ours, direct, "an error's ")
        for how in (Behaviour(), Behaviour(drop="error"), Behaviour(drop="end"), Behaviour(chunks=40)):
            self.up.behave(how)
            ours, direct = self.both({"stream": True})
            assert ours.content == direct.content, "a stream's events pass byte for byte"
            self.headers_of(ours, direct, "a stream's ")
        self.up.behave()
        ours, direct = self.both({})
        if ours.json() != direct.json():
            self.lost.add("a plain answer's body")
        self.headers_of(ours, direct, "a plain answer's ")

    def headers_of(self, ours: httpx.Response, direct: httpx.Response, whose: str) -> None:
        for name, value in direct.headers.items():
            if re.match("request-id|retry-after|anthropic-", name) and ours.headers.get(name) != value:
                self.lost.add(whose + re.sub("ratelimit-.*", "ratelimit-*", name))

    def tokens(self) -> None:
        self.up.reset()
        answer = self.post(self.d.url(), {}, "/v1/messages/count_tokens?beta=true")
        if answer.status_code != 200 or not self.up.seen("anthropic"):
            self.lost.add("count_tokens")

    def all(self) -> set[str]:
        with self.client:
            self.up_the_way()
            self.back()
            self.tokens()
        return self.lost


def table() -> dict[str, dict[str, bool]]:
    """docs/fidelity.md: column → what → whether it is lost there."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    head, *lines = rows
    return {
        column: {line[0].replace("`", ""): line[place] == "lost" for line in lines}
        for place, column in enumerate(head)
        if place
    }


def version() -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run(
        [litellm_python(), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_nothing_more_is_lost_than_the_table_says(daemon: Daemon, upstreams: Upstreams) -> None:
    said = table()
    with_ocd = {what for what, lost in said["with ocd"].items() if lost}
    assert Measuring(daemon, upstreams).all() == with_ocd

    generation = daemon.proxy()["generation"]
    daemon.write_settings("fidelity = false\n" + daemon.settings)
    assert daemon.post("/v1/reload")["ok"]
    eventually(lambda: daemon.proxy()["generation"] != generation, 60)
    found = Measuring(daemon, upstreams).all()
    daemon.write_settings(daemon.settings)
    assert daemon.post("/v1/reload")["ok"]
    alone = f"LiteLLM {version()}"
    assert alone in said, f"a version that the table does not have loses {sorted(found)}"
    assert found == {what for what, lost in said[alone].items() if lost}, json.dumps(sorted(found))
