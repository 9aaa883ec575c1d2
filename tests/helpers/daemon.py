"""A real daemon under a private prefix, with the real LiteLLM and stand-in upstreams."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from ocd.keeper import holding
from tests.helpers import canaries

ROOT = Path(__file__).resolve().parent.parent.parent
#: One factor for every time-out of the suite: a slow machine is no failure.
SLOW = float(os.environ.get("OCD_TEST_SLOW", "1"))

MAIN = """\
model_list:
  - model_name: claude-opus-9-9
    litellm_params: {{model: anthropic/claude-opus-9-9, api_base: "{anthropic}"}}
  - model_name: claude-sonnet-9-9
    litellm_params: {{model: anthropic/claude-sonnet-9-9, api_base: "{anthropic}"}}
  - model_name: qwen-3-coder
    litellm_params:
      model: openai/qwen-3-coder
      api_base: os.environ/OCD_BEDROCK_URL
      api_key: os.environ/OCD_BEDROCK_KEY
litellm_settings: {{drop_params: true, use_chat_completions_url_for_anthropic_messages: true}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
general_settings: {{master_key: os.environ/OCD_MAIN_KEY}}
"""
BEDROCK = """\
model_list:
  - model_name: qwen-3-coder
    litellm_params:
      model: bedrock/converse/qwen.qwen3-next-80b-a3b
      aws_region_name: os.environ/OCD_AWS_REGION
      aws_access_key_id: AKIAIOSFODNN7EXAMPLE
      aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
      aws_bedrock_runtime_endpoint: "{bedrock}"
litellm_settings: {{drop_params: true}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
general_settings: {{master_key: os.environ/OCD_BEDROCK_KEY}}
"""


def litellm_python() -> str:
    """The interpreter with the real LiteLLM (``make test`` makes it)."""
    found = os.environ.get("OCD_TEST_LITELLM_PYTHON") or str(ROOT / ".venv-litellm" / "bin" / "python")
    if not os.access(found, os.X_OK):
        raise RuntimeError(
            f"no LiteLLM for the tests at {found}: run `make test`, or set OCD_TEST_LITELLM_PYTHON"
        )
    return os.path.abspath(found)


def free_ports(count: int = 2) -> int:
    """The first of ``count`` neighbouring ports that are free on both loopback addresses now.

    Below those that the system gives to outgoing connections (from 32768 on Linux, ip(7); 49152 on macOS): one of
    the tests' own requests would be on the port at the wrong moment.
    """
    for _ in range(200):
        first = _DICE.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                    sock = stack.enter_context(socket.socket(family))
                    sock.bind((host, port))
            return first
    raise RuntimeError("no free ports")


def eventually(condition: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    """Poll until the condition is true and return its value; a bounded wait, never a sleep for luck."""
    deadline = time.monotonic() + timeout * SLOW
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            value = condition()
        except (httpx.HTTPError, psutil.Error, OSError, KeyError, ValueError) as problem:
            error, value = problem, None
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {timeout} s: {what or condition} ({error!r})")


#: not ``random``: that one is set to the run's seed before each test, and two runs at a time would take the same ports
_DICE = random.SystemRandom()
#: every prefix that this run made: what still has one of them afterwards was left behind
PREFIXES: set[str] = set()


class Daemon:
    """``with Daemon(...) as d``: folders, configuration, the process, the API."""

    def __init__(
        self,
        upstreams: dict[str, str] | None = None,
        settings: str = "",
        mode: str = "fork",
        python: str = "",
    ) -> None:
        self.python = python or litellm_python()
        self.prefix = Path(tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp"))
        PREFIXES.add(str(self.prefix))
        self.port = free_ports()
        self.mode = mode
        self.settings = settings
        self.upstreams = upstreams or {"anthropic": "http://127.0.0.1:9", "bedrock": "http://127.0.0.1:9"}
        self.config = self.prefix / "config"
        self.runtime = self.prefix / "run"
        self.process: subprocess.Popen[bytes] | None = None
        self.output = self.prefix / "output"
        self.command = [sys.executable, "-m", "ocd"]
        self.cwd = "/"
        self.keeper = 0
        self.config.mkdir(mode=0o700)
        (self.config / "litellm.yaml").write_text(MAIN.format(**self.upstreams))
        (self.config / "litellm-bedrock.yaml").write_text(BEDROCK.format(**self.upstreams))
        self.write_settings(settings)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.prefix),
            "OCD_PREFIX": str(self.prefix),
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            # Nobody outside this machine is asked.
            "OCD_LITELLM__ADVISORIES": "",
        }

    def write_settings(self, more: str = "") -> None:
        """ocd.toml: ``more`` holds whole tables; keys of [litellm] are ours."""
        text = f'port = {self.port}\n[litellm]\npython = "{self.python}"\nmode = "{self.mode}"\n{more}\n'
        self.write("ocd.toml", text)

    def write(self, name: str, text: str) -> None:
        """Save as editors do: a new file in the place of the old one."""
        temporary = self.config / f".{name}.new"
        temporary.write_text(text)
        os.replace(temporary, self.config / name)

    def read(self, name: str) -> str:
        return (self.config / name).read_text()

    # --------------------------------------------------------------------------------------------- process

    def start(self, wait: bool = True) -> Daemon:
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.cwd,
            )
        self.keeper = self.process.pid
        if wait:
            self.wait_ready(settled=True)
        return self

    def wait_ready(self, spares: bool = True, settled: bool = False) -> None:
        """``settled``: nothing is exchanged any more, as the first processes are when the forkserver is warm."""

        def ready() -> bool:
            assert self.process is None or self.process.poll() is None, self.output.read_text()[-3000:]
            proxies = self.status()["proxies"].values()
            if settled and {m["role"] for p in proxies for m in p["members"]} - {"serving", "spare"}:
                return False
            return all(
                p["state"] == "ready" and (not spares or p["spare"] in ("armed", "none")) for p in proxies
            )

        try:
            eventually(ready, 90, "both proxies ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output.read_text()[-4000:]}\n{self.tail('main')}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon gently; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60 * SLOW)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_error: object) -> None:
        left = []
        try:
            if self.process is not None and self.process.poll() is None:
                tree = psutil.Process(self.process.pid).children(recursive=True)
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    self.process.send_signal(signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(10)
                if self.process.poll() is None:
                    self.process.kill()
                    self.process.wait()
                # A session of the test's may live on: it needs no port any more.
                holding.let_go(str(self.runtime))
                _gone, left = psutil.wait_procs(tree, timeout=5)
                for process in left:
                    process.kill()
            holding.let_go(str(self.runtime))
            psutil.wait_procs(self.leftovers(), timeout=5)
            left += [p for p in self.leftovers() if p not in left]
        finally:
            with contextlib.suppress(OSError, ValueError):
                for name, key in self.keys().items():
                    canaries.KEYS[key] = f"{name} key"
            canaries.look_into(self.prefix)
            shutil.rmtree(self.prefix, ignore_errors=True)
        assert not left, f"left behind: {left}"

    def leftovers(self) -> list[psutil.Process]:
        """Processes that still have our prefix in their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("OCD_PREFIX") == str(self.prefix):
                    found.append(process)
        return found

    # ------------------------------------------------------------------------------------------------- API

    @property
    def socket(self) -> Path:
        return self.runtime / "control.sock"

    def client(self, timeout: float = 120.0) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://ocd", timeout=timeout * SLOW
        )

    def get(self, path: str) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.get(path).json())

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.post(path, json=body if body is not None else {}).json())

    def status(self) -> dict[str, Any]:
        return self.get("/v1/status")

    def proxy(self, name: str = "main") -> dict[str, Any]:
        return dict(self.status()["proxies"][name])

    def spare_pid(self, name: str = "main") -> int:
        for member in self.proxy(name)["members"]:
            if member["role"] == "spare":
                return int(member["pid"])
        raise ValueError("no spare yet")

    def supervisor_pid(self) -> int:
        return int(self.status()["pid"])

    def host_pid(self) -> int:
        """The forkserver's pid: the keeper's child that is neither the supervisor nor a guest."""
        status = self.status()
        guests = {m["pid"] for p in status["proxies"].values() for m in p["members"]}
        for child in psutil.Process(self.keeper).children():
            if child.pid in guests or child.pid == status["pid"]:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                if "forkserver" in child.cmdline():
                    return child.pid
        raise ValueError("no forkserver")

    def events(self, lines: int = 1000) -> list[dict[str, Any]]:
        with self.client() as client:
            return [json.loads(line) for line in client.get(f"/v1/events?lines={lines}").text.splitlines()]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events()]

    def tail(self, name: str, lines: int = 40) -> str:
        path = self.prefix / "state" / "logs" / f"{name}.log"
        return "\n".join(path.read_text().splitlines()[-lines:]) if path.exists() else ""

    def keys(self) -> dict[str, str]:
        return dict(json.loads((self.prefix / "state" / "keys.json").read_text()))

    def keys_are_due(self) -> bool:
        """Whether the daemon renews its keys as soon as nobody uses them."""
        return bool(self.keys().get("due"))

    def url(self, name: str = "main") -> str:
        return f"http://127.0.0.1:{self.port + (name == 'bedrock')}"

    def headers(self, token: str = canaries.TOKEN) -> dict[str, str]:
        """As Claude Code sends them."""
        canaries.forbid("plan token", token)
        return {
            "x-litellm-api-key": f"Bearer {self.keys()['main']}",
            "authorization": f"Bearer {token}",
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "oauth-2025-04-20",
        }

    def ask(self, model: str = "claude-opus-9-9", stream: bool = False, **more: Any) -> httpx.Response:
        body = {
            "model": model,
            "max_tokens": 64,
            "stream": stream,
            "messages": [{"role": "user", "content": "Say ok"}],
            **more,
        }
        return httpx.post(
            f"{self.url()}/v1/messages?beta=true",
            headers=self.headers(),
            json=body,
            timeout=60 * SLOW,
            trust_env=False,
        )


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Daemon]:
    """A daemon that is ready, and gone afterwards."""
    with Daemon(**options) as daemon:
        daemon.start()
        yield daemon
