"""The control room: its picture as text, and the view driven by keys (Textual's pilot), with a daemon that is none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, RichLog

from ocd.ctl.control_room import picture, view
from ocd.ctl.control_room.view import ControlRoom, Follow
from ocd.errors import OcdError
from ocd.wire.messages import Exchange, Member, Outcome, ProxyStatus, Session, Status, Trouble

NOW = 1_800_000_000.0


def exchange(number: int = 0, **more: Any) -> Exchange:
    fields: dict[str, Any] = {
        "time": NOW + number,
        "proxy": "main",
        "generation": 1,
        "path": "/v1/messages",
        "model": "claude-opus-9-9",
        "slot": "opus",
        "upstream": "api.anthropic.com",
        "status": 200,
        "first": 0.42,
        "seconds": 12.34,
        "input_tokens": 4242,
        "output_tokens": 99,
    }
    return Exchange(**{**fields, **more})


def status(**more: Any) -> Status:
    main = ProxyStatus(
        state="ready",
        pid=4242,
        port=4000,
        generation=3,
        since=NOW - 60,
        memory=300_000_000,
        spare="armed",
        members=[Member(generation=3, pid=4242, role="serving", since=NOW, in_flight=2)],
    )
    bedrock = ProxyStatus(
        state="crash-loop",
        port=4001,
        since=NOW,
        reason="[bold]\x1b[31mKeyError",
        troubles=[
            Trouble(kind="aws-expired", slot="haiku", what="expired", next="Run it", since=1, last=2, count=3)
        ],
    )
    fields: dict[str, Any] = {
        "version": "0.1",
        "pid": 2,
        "keeper_pid": 1,
        "since": NOW - 3700,
        "litellm": "1.106.2",
        "proxies": {"main": main, "bedrock": bedrock},
        "sessions": [
            Session(pid=77, cwd="/code/\x1b[2Jproject", since=NOW - 5, requests=3, last_slot="opus")
        ],
    }
    return Status(**{**fields, **more})


def room(*requests: Exchange, **more: Any) -> picture.Room:
    made = picture.Room(status(), **more)
    for one in requests:
        made.add(one)
    return made


def test_one_frame_has_it_all_in_eighty_columns() -> None:
    cut_off = exchange(
        1, slot="haiku", model="qwen" * 20, upstream="bedrock-runtime.eu-west-1.amazonaws.com", trouble="cut"
    )
    text = picture.frame(room(exchange(), cut_off), NOW)
    lines = text.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines), max(lines, key=len)
    assert "up 1h 01m" in lines[0] and "1 session" in lines[0]
    assert any(line.startswith("main     ready      4000  3    4242") for line in lines)
    assert "\x1b" not in text and "[bold]" in text, "no control character; markup is only text"
    assert "anthropic" in text and "eu-west-1" in text and "200 cut" in text
    assert text.index("haiku ") < text.index("opus   claude"), "the latest first"


@given(
    st.text(max_size=200),
    st.text(max_size=200),
    st.integers(20, 300),
    st.integers(0, 10**15),
    st.floats(0, 1e9),
)
def test_whatever_names_and_numbers_come_no_line_is_too_long(
    model: str, upstream: str, width: int, tokens: int, seconds: float
) -> None:
    made = room(
        exchange(model=model, upstream=upstream, input_tokens=tokens, seconds=seconds, fallback=model)
    )
    wide = max(width, 78)
    for line in picture.frame(made, NOW, width=wide, height=0).splitlines():
        assert cell_len(line) <= wide and line.isprintable()


def test_the_filter_looks_at_every_word() -> None:
    one = exchange(session=77, trouble="cut", fallback="a to b")
    for needle in ("OPUS", "anthropic", "200", "cut", "77", "to b", ""):
        assert picture.matches(one, needle), needle
    assert not picture.matches(one, "bedrock")


def test_numbers_are_short() -> None:
    assert [picture.count(n) for n in (0, 999, 4242, 123_456, 5_000_000, 10**14)] == [
        "0", "999", "4.2k", "123k", "5.0M", "many",
    ]  # fmt: skip
    assert [picture.seconds(s) for s in (None, 0.4212, 12.34, 125.0)] == ["-", "0.42s", "12.3s", "2m 05s"]


def test_nothing_at_all_is_a_picture_too() -> None:
    assert "asking the daemon" in picture.frame(picture.Room(), NOW)
    assert "No request was answered yet" in picture.frame(room(), NOW)


class Fake:
    """A source of news that a test holds in its hand."""

    def __init__(self) -> None:
        self.found: Status | OcdError = status()
        self.news: list[Exchange] = [exchange()]
        self.done: list[str] = []
        self.over = threading.Event()

    def status(self) -> Status:
        if isinstance(self.found, OcdError):
            raise self.found
        return self.found

    def requests(self) -> Iterator[Exchange]:
        yield from list(self.news)
        self.over.wait(0.05)

    def log(self, name: str) -> Iterator[str]:
        yield f"the log of {name} \x1b[31mred"

    def events(self) -> Iterator[str]:
        yield "ready"

    def reload(self) -> Outcome:
        self.done.append("reload")
        return Outcome(ok=True, proxies={"main": "unchanged"})

    def restart(self, name: str) -> Outcome:
        self.done.append(f"restart {name}")
        return Outcome(ok=False, reason="it does not boot")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "PERIOD", 0.05)


def drive(source: Fake, steps: Any, size: tuple[int, int] = (80, 24)) -> None:
    async def run() -> None:
        app = ControlRoom(source, lambda: NOW)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.query_one("#requests", DataTable).row_count > 0 or not source.news)
            await until(pilot, lambda: app.room.status is not None or isinstance(source.found, OcdError))
            await steps(app, pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], condition: Any) -> None:
    for _ in range(500):
        await pilot.pause(0.01)
        if condition():
            return
    raise AssertionError("it did not happen")


def test_keys_do_what_the_footer_says() -> None:
    source = Fake()

    async def steps(app: ControlRoom, pilot: Pilot[None]) -> None:
        assert app.query_one("#proxies", DataTable).row_count == 2
        await pilot.press("r")
        await until(pilot, lambda: source.done == ["reload"])
        await pilot.press("R", "n")
        await pilot.press("tab", "down") if app.focused is None else await pilot.press("down")
        wanted = app.selected()
        await pilot.press("R", "y")
        await until(pilot, lambda: source.done == ["reload", f"restart {wanted}"])
        await pilot.press("question_mark", "escape")
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, Follow))
        await until(pilot, lambda: bool(app.screen.query_one(RichLog).lines))
        assert "log of" in app.screen.query_one(RichLog).lines[0].text
        await pilot.press("escape")
        assert not isinstance(app.screen, Follow)

    drive(source, steps)


def test_filter_and_pause() -> None:
    source = Fake()
    source.news = [exchange(), exchange(1, slot="haiku", model="qwen", upstream="b")]

    async def steps(app: ControlRoom, pilot: Pilot[None]) -> None:
        table = app.query_one("#requests", DataTable)
        await until(pilot, lambda: table.row_count == 2)
        await pilot.press("slash", "q", "w", "e", "n", "enter")
        assert table.row_count == 1
        await pilot.press("escape")
        assert table.row_count == 2 and app.query_one("#filter", Input).value == ""
        await pilot.press("p")
        assert app.room.paused
        source.news.append(exchange(2))
        await until(pilot, lambda: len(app.room.requests) == 3)
        assert table.row_count == 2, "paused: kept, and not shown"
        await pilot.press("p")
        assert table.row_count == 3

    drive(source, steps)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 8)])
def test_a_daemon_that_goes_away_and_comes_back_at_any_size(size: tuple[int, int]) -> None:
    source = Fake()

    async def steps(app: ControlRoom, pilot: Pilot[None]) -> None:
        source.found = OcdError("The daemon is not running", "", "Run `occtl start`")
        await until(pilot, lambda: "not running" in app.room.lost)
        assert app.room.status is not None, "what was known stays on the screen"
        await pilot.resize_terminal(100, 30)
        source.found = status()
        await until(pilot, lambda: not app.room.lost)

    drive(source, steps, size)
