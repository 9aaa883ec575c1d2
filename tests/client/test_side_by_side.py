"""The same conversation through ``claude`` and through ``openclaude``, compared as it arrives at Anthropic.

Three ways: plain ``claude`` (its api.anthropic.com is the recorder), ``claude`` with ``ANTHROPIC_BASE_URL`` leading
straight to a stand-in (what the client itself does differently behind any gateway), and ``openclaude``. Between the
second and the third all differences are ours; between the first and the third those of ``CLIENTS_OWN`` are allowed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.client import compare
from tests.client.box import Box
from tests.client.clients import Client
from tests.client.conftest import Shipped
from tests.client.standins import Seen, Standin

#: The same path for all three: it stands in every prompt.
SAME = Path("/tmp/occ-same")
SESSION = "11111111-1111-4111-8111-1111111111%02d"
#: (which session, prompt); a session that was begun before goes on
PROMPTS = (
    (1, "say ok"),
    (2, "BASH:echo hello"),
    (3, "SPAWN:sonnet"),
    (4, "TSEARCH:WebSearch,WebFetch"),
    (4, "WEBSEARCH"),
)
MAY = ("--allowedTools", "Bash", "Agent", "Task", "WebSearch", "ToolSearch")

#: What Claude Code itself does otherwise as soon as its base URL is not Anthropic's, by a difference's name (shell
#: patterns): why it is allowed. ``_ASSUME_FIRST_PARTY`` would undo most of it, but no page of Anthropic's names it.
CLIENTS_OWN = {
    "header x-client-request-id": "the client's mark for Anthropic's own logs",
    "header x-claude-1p-request-class": "a hint; with CLAUDE_CODE_GATEWAY_HINT_HEADERS=1 gateways get its public twin",
    "header x-claude-code-request-class": "a hint header: off behind a gateway unless asked for",
    "header x-claude-code-prompt-id": "a hint header: off behind a gateway unless asked for",
    "header x-claude-code-agent-type": "a hint header: off behind a gateway unless asked for",
    "header x-claude-code-prev-tool-durations": "a hint header: off behind a gateway unless asked for",
    "header x-claude-code-sandy-plover": "a hint header: off behind a gateway unless asked for",
    "header anthropic-beta: prompt-caching-scope-*": "global cache scope is first-party only",
    "header anthropic-beta: cache-diagnosis-*": "cache diagnosis is first-party only",
    "header anthropic-beta: tool-provenance-*": "tool provenance is first-party only",
    "header anthropic-beta: thinking-binding-controls-*": "thinking binding controls are first-party only",
    "header anthropic-beta: mid-conversation-system-clear-at-*": "mid-conversation system blocks are first-party",
    "body diagnostics": "belongs to the cache diagnosis",
    "body system[]": "the system prompt is split where the global cache scope ends",
    "body system[?].text": "the attribution block is longer, the prompt is split otherwise",
    "body system[?].cache_control*": "belongs to the global cache scope",
}
#: What main does otherwise than the client's own connection.
OURS = {
    "header connection": "hop by hop (RFC 9110, 7.6.1): each connection has its own",
    "header letters": "a name's letters mean nothing (RFC 9110, 5.1), and ASGI has none but small ones",
}


#: Of 2.1.197: a session that goes on keeps the model of its transcript, whose window is then the small one; under our
#: settings it keeps the default with its large window.
RESUMED = {
    "header anthropic-beta: context-1m-*": "the large window",
    "body system[?].text": "names the model with its window",
    "tool Bash.description": "names the model with its window",
}


def _resumed(client: Client) -> dict[str, str]:
    return {} if client.searches_tools else RESUMED


@dataclass
class Arm:
    """What arrived upstream of one way: at Anthropic, and at Bedrock."""

    anthropic: dict[str, Seen] = field(default_factory=dict)
    bedrock: list[Seen] = field(default_factory=list)
    past: list[Seen] = field(default_factory=list)


@pytest.fixture(scope="session")
def arms(
    client: Client,
    certificates: tuple[Path, Path],
    _daemon: Shipped,
    _upstreams: tuple[Standin, Standin],
    _recorder: Standin,
) -> Iterator[dict[str, Arm]]:
    anthropic, bedrock = _upstreams
    found = {}
    for name in ("claude", "gateway", "openclaude"):
        for one in (anthropic, bedrock, _recorder):
            one.reset()
        shutil.rmtree(SAME, ignore_errors=True)
        SAME.mkdir(mode=0o700)
        box = Box(client, certificates[0], _daemon, SAME)
        try:
            _talk(box, name, anthropic.url)
        finally:
            left = box.close()
        assert not left
        upstream = _recorder if name == "claude" else anthropic
        found[name] = Arm(compare.paired(upstream.messages()), bedrock.messages(), _recorder.seen())
    yield found


def _talk(box: Box, name: str, anthropic: str) -> None:
    run = box.openclaude if name == "openclaude" else box.claude
    # 2.1.197 has tool search off behind a gateway unless its user wants it.
    env: dict[str, str | None] = {"ENABLE_TOOL_SEARCH": "true"}
    if name == "gateway":
        env["ANTHROPIC_BASE_URL"] = anthropic
    begun = set()
    for number, prompt in PROMPTS:
        option = "--resume" if number in begun else "--session-id"
        begun.add(number)
        done = run("-p", prompt, "--output-format", "json", option, SESSION % number, *MAY, env=env)
        assert done.code == 0, f"{name}, {prompt}: {done}"


def _unexpected(left: Arm, right: Arm, allowed: dict[str, str]) -> dict[str, list[tuple[str, str, str]]]:
    found = compare.differences(_of_the_plan(left), _of_the_plan(right))
    return {name: places for name, places in found.items() if not compare.matching(name, allowed)}


def _of_the_plan(arm: Arm) -> dict[str, Seen]:
    """Without the small requests: those are the haiku slot's, whose model is the user's own choice."""
    return {name: seen for name, seen in arm.anthropic.items() if compare.kind(seen) != "aux"}


def test_nothing_is_ours(arms: dict[str, Arm], client: Client) -> None:
    """Against ``claude`` behind a gateway: not a byte is another but for what ``OURS`` says."""
    found = _unexpected(arms["gateway"], arms["openclaude"], OURS | _resumed(client))
    assert not found, compare.told(found)


def test_as_plain_claude(arms: dict[str, Arm], client: Client) -> None:
    """Against plain ``claude``: only what the client itself does otherwise behind a gateway, and ``OURS``."""
    found = _unexpected(arms["claude"], arms["openclaude"], CLIENTS_OWN | OURS | _resumed(client))
    assert not found, compare.told(found)


def test_the_clients_own_table_is_true(arms: dict[str, Arm], client: Client) -> None:
    """Each row is needed by the newest client, or is taken out; and the client does nothing that is not in it."""
    found = compare.differences(_of_the_plan(arms["claude"]), _of_the_plan(arms["gateway"]))
    unknown = {name: places for name, places in found.items() if not compare.matching(name, CLIENTS_OWN)}
    assert not unknown, compare.told(unknown)
    if client.number > (2, 1, 300):
        unused = [row for row in CLIENTS_OWN if not any(compare.matching(name, [row]) for name in found)]
        assert not unused


def test_small_requests_go_to_the_haiku_slot(arms: dict[str, Arm], client: Client) -> None:
    """What plain ``claude`` asks its small model is asked the haiku slot, and as often."""
    small = [seen for seen in arms["claude"].anthropic.values() if compare.kind(seen) == "aux"]
    assert len(arms["openclaude"].bedrock) == len(small)
    assert not [seen for seen in arms["openclaude"].anthropic.values() if compare.kind(seen) == "aux"]


def test_nothing_goes_past_the_proxies(arms: dict[str, Arm]) -> None:
    """No part of a conversation reaches Anthropic by another way than main."""
    past = [str(seen) for seen in arms["openclaude"].past if seen.path.startswith("/v1/")]
    assert not past
