"""Every credential is a canary: each route, plain and streaming, in good and in bad times, on several LiteLLMs.

The pinned version always; 1.99.4 where ``make test`` built it; 1.90.7, in which LiteLLM itself hands the plan's token
to Bedrock from a single proxy, with ``make canaries``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers import canaries
from tests.helpers.daemon import ROOT, SLOW, Daemon, eventually, free_ports, litellm_python

PINNED = "pinned"
VERSIONS = (PINNED, "1.99.4", "1.90.7")
ALL = os.environ.get("OCD_TEST_CANARIES") == "all"

MAIN = """\
model_list:
  - model_name: claude-opus-9-9
    litellm_params: {{model: anthropic/claude-opus-9-9, api_base: "{anthropic}"}}
  - model_name: claude-sonnet-9-9
    litellm_params: {{model: anthropic/claude-sonnet-9-9, api_base: "{anthropic}"}}
  - model_name: qwen-3-coder
    litellm_params: &hop
      model: openai/qwen-3-coder
      api_base: os.environ/OCD_BEDROCK_URL
      api_key: os.environ/OCD_BEDROCK_KEY
  - model_name: claude-opus-9-9-bedrock
    litellm_params: {{<<: *hop, model: openai/claude-opus-9-9-bedrock}}
litellm_settings: {{drop_params: true, use_chat_completions_url_for_anthropic_messages: true}}
router_settings:
  fallbacks: [{{claude-opus-9-9: [claude-opus-9-9-bedrock]}}]
  num_retries: 0
  disable_cooldowns: true
general_settings: {{master_key: os.environ/OCD_MAIN_KEY}}
"""
#: one with what the profile says, through InvokeModel; one with what the environment says, through Converse
BEDROCK = """\
model_list:
  - model_name: qwen-3-coder
    litellm_params:
      model: bedrock/converse/qwen.qwen3-next-80b-a3b
      aws_region_name: os.environ/OCD_AWS_REGION
      aws_bedrock_runtime_endpoint: "{bedrock}"
  - model_name: claude-opus-9-9-bedrock
    litellm_params:
      model: bedrock/invoke/us.anthropic.claude-opus-9-9-v1
      aws_region_name: os.environ/OCD_AWS_REGION
      aws_profile_name: os.environ/OCD_AWS_PROFILE
      aws_bedrock_runtime_endpoint: "{bedrock}"
litellm_settings: {{drop_params: true}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
general_settings: {{master_key: os.environ/OCD_BEDROCK_KEY}}
"""
#: One proxy for both, which is what the seeds had first; ours would not serve this file.
SINGLE = """\
model_list:
  - model_name: converse
    litellm_params: &single
      model: bedrock/converse/qwen.qwen3-next-80b-a3b
      aws_region_name: us-west-2
      aws_access_key_id: AKIAIOSFODNN7EXAMPLE
      aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
      aws_bedrock_runtime_endpoint: "{bedrock}"
  - model_name: invoke
    litellm_params: {{<<: *single, model: bedrock/invoke/us.anthropic.claude-opus-9-9-v1}}
litellm_settings: {{drop_params: true}}
general_settings: {{master_key: "{key}"}}
"""
#: A module of tests that pass, and each of which leaves something.
LEAKY = """
import subprocess, sys, time
from tests.helpers import canaries
from tests.helpers.daemon import Daemon

def test_file(tmp_path):
    (tmp_path / "some-file").write_text(canaries.TOKEN)

def test_daemon():
    with Daemon(python="/nowhere") as daemon:
        logs = daemon.prefix / "state" / "logs"
        logs.mkdir(parents=True)
        (logs / "main.log").write_text(canaries.TOKEN)

def test_line():
    process = subprocess.Popen([sys.executable, "-c", "input()", canaries.TOKEN], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any("arguments" in where for _what, where in canaries.FOUND) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.communicate(b"")

def test_nowhere(tmp_path):
    (tmp_path / "some-file").write_text("nothing")
"""
TOKEN = canaries.TOKEN
SECRET = canaries.bare(TOKEN)


def interpreter(version: str) -> str:
    """The Python that has this LiteLLM; skips the test where nobody made it."""
    if version == PINNED:
        return litellm_python()
    name = f"OCD_TEST_LITELLM_{version.replace('.', '_')}"
    found = os.environ.get(name) or str(ROOT / f".venv-litellm-{version}" / "bin" / "python")
    if not os.access(found, os.X_OK):
        if ALL:
            pytest.fail(f"no LiteLLM {version} at {found}")
        pytest.skip(
            f"no LiteLLM {version}: `make canaries` makes it, {name} names another Python that has it"
        )
    return os.path.abspath(found)


class Stage:
    """One daemon on one LiteLLM, with canaries in every place where a user has credentials."""

    def __init__(self, version: str, addresses: dict[str, str]) -> None:
        self.version = version
        self.profile = canaries.Aws.make("the profile")
        self.exported = canaries.Aws.make("the bedrock proxy's environment")
        self.shell = canaries.Aws.make("the shell")
        settings = (
            "[proxies.bedrock.env]\n"
            f'AWS_ACCESS_KEY_ID = "{self.exported.access}"\n'
            f'AWS_SECRET_ACCESS_KEY = "{self.exported.secret}"\n'
            f'AWS_SESSION_TOKEN = "{self.exported.session}"\n'
        )
        self.daemon = Daemon(addresses, settings, python=interpreter(version))
        folder = self.daemon.prefix / ".aws"
        folder.mkdir(mode=0o700)
        (folder / "config").write_text("[profile openclaude]\nregion = us-west-2\n")
        (folder / "credentials").write_text(
            f"[openclaude]\naws_access_key_id = {self.profile.access}\n"
            f"aws_secret_access_key = {self.profile.secret}\naws_session_token = {self.profile.session}\n"
        )
        self.daemon.write("litellm.yaml", MAIN.format(**addresses))
        self.daemon.write("litellm-bedrock.yaml", BEDROCK.format(**addresses))

    def start(self) -> None:
        """As a user does who has everything exported in the shell: the daemon must take none of it along."""
        shell = {
            "AWS_ACCESS_KEY_ID": self.shell.access,
            "AWS_SECRET_ACCESS_KEY": self.shell.secret,
            "AWS_SESSION_TOKEN": self.shell.session,
            "ANTHROPIC_API_KEY": TOKEN,
            "ANTHROPIC_AUTH_TOKEN": TOKEN,
            "CLAUDE_CODE_OAUTH_TOKEN": TOKEN,
        }
        done = self.occtl("start", "--timeout", str(120 * SLOW), **shell)
        assert done.returncode == 0, done.stderr + self.daemon.tail("main") + self.daemon.tail("daemon")
        self.daemon.keeper = self.daemon.status()["keeper_pid"]
        self.daemon.wait_ready()

    def occtl(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ocd.ctl", *words],
            env=self.daemon.env | env,
            capture_output=True,
            text=True,
            timeout=180 * SLOW,
        )

    @property
    def secrets(self) -> dict[str, str]:
        """secret text → what it is, for all of them."""
        found = {SECRET: "plan token"}
        for name in ("profile", "exported", "shell"):
            aws: canaries.Aws = getattr(self, name)
            found |= {
                aws.access: f"{name} access",
                aws.secret: f"{name} secret",
                aws.session: f"{name} session",
            }
        return found | {key: f"{name} key" for name, key in self.daemon.keys().items()}

    def processes(self) -> list[psutil.Process]:
        return [
            psutil.Process(self.daemon.keeper),
            *psutil.Process(self.daemon.keeper).children(recursive=True),
        ]


@pytest.fixture(scope="module", params=VERSIONS)
def stage(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Iterator[Stage]:
    made = Stage(request.param, addresses)
    with made.daemon:
        try:
            made.start()
            yield made
        finally:
            made.occtl("stop", "--timeout", str(60 * SLOW))


@pytest.fixture(autouse=True)
def fresh(upstreams: Upstreams) -> None:
    upstreams.reset()


#: name → (proxy, path, model, whose credential)
ROUTES = {
    "opus": ("main", "/v1/messages?beta=true", "claude-opus-9-9"),
    "sonnet": ("main", "/v1/messages?beta=true", "claude-sonnet-9-9"),
    "haiku": ("main", "/v1/messages?beta=true", "qwen-3-coder"),
    "opus-bedrock": ("main", "/v1/messages?beta=true", "claude-opus-9-9-bedrock"),
    "chat": ("main", "/v1/chat/completions", "qwen-3-coder"),
    "count-tokens": ("main", "/v1/messages/count_tokens?beta=true", "claude-opus-9-9"),
    "count-tokens-haiku": ("main", "/v1/messages/count_tokens?beta=true", "qwen-3-coder"),
    "bedrock-port": ("bedrock", "/v1/messages", "qwen-3-coder"),
    "bedrock-port-opus": ("bedrock", "/v1/chat/completions", "claude-opus-9-9-bedrock"),
}
TIMES = {
    "ok": Behaviour(),
    "401": Behaviour(status=401),
    "429": Behaviour(status=429),
    "529": Behaviour(status=529),
    "dropped": Behaviour(drop="before"),
    "broken off": Behaviour(drop="during"),
    # only Anthropic fails: where there is a fallback, it answers
    "fallback": Behaviour(upstream="anthropic", status=529),
}
#: where Bedrock's own may stand: the signature names the access key, the session goes along
AWS_PLACES = {"access": {"header authorization"}, "session": {"header x-amz-security-token"}}


def send(stage: Stage, route: str, stream: bool, token: str = TOKEN) -> httpx.Response | None:
    """One request as Claude Code, or as the main proxy, sends it; None when the connection broke."""
    proxy, path, model = ROUTES[route]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Say ok"}],
        "metadata": {"user_id": "user_x"},
    }
    if "count" not in route:
        body["stream"] = stream
    # Which session asks is for us alone to know.
    headers = stage.daemon.headers(token) | {"x-ocd-session": str(os.getpid())}
    if proxy == "bedrock":
        headers = {"authorization": f"Bearer {stage.daemon.keys()['bedrock']}"}
    try:
        return httpx.post(
            stage.daemon.url(proxy) + path, headers=headers, json=body, timeout=60 * SLOW, trust_env=False
        )
    except httpx.TransportError:
        return None


def misplaced(stage: Stage, upstreams: Upstreams) -> list[str]:
    """Canaries outside their place in what reached the stand-ins."""
    wrong = [
        f"{name} at {one.upstream}"
        for one in upstreams.seen()
        for name, _value in one.headers
        if name.startswith(("x-ocd-", "x-litellm-"))
    ]
    for one in upstreams.seen():
        for secret, what in stage.secrets.items():
            allowed: set[str] = set()
            if one.upstream == "anthropic" and what == "plan token":
                allowed = {"header authorization"}
            elif one.upstream == "bedrock" and what.split()[0] in ("profile", "exported"):
                allowed = AWS_PLACES.get(what.split()[1], set())
            wrong += [
                f"{what} at {one.upstream}: {place}" for place in one.where(secret) if place not in allowed
            ]
    return wrong


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("route", ROUTES)
def test_no_credential_leaves_its_place(
    stage: Stage, upstreams: Upstreams, route: str, stream: bool, times: str
) -> None:
    upstreams.behave(TIMES[times])
    answer = send(stage, route, stream)
    assert misplaced(stage, upstreams) == []
    seen = upstreams.seen()
    to = {one.upstream for one in seen}
    if route in ("opus", "sonnet"):
        assert "anthropic" in to
        assert all(one.credential == "plan token" for one in seen if one.upstream == "anthropic")
    elif not route.startswith("count"):
        assert to == {"bedrock"}
    for one in seen:
        if one.upstream == "bedrock":
            assert one.credential == "AWS signature"
            used = stage.profile if "opus" in one.model else stage.exported
            assert used.access in one.header("authorization")
            assert one.header("x-amz-security-token") == used.session
    if route == "opus" and times in ("401", "fallback"):
        # an expired login is never billed to AWS; an overload falls back
        assert ("bedrock" in to) == (times == "fallback")
    if answer is not None:
        if times == "ok" or (times == "fallback" and route != "sonnet"):
            assert answer.status_code == 200, answer.text
        text = answer.text + json.dumps(dict(answer.headers))
        assert not any(secret in text for secret in stage.secrets)


def test_each_process_holds_what_it_may_and_no_more(stage: Stage) -> None:
    """The table in docs/architecture.md, in the memory of the processes themselves, after all of the above."""
    if stage.version != PINNED:
        pytest.skip("once is enough")
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is read from /proc")
    daemon = stage.daemon
    token, profile, exported, shell = SECRET, stage.profile.secret, stage.exported.secret, stage.shell.secret
    main_key, bedrock_key = daemon.keys()["main"], daemon.keys()["bedrock"]
    never = {
        daemon.keeper: {token, profile, exported, shell, main_key, bedrock_key},
        daemon.host_pid(): {token, profile, exported, shell, main_key, bedrock_key},
        # it reads ocd.toml, where the user put the exported ones, and makes the keys
        daemon.supervisor_pid(): {token, profile, shell},
        daemon.proxy("main")["pid"]: {profile, exported, shell},
        daemon.proxy("bedrock")["pid"]: {token, shell, main_key},
    }
    try:
        held = {pid: in_memory(pid, never[pid] | {exported, main_key}) for pid in never}
    except PermissionError:
        pytest.skip("this system lets nobody read another process's memory")
    names = stage.secrets
    wrong = {pid: sorted(names[one] for one in held[pid] & never[pid]) for pid in never}
    assert not any(wrong.values()), (wrong, {pid: psutil.Process(pid).cmdline()[-3:] for pid in wrong})
    # This search finds what is there.
    assert exported in held[daemon.proxy("bedrock")["pid"]] and main_key in held[daemon.proxy("main")["pid"]]


def in_memory(pid: int, secrets: set[str]) -> set[str]:
    """Which of ``secrets`` stand in the process's writable memory. Raises PermissionError."""
    found: set[str] = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            area, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            first, last = (int(one, 16) for one in area.split("-"))
            memory.seek(first)
            try:
                data = memory.read(last - first)
            except OSError:
                continue
            found |= {one for one in secrets - found if one.encode() in data}
    return found


@pytest.mark.parametrize("place", ["authorization", "x-api-key", "query", "body"])
def test_the_login_at_the_bedrock_port_is_refused(stage: Stage, upstreams: Upstreams, place: str) -> None:
    headers = {"authorization": f"Bearer {stage.daemon.keys()['bedrock']}"}
    body: dict[str, Any] = {"model": "qwen-3-coder", "messages": [{"role": "user", "content": "x"}]}
    path = "/v1/chat/completions"
    if place == "query":
        path += f"?user={TOKEN}"
    elif place == "body":
        body["user"] = TOKEN
    elif place == "authorization":
        headers = {"authorization": f"Bearer {TOKEN}", "x-litellm-api-key": headers["authorization"]}
    else:
        headers[place] = TOKEN
    url = stage.daemon.url("bedrock") + path
    answer = httpx.post(url, headers=headers, json=body, timeout=60 * SLOW, trust_env=False)
    assert answer.status_code == 403 and SECRET not in answer.text
    assert upstreams.seen() == []
    eventually(lambda: "credential-refused" in stage.daemon.kinds(), what="an event says so")


def test_afterwards_no_canary_is_anywhere_else(stage: Stage) -> None:
    """Logs, events, status, commands' output, arguments, environments, files: after all of the above."""
    daemon = stage.daemon
    assert send(stage, "opus", stream=False) is not None
    everything, keys = stage.secrets, set(daemon.keys().values())
    assert canaries.in_processes(stage.processes(), everything) == set()
    assert not any(secret in json.dumps(daemon.status()) for secret in everything)
    # What works less well on this version is said, and nothing else is.
    problems = [one["code"] for one in daemon.status()["problems"] if one["code"] != "model-retires"]
    assert problems == (["litellm-old"] if stage.version == "1.90.7" else [])
    with daemon.client() as client:
        # The meter has something to tell on each of the versions.
        for path in (
            "events?lines=5000",
            "logs/main?lines=5000",
            "logs/bedrock?lines=5000",
            "requests?lines=500",
        ):
            text = client.get(f"/v1/{path}").text
            assert text and canaries.within(text.encode(), canaries.needles(everything)) == set(), path
    for words in (
        ["status"],
        ["status", "--json"],
        ["logs", "-n", "1000"],
        ["config", "show"],
        ["usage"],
        ["aws", "status"],
    ):
        done = stage.occtl(*words)
        text = done.stdout + done.stderr
        assert text and canaries.within(text.encode(), canaries.needles(everything)) == set(), words
    # Its own places: ~/.aws, the user's ocd.toml, the key file; and the snapshots of ocd.toml, without which a mistake
    # in it would take its proxies' credentials away. What came with requests belongs to none of them.
    mine = re.compile(r"\.aws/credentials$|config/ocd\.toml$").match
    snapshots = re.compile(r"state/settings/(?:last-good\.toml|\w+\.json)$").match
    outside = {secret: what for secret, what in everything.items() if secret not in keys}
    exported = {secret: what for secret, what in outside.items() if what.startswith("exported")}
    sent = {secret: what for secret, what in outside.items() if secret not in exported}
    assert canaries.in_files(daemon.prefix, sent, but=mine) == set()
    assert canaries.in_files(daemon.prefix, exported, but=lambda path: mine(path) or snapshots(path)) == set()
    inside = {secret: what for secret, what in everything.items() if secret in keys}
    assert canaries.in_files(daemon.prefix, inside, but=re.compile(r"state/keys\.json$").match) == set()
    for path in daemon.prefix.rglob("*"):
        if path.is_file() and (path.name == "keys.json" or path.parent.name == "settings"):
            assert not path.stat().st_mode & 0o077
            assert not path.parent.stat().st_mode & 0o077


@pytest.mark.skipif(not ALL, reason="what LiteLLM 1.90.7 itself does: `make canaries` looks")
def test_why_there_are_two_proxies(addresses: dict[str, str], upstreams: Upstreams, tmp_path: Path) -> None:
    """Plain LiteLLM 1.90.7 as one proxy for both hands the login to Bedrock, and this search would see it."""
    key, port = f"sk-{secrets.token_hex(16)}", free_ports()
    (tmp_path / "single.yaml").write_text(SINGLE.format(key=key, **addresses))
    python = interpreter("1.90.7")
    process = subprocess.Popen(
        [os.path.join(os.path.dirname(python), "litellm"), "--config", "single.yaml", "--port", str(port)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        live = f"{url}/health/liveliness"
        eventually(lambda: httpx.get(live, trust_env=False).status_code == 200, 120, "LiteLLM serves")
        for kind in ("converse", "invoke"):
            headers = {"authorization": f"Bearer {TOKEN}", "x-litellm-api-key": f"Bearer {key}"}
            body = {"model": kind, "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}
            httpx.post(f"{url}/v1/messages", headers=headers, json=body, timeout=60 * SLOW, trust_env=False)
    finally:
        process.kill()
        process.wait()
    assert {one.upstream for one in upstreams.seen()} == {"bedrock"}
    assert all(one.where(SECRET) for one in upstreams.seen())


# ---- that the search can find something


def test_planted_canaries_are_found(stage: Stage, upstreams: Upstreams) -> None:
    """In traffic, in a process, in a file, also in base64."""
    if stage.version != PINNED:
        pytest.skip("once is enough")
    with httpx.Client(trust_env=False) as client:
        client.get(upstreams.bedrock + "/model/x/converse", headers={"x-y": f"Bearer {TOKEN}"})
        client.get(upstreams.anthropic + f"/v1/models?x={stage.profile.secret}")
    assert misplaced(stage, upstreams) == [
        "plan token at bedrock: header x-y",
        "profile secret at anthropic: path",
    ]
    folder = stage.daemon.prefix / "planted"
    folder.mkdir()
    try:
        import base64

        (folder / "plain.log").write_text(f"said {TOKEN}")
        (folder / "coded").write_bytes(base64.b64encode(b"xy" + stage.exported.session.encode() + b"z"))
        (folder / f"named-{SECRET}").touch()
        found = canaries.in_files(folder, stage.secrets)
        assert {what for what, _ in found} == {"plan token", "exported session"} and len(found) == 3
    finally:
        shutil.rmtree(folder)
    process = subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"], "X": stage.shell.access})
    try:
        eventually(
            lambda: (
                canaries.in_processes([psutil.Process(process.pid)], stage.secrets)
                == {("shell access", "environment of sleep")}
            )
        )
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("leaky", [True, False])
def test_a_run_that_leaves_a_canary_somewhere_fails(leaky: bool, tmp_path: Path) -> None:
    """The search at the end of every run (tests/conftest.py), in a run of its own: it names places, never values."""
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    which = "not nowhere" if leaky else "nowhere"
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        "-k",
        which,
        "--rootdir",
        str(tmp_path),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120 * SLOW,
    )
    if leaky:
        assert run.returncode == 1 and "3 passed, 1 deselected, 1 error" in run.stdout, run.stdout
        for place in ("/some-file", "/state/logs/main.log", "arguments of python"):
            assert re.search(f"(?m)^plan token: .*{place}", run.stdout), run.stdout
    else:
        assert run.returncode == 0 and "1 passed" in run.stdout, run.stdout
    assert not re.search(r"canary-[0-9a-f]{24}", run.stdout + run.stderr)
