"""``occtl trace`` from end to end: what is sent and answered is in files, no credential is, and it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from typing import Any

import pytest

from ocd.selftest.upstreams import Upstreams
from tests.helpers import canaries
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def occtl(daemon: Daemon, *args: str, code: int = 0, **more: str) -> str:
    command = [sys.executable, "-m", "ocd.ctl", *args]
    done = subprocess.run(
        command, env={**daemon.env, "NO_COLOR": "1", **more}, capture_output=True, text=True, input=""
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def kept(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(occtl(daemon, "trace", "list", "--json"))
    return found


def test_exchanges_are_kept_while_it_is_on(daemon: Daemon, upstreams: Upstreams) -> None:
    folder = daemon.prefix / "state" / "trace"
    assert daemon.ask().status_code == 200
    assert daemon.status()["trace_until"] is None and "off" in occtl(daemon, "trace")
    assert not list(folder.rglob("*.json"))

    assert "prompts" in occtl(daemon, "trace", "on", "--for", "10m")
    assert daemon.status()["trace_until"] and "whole exchanges" in occtl(daemon, "status")
    eventually(lambda: "tracing until" in occtl(daemon, "statusline"), what="the status line")
    assert daemon.ask(stream=True).status_code == 200
    assert daemon.ask("qwen-3-coder").status_code == 200
    found = eventually(lambda: (all_ := kept(daemon)) and len(all_) == 3 and all_, what="three files")
    # the latest first: the hop began after the request that it is for
    assert [one["proxy"] for one in found] == ["bedrock", "main", "main"]
    assert [one["slot"] for one in found] == ["haiku", "haiku", "opus"]
    one = json.loads(occtl(daemon, "trace", "show", "3", "--json"))
    assert one["status"] == 200 and "message_stop" in one["answer"]["text"] and one["upstream"]
    assert "POST /v1/messages" in occtl(daemon, "trace", "show", "3")
    files = list(folder.rglob("*.json"))
    written = "".join(path.read_text() for path in files)
    assert canaries.TOKEN not in written and not any(key in written for key in daemon.keys().values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())} == {0o700}

    # A process that replaces another one, and a supervisor that does, know of it.
    daemon.post("/v1/proxies/main/restart")
    daemon.wait_ready()
    assert daemon.ask().status_code == 200
    eventually(lambda: len(kept(daemon)) == 4, what="the new process keeps it, too")
    former = daemon.supervisor_pid()
    os.kill(former, signal.SIGKILL)
    eventually(lambda: daemon.supervisor_pid() != former, what="another supervisor")
    assert daemon.status()["trace_until"]

    occtl(daemon, "trace", "on", "--for", "10m", "--slot", "haiku")
    assert daemon.ask().status_code == 200
    assert daemon.ask("qwen-3-coder").status_code == 200
    eventually(lambda: len(kept(daemon)) == 6, what="haiku and its hop, not opus")

    occtl(daemon, "trace", "off")
    assert daemon.status()["trace_until"] is None
    assert daemon.ask("qwen-3-coder").status_code == 200
    assert len(kept(daemon)) == 6
    assert daemon.kinds().count("trace-off") == 1

    # Each kind once more. The login of the plan's leg is not kept: it comes from where Claude Code takes it.
    number = {(one["proxy"], one["slot"]): str(one["number"]) for one in kept(daemon)}
    assert set(number) == {("bedrock", "haiku"), ("main", "haiku"), ("main", "opus")}
    login = {"CLAUDE_CODE_OAUTH_TOKEN": canaries.TOKEN}
    for which, variables in ((("bedrock", "haiku"), {}), (("main", "haiku"), {}), (("main", "opus"), login)):
        again = json.loads(occtl(daemon, "trace", "replay", number[which], "--json", **variables))
        assert again["status"] == again["kept_status"] == 200 and again["first_byte"], again
        assert again["answer"]
    refused = json.loads(occtl(daemon, "trace", "replay", number["main", "opus"], "--json", code=69))
    assert refused["status"] == 424 and "authentication_error" in refused["answer"], refused
    assert "content" in occtl(daemon, "trace", "replay", number["main", "haiku"])


def test_it_ends_when_it_cannot_be_written_and_with_the_daemon(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.start()
        occtl(daemon, "trace", "on")
        folder = daemon.prefix / "state" / "trace" / "main"
        shutil.rmtree(folder)
        folder.write_text("in the way")
        assert daemon.ask().status_code == 200
        eventually(lambda: daemon.status()["trace_until"] is None, what="it ended")
        assert "trace-off" in daemon.kinds() and daemon.ask().status_code == 200
        folder.unlink()

        occtl(daemon, "trace", "on")
        assert daemon.status()["trace_until"]
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.status()["trace_until"] is None
