"""What issue 10 wants and the product does not do yet: a test that may fail, with the point that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.client.clients import Client


def pending(point: str) -> pytest.MarkDecorator:
    """Mark a test as not yet true. Not strict: when it passes with every client, take the mark away."""
    return pytest.mark.xfail(reason=point, strict=False)


def not_before(client: Client, number: tuple[int, ...], why: str) -> None:
    """End the test as expected where the client itself cannot do it: no code of ours can change that."""
    if client.number < number:
        pytest.xfail(f"Claude Code {client.version}: {why}")
