"""ocd.toml falls back to the last good one; a revision keeps the settings that it was checked with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.load import from_json, removed, to_json
from ocd.settings.schema import Settings
from ocd.supervisor.files.settings_file import SettingsFile


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")):
            monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.mkdir()
    return Folders(config, tmp_path / "share", tmp_path / "state", tmp_path / "run", tmp_path / "bin")


def write(folders: Folders, text: str) -> None:
    (folders.config / "ocd.toml").write_text(text)


def test_a_mistake_falls_back_to_the_last_good_text_with_today_s_environment(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SettingsFile(folders)
    write(folders, "port = 4711\n[slots]\nopus = 'mine'\n")
    assert file.load().port == 4711
    write(folders, "port = 4712\n[metrics]\nport = 4712\n")
    with pytest.raises(ConfigError):
        file.load()
    again = SettingsFile(folders)
    assert again.last_good().port == 4711 and again.last_good().slots.opus == "mine"
    monkeypatch.setenv("OCD_PORT", "4800")
    assert again.last_good().port == 4800


@pytest.mark.parametrize(
    ("text", "variable", "port"),
    [("port = [", "", 4000), ("port = 4711", "x", 4711), ("port = [", "x", 4000)],
)
def test_without_a_good_text_it_is_the_file_or_the_defaults(
    text: str, variable: str, port: int, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders, text)
    if variable:
        monkeypatch.setenv("OCD_PORT", variable)
    assert SettingsFile(folders).last_good().port == port


def test_snapshots_hold_everything_are_private_and_pruned(folders: Folders) -> None:
    file = SettingsFile(folders)
    write(folders, "[proxies.bedrock.env]\nDATABASE_URL = 'secret'\n[litellm]\nargs = ['--debug']\n")
    settings = file.load()
    name = file.keep(settings)
    assert file.kept(name) == settings and file.keep(settings) == name
    for path in folders.state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    file.prune({name})
    assert file.kept(name) == settings
    file.prune(set())
    assert file.kept(name) is None


def test_settings_of_another_version_are_read_or_given_up(folders: Folders) -> None:
    assert from_json(to_json(Settings())) == Settings()
    old = to_json(Settings()).replace('"supervision": {', '"supervision": {"restart_intensity": 5, ')
    assert from_json(old) == Settings()
    with pytest.raises(ValueError):
        from_json('{"of_the_future": 1}')
    file = SettingsFile(folders)
    file.path("x").parent.mkdir(parents=True)
    file.path("x").write_text("{")
    assert file.kept("x") is None


def test_a_disk_that_takes_nothing_is_no_reason_not_to_serve(folders: Folders) -> None:
    folders.state.parent.mkdir(parents=True, exist_ok=True)
    folders.state.write_text("a file where the folder should be")
    write(folders, "port = 4711")
    file = SettingsFile(folders)
    assert file.load().port == 4711
    assert file.kept(file.keep(file.load())) is None


def test_settings_that_mean_nothing_any_more_are_told_with_their_line(folders: Folders) -> None:
    text = "[supervision]\nstop_timeout = 3.0\nrestart_intensity = 5\nbackoff_max = 2\n"
    write(folders, text)
    assert SettingsFile(folders).load().supervision.stop_timeout == 3.0
    found = removed(folders.config / "ocd.toml", text, {})
    assert [(f.code, f.line, f.severity) for f in found] == [
        ("setting-ignored", 4, "warning"),
        ("setting-ignored", 3, "warning"),
    ]
    assert not removed(folders.config / "ocd.toml", "port = [", {})
