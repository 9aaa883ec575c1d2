"""The request's half of the contract: what Claude Code sends, and what of it a model on Bedrock gets."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.guest.layers.refusals import Refusal
from ocd.guest.layers.requests import CLIENT_TOOLS, FIELDS, Facts, Rewritten, estimate, rewrite
from ocd.guest.layers.server_tools import SERVER_TOOLS

Json = dict[str, Any]

QWEN = Facts("qwen.qwen3", "qwen", 256_000, 8000, vision=False, documents=False)
CLAUDE = Facts("us.anthropic.claude-haiku-4-5", "claude", 200_000, 64_000, True, "claude")
ADAPTIVE = replace(CLAUDE, adaptive=True, effort=True)
NOVA = Facts("us.amazon.nova-2-lite-v1:0", "nova", 1_000_000, 64_000, thinking="effort")
GPT = Facts("openai.gpt-oss-120b-1:0", "gpt-oss", 128_000, 16_384, thinking="effort", stop_sequences=False)

MARK = {"type": "ephemeral", "ttl": "1h"}
PLACEHOLDER = {
    "name": "DeferredToolPlaceholder",
    "description": "Reserved placeholder that keeps deferred tool loading active; never call this tool.",
    "defer_loading": True,
    "input_schema": {"type": "object", "properties": {}},
}


def schema(**properties: str) -> Json:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}


def named(name: str, **more: Any) -> Json:
    return {"name": name, "description": name, "input_schema": schema(value="string"), **more}


#: A request of Claude Code 2.1.332 as recorded, shortened: its second, after a search for tools.
REAL: Json = {
    "model": "haiku",
    "max_tokens": 32000,
    "stream": True,
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "please do it"}]},
        {"role": "system", "content": [{"type": "text", "text": "# Environment", "cache_control": MARK}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": "c2ln"},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "ToolSearch",
                    "input": {"query": "select:WebFetch"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "tool_reference", "tool_name": "WebSearch"},
                        {"type": "tool_reference", "tool_name": "WebFetch"},
                    ],
                    "cache_control": MARK,
                },
                {"type": "text", "text": "Tool loaded."},
            ],
        },
    ],
    "system": [
        {
            "type": "text",
            "text": "x-anthropic-billing-header: cc_version=2.1.332.969; cc_entrypoint=sdk-cli;",
        },
        {"type": "text", "text": "You are an agent.", "cache_control": MARK},
    ],
    "tools": [
        named("Bash"),
        named("ToolSearch"),
        named("WebFetch", defer_loading=True),
        named("WebSearch", defer_loading=True),
        PLACEHOLDER,
    ],
    "metadata": {"user_id": '{"device_id":"1"}'},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "diagnostics": {"a_field_of": "next year"},
}


def asked(*content: Any, **more: Any) -> Json:
    return {
        "model": "m",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": list(content) or "hi"}],
        **more,
    }


def body(request: Json, facts: Facts = QWEN) -> Json:
    return rewrite(request, facts).body


def tools_of(request: Json, facts: Facts = QWEN) -> list[str]:
    return [one["name"] for one in body(request, facts).get("tools", [])]


def refused(request: Json, facts: Facts = QWEN) -> str:
    with pytest.raises(Refusal) as caught:
        rewrite(request, facts)
    assert caught.value.status == 400 and caught.value.kind == "invalid_request_error"
    return caught.value.message


def test_the_real_clients_request_has_only_what_converse_has_a_place_for() -> None:
    kept = copy.deepcopy(REAL)
    found = body(REAL)
    assert kept == REAL, "the request itself is left as it is"
    assert set(found) == {"model", "messages", "max_tokens", "stream", "system", "tools"}
    assert found["max_tokens"] == 8000, "32,000 is more than the model's table has"
    assert found["system"] == [{"type": "text", "text": "You are an agent."}]
    assert "cache_control" not in json.dumps(found)


def test_a_claude_keeps_what_is_claudes() -> None:
    found = body(REAL, ADAPTIVE)
    assert found["thinking"] == {"type": "adaptive"} and found["output_config"] == {"effort": "high"}
    assert found["system"][0]["cache_control"] == MARK
    assert found["messages"][1]["content"][0] == {"type": "thinking", "thinking": "", "signature": "c2ln"}
    assert not {"metadata", "diagnostics", "context_management"} & set(found)


# ---- tool search


def test_a_search_for_tools_works() -> None:
    first = {
        **REAL,
        "messages": REAL["messages"][:2],
        "tools": [named("Bash"), named("ToolSearch"), PLACEHOLDER],
    }
    assert tools_of(first) == ["Bash", "ToolSearch"], "the placeholder is nobody's tool"
    assert tools_of(REAL) == ["Bash", "ToolSearch", "WebFetch", "WebSearch"], "found: given in full"
    result = body(REAL)["messages"][2]["content"][0]
    assert result["type"] == "tool_result" and "WebSearch, WebFetch" in result["content"][0]["text"]
    assert body(REAL)["messages"][2]["content"][1]["text"] == "Tool loaded."


def test_a_deferred_tool_is_shown_once_it_was_found_used_or_added() -> None:
    hidden = named("Hidden", defer_loading=True)
    assert tools_of(asked("hi", tools=[named("A"), hidden]) | {"messages": asked()["messages"]}) == ["A"]
    use = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Hidden", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
    ]
    assert tools_of({**asked(), "messages": use, "tools": [hidden]}) == ["Hidden"]
    add = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Hidden"}}
    turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": [add]}]
    assert tools_of({**asked(), "messages": turns, "tools": [hidden]}) == ["Hidden"]
    whole = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": named("New")}}
    gone = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "A"}}
    turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": [whole, gone]}]
    assert tools_of({**asked(), "messages": turns, "tools": [named("A"), named("B")]}) == ["B", "New"]


# ---- server tools


@pytest.mark.parametrize("start", SERVER_TOOLS)
@pytest.mark.parametrize("version", ["_20250305", "_20991231", "_regex_20251119"])
def test_a_tool_that_anthropics_servers_run_is_refused_by_name(start: str, version: str) -> None:
    for facts in (QWEN, ADAPTIVE, GPT):
        message = refused(
            asked(tools=[named("A"), {"type": start + version, "name": "x", "max_uses": 8}]), facts
        )
        assert f"server_tool:{start}{version}" in message and "No result was made up" in message


def test_a_tool_that_nobody_knows_is_not_guessed_at() -> None:
    assert "hologram_20270101" in refused(asked(tools=[{"type": "hologram_20270101", "name": "h"}]))
    assert "computer_20250124" in refused(asked(tools=[{"type": "computer_20250124", "name": "computer"}]))
    own = {"type": "hologram_20270101", **named("h")}
    assert tools_of(asked(tools=[own])) == ["h"], "with a schema it is anybody's"
    assert tools_of(asked(tools=[{**named("web_search")}])) == ["web_search"], (
        "the client's own, by that name"
    )


@pytest.mark.parametrize("kind", CLIENT_TOOLS)
def test_a_tool_that_the_client_runs_gets_its_published_schema(kind: str) -> None:
    given = {"type": f"{kind}_20250124", "name": f"my_{kind}"}
    (tool,) = body(asked(tools=[given]))["tools"]
    assert (
        tool["name"] == f"my_{kind}" and tool["input_schema"]["properties"]["command"] and tool["description"]
    )
    assert body(asked(tools=[given]), CLAUDE)["tools"] == [given], "Claude's models know it"


def test_what_a_server_tool_found_earlier_stays_as_text() -> None:
    content = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s",
         "content": [{"type": "web_search_result", "title": "A title", "url": "https://example.org"}]},
    ]  # fmt: skip
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
    said = body({**asked(), "messages": messages})["messages"][1]["content"]
    assert [one["type"] for one in said] == ["text", "text"]
    assert "web_search" in said[0]["text"] and "A title https://example.org" in said[1]["text"]


# ---- fields


def test_safeguards_are_refused_by_name() -> None:
    """Claude Code then asks again without, and classifies by itself (the protocol of 2.1.332)."""
    assert "safeguards" in refused(asked(safeguards=[{"type": "x"}]))


@given(st.dictionaries(st.text(min_size=1, max_size=12), st.integers(), max_size=5))
def test_no_other_field_ever_passes(more: Json) -> None:
    known = {"model", "max_tokens", "messages", "safeguards"}
    found = body({**asked(), **{name: value for name, value in more.items() if name not in known}})
    assert set(found) <= set(FIELDS)


@pytest.mark.parametrize(
    "field",
    ["fallbacks", "tags", "speed", "service_tier", "container", "mcp_servers", "metadata", "litellm_x"],
)
def test_fields_that_bedrock_refuses_or_litellm_obeys(field: str) -> None:
    for facts in (QWEN, ADAPTIVE):
        assert field not in body(asked(**{field: ["x"]}), facts)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "m", "max_tokens": 1, "messages": []}, "messages"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "max_tokens"),
        ({"model": "m", "max_tokens": 1, "messages": ["x"]}, "messages.0"),
        ({"model": "m", "max_tokens": 1, "messages": [{"role": "tool", "content": "x"}]}, "messages.0"),
        ({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": " "}]}, "non-empty"),
    ],
)
def test_a_request_that_is_none(request_: Json, word: str) -> None:
    assert word in refused(request_)


def test_stop_sequences_only_where_they_are_taken() -> None:
    assert body(asked(stop_sequences=["</a>", " "]))["stop_sequences"] == ["</a>"]
    assert "stop_sequences" not in body(asked(stop_sequences=["</a>"]), GPT)


def test_structured_output_is_kept_and_its_tool_known() -> None:
    form = {"type": "json_schema", "schema": schema(title="string")}
    found = rewrite(asked(output_config={"format": form, "effort": "low"}), QWEN)
    assert found.body["output_config"] == {"format": form} and found.json_tool == "json_tool_call"
    assert rewrite(asked(output_format=form), QWEN).body["output_config"] == {"format": form}
    assert rewrite(asked(output_config={"effort": "low"}), QWEN).json_tool == ""


# ---- thinking


def test_thinking_only_where_there_is_some() -> None:
    for thinking in ({"type": "adaptive"}, {"type": "enabled", "budget_tokens": 4096}):
        assert "thinking" not in body(asked(thinking=thinking))
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "s"}]},
        {"role": "user", "content": "go on"},
    ]
    found = body({**asked(), "messages": history})["messages"]
    assert found == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "go on"}]}
    ]


def test_a_budget_fits_what_may_be_written() -> None:
    wide = asked(max_tokens=64_000, thinking={"type": "enabled", "budget_tokens": 90_000}, temperature=0.5)
    found = body(wide, replace(CLAUDE, max_output_tokens=8192))
    assert found["thinking"] == {"type": "enabled", "budget_tokens": 8191} and found["max_tokens"] == 8192
    assert "temperature" not in found, "Claude's models take no other than 1 while they think"
    assert "thinking" not in body(
        asked(max_tokens=1000, thinking={"type": "enabled", "budget_tokens": 900}), CLAUDE
    )
    adaptive = asked(max_tokens=32_000, thinking={"type": "adaptive"}, output_config={"effort": "low"})
    assert body(adaptive, CLAUDE)["thinking"] == {"type": "enabled", "budget_tokens": 2048}


def test_thinking_is_left_out_of_a_tool_loop_that_began_without() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "A", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
    ]
    request = {**asked(max_tokens=32_000), "messages": messages, "tools": [named("A")]}
    request["thinking"] = {"type": "enabled", "budget_tokens": 4096}
    assert "thinking" not in body(request, CLAUDE)


def test_a_model_that_takes_an_effort_gets_one() -> None:
    found = body(asked(thinking={"type": "adaptive"}, output_config={"effort": "max"}), GPT)
    assert found["reasoning_effort"] == "high" and "thinking" not in found and "output_config" not in found
    assert (
        body(asked(thinking={"type": "enabled", "budget_tokens": 5000}), GPT)["reasoning_effort"] == "medium"
    )
    assert "reasoning_effort" not in body(asked(thinking={"type": "disabled"}), GPT)
    highest = asked(thinking={"type": "adaptive"}, output_config={"effort": "max"})
    assert body(highest, NOVA)["reasoning_effort"] == "medium", "with the highest it takes no max_tokens"


# ---- tools


def test_names_that_bedrock_does_not_take_are_shortened_and_given_back() -> None:
    names = ["mcp__server__" + "x" * 80, "mcp__server__" + "x" * 79 + "y", "1st", "a.b", "ü", "fine-Name_1"]
    request = asked(tools=[named(name) for name in names], tool_choice={"type": "tool", "name": names[0]})
    found = rewrite(request, QWEN)
    given = [one["name"] for one in found.body["tools"]]
    assert len(set(given)) == len(names)
    assert all(
        len(one) <= 64 and one.isascii() and one.replace("-", "").replace("_", "").isalnum() for one in given
    )
    assert [found.restore(one) for one in given] == names
    assert given[-1] == "fine-Name_1" and found.body["tool_choice"]["name"] == given[0]


def test_a_tools_own_fields_stay_out_of_its_schema() -> None:
    """LiteLLM puts what it does not know into the schema."""
    tool = named("A", strict=True, eager_input_streaming=True, input_examples=[{}], x_new=1)
    assert body(asked(tools=[tool]))["tools"] == [named("A")]
    assert body(asked(tools=[{"name": "A", "input_schema": {}}]))["tools"] == [
        {"name": "A", "description": "A", "input_schema": {"type": "object"}}
    ]


def test_a_model_without_tools_says_so() -> None:
    blind = replace(QWEN, tools=False)
    assert "cannot call tools" in refused(asked(tools=[named("A")]), blind)
    assert body(asked(), blind)["messages"]


def test_without_tools_their_history_is_text() -> None:
    """Converse refuses a tool's use where no tool is."""
    for request in ({**REAL, "tools": []}, {**REAL, "tool_choice": {"type": "none"}}):
        found = body(request)
        assert "tools" not in found and "tool_choice" not in found
        kinds = {one["type"] for turn in found["messages"] for one in turn["content"]}
        assert kinds == {"text"} and "ToolSearch" in json.dumps(found)


def test_results_come_first_and_say_when_they_are_errors() -> None:
    content = [
        {"type": "text", "text": "and this"},
        {"type": "tool_result", "tool_use_id": "a", "content": "boom", "is_error": True},
        {"type": "tool_result", "tool_use_id": "b", "content": "Error: boom", "is_error": True},
        {"type": "tool_result", "tool_use_id": "x" * 70, "content": []},
    ]
    request = asked(*content, tools=[named("A")])
    (turn,) = body(request)["messages"]
    assert [one["type"] for one in turn["content"]] == ["tool_result"] * 3 + ["text"]
    texts = [[part["text"] for part in one["content"]] for one in turn["content"][:3]]
    assert texts == [["Error:", "boom"], ["Error: boom"], ["(no output)"]]
    assert len(turn["content"][2]["tool_use_id"]) <= 64


def test_whole_numbers_beyond_64_bits_survive_in_the_history() -> None:
    call = {"type": "tool_use", "id": "t", "name": "A", "input": {"n": [2**80, 2**63]}}
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [call]}]
    found = body({**asked(), "messages": messages, "tools": [named("A")]})["messages"][1]["content"][0]
    assert found["input"] == {"n": [str(2**80), 2**63]}


# ---- text, images, documents

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF = {
    "type": "document",
    "title": "a.pdf",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "x"},
}


def test_a_blind_model_is_told_what_it_cannot_see() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, PDF]}
    said = json.dumps(body(asked(IMAGE, PDF, result, tools=[named("A")])))
    assert said.count("an image was left out") == 2 and said.count("a document (a.pdf) was left out") == 2
    assert "base64" not in said
    found = body(asked(IMAGE, PDF), CLAUDE)["messages"][0]["content"]
    assert found == [IMAGE, {"type": "document", "source": PDF["source"]}]


def test_a_document_of_text_is_text() -> None:
    given = {
        "type": "document",
        "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "abc"},
    }
    assert body(asked(given))["messages"][0]["content"] == [{"type": "text", "text": "T\nabc"}]


def test_system_turns_are_folded_where_they_stand() -> None:
    messages = [
        {"role": "system", "content": "first"},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": [{"type": "text", "text": "news"}]},
        {"role": "assistant", "content": "ok"},
        {"role": "system", "content": "late"},
    ]
    found = body({**asked(), "messages": messages, "system": "base"})
    assert [one["text"] for one in found["system"]] == ["base", "first"]
    assert [turn["role"] for turn in found["messages"]] == ["user", "assistant", "user"]
    assert found["messages"][0]["content"][1]["text"] == "<system-reminder>\nnews\n</system-reminder>"


def test_empty_texts_are_left_out_and_turns_take_turns() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "  "}]},
        {"role": "user", "content": "b"},
    ]
    found = body({**asked(), "messages": messages})["messages"]
    assert [[one["text"] for one in turn["content"]] for turn in found] == [["a", "b"]]


def test_a_block_of_a_kind_that_nobody_knows_keeps_its_text() -> None:
    found = body(asked({"type": "connector_text", "text": "from afar"}, {"type": "hologram"}, "hi"))
    assert found["messages"][0]["content"] == [{"type": "text", "text": "from afar"}]


# ---- prompt caching


def test_prompt_caching_goes_by_the_models_ability() -> None:
    marked = asked({"type": "text", "text": "hi", "cache_control": {**MARK, "scope": "global"}})
    assert "cache_control" not in json.dumps(body(marked))
    assert body(marked, CLAUDE)["messages"][0]["content"][0]["cache_control"] == MARK
    assert "cache_control" not in json.dumps(body(marked, NOVA))


def test_amazons_models_cache_what_is_said_not_tools_and_for_five_minutes() -> None:
    """AWS: Prompt caching, the table of models: Nova has system and messages, and one lifetime."""
    nova = replace(NOVA, caching=True)
    marked = asked(
        {"type": "text", "text": "hi", "cache_control": MARK},
        system=[{"type": "text", "text": "you", "cache_control": MARK}],
        tools=[{**named("Bash"), "cache_control": MARK}],
    )
    found = body(marked, nova)
    plain = {"type": "ephemeral"}
    assert found["system"][0]["cache_control"] == found["messages"][0]["content"][0]["cache_control"] == plain
    assert "cache_control" not in json.dumps(found["tools"])
    assert body(marked, CLAUDE)["tools"][0]["cache_control"] == MARK


def test_no_more_marks_than_bedrock_takes() -> None:
    many = asked(*({"type": "text", "text": str(n), "cache_control": MARK} for n in range(7)))
    assert json.dumps(body(many, CLAUDE)).count("ephemeral") == 4


# ---- counting


def test_an_estimate_is_near_and_never_nothing() -> None:
    assert estimate({}) == 1
    english = "The quick brown fox jumps over the lazy dog. " * 100
    assert 800 < estimate({"messages": [{"role": "user", "content": english}]}) < 1300
    tools = {"tools": [named(f"Tool{n}") for n in range(20)]}
    assert estimate(tools) > 300, "tools count"
    assert estimate({"messages": [{"content": [IMAGE]}]}) > 1000
    assert estimate({"system": "漢字" * 100}) > 100


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "source", "tool", "name", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
KINDS = ("text", "image", "document", "tool_use", "tool_result", "thinking", "search_result", "server_tool_use",
         "tool_addition", "web_search_tool_result", "connector_text")  # fmt: skip
NAMES = ("text", "content", "source", "tool", "name", "id", "input", "cache_control", "is_error")
BLOCK = st.builds(
    lambda kind, more: {**more, "type": kind},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
)
TURN = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "system"]),
    st.lists(BLOCK, max_size=3) | JSON,
)


@given(st.lists(TURN, max_size=4), JSON, JSON, JSON)
def test_whatever_comes_is_served_or_refused(
    turns: list[Json], tools: Any, thinking: Any, config: Any
) -> None:
    request = {"model": "m", "max_tokens": 9000, "messages": turns, "tools": tools, "thinking": thinking,
               "output_config": config, "system": tools, "tool_choice": thinking}  # fmt: skip
    for facts in (QWEN, ADAPTIVE, GPT, NOVA, Facts()):
        try:
            found = rewrite(request, facts)
        except Refusal as refusal:
            assert refusal.status == 400 and refusal.message
            continue
        assert isinstance(found, Rewritten) and json.dumps(found.body)
        roles = [turn["role"] for turn in found.body["messages"]]
        assert all(one != two for one, two in pairwise(roles)), "turns take turns"
        assert all(turn["content"] for turn in found.body["messages"])
