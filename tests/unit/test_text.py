"""Text that somebody else chose is printable from the moment it enters: nothing that shows it can be broken by it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.adapters import ports
from ocd.adapters.logs import Capture, LogFile
from ocd.supervisor.api.http import json_response
from ocd.supervisor.observation.history import History
from ocd.supervisor.supervision.link import cleaned
from ocd.text import printable
from ocd.wire.messages import Event, ProxyStatus, Session


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 日本 🙂", "plain ünïcode 日本 🙂"),
        (b"caf\xe9", "caf\\xe9"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800x", "\\ud800x"),
        ("a\nb\rc\td\0", "a\\nb\\rc d\\x00"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("abc\u202ecba\u2066\u2028\ufeff\u200b", "abc\\u202ecba\\u2066\\u2028\\ufeff\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
        (b"", ""),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


def test_it_is_bounded_however_long_and_whatever_it_grows_to() -> None:
    for text in ("x" * 10**6, "\0" * 10**6, b"\xe9" * 10**6, "\x1b[0m" * 10**6, "\ud800" * 10**6):
        assert len(printable(text, 100)) <= 100
    assert printable("x" * 101, 100) == "x" * 99 + "…"
    assert printable("x" * 100, 100) == "x" * 100


def test_lines_stay_where_they_are_wanted() -> None:
    assert printable("a\nb\x1b", lines=True) == "a\nb\\x1b"


@given(st.text(st.characters(exclude_categories=())) | st.binary())
def test_any_text_can_be_printed_encoded_and_stays_as_it_is_the_second_time(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.isprintable() and shown.encode() and printable(shown) == shown if shown else True


HOSTILE = [b"caf\xe9", b"\x1b]0;owned\x07", b"a\nb", "\u202e".encode(), b"x" * 5000, b"sk-ant-" + b"a" * 400]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_command_line_of_a_port_holder_breaks_nothing(tmp_path: Path) -> None:
    code = b"import socket,sys; s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1],flush=True); input()"
    with subprocess.Popen(
        [os.fsencode(sys.executable), b"-ISc", code, *HOSTILE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={b"PATH": b"/bin"},
    ) as process:
        assert process.stdout is not None
        found = ports.holder(int(process.stdout.readline()))
        process.communicate(b"\n")
    assert found is not None and found.pid == process.pid
    assert found.command.isprintable() and 0 < len(found.command) <= 300
    assert "sk-ant-a" not in found.command
    event = History(LogFile(tmp_path / "e", 10**6, 1, lambda _t: None)).record("blocked", text=found.command)
    assert json.loads((tmp_path / "e").read_bytes())["text"] == event.text


def test_a_command_line_is_masked_before_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def username(self) -> str:
            return "m\x1b[2Jallory"

        def create_time(self) -> float:
            return 1.0

        def cmdline(self) -> list[str]:
            return ["x" * 295, "sk-ant-oat01-secretsecret", "caf\udce9"]

    monkeypatch.setattr(ports.psutil, "Process", lambda _pid: Process())
    found = ports._describe(1, "127.0.0.1:1", "")
    assert "sk-a" not in found.command.replace("***", "") and found.command.isprintable()
    assert found.user == "m\\x1b[2Jallory"


def test_what_a_proxy_writes_is_a_line_of_its_log_and_nothing_more(tmp_path: Path) -> None:
    said: list[str] = []
    capture = Capture(said.append)
    capture.feed(b"caf\xe9 \x1b[31mred\x1b[0m \x1b[2J\x00 end\r\nnext\xff", 0.0)
    capture.end()
    assert said == ["caf\\xe9 red \\x1b[2J\\x00 end", "next\\xff"]
    log = LogFile(tmp_path / "log", 10**6, 1, lambda _t: None)
    for line in said:
        log.write({"text": line})
    assert [json.loads(line)["text"] for line in log.last(9)] == said


def test_nothing_that_is_written_can_break_who_reads_it(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", 10**6, 1, lambda _t: None)
    heard: list[str] = []
    log.listeners.append(heard.append)
    log.write({"text": "caf\udce9"})
    for line in (*log.last(1), *heard, *log.tail):
        assert line.encode() and json.loads(line)["text"] == "caf?"


def test_lines_that_0_1_has_left_can_be_read(tmp_path: Path) -> None:
    """Its events could not be shown again until the file was rotated."""
    (tmp_path / "log").write_text('{"text":"caf\\udce9"}\n{"text":"c:\\\\\\\\udce9"}\n{"text":"\\\\udce9"}\n')
    log = LogFile(tmp_path / "log", 10**6, 1, lambda _t: None)
    texts = [json.loads(line)["text"] for line in log.last(9)]
    assert texts == ["caf?", "c:\\\\udce9", "\\udce9"]
    assert all(text.encode() for text in texts)


def test_an_event_is_one_printable_text_and_its_data_too(tmp_path: Path) -> None:
    history = History(LogFile(tmp_path / "e", 10**6, 1, lambda _t: None))
    event = history.record("x", text="a\udce9\x1b[2J\nb", data={"path": "/caf\udce9", "n": 5})
    assert event.text == "a\\xe9\\x1b[2J\nb" and event.data == {"path": "/caf\\xe9", "n": 5}
    assert event.model_dump_json()
    assert len(history.record("x", text="y" * 10**6).text) <= 4000


@pytest.mark.parametrize(
    "message",
    [
        Event(time=1.0, kind="x", text="\udce9"),
        Session(pid=1, cwd="/caf\udce9", since=1.0),
        ProxyStatus(state="ready", wanted="up", port=4000, since=1.0, config="/caf\udce9"),
    ],
)
def test_no_text_turns_an_answer_of_the_api_into_an_error(message: Any) -> None:
    answer = json.loads(bytes(json_response(message).body))
    assert "\\xe9" in json.dumps(answer) and "\\ud" not in json.dumps(answer)


def test_what_a_guest_says_is_printable_at_every_depth() -> None:
    said = {"ev": "report", "to": ["caf\udce9", {"\x1b": "\x1b"}], "count": 3, "on": True, "none": None}
    assert cleaned(said) == {
        "ev": "report",
        "to": ["caf\\xe9", {"\\x1b": "\\x1b"}],
        "count": 3,
        "on": True,
        "none": None,
    }


def test_a_socket_in_a_folder_that_is_not_utf_8_is_no_trouble(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(folder + b"/s")
    assert printable(os.fsdecode(folder)).endswith("caf\\xe9")
