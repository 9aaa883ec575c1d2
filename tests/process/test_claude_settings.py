"""`occtl claude configure` with the real daemon: what it really serves, and kept so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ocd.selftest.upstreams import Upstreams
from tests.helpers.daemon import ROOT, Daemon, eventually, free_ports


def occtl(daemon: Daemon, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ocd.ctl", *words],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(daemon.prefix),
            "OCD_PREFIX": str(daemon.prefix),
            **more,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def address(file: Path) -> str:
    return str(json.loads(file.read_text())["env"]["ANTHROPIC_BASE_URL"])


def test_it_follows_the_daemon(addresses: dict[str, str], upstreams: Upstreams, tmp_path: Path) -> None:
    upstreams.behave()
    with Daemon(upstreams=addresses) as daemon:
        # Only the daemon knows this port: the file says another.
        served, filed = daemon.port, free_ports()
        daemon.env["OCD_PORT"] = str(served)
        daemon.write("ocd.toml", daemon.read("ocd.toml").replace(f"port = {served}", f"port = {filed}", 1))
        daemon.start()
        files = [tmp_path / name / "settings.json" for name in ("one", "two")]
        for file in files:
            done = occtl(daemon, "claude", "configure", CLAUDE_CONFIG_DIR=str(file.parent))
            assert done.returncode == 0, done.stderr
            assert address(file) == f"http://127.0.0.1:{served}"
        assert occtl(daemon, "claude", "status").returncode == 0
        mine = json.loads(files[0].read_text())
        mine["model"] = "haiku"
        files[0].write_text(json.dumps(mine))
        # Killed without a service manager: nobody kept the port, so the next start has another key; the files follow.
        key = mine["env"]["ANTHROPIC_CUSTOM_HEADERS"]
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait(30)
        eventually(lambda: not daemon.leftovers(), what="its processes ended")
        moved = free_ports()
        daemon.env["OCD_PORT"] = str(moved)
        daemon.start()
        for file in files:
            eventually(lambda file=file: address(file) == f"http://127.0.0.1:{moved}", what=str(file))
        now = json.loads(files[0].read_text())
        assert now["model"] == "haiku" and now["env"]["ANTHROPIC_CUSTOM_HEADERS"] != key
        assert daemon.keys()["main"] in now["env"]["ANTHROPIC_CUSTOM_HEADERS"]
        assert files[0].stat().st_mode & 0o777 == 0o600
        # What cannot be changed is a problem until it can.
        good = files[1].read_text()
        files[1].write_text("{")
        daemon.write("ocd.toml", daemon.read("ocd.toml") + '\n[slots]\nhaiku = "claude-haiku-9-9"\n')
        eventually(
            lambda: "claude-settings" in {one["code"] for one in daemon.status()["problems"]},
            what="the problem",
        )
        files[1].write_text(good)
        assert occtl(daemon, "claude", "remove", "--all").returncode == 0
        assert json.loads(files[0].read_text()) == {"model": "haiku"} and not files[1].exists()
