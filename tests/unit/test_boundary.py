"""The boundary in front of LiteLLM: what goes through, what is refused, and what is said about it."""

import asyncio
import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

KEY = "sk-" + "5" * 64
CANARY = "sk-ant-oat01-CANARY-of-the-boundary-tests"
PLAN = ("authorization", f"Bearer {CANARY}")
OURS = ("x-litellm-api-key", f"Bearer {KEY}")
HOP = ("authorization", f"Bearer {KEY}")
HOST = ("host", "127.0.0.1:4000")
HELLO = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def load() -> ModuleType:
    """By path, as the guest loads it."""
    path = Path(__file__).parents[2] / "ocd" / "guest" / "layers" / "boundary.py"
    spec = importlib.util.spec_from_file_location("_boundary_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


boundary = load()


class Call:
    """One request through the boundary into an app that echoes; what was answered, passed on and reported."""

    def __init__(
        self,
        role: str = "main",
        method: str = "POST",
        path: str = "/v1/messages",
        query: bytes = b"",
        headers: list[tuple[str, str]] | None = None,
        body: Any = None,
        pieces: int = 1,
        kind: str = "http",
        private: bool = False,
        gone: bool = False,
        **policy: Any,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.passed = False
        self.received = b""
        self.after: str = ""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = [HOST, OURS] if headers is None else headers
        if raw and not any(name.lower() in ("content-length", "transfer-encoding") for name, _value in given):
            given = [*given, ("content-length", str(len(raw)))]
        size = max(1, -(-len(raw) // pieces))
        parts = [raw[at : at + size] for at in range(0, len(raw), size)] or [b""]
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
            for number, part in enumerate(parts)
        ]
        if gone:
            messages = [*messages[:-1], {"type": "http.disconnect"}]
        self.scope: dict[str, Any] = {
            "type": kind,
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
            "server": ("/run/guest.sock", None) if private else ("127.0.0.1", 4000),
            "client": None if private else ("127.0.0.1", 50000),
        }
        messages.reverse()

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            self.passed = True
            if kind == "http":
                more = True
                while more:
                    message = await receive()
                    self.received += message.get("body", b"")
                    more = message.get("more_body", False)
                self.after = (await receive())["type"]
                await send({"type": "http.response.start", "status": 200, "headers": []})

        wrapped = boundary.wrap(app, {"role": role, "key": KEY, **policy}, self.reports.append)
        asyncio.run(wrapped(self.scope, receive, send))
        if self.passed and not gone and kind == "http" and (method, path) not in boundary.OPEN:
            assert self.received == raw, "what goes through goes through unchanged"

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def error(self) -> dict[str, Any]:
        value = json.loads(self.sent[1]["body"])
        assert value["type"] == "error"
        return dict(value["error"])


# ---- main


def test_claude_codes_request_goes_through() -> None:
    call = Call(headers=[HOST, PLAN, OURS, ("anthropic-beta", "x")], query=b"beta=true", body=HELLO, pieces=5)
    assert call.passed and call.status == 200 and call.after == "http.disconnect" and call.reports == []


@pytest.mark.parametrize(
    "headers",
    [
        [("x-litellm-api-key", KEY)],
        [("X-LiteLLM-API-Key", f"bearer {KEY}")],
        [("authorization", f"Bearer {KEY}")],
        [("x-litellm-api-key", f"Bearer {KEY}"), ("authorization", f"Bearer {CANARY}")],
        [("x-litellm-api-key", f"Bearer {KEY}"), ("x-api-key", "sk-ant-api03-x")],
    ],
)
def test_forms_of_our_key(headers: list[tuple[str, str]]) -> None:
    assert Call(headers=[HOST, *headers], body=HELLO).passed


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [PLAN],
        [("x-litellm-api-key", "")],
        [("x-litellm-api-key", f"Bearer {KEY[:-1]}")],
        [("x-litellm-api-key", f"Bearer {KEY}0")],
        [("x-litellm-api-key", f"Bearer {KEY.upper()}")],
        [("x-litellm-api-key", "wrong"), HOP],
        [OURS, ("x-litellm-api-key", "wrong")],
        [HOP, PLAN],
        [("x-api-key", KEY)],
        [("x-litellm-api-key", "\xff\xfe")],
    ],
)
def test_without_our_key_it_is_424_and_says_what_to_do(headers: list[tuple[str, str]]) -> None:
    """A 401 would make Claude Code renew the plan's login, a 403 ask for one: neither is what is wrong (A16)."""
    assert Call(path="/v1/models", headers=[HOST, *headers], body=HELLO).status == 403
    call = Call(headers=[HOST, *headers], body=HELLO)
    assert not call.passed and call.status == 424
    assert call.error["type"] == "permission_error"
    assert call.error["message"].startswith("ocd: ") and "openclaude" in call.error["message"]
    assert call.reports[0]["kind"] == "request-refused" and call.reports[0]["count"] == 1
    assert KEY not in json.dumps([call.reports, call.error]) and CANARY not in json.dumps(
        [call.reports, call.error]
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [("HEAD", "/"), ("HEAD", "/api/hello"), ("GET", "/health/liveliness"), ("GET", "/health/readiness")],
)
def test_greeting_and_liveness_are_open(method: str, path: str) -> None:
    assert Call(method=method, path=path, headers=[HOST]).passed


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("POST", "/health/liveliness"), ("GET", "/health"), ("GET", "/v1/models")],
)
def test_the_rest_is_not_open(method: str, path: str) -> None:
    assert Call(method=method, path=path, headers=[HOST]).status == 403


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:4000", "localhost", "LOCALHOST:4000", "[::1]", "[::1]:4001", "localhost:"],
)
def test_loopback_hosts(host: str) -> None:
    assert Call(headers=[("host", host), OURS], body=HELLO).passed


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:4000",
        "0.0.0.0:4000",
        "",
        "[::1",
        "::1",
        "localhost:x",
    ],
)
def test_foreign_hosts(host: str) -> None:
    assert Call(headers=[("host", host), OURS], body=HELLO).status == 403
    assert Call(headers=[HOST, ("Host", host), OURS], body=HELLO).status == 403
    assert Call(method="GET", path="/health/liveliness", headers=[("host", host)]).status == 403


def test_a_host_that_the_policy_names() -> None:
    assert Call(headers=[("host", "Box.Example:4000"), OURS], body=HELLO, hosts=["box.example"]).passed


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:4000", ""])
def test_browsers_are_refused(origin: str) -> None:
    call = Call(headers=[HOST, OURS, ("Origin", origin)], body=HELLO)
    assert call.status == 403 and call.reports == [{"kind": "request-refused", "why": "origin", "count": 1}]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/anthropic/v1/messages", "pass-through"),
        ("/OpenAI/v1/models", "pass-through"),
        ("/vertex_ai/x", "pass-through"),
        ("/bedrock/model/x/converse", "pass-through"),
        ("/eu.assemblyai/v2", "pass-through"),
        ("/ui", "admin"),
        ("/ui/", "admin"),
        ("//ui", "admin"),
        ("/key/generate", "admin"),
        ("/model/new", "admin"),
        ("/config/update", "admin"),
        ("/sso/key/generate", "admin"),
        ("/health/test_connection", "admin"),
        ("/v1/messages/../../key/generate", "admin"),
        ("/v1/responses/../key/generate", "admin"),
        ("/v1/responses//key", "admin"),
        ("/something-that-comes-next-year", "admin"),
        ("", "admin"),
    ],
)
def test_closed_routes(path: str, why: str) -> None:
    for role in ("main", "bedrock"):
        call = Call(role=role, path=path, headers=[HOST, HOP], body=HELLO)
        assert call.status == 403 and call.reports[0]["why"] == why
    opened = {"pass_through": why == "pass-through", "admin": why == "admin"}
    assert Call(path=path, body=HELLO, **opened).passed
    other = {"pass_through": why != "pass-through", "admin": why != "admin"}
    assert Call(path=path, body=HELLO, **other).status == 403


@pytest.mark.parametrize(
    "body",
    [
        {"api_key": "x"},
        {"api_base": "http://evil.example"},
        {"base_url": "http://evil.example"},
        {"extra_headers": {"Authorization": "x"}},
        {"headers": {}},
        {"aws_access_key_id": "AKIA"},
        {"aws_bedrock_runtime_endpoint": "http://evil.example"},
        {"anthropic_api_key": "x"},
        {"vertex_credentials": "{}"},
        {"user_config": {"model_list": []}},
        {"extra_body": {"api_key": "x"}},
        {"metadata": {"api_base": "x"}},
        {"model_id": "anthropic.claude-opus-4-20250514-v1:0"},
        {"deployment_id": "arn:aws:bedrock:us-east-1:1:x"},
        {"extra_body": {"provider_specific_header": {"extra_headers": {"x": "y"}}}},
        {"fallbacks": [{"model": "m", "api_base": "http://evil.example"}]},
    ],
)
def test_keys_pushed_in_the_body(body: dict[str, Any]) -> None:
    for role in ("main", "bedrock"):
        call = Call(role=role, headers=[HOST, HOP], body=HELLO | body)
        assert call.status == 400 and call.error["type"] == "invalid_request_error" and not call.passed
        assert "evil" not in call.error["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"api\\u005fkey": "x"}',
        b'{"\\u0061pi_key": "x", "messages": []}',
        b'{"api_key": "x", "api_key": null}',
        b'{"extra_body": {"api_key": 1}, "extra_body": {}}',
        b'  {"messages": [], "api_key" \n: "x"}',
        '{"api_key": "x"}'.encode("utf-16"),
        '{"api_key": "x"}'.encode("utf-16-le"),
        '{"api_key": "x"}'.encode("utf-32"),
        '\ufeff{"api_key": "x"}'.encode(),
        b'{"a": "\xff", "api_key": "x"}',
        b'{"api_key": "x"',
    ],
)
def test_hidden_ways_to_push_a_key(raw: bytes) -> None:
    for kind in ("application/json", "text/plain", "application/x-form-like", ""):
        call = Call(headers=[HOST, OURS, ("content-type", kind)], body=raw)
        if b"form" in kind.encode() and raw.endswith(b'"x"'):
            continue
        assert not call.passed and call.status == 400


def test_forms_are_looked_at() -> None:
    form = ("content-type", "application/x-www-form-urlencoded")
    assert Call(headers=[HOST, OURS, form], body=b"model=x&api%5fkey=y").status == 400
    assert Call(headers=[HOST, OURS, form], body=b"model=x").passed
    parts = b'--b\r\nContent-Disposition: form-data; name="api_base"\r\n\r\nhttp://evil.example\r\n--b--\r\n'
    assert (
        Call(headers=[HOST, OURS, ("content-type", "multipart/form-data; boundary=b")], body=parts).status
        == 400
    )
    for spelled in (b'NAME="custom_llm_provider"', b"name = api_key", b"Name=model_id"):
        other = parts.replace(b'name="api_base"', spelled)
        kind = ("content-type", "multipart/form-data; boundary=b")
        assert Call(headers=[HOST, OURS, kind], body=other).status == 400, spelled
    bad = Call("bedrock", headers=[HOST, HOP, form], body=f"x={quote(CANARY)}".replace("-", "%2D").encode())
    assert bad.status == 403 and bad.reports == [{"kind": "credential-refused", "where": "body"}]


def test_words_in_a_conversation_are_no_pushed_keys() -> None:
    text = 'set "api_key": "x" and "api_base" or headers; \x1b[31mred\x1b[0m sk-ant-oat01-something'
    schema = {"type": "object", "properties": {"headers": {"type": "object"}, "api_key": {"type": "string"}}}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
        "tools": [{"name": "fetch", "input_schema": schema}],
        "metadata": {"user_id": '{"device_id": "x"}'},
    }
    assert Call(body=body).passed
    assert Call("bedrock", headers=[HOST, HOP], body=body).passed


def test_keys_in_the_query() -> None:
    assert Call(query=b"beta=true&api_base=http://evil.example", body=HELLO).status == 400
    assert Call(query=b"api%5Fbase=x", body=HELLO).status == 400
    call = Call(query=f"key={CANARY}".encode(), body=HELLO)
    assert call.status == 400 and call.scope["query_string"] == b"", "the access log reads it there"


def test_body_limit() -> None:
    big = {"messages": ["x" * 5000]}
    assert Call(body=big, body_limit=6000).passed
    for headers in ([HOST, OURS], [HOST, OURS, ("transfer-encoding", "chunked")]):
        call = Call(body=big, body_limit=4000, pieces=3, headers=headers)
        assert call.status == 413 and call.error["type"] == "request_too_large"


def test_compressed_bodies_are_refused() -> None:
    assert Call(headers=[HOST, OURS, ("content-encoding", "gzip")], body=b"\x1f\x8b").status == 415
    assert Call(headers=[HOST, OURS, ("content-encoding", "identity")], body=HELLO).passed


def test_a_client_that_goes_away_in_the_middle() -> None:
    call = Call(body=HELLO, pieces=4, gone=True)
    assert not call.passed and call.sent == []


def test_chunked_body_arrives_whole() -> None:
    call = Call(headers=[HOST, OURS, ("Transfer-Encoding", "chunked")], body=HELLO, pieces=9)
    assert call.passed and json.loads(call.received) == HELLO


@pytest.mark.parametrize("name", sorted(boundary.PUSHED) + [f"{one}x" for one in boundary.PUSHED_STARTS])
def test_every_pushed_name_is_found(name: str) -> None:
    assert Call(body=HELLO | {name: "x"}).status == 400
    assert Call(body=json.dumps(HELLO | {name: "x"}, indent=1).encode()).status == 400


@pytest.mark.parametrize("end", boundary.PUSHED_ENDS)
def test_every_pushed_ending_is_found(end: str) -> None:
    assert Call(body=HELLO | {f"some{end}": "x"}).status == 400


def test_websockets() -> None:
    assert Call(kind="websocket", path="/v1/realtime").passed
    for call in (
        Call(kind="websocket", path="/v1/realtime", headers=[HOST]),
        Call(kind="websocket", path="/openai/v1/realtime"),
        Call("bedrock", kind="websocket", path="/v1/realtime", headers=[HOST, HOP, ("x-a", CANARY)]),
    ):
        assert not call.passed and call.sent[0]["type"] == "websocket.close" and call.sent[0]["code"] == 1008


def test_lifespan_passes_and_unknown_protocols_do_not() -> None:
    assert Call(kind="lifespan").passed
    assert not Call(kind="webtransport").passed


@pytest.mark.parametrize(
    "policy", [{}, {"role": "main"}, {"role": "other", "key": KEY}, {"role": "main", "key": ""}]
)
def test_no_proxy_without_a_policy(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        boundary.wrap(None, policy, print)


def test_reports_of_refusals_are_not_a_flood() -> None:
    reports: list[dict[str, Any]] = []
    layer = boundary.Boundary(None, {"role": "main", "key": KEY}, reports.append)
    for _number in range(50):
        layer.tell(boundary.Refusal(403, "permission_error", "no-key", "x"))
    assert len(reports) == 1


# ---- the private socket


def test_private_socket_needs_no_key_but_keeps_the_credential_rule() -> None:
    assert Call(private=True, headers=[("host", "localhost")], body=HELLO).passed
    assert Call("bedrock", private=True, headers=[("host", "x")], body=HELLO).passed
    assert Call("bedrock", private=True, headers=[("host", "x"), PLAN], body=HELLO).status == 403
    assert Call(private=True, headers=[], path="/key/generate", body=HELLO).status == 403


def test_nothing_a_client_says_makes_it_private() -> None:
    for name in ("x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"):
        assert Call(headers=[HOST, (name, "unix:")], body=HELLO).status == 424


# ---- bedrock


def refused(call: Call, where: str) -> None:
    assert not call.passed and call.status == 403, where
    assert call.reports == [{"kind": "credential-refused", "where": where}]
    assert "openclaude" in call.error["message"]
    said = json.dumps(
        [call.reports, call.error, str(call.scope["path"]), str(call.scope["query_string"])]
    ).lower()
    assert "canary" not in said


def test_the_hop_goes_through_with_the_key_alone() -> None:
    assert Call("bedrock", path="/v1/chat/completions", headers=[HOST, HOP], body=HELLO).passed
    assert Call("bedrock", path="/v1/chat/completions", headers=[HOST], body=HELLO).status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/health/liveliness", "/", "/anthropic/v1/messages", "/ui"]
)
def test_no_route_takes_a_credential(method: str, path: str) -> None:
    for policy in ({}, {"admin": True, "pass_through": True}):
        call = Call("bedrock", method=method, path=path, headers=[HOST, HOP, PLAN], **policy)
        refused(call, "header authorization")


HEADER_NAMES = st.sampled_from(
    ["authorization", "x-api-key", "cookie", "x-anything", "user-agent", "host", "proxy-x"]
)


def cased(draw: st.DrawFn, text: str) -> str:
    flags = draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    return "".join(one.upper() if flag else one for one, flag in zip(text, flags, strict=True))


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """The canary in odd case, percent-encoded here and there, once or twice, with something around it."""
    text = cased(draw, CANARY)
    for _round in range(draw(st.integers(0, 2))):
        picks = draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
        text = "".join(
            f"%{ord(one):02x}" if pick or one == "%" else one for one, pick in zip(text, picks, strict=True)
        )
    around = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%"), max_size=8)
    return draw(around) + text + draw(around)


@pytest.mark.slow
@given(st.data(), spelled(), HEADER_NAMES, st.integers(0, 3))
@settings(deadline=None, max_examples=200)
def test_any_header(data: st.DataObject, value: str, name: str, at: int) -> None:
    headers = [HOST, HOP, ("x-other", "1")]
    headers.insert(at, (data.draw(st.composite(lambda draw: cased(draw, name))()), value))
    refused(Call("bedrock", headers=headers, body=HELLO), f"header {name}")


@pytest.mark.slow
@given(spelled(), st.sampled_from(["key", "x", "api-version", ""]))
@settings(deadline=None, max_examples=200)
def test_any_query(value: str, name: str) -> None:
    refused(Call("bedrock", query=f"a=b&{name}={value}".encode(), headers=[HOST, HOP], body=HELLO), "query")


@given(spelled())
@settings(deadline=None, max_examples=50)
def test_any_path(value: str) -> None:
    refused(Call("bedrock", path=f"/v1/messages/{value}", headers=[HOST, HOP]), "path")


@pytest.mark.slow
@given(st.data(), st.sampled_from(["user", "system", "x", "apikey"]), st.booleans())
@settings(deadline=None, max_examples=200)
def test_any_string_of_the_first_level(data: st.DataObject, name: str, escaped: bool) -> None:
    value = data.draw(st.composite(lambda draw: cased(draw, CANARY))())
    text = json.dumps(HELLO | {name: f"x{value}y"})
    if escaped:
        at = data.draw(st.integers(1, len(CANARY) - 1))
        text = text.replace(value, value[:at] + f"\\u{ord(value[at]):04x}" + value[at + 1 :])
    pieces = data.draw(st.integers(1, 40))
    refused(Call("bedrock", headers=[HOST, HOP], body=text.encode(), pieces=pieces), f"body {name}")


def test_other_places_of_the_body() -> None:
    twice = f'{{"user": "{CANARY}", "user": "x"}}'.encode()
    refused(Call("bedrock", headers=[HOST, HOP], body=twice), "body user")
    nested = HELLO | {"metadata": {"user_id": CANARY}}
    refused(Call("bedrock", headers=[HOST, HOP], body=nested), "body metadata.user_id")
    refused(Call("bedrock", headers=[HOST, HOP], body=f'{{"broken": "{CANARY}"'.encode()), "body")
    refused(Call("bedrock", headers=[HOST, HOP], body=HELLO | {CANARY: 1}), "body (name)")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=10), JSON, max_size=6), st.integers(1, 6))
@settings(deadline=None, max_examples=200)
def test_ordinary_bodies_go_through_both_unchanged(body: dict[str, Any], pieces: int) -> None:
    # Hypothesis knows the constants of the code under test, and likes to use them.
    assume("sk-ant-" not in json.dumps(body).lower())
    assume(not any(name in json.dumps(body) for name in (*boundary.PUSHED, *boundary.PUSHED_STARTS, "_")))
    for role, header in (("main", OURS), ("bedrock", HOP)):
        assert Call(role, headers=[HOST, header], body=body, pieces=pieces).passed


@given(st.binary(max_size=200), st.sampled_from(["application/json", "multipart/form-data", "", "text/x"]))
@settings(deadline=None, max_examples=200)
def test_garbage_never_breaks_it(raw: bytes, kind: str) -> None:
    for role in ("main", "bedrock"):
        call = Call(role, headers=[HOST, HOP, ("content-type", kind)], body=raw)
        assert call.passed or call.status in (400, 403)


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.binary(max_size=60))
@settings(deadline=None, max_examples=200)
def test_only_listed_paths_reach_litellm(path: str, query: bytes) -> None:
    call = Call(path=f"/{path}", query=query, body=HELLO)
    if call.passed:
        below = tuple(one for one in boundary.ROUTES if one.endswith("/") and one != "/")
        assert f"/{path}" in boundary.ROUTES or f"/{path}".startswith(below)


def test_deep_nesting_is_refused_not_a_crash() -> None:
    raw = b'{"api_key": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    assert Call(body=raw).status == 400


def test_standard_library_only() -> None:
    """It runs under LiteLLM's interpreter, where nothing of ours is installed."""
    import ast
    import sys

    tree = ast.parse(Path(boundary.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def cost(length: int) -> tuple[float, float]:
    """Seconds per request: through the boundary, and the app alone; run this file to see them."""
    text = (Path(__file__).read_text(encoding="utf-8") * 40)[:length]
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    headers = [(b"host", b"127.0.0.1:4000"), (b"x-litellm-api-key", f"Bearer {KEY}".encode())]
    headers += [(b"content-length", str(len(raw)).encode()), (b"content-type", b"application/json")]
    headers += [(f"x-{number}".encode(), b"value") for number in range(15)]
    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"beta=true"}
    scope |= {"headers": headers, "server": ("127.0.0.1", 4000), "client": ("127.0.0.1", 1)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()

    async def run(target: Any) -> float:
        began = time.perf_counter()
        for _number in range(2000):
            await target(scope, receive, None)
        return (time.perf_counter() - began) / 2000

    return asyncio.run(run(boundary.wrap(app, {"role": "main", "key": KEY}, print))), asyncio.run(run(app))


if __name__ == "__main__":
    for length in (1_000, 100_000, 1_000_000):
        with_it, without = cost(length)
        print(f"{length:>9} bytes: {1e6 * (with_it - without):8.1f} µs more per request")


@pytest.mark.parametrize("path", ["/health/liveliness", "/api/hello"])
def test_a_body_of_somebody_without_a_key_is_not_read(path: str) -> None:
    """60 MB on each of forty connections would be ours to hold (LiteLLM reads them)."""
    call = Call(method="GET", path=path, headers=[HOST], body=b"x" * 100_000, pieces=10)
    assert call.passed and call.received == b""


def test_only_who_has_shown_the_key_is_known() -> None:
    known: list[Any] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        return None

    async def ask(path: str, *headers: tuple[str, str]) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "client": ("127.0.0.1", 9),
            "server": ("127.0.0.1", 4000),
            "headers": [(name.encode(), value.encode()) for name, value in (HOST, *headers)],
        }

        async def nothing(*_: Any) -> Any:
            return {"type": "http.disconnect"}

        policy = {"role": "main", "key": KEY}
        await boundary.wrap(app, policy, lambda _event: None, known=known.append)(scope, nothing, nothing)

    asyncio.run(ask("/health/liveliness"))
    asyncio.run(ask("/health/liveliness", OURS))
    asyncio.run(ask("/v1/models"))
    asyncio.run(ask("/v1/models", PLAN))
    assert known == []
    asyncio.run(ask("/v1/models", OURS))
    assert known == [("127.0.0.1", 9)]


def test_a_crowd_of_strangers_waits_for_its_refusals_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused at once comes again at once. The first few, and whoever has the key, wait for nothing."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(boundary.asyncio, "sleep", sleep)
    now = [100.0]
    monkeypatch.setattr(boundary.time, "monotonic", lambda: now[0])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    wrapped = boundary.wrap(app, {"role": "main", "key": KEY}, lambda _report: None)

    def ask(*headers: tuple[str, str], path: str = "/v1/messages") -> int:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            **{
                "type": "http",
                "method": "POST",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
            },
            **{"headers": [(name.encode(), value.encode()) for name, value in (HOST, *headers)]},
            **{"server": ("127.0.0.1", 4000), "client": ("127.0.0.1", 50000)},
        }
        asyncio.run(wrapped(scope, receive, send))
        return int(sent[0]["status"])

    for _ in range(20):
        assert ask() == 424
    assert waited == []
    assert ask() == 424 and ask(("origin", "http://evil.example")) == 403 and len(waited) == 2
    assert ask(OURS) == 200 and ask(OURS, path="/config/yaml") == 403 and len(waited) == 2
    now[0] += 0.5
    for _ in range(10):
        assert ask() == 424
    assert len(waited) == 2, "half a second later there is room for half as many"
    assert ask() == 424 and len(waited) == 3
