"""The dashboard in a real browser: every view with live data, both themes, three widths, the keyboard, a hostile page.

Needs ``OCD_TEST_BROWSER_PYTHON`` (a Python with Playwright; its own browsers are not needed) and Chromium
(``OCD_TEST_BROWSER``, or one on the PATH); ``OCD_TEST_AXE`` (axe-core's axe.min.js) adds the accessibility check.
``OCD_TEST_SCREENSHOTS`` keeps the pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams, in_thread
from tests.helpers.daemon import Daemon, eventually

PYTHON = os.environ.get("OCD_TEST_BROWSER_PYTHON", "")
BROWSER = (
    os.environ.get("OCD_TEST_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome") or ""
)
pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (PYTHON and BROWSER), reason="no browser: set OCD_TEST_BROWSER_PYTHON"),
]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with in_thread() as up:
        yield up


def ask(daemon: Daemon, model: str, session: int, agent: str = "", **more: Any) -> int:
    headers = {
        **daemon.headers(),
        "x-ocd-session": str(session),
        "x-claude-code-session-id": "conversation-1",
    }
    if agent:
        headers["x-claude-code-agent-id"] = agent
    body = {
        "model": model,
        "max_tokens": 64,
        "stream": True,
        "messages": [{"role": "user", "content": "Say ok"}],
    }
    url = f"{daemon.url()}/v1/messages"
    return httpx.post(url, headers=headers, json={**body, **more}, timeout=60, trust_env=False).status_code


def test_the_page_in_a_real_browser(upstreams: Upstreams, tmp_path: Path) -> None:
    out = Path(os.environ.get("OCD_TEST_SCREENSHOTS") or tmp_path)
    repo = tmp_path / "repo"
    (repo / ".git").mkdir(parents=True)
    (repo / ".git" / "HEAD").write_text("ref: refs/heads/<b>topic</b>\n")
    addresses = {"anthropic": upstreams.anthropic, "bedrock": upstreams.bedrock}
    with Daemon(upstreams=addresses, settings="[budget]\nday = 0.0001") as daemon:
        daemon.start()
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        ) as session:
            assert daemon.post("/v1/launch", {"pid": session.pid, "cwd": str(repo)})["ready"]
            for model in ("claude-opus-9-9", "qwen-3-coder", "claude-sonnet-9-9", "qwen-3-coder"):
                assert ask(daemon, model, session.pid) == 200
            assert ask(daemon, "claude-opus-9-9", session.pid, agent="agent-7") == 200
            upstreams.behave(Behaviour(upstream="anthropic", status=529))
            assert ask(daemon, "claude-opus-9-9", session.pid) == 529
            upstreams.behave()
            eventually(lambda: daemon.status()["sessions"][0]["branch"], what="its branch is known")
            link = daemon.post("/v1/dashboard")
            axe = [os.environ["OCD_TEST_AXE"]] if os.environ.get("OCD_TEST_AXE") else []
            done = subprocess.run(
                [PYTHON, str(Path(__file__).with_name("drive.py")), link["file"], str(out), *axe],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(tmp_path),
                    "OCD_TEST_BROWSER": BROWSER,
                    "LANG": "C.UTF-8",
                },
                capture_output=True,
                text=True,
                timeout=350,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            said = json.loads(done.stdout)
            assert session.stdin is not None
            session.stdin.close()
        assert said["address"] == f"http://127.0.0.1:{link['port']}/" and said["secret"] == []
        assert said["errors"] == [] and said["asked"] == [f"http://127.0.0.1:{link['port']}"]
        assert said["wide"] == {}, "the page is wider than the window"
        assert said["axe"] == {}
        views = said["views"]
        assert "main: ready" in views["overview"] and "AWS today" in views["overview"]
        assert "overloaded" in views["overview"]
        assert "claude-opus-9-9" in views["requests"] and "529" in views["requests"]
        assert "on <b>topic</b>" in views["sessions"] and "agent-7" in views["sessions"]
        assert "total" in views["usage"] and "ready" in views["logs"] and "qwen-3-coder" in views["routes"]
        assert said["keyboard"] == {
            **{
                "views": ["overview", "requests", "sessions", "usage", "routes", "logs", "doctor"],
                "find": "text",
            },
            **{
                "first": "confirm-no",
                "closed": True,
                "back": "reload",
                "second": "confirm-yes",
                "outcome": "Done.",
            },
        }
        hostile = said["hostile"]
        cookie = hostile.pop("cookie")
        assert set(hostile.values()) == {"refused"}, hostile
        # A cookie goes to every port of the host; it is of no use alone.
        status = httpx.get(
            f"http://127.0.0.1:{link['port']}/api/status", headers={"cookie": cookie}, trust_env=False
        )
        assert status.status_code == 403 and said["tab"] == 403
        assert not any(name.startswith("reload") for name in daemon.kinds()[:1])
