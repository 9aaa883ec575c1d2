"""Landlock's plan and its effect, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ocd.guest import confine
from ocd.supervisor.supervision import confinement

ROOT = Path(__file__).resolve().parents[2]
TRY = """\
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
import encodings.idna
from ocd.guest import confine
plan, questions = json.loads(sys.argv[2])
said = confine.confine(plan)
answers = {}
for name in questions["read"]:
    try:
        answers[name] = os.listdir(name) if os.path.isdir(name) else open(name).read()
    except OSError as error:
        answers[name] = type(error).__name__
for name in questions["write"]:
    try:
        open(name, "a").close()
        answers["write " + name] = "done"
    except OSError as error:
        answers["write " + name] = type(error).__name__
for name in questions.get("listen", ()):
    try:
        socket.socket(socket.AF_UNIX).bind(name)
        answers["listen " + name] = "done"
    except OSError as error:
        answers["listen " + name] = type(error).__name__
for port in questions["connect"]:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
        answers[str(port)] = "connected"
    except OSError as error:
        answers[str(port)] = type(error).__name__
print(json.dumps([said, answers]))
"""
needs_landlock = pytest.mark.skipif(not confine.version(), reason="this kernel has no Landlock")


def tried(plan: dict[str, object], **questions: list[object]) -> tuple[str, dict[str, object]]:
    asked = {"read": [], "write": [], "connect": [], **questions}
    code = [sys.prefix, sys.base_prefix, str(ROOT / "ocd")]
    plan = {"write": [], "hide": [], "connect": None, **plan}
    plan["read"] = [*confinement.SYSTEM, *code, *plan.get("read", [])]  # type: ignore[misc]
    done = subprocess.run(
        [sys.executable, "-I", "-c", TRY, str(ROOT), json.dumps([plan, asked])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said, answers = json.loads(done.stdout)
    return said, answers


@needs_landlock
def test_only_what_the_plan_names_can_be_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("yes")
    (tmp_path / "out").write_text("no")
    places = [str(tmp_path / "in" / "file"), str(tmp_path / "out")]
    said, answers = tried({"read": [str(tmp_path / "in")]}, read=places, write=places)
    assert said.startswith("confined: Landlock")
    assert answers[places[0]] == "yes" and answers[places[1]] == "PermissionError"
    assert answers[f"write {places[0]}"] == "PermissionError"
    _said, answers = tried({"write": [str(tmp_path / "in")]}, read=places, write=places)
    assert answers[places[0]] == "yes" and answers[f"write {places[0]}"] == "done"
    assert answers[f"write {places[1]}"] == "PermissionError"


@needs_landlock
def test_what_is_hidden_is_left_out_and_its_neighbours_are_not(tmp_path: Path) -> None:
    for name in (".aws/credentials", ".config/gcloud/key", ".config/else"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    hidden = [str(tmp_path / ".config/gcloud"), str(tmp_path / "never/was")]
    places = [str(tmp_path / name) for name in (".aws/credentials", ".config/gcloud/key", ".config/else")]
    _said, answers = tried({"write": ["/"], "hide": hidden}, read=places)
    assert [answers[place] for place in places] == ["text", "PermissionError", "text"]


@needs_landlock
def test_what_is_named_itself_below_a_hidden_folder_is_open(tmp_path: Path) -> None:
    for name in ("state/keys.json", "state/revisions/r1/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    places = [str(tmp_path / name) for name in ("state/keys.json", "state/revisions/r1/file")]
    plan = {"write": ["/"], "hide": [str(tmp_path / "state")], "read": [str(tmp_path / "state/revisions/r1")]}
    _said, answers = tried(plan, read=places, write=places)
    assert [answers[place] for place in places] == ["PermissionError", "text"]
    assert answers[f"write {places[1]}"] == "PermissionError"


def test_no_rule_names_a_large_file(tmp_path: Path) -> None:
    """A rule keeps the inode: what its user removes would go on taking room on the disk."""
    (tmp_path / "small").write_text("text")
    (tmp_path / "large").write_bytes(b"0" * 100_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("large")
    opened = set(confine._open_parts([str(tmp_path)], [str(tmp_path / "hidden")]))
    assert opened == {str(tmp_path / "small"), str(tmp_path / "folder")}


@needs_landlock
def test_a_folder_that_is_made_again_takes_a_socket_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("text")
    file, new, sock = (str(tmp_path / "run" / name) for name in ("file", "new", "a.sock"))
    _said, answers = tried({"sockets": [str(tmp_path)]}, read=[file], write=[new], listen=[sock])
    assert [*answers.values()] == ["PermissionError", "PermissionError", "done"]


@needs_landlock
def test_a_link_into_a_hidden_folder_is_no_way_round(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("key")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    _said, answers = tried(
        {"write": [str(tmp_path)], "hide": [str(tmp_path / "secret")]}, read=[str(tmp_path / "link" / "key")]
    )
    assert answers[str(tmp_path / "link" / "key")] == "PermissionError"


@pytest.mark.skipif(confine.version() < 4, reason="this kernel's Landlock knows no ports")
def test_only_the_ports_of_the_plan_can_be_connected_to() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as yes, socket.create_server(("127.0.0.1", 0)) as no:
        good, bad = yes.getsockname()[1], no.getsockname()[1]
        _said, answers = tried({"connect": [good]}, connect=[good, bad])
    assert answers == {str(good): "connected", str(bad): "PermissionError"}


@pytest.mark.skipif(confine.version() < 4, reason="this kernel's Landlock knows no ports")
def test_main_with_known_upstreams_reaches_them_and_no_other_port() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as yes, socket.create_server(("127.0.0.1", 0)) as no:
        good, bad = yes.getsockname()[1], no.getsockname()[1]
        table = {"groups": {"claude-*": {"way": "anthropic", "base": f"http://127.0.0.1:{good}"}}}
        plan = made("main", upstreams=confinement.upstreams(table, {}))
        said, answers = tried(plan, connect=[good, bad])
    assert said.endswith("files and ports")
    assert answers == {str(good): "connected", str(bad): "PermissionError"}


def test_without_landlock_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "version", lambda: 0)
    assert confine.confine({"read": []}) == "not confined: this system has no Landlock"


def made(proxy: str, **changes: object) -> dict[str, object]:
    given = {
        "home": "/home/a",
        "config": "/c",
        "revision": "/r",
        "runtime": "/run/a",
        "state": "/s",
        "env": {},
    }
    return confinement.plan(proxy, **{**given, "upstreams": None, **changes})  # type: ignore[arg-type]


def test_main_gets_no_folder_of_its_user() -> None:
    plan = made(
        "main", env={"HOME": "/s/homes/main", "SSL_CERT_FILE": "/own/ca.pem", "PATH": "/bin:/usr/bin"}
    )
    opened = [*plan["read"], *plan["write"]]  # type: ignore[misc]
    assert not [path for path in opened if path.startswith("/home") or path in ("/", "/s", "/tmp")]
    assert "/own/ca.pem" in opened and "/s/homes/main" in opened


@pytest.mark.parametrize("proxy", ["main", "bedrock"])
def test_the_runtime_folder_may_be_another_one_tomorrow(proxy: str) -> None:
    # What is opened child by child (beside something hidden) is open by its inode.
    assert made(proxy, state="/run/state", runtime="/run/a")["sockets"] == ["/run"]


def test_bedrock_does_not_get_the_logins_of_others() -> None:
    hidden = made("bedrock")["hide"]
    assert {"/home/a/.claude", "/home/a/.claude.json", "/home/a/.config/gcloud", "/s"} <= set(hidden)  # type: ignore[call-overload]


def test_mains_upstreams_are_known_where_no_group_is_litellms() -> None:
    groups = {
        "claude-*": {"way": "anthropic", "base": ""},
        "own": {"way": "anthropic", "base": "os.environ/OWN"},
        "qwen": {"way": "hop"},
    }
    assert confinement.upstreams({"groups": groups}, {"OWN": "gateway:8080"}) == ["http://gateway:8080"]
    assert confinement.upstreams({"groups": {**groups, "gpt": {"way": "litellm"}}}, {}) is None
    assert confinement.upstreams({"groups": {**groups, "odd": {}}}, {}) is None
    assert confinement.upstreams({}, {}) is None, "a revision of a former version says nothing"


def test_mains_ports_are_those_of_its_upstreams_and_proxies() -> None:
    found = confinement.ports(
        {"HTTPS_PROXY": "proxy.corp:3128", "OCD_BEDROCK_URL": "http://127.0.0.1:4001/v1", "PATH": "/bin"},
        ["https://api.anthropic.com", "http://10.0.0.1:8080/x", "http://plain.example", "http://[bad"],
    )
    assert found == [53, 80, 443, 3128, 4001, 8080]
    assert 80 not in confinement.ports({}, ["https://api.anthropic.com"])
