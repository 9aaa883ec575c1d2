"""``occtl claude configure|remove`` and the separate folder: what is written, what comes back."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocd.claude import alone, configure, separate
from ocd.ctl.__main__ import main
from ocd.errors import OcdError

Capture = pytest.CaptureFixture[str]
OVERLAY = {
    "env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4000", "ANTHROPIC_API_KEY": ""},
    "apiKeyHelper": "",
    "model": "opus",
}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    prefix = Path(tempfile.mkdtemp(prefix="ocdcla", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_", "LITELLM_", "CLAUDE_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCD_PREFIX", str(prefix))
    monkeypatch.setenv("HOME", str(prefix))
    yield prefix
    shutil.rmtree(prefix)


def run(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


MINE = b'{\n\t"model": "arn:aws:x",\n\t"env": {"ANTHROPIC_API_KEY": "sk-mine", "A": "\xc3\xa4"},\n\t"x": 1}'


def test_configured_and_byte_for_byte_back(home: Path, capsys: Capture) -> None:
    main(["init"])
    capsys.readouterr()
    file = home / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_bytes(MINE)
    file.chmod(0o644)
    code, said = run(capsys, "claude", "configure")
    assert code == 0 and said["changed"]
    written = json.loads(file.read_bytes())
    key = json.loads((home / "state" / "keys.json").read_text())["main"]
    assert written["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert written["env"]["ANTHROPIC_CUSTOM_HEADERS"] == f"x-litellm-api-key: Bearer {key}"
    assert written["env"]["ANTHROPIC_API_KEY"] == "" and written["env"]["A"] == "ä" and written["x"] == 1
    assert written["model"] == "opus" and "apiKeyHelper" not in written
    assert list(written)[:3] == ["model", "env", "x"], "order is kept"
    assert b'\n\t"x"' in file.read_bytes(), "so is the indentation"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it holds the proxy's key now"
    (record,) = (home / "state" / configure.RECORDS).iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert key not in json.dumps(said) and "sk-mine" not in json.dumps(said)
    assert run(capsys, "claude", "configure")[1]["changed"] is False
    (home / "config" / "ocd.toml").write_text("port = 5001\n")
    assert run(capsys, "claude", "configure")[1]["changed"] is True
    assert json.loads(file.read_bytes())["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:5001"
    code, said = run(capsys, "claude", "remove")
    assert code == 0 and said["exact"]
    assert file.read_bytes() == MINE and stat.S_IMODE(file.stat().st_mode) == 0o644
    assert not record.exists() and run(capsys, "claude", "remove")[0] == 66


def test_no_file_before_is_no_file_after(home: Path, capsys: Capture) -> None:
    assert run(capsys, "claude", "configure")[0] == 0
    assert stat.S_IMODE((home / ".claude" / "settings.json").stat().st_mode) == 0o600
    assert run(capsys, "claude", "remove")[1]["exact"]
    assert not (home / ".claude" / "settings.json").exists()


def test_changed_since_only_our_keys_go(tmp_path: Path) -> None:
    file, state = tmp_path / "settings.json", tmp_path / "state"
    state.mkdir()
    file.write_text('{"env": {"ANTHROPIC_API_KEY": "old", "MINE": "1"}, "model": "sonnet"}')
    configure.configure(file, state, OVERLAY)
    now = json.loads(file.read_text())
    now["model"] = "haiku"
    now["env"]["NEW"] = "2"
    now["permissions"] = {}
    file.write_text(json.dumps(now))
    done = configure.remove(file, state)
    assert not done.exact
    assert json.loads(file.read_text()) == {
        "env": {"ANTHROPIC_API_KEY": "old", "MINE": "1", "NEW": "2"},
        "model": "haiku",
        "permissions": {},
    }


def test_links_broken_files_and_lost_records(tmp_path: Path) -> None:
    state, real, link = tmp_path / "state", tmp_path / "dot" / "s.json", tmp_path / "settings.json"
    state.mkdir()
    real.parent.mkdir()
    real.write_text("{}")
    link.symlink_to(real)
    configure.configure(link, state, OVERLAY)
    assert link.is_symlink() and "4000" in real.read_text()
    configure.remove(link, state)
    assert link.is_symlink() and real.read_text() == "{}"
    for broken in ("{", "[]", '{"env": []}', "\x00"):
        real.write_text(broken)
        with pytest.raises(OcdError) as found:
            configure.configure(link, state, OVERLAY)
        assert found.value.exit_code == 65 and real.read_text() == broken and os.listdir(state) == []
    real.write_text("{}")
    configure.configure(link, state, OVERLAY)
    (record,) = (state / configure.RECORDS).iterdir()
    record.write_text("{}")
    with pytest.raises(OcdError, match="Cannot understand"):
        configure.remove(link, state)


def test_several_folders_side_by_side(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second CLAUDE_CONFIG_DIR took the first one back in silence."""
    main(["init"])
    files = [home / name / "settings.json" for name in (".claude", "two", "three")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(MINE)
    for file in files[1:]:
        monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(file.parent))
        assert run_quietly(capsys, "claude", "configure") == 0
    monkeypatch.delenv("CLAUDE_CONFIG_DIR")
    assert run_quietly(capsys, "claude", "configure") == 0
    assert all("http://127.0.0.1:4000" in file.read_text() for file in files)
    (home / "config" / "ocd.toml").write_text("port = 5001\n")
    code, said = run(capsys, "claude", "status")
    assert code == 69 and said["served"] == "http://127.0.0.1:5001", "no daemon has brought them up to date"
    (home / "config" / "ocd.toml").unlink()
    code, said = run(capsys, "claude", "status")
    assert code == 0 and sorted(one["path"] for one in said["files"]) == sorted(map(str, files))
    assert run(capsys, "claude", "remove", str(home / "two"))[1]["exact"]
    assert [file.read_bytes() == MINE for file in files] == [False, True, False]
    assert run_quietly(capsys, "claude", "statusline", "on") == 0
    code, said = run(capsys, "claude", "remove", "--all")
    assert code == 0 and len(said["files"]) == 2
    assert all(file.read_bytes() == MINE for file in files)
    assert not (home / "state" / configure.RECORDS).exists()
    assert run(capsys, "claude", "remove", "--all")[0] == 66
    assert run(capsys, "claude", "status")[1]["files"] == []


def run_quietly(capsys: Capture, *words: str) -> int:
    code = main([*words])
    capsys.readouterr()
    return code


def test_the_only_one_is_found_from_another_folder(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["init"])
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home / "other"))
    assert run_quietly(capsys, "claude", "configure") == 0
    monkeypatch.delenv("CLAUDE_CONFIG_DIR")
    code, said = run(capsys, "claude", "remove")
    assert code == 0 and said["path"] == str(home / "other" / "settings.json")


def test_the_record_of_version_0_1_0_is_taken_over(tmp_path: Path) -> None:
    file, state = tmp_path / "settings.json", tmp_path / "state"
    state.mkdir()
    file.write_bytes(MINE)
    configure.configure(file, state, OVERLAY)
    (record,) = (state / configure.RECORDS).iterdir()
    said = json.loads(record.read_text())
    del said["theirs"]
    record.unlink()
    (state / configure.RECORDS).rmdir()
    (state / configure.FORMER).write_text(json.dumps(said))
    assert [one.path for one in configure.known(state)] == [file]
    assert configure.configure(file, state, {**OVERLAY, "model": "sonnet"}).changed
    assert not (state / configure.FORMER).exists()
    assert configure.remove(file, state).exact and file.read_bytes() == MINE and os.listdir(state) == []


def moved(port: int) -> configure.Make:
    return lambda _path, _base, _before: {
        **OVERLAY,
        "env": {**OVERLAY["env"], "ANTHROPIC_BASE_URL": f"http://x:{port}"},
    }  # type: ignore[dict-item]


def test_refreshed_without_touching_what_the_user_changed(tmp_path: Path) -> None:
    file, state = tmp_path / "settings.json", tmp_path / "state"
    state.mkdir()
    file.write_bytes(MINE)
    configure.configure(file, state, OVERLAY)
    configure.status_line_on(file, state, "occtl statusline")
    now = json.loads(file.read_bytes())
    now["model"] = "haiku"  # /model writes there
    now["env"]["NEW"] = "2"
    del now["env"]["ANTHROPIC_API_KEY"]
    file.write_text(json.dumps(now))
    (done,) = configure.refresh(state, moved(5))
    assert isinstance(done, configure.Done) and done.changed
    after = json.loads(file.read_bytes())
    assert after == {**now, "env": {**now["env"], "ANTHROPIC_BASE_URL": "http://x:5"}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # the same again: nothing is written
    before = file.stat().st_mtime_ns, file.stat().st_ino
    (again,) = configure.refresh(state, moved(5))
    assert isinstance(again, configure.Done) and not again.changed
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    (known,) = configure.known(state)
    assert (
        known.theirs == ("env.ANTHROPIC_API_KEY", "model")
        and known.address == "http://x:5"
        and known.status_line
    )
    # for good, until somebody runs configure again
    configure.refresh(state, moved(6))
    assert json.loads(file.read_bytes())["model"] == "haiku"
    configure.configure(file, state, OVERLAY)
    assert json.loads(file.read_bytes())["model"] == "opus"
    done = configure.remove(file, state, status_line=True)
    assert json.loads(file.read_bytes()) == {"model": "haiku", "env": {"A": "ä", "NEW": "2"}, "x": 1}


def test_a_refresh_that_cannot_be_is_said_and_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    files = [tmp_path / name / "settings.json" for name in ("a", "b", "c")]
    for file in files:
        file.parent.mkdir()
        file.write_text("{}")
        configure.configure(file, state, OVERLAY)
    files[0].write_text("{broken")
    files[1].unlink()
    (state / configure.RECORDS / f"{'0' * 16}.json").write_text("[]")
    found = configure.refresh(state, moved(5))
    wrong = [one.what for one in found if isinstance(one, OcdError)]
    assert len(found) == 3 and len(wrong) == 2
    assert any(str(files[0]) in what for what in wrong) and any("Cannot understand" in what for what in wrong)
    assert "http://x:5" in files[2].read_text()
    assert files[0].read_text() == "{broken" and not files[1].exists()


def test_a_status_line_alone_is_not_refreshed(tmp_path: Path) -> None:
    file, state = tmp_path / "settings.json", tmp_path / "state"
    state.mkdir()
    configure.status_line_on(file, state, "occtl statusline")
    assert configure.refresh(state, moved(5)) == [] and "http" not in file.read_text()


def test_another_process_at_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "PATIENCE", 0.0)
    file, state = tmp_path / "settings.json", tmp_path / "state"
    state.mkdir()
    with configure._locked(state), pytest.raises(OcdError) as found:
        configure.configure(file, state, OVERLAY)
    assert found.value.exit_code == 75 and not file.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.text(), inner),
    max_leaves=9,
)
NAMES = st.sampled_from(["env", "model", "apiKeyHelper", "x", "permissions"])
ENVS = st.dictionaries(st.sampled_from(["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "PATH"]), st.text())


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, JSON), st.none() | ENVS, st.integers(0, 8), st.booleans())
def test_there_and_back_is_the_same_for_every_file(
    said: dict[str, Any], env: dict[str, str] | None, indent: int, touched: bool
) -> None:
    said.pop("env", None)
    if env is not None:
        said["env"] = env
    before = json.dumps(said, indent=indent or None, ensure_ascii=bool(indent % 2)).encode(
        "utf-8", "surrogatepass"
    )
    with tempfile.TemporaryDirectory() as folder:
        file, state = Path(folder) / "settings.json", Path(folder) / "state"
        state.mkdir()
        file.write_bytes(before)
        configure.configure(file, state, OVERLAY)
        assert json.loads(file.read_bytes())["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
        if touched:
            file.write_bytes(file.read_bytes() + b"\n")
        done = configure.remove(file, state)
        assert done.exact or touched
        assert json.loads(file.read_bytes()) == said
        assert touched or file.read_bytes() == before
        assert sorted(os.listdir(folder)) == ["settings.json", "state"] and os.listdir(state) == []


# ---- the separate folder


def env(home: Path) -> dict[str, str]:
    return {"HOME": str(home)}


def test_separate_links_derives_and_follows(home: Path) -> None:
    own, notices = home / ".claude", list[str]()
    for name in ("agents", "projects", "ide"):
        (own / name).mkdir(parents=True)
    (own / "CLAUDE.md").write_text("x")
    (own / ".credentials.json").write_text("secret")
    own_settings = {
        "model": "claude-opus-9-9[1m]",
        "awsAuthRefresh": "x",
        "env": {"ANTHROPIC_API_KEY": "k", "B": "1"},
    }
    (own / "settings.json").write_text(json.dumps(own_settings))
    (home / ".claude.json").write_text(
        '{"hasCompletedOnboarding": true, "oauthAccount": {"a": 1}, "mcpServers": {}}'
    )
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    folder = separate.prepare(env(home), "/", notices, needs_login=True)
    assert folder == home / ".openClaude" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    links = {path.name for path in folder.iterdir() if path.is_symlink()}
    assert links == {"agents", "projects", "CLAUDE.md"}
    assert json.loads((folder / "settings.json").read_text()) == {
        "model": "claude-opus-9-9[1m]",
        "env": {"B": "1"},
    }
    assert json.loads((folder / ".claude.json").read_text()) == {
        "hasCompletedOnboarding": True,
        "mcpServers": {},
    }
    assert any("/login" in line for line in notices)
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before

    (own / "CLAUDE.md").unlink()
    (own / "rules").mkdir()
    own_settings["model"] = "sonnet"
    (own / "settings.json").write_text(json.dumps(own_settings))
    separate.prepare({**env(home), "CLAUDE_CONFIG_DIR": str(folder)}, "/", [], needs_login=False)
    assert not os.path.lexists(folder / "CLAUDE.md") and (folder / "rules").is_symlink()
    assert json.loads((folder / "settings.json").read_text())["model"] == "sonnet"

    (folder / "settings.json").write_text('{"model": "picked"}')
    (own / "settings.json").write_text("{}")
    separate.prepare(env(home), "/", [], needs_login=False)
    assert (folder / "settings.json").read_text() == '{"model": "picked"}', "what was picked there stays"


def test_separate_without_a_folder_of_the_users(home: Path) -> None:
    folder = separate.prepare(env(home), "/", [], needs_login=False)
    assert json.loads((folder / "settings.json").read_text()) == {}
    assert sorted(os.listdir(folder)) == [".ocd-derived.json", "settings.json"]


def test_separate_where_it_cannot_be(home: Path) -> None:
    (home / ".openClaude").write_text("")
    with pytest.raises(OcdError) as found:
        separate.prepare(env(home), "/", [], needs_login=False)
    assert found.value.exit_code == 73
