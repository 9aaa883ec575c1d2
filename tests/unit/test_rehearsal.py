"""What is done once before the fork: never an error, nothing left out, a tokenizer that is read when it is used."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import pytest

from ocd.guest import preload, rehearsal


def test_without_litellm_every_step_fails_by_itself_and_the_tables_none() -> None:
    """The forkserver passes over what another version does not have."""
    for step in rehearsal.steps():
        try:
            step()
        except Exception as error:
            assert isinstance(error, ImportError), error


def test_each_class_and_module_has_a_step_of_its_own() -> None:
    found = [step.args for step in rehearsal.steps() if isinstance(step, functools.partial)]
    named = [*rehearsal.CLASSES, *rehearsal.BEDROCK, *rehearsal.MODULES]
    assert found == [*((name,) for name in named), *rehearsal.TABLES]
    assert len(set(found)) == len(found)


def test_two_tables_keep_one_copy_of_what_is_equal() -> None:
    one = {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}}
    other = {"a": {"x": 1}, "b": {"x": 9}, "d": {}}
    rehearsal.share(one, other)
    assert other == {"a": {"x": 1}, "b": {"x": 9}, "d": {}}
    assert other["a"] is one["a"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A tiktoken of the test's own; what an encoding was made of."""
    given: list[dict[str, Any]] = []

    class Encoding:
        def __init__(self, name: str, **of: Any) -> None:
            given.append(of)
            self.name = name
            self._ranks = of["ranks"]
            self._core_bpe = len

        def encode(self, text: str) -> int:
            return int(self._core_bpe(text))

    package, registry = types.ModuleType("tiktoken"), types.ModuleType("tiktoken.registry")
    package.Encoding, package.registry = Encoding, registry  # type: ignore[attr-defined]
    registry.ENCODINGS = {}  # type: ignore[attr-defined]
    plugins, public = types.ModuleType("tiktoken_ext"), types.ModuleType("tiktoken_ext.openai_public")
    plugins.openai_public = public  # type: ignore[attr-defined]
    public.cl100k_base = lambda: {"name": "cl100k_base", "ranks": {}}  # type: ignore[attr-defined]
    for module in (package, registry, plugins, public):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return given


def test_the_tokenizer_is_read_when_it_counts_and_once(made: list[dict[str, Any]]) -> None:
    preload.late_tokenizer()
    late = sys.modules["tiktoken.registry"].ENCODINGS["cl100k_base"]
    assert isinstance(late, sys.modules["tiktoken"].Encoding)
    assert late.name == "cl100k_base" and made == []
    assert late.encode("four") == 4 and late.encode("seven77") == 7
    assert len(made) == 1
    with pytest.raises(AttributeError):
        _ = late.nothing_of_that_name


def test_an_encoding_that_somebody_made_already_stays(made: list[dict[str, Any]]) -> None:
    mine = object()
    sys.modules["tiktoken.registry"].ENCODINGS["cl100k_base"] = mine
    preload.late_tokenizer()
    assert sys.modules["tiktoken.registry"].ENCODINGS["cl100k_base"] is mine
