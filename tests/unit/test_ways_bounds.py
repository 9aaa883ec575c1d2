"""What the table of routes keeps in memory is bounded, whatever names are asked for."""

from __future__ import annotations

from ocd.guest.layers import ways


def test_long_names_find_their_route_and_are_not_remembered() -> None:
    table = ways.Table({"groups": {"claude-*": {"way": "anthropic"}}}, {})
    long = "claude-" + "x" * 1_000_000
    found = table.find(long)
    assert found is not None and found.way == "anthropic" and found.model == long
    assert table.routes == {}
    for number in range(2 * ways.REMEMBERED):
        table.find(f"claude-{number}")
    assert len(table.routes) == ways.REMEMBERED
