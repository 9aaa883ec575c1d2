"""The answer's half of the contract as conversations: what Bedrock says, and what the client gets of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.guest.layers.answers import EARLY, PING, Answer, Message, Sse, from_message, sse
from ocd.guest.layers.converse import BROKEN, Frames, Framing, Translation
from ocd.selftest import eventstream
from ocd.selftest.streams import check_plain, check_stream
from tests.helpers.converse import HELLO, START, event, plain, stop, text, thinking, tool

Json = dict[str, Any]


def told(steps: Iterable[Any], json_tool: str = "", **more: Any) -> list[Json]:
    """What the client gets of these events of Bedrock's."""
    answer, translation = Answer("qwen", identity="msg_1", **more), Translation(json_tool)
    found = []
    for _form, kind, value in steps:
        for one in translation.stream(kind, value):
            found += answer.feed(one)
    for one in translation.close():
        found += answer.feed(one)
    return found + list(answer.finish())


def raw(events: Iterable[Json]) -> str:
    return b"".join(map(sse, events)).decode()


def blocks(events: Iterable[Json]) -> list[tuple[str, str]]:
    """Kind and content of each block."""
    found: list[tuple[str, str]] = []
    for one in events:
        if one["type"] == "content_block_start":
            found.append((one["content_block"]["type"], ""))
        elif one["type"] == "content_block_delta":
            delta = one["delta"]
            said = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            found[-1] = (found[-1][0], found[-1][1] + said)
    return found


def ending(events: list[Json]) -> Any:
    """The stop reason, or the error."""
    last = events[-1]
    if last["type"] == "error":
        return last["error"]
    return events[-2]["delta"]["stop_reason"]


def test_a_stream_is_anthropics_protocol() -> None:
    found = told(
        [START, *text("Let me ", "see."), *tool("Bash", '{"value":', '"x"}', index=1), *stop("tool_use")]
    )
    assert check_stream(raw(found)) == (["text", "tool_use"], [])
    assert blocks(found) == [("text", "Let me see."), ("tool_use", '{"value":"x"}')]
    assert ending(found) == "tool_use"
    assert found[-2]["usage"]["input_tokens"] == 4242 and found[-2]["usage"]["output_tokens"] == 7


def test_thinking_comes_once_and_with_its_signature() -> None:
    found = told([START, *thinking("Let me ", "see.", signature="c2ln"), *text("Yes.", index=1), *stop()])
    assert blocks(found) == [("thinking", "Let me see."), ("text", "Yes.")]
    signatures = [one["delta"] for one in found if one.get("delta", {}).get("type") == "signature_delta"]
    assert signatures == [{"type": "signature_delta", "signature": "c2ln"}]
    kinds = [one["type"] for one in found[1:6]]
    assert kinds == ["content_block_start", *["content_block_delta"] * 3, "content_block_stop"]


def test_thinking_that_is_kept_back_has_its_signature_alone() -> None:
    found = told([START, *thinking(signature="c2ln"), *text("Yes.", index=1), *stop()])
    assert blocks(found) == [("thinking", ""), ("text", "Yes.")]
    redacted = event("contentBlockDelta", 0, delta={"reasoningContent": {"redactedContent": "YWJj"}})
    found = told([START, redacted, event("contentBlockStop", 0), *text("Yes.", index=1), *stop()])
    assert found[1]["content_block"] == {"type": "redacted_thinking", "data": "YWJj"}


def test_litellms_own_stream_says_the_first_piece_twice_and_we_do_not() -> None:
    """LiteLLM 1.106.2: the block's start carries what its first delta says again."""
    answer = Answer("fast", identity="msg_1")
    start = {"type": "thinking", "thinking": "Let me ", "signature": ""}
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": start},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": "Let me "},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "see."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    found = [out for one in events for out in answer.feed(one)]
    assert blocks(found) == [("thinking", "Let me see.")]
    assert check_stream(raw(found))[1] == []
    only = Answer("fast")
    del events[2:4]
    assert blocks(out for one in events for out in only.feed(one)) == [("thinking", "Let me ")]


def test_blocks_that_interleave_are_kept_apart() -> None:
    """litellm#34230: both inputs in one."""
    one = tool("Bash", '{"value":', '"one"}', index=1, identity="t1")
    two = tool("Read", '{"path":', '"two"}', index=2, identity="t2")
    mixed = [one[0], two[0], one[1], two[1], two[2], one[2], two[3], one[3]]
    found = told([START, *text("Ok."), *mixed, *stop("tool_use")])
    assert blocks(found) == [("text", "Ok."), ("tool_use", '{"value":"one"}'), ("tool_use", '{"path":"two"}')]
    assert check_stream(raw(found))[1] == []


@given(st.data())
def test_any_interleaving_gives_each_block_its_own_and_all_of_it(data: st.DataObject) -> None:
    inputs = data.draw(st.lists(st.text(max_size=6), min_size=1, max_size=4))
    lists = [
        tool("T", *(json.dumps({"v": value})[at : at + 3] for at in range(0, len(json.dumps({"v": value})), 3)),
             index=index, identity=f"t{index}")
        for index, value in enumerate(inputs)
    ]  # fmt: skip
    steps: list[Any] = [START]
    # Blocks begin in order; what follows may come in any.
    waiting = list(lists)
    begun: list[list[Any]] = []
    while waiting or any(begun):
        ready = [one for one in begun if one]
        if waiting and (not ready or data.draw(st.booleans())):
            begun.append(waiting.pop(0)[:])
            steps.append(begun[-1].pop(0))
        else:
            steps.append(data.draw(st.sampled_from(ready)).pop(0))
    found = told([*steps, *stop("tool_use")])
    assert check_stream(raw(found))[1] == []
    assert [json.loads(said) for _kind, said in blocks(found)] == [{"v": value} for value in inputs]


NUMBER = "123456789012345678901234567890"


def test_whole_numbers_of_any_size_stay_whole() -> None:
    found = told([START, *tool("T", '{"n":', NUMBER, ',"f":1.10}'), *stop("tool_use")])
    assert blocks(found) == [("tool_use", f'{{"n":{NUMBER},"f":1.10}}')]
    message = Message()
    for one in found:
        message.add(one)
    assert f'"input":{{"n":{NUMBER},"f":1.10}}'.encode() in message.body()
    assert check_plain(json.loads(message.body())) == (["tool_use"], [])


def test_no_block_is_empty() -> None:
    found = told([START, *text("", "\n\n"), *thinking("", index=1), *tool("T", index=2), *stop("tool_use")])
    assert blocks(found) == [("tool_use", "")]
    assert check_stream(raw(found)) == (["tool_use"], [])
    found = told([START, *text("\n\n", "Yes."), *stop()])
    assert blocks(found) == [("text", "\n\nYes.")], "blanks before a text belong to it"


@pytest.mark.parametrize(
    ("bedrocks", "ours"),
    [
        ("end_turn", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("guardrail_intervened", "refusal"),
        ("content_filtered", "refusal"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
        ("a_reason_of_next_year", "a_reason_of_next_year"),
        ("malformed_model_output", {"type": "api_error", "message": BROKEN["malformed_model_output"]}),
        ("malformed_tool_use", {"type": "api_error", "message": BROKEN["malformed_tool_use"]}),
    ],
)
def test_every_stop_reason(bedrocks: str, ours: Any) -> None:
    assert ending(told([START, *text("Ok."), *stop(bedrocks)])) == ours


def test_a_stop_reason_fits_what_was_said() -> None:
    assert ending(told([START, *tool("T", "{}"), *stop("end_turn")])) == "tool_use", "some models say so"
    assert ending(told([START, *text("Ok."), *stop("tool_use")])) == "end_turn", "nobody could answer"
    found = told([START, *text("Ok."), *stop("stop_sequence")], stops=("</block>",))
    assert found[-2]["delta"]["stop_sequence"] == "</block>"


@pytest.mark.parametrize("cut", range(len(HELLO) - 2))
def test_a_stream_that_ends_early_is_an_error_wherever_it_ends(cut: int) -> None:
    found = told(HELLO[:cut])
    assert ending(found) == {"type": "api_error", "message": EARLY}
    assert not any(one["type"] == "message_stop" for one in found)


def test_a_tool_call_that_is_cut_off_is_an_error_and_never_closed() -> None:
    broken = tool("Bash", '{"command":"rm -rf /tmp/x')
    for reason in ("tool_use", "end_turn"):
        found = told([START, *broken, *stop(reason)])
        assert found[-1]["type"] == "error"
        assert not any(one["type"] == "content_block_stop" for one in found), "a client acts on a closed call"
    found = told([START, *broken, *stop("max_tokens")])
    assert ending(found) == "max_tokens" and check_stream(raw(found))[1] == [], "as Anthropic sends it"
    found = told([START, *broken, *text("more", index=1), *stop("tool_use")])
    assert found[-1]["type"] == "error"
    for wrong in ("[1]", '"x"', '{"a":NaN}', "{} {}"):
        assert told([START, *tool("T", wrong), *stop("tool_use")])[-1]["type"] == "error"


def test_a_block_left_open_is_an_error() -> None:
    found = told([START, event("contentBlockDelta", 0, delta={"text": "Ok"}), *stop()])
    assert found[-1]["type"] == "error"


def test_nothing_comes_after_the_end_and_usage_is_always_there() -> None:
    found = told(
        [START, *text("Twelve bytes"), event("messageStop", stopReason="end_turn"), *text("more", index=1)]
    )
    assert [one["type"] for one in found[-2:]] == ["message_delta", "message_stop"]
    bare = told([START, *text("Twelve bytes"), event("messageStop", stopReason="end_turn")], input_tokens=99)
    assert bare[-2]["usage"] == {
        "input_tokens": 99, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 3
    }  # fmt: skip
    cached = stop(
        usage={"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 4}
    )
    assert told([START, *text("Ok."), *cached])[-2]["usage"] == {
        "input_tokens": 1, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 2
    }  # fmt: skip


def test_a_tool_gets_its_own_name_back() -> None:
    long = "mcp__server__" + "x" * 80
    found = told([START, *tool("short", "{}"), *stop("tool_use")], restore={"short": long}.get)
    assert found[1]["content_block"]["name"] == long


def test_the_tool_by_which_litellm_gets_json_is_the_answers_text() -> None:
    found = told(
        [START, *tool("json_tool_call", '{"title":', '"x"}'), *stop("tool_use")], json_tool="json_tool_call"
    )
    assert blocks(found) == [("text", '{"title":"x"}')] and ending(found) == "end_turn"


def test_a_plain_answer_is_the_same_as_a_streamed_one() -> None:
    reasoning = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "c2ln"}}}
    call = {"toolUse": {"toolUseId": "t1", "name": "Bash", "input": {"n": int(NUMBER)}}}
    answer, message = Answer("fast"), Message()
    for one in Translation().plain(plain(reasoning, {"text": "Ok."}, {"text": " "}, call, reason="tool_use")):
        for out in answer.feed(one):
            message.add(out)
    value = json.loads(message.body())
    assert check_plain(value) == (["thinking", "text", "tool_use"], [])
    assert value["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    assert value["content"][2]["input"] == {"n": int(NUMBER)}
    assert value["stop_reason"] == "tool_use" and value["usage"]["output_tokens"] == 7


def test_litellms_plain_answer_is_held_to_the_same() -> None:
    content = [{"type": "text", "text": ""}, {"type": "tool_use", "id": "t", "name": "T", "input": {"a": 1}}]
    given = {"content": content, "stop_reason": "end_turn", "usage": {"input_tokens": 5, "output_tokens": 2}}
    answer, message = Answer("qwen"), Message()
    for one in from_message(given):
        for out in answer.feed(one):
            message.add(out)
    value = json.loads(message.body())
    assert check_plain(value) == (["tool_use"], []) and value["stop_reason"] == "tool_use"
    assert value["content"][0]["input"] == {"a": 1}


def frames(steps: Iterable[Any]) -> bytes:
    return b"".join(eventstream.event(kind, value) for _form, kind, value in steps)


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    last = 0
    for cut in [*sorted(cuts), len(data)]:
        yield data[last:cut]
        last = cut


@given(st.sets(st.integers(0, len(frames(HELLO)))))
def test_bedrocks_stream_may_be_cut_at_any_byte(cuts: set[int]) -> None:
    reader = Frames()
    found = [one for piece in pieces(frames(HELLO), cuts) for one in reader.feed(piece)]
    assert [(headers[":event-type"], json.loads(body)) for headers, body in found] == [
        (kind, value) for _form, kind, value in HELLO
    ]
    assert not reader.partial


def test_bedrocks_stream_cut_at_every_single_byte() -> None:
    data = frames(HELLO)
    for at in range(len(data)):
        reader = Frames()
        assert len([*reader.feed(data[:at]), *reader.feed(data[at:])]) == len(HELLO)


def test_bytes_that_are_no_event_stream_are_told() -> None:
    data = bytearray(frames(HELLO))
    data[-1] ^= 1
    with pytest.raises(Framing):
        list(Frames().feed(bytes(data)))
    with pytest.raises(Framing):
        list(Frames().feed(b"<html>no event stream at all</html>"))


@given(st.data())
def test_server_sent_events_may_be_cut_at_any_byte(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(max_size=10), max_size=4))
    events = [{"type": "x", "text": value} for value in texts]
    whole = b"".join(b": a comment\n\n" + sse(one) for one in events)
    if data.draw(st.booleans()):
        whole = whole.replace(b"\n", b"\r\n")
    cuts = data.draw(st.sets(st.integers(0, len(whole))))
    reader = Sse()
    assert [one for piece in pieces(whole, cuts) for one in reader.feed(piece)] == events


def test_what_is_no_event_is_passed_over() -> None:
    assert list(Sse().feed(b"data: [DONE]\n\ndata: {\n\nevent: x\n\ndata: 1\n\n")) == []
    assert sse(PING) == b'event: ping\ndata: {"type":"ping"}\n\n'
