"""``--account`` and ``--profile`` with the real client: whose login goes out, which model answers, what is linked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.box import Box
from tests.client.conftest import Shipped
from tests.client.standins import Standin
from tests.helpers import canaries
from tests.helpers.daemon import eventually

pytestmark = pytest.mark.usefixtures("recorder")
TOKEN = canaries.forbid("plan token of an account", "sk-ant-oat01-canary-of-the-account-work")


def account(box: Box) -> Path:
    """The account work, logged in."""
    run = box.occtl("account", "add", "work")
    assert run.code == 0, run
    folder = box.home / ".claude-accounts" / "work"
    ordinary = box.home / ".claude" / ".credentials.json"
    shutil.copy(ordinary, folder / ".credentials.json")
    login = json.loads(ordinary.read_text())
    login["claudeAiOauth"]["accessToken"] = TOKEN
    (folder / ".credentials.json").write_text(json.dumps(login))
    # Which folders are trusted is Claude Code's own question, in each account.
    state = json.loads((folder / ".claude.json").read_text())
    state["projects"] = json.loads((box.home / ".claude.json").read_text())["projects"]
    (folder / ".claude.json").write_text(json.dumps(state))
    return folder


def tokens(standin: Standin, prompt: str) -> set[str]:
    """The logins of the requests that have the prompt."""
    found = [one for one in standin.messages() if prompt in str(one.json)]
    return {value for one in found for name, value in one.headers if name.lower() == "authorization"}


def test_each_account_pays_with_its_own_login(box: Box, anthropic: Standin, bedrock: Standin) -> None:
    box.settings(env={"MINE": "1"})
    folder = account(box)
    assert box.ask("say of-work", "--account", "work").code == 0
    assert box.ask("say of-default").code == 0
    assert tokens(anthropic, "of-work") == {f"Bearer {TOKEN}"}
    assert len(tokens(anthropic, "of-default")) == 1 and f"Bearer {TOKEN}" not in tokens(
        anthropic, "of-default"
    )
    sent = [name.lower() for one in (*anthropic.messages(), *bedrock.messages()) for name, _ in one.headers]
    assert sent and not any(name.startswith("x-ocd") for name in sent if name != "x-ocd-hop")
    assert (folder / "settings.json").is_symlink(), "Claude Code leaves the link as it is"
    assert not (folder / ".credentials.json").is_symlink()
    assert box.openclaude("--account", "work", "auth", "status", timeout=30).code == 0
    assert box.openclaude("--account", "nobody", "-p", "x").code == 66


def test_a_background_session_of_an_account_keeps_it(box: Box, anthropic: Standin) -> None:
    folder = account(box)
    run = box.openclaude("--account", "work", "--bg", "say background-work", timeout=40)
    assert run.code == 0, run
    try:
        eventually(lambda: tokens(anthropic, "background-work"), 20, "the prompt arrives")
        assert tokens(anthropic, "background-work") == {f"Bearer {TOKEN}"}
        assert list((folder / "jobs").iterdir()) and not (box.home / ".claude" / "jobs").exists()
    finally:
        box.openclaude("--account", "work", "daemon", "stop", "--any", timeout=20)


def test_a_profile_and_a_project_choose_the_model(
    own_stopped: Shipped, boxes: Callable[..., Box], anthropic: Standin, bedrock: Standin
) -> None:
    own_stopped.write_settings('[profiles.plan]\nhaiku = "claude-sonnet-9-9"\n')
    own_stopped.start()
    box = boxes(own_stopped)
    try:
        assert box.ask("say one", "--model", "haiku", "--profile", "plan").code == 0
        assert [one for one in anthropic.messages() if "say one" in str(one.json)]
        assert not [one for one in bedrock.messages() if "say one" in str(one.json)]
        (box.work / ".ocd.toml").write_text('profile = "plan"\n')
        before = box.ask("say two", "--model", "haiku")
        assert "is not used" in before.err and [
            one for one in bedrock.messages() if "say two" in str(one.json)
        ]
        assert box.occtl("profile", "trust").code == 0
        after = box.ask("say three", "--model", "haiku")
        assert "is not used" not in after.err
        assert [one for one in anthropic.messages() if "say three" in str(one.json)]
    finally:
        box.close()


@pytest.mark.thorough
def test_what_the_client_writes_goes_through_the_links(box: Box) -> None:
    """A plugin that is switched on in an account is on in the ordinary folder, too: one settings.json."""
    box.settings(cleanupPeriodDays=99)
    folder = account(box)
    market = box.root / "market"
    (market / ".claude-plugin").mkdir(parents=True)
    (market / "p" / ".claude-plugin").mkdir(parents=True)
    plugin = {"name": "p", "source": "./p", "description": "nothing"}
    listed = {"name": "m", "owner": {"name": "nobody"}, "plugins": [plugin]}
    (market / ".claude-plugin" / "marketplace.json").write_text(json.dumps(listed))
    (market / "p" / ".claude-plugin" / "plugin.json").write_text('{"name": "p", "version": "1.0.0"}')
    for verb in (("marketplace", "add", str(market)), ("install", "p@m")):
        run = box.openclaude("--account", "work", "plugin", *verb, timeout=60)
        assert run.code == 0, run
    assert (folder / "settings.json").is_symlink(), "Claude Code writes behind the link"
    settings = json.loads((box.home / ".claude" / "settings.json").read_text())
    assert settings["enabledPlugins"] == {"p@m": True} and settings["cleanupPeriodDays"] == 99
