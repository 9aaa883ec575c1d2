"""When the other side refuses, breaks off or is not there: what a person of Claude Code's sees."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.box import Box
from tests.client.conftest import Shipped
from tests.client.pending import pending
from tests.client.standins import Rule, Standin
from tests.helpers.daemon import SLOW

LOGIN = ("/login", "authenticate", "log in", "login")


# --------------------------------------------------------------------------------------------- refused by AWS


@pytest.mark.parametrize(
    "message",
    [
        "The security token included in the request is expired",
        "User is not authorized to perform: bedrock:InvokeModel",
    ],
)
@pending("point 10 (A16): an AWS refusal makes Claude Code ask for a login at Anthropic")
def test_a_refusal_of_aws_is_no_login_at_anthropic(box: Box, bedrock: Standin, message: str) -> None:
    bedrock.rules = [Rule(status=403, times=-1, message=message)]
    run = box.ask("say ok", "--model", "haiku", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    assert run.code == 1
    assert not [word for word in LOGIN if word in run.result], run.result
    assert "AWS" in run.result or "occtl" in run.result, run.result


@pending("point 10 (A16): a plan's token is refreshed for AWS's sake")
def test_a_refusal_of_aws_refreshes_no_login(box: Box, bedrock: Standin, recorder: Standin) -> None:
    bedrock.rules = [Rule(status=403, times=-1, message="expired")]
    run = box.ask("say ok", "--model", "haiku", env={"CLAUDE_CODE_MAX_RETRIES": "1"})
    assert not recorder.seen("oauth/token")
    assert "login" not in run.result and "authenticate" not in run.result


# ------------------------------------------------------------------------------- statuses as plain claude has them


@pending("bytes as they come (A23): statuses and headers of Anthropic's arrive as they are")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 529])
def test_a_status_of_anthropics(boxes: Callable[..., Box], box: Box, anthropic: Standin, status: int) -> None:
    """The same words, and as many requests, as behind any gateway."""
    theirs = _refused(boxes(), "claude", anthropic, status)
    ours = _refused(box, "openclaude", anthropic, status)
    assert ours == theirs


def _refused(box: Box, how: str, anthropic: Standin, status: int) -> tuple[str, list[bool]]:
    anthropic.reset()
    anthropic.rules = [Rule(status=status, times=-1, message="This is what Anthropic says.")]
    env = {"CLAUDE_CODE_MAX_RETRIES": "1"}
    if how == "claude":
        env["ANTHROPIC_BASE_URL"] = anthropic.url
    run = getattr(box, how)("-p", "say ok", "--output-format", "json", env=env)
    asked = [bool(one.json.get("stream")) for one in anthropic.messages()]
    own = str(box.daemon.port) if box.daemon else str(anthropic.port)
    return run.result.replace(own, "PORT").replace(box.client.version, "VERSION"), asked


@pending("bytes and cuts as they come (A23): a broken stream arrives as an error event")
@pytest.mark.parametrize("how", ["reset", "close", "end", "error"])
@pytest.mark.parametrize("cut", [1, 4])
def test_a_stream_that_breaks(
    boxes: Callable[..., Box], box: Box, anthropic: Standin, how: str, cut: int
) -> None:
    """Before and in the middle of the text: the client does what it does behind any gateway."""
    theirs = _broken(boxes(), "claude", anthropic, how, cut)
    ours = _broken(box, "openclaude", anthropic, how, cut)
    assert ours == theirs


def _broken(box: Box, run: str, anthropic: Standin, how: str, cut: int) -> tuple[int, str, list[bool]]:
    anthropic.reset()
    anthropic.rules = [Rule(cut=cut, how=how, text="one two three")]
    env = {"ANTHROPIC_BASE_URL": anthropic.url} if run == "claude" else {}
    done = getattr(box, run)("-p", "say ok", "--output-format", "json", env=env)
    return done.code, done.result, [bool(one.json.get("stream")) for one in anthropic.messages()]


# ---------------------------------------------------------------------------------------- ocd itself goes away


class Talk:
    """A session that lives on: prompts go in as JSON lines, results come out."""

    def __init__(self, box: Box) -> None:
        self.process = subprocess.Popen(
            [
                str(box.bin / "openclaude"),
                *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
            ],
            env=box.environment(),
            cwd=box.work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def ask(self, prompt: str, timeout: float = 60.0) -> dict[str, Any]:
        """One prompt; returns the result's message. At the time-out (seconds) the session is ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        content = [{"type": "text", "text": prompt}]
        line = {"type": "user", "message": {"role": "user", "content": content}}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        timer = threading.Timer(timeout * SLOW, self.process.kill)
        timer.start()
        try:
            for text in self.process.stdout:
                value = json.loads(text)
                if value.get("type") == "result":
                    return dict(value)
        finally:
            timer.cancel()
        raise AssertionError(f"no answer to {prompt!r} within {timeout} s")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.thorough
def test_a_session_goes_on_after_a_restart_of_ocd(boxes: Callable[..., Box], own: Shipped) -> None:
    with Talk(boxes(own)) as talk:
        assert talk.ask("say ok")["result"] == "ok"
        try:
            own.restart()
            assert talk.ask("say ok again")["result"] == "ok"
        finally:
            own.occtl("stop")


@pytest.mark.thorough
def test_sessions_are_found_again(boxes: Callable[..., Box], own: Shipped) -> None:
    box = boxes(own)
    with Talk(box) as talk:
        assert talk.ask("say ok")["result"] == "ok"
        assert "No session" not in box.occtl("sessions").out
        try:
            own.restart()
            talk.ask("say ok again")
            assert "No session" not in box.occtl("sessions").out
        finally:
            own.occtl("stop")


@pytest.fixture
def broken_bedrock(_upstreams: tuple[Standin, Standin]) -> Iterator[Shipped]:
    """A daemon whose bedrock file cannot be read at its first start."""
    with Shipped(_upstreams[0].url, _upstreams[1].url) as daemon:
        daemon.write("litellm-bedrock.yaml", "model_list: [\n")
        daemon.start(wait=False)
        yield daemon


@pytest.mark.thorough
def test_each_slot_needs_its_own_proxy(
    boxes: Callable[..., Box], broken_bedrock: Shipped, anthropic: Standin
) -> None:
    run = boxes(broken_bedrock).ask("say ok", env={"OPENCLAUDE_START_TIMEOUT": "40"}, timeout=80)
    assert run.result == "ok", run


def test_a_daemon_that_is_not_running_is_started(boxes: Callable[..., Box], own_stopped: Shipped) -> None:
    """The first ``openclaude`` of the day."""
    box = boxes(own_stopped)
    try:
        run = box.ask("say ok", timeout=120)
        assert run.result == "ok", run
    finally:
        own_stopped.occtl("stop")
