"""What somebody tries the day after: ten attacks of other kinds, each on a real daemon with stand-in upstreams."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd import paths
from ocd.selftest.upstreams import Upstreams
from tests.attack import second
from tests.helpers.daemon import Daemon, eventually

BODY = json.dumps(
    {"model": "claude-opus-9-9", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
).encode()
#: seconds within which the daemon answers its owner, whatever else is going on
SOON = 20.0


@pytest.fixture(scope="module")
def daemon(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(addresses) as daemon:
        state = daemon.prefix / "state"
        plant(state, daemon.prefix)
        daemon.start()
        yield daemon


VICTIMS = ("sessions.json", "budget.json", "models.json", "usage.db", "logs/main.log", "logs/events.jsonl")


def plant(state: Path, prefix: Path) -> None:
    """Links where the daemon writes, to a file that is somebody's."""
    (state / "logs").mkdir(parents=True, mode=0o700)
    os.chmod(state, 0o700)
    (prefix / "victim").write_text("precious")
    for name in VICTIMS:
        (state / name).symlink_to(prefix / "victim")
    runtime = prefix / "run"
    runtime.mkdir(mode=0o700)
    for name in ("guest-main-1.sock", "guest-bedrock-1.sock", "status", "statusline"):
        (runtime / name).symlink_to(prefix / "victim")


def raw(port: int, data: bytes, timeout: float = 10.0) -> bytes:
    """Everything that comes back until the other side ends it, or has nothing more to say."""
    with socket.create_connection(("127.0.0.1", port), timeout) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        found = b""
        sock.settimeout(2.0)
        with contextlib.suppress(OSError):
            while piece := sock.recv(65536):
                found += piece
        return found


def key_lines(daemon: Daemon, proxy: str = "main") -> bytes:
    lines = {**daemon.headers()} if proxy == "main" else {}
    lines["x-litellm-api-key"] = daemon.keys()[proxy]
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in lines.items())


def head(
    daemon: Daemon, *more: bytes, start: bytes = b"POST /v1/messages HTTP/1.1", key: bool = True
) -> bytes:
    lines = [start, b"Host: 127.0.0.1", b"content-type: application/json", *more]
    return b"\r\n".join(lines) + b"\r\n" + (key_lines(daemon) if key else b"") + b"\r\n"


def still_serves(daemon: Daemon) -> None:
    began = time.monotonic()
    assert daemon.ask().status_code == 200 and daemon.ask("qwen-3-coder").status_code == 200
    assert time.monotonic() - began < SOON
    proxies = daemon.status()["proxies"]
    assert all(one["state"] == "ready" for one in proxies.values())


def test_a_second_request_hides_behind_the_first(daemon: Daemon, upstreams: Upstreams) -> None:
    """1. Smuggling: whatever two readers could disagree on is refused, and a key counts for its own request alone."""
    hidden = head(daemon, b"content-length: %d" % len(BODY), key=False) + BODY
    length = b"content-length: %d" % len(BODY)
    frames = {
        "length and chunks": head(daemon, length, b"transfer-encoding: chunked") + b"0\r\n\r\n" + hidden,
        "two lengths": head(daemon, b"content-length: 0", length) + BODY + hidden,
        "a signed length": head(daemon, b"content-length: +%d" % len(BODY)) + BODY + hidden,
        "chunked twice": head(daemon, b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n" + hidden,
        "an odd chunked": head(daemon, b"transfer-encoding: \x0bchunked") + b"0\r\n\r\n" + hidden,
        "a bare line feed": head(daemon, b"x: y\ntransfer-encoding: chunked") + b"0\r\n\r\n" + hidden,
        "a space before the colon": head(daemon, b"content-length : 5") + b"12345" + hidden,
        "a NUL": head(daemon, b"x-a: \x00b", length) + BODY + hidden,
        "pipelined": head(daemon, length) + BODY + hidden,
    }
    for name, data in frames.items():
        before = len(upstreams.seen())
        answer = raw(daemon.port, data)
        asked = len(upstreams.seen()) - before
        assert asked <= 1, (name, asked)
        statuses = [int(one[:3]) for one in answer.split(b"HTTP/1.1 ")[1:]]
        assert statuses.count(200) <= 1, (name, statuses)
        if name == "pipelined":
            assert statuses == [200, 424], (name, statuses)
    still_serves(daemon)


def test_methods_and_paths_that_nobody_has(daemon: Daemon, upstreams: Upstreams) -> None:
    """2. With the right key, and still: no route but the listed ones, no stack trace, no call that goes out."""
    before = len(upstreams.seen())
    length = b"content-length: %d" % len(BODY)
    for start in (
        b"CONNECT api.anthropic.com:443 HTTP/1.1",
        b"TRACE / HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"POST http://127.0.0.1:9/v1/key/generate HTTP/1.1",
        b"POST //127.0.0.1:9/key/generate HTTP/1.1",
        b"POST /v1/messages/../../key/generate HTTP/1.1",
        b"POST /v1/messages/%2e%2e/%2e%2e/key/generate HTTP/1.1",
        b"POST /%76%31/../key/generate HTTP/1.1",
        b"POST /v1/messages;/../key/generate HTTP/1.1",
        b"POST /v1\\messages HTTP/1.1",
        b"POST /v1/messages%00/x HTTP/1.1",
        b"POST /" + b"a" * 60_000 + b" HTTP/1.1",
        b"GET /config/yaml HTTP/1.1",
        b"POST /v1/messages/batches/../../../anthropic/x HTTP/1.1",
        b"PATCH /config/update HTTP/1.1",
        b"DELETE /v1/messages?beta=true&api_base=http://127.0.0.1:9 HTTP/1.1",
    ):
        answer = raw(daemon.port, head(daemon, length, start=start) + BODY)
        assert not answer.startswith(b"HTTP/1.1 2"), (start[:60], answer[:200])
        assert b"Traceback" not in answer and str(daemon.prefix).encode() not in answer, start[:60]
    assert len(upstreams.seen()) == before
    still_serves(daemon)


def test_headers_that_would_give_orders(daemon: Daemon, upstreams: Upstreams) -> None:
    """3. What LiteLLM, a web server or a client library takes from headers decides nothing and goes nowhere."""
    # What belongs to the client's own request goes up as it came (docs/fidelity.md): no credential of its own here.
    lines = """
        x-litellm-api-base: http://127.0.0.1:9 | x-litellm-model: qwen-3-coder | x-litellm-timeout: 0.001
        x-litellm-tags: a | x-litellm-num-retries: 9 | x-pass-x-api-key: evil | x-http-method-override: PUT
        x-forwarded-host: evil.example | x-forwarded-for: 10.0.0.1 | forwarded: host=evil | x-original-url: /x
        x-amz-security-token: evil | x-amz-target: evil | cookie: a=b | proxy-authorization: Basic eDp5
        x-aws-region: evil | x-goog-api-key: evil | te: trailers | connection: x-drop | expect: 100-continue
    """
    orders = dict(one.strip().split(": ", 1) for one in re.split(r"[|\n]", lines) if one.strip())
    for model in ("claude-opus-9-9", "qwen-3-coder"):
        before = len(upstreams.seen())
        answer = httpx.post(
            f"{daemon.url()}/v1/messages",
            headers={**daemon.headers(), **orders},
            content=BODY.replace(b"claude-opus-9-9", model.encode()),
            timeout=60,
            trust_env=False,
        )
        new = upstreams.seen()[before:]
        assert answer.status_code == 200, answer.text[:300]
        assert {one.upstream for one in new} <= {"anthropic" if "opus" in model else "bedrock"}
        for one in new:
            names = {name.lower() for name, _ in one.headers}
            assert not [
                name for name in names if name.startswith("x-litellm-") or name == "proxy-authorization"
            ]
            if one.upstream == "bedrock":
                assert "evil" not in str(one.headers), one.headers
            assert daemon.keys()["main"] not in str(one.headers) and daemon.keys()["bedrock"] not in str(
                one.headers
            )
    still_serves(daemon)


def test_another_protocol_on_the_port(daemon: Daemon, upstreams: Upstreams) -> None:
    """4. WebSocket, HTTP/2, TLS and noise end with a refusal or nothing."""
    before = len(upstreams.seen())
    upgrade = (
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: eA==",
    )
    for data in (
        head(daemon, *upgrade, start=b"GET /v1/realtime HTTP/1.1"),
        head(daemon, *upgrade, start=b"GET /v1/messages HTTP/1.1"),
        head(daemon, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__",
             start=b"GET /v1/x HTTP/1.1"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
        b"\xff" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 60_000 + b"\r\n",
    ):  # fmt: skip
        answer = raw(daemon.port, data)
        assert b" 101 " not in answer[:20] and not answer.startswith(b"HTTP/1.1 2"), answer[:100]
    assert len(upstreams.seen()) == before
    still_serves(daemon)


def test_the_control_socket_takes_no_liberties(daemon: Daemon) -> None:
    """5. Paths that lead out of their folder, numbers that no computer has, and bodies without an end of nesting."""
    with daemon.client() as client:
        for path in (
            "/v1/logs/..%2f..%2fkeys.json",
            "/v1/logs/%2e%2e/%2e%2e/keys.json",
            "/v1/logs/keys.json",
            "/v1/logs/daemon?lines=99999999999999999999",
            "/v1/events?lines=-1",
            "/v1/events?lines=1e99",
            "/v1/proxies/__class__/wait",
            "/v1/proxies/main/wait?for=ready&timeout=nan",
            "/v1/proxies/main/wait?for=ready&timeout=-1e308",
        ):
            text = client.get(path).text
            assert not [key for key in (daemon.keys()["main"], daemon.keys()["bedrock"]) if key in text], path
            assert "Traceback" not in text, path
        for body in (
            b"[" * 200_000,
            b'{"pid": 1e400}',
            b'{"pid": true, "cwd": []}',
            b"\xff" * 1000,
            b"9" * 100_000,
        ):
            answer = client.post("/v1/launch", content=body)
            assert 400 <= answer.status_code < 500, (body[:20], answer.status_code, answer.text[:200])
        assert client.post("/v1/proxies/main/__init__").status_code in (400, 404, 409)
    crowd = []
    try:
        for _ in range(400):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(2)
            with contextlib.suppress(OSError):
                sock.connect(str(daemon.socket))
                sock.sendall(b"POST /v1/launch HTTP/1.1\r\nHost: ocd\r\nContent-Length: 1000000\r\n\r\n{")
            crowd.append(sock)
        eventually(lambda: daemon.status()["proxies"], SOON)
    finally:
        for sock in crowd:
            sock.close()
    still_serves(daemon)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A project in which whatever is read waits for ever, or says what a terminal would obey."""
    for name in (".git", ".claude", "config"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    os.mkfifo(tmp_path / ".git" / "commondir")
    for name in (
        ".claude/settings.json",
        ".claude/settings.local.json",
        "config/settings.json",
        "given.json",
    ):
        os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / ".mcp.json")
    (tmp_path / "config" / "sessions").mkdir()
    os.mkfifo(tmp_path / "config" / "sessions" / f"{os.getpid()}.json")
    return tmp_path


def test_a_project_folder_of_pipes(daemon: Daemon, trap: Path) -> None:
    """6. Nothing that a project's folder has, holds up the daemon: not once, and not a pool of threads."""
    with subprocess.Popen(["sleep", "600"]) as session:
        try:
            for number in range(12):
                order: dict[str, Any] = {
                    "pid": session.pid,
                    "cwd": str(trap),
                    "env": {"HOME": str(trap), "CLAUDE_CONFIG_DIR": str(trap / "config")},
                    "wait": 1,
                }
                if number % 3 == 0:
                    order["settings"] = str(trap / "given.json")
                with contextlib.suppress(httpx.ReadTimeout), daemon.client() as client:
                    client.post("/v1/launch", json=order, timeout=3)
            good = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
            with daemon.client() as client:
                assert client.post("/v1/launch", json=good, timeout=SOON).json().get("ready")
            still_serves(daemon)
            assert daemon.post("/v1/reload")["ok"]
        finally:
            session.kill()


def test_a_project_folder_that_speaks_to_the_terminal(daemon: Daemon, tmp_path: Path) -> None:
    """7. Its name, its branch and the ids in requests are shown as text."""
    folder = tmp_path / "a\x1b]0;owned\x07\x1b[2Jb"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/x\x1b[2J\x9b31m\n")
    with subprocess.Popen(["sleep", "600"]) as session:
        try:
            order = {"pid": session.pid, "cwd": str(folder), "env": {"HOME": str(daemon.prefix)}, "wait": 5}
            assert daemon.post("/v1/launch", order).get("ready")
            headers = {**daemon.headers(), "x-claude-code-session-id": "x\x9b31m"}
            httpx.post(
                f"{daemon.url()}/v1/messages",
                headers={k: v.encode("latin-1") for k, v in headers.items()},
                content=BODY,
                timeout=60,
                trust_env=False,
            )
            for words in (["status"], ["requests"], ["logs", "daemon"], ["usage"], ["models"]):
                done = occtl(daemon, *words)
                assert not {"\x1b", "\x07", "\x9b"} & set(done.stdout + done.stderr), (words, done)
        finally:
            session.kill()


def occtl(daemon: Daemon, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*paths.program("ocd.ctl"), *words],
        env={**daemon.env, **env},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_variables_that_name_programs(daemon: Daemon, tmp_path: Path) -> None:
    """8. What only looks starts no pager, editor, browser, debugger or git of the environment's."""
    ran = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\necho $0 >> {ran}\n")
    evil.chmod(0o755)
    for name in (
        "git",
        "less",
        "man",
        "pager",
        "aws",
        "notify-send",
        "systemctl",
        "launchctl",
        "xdg-open",
        "uname",
    ):
        (tmp_path / name).symlink_to(evil)
    names = (
        *(
            "PAGER",
            "MANPAGER",
            "LESSOPEN",
            "EDITOR",
            "VISUAL",
            "BROWSER",
            "SHELL",
            "GIT_PAGER",
            "GIT_EXTERNAL_DIFF",
        ),
        *(
            "GIT_SSH",
            "GIT_ASKPASS",
            "SSH_ASKPASS",
            "PYTHONBREAKPOINT",
            "PYTHONINSPECT",
            "COLUMNS",
            "LINES",
            "TERM",
        ),
        *("OCD_LOGS__LEVEL", "TMPDIR", "TZ", "LANG", "LC_ALL", "NO_COLOR", "FORCE_COLOR", "_OCCTL_COMPLETE"),
    )
    env = {name: str(evil) for name in names}
    for words in (
        ["status"],
        ["models"],
        ["logs", "main"],
        ["usage"],
        ["config", "show"],
        ["--help"],
        ["--version"],
    ):
        done = occtl(daemon, *words, **env)
        assert "Traceback" not in done.stderr, (words, done.stderr[-600:])
    assert not ran.exists(), ran.read_text()


LISTEN = """
import os, socket, tempfile
folder = tempfile.mkdtemp(prefix="ocd-t-evil-")
os.chmod(folder, 0o755)
one = socket.socket(socket.AF_UNIX)
one.bind(folder + "/control.sock")
os.chmod(folder + "/control.sock", 0o777)
one.listen()
one.settimeout(40)
print(json.dumps(folder), flush=True)
try:
    said = one.accept()[0].recv(100).decode("latin-1")
except OSError:
    said = ""
os.unlink(folder + "/control.sock")
os.rmdir(folder)
print(json.dumps(said))
"""


@second.needs_second_user
def test_somebody_elses_control_socket(daemon: Daemon) -> None:
    """9. A runtime folder of another user's is not talked to, whoever points there."""
    other = second.start(LISTEN)
    assert other.stdout is not None
    folder = json.loads(other.stdout.readline())
    try:
        for program in (["ocd.ctl", "status"], ["ocd.ctl", "logs"], ["ocd.client", "--print", "x"]):
            done = subprocess.run(
                [*paths.program(program[0]), *program[1:]],
                env={**daemon.env, "OCD_RUNTIME_DIR": folder, "OPENCLAUDE_CLAUDE": "/bin/false"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode != 0 and "Traceback" not in done.stderr, (program, done)
        # ours is the first that it hears
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(f"{folder}/control.sock")
            probe.sendall(b"nobody before us")
    finally:
        out, _ = other.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1]) == "nobody before us"


def test_links_where_the_daemon_writes(daemon: Daemon) -> None:
    """10. What was planted before it started (see ``plant``) was replaced or refused, and nothing written through."""
    daemon.ask()
    daemon.post("/v1/usage/write")
    still_serves(daemon)
    assert (daemon.prefix / "victim").read_text() == "precious"
    # and while it runs
    state = daemon.prefix / "state"
    other = daemon.prefix / "other"
    other.write_text("dear")
    for name in ("sessions.json", "models.json", "budget.json"):
        (state / f".{name}.planted").symlink_to(other)
        with contextlib.suppress(FileNotFoundError):
            (state / name).unlink()
        (state / name).symlink_to(other)
    with subprocess.Popen(["sleep", "600"]) as session:
        try:
            order = {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
            assert daemon.post("/v1/launch", order).get("ready")
        finally:
            session.kill()
    eventually(lambda: not daemon.status()["sessions"], 20)
    assert other.read_text() == "dear"
