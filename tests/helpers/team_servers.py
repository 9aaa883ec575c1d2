"""A team's servers: PostgreSQL, real ``ocd serve --team`` processes with TLS, and who invites people."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.daemon import BEDROCK, PREFIXES, ROOT, SLOW, eventually, free_ports, litellm_python

#: Debian has PostgreSQL's own programs outside of every PATH
_PLACES = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), *(str(one) for one in Path("/usr/lib/postgresql").glob("*/bin"))]
)
INITDB, PG_CTL = (shutil.which(name, path=_PLACES) for name in ("initdb", "pg_ctl"))
#: seconds: how old what is known of the people may be, and when a dead server's reservation is booked
CACHE, HOLD = 0.5, 4.0


def missing() -> str:
    """What this machine lacks for it, or an empty string."""
    if INITDB is None or PG_CTL is None or shutil.which("openssl") is None:
        return "initdb and pg_ctl (PostgreSQL) and openssl are needed"
    return ""


class Postgres:
    """A server of our own in a folder of its own; it refuses root, so then another user runs it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ocd-pg-", dir="/tmp"))
        self.port = free_ports(1)
        self.runs = False
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:
            found = pwd.getpwnam("nobody")
            os.chown(self.folder, found.pw_uid, found.pw_gid)
            self.user = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
        self.env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        words = ["-D", str(self.folder / "data"), "-U", "team", "-A", "trust", "--no-sync"]
        subprocess.run(
            [str(INITDB), *words], check=True, capture_output=True, env=self.env, cwd="/", **self.user
        )

    @property
    def url(self) -> str:
        return f"postgresql://team@127.0.0.1:{self.port}/postgres"

    def control(self, *words: str) -> None:
        subprocess.run(
            [str(PG_CTL), "-D", str(self.folder / "data"), "-w", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.env,
            cwd="/",
            timeout=60 * SLOW,
            **self.user,
        )

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.control("-l", str(self.folder / "log"), "-o", options, "start")
        self.runs = True

    def stop(self) -> None:
        """At once, as in a crash."""
        if self.runs:
            self.control("-m", "immediate", "stop")
            self.runs = False

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Server:
    """One replica, under a prefix of its own."""

    def __init__(self, team: Team, *words: str, port: int = 0) -> None:
        self.prefix = Path(tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp"))
        PREFIXES.add(str(self.prefix))
        config = self.prefix / "config"
        config.mkdir(mode=0o700)
        (config / "litellm-bedrock.yaml").write_text(BEDROCK.format(anthropic="", bedrock=team.bedrock))
        python = f'[litellm]\npython = "{litellm_python()}"\n[proxies.main]\nenabled = false\n'
        (config / "ocd.toml").write_text(python)
        self.port = port or free_ports(2)
        self.team = team
        self.output = self.prefix / "output"
        command = [sys.executable, "-m", "ocd", "serve", "--team", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--cert", str(team.pki / "good.pem"), "--key", str(team.pki / "good.key")]
        command += ["--metrics", f"127.0.0.1:{self.port + 1}", "--linger", "0.2", "--cache", str(CACHE)]
        command += ["--hold", str(HOLD), *words]
        env = {**team.env, "OCD_PREFIX": str(self.prefix), "HOME": str(self.prefix)}
        with open(self.output, "wb") as out:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd="/")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.team.pki / "authority.pem"))
        return httpx.Client(
            base_url=self.url,
            verify=trust,
            trust_env=False,
            timeout=60 * SLOW,
        )

    def ready(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()[-3000:]
        with self.client() as client:
            return client.get("/health/readiness").status_code == 200

    def ask(self, key: str, **more: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/messages", headers={"authorization": f"Bearer {key}"}, json=body(**more))

    def events(self, what: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]
        return [one for one in found if one["event"] == what]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40 * SLOW)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.prefix, ignore_errors=True)


def body(**more: Any) -> dict[str, Any]:
    ask = {"model": "qwen-3-coder", "max_tokens": 64, "messages": [{"role": "user", "content": "Say ok"}]}
    return {**ask, **more}


class Team:
    def __init__(self, folder: Path, bedrock: str) -> None:
        self.bedrock = bedrock
        self.pki = folder
        self.postgres = Postgres()
        self.servers: list[Server] = []
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "OCD_TEAM_DATABASE": self.postgres.url,
        }

    def occtl(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "ocd.ctl", "team", *words, "--json"],
            env={**self.env, "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def invite(self, name: str, *words: str) -> str:
        return str(self.occtl("invite", name, "--url", "https://team.example", *words)["key"])

    def spent(self, name: str) -> float:
        """US dollars of today, what is reserved included."""
        return float(next(one for one in self.occtl("list") if one["name"] == name)["day"]["spent"])

    def settled(self, name: str, dollars: float) -> None:
        eventually(lambda: abs(self.spent(name) - dollars) < 1e-9, 20, f"{dollars} booked for {name}")


@contextlib.contextmanager
def running(folder: Path, bedrock: str, replicas: int, *words: str) -> Iterator[Team]:
    """A team with that many servers, ready; ``folder`` gets its certificates."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-x509", "-days", "2", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign")
    openssl(*new, *authority, "-keyout", "authority.key", "-out", "authority.pem")
    (folder / "good.ext").write_text("subjectAltName=IP:127.0.0.1")
    openssl(*new, "-subj", "/CN=good", "-keyout", "good.key", "-out", "good.csr")
    openssl("x509", "-req", "-in", "good.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
            "-CAcreateserial", "-days", "2", "-extfile", "good.ext", "-out", "good.pem")  # fmt: skip
    found = Team(folder, bedrock)
    try:
        found.postgres.start()
        for _ in range(replicas):
            found.servers.append(Server(found, *words))
        for server in found.servers:
            eventually(server.ready, 120, "a server is ready")
        yield found
    finally:
        for server in found.servers:
            server.close()
        found.postgres.close()
