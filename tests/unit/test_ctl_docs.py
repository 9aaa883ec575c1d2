"""docs/commands.md and docs/api.md say what the code has."""

import re
from pathlib import Path

from ocd.ctl.app import VERBS
from ocd.ctl.options import STATES
from ocd.wire import messages

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_verb_is_documented() -> None:
    said = (DOCS / "commands.md").read_text(encoding="utf-8")
    for verbs in VERBS.values():
        for verb in verbs:
            assert re.search(rf"^\| `{verb}[ `]", said, re.MULTILINE), verb


def test_every_call_and_field_is_documented_with_an_example() -> None:
    said = (DOCS / "api.md").read_text(encoding="utf-8")
    calls = re.findall(r"^\| (GET|POST) (/v1/\S+)", messages.__doc__ or "", re.MULTILINE)
    assert len(calls) >= 10
    for method, path in calls:
        assert f"`{method} {path.rstrip(',')}" in said
        plain = path.rstrip(",").split("?")[0].replace("{name}", "(main|bedrock)")
        assert re.search(rf"^ocdapi .*http://ocd{plain}", said, re.MULTILINE), path
    for name, found in vars(messages).items():
        if isinstance(found, type) and issubclass(found, messages.Message) and name != "ErrorReply":
            for field in found.model_fields:
                assert f"`{field}`" in said or f'"{field}"' in said, (name, field)


def test_the_states_are_those_of_the_messages() -> None:
    listed = re.search(r"``state``: ([^.]*)\.", messages.ProxyStatus.__doc__ or "")
    assert listed and tuple(listed[1].split(", ")) == STATES
    said = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert all(f"`{state}`" in said for state in STATES)


def test_the_list_of_events_is_closed() -> None:
    said = (DOCS / "api.md").read_text(encoding="utf-8").partition("## Events")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([a-z-]+)`", said))
    found: set[str] = set()
    for path in (DOCS.parent / "ocd").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"(?:\.event\(|Announce\()\s*\"([a-z-]+)\"", text))
        if "guest" in path.parts:
            found.update(re.findall(r"\"kind\": \"([a-z-]+)\"", text))
    assert len(found) > 20
    assert not found - listed, "say in docs/api.md when this happens"
