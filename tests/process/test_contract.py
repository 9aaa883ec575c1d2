"""Bedrock's own ``/v1/messages`` with the real LiteLLM and a Converse that says whatever a test wants."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocd.selftest.streams import check_plain, check_stream
from ocd.stack.abilities import efforts_of
from ocd.stack.models import load_table, site_packages
from tests.helpers.converse import (
    HELLO,
    START,
    Bedrock,
    Reply,
    event,
    in_thread,
    plain,
    stop,
    text,
    thinking,
    tool,
)
from tests.helpers.daemon import ROOT, SLOW, Daemon, eventually, litellm_python

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

Json = dict[str, Any]

MODELS = {
    "qwen": "qwen.qwen3-next-80b-a3b",
    "llama": "us.meta.llama3-3-70b-instruct-v1:0",
    "nova": "us.amazon.nova-pro-v1:0",
    "nova by its ARN": "arn:aws:bedrock:us-west-2::foundation-model/amazon.nova-pro-v1:0",
    "mistral": "mistral.mistral-large-3-675b-instruct",
    "deepseek": "deepseek.v3-v1:0",
    "gpt-oss": "openai.gpt-oss-120b-1:0",
    "fast": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
}


def limit(model: str, python: str = "") -> int:
    """What the model may write, by the table of the LiteLLM that serves; at most what Claude Code asks for."""
    table = load_table(site_packages(python or litellm_python()))
    return min(32000, int(table[MODELS[model].rpartition("/")[2]]["max_output_tokens"]))


BASH = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}
MARK = {"type": "ephemeral", "ttl": "1h"}
#: As Claude Code 2.1.332 sends it, shortened.
REAL: Json = {
    "max_tokens": 32000,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.969;"},
        {"type": "text", "text": "You are an agent.", "cache_control": MARK},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "please do it", "cache_control": MARK}]},
        {"role": "system", "content": [{"type": "text", "text": "# Environment"}]},
    ],
    "tools": [
        BASH,
        {
            "name": "DeferredToolPlaceholder",
            "description": "x",
            "defer_loading": True,
            "input_schema": {"type": "object"},
        },
    ],
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": '{"device_id":"1","session_id":"2"}'},
    "stop_sequences": ["</block>"],
    "temperature": 1,
    "fallbacks": [{"model": "other"}],
    "tags": ["a"],
    "speed": "fast",
    "a_field_of_next_year": True,
}


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Bedrock]:
    with in_thread() as one:
        yield one


def configuration(url: str, more: str = "") -> str:
    routes = {name: f"converse/{model}" for name, model in MODELS.items()} | {
        "invoke": f"invoke/{MODELS['fast']}"
    }
    rows = "".join(
        f"""  - model_name: {name}
    litellm_params:
      model: bedrock/{model}
      aws_region_name: us-west-2
      aws_access_key_id: AKIAIOSFODNN7EXAMPLE
      aws_secret_access_key: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
      aws_bedrock_runtime_endpoint: "{url}"
"""
        for name, model in routes.items()
    )
    return (
        f"model_list:\n{rows}litellm_settings: {{drop_params: true{more}}}\n"
        "router_settings: {num_retries: 0, disable_cooldowns: true}\n"
        "general_settings: {master_key: os.environ/OCD_BEDROCK_KEY}\n"
    )


SETTINGS = "[proxies.main]\nenabled = false\n[proxies.bedrock]\nspare = false"


@pytest.fixture(scope="module")
def daemon(bedrock: Bedrock) -> Iterator[Daemon]:
    with Daemon(settings=SETTINGS) as one:
        one.write("litellm-bedrock.yaml", configuration(bedrock.url))
        one.start(wait=False)
        ready(one)
        # The first request waits for LiteLLM's imports: on a busy machine long enough for a ping.
        ask(one)
        yield one


def ready(daemon: Daemon) -> None:
    eventually(lambda: daemon.proxy("bedrock")["state"] == "ready", 90, "bedrock ready")


def request(daemon: Daemon, path: str = "/v1/messages", **body: Any) -> httpx.Request:
    body = {"max_tokens": 64, "messages": [{"role": "user", "content": "hi"}], **body}
    headers = {
        "authorization": f"Bearer {daemon.keys()['bedrock']}",
        "anthropic-beta": "interleaved-thinking-2025-05-14",
    }
    return httpx.Request("POST", f"{daemon.url('bedrock')}{path}?beta=true", json=body, headers=headers)


def ask(daemon: Daemon, model: str = "qwen", path: str = "/v1/messages", **body: Any) -> httpx.Response:
    with httpx.Client(timeout=60 * SLOW, trust_env=False) as client:
        return client.send(request(daemon, path, model=model, **body))


def events(answer: httpx.Response) -> list[Json]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def error(answer: httpx.Response) -> Json:
    return dict(answer.json()["error"] if answer.status_code != 200 else events(answer)[-1]["error"])


@pytest.mark.parametrize("model", MODELS)
def test_the_real_clients_request_reaches_every_family_in_a_form_that_it_takes(
    daemon: Daemon, bedrock: Bedrock, model: str
) -> None:
    call = tool("Bash", '{"command":', '"ls"}', index=1)
    whole = {"toolUse": {"toolUseId": "t", "name": "Bash", "input": {"command": "ls"}}}
    bedrock.say(
        START, *text("Ok."), *call, *stop("tool_use"), plain=plain({"text": "Ok."}, whole, reason="tool_use")
    )
    streamed = ask(daemon, model, stream=True, **REAL)
    assert check_stream(streamed.text) == (["text", "tool_use"], []), streamed.text
    assert check_plain(ask(daemon, model, **REAL).json()) == (["text", "tool_use"], [])
    for seen in bedrock.calls:
        body = seen.body
        assert seen.model == MODELS[model]
        assert body["inferenceConfig"]["maxTokens"] == limit(model)
        assert [one["toolSpec"]["name"] for one in body["toolConfig"]["tools"] if "toolSpec" in one] == [
            "Bash"
        ]
        schema = body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
        assert schema["properties"] == BASH["input_schema"]["properties"]  # type: ignore[index]
        stops = ("llama", "nova", "nova by its ARN", "mistral", "fast")
        assert ("stopSequences" in body["inferenceConfig"]) == (model in stops)
        assert "Environment" in json.dumps(body["messages"]) and "billing-header" not in json.dumps(body)
        extra = body.get("additionalModelRequestFields", {})
        wanted = {"fast": {"thinking"}, "gpt-oss": {"reasoning_effort"}}
        if "deepseek" in efforts_of(site_packages(litellm_python())):
            wanted["deepseek"] = {"reasoning_effort"}
        assert set(extra) == wanted.get(model, set()), extra
        cached = "cachePoint" in json.dumps(body["system"]) and "cachePoint" in json.dumps(body["messages"])
        assert cached == (model in ("fast", "nova by its ARN")), body
        assert "cachePoint" not in json.dumps(body["toolConfig"]) or model == "fast"


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        *(
            (same, same)
            for same in ("end_turn", "max_tokens", "stop_sequence", "model_context_window_exceeded")
        ),
        ("guardrail_intervened", "refusal"),
        ("content_filtered", "refusal"),
        ("malformed_model_output", "error"),
        ("malformed_tool_use", "error"),
    ],
)
def test_every_stop_reason(daemon: Daemon, bedrock: Bedrock, reason: str, ours: str) -> None:
    bedrock.say(START, *text("Ok."), *stop(reason), plain=plain({"text": "Ok."}, reason=reason))
    streamed, whole = ask(daemon, stream=True), ask(daemon)
    if ours == "error":
        assert error(streamed)["type"] == error(whole)["type"] == "api_error"
        assert "message_stop" not in streamed.text and whole.status_code == 502
        return
    (delta,) = [one for one in events(streamed) if one["type"] == "message_delta"]
    assert delta["delta"]["stop_reason"] == whole.json()["stop_reason"] == ours


#: ConverseStream's published exceptions → Anthropic's types
EXCEPTIONS = {
    "internalServerException": "api_error",
    "modelStreamErrorException": "api_error",
    "validationException": "invalid_request_error",
    "throttlingException": "rate_limit_error",
    "serviceUnavailableException": "overloaded_error",
}


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_exception_at_each_place_of_a_stream(daemon: Daemon, bedrock: Bedrock, kind: str) -> None:
    steps = [START, *text("Let me ", "see."), *tool("Bash", '{"command":', '"ls"}', index=1)]
    for place in range(len(steps) + 1):
        bedrock.say(*steps[:place], ("exception", kind, "Because."))
        answer = ask(daemon, stream=True, tools=[BASH])
        found = error(answer)
        assert found["type"] == EXCEPTIONS[kind] and "Because." in found["message"], answer.text
        assert "message_stop" not in answer.text and "litellm" not in found["message"].lower()
        assert (answer.status_code == 200) == (place > 0)


ERRORS = [
    (
        400,
        "ValidationException",
        "Input is too long for requested model.",
        400,
        "capability_rejected: prompt_too_long",
    ),
    (400, "ValidationException", "Malformed input request.", 400, "Malformed"),
    (
        403,
        "AccessDeniedException",
        "You don't have access to the model with the specified model ID.",
        424,
        "occtl models",
    ),
    (
        403,
        "ExpiredTokenException",
        "The security token included in the request is expired",
        424,
        "occtl aws login",
    ),
    (403, "UnrecognizedClientException", "The security token is invalid.", 424, "occtl aws status"),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model.", 424, "occtl models"),
    (408, "ModelTimeoutException", "Took too long to process.", 504, "too long"),
    (424, "ModelErrorException", "Failed while processing.", 502, "Failed"),
    (429, "ThrottlingException", "Too many requests.", 429, "Too many"),
    (429, "ModelNotReadyException", "Not ready.", 529, "Not ready"),
    (500, "InternalServerException", "Internal.", 500, "Internal"),
    (503, "ServiceUnavailableException", "Not available.", 529, "Not available"),
    (307, "", "Go elsewhere.", 502, ""),
]


@pytest.mark.parametrize(("status", "kind", "message", "ours", "word"), ERRORS, ids=lambda one: str(one)[:20])
def test_awss_errors(
    daemon: Daemon, bedrock: Bedrock, status: int, kind: str, message: str, ours: int, word: str
) -> None:
    bedrock.say(status=status, kind=kind, message=message)
    for stream in (True, False):
        answer = ask(daemon, stream=stream)
        assert answer.status_code == ours, answer.text
        assert word in error(answer)["message"] and "litellm" not in answer.text.lower()
        assert answer.json()["type"] == "error" and answer.headers["request-id"] == "req-1"
        assert ("retry-after" in answer.headers) == (ours in (429, 529))


def test_what_litellm_loses_or_mixes_is_whole(daemon: Daemon, bedrock: Bedrock) -> None:
    one = tool("Bash", '{"command":', '"one"}', index=1, identity="t1")
    two = tool("Read", '{"n":', "123456789012345678901234567890}", index=2, identity="t2")
    mixed = [one[0], two[0], one[1], two[1], two[2], one[2], two[3], one[3]]
    bedrock.say(START, *thinking("Let me ", "see.", signature="c2ln"), *mixed, *stop("tool_use"))
    answer = ask(daemon, "fast", stream=True, tools=[BASH, {**BASH, "name": "Read"}])
    assert check_stream(answer.text) == (["thinking", "tool_use", "tool_use"], []), answer.text
    said: list[str] = []
    for found in events(answer):
        if found["type"] == "content_block_start":
            said.append("")
        elif found["type"] == "content_block_delta":
            delta = found["delta"]
            said[-1] += delta.get("thinking") or delta.get("partial_json") or delta.get("signature") or ""
    assert said == ["Let me see.c2ln", '{"command":"one"}', '{"n":123456789012345678901234567890}']


@pytest.mark.parametrize(
    "steps",
    [
        [START, *text("Ok.")],
        [START, event("contentBlockDelta", 0, delta={"text": "Ok"})],
        [START, event("contentBlockDelta", 0, delta={"text": "Ok"}), 0.2, "cut"],
        [START, *tool("Bash", '{"command":'), *stop("tool_use")],
        [START, event("contentBlockDelta", 0, delta={"text": "Ok"}), *stop()],
    ],
    ids=["no stop reason", "inside a block", "reset", "half a tool's input", "a block left open"],
)
def test_an_answer_that_ends_early_is_an_error(daemon: Daemon, bedrock: Bedrock, steps: list[Any]) -> None:
    bedrock.say(*steps)
    answer = ask(daemon, stream=True, tools=[BASH])
    assert error(answer)["type"] == "api_error", answer.text
    assert "message_stop" not in answer.text and "end_turn" not in answer.text


def chunks(*events: Json) -> list[Any]:
    """InvokeModel's stream of a Claude: Messages events in base64."""
    return [
        ("event", "chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode()}) for one in events
    ]


def test_a_claude_behind_invoke_is_held_to_the_same(daemon: Daemon, bedrock: Bedrock) -> None:
    """LiteLLM passes Messages on there; what comes back is not Converse's, and is told from LiteLLM's stream."""
    said = [
        {"type": "message_start", "message": {"id": "m", "role": "assistant", "usage": {"input_tokens": 9}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Ok."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    bedrock.say(*chunks(*said))
    answer = ask(daemon, "invoke", stream=True, **REAL)
    assert check_stream(answer.text) == (["text"], []), answer.text
    assert bedrock.calls[0].path.endswith("/invoke-with-response-stream")
    bedrock.say(*chunks(*said[:4]))
    early = ask(daemon, "invoke", stream=True)
    assert error(early)["type"] == "api_error", early.text
    assert not {"message_delta", "message_stop"} & {one["type"] for one in events(early)}
    bedrock.say(
        status=403,
        kind="ExpiredTokenException",
        message="The security token included in the request is expired",
    )
    assert ask(daemon, "invoke", stream=True).status_code == 424


def test_server_tools_unknown_groups_safeguards_and_counts(daemon: Daemon, bedrock: Bedrock) -> None:
    bedrock.say(*HELLO)
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    answer = ask(daemon, stream=True, tools=[search])
    assert answer.status_code == 400 and "server_tool:web_search_20250305" in error(answer)["message"]
    assert answer.headers["x-should-retry"] == "false"
    answer = ask(daemon, "nope")
    assert answer.status_code == 404 and error(answer)["type"] == "not_found_error"
    answer = ask(daemon, safeguards=[{}])
    assert answer.status_code == 400 and "safeguards" in error(answer)["message"]
    assert not bedrock.calls, "nothing was asked of Bedrock"
    words = [{"role": "user", "content": "word " * 4000}]
    for model in ("qwen", "fast"):
        answer = ask(daemon, model, "/v1/messages/count_tokens", messages=words)
        assert 3000 < answer.json()["input_tokens"] < 6000, answer.text
        assert answer.headers["x-token-count"] == "estimate"


def test_a_search_for_tools_reaches_the_model_with_what_it_found(daemon: Daemon, bedrock: Bedrock) -> None:
    """FINDINGS A4: the placeholder reached Bedrock, and the search's result arrived as an empty list."""
    found = [{"type": "tool_reference", "tool_name": "mcp__jira__create"}]
    search = {"name": "ToolSearch", "description": "Finds tools.", "input_schema": {"type": "object"}}
    hidden = {
        "name": "mcp__jira__create",
        "description": "x",
        "input_schema": {"type": "object"},
        "defer_loading": True,
    }
    other = {**hidden, "name": "mcp__jira__delete"}
    placeholder = {**hidden, "name": "DeferredToolPlaceholder"}
    bedrock.say(*HELLO)
    answer = ask(
        daemon,
        "qwen",
        stream=True,
        tools=[search, placeholder, hidden, other],
        messages=[
            {"role": "user", "content": "make a ticket"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": found}],
            },
        ],
    )
    assert check_stream(answer.text) == (["text"], [])
    body = bedrock.calls[0].body
    assert [one["toolSpec"]["name"] for one in body["toolConfig"]["tools"]] == [
        "ToolSearch",
        "mcp__jira__create",
    ]
    result = next(
        block["toolResult"] for turn in body["messages"] for block in turn["content"] if "toolResult" in block
    )
    assert "mcp__jira__create" in json.dumps(result["content"])


def test_structured_output_of_every_family(daemon: Daemon, bedrock: Bedrock) -> None:
    """Models without it are made to call a tool of LiteLLM's, whose input is the answer."""
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    form = {"format": {"type": "json_schema", "schema": schema}}
    for model in MODELS:
        bedrock.say(*HELLO)
        ask(daemon, model, stream=True, output_config=form)
        tools = bedrock.calls[0].body.get("toolConfig", {}).get("tools", [])
        names = [one["toolSpec"]["name"] for one in tools]
        steps, whole = [START, *text('{"title":"x"}'), *stop()], plain({"text": '{"title":"x"}'})
        if names:
            call = {"toolUse": {"toolUseId": "t", "name": names[0], "input": {"title": "x"}}}
            steps = [START, *tool(names[0], '{"title":"x"}'), *stop("tool_use")]
            whole = plain(call, reason="tool_use")
        bedrock.say(*steps, plain=whole)
        answer = ask(daemon, model, stream=True, output_config=form)
        assert check_stream(answer.text) == (["text"], []), (model, answer.text)
        said = "".join(
            one["delta"].get("text", "") for one in events(answer) if one["type"] == "content_block_delta"
        )
        assert json.loads(said) == {"title": "x"}


def test_silence_is_filled_with_pings(daemon: Daemon, bedrock: Bedrock) -> None:
    """Claude Code shows a banner after 20 s without a byte and gives up after 300. Both at once: it takes time."""
    bedrock.say(START, 11, *text("Ok."), *stop())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, daemon, stream=True)
        eventually(lambda: bedrock.calls, what="the first request at Bedrock")
        bedrock.reply = Reply(HELLO, first=11)
        second = pool.submit(ask, daemon, stream=True)
    for answer, begin in ((first, ["message_start", "ping"]), (second, ["ping", "message_start"])):
        kinds = [one["type"] for one in events(answer.result())]
        assert kinds[:2] == begin and kinds[-1] == "message_stop"


@pytest.mark.parametrize("moment", ["before the first byte", "in the stream", "in silence", "plain"])
def test_bedrocks_request_is_cancelled_when_the_client_goes(
    daemon: Daemon, bedrock: Bedrock, moment: str
) -> None:
    many = [event("contentBlockDelta", 0, delta={"text": "x"}), 0.02] * 1000
    if moment == "in the stream":
        bedrock.say(START, *many)
    elif moment == "in silence":
        bedrock.say(START, *text("x"), 60)
    else:
        bedrock.say(*HELLO, first=60)
    with httpx.Client(
        timeout=1.0 if moment in ("plain", "before the first byte") else 60, trust_env=False
    ) as client:
        asked = request(daemon, model="qwen", stream=moment != "plain")
        if moment in ("in the stream", "in silence"):
            answer = client.send(asked, stream=True)
            assert next(answer.iter_lines())
            answer.close()
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.send(asked)
    went = time.monotonic()
    (call,) = bedrock.calls
    eventually(lambda: call.gone is not None, 10, "Bedrock's connection closed")
    assert call.gone is not None and call.gone - went <= 0.1 * SLOW, moment


HOOK = """\
from litellm.integrations.custom_logger import CustomLogger


class Mask(CustomLogger):
    async def async_post_call_streaming_iterator_hook(self, user_api_key_dict, response, request_data):
        async for piece in response:
            yield piece.replace(b"secret", b"******") if isinstance(piece, bytes) else piece


mask = Mask()
"""


@pytest.mark.parametrize("version", ["pinned, with a callback", "1.99.4"])
def test_another_litellm_and_a_file_that_wants_to_see_answers(bedrock: Bedrock, version: str) -> None:
    python = ""
    if version == "1.99.4":
        python = str(ROOT / ".venv-litellm-1.99.4" / "bin" / "python")
        if not Path(python).exists():
            pytest.skip("no LiteLLM 1.99.4: make .venv-litellm-1.99.4/.stamp")
    with Daemon(settings=SETTINGS, python=python) as daemon:
        more = "" if python else ", callbacks: [hooks.mask]"
        daemon.write("litellm-bedrock.yaml", configuration(bedrock.url, more))
        daemon.write("hooks.py", HOOK)
        daemon.start(wait=False)
        ready(daemon)
        for model in ("qwen", "fast", "nova"):
            bedrock.say(
                START, *text("a secret."), *tool("Bash", '{"command":', '"ls"}', index=1), *stop("tool_use")
            )
            answer = ask(daemon, model, stream=True, **REAL)
            assert check_stream(answer.text) == (["text", "tool_use"], []), answer.text
            assert ("secret" in answer.text) == bool(python), "the callback's word is the last"
            body = bedrock.calls[0].body
            assert body["inferenceConfig"]["maxTokens"] == limit(model, python)
        bedrock.say(START, *text("Ok."))
        early = ask(daemon, stream=True)
        assert error(early)["type"] == "api_error" and "message_stop" not in early.text, early.text
        bedrock.say(START, *text("Ok."), *stop("content_filtered"))
        assert '"refusal"' in ask(daemon, stream=True).text
        bedrock.say(status=429, kind="ThrottlingException", message="Too many requests.")
        assert ask(daemon, stream=True).status_code == 429
