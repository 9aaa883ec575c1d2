"""The boundary in front of the real LiteLLM, in both proxies of a real daemon, with stand-in upstreams."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ocd.selftest import streams
from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import SLOW, Daemon, eventually, litellm_python
from tests.unit.test_boundary import boundary

SECRET = "canary-7e1f0c55d8"
TOKEN = f"sk-ant-oat01-{SECRET}"
TOOL = {"name": "read_value", "input_schema": {"type": "object", "properties": {"value": {"type": "string"}}}}
HELLO: dict[str, Any] = {
    "max_tokens": 64,
    "system": [{"type": "text", "text": "You are a test."}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "please use the tool"}]}],
    "tools": [TOOL],
    "metadata": {"user_id": "user_x"},
}


@pytest.fixture(autouse=True)
def watched(upstreams: Upstreams) -> None:
    upstreams.reset()
    upstreams.watch("canary", SECRET)


def post(
    daemon: Daemon, path: str = "/v1/messages?beta=true", proxy: str = "main", **more: Any
) -> httpx.Response:
    headers = more.pop("headers", None) or daemon.headers(TOKEN)
    return httpx.post(daemon.url(proxy) + path, headers=headers, timeout=60 * SLOW, trust_env=False, **more)


def places(upstreams: Upstreams) -> dict[str, dict[str, int]]:
    return dict(upstreams.summary()["canaries"]["canary"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", ["claude-opus-9-9", "qwen-3-coder"])
@pytest.mark.parametrize("failure", ["", "401", "429", "529", "before", "during", "error"])
def test_the_login_reaches_anthropic_alone(
    daemon: Daemon, upstreams: Upstreams, model: str, streaming: bool, failure: str
) -> None:
    if failure:
        how = Behaviour(status=int(failure)) if failure.isdigit() else Behaviour(drop=failure)
        upstreams.behave(how)
    try:
        answer = post(daemon, json=HELLO | {"model": model, "stream": streaming})
    except httpx.TransportError:
        assert failure in ("before", "during")
        answer = None
    seen = upstreams.seen()
    where = places(upstreams)
    assert where["bedrock"] == {}
    if model.startswith("claude"):
        assert {one.upstream for one in seen} == {"anthropic"}
        assert where["anthropic"] == {"header authorization": len(seen)}
        assert {one.credential for one in seen} == {"plan token"}
    else:
        assert {one.upstream for one in seen} == {"bedrock"}
        assert where["anthropic"] == {}
        assert {one.credential for one in seen} == {"AWS signature"}
    for one in seen:
        for key in daemon.keys().values():
            assert one.where(key) == [], "our keys stay inside"
    if not failure:
        assert answer is not None and answer.status_code == 200, answer
        blocks, wrong = streams.check_stream(answer.text) if streaming else streams.check_plain(answer.json())
        assert wrong == [] and blocks == ["text", "tool_use"]
    elif answer is not None:
        assert answer.status_code >= 400 or "error" in answer.text
        assert SECRET not in answer.text


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/anthropic/v1/messages"]
)
@pytest.mark.parametrize("place", ["authorization", "x-api-key", "x-Other", "query", "body"])
def test_the_bedrock_proxy_refuses_a_login_anywhere(
    daemon: Daemon, upstreams: Upstreams, path: str, place: str
) -> None:
    key = daemon.keys()["bedrock"]
    headers = {"authorization": f"Bearer {key}"}
    body = HELLO | {"model": "qwen-3-coder"}
    before = len([one for one in daemon.events() if one["kind"] == "credential-refused"])
    if place == "query":
        path += f"?key={TOKEN.replace('-', '%2D')}"
    elif place == "body":
        body |= {"user": TOKEN}
    elif place == "authorization":
        headers = {"authorization": f"Bearer {TOKEN}", "x-litellm-api-key": f"Bearer {key}"}
    else:
        headers[place] = TOKEN
    answer = post(daemon, path, "bedrock", headers=headers, json=body)
    if place == "body" and path.startswith("/anthropic"):
        assert answer.status_code == 403
    else:
        error = answer.json()["error"]
        assert answer.status_code == 403 and "Anthropic credential" in error["message"]
        assert SECRET not in answer.text
        eventually(
            lambda: len([one for one in daemon.events() if one["kind"] == "credential-refused"]) > before,
            what="an event says so",
        )
    assert upstreams.seen() == []
    assert SECRET not in json.dumps(daemon.events())


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"x-litellm-api-key": "Bearer sk-wrong", "authorization": f"Bearer {TOKEN}"},
        {"x-api-key": TOKEN},
        {"origin": "https://evil.example"},
        {"host": "evil.example"},
    ],
)
def test_main_refuses_before_litellm(daemon: Daemon, upstreams: Upstreams, headers: dict[str, str]) -> None:
    if "origin" in headers or "host" in headers:
        headers = daemon.headers(TOKEN) | headers
    answer = post(daemon, headers=headers, json=HELLO | {"model": "claude-opus-9-9"})
    assert answer.status_code == (403 if "origin" in headers or "host" in headers else 424)
    assert answer.json()["error"]["message"].startswith("ocd: ")
    assert upstreams.seen() == []


@pytest.mark.parametrize(
    "pushed", [{"api_key": TOKEN}, {"api_base": "http://127.0.0.1:9"}, {"extra_headers": {}}]
)
def test_pushed_keys(daemon: Daemon, upstreams: Upstreams, pushed: dict[str, Any]) -> None:
    """What reaches this process's LiteLLM; a request that passes to Anthropic gives nobody here an order."""
    answer = post(daemon, "/v1/chat/completions", json=HELLO | {"model": "claude-opus-9-9"} | pushed)
    assert answer.status_code == 400 and "LiteLLM file" in answer.json()["error"]["message"]
    assert upstreams.seen() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/anthropic/v1/messages"),
        ("GET", "/openai/v1/models"),
        ("GET", "/ui/"),
        ("POST", "/key/generate"),
    ],
)
def test_pass_through_and_admin_are_closed(
    daemon: Daemon, upstreams: Upstreams, method: str, path: str
) -> None:
    for proxy, key in daemon.keys().items():
        answer = httpx.request(
            method,
            daemon.url(proxy) + path,
            headers={"authorization": f"Bearer {key}"},
            json={},
            trust_env=False,
        )
        assert answer.status_code == 403 and "ocd.toml" in answer.json()["error"]["message"]
    assert upstreams.seen() == []


def test_open_without_a_key(daemon: Daemon) -> None:
    for proxy in ("main", "bedrock"):
        url = daemon.url(proxy)
        assert httpx.head(url + "/", trust_env=False).status_code != 403
        greeted = httpx.get(url + "/api/hello", trust_env=False)
        assert proxy == "bedrock" or (greeted.status_code, greeted.json()) == (200, {})
        assert httpx.get(url + "/health/liveliness", trust_env=False).status_code == 200
        assert httpx.get(url + "/health/readiness", trust_env=False).status_code == 200
        assert httpx.get(url + "/health/readiness/details", trust_env=False).status_code == 403


def test_chunked_upload_and_plain_clients(daemon: Daemon, upstreams: Upstreams) -> None:
    raw = json.dumps(HELLO | {"model": "claude-opus-9-9"}).encode()
    pieces = (raw[at : at + 50] for at in range(0, len(raw), 50))
    answer = post(
        daemon, headers=daemon.headers(TOKEN) | {"content-type": "application/json"}, content=pieces
    )
    assert answer.status_code == 200
    key = {"authorization": f"Bearer {daemon.keys()['main']}"}
    assert "qwen-3-coder" in httpx.get(daemon.url() + "/v1/models", headers=key, trust_env=False).text
    body = {"model": "qwen-3-coder", "messages": [{"role": "user", "content": "hi"}]}
    assert post(daemon, "/v1/chat/completions", headers=key, json=body).status_code == 200
    assert places(upstreams)["bedrock"] == {}


def test_the_models_are_listed_as_the_client_asks(daemon: Daemon) -> None:
    """Claude Code's discovery behind a gateway (``?limit=1000``) shows ``display_name``; LiteLLM's list has none."""
    key = {"x-litellm-api-key": f"Bearer {daemon.keys()['main']}"}
    url = daemon.url() + "/v1/models"
    for headers, query in ((key | {"anthropic-version": "2023-06-01"}, ""), (key, "?limit=1000")):
        answer = httpx.get(url + query, headers=headers, trust_env=False).json()
        shown = {one["id"]: one["display_name"] for one in answer["data"]}
        assert {"claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder"} <= set(shown) and all(shown.values())
        assert answer["has_more"] is False and all(one["type"] == "model" for one in answer["data"])
    assert httpx.get(url, headers=key, trust_env=False).json()["object"] == "list", "OpenAI's form"
    assert httpx.get(url + "?limit=1000", trust_env=False).status_code == 403


def test_a_refused_upload_still_gets_its_answer(daemon: Daemon) -> None:
    """A connection closed with unread bytes would be reset, and the client would see no reason."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=60 * SLOW) as sock:
        size = 8_000_000
        head = f"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
        # All of it first, as simple clients do; then the answer.
        sock.sendall(head.encode() + b"x" * size)
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 424") and b"openclaude" in answer


def test_strangers_cost_their_owner_nothing(daemon: Daemon) -> None:
    """Idle connections, half a request, bodies without a key: no descriptor and no memory of the proxy's for long."""
    pid = daemon.proxy()["pid"]
    before = psutil.Process(pid).memory_info().rss
    half = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-le"
    body = b"GET /health/liveliness HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        strangers = []
        for number in range(1500):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=10))
            with contextlib.suppress(ConnectionError):
                one.sendall((b"", half, body)[number % 3])
            strangers.append(one)
            if number % 300 == 299:
                assert daemon.ask().status_code == 200
        for one in strangers[-30:]:
            with contextlib.suppress(OSError):
                one.settimeout(0.2)
                one.sendall(b"x" * 1_000_000)
        assert daemon.ask().status_code == 200
        # Those who said nothing may wait for 20 s and are looked at each second; the others are 512 at most.
        eventually(lambda: psutil.Process(pid).num_fds() < 700, 40, "the oldest strangers went")
        assert psutil.Process(pid).memory_info().rss - before < 100_000_000
        eventually(lambda: psutil.Process(pid).num_fds() < 150, 60, "the others have no key either")
        assert daemon.ask().status_code == 200
    assert daemon.proxy()["pid"] == pid


def test_the_canary_is_in_no_file_log_or_process(daemon: Daemon) -> None:
    """After everything above: this module's daemon has seen the canary in every place that there is."""
    found = []
    for folder, _folders, names in os.walk(daemon.prefix):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and SECRET.encode() in path.read_bytes():
                found.append(str(path))
    for process in psutil.Process(daemon.keeper).children(recursive=True):
        try:
            texts = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        found += [
            process.name()
            for text in texts
            if SECRET in text or any(k in text for k in daemon.keys().values())
        ]
    assert found == []


def test_the_pinned_litellm_has_no_pass_through_that_we_do_not_know() -> None:
    """A new version's new route is closed all the same, but would be called by the wrong name."""
    code = (
        "import json\nfrom litellm.proxy._types import LiteLLMRoutes as R\n"
        "print(json.dumps(R.mapped_pass_through_routes.value))"
    )
    env = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    output = subprocess.run(
        [litellm_python(), "-c", code], env=env, capture_output=True, check=True, timeout=120 * SLOW
    ).stdout
    routes = json.loads(output.splitlines()[-1])
    assert {route.strip("/").partition("/")[0] for route in routes} <= boundary.PASS_THROUGH
    assert not {route for route in routes if route in boundary.ROUTES}
