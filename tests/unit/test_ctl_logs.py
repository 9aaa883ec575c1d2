"""``occtl logs`` and ``events`` from the files: without a daemon, by time, by pattern, without noise."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl.__main__ import main
from ocd.ctl.look import logs, times
from ocd.errors import OcdError
from tests.unit.test_ctl_verbs import FakeDaemon, a_line, fake, prefix

__all__ = ["fake", "prefix"]
Capture = pytest.CaptureFixture[str]


def write(prefix: Path, name: str, lines: list[Any], number: int = 0) -> None:
    folder = prefix / "state" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / (f"{name}.log.{number}" if number else f"{name}.log")).write_text(text)


def texts(capsys: Capture) -> list[str]:
    return [line.split(None, 3)[3] for line in capsys.readouterr().out.splitlines()]


def test_without_a_daemon_all_files_are_read_and_a_torn_line_is_passed_over(
    prefix: Path, capsys: Capture
) -> None:
    write(prefix, "main", [a_line(1.0, "main", "oldest")], 2)
    write(prefix, "main", [a_line(2.0, "main", "old"), a_line(4.0, "main", "b")], 1)
    write(prefix, "main", ['{"time": 5.0, "pro', a_line(6.0, "main", "d")])
    write(prefix, "bedrock", [a_line(3.0, "bedrock", "a"), a_line(5.0, "bedrock", "c")])
    assert main(["logs", "-n", "4"]) == 0
    assert texts(capsys) == ["a", "b", "c", "d"]
    assert main(["logs", "main"]) == 0
    assert texts(capsys) == ["oldest", "old", "b", "d"]
    assert main(["logs", "bedrock", "-n", "0"]) == 0 and texts(capsys) == []


def test_a_line_has_its_date(prefix: Path, capsys: Capture) -> None:
    moment = 1_790_000_000.0
    write(prefix, "main", [a_line(moment, "main", "x")])
    assert main(["logs"]) == 0
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    assert capsys.readouterr().out == f"{shown} main#2     x\n"


def test_without_a_daemon_and_without_files_it_is_said(prefix: Path, capsys: Capture) -> None:
    for verb in ("logs", "events"):
        assert main([verb]) == 69
        assert "The daemon is not running" in capsys.readouterr().err


@pytest.mark.parametrize("block", [16, 65536])
def test_long_files_are_read_from_their_end(
    prefix: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setattr(logs, "_BLOCK", block)
    write(prefix, "main", [a_line(float(n), "main", f"{n} ü€") for n in range(500)])
    assert main(["logs", "main", "-n", "3"]) == 0
    assert texts(capsys) == ["497 ü€", "498 ü€", "499 ü€"]


NOISE = [
    'INFO:     None - "GET /health/liveliness HTTP/1.1" 200 OK',
    '127.0.0.1:5 - "HEAD /health/liveliness HTTP/1.1" 200 OK',
    "#------------------------------------------------------------#",
    "#                                                            #",
    "#           'A feature I really want is...'          #",
    "   ██╗     ██╗████████╗███████╗",
    " Thank you for using LiteLLM! - Krrish & Ishaan",
    "Give Feedback / Get Help: https://github.com/BerriAI/litellm/issues/new",
]
GOOD = [
    '127.0.0.1:5 - "POST /v1/messages HTTP/1.1" 200 OK',
    '127.0.0.1:5 - "GET /health HTTP/1.1" 200 OK',
    "# a comment of a program",
    "INFO:     Application startup complete.",
    "/health/liveliness is not what this is about",
]


def test_nobody_sees_our_health_checks_and_their_banners_unasked(prefix: Path, capsys: Capture) -> None:
    write(prefix, "main", [a_line(float(n), "main", text) for n, text in enumerate([*GOOD, *NOISE])])
    assert main(["logs", "-n", str(len(GOOD))]) == 0
    assert texts(capsys) == GOOD
    assert main(["logs", "--all"]) == 0
    assert len(texts(capsys)) == len(GOOD) + len(NOISE)


def test_since_until_and_a_pattern(prefix: Path, capsys: Capture) -> None:
    now = time.time()
    write(
        prefix,
        "main",
        [
            a_line(now - 7200, "main", "old Error"),
            a_line(now - 600, "main", "an Error"),
            a_line(now - 500, "main", "an error"),
            a_line(now - 10, "main", "fine"),
        ],
    )
    for options, shown in (
        (["--since", "1h"], ["an Error", "an error", "fine"]),
        (["--since", "1h", "-n", "1"], ["fine"]),
        (["--since", "1h", "--until", "5m"], ["an Error", "an error"]),
        (["-g", "error"], ["old Error", "an Error", "an error"]),
        (["-g", "Error", "--since=1h"], ["an Error"]),
        (["-g", "^fine$"], ["fine"]),
    ):
        assert main(["logs", *options]) == 0
        assert texts(capsys) == shown, options
    for wrong in (["--since", "soon"], ["-g", "("]):
        assert main(["logs", *wrong]) == 64
        assert capsys.readouterr().err.count("\n") == 3


def test_since_shows_all_of_it(prefix: Path, capsys: Capture) -> None:
    write(prefix, "main", [a_line(time.time() - 60, "main", str(n)) for n in range(300)])
    assert main(["logs"]) == 0 and len(texts(capsys)) == 100
    assert main(["logs", "--since", "2m"]) == 0 and len(texts(capsys)) == 300


def test_what_a_full_disk_refused_comes_from_the_daemon(
    fake: FakeDaemon, prefix: Path, capsys: Capture
) -> None:
    lines = [a_line(float(n), "main", str(n)) for n in range(6)]
    write(prefix, "main", lines[:4])
    fake.on("GET", "/v1/logs/main", lines[2:])
    assert main(["logs", "main", "-n", "3"]) == 0
    assert texts(capsys) == ["3", "4", "5"]
    write(prefix, "main", lines)
    fake.requests.clear()
    assert main(["logs", "main", "-n", "3"]) == 0
    assert texts(capsys) == ["3", "4", "5"]
    assert [request.query["lines"] for request in fake.requests] == ["1"], "the file has it all"


def test_the_daemons_own_log_without_it(prefix: Path, capsys: Capture) -> None:
    record = {"time": 20.0, "level": "info", "event": "started", "pid": 5}
    write(prefix, "daemon", [record, record | {"time": 30.0, "event": "later"}])
    assert main(["logs", "daemon", "-g", "started"]) == 0
    assert capsys.readouterr().out.endswith(" info started pid=5\n")
    assert main(["logs", "daemon", "--json", "-n", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "later"


def test_events_of_one_and_by_pattern(prefix: Path, capsys: Capture) -> None:
    write(
        prefix,
        "events",
        [
            {"time": 1.0, "kind": "daemon-started"},
            {"time": 2.0, "kind": "crashed", "proxy": "main", "generation": 1, "text": "signal 9"},
            {"time": 3.0, "kind": "ready", "proxy": "bedrock", "generation": 1},
        ],
    )
    for options, kinds in (
        ([], ["daemon-started", "crashed", "ready"]),
        (["main"], ["crashed"]),
        (["daemon"], ["daemon-started"]),
        (["-g", "signal|start"], ["daemon-started", "crashed"]),
        (["-n", "1"], ["ready"]),
    ):
        assert main(["events", *options, "--json"]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [event["kind"] for event in found] == kinds, options
    assert main(["events", "nobody"]) == 64


def test_following_is_sieved_too(fake: FakeDaemon, capsys: Capture) -> None:
    fake.release.set()  # each stream ends at once
    fake.on(
        "GET", "/v1/logs/main", [a_line(float(n), "main", text) for n, text in enumerate([*NOISE, "a", "b"])]
    )
    fake.on("GET", "/v1/version", {"version": "1", "pid": 0})
    assert main(["logs", "main", "-f", "-g", "b"]) == 0
    assert texts(capsys) == ["b"]
    fake.on("GET", "/v1/events", [{"time": 1.0, "kind": "x"}, {"time": 2.0, "kind": "y", "proxy": "main"}])
    assert main(["events", "main", "-f", "--json"]) == 0
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["y"]


def test_status_of_one(fake: FakeDaemon, capsys: Capture) -> None:
    assert main(["status", "bedrock"]) == 0
    out = capsys.readouterr().out
    assert "\nbedrock  ready" in out and "\nmain " not in out
    assert main(["status", "main", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["proxies"]) == ["main"]
    assert main(["status", "nobody"]) == 64


# ---- times


NOW = time.mktime((2026, 11, 27, 15, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - 90),
        ("10m", NOW - 600),
        ("10 min ago", NOW - 600),
        ("2h", NOW - 7200),
        ("3 days", NOW - 3 * 86400),
        ("now", NOW),
        ("today", (2026, 11, 27, 0, 0, 0)),
        ("Yesterday", (2026, 11, 26, 0, 0, 0)),
        ("14:30", (2026, 11, 27, 14, 30, 0)),
        ("14:30:15", (2026, 11, 27, 14, 30, 15)),
        ("2026-01-31", (2026, 1, 31, 0, 0, 0)),
        ("2026-01-31 14:30", (2026, 1, 31, 14, 30, 0)),
        ("2026-01-31T14:30:01", (2026, 1, 31, 14, 30, 1)),
        ("1790000000.5", 1_790_000_000.5),
    ],
)
def test_times_as_people_write_them(text: str, moment: Any) -> None:
    wanted = time.mktime((*moment, 0, 0, -1)) if isinstance(moment, tuple) else moment
    assert times.parse(text, "--since", NOW) == wanted


@pytest.mark.parametrize(
    "text", ["", " ", "soon", "25:00", "14:60", "2026-13-01", "2026-01-3114:30", "10y", "-5m"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(OcdError) as said:
        times.parse(text, "--since", NOW)
    assert said.value.exit_code == 64 and "--since" in said.value.what
