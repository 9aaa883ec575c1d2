"""Background sessions: they outlive the launcher, are stopped and come back, and always go through the proxies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.box import Box, Run
from tests.client.conftest import Shipped
from tests.client.standins import Standin
from tests.helpers.daemon import eventually

pytestmark = pytest.mark.usefixtures("recorder")


def begin(box: Box, prompt: str = "say ok", *more: str) -> str:
    """A background session through openclaude; returns its short name."""
    run = box.openclaude("--bg", *more, prompt, timeout=40)
    assert run.code == 0, run
    found = re.search(r"backgrounded · (\w+)", run.out)
    assert found, run
    return found[1]


def state(box: Box, name: str) -> dict[str, Any]:
    return dict(json.loads((box.home / ".claude/jobs" / name / "state.json").read_text()))


def log(box: Box) -> str:
    path = box.home / ".claude/daemon.log"
    return path.read_text() if path.exists() else ""


def answered(box: Box, name: str, standin: Standin, prompt: str) -> None:
    """Wait until the prompt arrived upstream and the session is at rest again. Raises AssertionError."""
    try:
        eventually(lambda: [one for one in standin.messages() if prompt in str(one.json)], 20, prompt)
        eventually(lambda: state(box, name).get("tempo") != "active", 20, "at rest")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log(box)[-1500:]}") from None


def past(recorder: Standin) -> list[str]:
    return [str(one) for one in recorder.seen(r"/v1/(?:messages|complete)")]


@pytest.mark.parametrize("model", ["opus", "haiku"])
def test_it_works(box: Box, anthropic: Standin, bedrock: Standin, recorder: Standin, model: str) -> None:
    name = begin(box, "say background-one", "--model", model)
    answered(box, name, bedrock if model == "haiku" else anthropic, "background-one")
    assert "Settings file not found" not in log(box)
    assert not past(recorder)


def test_stopped_and_respawned(box: Box, anthropic: Standin, recorder: Standin) -> None:
    """As after an hour of rest: the process is gone, ``respawn`` brings it back with the same settings file."""
    name = begin(box, "say background-two")
    answered(box, name, anthropic, "background-two")
    assert box.openclaude("stop", name, timeout=30).code == 0
    anthropic.reset()
    run = box.openclaude("respawn", name, timeout=30)
    assert run.code == 0, run
    eventually(lambda: _worker(box, name), 30, "the session's process is back")
    assert "Settings file not found" not in log(box)
    assert not past(recorder)


@pytest.mark.thorough
def test_plain_claude_respawns_it_through_the_proxies(
    box: Box, anthropic: Standin, recorder: Standin
) -> None:
    """Claude Code's own supervisor starts it again, after an update or a reboot, without openclaude."""
    name = begin(box, "say background-three")
    answered(box, name, anthropic, "background-three")
    box.claude("daemon", "stop", "--any", timeout=30)
    anthropic.reset()
    run = box.claude("respawn", name, timeout=30)
    assert run.code == 0, run
    eventually(lambda: _worker(box, name), 30, "the session's process is back")
    assert "Settings file not found" not in log(box)
    assert not past(recorder)


@pytest.mark.thorough
def test_the_settings_outlive_the_daemon(own: Shipped, boxes: Callable[..., Box], anthropic: Standin) -> None:
    """ocd stopped and started again while the session sleeps."""
    box = boxes(own)
    name = begin(box, "say background-four")
    answered(box, name, anthropic, "background-four")
    box.openclaude("stop", name, timeout=30)
    try:
        own.restart()
        run = box.openclaude("respawn", name, timeout=40)
        assert run.code == 0, run
        eventually(lambda: _worker(box, name), 30, "the session's process is back")
        assert "Settings file not found" not in log(box)
    finally:
        # What Claude Code left in the background has the daemon's folder in its environment.
        box.close()
        own.occtl("stop")


@pytest.mark.thorough
def test_it_counts_as_a_session(box: Box, anthropic: Standin) -> None:
    name = begin(box, "say background-five")
    answered(box, name, anthropic, "background-five")
    eventually(lambda: _worker(box, name), 20, "the session's process")
    (worker,) = _worker(box, name)
    shown = eventually(
        lambda: [one for one in json.loads(box.occtl("sessions", "--json").out) if one["pid"] == worker.pid],
        20,
        "it is shown",
    )
    assert shown[0]["kind"] == "background"
    eventually(
        lambda: [one for one in json.loads(box.occtl("sessions", "--json").out) if one["requests"]],
        20,
        "it counts",
    )


@pytest.mark.thorough
def test_the_list_and_the_log(box: Box, anthropic: Standin) -> None:
    name = begin(box, "say background-six")
    answered(box, name, anthropic, "background-six")
    if box.client.searches_tools:
        (listed,) = json.loads(box.openclaude("agents", "--json").out)
        assert listed["id"] == name
    assert box.openclaude("logs", name, timeout=30).code == 0
    assert box.openclaude("rm", name, timeout=30).code == 0


def _worker(box: Box, name: str) -> list[Any]:
    """Processes of the session itself, by Claude Code's own notes: 2.1.332 has them ready before they are anybody's."""
    found = []
    for process in box.processes():
        note = box.home / ".claude/sessions" / f"{process.pid}.json"
        if note.exists():
            said = json.loads(note.read_text())
            if name in (said.get("jobId"), str(said.get("sessionId"))[: len(name)]):
                found.append(process)
    return found


def test_nothing_is_left(box: Box) -> None:
    """The suite's own end of background sessions works: plain ``claude --bg``, then ``close``."""
    run: Run = box.claude("--bg", "say ok", timeout=40)
    assert run.code == 0, run
    eventually(box.processes, 20, "its processes")
    assert not box.close()
    assert not box.processes()
