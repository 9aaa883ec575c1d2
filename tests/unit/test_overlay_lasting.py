"""Overlay files that stay: named after choices, rewritten in place, removed only when nobody names them."""

import json
import os
import stat
from pathlib import Path

import pytest

from ocd.claude import lasting, launch
from ocd.claude.lasting import Recipe
from ocd.claude.overlay import Slots
from ocd.errors import OcdError
from ocd.wire.messages import LaunchRequest

KNOWN = ["claude-*", "qwen-3-coder", "other"]


def recipe(**more):
    return Recipe(env={"HOME": "/home/x"}, models={}, given=None, **more)


def served(**more):
    given = {
        "slots": Slots("", "", "qwen-3-coder"),
        "base_url": "http://127.0.0.1:4000",
        "key": "sk-canary-1",
    }
    return launch.Served(**{**given, "known_models": KNOWN, **more})


def parts(path):
    return [path.with_suffix(suffix) for suffix in (".json", ".recipe", ".sh")]


def made(one, now, root):
    overlay = launch.make(one, now, [], folder=str(root / "o"), managed_root=str(root))
    return overlay.settings, overlay.script


def start(folder, home, *, pid=1, cwd="/", now=None, **more):
    request = LaunchRequest(pid=pid, cwd=str(cwd), env={"HOME": str(home)}, **more)
    reply = launch.prepare(request, folder=str(folder), served=now or served(), managed_root=str(home))
    return Path(reply.args[1])


def test_the_file_is_the_users_alone_and_whole(tmp_path):
    folder = tmp_path / "state" / "overlays"
    old = os.umask(0)
    try:
        path = Path(lasting.write(str(folder), recipe(), {"a": "\udcff"}))
    finally:
        os.umask(old)
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"a": "\udcff"}
    before = path.stat().st_ino
    assert lasting.write(str(folder), recipe(), {"a": "\udcff"}) == str(path)
    assert path.stat().st_ino == before, "the same content is not written again"
    lasting.write(str(folder), recipe(), {"b": 1})
    assert json.loads(path.read_text()) == {"b": 1} and len(list(folder.iterdir())) == 3


def test_no_process_and_no_port_or_key_or_slot_is_in_the_name(tmp_path):
    first = start(tmp_path / "o", tmp_path, pid=1)
    assert start(tmp_path / "o", tmp_path, pid=2, cwd=tmp_path) == first
    for now in (
        served(base_url="http://127.0.0.1:5"),
        served(key="sk-canary-2"),
        served(slots=Slots("", "", "other")),
    ):
        assert start(tmp_path / "o", tmp_path, now=now) == first
    assert "4711" not in start(tmp_path / "o", tmp_path, pid=4711).read_text()


def test_another_choice_is_another_file(tmp_path):
    project = tmp_path / "project"
    (project / ".claude").mkdir(parents=True)
    (project / ".claude" / "settings.json").write_text('{"model": "sonnet"}')
    found = {
        start(tmp_path / "o", tmp_path),
        start(tmp_path / "o", tmp_path, settings='{"env": {"A": "1"}}'),
        start(tmp_path / "o", tmp_path, models={"haiku": "other"}),
        start(tmp_path / "o", tmp_path, cwd=project),
    }
    assert len(found) == 4


def test_what_changes_is_written_anew_in_place(tmp_path):
    """A session that Claude Code starts again by itself reads what is true now."""
    path = start(tmp_path / "o", tmp_path, settings='{"env": {"MINE": "1"}}', models={"opus": "other"})
    now = served(base_url="http://127.0.0.1:5", key="sk-canary-2", slots=Slots("", "", "claude-haiku-9"))
    changed, trouble = lasting.rewrite(str(tmp_path / "o"), lambda one: made(one, now, tmp_path))
    assert (changed, trouble) == (1, [])
    env = json.loads(path.read_text())["env"]
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:5"
    assert env["ANTHROPIC_CUSTOM_HEADERS"].endswith("Bearer sk-canary-2") and "canary-1" not in str(env)
    assert env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "claude-haiku-9"
    assert env["ANTHROPIC_DEFAULT_OPUS_MODEL"] == "other" and env["MINE"] == "1", "the person's choices stay"
    assert lasting.rewrite(str(tmp_path / "o"), lambda one: made(one, now, tmp_path)) == (0, [])


def test_what_cannot_be_made_any_more_stays_as_it_was(tmp_path):
    path = start(tmp_path / "o", tmp_path, models={"opus": "other"})
    good = start(tmp_path / "o", tmp_path)
    before = path.read_bytes()
    now = served(known_models=["claude-*", "qwen-3-coder"], key="sk-canary-2")
    changed, trouble = lasting.rewrite(str(tmp_path / "o"), lambda one: made(one, now, tmp_path))
    assert changed == 1 and "other" in trouble[0] and "canary" not in trouble[0]
    assert path.read_bytes() == before and "canary-2" in good.read_text()


def test_a_broken_recipe_is_left_out(tmp_path):
    path = start(tmp_path / "o", tmp_path)
    path.with_suffix(".recipe").write_text("{")
    assert lasting.recipes(str(tmp_path / "o")) == {}
    assert lasting.rewrite(str(tmp_path / "o"), lambda one: ({}, "")) == (0, []) and path.stat().st_size > 9


def aged(path):
    for one in parts(path):
        os.utime(one, (1, 1))
    return path


def test_only_what_nobody_names_goes(tmp_path):
    folder, config = tmp_path / "o", tmp_path / ".claude"
    young, asked, saved, lost = (
        start(folder, tmp_path, settings=json.dumps({"env": {"N": str(n)}})) for n in range(4)
    )
    for path in (asked, saved, lost):
        aged(path)
    (config / "jobs" / "ab12").mkdir(parents=True)
    (config / "jobs" / "empty").mkdir()
    (config / "jobs" / "ab12" / "state.json").write_text(
        json.dumps({"respawnFlags": ["--settings", str(saved)]})
    )
    removed = lasting.prune(
        str(folder), lambda: ["sh -c x", f"/usr/bin/claude --settings {asked} -p hi"], [config]
    )
    assert removed == [lost.name]
    assert sorted(folder.iterdir()) == sorted(one for path in (young, asked, saved) for one in parts(path))


def test_nothing_goes_while_saved_sessions_cannot_be_read(tmp_path):
    path = aged(start(tmp_path / "o", tmp_path))
    job = tmp_path / ".claude" / "jobs" / "x"
    job.mkdir(parents=True)
    (job / "state.json").mkdir()
    assert lasting.prune(str(tmp_path / "o"), list, [tmp_path / ".claude"]) == []
    assert path.exists()


def test_processes_are_not_looked_at_when_there_is_nothing_old(tmp_path):
    start(tmp_path / "o", tmp_path)

    def never():
        raise AssertionError("asked")

    assert lasting.prune(str(tmp_path / "o"), never, []) == []


def test_a_rewritten_file_is_as_old_as_its_last_use(tmp_path):
    path = aged(start(tmp_path / "o", tmp_path))
    lasting.rewrite(str(tmp_path / "o"), lambda one: ({"a": 1}, ""))
    assert path.stat().st_mtime == 1 and json.loads(path.read_text()) == {"a": 1}


def test_a_link_in_its_place_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "o"
    folder.mkdir(mode=0o755)
    (folder / recipe().name).symlink_to(victim)
    lasting.write(str(folder), recipe(), {})
    assert victim.read_text() == "mine" and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_take_it(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name, code in (("file", 73), ("link", 77)):
        with pytest.raises(OcdError) as caught:
            lasting.write(str(tmp_path / name), recipe(), {"key": "secret-canary"})
        assert caught.value.exit_code == code and "canary" not in caught.value.sentence()
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    try:
        with pytest.raises(OcdError) as caught:
            lasting.write(str(tmp_path), recipe(), {"key": "secret-canary"})
    finally:
        os.chown(tmp_path, 0, 0)
    assert caught.value.exit_code == 77 and list(tmp_path.iterdir()) == []


def test_a_recipe_is_never_printed():
    said = repr(Recipe(env={"ANTHROPIC_CUSTOM_HEADERS": "X: canary"}, models={}, given={"a": "canary"}))
    assert "canary" not in said and "canary" not in repr(served())
