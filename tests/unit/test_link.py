"""The supervisor's end of the link: a keeper of any version, nonsense, and what is lost on the way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocd import __version__
from ocd.ipc import frames, messages
from ocd.supervisor.supervision.link import GuestChannel, KeeperLink

GOLDEN = Path(__file__).parent / "golden_ipc"


class Side:
    """The keeper's side of a link, and everything that the supervisor's side made of it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        self.sock = ours
        self.reader = frames.Reader(ours)
        self.news: list[tuple[dict[str, Any], list[int]]] = []
        self.faults: list[str] = []
        self.link = KeeperLink(
            theirs, lambda m, fds: self.news.append((m, fds)), self.end, self.faults.append
        )
        self.ended = False

    def end(self) -> None:
        self.ended = True

    def told(self) -> list[dict[str, Any]]:
        self.sock.setblocking(False)
        return [message for message, _fds in self.reader.feed()]


def talk(conversation: Callable[[Side], Any]) -> Side:
    """Have the keeper's side say something; returns what came of it."""

    async def run() -> Side:
        side = Side()
        side.link.start()
        conversation(side)
        for _ in range(20):
            await asyncio.sleep(0)
        asyncio.get_running_loop().remove_reader(side.link.sock.fileno())
        return side

    side = asyncio.run(run())
    for _message, fds in side.news:
        for fd in fds:
            os.close(fd)
    said = side.told()
    assert said[0] == {"op": "hello", "protocol": messages.PROTOCOL, "version": __version__}
    side.reader.close()
    side.link.sock.close()
    side.said = said[1:]  # type: ignore[attr-defined]
    return side


def test_a_keeper_of_0_1_is_understood_with_all_that_the_daemon_asks_of_its_messages() -> None:
    golden = json.loads((GOLDEN / "0.json").read_text())["from-keeper"]
    null = os.open(os.devnull, os.O_RDONLY)
    brings = {"state": 1, "process": 3, "listening": 1, "spawned": 3, "host-started": 2}

    def conversation(side: Side) -> None:
        for message in golden:
            frames.send(side.sock, message, [null] * brings.get(message["op"], 0))

    side = talk(conversation)
    os.close(null)
    assert [m["op"] for m, _ in side.news] == [m["op"] for m in golden]
    assert not side.faults and side.link.protocol == 0 and side.link.keeper_version == ""
    # a field that it does not say has its default
    assert next(m for m, _ in side.news if m["op"] == "host-started")["old"] is False


def test_the_version_of_the_keeper_is_known() -> None:
    side = talk(lambda s: frames.send(s.sock, messages.wire(messages.State(1, [], "", [], 0, 0, 7, "9.9"))))
    assert (side.link.protocol, side.link.keeper_version) == (messages.PROTOCOL, "9.9")


@pytest.mark.parametrize("nonsense", [{"op": "dance"}, {"op": "exit"}, {}, {"op": "state", "pid": "x"}])
def test_what_is_not_understood_is_reported_and_the_next_message_is_read(nonsense: dict[str, Any]) -> None:
    def conversation(side: Side) -> None:
        read, write = os.pipe()
        frames.send(side.sock, nonsense, [read])
        os.close(read)
        side.pipe = write  # type: ignore[attr-defined]
        frames.send(side.sock, messages.wire(messages.Signal("HUP")))

    side = talk(conversation)
    assert [m["op"] for m, _ in side.news] == ["signal"] and len(side.faults) == 1
    with pytest.raises(BrokenPipeError):
        os.write(side.pipe, b"x")  # type: ignore[attr-defined]
    os.close(side.pipe)  # type: ignore[attr-defined]


def test_a_note_says_which_exit_it_has_seen_and_a_kill_which_process_it_means() -> None:
    def conversation(side: Side) -> None:
        three = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
        frames.send(side.sock, messages.wire(messages.Spawned(1, 42, "t", 7.5)), three)
        for fd in three:
            os.close(fd)
        side.link._read()
        side.link.send("kill", pid=42, signal=15, group=False)
        side.link.send("note", text="before")
        frames.send(side.sock, messages.wire(messages.Exited(42, -9, "t", 1.0, 3)))
        side.link._read()
        side.link.send("note", text="after")
        side.link.send("kill", pid=42, signal=15, group=False)

    side = talk(conversation)
    assert side.said == [  # type: ignore[attr-defined]
        {"op": "kill", "pid": 42, "signal": 15, "started": 7.5},
        {"op": "note", "text": "before"},
        {"op": "note", "text": "after", "seen": 3},
        {"op": "kill", "pid": 42, "signal": 15},
    ]


def test_an_exit_whose_handling_failed_is_not_seen() -> None:
    def conversation(side: Side) -> None:
        frames.send(side.sock, messages.wire(messages.Exited(42, -9, "t", 1.0, 3)))
        side.link.on_message = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
        with pytest.raises(ZeroDivisionError):
            side.link._read()
        side.link.send("note", text="x")

    assert talk(conversation).said == [{"op": "note", "text": "x"}]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("message", "becomes", "orders"),
    [
        (messages.Spawned(1, 42, "t", 7.5), "spawn-failed", ["kill"]),
        (messages.Listening("control"), "listen-failed", ["unlisten"]),
        (messages.Process(42, "t", 7.5), "", ["kill"]),
        (messages.HostStarted(42), "host-started", []),
    ],
)
def test_what_began_without_our_having_its_descriptors_does_not_stay(
    message: Any, becomes: str, orders: list[str]
) -> None:
    side = talk(lambda s: frames.send(s.sock, {**messages.wire(message), "fds": 3}))
    assert [m["op"] for m, _ in side.news] == [becomes]
    assert [m["op"] for m in side.said] == orders  # type: ignore[attr-defined]
    if becomes.endswith("failed"):
        assert "descriptors" in side.news[0][0]["error"]
    assert side.faults


def test_an_order_that_is_not_one_is_our_own_mistake() -> None:
    with pytest.raises(messages.Misfit):
        talk(lambda s: s.link.send("unlisten"))


def test_orders_that_are_too_long_are_reported_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_LINE", 1000)
    side = talk(lambda s: s.link.send("note", text="x" * 2000))
    assert side.said == [] and "too long" in side.faults[0]  # type: ignore[attr-defined]


def test_what_a_process_did_before_it_was_gone_is_read_and_its_state_is_not(tmp_path: Path) -> None:
    """Nobody has looked at its socket yet: the keeper's news of its end came first."""

    async def run() -> tuple[list[str], list[bytes]]:
        ours, theirs = socket.socketpair()
        out, into = os.pipe()
        err, into_err = os.pipe()
        said: list[str] = []
        output: list[bytes] = []
        channel = GuestChannel(
            *(1, 42, [ours.detach(), out, err]),
            on_message=lambda _channel, message: said.append(f"{message['ev']} {message.get('number', '')}"),
            on_output=lambda _channel, _stream, data: output.append(data),
        )
        for number in range(1, 31):
            frames.send(theirs, {"ev": "request", "number": number, "path": "/v1/messages" * 9})
        frames.send(theirs, {"ev": "accepting", "ports": [4000]})
        os.write(into, b"the last words\n")
        for end in (into, into_err):
            os.close(end)
        theirs.close()
        channel.drain()
        channel.close()
        return said, output

    said, output = asyncio.run(run())
    assert said == [f"request {number}" for number in range(1, 31)] and output == [b"the last words\n"]
