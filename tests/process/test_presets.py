"""The preset "fallback" in a real daemon with the real LiteLLM: what falls back, what does not, and who sees what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest import streams
from ocd.selftest.upstreams import Behaviour, Upstreams
from ocd.stack.presets import PRESETS, files
from tests.helpers.daemon import SLOW, Daemon, eventually

SECRET = "canary-51d0f7a2c4"
TOKEN = f"sk-ant-oat01-{SECRET}"
AWS = (
    "      aws_access_key_id: AKIAIOSFODNN7EXAMPLE\n"
    "      aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
    '      aws_bedrock_runtime_endpoint: "{bedrock}"\n'
)


def to_stand_ins(preset: str, addresses: dict[str, str]) -> dict[str, str]:
    """The preset's own files, with the stand-ins' addresses and no profile."""
    texts = files(PRESETS[preset], "us-west-2")
    main = re.sub(
        r"(?m)^(\s+)(model: \"?anthropic/.*)$",
        rf'\1\2\n\1api_base: "{addresses["anthropic"]}"',
        texts["litellm.yaml"],
    )
    bedrock = re.sub(r"(?m)^\s+aws_profile_name:.*\n", AWS.format(**addresses), texts["litellm-bedrock.yaml"])
    return {"litellm.yaml": main, "litellm-bedrock.yaml": bedrock}


@pytest.fixture(scope="module")
def shared(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(upstreams=addresses, settings='[slots]\nhaiku = ""\n') as daemon:
        for name, text in to_stand_ins("fallback", addresses).items():
            daemon.write(name, text)
        daemon.start()
        yield daemon


@pytest.fixture(autouse=True)
def watched(upstreams: Upstreams) -> None:
    upstreams.reset()
    upstreams.watch("canary", SECRET)


#: as Claude Code sends them: with LiteLLM's router the first made another endpoint of the hop (FINDINGS D1)
THINKING: dict[str, dict[str, Any]] = {
    "none": {},
    "enabled": {"max_tokens": 32000, "thinking": {"type": "enabled", "budget_tokens": 31999}},
    "adaptive": {"max_tokens": 32000, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
}


def post(daemon: Daemon, model: str, stream: bool, **more: Any) -> httpx.Response:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 64,
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
        **more,
    }
    return httpx.post(
        daemon.url() + "/v1/messages?beta=true",
        headers=daemon.headers(TOKEN),
        json=body,
        timeout=60 * SLOW,
        trust_env=False,
    )


FAILS = {
    "429": Behaviour(upstream="anthropic", status=429),
    "500": Behaviour(upstream="anthropic", status=500),
    "503": Behaviour(upstream="anthropic", status=503),
    "529": Behaviour(upstream="anthropic", status=529),
    "reset": Behaviour(upstream="anthropic", drop="before"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILS)
def test_overload_limits_and_outages_fall_back(
    daemon: Daemon, upstreams: Upstreams, failure: str, stream: bool
) -> None:
    before = daemon.proxy()["fallbacks"]
    upstreams.behave(FAILS[failure])
    answer = post(daemon, "claude-opus-9-9", stream)
    assert answer.status_code == 200, answer.text
    _, wrong = streams.check_stream(answer.text) if stream else streams.check_plain(answer.json())
    assert wrong == []
    assert [one.upstream for one in upstreams.seen()][-1] == "bedrock"
    assert upstreams.seen()[-1].model.startswith("us.anthropic.claude-opus-")
    where = upstreams.summary()["canaries"]["canary"]
    assert where["bedrock"] == {}
    assert set(where["anthropic"]) <= {"header authorization"}
    proxy = eventually(
        lambda: (found := daemon.proxy())["fallbacks"] == before + 1 and found, what="the fallback is counted"
    )
    assert proxy["last_fallback"].startswith("claude-opus-9-9 to claude-opus-bedrock (")
    assert proxy["last_fallback"].endswith("answered") and proxy["last_fallback_at"]
    assert [one for one in daemon.events() if one["kind"] == "fallback"][-1]["text"] == proxy["last_fallback"]
    assert SECRET not in str(daemon.events())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_a_refused_login_or_request_does_not(
    daemon: Daemon, upstreams: Upstreams, status: int, stream: bool
) -> None:
    before = daemon.proxy()["fallbacks"]
    upstreams.behave(Behaviour(upstream="anthropic", status=status))
    answer = post(daemon, "claude-opus-9-9", stream)
    assert 400 <= answer.status_code < 500 or "event: error" in answer.text
    assert {one.upstream for one in upstreams.seen()} == {"anthropic"}, "nothing is billed to AWS"
    assert upstreams.summary()["canaries"]["canary"]["bedrock"] == {}
    assert daemon.proxy()["fallbacks"] == before


def test_by_name_it_is_bedrock_at_once(daemon: Daemon, upstreams: Upstreams) -> None:
    before = daemon.proxy()["fallbacks"]
    assert post(daemon, "claude-haiku-bedrock", False).status_code == 200
    assert {one.upstream for one in upstreams.seen()} == {"bedrock"}
    assert daemon.proxy()["fallbacks"] == before, "an explicit choice is no fallback"


def test_a_stream_that_breaks_half_way_is_not_begun_again_elsewhere(
    daemon: Daemon, upstreams: Upstreams
) -> None:
    upstreams.behave(Behaviour(upstream="anthropic", drop="during", chunks=20, delay=0.05))
    try:
        answer = post(daemon, "claude-opus-9-9", True)
        assert "message_stop" not in answer.text
        assert "us.anthropic" not in answer.text
    except httpx.TransportError:
        pass
    assert {one.upstream for one in upstreams.seen()} == {"anthropic"}


# ---- bedrock, and a LiteLLM elsewhere: the first daemon is the second one's "elsewhere"


@pytest.fixture(scope="module")
def all_bedrock(addresses: dict[str, str]) -> Iterator[Daemon]:
    # the haiku slot is pinned to a group of its own, so that a swap is one in place
    settings = '[slots]\nhaiku = "own-haiku"\n'
    with Daemon(upstreams=addresses, settings=settings) as daemon:
        daemon.write("ocd.toml", 'auth = "none"\n' + daemon.read("ocd.toml"))
        for name, text in to_stand_ins("bedrock", addresses).items():
            entry = re.search(r"(?ms)^  - model_name: [^\n]*claude-haiku-.*?(?=\n\n|\Z)", text)
            assert entry is not None
            own = re.sub(r'"claude-haiku-\*"|claude-haiku-bedrock', "own-haiku", entry[0])
            daemon.write(name, text.replace("model_list:\n", f"model_list:\n{own}\n", 1))
        daemon.start()
        yield daemon


@pytest.fixture(scope="module")
def elsewhere(all_bedrock: Daemon) -> Iterator[Daemon]:
    with Daemon() as daemon:
        for name in ("litellm.yaml", "litellm-bedrock.yaml", "ocd.toml"):
            (daemon.config / name).unlink()
        done = occtl(
            daemon,
            "init",
            "--preset",
            "external",
            LITELLM_BASE_URL=all_bedrock.url() + "/v1",
            LITELLM_API_KEY=all_bedrock.keys()["main"],
        )
        assert done.returncode == 0, done.stderr
        assert all_bedrock.keys()["main"] not in done.stdout + done.stderr
        daemon.start(wait=False)
        eventually(daemon.status, what="the control API answers")
        yield daemon


def occtl(daemon: Daemon, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ocd.ctl", *words],
        env=daemon.env | env,
        capture_output=True,
        text=True,
        timeout=120 * SLOW,
    )


def launch(daemon: Daemon, **more: Any) -> httpx.Response:
    body = {"pid": os.getpid(), "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5} | more
    with daemon.client() as client:
        return client.post("/v1/launch", json=body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("thinking", THINKING)
@pytest.mark.parametrize(
    "model",
    [
        "claude-opus-9-9",
        "claude-sonnet-9-9",
        "claude-haiku-9-9-20310101",
        "claude-fable-9-2",
        "claude-other-9",
    ],
)
def test_bedrock_answers_everything(
    all_bedrock: Daemon, upstreams: Upstreams, model: str, stream: bool, thinking: str
) -> None:
    answer = post(all_bedrock, model, stream, **THINKING[thinking])
    assert answer.status_code == 200, answer.text
    assert {one.upstream for one in upstreams.seen()} == {"bedrock"}
    asked = "sonnet" if "other" in model else model.split("-")[1]
    assert upstreams.seen()[-1].model.startswith(f"us.anthropic.claude-{asked}-")
    assert upstreams.summary()["canaries"]["canary"] == {"anthropic": {}, "bedrock": {}}


def test_a_swapped_model_serves_at_once_and_back_again(all_bedrock: Daemon, upstreams: Upstreams) -> None:
    llama = "meta.llama4-scout-17b-16e-instruct-v1:0"

    def asked() -> str:
        upstreams.reset()
        upstreams.watch("canary", SECRET)
        env = json.loads(Path(launch(all_bedrock).json()["args"][1]).read_text())["env"]
        assert post(all_bedrock, env["ANTHROPIC_DEFAULT_HAIKU_MODEL"], False).status_code == 200
        return upstreams.seen()[-1].model

    before = asked()
    done = occtl(all_bedrock, "model", "set", "haiku", f"bedrock/converse/{llama}", "--json")
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout)
    assert said["reload"]["ok"] and upstreams.seen()[1:] == [], "nothing was sent outside"
    # A connection that main keeps open to the former process may carry one more request.
    eventually(lambda: asked() == llama, what="the new model answers")
    assert occtl(all_bedrock, "model", "undo").returncode == 0
    eventually(lambda: asked() == before != llama, what="the former model answers")


def test_without_anthropic_the_session_has_the_proxys_key_alone(
    all_bedrock: Daemon, upstreams: Upstreams
) -> None:
    reply = launch(all_bedrock).json()
    env = json.loads(Path(reply["args"][1]).read_text())["env"]
    assert env["ANTHROPIC_AUTH_TOKEN"] == all_bedrock.keys()["main"]
    headers = {"authorization": f"Bearer {env['ANTHROPIC_AUTH_TOKEN']}", "anthropic-version": "2023-06-01"}
    body = {"model": "claude-opus-9-9", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(
        all_bedrock.url() + "/v1/messages", headers=headers, json=body, trust_env=False, timeout=60
    )
    assert answer.status_code == 200
    assert all(one.where(all_bedrock.keys()["main"]) == [] for one in upstreams.seen())


def states(status: dict[str, Any]) -> set[str]:
    assert all(not one["pid"] and not one["members"] for one in status["proxies"].values())
    return {one["state"] for one in status["proxies"].values()}


def test_elsewhere_nothing_is_supervised_and_sessions_go_there(
    all_bedrock: Daemon, elsewhere: Daemon
) -> None:
    assert states(elsewhere.status()) == {"disabled"}
    reply = launch(elsewhere)
    assert reply.status_code == 200, reply.text
    env = json.loads(Path(reply.json()["args"][1]).read_text())["env"]
    assert env["ANTHROPIC_BASE_URL"] == all_bedrock.url()
    assert env["ANTHROPIC_AUTH_TOKEN"] == all_bedrock.keys()["main"], "the plan's login is not sent there"
    refused = launch(elsewhere, models={"model": "litellm@nonsense"})
    assert refused.json()["error"]["code"] == "unknown-model", "its model groups are known"
    table = json.loads(occtl(elsewhere, "models", "--json").stdout)
    assert {row["upstream"] for row in table["models"]} == {all_bedrock.url()}
    said = occtl(elsewhere, "status", "--json")
    assert said.returncode == 0 and states(json.loads(said.stdout)) == {"disabled"}


def test_elsewhere_only_a_litellm_that_takes_the_key_will_do(
    all_bedrock: Daemon, elsewhere: Daemon, upstreams: Upstreams
) -> None:
    good = elsewhere.read("ocd.toml")
    key = elsewhere.prefix / "state" / "external-key"
    assert key.stat().st_mode & 0o777 == 0o600
    try:
        for base, code in (
            (upstreams.anthropic, "external-not-litellm"),
            ("http://127.0.0.1:9", "external-not-there"),
            (all_bedrock.url("bedrock"), "external-key-refused"),
        ):
            elsewhere.write("ocd.toml", good.replace(all_bedrock.url(), base))
            assert elsewhere.post("/v1/reload")["ok"]
            assert launch(elsewhere).json()["error"]["code"] == code
        assert upstreams.seen() == [] or all(
            one.where(all_bedrock.keys()["main"]) == [] for one in upstreams.seen()
        ), "the key is only shown to a LiteLLM"
    finally:
        elsewhere.write("ocd.toml", good)
        assert elsewhere.post("/v1/reload")["ok"]


def test_a_separate_folder_links_what_is_shared(elsewhere: Daemon) -> None:
    own = elsewhere.prefix / ".claude"
    (own / "agents").mkdir(parents=True)
    (own / "CLAUDE.md").write_text("mine")
    (own / ".credentials.json").write_text("{}")
    (own / "settings.json").write_text(
        '{"model": "opus", "env": {"CLAUDE_CODE_USE_BEDROCK": "1", "MINE": "1"}}'
    )
    good = elsewhere.read("ocd.toml")
    elsewhere.write("ocd.toml", 'isolation = "separate"\n' + good)
    try:
        assert elsewhere.post("/v1/reload")["ok"]
        reply = launch(elsewhere).json()
    finally:
        elsewhere.write("ocd.toml", good)
        elsewhere.post("/v1/reload")
    folder = elsewhere.prefix / ".openClaude"
    assert reply["set"]["CLAUDE_CONFIG_DIR"] == str(folder)
    assert (folder / "CLAUDE.md").read_text() == "mine" and (folder / "agents").is_symlink()
    assert not (folder / ".credentials.json").exists()
    assert json.loads((folder / "settings.json").read_text()) == {"model": "opus", "env": {"MINE": "1"}}
