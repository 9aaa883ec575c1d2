"""Words for times and sizes, and text of others that must not steer the terminal."""

import pytest

from ocd.ctl import screen
from ocd.errors import OcdError
from ocd.wire.messages import Outcome, Problem


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (7505, "2h 05m"),
        (90000, "1d 01h"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert screen.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1 KiB"), (139_460_608, "133 MiB"), (2**31, "2.0 GiB")],
)
def test_size(count: int | None, words: str) -> None:
    assert screen.size(count) == words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tü\r\n", "plain\tü"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\x1bcb", "ab"),
        ("over\rwrite\nline", "over\N{REPLACEMENT CHARACTER}write\N{REPLACEMENT CHARACTER}line"),
        ("\x9b2J\x00", "\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert screen.plain(text) == shown


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    assert screen.home("/home/u/x") == "~/x"
    assert screen.home("/home/uwe/x") == "/home/uwe/x"
    monkeypatch.setenv("HOME", "/")
    assert screen.home("/x") == "/x"


def test_an_error_has_three_lines_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_error(OcdError("It broke\nbadly", "a reason", "Do this"))
    screen.show_error(OcdError("Alone"))
    said = capsys.readouterr().err
    assert (
        said
        == "error: It broke\N{REPLACEMENT CHARACTER}badly\n  why:  a reason\n  next: Do this\nerror: Alone\n"
    )


def test_a_failed_outcome_becomes_the_error_that_it_holds() -> None:
    problem = Problem(code="yaml", what="Line 3 is wrong", why="a tab", next="Use spaces", exit=78)
    error = screen.outcome_error(Outcome(ok=False, proxies={}, problems=[problem]), "Not reloaded", 69)
    assert (error.what, error.why, error.next_step, error.exit_code) == (
        "Line 3 is wrong",
        "a tab",
        "Use spaces",
        78,
    )
    error = screen.outcome_error(Outcome(ok=False, proxies={}, reason="it is busy"), "Not reloaded", 69)
    assert (error.what, error.why, error.exit_code) == ("Not reloaded", "it is busy", 69)
