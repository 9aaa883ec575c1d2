"""Usage and budgets through the real daemon: what the upstreams counted is what is shown; what is used up ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
REQUESTS = 120


def occtl(daemon: Daemon, *args: str) -> str:
    command = [sys.executable, "-m", "ocd.ctl", *args]
    env = {**daemon.env, "NO_COLOR": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, input="", check=True)
    return done.stdout


def usage_of(answer: httpx.Response) -> Counter[str]:
    """What the upstream counted, as it stands in the answer that the client got."""
    last: dict[str, int] = {}
    lines = answer.text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    for event in events or [answer.json()]:
        for holder in (event, event.get("message") or {}):
            found = holder.get("usage") or {}
            last |= {name: value for name, value in found.items() if isinstance(value, int) and value}
    return Counter({name: last.get(name, 0) for name in ("input_tokens", "output_tokens")})


def rows(daemon: Daemon, key: str) -> dict[str, Counter[str]]:
    """Of sessions alone: what another test of this daemon asked for has none."""
    said = json.loads(occtl(daemon, "usage", "--since", "today", "--by", key, "--by", "session", "--json"))
    names = ("input_tokens", "output_tokens", "requests")
    found: dict[str, Counter[str]] = {}
    for row in said["rows"]:
        if row["session"]:
            found.setdefault(row[key], Counter()).update({name: row[name] for name in names})
    return found


def another_supervisor(daemon: Daemon) -> None:
    former = daemon.supervisor_pid()
    os.kill(former, signal.SIGKILL)
    eventually(lambda: daemon.supervisor_pid() != former, what="another supervisor")


def test_usage_is_what_the_upstreams_counted_to_the_token(
    daemon: Daemon, upstreams: Upstreams, tmp_path: Path
) -> None:
    rand = random.Random(5)
    repo = tmp_path / "repo"
    (repo / ".git").mkdir(parents=True)
    (repo / ".git" / "HEAD").write_text("ref: refs/heads/topic\n")
    wanted: dict[str, Counter[str]] = {"opus": Counter(), "haiku": Counter(), "sonnet": Counter()}
    models = {"opus": "claude-opus-9-9", "haiku": "qwen-3-coder", "sonnet": "claude-sonnet-9-9"}
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as session:
        assert daemon.post("/v1/launch", {"pid": session.pid, "cwd": str(repo)})["ready"]
        for number in range(REQUESTS):
            upstreams.behave(Behaviour(chunks=rand.randrange(1, 9)))
            slot = rand.choice(list(models))
            body: dict[str, Any] = {"model": models[slot], "max_tokens": 64, "stream": rand.random() < 0.7}
            headers = {
                **daemon.headers(),
                "x-ocd-session": str(session.pid),
                "x-claude-code-session-id": f"conversation-{number % 3}",
            }
            answer = httpx.post(
                f"{daemon.url()}/v1/messages",
                headers=headers,
                json={**body, "messages": [{"role": "user", "content": "Say ok"}]},
                timeout=60,
                trust_env=False,
            )
            assert answer.status_code == 200
            wanted[slot] += usage_of(answer)
            wanted[slot]["requests"] += 1
            if number == REQUESTS // 2:
                # What is told is in the notes with the next heartbeat, and in the file when it is asked for.
                assert daemon.post("/v1/usage/write")["ok"]
                another_supervisor(daemon)

        def counted() -> int:
            return sum(one["requests"] for one in rows(daemon, "slot").values())

        try:
            eventually(lambda: counted() == REQUESTS, what="all reports")
        except AssertionError as error:
            raise AssertionError(f"{error}: {counted()} of {REQUESTS}, {rows(daemon, 'slot')}") from None
        assert rows(daemon, "slot") == wanted
        total: Counter[str] = sum(wanted.values(), Counter())
        assert rows(daemon, "project") == {str(repo): total}
        assert rows(daemon, "branch") == {"topic": total}
        by_session = rows(daemon, "session")
        assert set(by_session) == {f"conversation-{n}" for n in range(3)}
        assert sum(by_session.values(), Counter()) == total
        assert set(rows(daemon, "provider")) == {"anthropic", "bedrock"}
        assert session.stdin is not None
        session.stdin.close()


def test_a_budget_that_is_used_up_ends_and_begins_again(daemon: Daemon) -> None:
    answer = daemon.ask("qwen-3-coder")
    assert answer.status_code == 200
    daemon.write_settings(f'{daemon.settings}[budget]\nday = 0.000001\naction = "refuse"')
    refused = eventually(
        lambda: (got := daemon.ask("qwen-3-coder")).status_code == 424 and got, what="the budget is used up"
    )
    said = refused.json()["error"]["message"]
    assert "AWS budget" in said and "used up" in said and refused.headers["x-should-retry"] == "false"
    assert daemon.ask("claude-opus-9-9").status_code == 200
    (budget,) = daemon.status()["budgets"]
    assert budget["used_up"] and budget["action"] == "refuse"
    assert (
        "AWS today"
        in subprocess.run(
            [sys.executable, "-m", "ocd.ctl", "status"], env=daemon.env, capture_output=True, text=True
        ).stdout
    )
    assert daemon.kinds().count("budget-used-up") == 1
    # Neither another process of main nor another supervisor forgets it.
    assert daemon.post("/v1/proxies/main/restart")["ok"]
    assert daemon.ask("qwen-3-coder").status_code == 424
    another_supervisor(daemon)
    assert daemon.ask("qwen-3-coder").status_code == 424
    assert daemon.status()["budgets"][0]["used_up"] and daemon.kinds().count("budget-used-up") == 1
    daemon.write_settings(f"{daemon.settings}[budget]\nday = 1000.0")
    eventually(lambda: daemon.ask("qwen-3-coder").status_code == 200, what="there is money again")
    assert daemon.kinds().count("budget-ended") == 1
