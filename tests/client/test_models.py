"""Which model answers, with which window, with which request: the plan's slots as plain ``claude`` has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.client.box import Box, Run
from tests.client.conftest import Shipped
from tests.client.pending import not_before
from tests.client.standins import Rule, Seen, Standin

#: the haiku slot's model as it is shipped, as LiteLLM's table knows it: tokens
HAIKU = "qwen-3-coder"
HAIKU_WINDOW = 262_144
MORE_ALIASES = ("opus", "opusplan", "opus[1m]", "sonnet[1m]", "best")
NEW = (2, 1, 300)


def windows(run: Run) -> dict[str, tuple[int, int]]:
    """Of each model that was used: its window and its output limit, in tokens, as Claude Code sees them."""
    return {name: (one["contextWindow"], one["maxOutputTokens"]) for name, one in run.usage.items()}


def plain(
    boxes: Callable[..., Box],
    *arguments: str,
    settings: dict[str, object] | None = None,
    behind: Standin | None = None,
) -> Run:
    """The same through ``claude`` alone, in a home of its own; Anthropic is the recorder.

    2.1.197 gives its aliases a smaller window behind any gateway: there ``behind`` is the reference's, if given.
    """
    box = boxes()
    if settings:
        box.settings(**settings)
    env = {} if box.client.searches_tools or behind is None else {"ANTHROPIC_BASE_URL": behind.url}
    run = box.claude("-p", "say ok", "--output-format", "json", *arguments, env=env)
    assert run.code == 0, run
    return run


def first(standin: Standin) -> Seen:
    """The first request that is not a small one."""
    return next(one for one in standin.messages() if one.tools)


@pytest.mark.parametrize(
    "model",
    ["", "sonnet", *(pytest.param(one, marks=pytest.mark.thorough) for one in MORE_ALIASES)],
)
def test_same_models_and_windows(boxes: Callable[..., Box], box: Box, anthropic: Standin, model: str) -> None:
    more = ["--model", model] if model else []
    run = box.ask("say ok", *more)
    assert run.code == 0, run
    assert windows(run) == windows(plain(boxes, *more, behind=anthropic))


@pytest.mark.parametrize("name", ["fable", "claude-opus-9-9", "claude-sonnet-9-9-20990101"])
def test_a_name_of_claudes_that_nobody_configured(box: Box, anthropic: Standin, name: str) -> None:
    """A model that is new tomorrow is a name like any other: it reaches Anthropic as it was asked for."""
    run = box.ask("say ok", "--model", name)
    assert run.result == "ok", run
    (seen,) = {one.model for one in anthropic.messages()}
    assert seen == name if name != "fable" else seen.startswith("claude-fable")


def test_an_alias_whose_default_is_another_one(box: Box, anthropic: Standin) -> None:
    """As a newer Claude Code would have it: its own alias decides, nothing of ours."""
    box.settings(env={"ANTHROPIC_DEFAULT_OPUS_MODEL": "claude-opus-9-9"})
    assert box.ask("say ok", "--model", "opus").result == "ok"
    assert {one.model for one in anthropic.messages()} == {"claude-opus-9-9"}


def test_a_saved_1m_stays(boxes: Callable[..., Box], box: Box) -> None:
    box.settings(model="opus[1m]")
    run = box.ask("say ok")
    assert run.err == ""
    assert windows(run) == windows(plain(boxes, settings={"model": "opus[1m]"}))


def test_1m_as_an_option(box: Box, anthropic: Standin) -> None:
    assert box.ask("say ok", "--model", "claude-sonnet-4-5[1m]").result == "ok"
    assert "context-1m" in first(anthropic).header("anthropic-beta")
    assert first(anthropic).model == "claude-sonnet-4-5"


def test_haiku_is_bedrocks(box: Box, anthropic: Standin, bedrock: Standin) -> None:
    """The haiku slot's requests: at Bedrock with AWS's signature, none at Anthropic, no token of the plan's."""
    run = box.ask("say ok", "--model", "haiku")
    assert run.result == "ok from bedrock", run
    assert not anthropic.messages()
    assert bedrock.messages()
    for one in bedrock.messages():
        assert one.header("authorization").startswith("AWS4-HMAC-SHA256 ")
        assert b"sk-ant-" not in one.head + one.body


def test_haikus_window(box: Box) -> None:
    run = box.ask("say ok", "--model", "haiku")
    assert all(window <= HAIKU_WINDOW for window, _limit in windows(run).values()), windows(run)


def test_haiku_is_quiet(box: Box) -> None:
    assert box.ask("say ok", "--model", "haiku").err == ""


@pytest.mark.parametrize("slot", ["haiku", "sonnet", "opus"])
def test_a_subagent(box: Box, anthropic: Standin, bedrock: Standin, slot: str) -> None:
    """A subagent's model is the slot that was asked for, in whichever session."""
    run = box.ask(f"SPAWN:{slot}", "--allowedTools", "Agent", "Task")
    assert run.code == 0, run
    agents = [
        one for one in anthropic.messages() + bedrock.messages() if "from the subagent" in str(one.json)
    ]
    mine = [one for one in agents if one.server == ("bedrock" if slot == "haiku" else "anthropic")]
    assert mine, [str(one) for one in agents]
    if slot != "haiku":
        assert any(one.model.startswith(f"claude-{slot}") for one in mine)


def test_the_users_model_for_subagents(box: Box, bedrock: Standin) -> None:
    box.settings(env={"CLAUDE_CODE_SUBAGENT_MODEL": "haiku"})
    box.ask("SPAWN:-", "--allowedTools", "Agent", "Task")
    assert [one for one in bedrock.messages() if "from the subagent" in str(one.json)]


def test_a_stale_force_is_not_followed(box: Box, bedrock: Standin) -> None:
    not_before(box.client, NEW, "the user's CLAUDE_CODE_SUBAGENT_MODEL alone decides for all subagents")
    box.settings(env={"CLAUDE_CODE_SUBAGENT_MODEL_FORCE": "1", "CLAUDE_CODE_SUBAGENT_MODEL": "opus"})
    box.ask("SPAWN:haiku", "--allowedTools", "Agent", "Task")
    assert [one for one in bedrock.messages() if "from the subagent" in str(one.json)]


def test_a_stale_pin_of_another_provider(box: Box, anthropic: Standin) -> None:
    box.settings(env={"ANTHROPIC_DEFAULT_FABLE_MODEL": "us.anthropic.claude-fable-5-2-v1:0"})
    run = box.ask("say ok", "--model", "fable")
    assert run.result == "ok" or "occtl" in run.result + run.err, run
    assert all(one.model.startswith("claude-fable") for one in anthropic.messages())


# ---------------------------------------------------------------------------------------------- what is sent


def test_the_first_request_is_as_small(
    boxes: Callable[..., Box], box: Box, anthropic: Standin, recorder: Standin
) -> None:
    plain(boxes)
    theirs = first(recorder)
    box.ask("say ok", env={"ENABLE_TOOL_SEARCH": "true"} if not box.client.searches_tools else None)
    ours = first(anthropic)
    assert ours.tools == theirs.tools
    assert len(ours.body) < 1.05 * len(theirs.body)


def test_sixty_tools_of_mcp(
    box: Box, anthropic: Standin, recorder: Standin, boxes: Callable[..., Box]
) -> None:
    not_before(box.client, NEW, "tool search is off behind any other base URL, unless it is asked for")
    other = boxes()
    other.claude("-p", "say ok", "--mcp-config", str(other.mcp_stub(60)))
    theirs = first(recorder)
    env = {} if box.client.searches_tools else {"ENABLE_TOOL_SEARCH": "true"}
    box.ask("say ok", "--mcp-config", str(box.mcp_stub(60)), env=env)
    ours = first(anthropic)
    assert not [name for name in ours.tools if name.startswith("mcp__")]
    assert len(ours.body) < 1.1 * len(theirs.body)


def test_a_tool_of_mcp_works_for_haiku(box: Box, bedrock: Standin) -> None:
    """However many tools there are: the haiku slot answers."""
    run = box.ask("say ok", "--model", "haiku", "--mcp-config", str(box.mcp_stub(60)))
    assert run.result == "ok from bedrock", run


def test_the_users_own_tool_search_on(box: Box, anthropic: Standin) -> None:
    box.settings(env={"ENABLE_TOOL_SEARCH": "true"})
    box.ask("say ok")
    assert "ToolSearch" in first(anthropic).tools


def test_the_users_own_tool_search_off(box: Box, anthropic: Standin) -> None:
    box.settings(env={"ENABLE_TOOL_SEARCH": "false"})
    box.ask("say ok")
    assert "ToolSearch" not in first(anthropic).tools
    assert "WebSearch" in first(anthropic).tools


# ------------------------------------------------------------------------------------------- what goes away


def test_a_model_that_is_gone(box: Box, anthropic: Standin) -> None:
    """Claude Code says it in its own words, and ``occtl status`` goes on saying it until the model answers."""
    anthropic.rules = [Rule(status=404, times=-1, message="model: claude-opus-5-5")]
    run = box.ask("say ok")
    assert run.code == 1
    assert "may not exist" in run.result
    status = box.occtl("status").out
    assert "gone" in status or "retired" in status, status
    anthropic.rules = []
    assert box.ask("say ok").result == "ok"
    after = box.occtl("status").out
    assert "gone" not in after and "retired" not in after, after


def test_the_plans_limits_are_shown(box: Box, anthropic: Standin, daemon: Shipped) -> None:
    anthropic.used = "0.77"
    box.ask("say ok")
    assert "77" in box.occtl("status").out
