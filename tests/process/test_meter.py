"""The request meter from end to end: what the hook tells is in requests, usage, metrics, sessions, status line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually, free_ports

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def occtl(daemon: Daemon, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ocd.ctl", *args]
    return subprocess.run(
        command, env={**daemon.env, "NO_COLOR": "1", **env}, capture_output=True, text=True, input=""
    )


def requests(daemon: Daemon, lines: int = 500) -> list[dict[str, Any]]:
    with daemon.client() as client:
        return [json.loads(line) for line in client.get(f"/v1/requests?lines={lines}").text.splitlines()]


def metrics(text: str) -> dict[str, float]:
    assert text.endswith("# EOF\n")
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@contextlib.contextmanager
def session(daemon: Daemon) -> Iterator[tuple[int, dict[str, str]]]:
    """A process that counts as an openclaude session, and the headers that its overlay has Claude Code send."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as process:
        assert daemon.post("/v1/launch", {"pid": process.pid, "cwd": "/"})["ready"]
        yield process.pid, {**daemon.headers(), "x-ocd-session": str(process.pid)}
        assert process.stdin is not None
        process.stdin.close()


def ask(daemon: Daemon, headers: dict[str, str], model: str, stream: bool = False) -> int:
    body = {
        "model": model,
        "max_tokens": 64,
        "stream": stream,
        "messages": [{"role": "user", "content": "the secret of the prompt"}],
    }
    url = f"{daemon.url()}/v1/messages?beta=true"
    return httpx.post(url, headers=headers, json=body, timeout=60, trust_env=False).status_code


def test_a_sessions_requests_are_counted_everywhere(daemon: Daemon, upstreams: Upstreams) -> None:
    lines: list[str] = []
    ready = threading.Event()

    def follow() -> None:
        with daemon.client() as client, client.stream("GET", "/v1/requests?lines=0&follow=1") as stream:
            ready.set()
            for line in stream.iter_lines():
                lines.append(line)
                if len(lines) >= 5:
                    return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    assert ready.wait(20)
    with session(daemon) as (pid, headers):
        for model in ("claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder"):
            assert ask(daemon, headers, model, stream=model != "claude-sonnet-9-9") == 200
        upstreams.behave(Behaviour(upstream="anthropic", status=401))
        assert ask(daemon, headers, "claude-opus-9-9") == 401
        found = eventually(lambda: found if len(found := requests(daemon)) >= 5 else None, what="reports")
        follower.join(20)
        assert [json.loads(line) for line in lines] == found[-5:]

        own = [one for one in found if not one["hop"]]
        assert [one["slot"] for one in own] == ["opus", "sonnet", "haiku", "opus"]
        assert {one["session"] for one in own} == {pid} and {one["proxy"] for one in own} == {"main"}
        assert all(one["input_tokens"] and one["output_tokens"] for one in own[:3])
        assert (
            own[0]["stream"] and own[0]["first"] <= own[0]["seconds"] and own[3]["trouble"] == "login-expired"
        )
        (hop,) = [one for one in found if one["hop"]]
        assert hop["proxy"] == "bedrock" and hop["slot"] == "haiku"
        said = json.dumps(found)
        assert "secret" not in said and "sk-ant" not in said and daemon.keys()["main"] not in said

        (shown,) = json.loads(occtl(daemon, "sessions", "--json").stdout)
        assert (shown["pid"], shown["requests"], shown["last_slot"]) == (pid, 4, "opus")
        trouble = daemon.proxy()["troubles"][0]
        assert (trouble["kind"], trouble["slot"], trouble["count"]) == ("login-expired", "opus", 1)
        assert "refuses the login" in occtl(daemon, "status").stdout
        line = eventually(
            lambda: (
                (text := occtl(daemon, "statusline", OCD_SESSION_PID=str(pid)).stdout).count("login") and text
            ),
            what="the status line",
        )
        assert line.startswith("opus → ") and "4 req" in line and line.count("\n") == 1
        file = daemon.runtime / "statusline"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_size < 1000

        upstreams.behave(Behaviour(upstream="anthropic", first=1.0))
        slow = threading.Thread(target=ask, args=(daemon, headers, "claude-opus-9-9"))
        slow.start()
        eventually(lambda: any(one["in_flight"] for one in daemon.proxy()["members"]), what="it is in flight")
        slow.join(60)
        eventually(lambda: not daemon.proxy()["troubles"], what="it passed")
        upstreams.behave()
        kinds = daemon.kinds()
        assert kinds.count("upstream-trouble") == 1 and kinds.count("upstream-ok") == 1

    figures = metrics(occtl(daemon, "metrics").stdout)
    of = 'proxy="main",slot="opus"'
    good = f'ocd_requests_total{{model="claude-opus-9-9",{of},status="200",trouble=""}}'
    assert figures[good] == 2 and figures['ocd_proxy_up{proxy="main"}'] == 1
    assert figures[f"ocd_request_seconds_count{{{of}}}"] == 3
    eventually(lambda: not daemon.status()["sessions"], what="the session ended")
    assert "No session" in occtl(daemon, "sessions").stdout


def test_usage_survives_the_supervisor_and_the_daemon(daemon: Daemon) -> None:
    def totals() -> dict[str, int]:
        rows = csv.DictReader(io.StringIO(occtl(daemon, "usage", "--by", "slot", "--csv").stdout))
        return {row["slot"]: int(row["requests"]) for row in rows}

    before = totals()
    assert before == {"opus": 3, "sonnet": 1, "haiku": 1}, (
        "what the test above asked for; the hop counts once"
    )
    state = daemon.prefix / "state" / "usage.db"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    with session(daemon) as (pid, headers):
        assert ask(daemon, headers, "claude-opus-9-9") == 200
        eventually(lambda: daemon.status()["sessions"][0]["requests"] == 1)
        assert totals() == {**before, "opus": 4}
        former = daemon.supervisor_pid()
        os.kill(former, signal.SIGKILL)
        eventually(lambda: daemon.supervisor_pid() != former, what="another supervisor")
        assert [one["pid"] for one in daemon.status()["sessions"]] == [pid], (
            "it is known, however young it is"
        )
        assert ask(daemon, headers, "claude-opus-9-9", stream=True) == 200
        eventually(lambda: len(requests(daemon)) == 1, what="the new supervisor is told")
    memory = psutil.Process(daemon.supervisor_pid()).memory_info().rss
    assert memory < 50_000_000, memory

    # A port for Prometheus, asked for and changed while it runs; taken by somebody else, it harms nobody.
    port = free_ports(2)
    restarts = {name: proxy["restarts"] for name, proxy in daemon.status()["proxies"].items()}
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        daemon.write_settings(f"{daemon.settings}[metrics]\nport = {port}")
        found = eventually(
            lambda: [one for one in daemon.status()["problems"] if one["code"] == "metrics-port"]
        )
        assert str(port) in found[0]["what"] and found[0]["next"]
    daemon.write_settings(f"{daemon.settings}[metrics]\nport = {port + 1}")
    url = f"http://127.0.0.1:{port + 1}/metrics"
    answer = eventually(lambda: httpx.get(url, trust_env=False), what="the other port")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert metrics(answer.text)['ocd_proxy_up{proxy="bedrock"}'] == 1
    assert httpx.get(url, trust_env=False, headers={"host": "evil.example"}).status_code == 403
    after = daemon.status()
    assert {name: proxy["restarts"] for name, proxy in after["proxies"].items()} == restarts
    assert not [one for one in after["problems"] if one["code"] != "model-retires"]

    # Last of all: without a daemon the figures are there, and the status line says what is the matter.
    assert daemon.stop() == 0
    assert not (daemon.runtime / "statusline").exists()
    assert occtl(daemon, "statusline").stdout == "ocd: not running\n"
    assert totals() == {**before, "opus": 5}
