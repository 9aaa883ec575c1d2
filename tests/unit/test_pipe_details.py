"""What the ways keep to themselves: headers of one connection, words between the proxies, whose requests spill."""

from __future__ import annotations

from typing import Any

import pytest

from ocd.guest.layers.headers import end_to_end
from ocd.guest.layers.ways import Spill
from tests.helpers.pipes import Standin, answer, anthropic, request, run, saying, serving
from tests.unit.test_pipe_fallbacks import GOOD, JSON, ask, failing, resetting, usual


def test_what_is_of_one_connection_does_not_come_back() -> None:
    passed = [(b"Content-Type", b"text/plain"), (b"X-Kept", b"1")]
    own = [
        (b"Connection", b"close, X-Named"),
        (b"X-Named", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"Trailer", b"x"),
        (b"Proxy-Authenticate", b"Basic"),
    ]
    assert end_to_end([*own, *passed]) == passed


async def _hop(first: bytes, second: Any = None) -> tuple[Any, Any]:
    """A request for a group of the bedrock proxy's; Anthropic is its fallback where ``second`` is given."""
    hop, other = Standin(saying(first)), Standin(second or saying(GOOD))
    async with hop.serving(), other.serving():
        table: dict[str, Any] = {
            "groups": {
                "qwen": {"way": "hop", "model": "qwen", "provider": "hop"},
                "claude": anthropic(other.url),
            },
            "fallbacks": {"qwen": ["claude"]} if second else {},
        }
        async with serving(table, environ={"OCD_BEDROCK_URL": f"{hop.url}/v1"}) as setup:
            got = await setup.ask(request("qwen"))
            await setup.heard()
            return got, setup


def test_words_between_the_proxies_stay_between_them() -> None:
    first = answer(
        200,
        b"{}",
        JSON,
        (b"x-ocd-upstream", b"bedrock-runtime.example qwen.3"),
        (b"x-ocd-else", b"1"),
        (b"x-amzn-requestid", b"1"),
    )
    got, setup = run(_hop, first)
    assert got.status == 200 and got.header(b"x-amzn-requestid") == b"1"
    assert not [name for name, _value in got.headers if name.startswith(b"x-ocd-")]
    assert setup.told[-1]["upstream"] == "bedrock-runtime.example"


def test_a_refusal_of_awss_that_was_kept_is_no_login_either() -> None:
    for status in (401, 403):
        got, _setup = run(_hop, failing(status))
        assert got.status == 424
        # An overload falls back, and when that fails too, what the wanted one said arrives.
        got, _setup = run(_hop, failing(503), resetting())
        assert got.status == 503


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/json"])
def test_an_answer_that_breaks_off_is_cut(kind: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: 99\r\n\r\ndata: x\n\n"
    got, setup, _up, hop = run(ask, resetting(head), saying(GOOD))
    assert not got.whole and got.body == b"data: x\n\n" and hop.asked == []
    assert setup.told[-1]["trouble"] == "cut"


def test_only_the_logins_that_are_named_spill() -> None:
    spill = Spill()
    spill.take({"groups": {"claude-*": "aws"}, "logins": ["a"], "until": 0, "why": "95 %"})
    assert spill.target("claude-opus-9-9", "claude-*", "a") == "aws"
    assert spill.target("claude-opus-9-9", "claude-*", "b") == ""
    spill.take({"groups": {"claude-*": "aws"}})
    assert spill.target("claude-opus-9-9", "claude-*", "b") == "aws", "nobody is named: all"
    assert usual("", "")["fallbacks"]
