"""``[team]``: the haiku slot from a team's Bedrock proxy, with a key of its own and nothing of the plan's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ocd.selftest.upstreams import Upstreams
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

KEY = "sk-of-the-team-0123456789"


def occtl(daemon: Daemon, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ocd.ctl", *words],
        env={**daemon.env, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def theirs(addresses: dict[str, str]) -> Iterator[Daemon]:
    """The team's: a bedrock proxy of ours, whose boundary refuses whatever carries a login of Anthropic's."""
    with Daemon(upstreams=addresses) as daemon:
        daemon.start()
        yield daemon


def test_a_slot_of_the_teams(addresses: dict[str, str], theirs: Daemon, upstreams: Upstreams) -> None:
    url, key = f"http://127.0.0.1:{theirs.proxy('bedrock')['port']}", theirs.keys()["bedrock"]
    with Daemon(
        upstreams=addresses, settings=f'[team]\nurl = "{url}"\n[proxies.bedrock]\nenabled = false\n'
    ) as daemon:
        daemon.start(wait=False)
        eventually(lambda: daemon.proxy()["state"] == "ready", 90)
        (problem,) = [one for one in daemon.status()["problems"] if one["code"] == "no-team-key"]
        assert "occtl init --preset team" in problem["next"]
        assert daemon.ask("qwen-3-coder").status_code == 424, "refused there, and no login is asked for here"
        path = daemon.prefix / "state" / "team-key"
        path.write_text(key + "\n")
        path.chmod(0o600)
        before = daemon.proxy()["revision"]
        assert daemon.post("/v1/reload", {})["ok"]
        assert daemon.proxy()["revision"] != before, "another key is another process"
        assert not [one for one in daemon.status()["problems"] if one["code"] == "no-team-key"]
        upstreams.reset()
        assert daemon.ask("qwen-3-coder").status_code == 200
        assert len(upstreams.seen("bedrock")) == 1 and not upstreams.seen("anthropic")
        assert theirs.proxy("bedrock")["troubles"] == [] and "credential-refused" not in theirs.kinds()
        shown = occtl(daemon, "explain", "qwen-3-coder").stdout
        assert url in shown and "the session's login stays behind" in " ".join(shown.split())
        for process in (daemon.proxy()["pid"], daemon.supervisor_pid()):
            with open(f"/proc/{process}/cmdline", "rb") as file:
                assert key.encode() not in file.read()
        path.chmod(0o644)
        daemon.post("/v1/reload", {})
        assert [one for one in daemon.status()["problems"] if one["code"] == "team-key-not-ours"]


def test_the_set_up_is_one_line(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses) as daemon:
        done = occtl(daemon, "init", "--preset", "team", "--force")
        assert done.returncode == 78 and "OCD_TEAM_URL" in done.stderr
        done = occtl(
            daemon, "init", "--preset", "team", OCD_TEAM_URL="http://bedrock.team.example", OCD_TEAM_KEY=KEY
        )
        assert done.returncode == 78 and "https://" in done.stderr, "no key goes over a wire in the open"
        done = occtl(
            daemon,
            *("init", "--preset", "team", "--force"),
            OCD_TEAM_URL="https://bedrock.team.example/v1",
            OCD_TEAM_KEY=KEY,
        )
        assert done.returncode == 0, done.stderr
        toml = (daemon.config / "ocd.toml").read_text()
        assert 'url = "https://bedrock.team.example"' in toml and KEY not in toml + done.stdout + done.stderr
        path = daemon.prefix / "state" / "team-key"
        assert path.read_text() == KEY and os.stat(path).st_mode & 0o077 == 0
        assert occtl(daemon, "config", "check").returncode == 0
