"""Several logins and several profiles at once, through the real daemon and both LiteLLMs: who pays, what is shown."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest.upstreams import Upstreams
from tests.helpers import canaries, stub_claude
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

#: made up; the stand-in sees by the id whose signature it is
IDS = {"openclaude": "AKIAORDINARYEXAMPLE1", "work": "AKIAWORKEXAMPLE00002"}
KEYS = (
    "      aws_access_key_id: AKIAIOSFODNN7EXAMPLE\n"
    "      aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
)
PROFILES = '[profiles.client-a]\naws_profile = "work"\n[profiles.client-b]\nhaiku = "claude-sonnet-9-9"\n'


class Plan:
    """Anthropic's place for two logins: an answer that states how much of each one's plan is used."""

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        self.seen: list[dict[str, str]] = []
        plan = self

        class Handler(http.server.BaseHTTPRequestHandler):
            # HTTP/1.0: no connection, and so no thread, is kept for a next request.
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                plan.seen.append({name.lower(): value for name, value in self.headers.items()})
                token = self.headers["authorization"].removeprefix("Bearer ")
                body = json.dumps(
                    {
                        **{"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-9-9"},
                        **{"content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn"},
                        **{"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}},
                    }
                ).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                start = "anthropic-ratelimit-unified-"
                self.send_header(start + "representative-claim", "five_hour")
                self.send_header(start + "5h-utilization", str(plan.used.get(token, 0.0)))
                self.send_header(start + "5h-reset", str(int(time.time()) + 3600))
                self.send_header(start + "5h-status", "allowed")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{self.server.server_address[1]}"
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="module")
def stage(plan: Plan, upstreams: Upstreams) -> Iterator[Daemon]:
    with plan.serving() as anthropic:
        addresses = {"anthropic": anthropic, "bedrock": upstreams.bedrock}
        with Daemon(upstreams=addresses, settings=PROFILES) as daemon:
            aws = daemon.prefix / ".aws"
            aws.mkdir(mode=0o700)
            lines = [
                f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = made-up\n"
                for name, key in IDS.items()
            ]
            (aws / "credentials").write_text("".join(lines))
            bedrock = daemon.read("litellm-bedrock.yaml")
            own = "      aws_profile_name: os.environ/OCD_AWS_PROFILE\n"
            daemon.write("litellm-bedrock.yaml", bedrock.replace(KEYS, own))
            (daemon.prefix / "bin").mkdir(exist_ok=True)
            stub_claude.install(str(daemon.prefix / "bin"))
            daemon.start()
            yield daemon


def run(
    daemon: Daemon, module: str, *args: str, cwd: str = "/", **more: str
) -> subprocess.CompletedProcess[str]:
    env = {**daemon.env, "NO_COLOR": "1", "PATH": f"{daemon.prefix}/bin:{daemon.env['PATH']}", **more}
    command = [sys.executable, "-m", module, *args]
    return subprocess.run(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)


class Session:
    """openclaude, which became the stub; it asks as Claude Code would with that overlay."""

    def __init__(self, daemon: Daemon, *args: str, cwd: str = "/") -> None:
        record = daemon.prefix / f"record-{time.monotonic_ns()}"
        self.daemon = daemon
        self.done = run(daemon, "ocd.client", *args, cwd=cwd, OCD_STUB_RECORD=str(record))
        self.overlay: dict[str, Any] = {}
        self.environ: dict[str, str] = {}
        if self.done.returncode == 0:
            said = json.loads(record.read_text())
            self.overlay, self.environ = said["overlay"], said["environ"]
            record.unlink()

    @property
    def env(self) -> dict[str, str]:
        return dict(self.overlay["env"])

    def ask(self, slot: str, token: str = canaries.TOKEN) -> int:
        """One request of a slot."""
        canaries.forbid("plan token", token)
        model = self.env[f"ANTHROPIC_DEFAULT_{slot.upper()}_MODEL"]
        lines = self.env["ANTHROPIC_CUSTOM_HEADERS"].splitlines()
        own = dict(line.split(": ", 1) for line in lines)
        answer = httpx.post(
            f"{self.env['ANTHROPIC_BASE_URL']}/v1/messages?beta=true",
            headers={**own, "authorization": f"Bearer {token}", "anthropic-version": "2023-06-01"},
            json={"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Say ok"}]},
            timeout=60,
            trust_env=False,
        )
        return answer.status_code


def signed_by(upstreams: Upstreams) -> list[str]:
    """The AWS profiles whose key signed what the stand-in for Bedrock saw, in order."""
    return [
        next((name for name, key in IDS.items() if key in one.header("authorization")), "another")
        for one in upstreams.seen("bedrock")
    ]


def test_two_sessions_with_different_profiles_at_once(
    stage: Daemon, plan: Plan, upstreams: Upstreams
) -> None:
    without = Session(stage, "--profile", "client-a")
    assert without.done.returncode == 78 and "occtl aws route work" in without.done.stderr
    added = run(stage, "ocd.ctl", "aws", "route", "work")
    assert added.returncode == 0, added.stdout + added.stderr
    stage.wait_ready()
    upstreams.reset()
    upstreams.behave()
    plain, by_a, by_b = (
        Session(stage),
        Session(stage, "--profile", "client-a"),
        Session(stage, "--profile=client-b"),
    )
    assert [one.done.returncode for one in (plain, by_a, by_b)] == [0, 0, 0], by_a.done.stderr
    seen = len(plan.seen)
    for session in (plain, by_a, by_b, by_a, plain):
        assert session.ask("haiku") == 200
    assert signed_by(upstreams) == ["openclaude", "work", "work", "openclaude"]
    # seconds after such a session began its group counts as the slot's
    eventually(
        lambda: by_a.ask("haiku") == 200 and "haiku" in _slots(stage, "qwen-3-coder-work"), what="the slot"
    )
    signed = signed_by(upstreams)
    assert set(signed[4:]) == {"work"}
    assert len(plan.seen) == seen + 1, "client-b has the haiku slot on the plan"
    # each credential in its one place: no AWS signature at Anthropic's, no login at Bedrock's, no header of ours
    assert not any("AWS4" in value for one in plan.seen for value in one.values())
    assert not any("x-ocd" in name for one in plan.seen for name in one)
    assert not any(canaries.TOKEN in value for one in upstreams.seen("bedrock") for _, value in one.headers)
    assert Session(stage, "--profile", "nobody").done.returncode == 64


def test_a_projects_file_once_it_is_trusted(stage: Daemon, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    file = tmp_path / ".ocd.toml"
    file.write_text('haiku = "claude-opus-9-9"\n')
    before = Session(stage, cwd=str(tmp_path / "sub"))
    assert before.env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "qwen-3-coder"
    first, second, third = before.done.stderr.splitlines()
    assert first == f"openclaude: {file} is not used"
    assert second.startswith("  why:  ") and third.startswith("  next: ")
    assert run(stage, "ocd.ctl", "profile", "trust", str(tmp_path)).returncode == 0
    after = Session(stage, cwd=str(tmp_path / "sub"))
    assert after.env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "claude-opus-9-9" and not after.done.stderr
    file.write_text('haiku = "claude-opus-9-9"\n[external]\nbase_url = "http://127.0.0.1:1"\n')
    changed = Session(stage, cwd=str(tmp_path / "sub"))
    assert changed.env == before.env and "changed since" in changed.done.stderr
    assert run(stage, "ocd.ctl", "profile", "trust", str(tmp_path)).returncode == 65


def test_limits_of_accounts_side_by_side(stage: Daemon, plan: Plan) -> None:
    assert Session(stage, "--account", "work").done.returncode == 66
    assert run(stage, "ocd.ctl", "account", "add", "work").returncode == 0
    default, work = Session(stage), Session(stage, "--account", "work")
    folder = str(stage.prefix / ".claude-accounts" / "work")
    assert work.environ["CLAUDE_CONFIG_DIR"] == folder and "CLAUDE_CONFIG_DIR" not in default.environ
    tokens = {"default": canaries.TOKEN, "work": canaries.TOKEN + "-work"}
    plan.used.update({tokens["default"]: 1.0, tokens["work"]: 0.3})
    # the slot that client-b has on the plan
    by = {name: Session(stage, *args, "--profile", "client-b") for name, args in _WAYS.items()}
    for name, session in by.items():
        assert session.ask("haiku", tokens[name]) == 200
    limits = eventually(lambda: (found := _limits(stage)) and len(found) == 2 and found, what="both limits")
    assert limits["default"]["used"] == 1.0 and limits["work"]["used"] == 0.3
    listed = json.loads(run(stage, "ocd.ctl", "account", "list", "--json").stdout)
    said = {row["account"]: row["limit"] for row in listed}
    assert said["work"] == "at 30 %" and said["default"].startswith("at its limit until ")
    shown = run(stage, "ocd.ctl", "status").stdout
    assert "plan default: at its limit until" in shown and "plan work: 5h 30 % used" in shown
    told = Session(stage).done.stderr
    assert "the account default is at its limit until" in told and "openclaude --account work" in told
    assert Session(stage, "--account", "work").done.stderr == ""
    # the token was renewed: the account has another login now, and one line all the same
    plan.used[tokens["work"] + "-2"] = 0.4
    assert by["work"].ask("haiku", tokens["work"] + "-2") == 200
    eventually(
        lambda: _limits(stage)["work"]["used"] == 0.4 and len(_limits(stage)) == 2, what="the new login"
    )
    seen = time.monotonic()
    assert "plan work: 5h 40 % used" in run(stage, "ocd.ctl", "status").stdout
    # A supervisor that takes over knows it: what was answered is noted 50 ms later. Nobody can see that from outside.
    eventually(lambda: time.monotonic() > seen + 0.5)
    former = stage.supervisor_pid()
    os.kill(former, 9)
    eventually(lambda: stage.supervisor_pid() != former, what="another supervisor")
    assert _limits(stage)["work"]["used"] == 0.4
    assert run(stage, "ocd.ctl", "account", "remove", "work").returncode == 64
    assert run(stage, "ocd.ctl", "account", "remove", "work", "--yes").returncode == 0
    assert not os.path.exists(folder)


def _slots(daemon: Daemon, model: str) -> set[str]:
    """The slots that main's latest requests for a model counted as."""
    with daemon.client() as client:
        lines = client.get("/v1/requests?lines=20").text.splitlines()
    found = [json.loads(line) for line in lines]
    return {one["slot"] for one in found if one["model"] == model and one["proxy"] == "main"}


_WAYS: dict[str, tuple[str, ...]] = {"default": (), "work": ("--account", "work")}


def _limits(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """By account: the window that counts."""
    return {name: one["windows"][0] for one in daemon.status()["limits"] for name in one["accounts"]}
