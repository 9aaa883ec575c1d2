"""Verbs of Claude Code through ``openclaude``: none becomes a prompt that is billed, none blames ``--settings``."""

from __future__ import annotations

import pytest

from tests.client.box import Box, Run
from tests.client.standins import Seen, Standin


def asked(*standins: Standin) -> list[Seen]:
    return [one for standin in standins for one in standin.messages()]


#: verb → what its output has when it worked; "" when the verb itself has nothing to say in an empty home
WORKS = {
    "mcp list": "No MCP servers",
    "plugin list": "",
    "auth status": "loggedIn",
    "agents --json": "[",
    "--version": "Claude Code",
    "--help": "Usage: claude",
    "mcp --help": "Usage: claude mcp",
    "install --help": "Usage: claude install",
}
#: verbs of background sessions: there is no session of that name, and that is what they have to say
SESSIONS = ("stop abc", "logs abc", "attach abc", "rm abc", "respawn abc", "daemon status")


@pytest.mark.parametrize("verb", WORKS)
def test_verbs_that_work(
    box: Box, anthropic: Standin, bedrock: Standin, recorder: Standin, verb: str
) -> None:
    if verb == "agents --json" and not box.client.searches_tools:
        pytest.skip("2.1.197 has no agents --json")
    run = box.openclaude(*verb.split(), timeout=30)
    assert WORKS[verb] in run.out, run
    assert not asked(anthropic, bedrock, recorder)


@pytest.mark.parametrize("verb", SESSIONS)
def test_verbs_of_background_sessions(
    box: Box, anthropic: Standin, bedrock: Standin, recorder: Standin, verb: str
) -> None:
    """What plain ``claude`` does with them: nothing of it is a prompt."""
    theirs = box.claude(*verb.split(), timeout=30)
    reference = asked(anthropic, bedrock, recorder)
    assert not reference, "plain claude makes a prompt of it too"
    ours = box.openclaude(*verb.split(), timeout=30)
    assert not asked(anthropic, bedrock, recorder)
    # Whoever comes first may say that the background service starts.
    starting = "Starting background service…\n"
    assert (ours.code, ours.out) == (theirs.code, theirs.out)
    assert ours.err.replace(starting, "") == theirs.err.replace(starting, "")


@pytest.mark.parametrize("verb", ["remote-control", "rc", "--desktop"])
def test_verbs_that_cannot_work_behind_a_gateway(
    box: Box, anthropic: Standin, bedrock: Standin, recorder: Standin, verb: str
) -> None:
    """Said in our words, with the reason."""
    run = box.openclaude(verb, timeout=30)
    assert not asked(anthropic, bedrock, recorder)
    assert run.code != 0
    assert "--settings" not in run.out + run.err
    assert "openclaude" in run.err or "gateway" in run.err or "prox" in run.err, run


def test_the_wrappers_form(box: Box, anthropic: Standin) -> None:
    """``openclaude /path/to/claude ARGUMENTS…``, as editors call a process wrapper."""
    run = box.openclaude(str(box.bin / "claude"), "-p", "say ok", "--output-format", "json")
    assert run.result == "ok", run
    assert all(str(box.bin) not in _prompt(one) for one in anthropic.messages())


def test_claude_codes_own_wrapper_variable(box: Box, anthropic: Standin, recorder: Standin) -> None:
    """``processWrapper`` in the user's settings: plain ``claude`` starts what it starts through openclaude."""
    box.settings(processWrapper=str(box.bin / "openclaude"))
    run = box.openclaude("-p", "say ok", "--output-format", "json")
    assert run.result == "ok", run
    assert not asked(recorder)


@pytest.mark.parametrize("what", ["vscode", "sdk", "env"])
def test_what_others_need(box: Box, what: str) -> None:
    run = box.occtl("claude", what)
    assert run.code == 0, run
    assert run.out.strip()


def test_doctor_finds_the_api(box: Box) -> None:
    run = _doctor(box)
    line = next(line for line in run.out.splitlines() if "API (custom host)" in line)
    assert "HTTP 403" not in line, line


def test_doctor_works(box: Box, anthropic: Standin, bedrock: Standin, recorder: Standin) -> None:
    assert _doctor(box).code == 0
    assert not asked(anthropic, bedrock, recorder)


def _doctor(box: Box) -> Run:
    if not box.client.searches_tools:
        pytest.skip("2.1.197's doctor wants a terminal")
    return box.openclaude("doctor", timeout=30)


def test_context_is_no_usage(box: Box, anthropic: Standin) -> None:
    assert box.ask("say ok").result == "ok"
    before = _used(box)
    session = box.ask("/context", "--continue")
    assert session.code == 0, session
    if not anthropic.seen("count_tokens"):
        pytest.skip("this client counted nothing upstream")
    assert _used(box) == before


def _used(box: Box) -> str:
    """Our own account of requests, as ``occtl metrics`` has it."""
    lines = box.occtl("metrics").out.splitlines()
    return "\n".join(line for line in lines if line.startswith("ocd_requests"))


def _prompt(seen: Seen) -> str:
    return str([one for one in seen.json.get("messages", []) if one.get("role") == "user"])
