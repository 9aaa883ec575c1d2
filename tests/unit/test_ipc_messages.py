"""The messages between our processes: their wire form is pinned, and what is no message is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ocd.ipc import messages as m
from tests.helpers.daemon import ROOT

GOLDEN = Path(__file__).parent / "golden_ipc"
#: direction -> (its table, its reader, the key that names a message)
DIRECTIONS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "to-keeper": (m.TO_KEEPER, m.to_keeper, "op"),
    "from-keeper": (m.FROM_KEEPER, m.from_keeper, "op"),
    "to-forkserver": (m.TO_FORKSERVER, m.to_forkserver, "op"),
    "from-forkserver": (m.FROM_FORKSERVER, m.from_forkserver, "op"),
    "to-guest": (m.TO_GUEST, m.to_guest, "op"),
    "from-guest": (m.FROM_GUEST, m.from_guest, "ev"),
}
#: one of each with every field away from its default
EXAMPLES: dict[str, list[Any]] = {
    "to-keeper": [
        m.Hello(1, "1.2.3"),
        m.Listen("main:4000:::1", "::1", 4000),
        m.Listen("control", path="/run/user/1000/ocd/control.sock"),
        m.Unlisten("main:4000:::1"),
        m.StartHost(["/py", "-I", "guest.py", "forkserver"], {"PATH": "/bin"}),
        m.Spawn(7, '{"proxy":"main"}', "fork"),
        m.Spawn(8, "t", "exec", ["/py"], {"A": "b"}),
        m.Warm(),
        m.Kill(42, 9, True, 1700000000.5),
        m.Note("{}", 3),
        m.Alive(),
        m.Notify("READY=1"),
        m.Reexec(["/py", "-m", "ocd"], ["/py", "-m", "ocd.supervisor"]),
        m.Hold([42, 43]),
        m.Exit(78),
    ],
    "from-keeper": [
        m.State(1, ["control"], "{}", [{"op": "exit", "pid": 2, "status": -9, "tag": "t"}], 3, 4, 1, "1.2.3"),
        m.Process(42, "t", 1700000000.5),
        m.StateEnd(),
        m.Listening("control"),
        m.ListenFailed("control", 98, "Address already in use"),
        m.Spawned(7, 42, "t", 1700000000.5),
        m.SpawnFailed(7, "no memory", True),
        m.Exited(42, -9, "t", 1700000001.5, 5),
        m.HostStarted(43, True),
        m.HostFailed("No such file"),
        m.HostExited(78),
        m.HostNews("host-ready", "1.106.2", 2.5),
        m.Signal("TERM"),
        m.ReexecFailed("the new code does not load"),
        m.Refused("a message", "unlisten: name is missing"),
    ],
    "to-forkserver": [m.Fork(7), m.Warm()],
    "from-forkserver": [
        m.Forked(7, 0, "fork: no memory"),
        m.Importing(),
        m.HostReady("1.106.2", 2.5),
        m.HostWarm(3.5),
    ],
    "to-guest": [
        m.Boot(
            {"A": "b"},
            "/c",
            "/c/l.yaml",
            "/r/g.sock",
            ["--x"],
            ["/c"],
            {"p": 1},
            True,
            [{"path": "/"}],
            {"read": ["/c"]},
            {"a": 1},
            {"b": 1},
            "s",
        ),
        m.Accept(),
        m.Drain(60.0, True),
        m.Release(4000),
        m.Spill(),
        m.Budget(),
        m.Trace(),
        m.Rebind(),
        m.AskStatus(7),
    ],
    "from-guest": [
        m.GuestImporting(42),
        m.Version("1.106.2"),
        m.Waiting(42),
        m.Confined("confined: Landlock 4"),
        m.Armed(12),
        m.Accepting([4000]),
        m.AcceptFailed("out of descriptors"),
        m.Drained(1, 0.5),
        m.Status("accepting", 42, 1, 2, 3, {"accepted": 4}, [4000], 1.5),
        m.Request(8),
        m.Report("fallback"),
    ],
}


def sent(direction: str, message: Any) -> dict[str, Any]:
    return m.wire_event(message) if direction == "from-guest" else m.wire(message)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_wire_form_is_the_one_that_other_versions_know(direction: str) -> None:
    """A difference here is a difference for a supervisor or a keeper that is already running: raise PROTOCOL."""
    golden = json.loads((GOLDEN / "now.json").read_text())
    assert golden["protocol"] == m.PROTOCOL
    written = [json.loads(json.dumps(sent(direction, message))) for message in EXAMPLES[direction]]
    assert written == golden[direction]
    read = DIRECTIONS[direction][1]
    assert [read(one) for one in golden[direction]] == EXAMPLES[direction]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_message_has_its_example_with_every_field(direction: str) -> None:
    table, _read, key = DIRECTIONS[direction]
    shown: dict[str, set[str]] = {name: set() for name in table}
    for message in EXAMPLES[direction]:
        wire = sent(direction, message)
        shown[wire.pop(key)] |= set(wire)
    assert shown == {name: set(kind.__annotations__) for name, kind in table.items()}


def test_every_word_that_our_code_says_to_or_as_a_guest_is_a_message() -> None:
    """Both are written down where they are said; one that is not in the table would be dropped and only reported."""
    said: dict[str, set[str]] = {"from-guest": set(), "to-guest": set()}
    for path in (ROOT / "ocd" / "guest").rglob("*.py"):
        said["from-guest"] |= set(
            re.findall(r'\bguest\.tell\(\s*"([a-z-]+)"|\bself\.tell\(\s*"([a-z-]+)"', path.read_text())
        )
    for path in (ROOT / "ocd" / "supervisor").rglob("*.py"):
        said["to-guest"] |= set(
            re.findall(r'\bchannel\.send\(\s*"([a-z-]+)"|\.tell\([\w.]+, "([a-z-]+)"', path.read_text())
        )
    for direction, found in said.items():
        words = {word for pair in found for word in pair if word}
        assert len(words) > 3 and words <= set(DIRECTIONS[direction][0])


@pytest.mark.parametrize("direction", ["to-keeper", "from-keeper"])
def test_what_version_0_1_says_is_understood(direction: str) -> None:
    """Recorded from 0.1.0: a keeper of then lives on under a supervisor of now, and the other way round."""
    for message in json.loads((GOLDEN / "0.json").read_text())[direction]:
        DIRECTIONS[direction][1](message)


def test_what_version_0_1_needs_is_always_said() -> None:
    """A keeper of 0.1 takes these fields without asking, so none of them may have a default that is left out."""
    needed = json.loads((GOLDEN / "0.json").read_text())["needed"]
    for direction, names in needed.items():
        table = DIRECTIONS[direction][0]
        for name, fields in names.items():
            for field in fields:
                assert field not in table[name]._field_defaults, f"{name}: {field}"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({}, "a message without a name"),
        ({"op": None}, "a message without a name"),
        ({"op": ["kill"]}, "a message without a name"),
        ({"op": "dance"}, "'dance' is not a message that we know"),
        ({"op": "\x1b[2J\ud800"}, "'\\x1b[2J\\ud800' is not a message"),
        ({"op": "unlisten"}, "unlisten: name is missing"),
        ({"op": "unlisten", "name": 5}, "unlisten: name is not a string"),
        ({"op": "kill", "pid": "5", "signal": 9}, "kill: pid is not a whole number"),
        ({"op": "kill", "pid": True, "signal": 9}, "kill: pid is not a whole number"),
        ({"op": "kill", "pid": 5.5, "signal": 9}, "kill: pid is not a whole number"),
        ({"op": "kill", "pid": 2**64, "signal": 9}, "kill: pid is not a whole number"),
        ({"op": "kill", "pid": 5, "signal": 9, "group": 1}, "kill: group is not true or false"),
        ({"op": "kill", "pid": 5, "signal": 9, "started": "x"}, "kill: started is not a number"),
        ({"op": "kill", "pid": 5, "signal": 9, "started": float("nan")}, "kill: started is not a number"),
        ({"op": "host", "argv": "ls", "env": {}}, "host: argv is not a list"),
        ({"op": "host", "argv": ["ls", 5], "env": {}}, "host: argv is not a list"),
        ({"op": "host", "argv": ["ls"], "env": {"A": 5}}, "host: env is not an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(message: dict[str, Any], why: str) -> None:
    with pytest.raises(m.Misfit) as caught:
        m.to_keeper(message)
    assert why in str(caught.value)
    assert str(caught.value).isascii() and len(str(caught.value)) < 200


def test_no_value_is_repeated_in_a_complaint() -> None:
    with pytest.raises(m.Misfit) as caught:
        m.to_guest(
            {"op": "boot", "env": {"KEY": ["sk-ant-secret"]}, "cwd": "/", "config": "c", "socket": "s"}
        )
    assert "secret" not in str(caught.value)


def test_a_field_that_a_later_version_has_added_is_passed_over() -> None:
    assert m.to_keeper({"op": "unlisten", "name": "x", "gently": True}) == m.Unlisten("x")


def test_both_sides_speak_the_lower_of_two_protocols() -> None:
    assert m.common(0) == 0
    assert m.common(m.PROTOCOL) == m.PROTOCOL
    assert m.common(m.PROTOCOL + 7) == m.PROTOCOL
    with pytest.raises(m.Misfit, match="version -1"):
        m.common(-1)
