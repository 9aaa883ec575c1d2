"""Our own second proxy is not asked for its models; another upstream is."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import Any

import pytest

from ocd.guest import discovery


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("http://127.0.0.1:4001/v1", False),
        ("http://127.0.0.1:4001", False),
        ("http://127.0.0.1:40010/v1", True),
        ("https://models.example/v1", True),
        (None, True),
    ],
)
def test_only_our_own_proxy_is_left_in_peace(
    address: str | None, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    async def asking(**what: Any) -> dict[str, int]:
        seen.append(what)
        return {"max_tokens": 1}

    router = types.ModuleType("litellm.router")
    router.get_openai_compatible_model_info = asking  # type: ignore[attr-defined]
    package = types.ModuleType("litellm")
    package.router = router  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", package)
    monkeypatch.setitem(sys.modules, "litellm.router", router)
    monkeypatch.setenv("OCD_BEDROCK_URL", "http://127.0.0.1:4001/v1")
    discovery.install()
    answer = asyncio.run(router.get_openai_compatible_model_info(model="m", api_base=address))
    assert bool(seen) is asked and bool(answer) is asked


def test_a_litellm_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", types.ModuleType("litellm"))
    discovery.install()
