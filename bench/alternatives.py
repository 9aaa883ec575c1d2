"""What people use instead: the bare process, a shell loop, supervisord, pm2. Each over one real ``litellm``."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from ocd.guest.preload import IMPORT_ENVIRONMENT
from tests.helpers.daemon import BEDROCK, MAIN, free_ports, litellm_python

KEY = "sk-" + "b" * 64


def environment(home: Path) -> dict[str, str]:
    """The same environment that ocd gives its proxies."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        **IMPORT_ENVIRONMENT,
        "OCD_MAIN_KEY": KEY,
        "OCD_BEDROCK_KEY": KEY,
        "OCD_BEDROCK_URL": "http://127.0.0.1:9/v1",
        "OCD_AWS_REGION": "us-west-2",
    }


def command(config: Path, port: int, *more: str) -> list[str]:
    litellm = str(Path(litellm_python()).parent / "litellm")
    return [litellm, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), *more]


def alive(port: int, timeout: float = 60.0) -> bool:
    # Not httpx: making a client costs tens of milliseconds, and a poll must not take the processor from what it times.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/health/liveliness")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_alive(port: int, limit: float = 90.0) -> None:
    end = time.monotonic() + limit
    while not alive(port):
        if time.monotonic() > end:
            raise RuntimeError(f"nothing serves on {port} after {limit} s")
        time.sleep(0.01)


def end_tree(pid: int) -> None:
    """End a process that we started, and everything below it."""
    with contextlib.suppress(psutil.Error):
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        _gone, left = psutil.wait_procs(tree, timeout=8)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)


class Bench:
    """A folder, a configuration, and a port for one alternative."""

    def __init__(self, upstreams: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ocd-bench-", dir="/tmp"))
        self.config = self.folder / "litellm.yaml"
        self.config.write_text(MAIN.format(**upstreams))
        self.bedrock = self.folder / "litellm-bedrock.yaml"
        self.bedrock.write_text(BEDROCK.format(**upstreams))
        self.port = free_ports()
        self.env = environment(self.folder)
        self.started: list[subprocess.Popen[bytes]] = []

    def popen(self, argv: list[str], **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            argv,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )
        self.started.append(process)
        return process

    def serving_pid(self) -> int:
        """The process that listens on our port."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port:
                        return process.pid
        return 0

    def close(self) -> None:
        for process in self.started:
            end_tree(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def bare(upstreams: dict[str, str], *more: str) -> Iterator[Bench]:
    """One ``litellm`` as its own command starts it."""
    bench = Bench(upstreams)
    try:
        bench.popen(command(bench.config, bench.port, *more))
        wait_alive(bench.port)
        yield bench
    finally:
        bench.close()


@contextlib.contextmanager
def shell_loop(upstreams: dict[str, str]) -> Iterator[Bench]:
    bench = Bench(upstreams)
    try:
        line = " ".join(command(bench.config, bench.port))
        bench.popen(["/bin/sh", "-c", f"while :; do {line}; done"])
        wait_alive(bench.port)
        yield bench
    finally:
        bench.close()


@contextlib.contextmanager
def supervisord(upstreams: dict[str, str], tools: Path) -> Iterator[Bench]:
    bench = Bench(upstreams)
    try:
        python = tools / "supervisor" / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", "supervisor==4.3.0", "setuptools<81"],
                check=True,
                capture_output=True,
            )
        conf = bench.folder / "supervisord.conf"
        env = ",".join(f'{k}="{v}"' for k, v in bench.env.items() if "%" not in v)
        conf.write_text(
            f"[supervisord]\nnodaemon=true\nlogfile={bench.folder}/s.log\npidfile={bench.folder}/s.pid\n"
            f"[program:litellm]\ncommand={' '.join(command(bench.config, bench.port))}\nautorestart=true\n"
            f"startsecs=1\nstartretries=100\nenvironment={env}\n"
        )
        bench.popen([str(python.parent / "supervisord"), "-c", str(conf), "-n"])
        wait_alive(bench.port)
        yield bench
    finally:
        bench.close()


@contextlib.contextmanager
def pm2(upstreams: dict[str, str], tools: Path) -> Iterator[Bench]:
    bench = Bench(upstreams)
    home = bench.folder / "pm2"
    script = tools / "pm2" / "node_modules" / "pm2" / "bin" / "pm2"
    try:
        if not script.exists():
            (tools / "pm2").mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [
                    "npm",
                    "install",
                    "--silent",
                    "--no-audit",
                    "--no-fund",
                    "--prefix",
                    str(tools / "pm2"),
                    "pm2",
                ],
                check=True,
                capture_output=True,
            )
        start = bench.folder / "start.sh"
        start.write_text("#!/bin/sh\nexec " + " ".join(command(bench.config, bench.port)) + "\n")
        start.chmod(0o755)
        argv = ["node", str(script)]
        subprocess.run(
            [*argv, "start", str(start), "--interpreter", "none", "--name", "litellm"],
            env={**bench.env, "PM2_HOME": str(home)},
            check=True,
            capture_output=True,
        )
        wait_alive(bench.port)
        yield bench
    finally:
        if script.exists():
            subprocess.run(
                ["node", str(script), "kill"], env={**bench.env, "PM2_HOME": str(home)}, capture_output=True
            )
        bench.close()
