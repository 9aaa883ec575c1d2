"""Whole exchanges on demand: what is masked, what is bounded, when it ends, and that requests never notice."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl import replay
from ocd.ctl.control_room.picture import Room, heading
from ocd.ctl.look.status import remarks
from ocd.errors import OcdError
from ocd.guest import trace as guest
from ocd.guest.layers.meter import Meter
from ocd.supervisor.observation.statusfile import compose
from ocd.supervisor.observation.trace import AGE, Trace, sweep
from ocd.wire.messages import Status

OWN = "ocd-own-key-0123456789"
ANT = "sk-ant-oat01-CANARYcanaryCANARY"
AWS = "AKIACANARY0CANARY0CA"
LOGIN = "an opaque login CANARY-7"
BODY = {"model": "claude-opus-9-9", "system": f"{ANT} and {AWS}", "api_key": "CANARY-plain", "text": OWN}


def order(folder: Path, **more: Any) -> dict[str, Any]:
    return {"until": time.time() + 600, "folder": str(folder), **more}


def scope(**more: Any) -> dict[str, Any]:
    headers = [
        (b"authorization", f"Bearer {LOGIN}".encode()),
        (b"x-api-key", OWN.encode()),
        (b"cookie", b"CANARY-cookie"),
        (b"x-amz-security-token", b"CANARY-session"),
        (b"x-note", f"see {ANT}".encode()),
        (b"user-agent", b"claude-cli"),
    ]
    return {
        "type": "http",
        "client": ("127.0.0.1", 1),
        "method": "POST",
        "path": "/v1/messages",
        "query_string": f"beta=true&key=CANARY-query&x={ANT}".encode(),
        "headers": headers,
        **more,
    }


def pass_one(
    trace: guest.Trace,
    asked: bytes = json.dumps(BODY).encode(),
    told: bytes = b"{}",
    headers: list[tuple[bytes, bytes]] | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """One request through trace and meter; what the client got."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers or []})
        await send({"type": "http.response.body", "body": told})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": asked}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def run() -> None:
        await trace.outside(Meter(lambda fields: None, key=OWN).outside(app))(scope(**more), receive, send)
        await asyncio.to_thread(trace.finish, 20.0)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
    return sent


def made(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def test_no_credential_reaches_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "main"
    trace = guest.Trace("main", [OWN], lambda why: None)
    trace.take(order(folder))
    pass_one(
        trace,
        told=json.dumps({"echo": [ANT, LOGIN, OWN], "session_token": "CANARY-1"}).encode(),
        headers=[(b"set-cookie", b"CANARY-set"), (b"content-type", b"application/json")],
    )
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    text = file.read_text()
    assert "CANARY" not in text and "canary" not in text and OWN not in text
    (one,) = made(folder)
    assert (one["method"], one["path"], one["status"]) == ("POST", "/v1/messages", 200)
    assert one["query"] == [["beta", "true"], ["key", "***"], ["x", "***"]]
    assert ["user-agent", "claude-cli"] in one["headers"] and ["x-note", "see ***"] in one["headers"]
    assert ["content-type", "application/json"] in one["answer_headers"]
    assert json.loads(one["body"]["text"])["model"] == one["model"] == "claude-opus-9-9"
    assert one["slot"] == "opus" and one["start"] <= one["first_byte"] <= one["end"]


def test_a_compressed_answer_is_read_or_left_out(tmp_path: Path) -> None:
    for encoding, told in ((b"gzip", gzip.compress(f'{{"a": "{ANT}"}}'.encode())), (b"odd", ANT.encode())):
        folder = tmp_path / encoding.decode()
        trace = guest.Trace("main", [], lambda why: None)
        trace.take(order(folder))
        pass_one(trace, told=told, headers=[(b"content-encoding", encoding)])
        (one,) = made(folder)
        assert one["answer"]["size"] == len(told) and "CANARY" not in json.dumps(one)
        assert one["answer"]["text"] == ('{"a": "***"}' if encoding == b"gzip" else "")
        assert ("not kept" in one["answer"]["note"]) == (encoding == b"odd")


def test_a_long_body_is_cut_and_says_so(tmp_path: Path) -> None:
    trace = guest.Trace("main", [], lambda why: None)
    trace.take(order(tmp_path))
    told = b"x," * (guest.BODY // 2) + b"y" * guest.BEYOND * 2
    sent = pass_one(trace, told=told)
    assert sent[1]["body"] == told
    (one,) = made(tmp_path)
    assert (
        one["answer"]["cut"] and len(one["answer"]["text"]) == guest.BODY and "cut" in one["answer"]["note"]
    )
    assert one["answer"]["size"] == len(told) and not one["body"]["cut"]


def test_a_credential_where_a_text_is_divided_is_seen_whole() -> None:
    for shift in range(0, 60, 7):
        text = "a," * (guest.PIECE // 2 - 20) + "b" * shift + f' "{ANT}", ' + "c" * 10
        assert "CANARY" not in guest.Masking([]).text(text)
        assert "".join(guest.pieces(text)) == text


def test_the_oldest_go_and_those_of_yesterday(tmp_path: Path) -> None:
    now = time.time()
    for number in range(6):
        path = tmp_path / f"{number}.json"
        path.write_bytes(b"x" * 10)
        os.utime(path, (now - 60 + number, now - 60 + number))
    os.utime(tmp_path / "0.json", (now - AGE - 60,) * 2)
    guest.prune(str(tmp_path), now - AGE, 100, 1000)
    assert not (tmp_path / "0.json").exists() and len(list(tmp_path.iterdir())) == 5
    guest.prune(str(tmp_path), now - AGE, 4, 1000)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["2.json", "3.json", "4.json", "5.json"]
    guest.prune(str(tmp_path), now - AGE, 4, 25)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["4.json", "5.json"]


def test_off_it_is_not_in_the_way_and_it_ends_by_itself(tmp_path: Path) -> None:
    trace = guest.Trace("main", [], lambda why: None)
    app = object()
    called = trace.outside(lambda *given: app)  # type: ignore[arg-type, return-value]
    assert called(scope(), None, None) is app  # type: ignore[arg-type]
    trace.take({**order(tmp_path), "until": time.time() - 1})
    pass_one(trace)
    assert trace.until == 0 and not list(tmp_path.iterdir())
    for wrong in ({}, {"until": "soon", "folder": "/x"}, {"until": 5e9}, {"until": 5e9, "folder": "x"}):
        trace.take(wrong)
        assert trace.until == 0


def test_only_the_slot_that_was_asked_for(tmp_path: Path) -> None:
    for slot, pins, wanted in (("haiku", {}, 0), ("opus", {}, 1), ("haiku", {"haiku": BODY["model"]}, 2)):
        trace = guest.Trace("main", [], lambda why: None)
        trace.take(order(tmp_path, slot=slot, pins=pins))
        pass_one(trace)
        assert len(made(tmp_path)) == wanted


def test_a_full_disk_ends_the_trace_and_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    trace = guest.Trace("main", [], told.append)
    trace.take(order(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    pass_one(trace)
    assert trace.until == 0 and told == ["No space left on device"] and not list(tmp_path.iterdir())
    pass_one(trace)
    assert told == ["No space left on device"]


def test_what_cannot_wait_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = guest.Trace("main", [], lambda why: None)
    trace.take(order(tmp_path))
    monkeypatch.setattr(guest, "WAITING_BYTES", 10)
    pass_one(trace)
    assert trace.dropped == 1 and not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ supervisor


class Told:
    def __init__(self, folder: Path) -> None:
        self.events: list[tuple[str, str]] = []
        self.warned: list[str] = []
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.trace = Trace(
            folder,
            lambda kind, *a, text="", **more: self.events.append((kind, text)),
            lambda text, **more: self.warned.append(f"{text} {more}"),
            lambda proxy, said: self.orders.append((proxy, said)),
            lambda: {"haiku": "qwen"},
        )


def test_on_and_off_and_what_a_new_guest_is_told(tmp_path: Path) -> None:
    told = Told(tmp_path / "trace")
    trace = told.trace
    assert trace.until is None and trace.order("main") == {} and not trace.off("x") and not told.events
    until = trace.on(600, "opus")
    assert trace.until == until and [proxy for proxy, _ in told.orders] == ["main", "bedrock"]
    assert told.orders[1][1]["folder"] == str(tmp_path / "trace" / "bedrock")
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o700 for p in (tmp_path / "trace", tmp_path / "trace/main"))
    boot: dict[str, Any] = {"confine": {"write": ["/dev"]}}
    trace.prepare("main", boot)
    assert boot["trace"] == trace.order("main") and boot["confine"]["write"][-1].endswith("trace/main")
    assert trace.off("enough") and told.orders[-2:] == [("main", {}), ("bedrock", {})]
    assert [kind for kind, _ in told.events] == ["trace-on", "trace-off"]


def test_it_ends_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(tmp_path / "trace")
    until = told.trace.on(600, "")
    told.trace.follow()
    assert len(told.events) == 1
    monkeypatch.setattr(time, "time", lambda: until + 1)
    assert told.trace.until is None and told.trace.order("main") == {}
    told.trace.follow()
    assert told.events[-1] == ("trace-off", "its time is over")


def test_a_guest_that_could_not_write_ends_it(tmp_path: Path) -> None:
    told = Told(tmp_path / "trace")
    told.trace.on(600, "")
    assert not told.trace.heard("main", {"ev": "report", "kind": "fallback"})
    said = {"ev": "report", "kind": "trace-failed", "where": "No space left on device"}
    assert told.trace.heard("main", said) and told.trace.heard("bedrock", said)
    assert told.trace.until is None and "No space left" in told.warned[0]
    assert [kind for kind, _ in told.events] == ["trace-on", "trace-off"]


def test_a_successor_goes_on_a_new_daemon_does_not(tmp_path: Path) -> None:
    first = Told(tmp_path / "trace")
    until = first.trace.on(600, "haiku")
    successor = Told(tmp_path / "trace").trace
    successor.restore(json.loads(json.dumps(first.trace.notes())))
    assert successor.until == until and successor.order("main")["slot"] == "haiku"
    for notes in (None, [], "x", [1, 2, 3], ["soon", ""]):
        new = Told(tmp_path / "trace").trace
        new.restore(notes)
        assert new.until is None


def test_a_start_removes_what_is_a_day_old(tmp_path: Path) -> None:
    told = Told(tmp_path / "trace")
    told.trace.begin()
    old, new = tmp_path / "trace/main/1.json", tmp_path / "trace/main/2.json"
    for path in (old, new):
        path.write_text("{}")
    os.utime(old, (time.time() - AGE - 10,) * 2)
    told.trace.begin()
    assert not old.exists() and new.exists()
    sweep(tmp_path / "nowhere", time.time())


def test_status_top_and_status_line_say_it() -> None:
    until = time.time() + 600
    on, off = (
        Status(version="1", pid=1, keeper_pid=2, since=1.0, proxies={}, trace_until=one)
        for one in (until, None)
    )
    for status, said in ((on, True), (off, False)):
        assert any("occtl trace off" in line for line, _ in remarks(status)) is said
        assert ("tracing until" in heading(Room(status=status), time.time())) is said
        assert ("tracing until" in compose(status, {}, [], [90])) is said


# ---- once more


def _kept(**more: Any) -> dict[str, Any]:
    return {
        "proxy": "main",
        "path": "/v1/messages",
        "query": [["beta", "true"], ["q", "a b&c"]],
        "headers": [
            ["Host", "127.0.0.1:4000"],
            ["content-length", "99"],
            ["Connection", "close"],
            ["authorization", "Bearer ***"],
            ["x-litellm-api-key", "Bearer ***"],
            ["x-ocd-account", "work"],
            ["anthropic-beta", "oauth-2025-04-20"],
            ["x-anything-new", "1"],
        ],
        "body": {"text": '{"a": "***"}', "size": 12, "cut": False, "note": ""},
        **more,
    }


def test_a_request_is_sent_again_as_it_was_but_for_what_is_masked() -> None:
    again = replay.prepare(_kept(), "sk-ours", {})
    assert again.target == "/v1/messages?beta=true&q=a+b%26c"
    assert again.headers == [
        ("anthropic-beta", "oauth-2025-04-20"),
        ("x-anything-new", "1"),
        ("x-litellm-api-key", "Bearer sk-ours"),
    ]
    assert again.body == b'{"a": "***"}' and again.masked == 1


def test_the_login_comes_from_claude_codes_own_variables_and_goes_to_main_alone() -> None:
    oauth = {"CLAUDE_CODE_OAUTH_TOKEN": "one", "ANTHROPIC_API_KEY": "two"}
    assert replay.prepare(_kept(), "k", oauth).headers[-1] == ("authorization", "Bearer one")
    assert replay.prepare(_kept(), "k", {"ANTHROPIC_API_KEY": "two"}).headers[-1] == ("x-api-key", "two")
    told = replay.prepare(_kept(proxy="bedrock"), "k", oauth).headers
    assert not any(value.endswith(("one", "two")) for _, value in told)


@pytest.mark.parametrize("body", [{"cut": True, "note": ""}, {"cut": False, "note": "not text"}])
def test_what_was_not_kept_whole_is_not_sent(body: dict[str, Any]) -> None:
    with pytest.raises(OcdError) as wrong:
        replay.prepare(_kept(body={"text": "", "size": 9, **body}), "k", {})
    assert wrong.value.exit_code == 65


def test_who_does_not_answer_is_an_error_without_a_word_of_the_request() -> None:
    again = replay.prepare(_kept(), "sk-ours", {})
    with pytest.raises(OcdError) as wrong:
        list(replay.send(again, "http://127.0.0.1:0", "POST"))
    assert wrong.value.exit_code == 69 and "sk-ours" not in str(wrong.value)
