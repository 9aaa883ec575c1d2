"""Variables and settings that lead a session elsewhere; what the user's own programs see."""

from __future__ import annotations

import re

import pytest

from tests.client.box import TOKEN, Box
from tests.client.pending import pending
from tests.client.standins import Standin

ELSEWHERE = "http://127.0.0.1:9"
KEY = "sk-ant-api03-the-users-own-key-of-another-account"

#: Each would move a session to another place or credential: it must make no difference.
AWAY = {
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_AUTH_TOKEN": "a-gateways-token",
    "ANTHROPIC_BASE_URL": ELSEWHERE,
    "ANTHROPIC_MODEL": "us.anthropic.claude-opus-4-6-v1",
    "ANTHROPIC_UNIX_SOCKET": "/nonexistent/socket",
    "ANTHROPIC_BEDROCK_BASE_URL": ELSEWHERE,
    "ANTHROPIC_PROFILE": "somebody",
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "CLAUDE_CODE_USE_VERTEX": "1",
    "CLAUDE_CODE_USE_FOUNDRY": "1",
    "CLAUDE_CODE_USE_MANTLE": "1",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": "1",
    "CLAUDE_CODE_USE_GATEWAY": "1",
}


def served(box: Box, anthropic: Standin, recorder: Standin, **options: object) -> None:
    """One prompt: answered through main with the plan's token, nothing of it anywhere else."""
    run = box.ask("say ok", **options)
    past = [str(one) for one in recorder.seen(r"/v1/(?:messages|complete)")]
    assert not past, past
    assert run.result == "ok", run
    for one in anthropic.messages():
        assert one.header("authorization") == f"Bearer {TOKEN}"
        assert not one.header("x-api-key") and not one.header("x-litellm-api-key")
        assert "oauth-2025-04-20" in one.header("anthropic-beta")


def test_a_plain_session(box: Box, anthropic: Standin, recorder: Standin) -> None:
    served(box, anthropic, recorder)


@pytest.mark.thorough
@pytest.mark.parametrize("name", AWAY)
def test_in_the_environment(box: Box, anthropic: Standin, recorder: Standin, name: str) -> None:
    served(box, anthropic, recorder, env={name: AWAY[name]})


@pytest.mark.thorough
@pytest.mark.parametrize("name", AWAY)
def test_in_the_users_settings(
    box: Box, anthropic: Standin, recorder: Standin, name: str, request: pytest.FixtureRequest
) -> None:
    if name == "ANTHROPIC_UNIX_SOCKET" and not box.client.searches_tools:
        request.applymarker(pending("point 5: 2.1.197 takes the socket from the user's settings before ours"))
    box.settings(env={name: AWAY[name]})
    served(box, anthropic, recorder)


def test_managed_by_host(box: Box, anthropic: Standin, recorder: Standin) -> None:
    served(
        box,
        anthropic,
        recorder,
        env={"CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST": "1", "CLAUDE_CODE_OAUTH_TOKEN": TOKEN},
    )


def test_the_token_in_the_environment(box: Box, anthropic: Standin, recorder: Standin) -> None:
    """``claude setup-token``'s token instead of a saved login."""
    (box.home / ".claude/.credentials.json").unlink()
    served(box, anthropic, recorder, env={"CLAUDE_CODE_OAUTH_TOKEN": TOKEN})


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["settings.json", "project"])
def test_a_helper_for_keys(box: Box, anthropic: Standin, recorder: Standin, file: str) -> None:
    """``apiKeyHelper`` of the user's own or of the project's would replace the plan's token."""
    if file == "project":
        (box.work / ".claude").mkdir()
        (box.work / ".claude/settings.json").write_text('{"apiKeyHelper": "echo sk-other"}')
    else:
        box.settings(apiKeyHelper="echo sk-other")
    served(box, anthropic, recorder)


# ------------------------------------------------------------------------- what Claude Code runs for the user


def seen_by_bash(standin: Standin) -> dict[str, str]:
    """The environment that a Bash call printed, from the tool's result in the following request."""
    results = [
        block["content"]
        for message in standin.messages()[-1].json["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block.get("type") == "tool_result"
    ]
    text = results[-1] if isinstance(results[-1], str) else results[-1][0]["text"]
    return dict(re.findall(r"^((?:ANTHROPIC|CLAUDE|ENABLE|OCD)_\w+)=(.*)$", text, re.MULTILINE))


BASH = ("BASH:env | sort", "--allowedTools", "Bash")


def test_programs_keep_the_users_environment(box: Box, anthropic: Standin) -> None:
    mine = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "https://gateway.example.org"}
    assert box.ask(*BASH, env=mine).code == 0
    found = seen_by_bash(anthropic)
    assert {name: found.get(name) for name in mine} == mine


def test_programs_do_not_see_our_key(box: Box, anthropic: Standin) -> None:
    assert box.ask(*BASH).code == 0
    found = seen_by_bash(anthropic)
    assert found, "the environment was not printed"
    assert "x-litellm-api-key" not in str(found)
    assert "ANTHROPIC_API_KEY" not in found, "an emptied variable is not the user's own absent one"


def test_a_session_within_a_session(box: Box, anthropic: Standin) -> None:
    """``openclaude`` in a Bash call of ``openclaude``."""
    run = box.ask("BASH:openclaude -p 'say ok' | sed s/ok/nested/", "--allowedTools", "Bash")
    assert run.code == 0, run
    assert "nested" in str(anthropic.messages()[-1].json["messages"])
