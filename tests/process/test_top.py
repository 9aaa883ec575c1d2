"""``occtl top`` in a real terminal (tmux) with a real daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.daemon import Daemon, eventually

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here"),
]


def test_it_shows_what_happens_and_ends_with_q(daemon: Daemon) -> None:
    socket = str(daemon.prefix / "tmux")

    def tmux(*arguments: str) -> str:
        env = {**os.environ, **daemon.env, "TERM": "xterm-256color", "NO_COLOR": "1"}
        return subprocess.run(
            ["tmux", "-S", socket, "-f", "/dev/null", *arguments], env=env, capture_output=True, text=True
        ).stdout

    def shown(*words: str) -> bool:
        text = tmux("capture-pane", "-p")
        return all(word in text for word in words)

    try:
        tmux("new-session", "-d", "-x", "80", "-y", "24", f"cd /; exec {sys.executable} -m ocd.ctl top")
        eventually(lambda: shown("LiteLLM", "main", "bedrock", "ready", "q quit"), 30)
        assert daemon.ask().status_code == 200
        eventually(lambda: shown("opus", "claude-opus-9-9", "200"), 20)
        assert daemon.ask("qwen-3-coder").status_code == 200
        eventually(lambda: shown("qwen-3-coder", "haiku"), 20)
        tmux("send-keys", "r")
        eventually(lambda: shown("unchanged"), 20)
        generation = daemon.proxy()["generation"]
        tmux("send-keys", "R")
        eventually(lambda: shown("Restart", "y / n"), 20)
        tmux("send-keys", "y")
        eventually(lambda: any(p["generation"] > generation for p in daemon.status()["proxies"].values()), 60)
        tmux("send-keys", "q")
        eventually(lambda: not tmux("list-sessions"), 20, "q ends it, at once")
    finally:
        tmux("kill-server")


def test_scripts_get_one_picture_and_pipes_are_told(daemon: Daemon) -> None:
    def occtl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ocd.ctl", *words]
        return subprocess.run(
            command, env=daemon.env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    once = occtl("top", "--once")
    assert once.returncode == 0 and "main     ready" in once.stdout and "\x1b" not in once.stdout
    live = occtl("top")
    assert live.returncode == 64 and "occtl top --once" in live.stderr
