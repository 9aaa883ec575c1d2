"""The stand-in upstreams keep to the published protocols and do what they are told."""

import asyncio
import base64
import json
import struct
import zlib
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocd.selftest import answers, eventstream
from ocd.selftest.upstreams import Behaviour, Upstreams, credential_kind, in_thread

PLAN = {"authorization": "Bearer sk-ant-oat01-canary-of-a-test"}
AWS = {"authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20300101/us-west-2/bedrock/aws4_request"}
HELLO: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
}
TOOL = {"name": "read", "input_schema": {"type": "object"}}


def decode(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """An event stream taken apart, every length and checksum looked at."""
    found = []
    while data:
        total, head = struct.unpack("!II", data[:8])
        assert struct.unpack("!I", data[8:12])[0] == zlib.crc32(data[:8])
        assert struct.unpack("!I", data[total - 4 : total])[0] == zlib.crc32(data[: total - 4])
        rest, headers = data[12 : 12 + head], {}
        while rest:
            size = rest[0]
            name, kind = rest[1 : 1 + size].decode(), rest[1 + size]
            assert kind == 7
            length = struct.unpack("!H", rest[2 + size : 4 + size])[0]
            headers[name] = rest[4 + size : 4 + size + length].decode()
            rest = rest[4 + size + length :]
        found.append((headers, data[12 + head : total - 4]))
        data = data[total:]
    return found


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        first, second = block.split("\n")
        value = json.loads(second.removeprefix("data: "))
        assert first == f"event: {value['type']}"
        found.append(value)
    return found


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=5),
    st.binary(max_size=300),
)
@settings(deadline=None)
def test_event_stream_round_trip(headers: dict[str, str], payload: bytes) -> None:
    assert decode(eventstream.encode(headers, payload) * 2) == [(headers, payload)] * 2


def test_event_stream_known_bytes() -> None:
    # The specification's smallest message: no headers, no payload.
    assert eventstream.encode({}, b"").hex() == "000000100000000005c248eb7d98c8ff"


@pytest.mark.parametrize(
    ("extra", "blocks", "reason"),
    [
        ({}, ["text"], "end_turn"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ["thinking", "text"], "end_turn"),
        ({"tools": [TOOL]}, ["text"], "end_turn"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, ["text", "tool_use"], "tool_use"),
        (
            {
                "tools": [TOOL],
                "thinking": {"type": "adaptive"},
                "tool_choice": {"type": "tool", "name": "read"},
            },
            ["thinking", "text", "tool_use"],
            "tool_use",
        ),
    ],
)
def test_messages_plain_and_streamed(extra: dict[str, Any], blocks: list[str], reason: str) -> None:
    with in_thread() as up, httpx.Client(base_url=up.anthropic, headers=PLAN, trust_env=False) as client:
        plain = client.post("/v1/messages?beta=true", json=HELLO | extra).json()
        assert [one["type"] for one in plain["content"]] == blocks
        assert plain["stop_reason"] == reason and plain["model"] == "claude-x"
        answer = client.post("/v1/messages?beta=true", json=HELLO | extra | {"stream": True})
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.text)
    kinds = [one["type"] for one in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert "ping" in kinds
    assert events[-2]["delta"]["stop_reason"] == reason and events[-2]["usage"]["output_tokens"] > 0
    opened: list[str] = []
    current = None
    for one in events[1:-2]:
        if one["type"] == "content_block_start":
            assert current is None and one["index"] == len(opened)
            current = one["index"]
            opened.append(one["content_block"]["type"])
        elif one["type"] == "content_block_delta":
            assert one["index"] == current
        elif one["type"] == "content_block_stop":
            assert one["index"] == current
            current = None
    assert opened == blocks and current is None
    parts = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    text = "".join(one["text"] for one in parts if one["type"] == "text_delta")
    assert text == next(one["text"] for one in plain["content"] if one["type"] == "text")
    call = "".join(one["partial_json"] for one in parts if one["type"] == "input_json_delta")
    if "tool_use" in blocks:
        assert json.loads(call) == plain["content"][-1]["input"]


def test_converse_plain_and_streamed() -> None:
    body = {"messages": [{"role": "user", "content": [{"text": "please use the tool"}]}]}
    body |= {"toolConfig": {"tools": [{"toolSpec": {"name": "read", "inputSchema": {"json": {}}}}]}}
    arn = "arn%3Aaws%3Abedrock%3Aus-west-2%3A%3Ainference-profile%2Fqwen.q"
    with in_thread() as up, httpx.Client(base_url=up.bedrock, headers=AWS, trust_env=False) as client:
        plain = client.post(f"/model/{arn}/converse", json=body).json()
        streamed = client.post(f"/model/{arn}/converse-stream", json=body)
        assert up.seen("bedrock")[0].model == "arn:aws:bedrock:us-west-2::inference-profile/qwen.q"
    assert plain["stopReason"] == "tool_use"
    assert [next(iter(one)) for one in plain["output"]["message"]["content"]] == ["text", "toolUse"]
    assert streamed.headers["content-type"] == eventstream.CONTENT_TYPE
    events = [(head[":event-type"], json.loads(data)) for head, data in decode(streamed.content)]
    assert [kind for kind, _value in events if kind != "contentBlockDelta"] == [
        "messageStart",
        "contentBlockStop",
        "contentBlockStart",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    deltas = [value["delta"] for kind, value in events if kind == "contentBlockDelta"]
    assert json.loads("".join(one["toolUse"]["input"] for one in deltas if "toolUse" in one)) == {
        "value": "x"
    }


@pytest.mark.parametrize("model", ["anthropic.claude-x", "qwen.qwen3"])
def test_invoke(model: str) -> None:
    with in_thread() as up, httpx.Client(base_url=up.bedrock, headers=AWS, trust_env=False) as client:
        plain = client.post(f"/model/{model}/invoke", json={"messages": []}).json()
        stream = client.post(f"/model/{model}/invoke-with-response-stream", json={"messages": []}).content
    inner = [json.loads(base64.b64decode(json.loads(data)["bytes"])) for _head, data in decode(stream)]
    if model.startswith("anthropic"):
        assert plain["type"] == "message"
        assert inner[0]["type"] == "message_start" and inner[-1]["type"] == "message_stop"
    else:
        assert (
            plain["choices"][0]["message"]["content"] and inner[-1]["choices"][0]["finish_reason"] == "stop"
        )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "authentication_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropic_errors(status: int, kind: str) -> None:
    with in_thread() as up, httpx.Client(base_url=up.anthropic, headers=PLAN, trust_env=False) as client:
        up.behave(Behaviour(status=status, times=1))
        answer = client.post("/v1/messages", json=HELLO)
        assert answer.status_code == status
        assert answer.json()["type"] == "error" and answer.json()["error"]["type"] == kind
        if status == 429:
            assert answer.headers["retry-after"] == "7"
            assert answer.headers["anthropic-ratelimit-unified-status"] == "rejected"
        assert client.post("/v1/messages", json=HELLO).status_code == 200, "times=1 is over"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (403, "", "AccessDeniedException"),
        (403, "ExpiredTokenException", "ExpiredTokenException"),
        (429, "", "ThrottlingException"),
        (400, "", "ValidationException"),
    ],
)
def test_bedrock_errors(status: int, error: str, kind: str) -> None:
    with in_thread() as up, httpx.Client(base_url=up.bedrock, headers=AWS, trust_env=False) as client:
        up.behave(Behaviour(upstream="bedrock", status=status, error=error))
        answer = client.post("/model/q/converse", json={"messages": []})
        assert answer.status_code == status and answer.json()["message"]
        assert answer.headers["x-amzn-errortype"].startswith(kind + ":")


def test_wrong_credentials_and_requests_are_refused() -> None:
    with in_thread() as up, httpx.Client(trust_env=False) as client:
        assert client.post(f"{up.anthropic}/v1/messages", json=HELLO).status_code == 401
        assert client.post(f"{up.anthropic}/v1/v1/messages", json=HELLO, headers=PLAN).status_code == 404
        assert client.post(f"{up.anthropic}/v1/messages", json={}, headers=PLAN).status_code == 400
        assert client.head(up.anthropic + "/").status_code == 200
        count = client.post(f"{up.anthropic}/v1/messages/count_tokens", json=HELLO, headers=PLAN)
        assert count.json() == {"input_tokens": answers.TOKENS}
        assert client.post(f"{up.bedrock}/model/q/converse", json=HELLO, headers=PLAN).status_code == 403
        assert client.post(f"{up.bedrock}/model/q/converse", json=HELLO).status_code == 403


@pytest.mark.parametrize("drop", ["before", "during"])
@pytest.mark.parametrize("side", ["anthropic", "bedrock"])
def test_dropped_connections(drop: str, side: str) -> None:
    async def check() -> None:
        async with Upstreams() as up, httpx.AsyncClient(trust_env=False) as client:
            up.behave(Behaviour(drop=drop, times=1, chunks=6))
            url = (
                f"{up.anthropic}/v1/messages"
                if side == "anthropic"
                else f"{up.bedrock}/model/q/converse-stream"
            )
            headers = PLAN if side == "anthropic" else AWS
            with pytest.raises(httpx.TransportError):
                await client.post(url, json=HELLO | {"stream": True}, headers=headers)
            answer = await client.post(url, json=HELLO | {"stream": True}, headers=headers)
            assert answer.status_code == 200
            assert up.summary()[side]["statuses"] == {"dropped": 1, "200": 1}
            assert up.summary()[side]["open"] == 0

    asyncio.run(check())


def test_error_in_mid_stream() -> None:
    with in_thread() as up, httpx.Client(trust_env=False) as client:
        up.behave(Behaviour(drop="error", chunks=6))
        text = client.post(f"{up.anthropic}/v1/messages", json=HELLO | {"stream": True}, headers=PLAN).text
        last = events_of(text)[-1]
        assert last["type"] == "error" and last["error"]["type"] == "overloaded_error"
        body = client.post(f"{up.bedrock}/model/q/converse-stream", json=HELLO, headers=AWS).content
        assert decode(body)[-1][0][":message-type"] == "exception"


def test_slow_stream_holds_the_connection_until_it_is_over() -> None:
    async def check() -> None:
        async with Upstreams() as up, httpx.AsyncClient(trust_env=False, timeout=30) as client:
            up.behave(Behaviour(chunks=4, delay=0.02))
            url, body = f"{up.anthropic}/v1/messages", HELLO | {"stream": True}
            async with client.stream("POST", url, json=body, headers=PLAN) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                assert up.summary()["anthropic"]["open"] == 1
                rest = [line async for line in lines]
            assert sum("text_delta" in line for line in rest) == 4
            assert up.summary()["anthropic"]["open"] == 0

    asyncio.run(check())


def test_canaries_are_found_where_they_are_and_not_repeated() -> None:
    canary = "sk-ant-oat01-canary-of-a-test"
    with in_thread() as up, httpx.Client(trust_env=False) as client:
        up.watch("plan", canary)
        client.post(f"{up.anthropic}/v1/messages", json=HELLO, headers=PLAN)
        client.post(
            f"{up.bedrock}/model/q/converse?x={canary}", json={"messages": [], "key": canary}, headers=AWS
        )
        summary = up.summary()
        assert summary["canaries"]["plan"] == {
            "anthropic": {"header authorization": 1},
            "bedrock": {"path": 1, "body": 1},
        }
        assert canary not in json.dumps(summary)
        assert [one.credential for one in up.seen()] == ["plan token", "AWS signature"]


def test_control_endpoint() -> None:
    with in_thread() as up, httpx.Client(trust_env=False) as client:
        control = f"{up.bedrock}/_control"
        told = {
            "watch": {"plan": "canary"},
            "behaviours": [{"upstream": "anthropic", "status": 529, "times": 2}],
        }
        assert client.post(control, json=told).json()["canaries"] == {
            "plan": {"anthropic": {}, "bedrock": {}}
        }
        assert client.post(f"{up.anthropic}/v1/messages", json=HELLO, headers=PLAN).status_code == 529
        assert client.get(control).json()["anthropic"]["statuses"] == {"529": 1}
        requests = client.get(control + "/requests").json()["requests"]
        assert json.loads(base64.b64decode(requests[0]["body"])) == HELLO
        assert client.post(control, json={"behaviours": [{"colour": "red"}]}).status_code == 400
        assert client.post(control, content=b"{").status_code == 400
        assert client.post(control, json={"reset": True}).json()["anthropic"]["requests"] == 0
        assert client.post(f"{up.anthropic}/v1/messages", json=HELLO, headers=PLAN).status_code == 200


def test_both_loopback_addresses() -> None:
    with in_thread() as up:
        url = up.anthropic.replace("127.0.0.1", "[::1]")
        try:
            assert httpx.head(url + "/", trust_env=False).status_code == 200
        except httpx.ConnectError:
            pytest.skip("no IPv6 here")


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ([], "none"),
        ([("authorization", "Bearer sk-ant-oat01-x")], "plan token"),
        ([("x-api-key", "sk-ant-api03-x")], "API key"),
        ([("authorization", "Bearer None")], "other"),
        (
            [("authorization", "AWS4-HMAC-SHA256 Credential=x"), ("x-api-key", "sk-ant-oat01-x")],
            "AWS signature + other",
        ),
    ],
)
def test_credential_kind(headers: list[tuple[str, str]], kind: str) -> None:
    assert credential_kind(headers) == kind
