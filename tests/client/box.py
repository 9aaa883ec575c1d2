"""One person's home with Claude Code in it, and how ``claude`` and ``openclaude`` are run there.

The environment is built from nothing, credentials are made up, HOME is a folder of the test's own. What a test
starts is found again by that HOME and ended, by its pid, at the end of the test.
"""

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.client.clients import Client
from tests.helpers import canaries
from tests.helpers.daemon import ROOT, SLOW, Daemon

#: the saved login's token; the daemon's folder must never hold it (tests.helpers.canaries looks)
TOKEN = canaries.forbid("plan token", f"sk-ant-oat01-{'LoginLogin' * 6}-{os.urandom(6).hex()}-AA")
PATH = "/usr/local/bin:/usr/bin:/bin"
LAUNCHER = """#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from ocd.client.__main__ import main
sys.exit(main())
"""
OCCTL = """#!/bin/sh
PYTHONPATH={root} exec {python} -m ocd.ctl "$@"
"""


@dataclass(frozen=True)
class Run:
    """What one program did. ``seconds`` from its start to its end."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> dict[str, Any]:
        """``--output-format json``: the last line that is an object; {} when there is none."""
        for line in reversed(self.out.splitlines()):
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    return value
        return {}

    @property
    def result(self) -> str:
        return str(self.json.get("result", self.out))

    @property
    def usage(self) -> dict[str, dict[str, Any]]:
        """Claude Code's own account of the models that it used, by name."""
        return dict(self.json.get("modelUsage") or {})

    def __str__(self) -> str:
        return f"exit {self.code} after {self.seconds:.1f} s\n--- out\n{self.out[-3000:]}\n--- err\n{self.err[-3000:]}"


@dataclass
class Box:
    """A home, a folder to work in, ``claude`` and (with a daemon) ``openclaude`` on the PATH."""

    client: Client
    ca: Path
    daemon: Daemon | None = None
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="occ-", dir="/tmp")))

    def __post_init__(self) -> None:
        for name in ("home/.claude", "work", "tmp", "bin"):
            (self.root / name).mkdir(parents=True, mode=0o700, exist_ok=True)
        (self.bin / "claude").symlink_to(self.client.path)
        for name, text in (("openclaude", LAUNCHER), ("occtl", OCCTL)):
            path = self.bin / name
            path.write_text(text.format(python=sys.executable, root=str(ROOT)))
            path.chmod(0o755)
        self.log_in()
        # Past the first screens: a theme is chosen, the folder is trusted.
        self.write_json(
            ".claude.json",
            {
                "hasCompletedOnboarding": True,
                # What the client sends as device_id.
                "userID": "ab" * 32,
                "lastOnboardingVersion": self.client.version,
                "theme": "dark",
                "numStartups": 5,
                "projects": {
                    str(self.work): {
                        "hasTrustDialogAccepted": True,
                        "projectOnboardingSeenCount": 5,
                        "hasCompletedProjectOnboarding": True,
                    }
                },
            },
        )

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    # ------------------------------------------------------------------------------------------- what is there

    def write_json(self, name: str, value: Any) -> Path:
        """A file below HOME."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        path.chmod(0o600)
        return path

    def settings(self, **values: Any) -> None:
        """The user's own ~/.claude/settings.json."""
        self.write_json(".claude/settings.json", values)

    def log_in(self, token: str = TOKEN, kind: str = "max") -> None:
        """A saved login of a plan, as /login leaves it."""
        self.write_json(
            ".claude/.credentials.json",
            {
                "claudeAiOauth": {
                    "accessToken": token,
                    "refreshToken": "sk-ant-ort01-made-up",
                    "expiresAt": int((time.time() + 30 * 86_400) * 1000),
                    "scopes": ["user:inference", "user:profile", "user:sessions:claude_code"],
                    "subscriptionType": kind,
                    "rateLimitTier": "default_claude_max_5x",
                }
            },
        )

    def mcp_stub(self, tools: int) -> Path:
        """An MCP server of ``tools`` tools, for ``--mcp-config``; returns the file."""
        server = {
            "command": sys.executable,
            "args": ["-IS", str(ROOT / "tests/client/mcp_stub.py"), str(tools)],
        }
        path = self.root / f"mcp-{tools}.json"
        path.write_text(json.dumps({"mcpServers": {"stub": server}}))
        return path

    def environment(self, **more: str | None) -> dict[str, str]:
        """What a shell of this person's has; None takes a name out."""
        env: dict[str, str | None] = {
            "HOME": str(self.home),
            "PATH": f"{self.bin}:{PATH}",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/sh",
            "USER": "tester",
            "CLAUDE_CODE_TMPDIR": str(self.root / "tmp"),
            "DISABLE_AUTOUPDATER": "1",
            "NODE_EXTRA_CA_CERTS": str(self.ca),
        }
        if self.daemon is not None:
            env["OCD_PREFIX"] = str(self.daemon.prefix)
        env.update(more)
        return {name: value for name, value in env.items() if value is not None}

    # --------------------------------------------------------------------------------------------------- running

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 90.0,
        stdin: str | None = None,
        cwd: Path | None = None,
    ) -> Run:
        """Run to its end; at the time-out (seconds) its whole process group is killed and the test fails."""
        began = time.monotonic()
        process = subprocess.Popen(
            list(command),
            env=self.environment(**(env or {})),
            cwd=cwd or self.work,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin, timeout=timeout * SLOW)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(
                f"{' '.join(command)[:200]} took more than {timeout} s\n{out}\n{err}"
            ) from None
        return Run(process.returncode, out, err, time.monotonic() - began)

    def claude(self, *arguments: str, **options: Any) -> Run:
        """``claude ARGUMENTS`` as without ocd; ``env`` may name a base URL."""
        return self.run([str(self.bin / "claude"), *arguments], **options)

    def openclaude(self, *arguments: str, **options: Any) -> Run:
        """``openclaude ARGUMENTS``."""
        return self.run([str(self.bin / "openclaude"), *arguments], **options)

    def occtl(self, *arguments: str, **options: Any) -> Run:
        return self.run([str(self.bin / "occtl"), *arguments], **options)

    def ask(self, prompt: str, *arguments: str, **options: Any) -> Run:
        """One headless prompt through openclaude, answered as JSON."""
        return self.openclaude("-p", prompt, "--output-format", "json", *arguments, **options)

    # ---------------------------------------------------------------------------------------------- nothing left

    def processes(self) -> list[psutil.Process]:
        """Living processes that were started for this home: the client's, and what it started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                    continue
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
        return found

    def close(self) -> list[str]:
        """End what is left, by Claude Code's own verb and then by pid, and remove the folder.

        Returns what could not be ended: nothing, unless something is very wrong.
        """
        if any("claude" in process.name() for process in self._alive()):
            with contextlib.suppress(AssertionError):
                self.claude("daemon", "stop", "--any", timeout=20)
        _gone, left = psutil.wait_procs(self.processes(), timeout=1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
            _gone, left = psutil.wait_procs(left, timeout=5)
            left += [one for one in self.processes() if one not in left]
        shutil.rmtree(self.root, ignore_errors=True)
        return [f"{process.pid} {process.name()}" for process in left]

    def _alive(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return self.processes()
        return []
