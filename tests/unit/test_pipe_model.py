"""The ``model`` of a body: found where a JSON reader finds it, replaced with no other byte changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.guest.layers import model_field

KEYS = st.one_of(
    st.text(max_size=6), st.sampled_from(["model", "Model", "models", "messages", 'mo"del', "mo\\del"])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
LAYOUTS = st.sampled_from(
    [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"indent": "\t"}]
)


def dumped(value: Any, layout: dict[str, Any]) -> bytes:
    return json.dumps(value, **layout).encode("utf-8", "surrogatepass")


@given(
    st.dictionaries(KEYS, VALUES, max_size=6), st.text(min_size=1, max_size=12), st.text(max_size=12), LAYOUTS
)
def test_it_is_found_and_replaced_in_place(
    fields: dict[str, Any], name: str, other: str, layout: dict[str, Any]
) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        name = "claude"
    items = [*fields.items()]
    for place in range(len(items) + 1):
        whole = dict([*items[:place], ("model", name), *((k, v) for k, v in items[place:] if k != "model")])
        whole["model"] = name
        text = dumped(whole, layout)
        assert model_field.first(text) == name
        changed = model_field.replace(text, other)
        assert changed is not None
        now = json.loads(changed)
        assert now == {**whole, "model": other} and list(now) == list(whole)
        # Every byte that is not the value's is where it was.
        (found,) = model_field.find(text)
        assert changed[: found.start] == text[: found.start]
        assert changed.endswith(text[found.end :])
        assert len(changed) - len(text) == len(json.dumps(other)) - (found.end - found.start)


@given(st.binary(max_size=200))
def test_whatever_it_is_nothing_is_raised(raw: bytes) -> None:
    for body in (raw, b'{"model":"x",' + raw, b'{"a":' + raw + b',"model":"x"}'):
        assert isinstance(model_field.first(body), str)
        replaced = model_field.replace(body, "y")
        assert replaced is None or isinstance(replaced, bytes)


@given(VALUES)
def test_without_one_there_is_none(value: Any) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("model"), str):
        assert model_field.replace(dumped(value, {}), "y") is None


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", ""),
        (b"[]", ""),
        (b'"model"', ""),
        (b"{}", ""),
        (b'{"model": 1}', ""),
        (b'{"model": null, "model": "b"}', "b"),
        (b'{"model": "a", "x": 1, "model": "b"}', "a"),
        (b'{"x": 1, "model": "a", "model": "b"}', "b"),
        (b'{"x": {"model": "a"}}', ""),
        (b'{"x": "\\"model\\": \\"a\\"", "model": "b"}', "b"),
        (b'{"mod\\u0065l": "b"}', "b"),
        (b'{"x": 1, "model": "\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"x": [1, 2', ""),
        (b'\xef\xbb\xbf{"model": "a"}', ""),
    ],
)
def test_odd_ones(body: bytes, name: str) -> None:
    assert model_field.first(body) == name


def test_of_a_key_that_stands_twice_both_are_replaced() -> None:
    assert (
        model_field.replace(b'{"model":"a","x":1, "model" : "b"}', "c")
        == b'{"model":"c","x":1, "model" : "c"}'
    )


def test_what_is_put_in_is_escaped() -> None:
    assert model_field.replace(b'{"model":"a"}', 'x"y\\z') == b'{"model":"x\\"y\\\\z"}'
