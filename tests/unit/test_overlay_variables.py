"""The table of Claude Code's variables: whole, without contradictions, and what the client sends made from it."""

import os
from pathlib import Path

import pytest

from ocd.claude import variables
from ocd.claude.overlay import SUBAGENTS, Slots, build
from ocd.errors import OcdError
from ocd.wire.messages import LaunchRequest
from tests.client import variables as tool

KNOWN = ["claude-*", "qwen-3-coder"]


def env_of(*, env=None, user=None, known=KNOWN, subagents=""):
    made = build(
        LaunchRequest(pid=1, cwd="/", env=env or {}),
        user_settings={"env": user or {}},
        extra_settings=None,
        managed={},
        slots=Slots("", "", "qwen-3-coder", "", subagents),
        base_url="http://127.0.0.1:4000",
        key="k",
        known_models=known,
    )
    return made


def test_no_name_is_in_two_rows_and_what_is_set_is_no_pattern():
    exact = [name for row in variables.TABLE for name in row.matches() if "*" not in name]
    assert len(exact) == len(set(exact))
    for row in variables.TABLE:
        assert row.why
        if row.kind in ("ours", "emptied", "pin", "model", "read"):
            assert not [name for name in row.matches() if "*" in name]
        assert not row.past or row.kind == "emptied"


def test_what_openclaude_sends_is_made_from_the_table():
    assert tool.MADE.read_text() == tool.made()


def test_a_new_name_is_named():
    """A made-up variable of a made-up client, in a binary, beside known and irrelevant ones."""
    known = ["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_DISABLE_MOUSE", "ANTHROPIC_BEDROCK_BASE_URL"]
    assert variables.unclassified([*known, "CLAUDE_CODE_USE_MOONBASE"]) == ["CLAUDE_CODE_USE_MOONBASE"]


def test_the_tool_reads_a_program(tmp_path, capsys):
    program = tmp_path / "claude"
    program.write_bytes(
        b"\x7fELF\0xANTHROPIC_BASE_URL\0,CLAUDE_CODE_MOON_TOKEN:()=>e\0NO_PROXY\0CLAUDE_CODE_UI"
    )
    assert tool.main([str(program)]) == 1
    assert "CLAUDE_CODE_MOON_TOKEN has no row" in capsys.readouterr().out
    program.write_bytes(b"ANTHROPIC_BASE_URL")
    assert tool.main([str(program)]) == 0


@pytest.mark.skipif(not os.environ.get("OCD_TEST_CLAUDE"), reason="OCD_TEST_CLAUDE names no client")
def test_every_name_of_the_real_clients_has_a_row():
    for path in os.environ["OCD_TEST_CLAUDE"].split(os.pathsep):
        assert variables.unclassified(tool.names(Path(path))) == []


@pytest.mark.parametrize("name", variables.EMPTIED)
def test_what_leads_away_is_emptied_wherever_it_is_set(name):
    for made in (env_of(env={name: ""}), env_of(user={name: "x"})):
        assert made.settings["env"][name] == "" and name in made.unset


@pytest.mark.parametrize("name", variables.DEFEATING)
def test_an_administrators_value_of_what_leads_past_the_proxies_is_refused(name):
    with pytest.raises(OcdError) as caught:
        build(
            LaunchRequest(pid=1, cwd="/"),
            user_settings={},
            extra_settings=None,
            managed={"env": {name: "1"}},
            slots=Slots("", "", ""),
            base_url="http://127.0.0.1:4000",
            key="k",
        )
    assert caught.value.exit_code == 78 and name in caught.value.sentence()


@pytest.mark.parametrize("name", variables.MODELS)
@pytest.mark.parametrize("level", ["env", "user"])
def test_the_users_choice_of_a_model_stays_where_main_has_a_route(name, level):
    for good in ("haiku", "opus[1m]", "claude-opus-9-9", "qwen-3-coder", "inherit"):
        made = env_of(**{level: {name: good}})
        assert name not in made.settings["env"] and name not in made.unset and not made.notices
    for bad in ("us.anthropic.claude-opus-4-6-v1", "arn:aws:bedrock:x", "gpt-9"):
        made = env_of(**{level: {name: bad}})
        assert made.settings["env"][name] == "" and name in made.unset and name in made.notices[0]


def test_subagents_of_the_settings_and_the_users_own():
    assert env_of(subagents="haiku").settings["env"][SUBAGENTS] == "haiku"
    assert SUBAGENTS not in env_of().settings["env"]
    assert SUBAGENTS not in env_of(subagents="haiku", env={SUBAGENTS: "sonnet"}).settings["env"]
    assert env_of(env={SUBAGENTS: "ll@qwen-3-coder"}).settings["env"][SUBAGENTS] == "qwen-3-coder"


def test_tool_search_is_the_users():
    for own in ({}, {"ENABLE_TOOL_SEARCH": "auto:5"}):
        made = env_of(user=own, env=own)
        assert "ENABLE_TOOL_SEARCH" not in made.settings["env"] and "ENABLE_TOOL_SEARCH" not in made.unset
