"""Claude Code in a terminal, through openclaude."""

from __future__ import annotations

import pytest

from tests.client.box import Box
from tests.client.pending import not_before
from tests.client.standins import Rule, Standin
from tests.client.terminal import ESCAPE, Terminal

READY = r"❯"
FULL_SCREEN = {"CLAUDE_CODE_NO_FLICKER": "1"}


def test_it_starts_and_answers(box: Box, anthropic: Standin, recorder: Standin) -> None:
    with Terminal(box, ["openclaude"]) as terminal:
        terminal.wait(READY)
        anthropic.rules = [Rule(times=-1, text="seen in the terminal")]
        terminal.type("say ok")
        terminal.wait(r"● seen in the terminal")
    assert not recorder.messages()


def test_the_picker(box: Box) -> None:
    """The slots as they are routed: the haiku row names the model that answers, and no row another one."""
    not_before(box.client, (2, 1, 300), "it does not know modelPicker")
    with Terminal(box, ["openclaude"]) as terminal:
        terminal.wait(READY)
        terminal.type("/model")
        screen = terminal.wait(r"Select model")
        terminal.send(ESCAPE)
    rows = [line for line in screen.splitlines() if "Haiku" in line or "aiku" in line]
    assert rows, screen
    assert any("Qwen" in row or "qwen" in row for row in rows), screen
    assert "Haiku 5.5" not in screen and "Haiku 4.5" not in screen, screen


def test_there_is_a_picker(box: Box) -> None:
    with Terminal(box, ["openclaude"]) as terminal:
        terminal.wait(READY)
        terminal.type("/model")
        terminal.wait(r"Select model")
        terminal.send(ESCAPE)


@pytest.mark.parametrize("renderer", ["default", "fullscreen"])
def test_a_notice_is_visible(box: Box, renderer: str) -> None:
    """A foreign model in the settings is set aside, and that is said where a person looks."""
    box.settings(model="us.anthropic.claude-opus-4-6-v1", tui=renderer)
    env = FULL_SCREEN if renderer == "fullscreen" else {}
    with Terminal(box, ["openclaude"], env) as terminal:
        terminal.wait(READY)
        terminal.wait(r"belongs to another\s+provider", 5)


def test_a_refusal_of_aws(box: Box, bedrock: Standin) -> None:
    with Terminal(box, ["openclaude", "--model", "haiku"], {"CLAUDE_CODE_MAX_RETRIES": "1"}) as terminal:
        terminal.wait(READY)
        bedrock.rules = [Rule(status=403, times=-1, message="The security token is expired")]
        terminal.type("say ok")
        screen = terminal.wait(r"●.*(?:Error|error|expired|login)", 30)
    assert "/login" not in screen, screen
