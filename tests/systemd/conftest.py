"""A real systemd user manager of its own, with an ocd installed below it; nothing of the host's is touched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Upstreams, in_thread
from tests.helpers import canaries, one_context
from tests.helpers.daemon import BEDROCK, MAIN, PREFIXES, ROOT, SLOW, eventually, free_ports, litellm_python

one_context.install()

SYSTEMD = "/lib/systemd/systemd"


class Machine:
    """A user's machine: HOME, runtime folder, bus, user manager, and ocd's commands."""

    def __init__(self, upstreams: dict[str, str]) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp"))
        PREFIXES.add(str(self.root))
        self.home = self.root / "home"
        self.runtime = self.root / "run"
        self.bin = self.home / ".local" / "bin"
        for folder in (self.home, self.runtime, self.bin):
            folder.mkdir(parents=True, mode=0o700)
        self.port = free_ports()
        self.config = self.home / ".config" / "ocd"
        self.config.mkdir(parents=True, mode=0o700)
        (self.config / "litellm.yaml").write_text(MAIN.format(**upstreams))
        (self.config / "litellm-bedrock.yaml").write_text(BEDROCK.format(**upstreams))
        (self.config / "ocd.toml").write_text(
            f'port = {self.port}\n[litellm]\npython = "{litellm_python()}"\n'
            "[supervision]\ndrain_timeout = 30\n"
        )
        self.env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
            "LANG": "C.UTF-8",
        }
        for name, module in (("ocd", "ocd"), ("occtl", "ocd.ctl"), ("openclaude", "ocd.client")):
            script = self.bin / name
            script.write_text(
                f"#!{sys.executable}\n# ocd.client\nimport os, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                f"os.environ['PYTHONPATH'] = {str(ROOT)!r}\n"
                f"from {module}.__main__ import main\nsys.exit(main())\n"
            )
            script.chmod(0o755)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.made_marker = False

    # ---------------------------------------------------------------------------------------------- manager

    def boot(self) -> None:
        marker = Path("/run/systemd/system")
        if not marker.exists():
            # The manager refuses to start where systemd is not the init system; an empty folder is its test.
            marker.mkdir(parents=True)
            self.made_marker = True
        with open(self.root / "manager.log", "wb") as log:
            bus = [
                "dbus-daemon",
                "--session",
                f"--address=unix:path={self.runtime}/bus",
                "--nofork",
                "--nopidfile",
            ]
            for command in (bus, [SYSTEMD, "--user"]):
                self.processes.append(
                    subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                )
                time.sleep(0)
                if command is bus:
                    eventually(lambda: (self.runtime / "bus").exists(), 20)
        eventually(lambda: self.systemctl("is-system-running").stdout.strip() in ("running", "degraded"), 30)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.systemctl("stop", "ocd.socket", "ocd.service")
            self.systemctl("exit")
        for process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5 if process is self.processes[-1] else 0.1)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("XDG_RUNTIME_DIR") == str(self.runtime):
                    process.kill()
        if self.made_marker:
            with contextlib.suppress(OSError):
                os.removedirs("/run/systemd/system")
        canaries.look_into(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------- tools

    def run(self, *command: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**self.env, **env}, capture_output=True, text=True, timeout=timeout * SLOW, cwd="/"
        )

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--user", *arguments, timeout=240)

    def occtl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.bin / "occtl"), *arguments, timeout=240)

    def show(self, name: str, unit: str = "ocd.service") -> str:
        return self.systemctl("show", "-p", name, "--value", unit).stdout.strip()

    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def status(self) -> dict[str, object]:
        transport = httpx.HTTPTransport(uds=str(self.runtime / "ocd" / "control.sock"))
        with httpx.Client(transport=transport, base_url="http://ocd", timeout=60) as client:
            return dict(client.get("/v1/status").json())

    def post(self, path: str, body: object) -> dict[str, object]:
        transport = httpx.HTTPTransport(uds=str(self.runtime / "ocd" / "control.sock"))
        with httpx.Client(transport=transport, base_url="http://ocd", timeout=60) as client:
            return dict(client.post(path, json=body).json())

    def proxy(self, name: str = "main") -> dict[str, object]:
        return dict(self.status()["proxies"][name])  # type: ignore[index]

    def ready(self) -> bool:
        proxies = self.status()["proxies"]
        return all(p["state"] == "ready" and p["spare"] == "armed" for p in proxies.values())  # type: ignore[attr-defined]

    def cgroup(self) -> set[int]:
        """The processes of the service, as the kernel counts them."""
        group = self.show("ControlGroup")
        for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
            found: set[int] = set()
            for path in [Path(base + group), *Path(base + group).glob("**/")]:
                with contextlib.suppress(OSError):
                    found |= {int(line) for line in (path / "cgroup.procs").read_text().split()}
            if found:
                return found
        return set()

    def headers(self) -> dict[str, str]:
        keys = json.loads((self.home / ".local/state/ocd/keys.json").read_text())
        return {"x-litellm-api-key": f"Bearer {keys['main']}", "authorization": f"Bearer {canaries.TOKEN}"}


@pytest.fixture(scope="session")
def upstreams() -> Iterator[Upstreams]:
    with in_thread() as up:
        yield up


@pytest.fixture(scope="session")
def machine(upstreams: Upstreams) -> Iterator[Machine]:
    if os.getuid() != 0 or not os.path.exists(SYSTEMD) or not shutil.which("dbus-daemon"):
        pytest.skip(
            "needs root, systemd and dbus (tests/systemd/prepare.sh installs them where that is possible)"
        )
    made = Machine({"anthropic": upstreams.anthropic, "bedrock": upstreams.bedrock})
    try:
        made.boot()
        yield made
    finally:
        made.close()
