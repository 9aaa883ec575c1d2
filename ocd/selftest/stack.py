"""A private second stack: the real daemon under a temporary prefix, on free ports, in its own environment."""

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

import ocd
from ocd import paths
from ocd.core.state import State
from ocd.errors import EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.selftest.redirected import DUMMY
from ocd.settings.folders import Folders, private_folder
from ocd.settings.keys import Keys, load_or_create
from ocd.settings.schema import Settings

#: seconds; a cold import of LiteLLM takes five to seven, a multiple of that on a busy machine
BOOT = 180.0
STOP = 25.0
PROXIES = ("main", "bedrock")
_PR_SET_PDEATHSIG = 1
#: The user's variables that name a server: the private stack must not reach it.
_REMOTE = re.compile(r"URL|HOST|ENDPOINT|BASE|REDIS|PROXY", re.IGNORECASE)


@dataclass(slots=True)
class Stack:
    """The running private stack. ``root`` is its folder, ``pid`` its daemon's; the AWS pair is made up."""

    root: Path
    folders: Folders
    ports: dict[str, int]
    pid: int = 0
    aws_key: str = field(default_factory=lambda: f"AKIA{secrets.token_hex(8).upper()}", repr=False)
    aws_secret: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    @property
    def keys(self) -> Keys:
        """Those that hold now: a daemon that starts may have renewed them. Raises OcdError when there are none."""
        return load_or_create(self.folders)

    def url(self, proxy: str) -> str:
        return f"http://127.0.0.1:{self.ports[proxy]}"

    def processes(self) -> list[psutil.Process]:
        """The daemon and everything below it, as far as it is alive."""
        try:
            daemon = psutil.Process(self.pid)
            return [daemon, *daemon.children(recursive=True)]
        except psutil.Error:
            return []


@contextlib.contextmanager
def private_folders() -> Iterator[Stack]:
    """A temporary prefix with keys and free ports, removed at the end. Nothing runs in it yet."""
    root = Path(tempfile.mkdtemp(prefix="ocd-selftest-"))
    if len(os.fsencode(root)) > 60:
        # The sockets' paths would not fit; a short one in the system's own folder does.
        root.rmdir()
        root = Path(tempfile.mkdtemp(prefix="ocd-selftest-", dir="/tmp"))
    try:
        folders = Folders(root / "config", root / "share", root / "state", root / "run", root / "bin")
        folders.ensure()
        private_folder(folders.config)
        port = free_ports()
        yield Stack(root, folders, {"main": port, "bedrock": port + 1})
    finally:
        shutil.rmtree(root, ignore_errors=True)


def free_ports() -> int:
    """A port that is free together with the next one, on all of loopback. Raises OcdError, exit 75.

    Not of those that the system gives to outgoing connections (from 32768 on Linux, ip(7); 49152 on macOS): between
    this look and the start of the stack, somebody's connection would be on it.
    """
    dice = random.SystemRandom()
    for _attempt in range(50):
        port = dice.randrange(12_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for number in (port, port + 1):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
                _bind_six(held, number)
            return port
    raise OcdError(
        "The self-test found no two free ports",
        "50 attempts on loopback failed",
        "Close some programs and try again",
        exit_code=EX_TEMPFAIL,
        code="no-ports",
    )


def _bind_six(held: contextlib.ExitStack, port: int) -> None:
    """Bind ::1 too; a machine without IPv6 is fine. Raises OSError when the port is taken there."""
    try:
        sock = held.enter_context(socket.socket(socket.AF_INET6))
        sock.bind(("::1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise


def write_settings(stack: Stack, settings: Settings, litellm_python: str) -> None:
    """``ocd.toml`` of the private stack: what of the user's settings decides about routes, nothing else.

    Environment variables for the proxies keep their names but not their values, which may be credentials.
    """
    lines = [
        f"port = {stack.ports['main']}",
        f"bedrock_port = {stack.ports['bedrock']}",
        f"aws_region = {json.dumps(settings.aws_region)}",
        f"aws_profile = {json.dumps(settings.aws_profile)}",
        f"auth = {json.dumps(settings.auth)}",
        "[slots]",
        *(f"{slot} = {json.dumps(group)}" for slot, group in settings.slots),
        "[litellm]",
        f"python = {json.dumps(litellm_python)}",
        f"mode = {json.dumps(settings.litellm.mode)}",
        f"pipe = {json.dumps(settings.litellm.pipe)}",
        "[boundary]",
        f"pass_through = {json.dumps(settings.boundary.pass_through)}",
        f"admin = {json.dumps(settings.boundary.admin)}",
        "[supervision]",
        f"start_timeout = {BOOT}",
        "drain_timeout = 5.0",
    ]
    for proxy in PROXIES:
        lines += [f"[proxies.{proxy}]", "spare = false"]
        names = [name for name in settings.proxy(proxy).env if not _REMOTE.search(name)]
        lines += [f"[proxies.{proxy}.env]", *(f"{json.dumps(name)} = {json.dumps(DUMMY)}" for name in names)]
    path = stack.folders.config / "ocd.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o600)


def write_aws(stack: Stack, profiles: Iterable[str], region: str) -> Path:
    """A home folder with made-up static credentials for each profile; returns it. No real ones are read."""
    home = stack.root / "home"
    folder = home / ".aws"
    folder.mkdir(parents=True, mode=0o700)
    names = sorted({"default", *profiles})
    keys = f"aws_access_key_id = {stack.aws_key}\naws_secret_access_key = {stack.aws_secret}\n"
    credentials = "".join(f"[{name}]\n{keys}" for name in names)
    config = "".join(
        f"[{name if name == 'default' else 'profile ' + name}]\nregion = {region}\n" for name in names
    )
    for name, text in (("credentials", credentials), ("config", config)):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o600)
    return home


@contextlib.asynccontextmanager
async def running(stack: Stack, home: Path) -> AsyncIterator[Stack]:
    """The daemon of ``stack`` until the end of the block, and nothing of it afterwards."""
    package = str(Path(ocd.__file__).parent.parent)
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OCD_PREFIX": str(stack.root),
        "OCD_RUNTIME_DIR": str(stack.folders.runtime),
        "PYTHONPATH": package,
    }
    if os.environ.get("TMPDIR"):
        env["TMPDIR"] = os.environ["TMPDIR"]
    with open(stack.root / "daemon.log", "wb") as log:
        process = await asyncio.create_subprocess_exec(
            *paths.program("ocd"),
            cwd=stack.root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Its own session: Ctrl-C in the terminal is for us, and we end it.
            start_new_session=True,
            preexec_fn=_end_with_us(),
        )
    stack.pid = process.pid
    try:
        yield stack
    finally:
        await _end(stack, process)


async def wait_ready(stack: Stack) -> str:
    """Wait until both proxies serve; returns LiteLLM's version. Raises OcdError with the reason otherwise."""
    deadline = time.monotonic() + BOOT
    transport = httpx.AsyncHTTPTransport(uds=paths.control_socket(str(stack.folders.runtime)))
    last: dict[str, Any] = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://ocd", timeout=5) as client:
        while time.monotonic() < deadline:
            if not psutil.pid_exists(stack.pid) or psutil.Process(stack.pid).status() == psutil.STATUS_ZOMBIE:
                raise _not_booted("its daemon ended", _tail(stack.root / "daemon.log"))
            with contextlib.suppress(httpx.HTTPError, ValueError):
                answer = await client.get("/v1/status")
                if answer.status_code == 200:
                    last = answer.json()
                    states = {name: one["state"] for name, one in last["proxies"].items()}
                    if states and all(state == "ready" for state in states.values()):
                        return str(last.get("litellm", ""))
                    _raise_if_hopeless(last)
            await asyncio.sleep(0.1)
    raise _not_booted(f"the proxies did not serve within {BOOT:.0f} seconds", _reasons(last))


def _raise_if_hopeless(status: dict[str, Any]) -> None:
    for name, one in status["proxies"].items():
        state = State(one["state"])
        failed = (state.hopeless or state is State.STOPPED) and one.get("reason")
        if failed or one.get("rejected"):
            raise _not_booted(f"the {name} proxy did not boot", str(one.get("rejected") or one["reason"]))
    if any(one["state"] == State.STOPPED for one in status["proxies"].values()) and status.get("problems"):
        raise _not_booted("the daemon has a problem", _reasons(status))


def _reasons(status: dict[str, Any]) -> str:
    found = [
        f"{name}: {one['state']} {one.get('reason', '')}" for name, one in status.get("proxies", {}).items()
    ]
    found += [f"{one['what']} {one.get('why', '')}" for one in status.get("problems", [])]
    return "; ".join(one.strip() for one in found)


def _not_booted(what: str, why: str) -> OcdError:
    return OcdError(
        f"The private stack did not boot: {what}",
        why,
        "Run `occtl config check`; `occtl logs` shows the same from the live daemon",
        exit_code=EX_UNAVAILABLE,
        code="selftest-no-boot",
    )


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""
    return ""


async def _end(stack: Stack, process: asyncio.subprocess.Process) -> None:
    """SIGTERM, a bounded wait, SIGKILL; then the same for whatever is left of its processes."""
    family = stack.processes()
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP)
    except TimeoutError:
        family = stack.processes() or family
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    left = [one for one in family if one.pid != process.pid and one.is_running()]
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()
    await asyncio.to_thread(psutil.wait_procs, left, 5)


def _end_with_us() -> Callable[[], None] | None:
    """For the child, between fork and exec: SIGTERM when this process is killed (prctl(2), Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    return ask
