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

from ocd.claude import configure, separate
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
    record = home / "state" / configure.RECORD
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
    done = configure.remove(state)
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
    configure.remove(state)
    assert link.is_symlink() and real.read_text() == "{}"
    for broken in ("{", "[]", '{"env": []}', "\x00"):
        real.write_text(broken)
        with pytest.raises(OcdError) as found:
            configure.configure(link, state, OVERLAY)
        assert found.value.exit_code == 65 and real.read_text() == broken and os.listdir(state) == []
    (state / configure.RECORD).write_text("{}")
    with pytest.raises(OcdError, match="Cannot understand"):
        configure.remove(state)


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
        done = configure.remove(state)
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
        "model": "claude-opus-9-9",
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
