"""Reading Claude Code's settings files, whatever is in them, and writing the session's own."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from ocd.claude import files, launch
from ocd.claude.overlay import Slots
from ocd.errors import OcdError
from ocd.wire.messages import LaunchRequest

SLOTS = Slots("claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder")

BROKEN = {
    "not JSON": (b'{"a": 1,\n "secret-canary" }', "line 2"),
    "a list": (b"[1]", "not a JSON object"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8"),
    "deep": (b"[" * 200_000, "not valid JSON"),
    "long number": (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    "env no object": (b'{"env": "secret-canary"}', '"env"'),
    "huge": (b" " * (files.SIZE_LIMIT + 1), "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_settings_file_costs_a_notice(tmp_path, name):
    content, why = BROKEN[name]
    (tmp_path / "settings.json").write_bytes(content)
    notices = []
    assert files.read_user({"CLAUDE_CONFIG_DIR": str(tmp_path)}, "/", notices) == {}
    assert len(notices) == 1
    assert str(tmp_path) in notices[0] and why in notices[0] and "canary" not in notices[0]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_named_by_the_user_is_an_error(tmp_path, name):
    (tmp_path / "own.json").write_bytes(BROKEN[name][0])
    with pytest.raises(OcdError) as caught:
        files.read_given("own.json", str(tmp_path))
    assert caught.value.exit_code == 65
    assert "canary" not in caught.value.sentence()


def test_missing_empty_and_odd_files(tmp_path):
    notices = []
    assert files.read_user({"HOME": str(tmp_path)}, "/", notices) == {}
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_bytes(b"")
    assert files.read_user({"HOME": str(tmp_path)}, "/", notices) == {}
    assert notices == []
    os.mkfifo(tmp_path / "settings.json")
    assert files.read_user({"CLAUDE_CONFIG_DIR": "."}, str(tmp_path), notices) == {}
    assert "not a file" in notices[0]


def test_places_of_the_users_settings(tmp_path):
    (tmp_path / "settings.json").write_text('\ufeff{"model": "sonnet"}', encoding="utf-8")
    assert files.read_user({"CLAUDE_CONFIG_DIR": tmp_path.name, "HOME": "/"}, str(tmp_path.parent), []) == {
        "model": "sonnet"
    }


def test_given_settings(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert files.read_given(None, "/") is None
    assert files.read_given("a.json", str(tmp_path)) == {"x": 1}
    assert files.read_given(str(tmp_path / "a.json"), "/") == {"x": 1}
    assert files.read_given(' {"x": 2}', "/") == {"x": 2}
    for value, code in (
        ("nope.json", 66),
        ("a.json/x", 66),
        ("a\0b", 66),
        ("", 65),
        ('{"x": secret-canary', 65),
    ):
        with pytest.raises(OcdError) as caught:
            files.read_given(value, str(tmp_path))
        assert caught.value.exit_code == code, value
        assert "canary" not in caught.value.sentence()


def test_of_a_project_only_the_model_counts(tmp_path):
    assert files.read_project_model(str(tmp_path), []) is None
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text(
        '{"model": "a", "env": {"ANTHROPIC_CUSTOM_HEADERS": "X: evil"}}'
    )
    assert files.read_project_model(str(tmp_path), []) == "a"
    (tmp_path / ".claude" / "settings.local.json").write_text('{"model": "b"}')
    assert files.read_project_model(str(tmp_path), []) == "b"


@pytest.fixture
def managed(tmp_path):
    """The folder of managed settings under a root of the test's own."""
    inside = "Library/Application Support/ClaudeCode" if sys.platform == "darwin" else "etc/claude-code"
    folder = tmp_path / "root" / inside
    folder.mkdir(parents=True)
    return folder


def _managed(tmp_path, notices=None):
    user = tmp_path / "user"
    user.mkdir(exist_ok=True)
    return files.read_managed(str(tmp_path / "root"), user, [] if notices is None else notices)


def test_managed_settings_of_all_places(tmp_path, managed):
    assert _managed(tmp_path) == {}
    (managed / "managed-settings.json").write_text('{"model": "a", "env": {"A": "1", "B": "1"}}')
    (managed / "managed-settings.d").mkdir()
    (managed / "managed-settings.d" / "20.json").write_text('{"env": {"B": "3"}}')
    (managed / "managed-settings.d" / "10.json").write_text('{"env": {"B": "2", "C": "2"}, "model": "b"}')
    (managed / "managed-settings.d" / "note.txt").write_text("{")
    assert _managed(tmp_path) == {"model": "b", "env": {"A": "1", "B": "3", "C": "2"}}
    (tmp_path / "user" / "remote-settings.json").write_text('{"apiKeyHelper": "x"}')
    assert _managed(tmp_path)["apiKeyHelper"] == "x"


def test_broken_managed_settings_are_named(tmp_path, managed):
    (managed / "managed-settings.json").write_text("{")
    notices = []
    assert _managed(tmp_path, notices) == {}
    assert "managed-settings.json" in notices[0]


def test_overlay_file_is_the_users_alone(tmp_path):
    folder = tmp_path / "run" / "sessions"
    old = os.umask(0)
    try:
        path = Path(files.write_overlay(str(folder), 7, {"a": "\udcff"}))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"a": "\udcff"}
    files.write_overlay(str(folder), 7, {"b": 1})
    assert json.loads(path.read_text()) == {"b": 1}
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    files.remove_overlay(str(folder), 7)
    files.remove_overlay(str(folder), 7)
    assert list(folder.iterdir()) == []


def test_a_link_in_the_overlays_place_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o700)
    Path(files.overlay_path(str(folder), 7)).symlink_to(victim)
    files.write_overlay(str(folder), 7, {})
    assert victim.read_text() == "mine"


def test_a_folder_that_is_open_to_others_is_closed_first(tmp_path):
    tmp_path.chmod(0o755)
    files.write_overlay(str(tmp_path), 7, {})
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_folder_that_cannot_take_the_overlay(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OcdError) as caught:
        files.write_overlay(str(tmp_path / "file"), 7, {"key": "secret-canary"})
    assert caught.value.exit_code == 73
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OcdError) as caught:
        files.write_overlay(str(tmp_path / "link"), 7, {"key": "secret-canary"})
    assert caught.value.exit_code == 77
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    try:
        with pytest.raises(OcdError) as caught:
            files.write_overlay(str(tmp_path), 7, {"key": "secret-canary"})
    finally:
        os.chown(tmp_path, 0, 0)
    assert caught.value.exit_code == 77
    assert "canary" not in caught.value.sentence()
    assert list(tmp_path.iterdir()) == []


def test_one_launch_from_the_files_to_the_plan(tmp_path):
    (tmp_path / ".claude").mkdir()
    user = tmp_path / ".claude" / "settings.json"
    user.write_text('{"env": {"ANTHROPIC_CUSTOM_HEADERS": "X-Own: 1"}, "model": "arn:x"}')
    before = user.stat()
    (tmp_path / "own.json").write_text('{"env": {"MINE": "1"}}')
    request = LaunchRequest(
        pid=4711,
        cwd=str(tmp_path),
        env={"HOME": str(tmp_path), "ANTHROPIC_API_KEY": "", "OPENCLAUDE_VERBOSE": "1"},
        settings="own.json",
        models={"model": "ll@qwen-3-coder"},
    )
    reply = launch.prepare(
        request,
        folder=str(tmp_path / "run"),
        slots=SLOTS,
        base_url="http://127.0.0.1:4000",
        key="sk-canary",
        known_models=["claude-*", "qwen-3-coder"],
        managed_root=str(tmp_path / "root"),
    )
    assert reply.ready
    path = files.overlay_path(str(tmp_path / "run"), 4711)
    assert reply.args == ["--settings", path, "--model", "qwen-3-coder"]
    settings = json.loads(Path(path).read_text())
    assert settings["model"] == "opus"
    assert settings["env"]["MINE"] == "1"
    assert settings["env"]["ANTHROPIC_CUSTOM_HEADERS"] == "X-Own: 1\nx-litellm-api-key: Bearer sk-canary"
    assert "sk-canary" not in reply.model_dump_json()
    assert any("ANTHROPIC_API_KEY (environment)" in notice for notice in reply.notices)
    assert (user.stat().st_mtime_ns, user.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_refused_launch_leaves_no_overlay(tmp_path):
    request = LaunchRequest(pid=1, cwd="/", env={"HOME": str(tmp_path)}, models={"opus": "ll@nope"})
    with pytest.raises(OcdError):
        launch.prepare(
            request, folder=str(tmp_path / "run"), slots=SLOTS, base_url="u", key="k", known_models=["x"],
            managed_root=str(tmp_path),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
