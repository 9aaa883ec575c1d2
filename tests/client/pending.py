"""What issue 10 wants and the product does not do yet: a test that may fail, with the point that it belongs to."""

from __future__ import annotations

import pytest


def pending(point: str) -> pytest.MarkDecorator:
    """Mark a test as not yet true. Not strict: when it passes with every client, take the mark away."""
    return pytest.mark.xfail(reason=point, strict=False)
