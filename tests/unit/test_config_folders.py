"""Folders, keys and the default files: private, ours, made once."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from ocd.errors import OcdError
from ocd.settings import keys
from ocd.settings.folders import Folders, private_folder
from ocd.stack import defaults


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    monkeypatch.delenv("OCD_CONFIG_DIR", raising=False)
    monkeypatch.setenv("OCD_RUNTIME_DIR", str(tmp_path / "run"))
    return Folders.find()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_everything_lies_under_the_prefix(folders: Folders, tmp_path: Path) -> None:
    assert folders.config == tmp_path / "config" and folders.bin == tmp_path / "bin"
    assert folders.data == tmp_path / "share" and folders.state == tmp_path / "state"
    assert not list(tmp_path.iterdir()), "finding must not make anything"


def test_the_users_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OCD_PREFIX", "OCD_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = Folders.find()
    assert len({found.config, found.data, found.state}) == 3
    assert all(str(p).startswith(str(tmp_path)) for p in (found.config, found.data, found.state, found.bin))


def test_the_config_folder_can_be_another(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCD_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert Folders.find().config == tmp_path / "elsewhere"
    assert Folders.find().state == folders.state


def test_ensure_makes_private_folders_and_repairs_open_ones(folders: Folders) -> None:
    folders.state.mkdir(mode=0o755)
    os.chmod(folders.state, 0o755)
    folders.ensure()
    assert [mode(p) for p in (folders.state, folders.runtime, folders.data)] == [0o700] * 3
    folders.ensure()


def test_somebody_elses_runtime_folder_is_refused(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.ensure()
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(OcdError) as caught:
        private_folder(folders.runtime, links=False)
    assert caught.value.exit_code == 77


def test_a_link_in_the_runtime_folders_place_is_refused(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    folders.runtime.symlink_to(tmp_path / "other")
    with pytest.raises(OcdError) as caught:
        folders.ensure()
    assert caught.value.exit_code == 77


def test_a_file_in_a_folders_place(folders: Folders) -> None:
    folders.state.write_text("")
    with pytest.raises(OcdError) as caught:
        folders.ensure()
    assert caught.value.exit_code == 73


def test_keys_are_made_once_and_hidden(folders: Folders) -> None:
    made = keys.load_or_create(folders)
    assert made == keys.load_or_create(folders)
    assert made.main != made.bedrock and all(
        len(k) == 67 and k.startswith("sk-") for k in (made.main, made.bedrock)
    )
    assert made.main not in repr(made) and made.bedrock not in repr(made)
    path = folders.state / "keys.json"
    assert mode(path) == 0o600 and mode(folders.state) == 0o700
    assert [p.name for p in folders.state.iterdir()] == ["keys.json"], "no temporary file may stay"


def _keys_of(prefix: Path, answers: "multiprocessing.Queue[str]", gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    found = Folders(prefix, prefix, prefix / "state", prefix, prefix)
    answers.put(keys.load_or_create(found).main)


def test_two_processes_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers, gate = context.Queue(), context.Barrier(3)
    racers = [context.Process(target=_keys_of, args=(tmp_path, answers, gate)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = {answers.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    assert len(found) == 1


def test_a_lost_race_takes_the_winners_keys(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = json.dumps({"main": "sk-" + "a" * 64, "bedrock": "sk-" + "b" * 64})
    real = os.link

    def late(source: object, target: object) -> None:
        (folders.state / "keys.json").write_text(winner)
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", late)
    assert keys.load_or_create(folders).main == "sk-" + "a" * 64


def test_an_open_key_file_is_closed(folders: Folders) -> None:
    keys.load_or_create(folders)
    path = folders.state / "keys.json"
    path.chmod(0o644)
    keys.load_or_create(folders)
    assert mode(path) == 0o600


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"main": "sk-1234", "bedrock": "sk-5678"}', "\xff"]
)
def test_broken_key_files_are_refused_without_quoting_them(folders: Folders, text: str) -> None:
    keys.load_or_create(folders)
    (folders.state / "keys.json").write_text(text)
    with pytest.raises(OcdError) as caught:
        keys.load_or_create(folders)
    assert "keys.json" in str(caught.value) and "sk-1234" not in str(caught.value)


def test_a_link_in_the_key_files_place_is_refused(folders: Folders, tmp_path: Path) -> None:
    keys.load_or_create(folders)
    (folders.state / "keys.json").rename(tmp_path / "moved")
    (folders.state / "keys.json").symlink_to(tmp_path / "moved")
    with pytest.raises(OcdError) as caught:
        keys.load_or_create(folders)
    assert caught.value.exit_code == 77


def test_defaults_are_written_once_and_private(folders: Folders) -> None:
    written = defaults.write_defaults(folders)
    assert [p.name for p in written] == list(defaults.NAMES)
    assert mode(folders.config) == 0o700 and {mode(p) for p in written} == {0o600}
    (folders.config / "litellm.yaml").write_text("mine")
    (folders.config / "ocd.toml").unlink()
    assert [p.name for p in defaults.write_defaults(folders)] == ["ocd.toml"]
    assert (folders.config / "litellm.yaml").read_text() == "mine"
    assert sorted(p.name for p in folders.config.iterdir()) == sorted(defaults.NAMES)


def test_a_full_disk_leaves_no_half_file(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OcdError) as caught:
        defaults.write_defaults(folders)
    assert caught.value.exit_code == 73 and not list(folders.config.iterdir())
    with pytest.raises(OcdError):
        keys.load_or_create(folders)
    assert not list(folders.state.iterdir())
