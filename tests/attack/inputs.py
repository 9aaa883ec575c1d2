"""Made-up inputs for boundary, pipe, control API and configuration: each a function of one seeded ``Random``.

``look_at_*`` feeds one input in and returns what is wrong with what came of it, as a sentence, or an empty string. A
mistake is repeated by its seed: ``SEED=n make attack``.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from ocd.guest.layers import boundary, headers, model_field, upstream
from ocd.settings.findings import ConfigError
from ocd.settings.load import parse
from ocd.stack.litellm_file import compose

KEY = "sk-" + "5" * 64
HOP = "sk-" + "7" * 64
SECRET = "sk-ant-oat01-CANARY-of-the-generators"
WORDS = (
    *("model", "messages", "role", "content", "api_key", "api_base", "headers", "extra_headers", "metadata"),
    *("extra_body", "model_id", "deployment_id", "aws_secret_access_key", "user", "stream", "tools", "name"),
    *(
        "custom_llm_provider",
        "CUSTOM_LLM_PROVIDER",
        "fallbacks",
        "litellm_params",
        "provider_specific_header",
    ),
)
PIECES = (
    b"\x00",
    b"\xff",
    b"\r\n",
    b"\n",
    b"\\u0061",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"%2e",
    b"\xe2\x80\xa8",
)


def text(dice: random.Random, most: int = 12) -> str:
    kind = dice.randrange(8)
    if kind == 0:
        return dice.choice(WORDS)
    if kind == 1:
        return SECRET[: dice.randrange(5, len(SECRET))]
    if kind == 2:
        return "".join(chr(dice.choice((dice.randrange(0x20), dice.randrange(0x110000)))) for _ in range(4))
    if kind == 3:
        return "../" * dice.randrange(1, 5) + dice.choice(WORDS)
    return "".join(dice.choice("abcxyz-_ .%/?&=01") for _ in range(dice.randrange(most)))


def value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return text(dice)
    if kind == 2:
        return SECRET if dice.randrange(4) == 0 else dice.choice((None, True, False, -1, 1e300, 10**30))
    if kind < 6:
        return dice.choice((KEY[:9], 0, "", "http://127.0.0.1:9/", "claude-opus-9-9"))
    if kind < 8:
        return {(text(dice) or "a"): value(dice, depth + 1) for _ in range(dice.randrange(4))}
    return [value(dice, depth + 1) for _ in range(dice.randrange(4))]


def spoiled(dice: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them changed, taken away, doubled or cut."""
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(data) + 1)
        kind = dice.randrange(5)
        if kind == 0:
            data = data[:place] + dice.choice(PIECES) + data[place:]
        elif kind == 1:
            data = data[:place] + data[place + dice.randrange(1, 9) :]
        elif kind == 2:
            data = data[:place]
        elif kind == 3:
            other = dice.randrange(len(data) + 1)
            data = data[:place] + data[min(place, other) : max(place, other)] + data[place:]
        else:
            data = data[:place] + bytes([dice.randrange(256)]) + data[place + 1 :]
    return data


# ------------------------------------------------------------------------------------------------- boundary


def step(coroutine: Any) -> None:
    """Run what never really waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def look_at_boundary(dice: random.Random) -> str:
    """One request with or without the key, for either proxy."""
    role = dice.choice(("main", "bedrock"))
    key = dice.choice((KEY, KEY, KEY, "", KEY[:-1], SECRET))
    paths = (
        *boundary.ROUTES,
        "/anthropic/v1/messages",
        "/key/generate",
        "/v1/responses/../../key",
        "/" + text(dice),
    )
    path = dice.choice(paths)
    method = dice.choice(("POST", "POST", "GET", "HEAD", "PUT"))
    form = dice.randrange(6) == 0
    asked = {
        "model": "claude-opus-9-9",
        **{(text(dice) or "a"): value(dice) for _ in range(dice.randrange(4))},
    }
    if dice.randrange(3) == 0:
        asked[dice.choice(WORDS)] = value(dice)
    kind, body = (
        b"application/json",
        json.dumps(asked, ensure_ascii=dice.random() < 0.7).encode("utf-8", "surrogatepass"),
    )
    fields: list[str] = []
    if form:
        kind, body, fields = _form(dice)
    else:
        body = spoiled(dice, body)
    host = b"evil.example" if dice.randrange(10) == 0 else dice.choice((b"127.0.0.1:4000", b"localhost"))
    given = [(b"host", host), (b"content-type", kind)]
    if key:
        name = dice.choice((b"x-litellm-api-key", b"Authorization", b"X-LiteLLM-API-Key"))
        given.append((name, dice.choice((b"Bearer ", b"", b"bearer ")) + key.encode()))
    for _ in range(dice.randrange(3)):
        names = (b"x-api-key", b"x-b", b"x-a", b"anthropic-beta", b"x-c", b"x-d", b"origin", b"authorization")
        given.append((dice.choice(names), text(dice).encode("utf-8", "surrogatepass")))
    given.append((b"content-length", str(len(body)).encode()))
    query = text(dice).encode("utf-8", "surrogatepass") if dice.randrange(3) == 0 else b""
    passed: list[bytes] = []
    sent: list[dict[str, Any]] = []
    reports: list[dict[str, Any]] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        passed.append((await receive()).get("body", b""))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        **{"type": "http", "method": method, "path": path, "raw_path": path.encode("utf-8", "surrogatepass")},
        **{
            "query_string": query,
            "headers": given,
            "server": ("127.0.0.1", 4000),
            "client": ("127.0.0.1", 5),
        },
    }
    step(boundary.wrap(app, {"role": role, "key": KEY}, reports.append)(scope, receive, send))
    said = b"".join(one.get("body", b"") for one in sent) + repr(reports).encode()
    if SECRET.encode() in said or KEY.encode() in said:
        return "a secret stands in the answer or in a report"
    if not passed:
        return "" if sent and sent[0]["status"] in (400, 403, 413, 415, 424) else f"no refusal: {sent[:1]}"
    if (method, path) in boundary.OPEN:
        return "" if passed == [b""] else "the body of a request without the key was passed on"
    own = [v for n, v in given if n.lower() == b"x-litellm-api-key"]
    auth = [v for n, v in given if n.lower() == b"authorization"]
    if any(boundary._bare(v) != KEY.encode() for v in own or auth or [b""]):
        return "it passed without the key"
    if any(n == b"origin" for n, _v in given) or b"evil.example" in given[0][1]:
        return "it passed for a web page"
    if passed != [body]:
        return "the body was changed"
    if role == "bedrock":
        around = path.encode("utf-8", "surrogatepass") + query + b" ".join(v for _n, v in given)
        if b"sk-ant-" in around.lower():
            return "a login passed to bedrock beside the body"
    if any(boundary_chooses(name) for name in fields):
        return f"a form chooses among {fields}"
    try:
        top = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(top, dict) and not form:
        for name, one in top.items():
            if boundary_chooses(name):
                return f"the body chooses {name!r}"
            if role == "bedrock" and isinstance(one, str) and "sk-ant-" in one.lower():
                return f"a login passed to bedrock in {name!r}"
    return ""


def boundary_chooses(name: str) -> bool:
    """Whether a field of this name would choose a credential or an address."""
    starts, ends = boundary.PUSHED_STARTS, boundary.PUSHED_ENDS
    return name in boundary.PUSHED or name.startswith(starts) or name.endswith(ends)


def _form(dice: random.Random) -> tuple[bytes, bytes, list[str]]:
    """A form with its type and its fields' names, written in one of the ways that servers understand."""
    fields = [dice.choice(WORDS) for _ in range(dice.randrange(1, 4))]
    if dice.randrange(2):

        def coded(name: str) -> str:
            return "".join(f"%{ord(c):02x}" if dice.randrange(4) == 0 else c for c in name)

        body = "&".join(f"{coded(name)}={dice.choice(('1', 'x', ''))}" for name in fields)
        return b"application/x-www-form-urlencoded", body.encode(), fields
    parts = []
    for name in fields:
        attribute = dice.choice(("name", "NAME", "Name", "name "))
        quoted = dice.choice((f'"{name}"', name))
        space = dice.choice(("", " "))
        parts.append(f"--x\r\nContent-Disposition: form-data; {attribute}={space}{quoted}\r\n\r\n1\r\n")
    return b"multipart/form-data; boundary=x", ("".join(parts) + "--x--\r\n").encode(), fields


# ------------------------------------------------------------------------------------------------------ pipe


class _Transport:
    """An upstream's connection that only notes what is done to it."""

    def __init__(self) -> None:
        self.ended = False

    def write(self, _data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.ended

    def abort(self) -> None:
        self.ended = True


def look_at_pipe(dice: random.Random, loop: asyncio.AbstractEventLoop) -> str:
    """One answer of an upstream in pieces, or one request's body and headers on their way up."""
    return _answer(dice, loop) if dice.random() < 0.6 else _request(dice)


_HEADS = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nyes\r\n0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 429 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n",
)


def _answer(dice: random.Random, loop: asyncio.AbstractEventLoop) -> str:
    raw = spoiled(dice, dice.choice(_HEADS) * dice.choice((1, 1, 2)))
    connection = _connection(loop)
    transport = connection.transport = _Transport()
    connection.begin(b"", b"")
    taken = 0
    while raw and not transport.ended:
        size = dice.randrange(1, len(raw) + 1)
        connection.data_received(raw[:size])
        raw = raw[size:]
    connection.eof_received()
    taken = sum(map(len, connection.pieces))
    if connection.failure is not None and connection.keep:
        return "a broken answer's connection would be used again"
    if connection.keep and transport.ended:
        return "an ended connection would be used again"
    if connection.status and not 200 <= connection.status < 600:
        return f"the status {connection.status} passed"
    if taken > 100_000 or len(connection.rest) > upstream.HEAD_LIMIT + 65536:
        return "more is held than the bounds say"
    for name, one in connection.headers:
        if b"\r" in name + one or b"\n" in name + one or b"\0" in name + one:
            return "a header has a line end"
    return ""


def _connection(loop: asyncio.AbstractEventLoop) -> upstream.Connection:
    async def make() -> upstream.Connection:
        return upstream.Connection()

    return loop.run_until_complete(make())


def _request(dice: random.Random) -> str:
    asked = {
        "model": "claude-opus-9-9",
        **{(text(dice) or "a"): value(dice) for _ in range(dice.randrange(4))},
    }
    body = spoiled(dice, json.dumps(asked, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass"))
    model_field.first(body)
    changed = model_field.replace(body, "other")
    try:
        before = json.loads(body)
    except (ValueError, RecursionError):
        before = None
    if (
        changed is not None
        and isinstance(before, dict)
        and json.loads(changed) != {**before, "model": "other"}
    ):
        return "another model in the body changed more than the model"
    names = (
        b"authorization",
        b"x-api-key",
        b"user-agent",
        b"anthropic-beta",
        b"connection",
        b"x-stainless-a",
        b"x-app",
    )
    given = [
        (dice.choice(names), text(dice).encode("utf-8", "surrogatepass")) for _ in range(dice.randrange(6))
    ]
    given = [(n, v.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")) for n, v in given]
    given.append((dice.choice(names), b"Bearer " + SECRET.encode()))
    lines = headers.to_hop(given, len(body), HOP.encode(), False)
    if b"sk-ant-" in lines.lower():
        return "a login goes to the hop"
    up = headers.up(
        [*given, (b"x-litellm-api-key", KEY.encode()), (b"x-api-key", KEY.encode())], 3, KEY.encode()
    )
    if KEY.encode() in up or HOP.encode() in up:
        return "our key goes up"
    for made in (lines, up):
        if made.count(b"content-length:") != 1 or not made.endswith(b"\r\n"):
            return "the written headers make no sense"
    return ""


# --------------------------------------------------------------------------------------------- configuration

_TOML = (
    'port = 4000\n[proxies.main]\nworkers = 1\n[proxies.main.env]\nA = "b"\n[litellm]\nargs = ["--debug"]\n',
    '[slots]\nopus = "claude-opus-9-9"\n[supervision]\ndrain_timeout = 600\n[boundary]\nadmin = false\n',
    '[external]\nenabled = false\nbase_url = "https://example.org"\n[spill]\nat = 0.9\n[logs]\nlevel = "info"\n',
)
_YAML = (
    "model_list:\n  - model_name: claude-*\n    litellm_params: {model: anthropic/claude-*}\n",
    "litellm_settings: {drop_params: true}\ngeneral_settings: {master_key: os.environ/OCD_MAIN_KEY}\n",
    "a: &x [1, 2]\nb: *x\nmodel_list: [{model_name: a, litellm_params: {model: openai/a, api_base: 'http://x'}}]\n",
)


def look_at_configuration(dice: random.Random) -> str:
    """One ocd.toml or LiteLLM file: it is understood or refused with a sentence, and nothing else happens."""
    if dice.random() < 0.5:
        raw = spoiled(dice, dice.choice(_TOML).encode()).decode("utf-8", "replace")
        try:
            parse(Path("/nowhere/ocd.toml"), raw, {})
        except ConfigError as error:
            return "" if error.sentence() else "a refusal without a sentence"
        return ""
    raw = spoiled(dice, dice.choice(_YAML).encode()).decode("utf-8", "replace")
    try:
        compose(Path("/nowhere/litellm.yaml"), raw)
    except ConfigError as error:
        return "" if error.sentence() else "a refusal without a sentence"
    return ""


# --------------------------------------------------------------------------------------------------- control


def control_request(dice: random.Random) -> bytes:
    """One request to the control API as bytes: well-formed, odd or broken, and never one that ends or changes things
    in earnest."""
    paths = (
        *(
            "/v1/version",
            "/v1/status",
            "/v1/launch",
            "/v1/reload",
            "/v1/proxies/nobody/stop",
            "/v1/proxies/main/wait",
        ),
        *(
            "/v1/proxies/main/nothing",
            "/v1/logs/main",
            "/v1/logs/" + text(dice),
            "/v1/events",
            "/v1/requests",
        ),
        *("/v1/config", "/v1/usage/write", "/metrics", "/" + text(dice)),
    )
    path = dice.choice(paths).encode("utf-8", "surrogatepass").replace(b" ", b"%20").replace(b"\n", b"")
    path = path.replace(b"\r", b"").replace(b"\0", b"")
    query = dice.choice(
        (b"", b"?lines=" + text(dice).encode("utf-8", "replace").replace(b" ", b"+"), b"?lines=1e9")
    )
    query = b"".join(query.split()) or b""
    query += b"&timeout=0" if query else b"?timeout=0"
    body = json.dumps(value(dice), default=str).encode("utf-8", "surrogatepass")
    if path == b"/v1/launch":
        given = {"client_api": 1, "pid": dice.choice((-1, 0, 1, 2**70, "x")), "cwd": text(dice), "wait": 0}
        body = json.dumps({**given, (text(dice) or "a"): value(dice)}).encode("utf-8", "surrogatepass")
    if path == b"/v1/reload":
        body = json.dumps({"dry_run": True, "proxy": "nobody", (text(dice) or "a"): value(dice)}).encode()
    body = spoiled(dice, body)
    method = dice.choice((b"GET", b"POST", b"PUT", b"HEAD"))
    raw = (
        b"%b %b%b HTTP/1.1\r\nhost: ocd\r\ncontent-length: %d\r\n\r\n" % (method, path, query, len(body))
        + body
    )
    return raw if dice.random() < 0.8 else _still_harmless(spoiled(dice, raw))


def _still_harmless(raw: bytes) -> bytes:
    """What was changed at random must not have become an order."""
    for word in (
        b"/v1/shutdown",
        b"/v1/reexec",
        b"main/stop",
        b"main/restart",
        b"bedrock/stop",
        b"bedrock/restart",
    ):
        raw = raw.replace(word, b"/x")
    return raw
