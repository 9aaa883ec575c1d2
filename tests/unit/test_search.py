"""A web search of a slot on AWS: refused there, or asked of a model on the plan, as ``[search]`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocd.guest.layers import server_tools
from ocd.guest.layers.ways import Table
from ocd.settings.schema import Settings
from ocd.stack import pipe
from ocd.stack.litellm_file import load_litellm
from ocd.stack.models import ModelIds
from ocd.stack.rules.ways import RULES
from ocd.stack.stack import Stack
from tests.helpers.pipes import HOP_KEY, KEY, TOKEN, anthropic, chunked, request, run, saying
from tests.unit.test_pipe_fallbacks import GOOD, ask, failing
from tests.unit.test_pipe_routes import BEDROCK, MAIN

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
CUSTOM = {"name": "web_search", "description": "mine", "input_schema": {"type": "object"}}


def body(*tools: Any, model: str = "qwen", **more: Any) -> bytes:
    messages = [{"role": "user", "content": "Perform a web search for the query: x"}]
    return json.dumps(
        {"model": model, "max_tokens": 9, "messages": messages, "tools": tools, **more}
    ).encode()


# ------------------------------------------------------------------------------------- what a request carries


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (body(SEARCH), "web_search_20250305"),
        (body(CUSTOM, SEARCH), "web_search_20250305"),
        (body({"type": "code_execution_20250825", "name": "code_execution"}), "code_execution_20250825"),
        (body({"type": "web_fetch_20250910", "name": "web_fetch"}), "web_fetch_20250910"),
        (body({"type": "mcp_toolset", "mcp_server_name": "x"}), "mcp_toolset"),
        (body(CUSTOM), ""),
        (body({"type": "bash_20250124", "name": "bash"}), ""),
        (body({**SEARCH, "input_schema": {"type": "object"}}), ""),
        (body(), ""),
        # Said, not asked for: in a text, in an earlier call's input, on the first level.
        (body(system=[{"type": "text", "text": json.dumps(SEARCH)}]), ""),
        (body(metadata=SEARCH), ""),
        (b'{"tools": [{"type": "web_search_20250305"', ""),
        (b'[{"type": "web_search_20250305"}]', ""),
        (b'{"tools": {"type": "web_search_20250305"}}', ""),
        (b"", ""),
        (b'{"a": ' * 5000 + b'{"type": "web_search_1"}' + b"}" * 5000, ""),
    ],
)
def test_which_tools_of_anthropics_servers_a_request_carries(raw: bytes, found: str) -> None:
    assert server_tools.carried(raw) == found


# ---------------------------------------------------------------------------------------------------- the pipe


def table(search: str = "claude-sonnet-9-9", **fallbacks: Any) -> Any:
    def make(up: str, _hop: str) -> dict[str, Any]:
        return {
            "groups": {
                "claude-*": anthropic(up) | {"model": "claude-*"},
                "qwen": {"way": "hop", "model": "qwen-3", "provider": "hop"},
            },
            "fallbacks": fallbacks,
            **({"search": {"model": search}} if search else {}),
        }

    return make


async def searching(raw: bytes, first: Any = None, made: Any = None, how: Any = None) -> Any:
    asked = request(body=raw, **(how or {}))
    return await ask(first or saying(GOOD), saying(failing(400)), table=made or table(), raw=asked)


def test_a_search_of_a_slot_on_aws_is_asked_of_anthropic_with_the_sessions_login() -> None:
    raw = body(CUSTOM, SEARCH, thinking={"type": "adaptive"}, unheard_of=[1])
    got, setup, up, hop = run(searching, raw)
    assert got.status == 200 and hop.asked == [] and len(up.asked) == 1
    arrived = up.asked[0]
    assert arrived.body == raw.replace(b'"qwen"', b'"claude-sonnet-9-9"'), (
        "nothing but the model's name differs"
    )
    assert arrived.header(b"authorization") == f"Bearer {TOKEN}".encode()
    assert KEY.encode() not in arrived.head and HOP_KEY.encode() not in arrived.head
    told = setup.told[-1]
    assert told["fallback"] == "qwen to claude-sonnet-9-9 (search: web_search_20250305): answered"
    assert told["model"] == "qwen" and told["upstream"] == "127.0.0.1"


def test_a_stream_and_a_count_go_the_same_way() -> None:
    event = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    stream = chunked(event)
    got, _setup, up, hop = run(searching, body(SEARCH, stream=True), saying(*stream))
    assert got.status == 200 and hop.asked == [] and len(up.asked) == 1
    got, _setup, up, hop = run(
        searching, body(SEARCH), None, None, {"path": b"/v1/messages/count_tokens?beta=true"}
    )
    assert hop.asked == [] and up.asked[0].line.startswith(b"POST /v1/messages/count_tokens?beta=true ")


@pytest.mark.parametrize("status", [400, 401, 403, 429, 529])
def test_what_anthropic_says_of_it_is_the_answer(status: int) -> None:
    got, setup, up, hop = run(searching, body(SEARCH), saying(failing(status)))
    assert got.status == status and len(up.asked) == 1 and hop.asked == []
    assert setup.told[-1]["fallback"].endswith(": failed")


@pytest.mark.parametrize(
    ("raw", "how", "made"),
    [
        (body(CUSTOM), {}, None),
        (body(SEARCH), {"login": ""}, None),
        (body(SEARCH), {}, table(search="")),
        (body(SEARCH), {}, table(search="nobody")),
        (body(SEARCH), {}, table(search="qwen")),
    ],
    ids=["no such tool", "no login", "not set", "an unknown model", "a model of AWS's"],
)
def test_everything_else_goes_to_aws_as_ever(raw: bytes, how: Any, made: Any) -> None:
    got, setup, up, hop = run(searching, raw, None, made, how)
    assert got.status == 400 and up.asked == [] and len(hop.asked) == 1
    assert TOKEN.encode() not in hop.asked[0].head and setup.told[-1]["fallback"] == ""


def test_a_model_on_the_plan_is_asked_itself() -> None:
    got, setup, up, _hop = run(searching, body(SEARCH, model="claude-opus-9-9"))
    assert got.status == 200 and b"claude-opus-9-9" in up.asked[0].body and setup.told[-1]["fallback"] == ""


# ------------------------------------------------------------------------------------------- the configuration


@pytest.fixture
def made(tmp_path: Path) -> Any:
    def make(slot: str, main: str = MAIN, **more: Any) -> Stack:
        files = []
        for name, text in (("main", main), ("bedrock", BEDROCK)):
            (tmp_path / f"{name}.yaml").write_text(text)
            files.append(load_litellm(tmp_path / f"{name}.yaml"))
        names = ("claude-sonnet-4-5", "claude-sonnet-5", "claude-sonnet-4-20250514", "claude-sonnet-5-5")
        ids = ModelIds({name: "anthropic" for name in names} | {"claude-sonnet-9": "vertex_ai"})
        settings = Settings(search={"slot": slot}, **more)
        return Stack(settings, files[0], files[1], tmp_path / "ocd.toml", None, ids)

    return make


@pytest.mark.parametrize(
    ("slot", "more", "model"),
    [
        ("", {}, ""),
        ("sonnet", {}, "claude-sonnet-5-5"),
        ("sonnet", {"slots": {"sonnet": "claude-sonnet-4-5"}}, "claude-sonnet-4-5"),
        ("claude-opus-4-6", {}, "claude-opus-4-6"),
        ("opus", {"slots": {"opus": "opus"}}, "opus"),
    ],
)
def test_who_searches(made: Any, slot: str, more: Any, model: str) -> None:
    stack = made(slot, **more)
    assert pipe.search(stack) == (model, "")
    assert pipe.table(stack, "main").get("search") == ({"model": model} if model else None)
    assert "search" not in pipe.table(stack, "bedrock")
    assert [one for rule in RULES for one in rule(stack) if one.code == "search-slot"] == []
    if model:
        found = Table(pipe.table(stack, "main"), {"OCD_BEDROCK_URL": "http://127.0.0.1:4001/v1"}).searching()
        assert found is not None and found.way == "anthropic"


@pytest.mark.parametrize(
    ("slot", "more", "why"),
    [
        ("qwen", {}, "leads to the bedrock proxy"),
        ("haiku", {"slots": {"haiku": "qwen"}}, "leads to the bedrock proxy"),
        ("gpt", {}, "needs LiteLLM's translation"),
        ("nobody", {}, "no model group"),
        ("fable", {}, "no model of the fable family"),
        ("sonnet", {"litellm": {"pipe": "off"}}, "pipe"),
    ],
)
def test_a_slot_that_cannot_is_a_warning_and_nothing_moves(made: Any, slot: str, more: Any, why: str) -> None:
    stack = made(slot, **more)
    assert "search" not in pipe.table(stack, "main")
    (finding,) = [one for rule in RULES for one in rule(stack) if one.code == "search-slot"]
    assert finding.severity == "warning" and finding.key == "search.slot" and why in finding.what
