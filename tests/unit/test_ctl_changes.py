"""``occtl config get|set|unset`` and ``occtl undo``: what they write, what they refuse, what they put back."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ocd.claude import configure as writing
from ocd.ctl import screen, undo
from ocd.ctl.__main__ import main
from ocd.ctl.words import KEYS
from ocd.settings import backup, describe
from ocd.settings.folders import Folders

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """ocd.toml of a fresh set-up."""
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(screen, "_no_color", False)
    assert main(["init"]) == 0
    capsys.readouterr()
    return tmp_path / "config" / "ocd.toml"


def listed(capsys: Capture) -> list[str]:
    capsys.readouterr()
    assert main(["undo", "--list", "--json"]) == 0
    return [row["verb"] for row in json.loads(capsys.readouterr().out)]


# ---- config get, set, unset


def test_a_key_is_set_where_its_default_stands_and_shown(toml: Path, capsys: Capture) -> None:
    before = toml.read_text().splitlines()
    assert main(["config", "set", "supervision.idle_minutes", "30"]) == 0
    said = capsys.readouterr().out
    assert "\n+idle_minutes = 30\n" in said and f"--- {toml}" in said and "occtl undo" in said
    after = toml.read_text().splitlines()
    (new,) = [number for number, line in enumerate(after) if line == "idle_minutes = 30"]
    assert after[new - 1].startswith("#idle_minutes = ") and [*after[:new], *after[new + 1 :]] == before
    assert main(["config", "set", "supervision.idle_minutes", "30"]) == 0
    assert "so already" in capsys.readouterr().out
    assert main(["config", "unset", "supervision.idle_minutes"]) == 0
    assert toml.read_text().splitlines() == before
    assert main(["config", "unset", "supervision.idle_minutes"]) == 0


@pytest.mark.parametrize(
    ("key", "given", "line"),
    [
        ("proxies.main.spare", "false", "spare = false"),
        ("port", "4100", "port = 4100"),
        ("aws_profile", "123", 'aws_profile = "123"'),
        ("aws_region", "eu-west-1", 'aws_region = "eu-west-1"'),
        ("logs.level", "debug", 'level = "debug"'),
        ("supervision.idle_minutes", "2.5", "idle_minutes = 2.5"),
    ],
)
def test_the_words_become_what_the_key_takes(
    toml: Path, capsys: Capture, key: str, given: str, line: str
) -> None:
    assert key in KEYS
    assert main(["config", "set", key, given]) == 0
    assert line in toml.read_text().splitlines()
    capsys.readouterr()
    assert main(["config", "get", key]) == 0
    assert capsys.readouterr().out == f"{given}\n"


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["set", "supervision.idle_minutes", "soon"], 64, "a number from 0"),
        (["set", "logs.level", "loud"], 64, "one of"),
        (["set", "port", "0"], 64, "whole number"),
        (["set", "aws_regoin", "x"], 64, "Did you mean aws_region?"),
        (["get", "level"], 64, "Did you mean logs.level?"),
        (["unset", "nothing"], 64, "There is no setting nothing"),
        (["set", "proxies.main.env", "x"], 64, "config edit"),
        (["set", "slots.haiku", "no-such-group"], 78, "no-such-group"),
    ],
)
def test_what_cannot_be_changes_nothing(
    toml: Path, capsys: Capture, line: list[str], code: int, words: str
) -> None:
    before = toml.read_bytes()
    assert main(["config", *line]) == code
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 3
    assert toml.read_bytes() == before and listed(capsys) == ["init"]


def test_only_news_is_told(toml: Path, capsys: Capture) -> None:
    (toml.parent / "litellm-bedrock.yaml").write_text("model_list: [\n")
    assert main(["config", "check"]) == 78
    capsys.readouterr()
    assert main(["config", "set", "aws_region", "eu-west-1"]) == 0
    said = capsys.readouterr()
    assert "litellm-bedrock.yaml" not in said.out + said.err


def test_dry_run_shows_and_leaves(toml: Path, capsys: Capture) -> None:
    before = toml.read_bytes()
    assert main(["config", "set", "aws_region", "eu-west-1", "--dry-run"]) == 0
    assert '+aws_region = "eu-west-1"' in capsys.readouterr().out
    assert main(["config", "set", "aws_region", "eu-west-1", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dry_run"] and not said["changed"] and '+aws_region = "eu-west-1"' in said["diff"]
    assert toml.read_bytes() == before


def test_a_wrong_value_can_be_mended_by_setting_it(toml: Path, capsys: Capture) -> None:
    toml.write_text(toml.read_text().replace("[logs]\n", "[logs]\nlevel = 5\n"))
    assert main(["config", "set", "logs.level", "debug"]) == 0
    assert 'level = "debug"' in toml.read_text()


def test_without_a_file_one_is_made(toml: Path) -> None:
    template = toml.read_text()
    toml.unlink()
    assert main(["config", "set", "aws_region", "eu-west-1"]) == 0
    assert toml.read_text().replace('aws_region = "eu-west-1"\n', "", 1) in (
        template,
        template.replace("#", "#"),
    )
    assert toml.stat().st_mode & 0o777 == 0o600


def test_a_credential_in_the_neighbourhood_is_not_shown(toml: Path, capsys: Capture) -> None:
    key = "sk-ant-api03-" + "a" * 80
    toml.write_text(f'auth = "plan"\nport = 4000\n[proxies.main.env]\nANTHROPIC_API_KEY = "{key}"\n')
    assert main(["config", "set", "port", "4100", "--json"]) == 0
    assert main(["undo", "--dry-run"]) == 0
    assert key not in capsys.readouterr().out and key in toml.read_text()


def test_a_variable_that_overrules_is_named(
    toml: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(describe.variables(("aws_region",))[0], "us-east-1")
    assert main(["config", "set", "aws_region", "eu-west-1"]) == 0
    assert "overrules it" in capsys.readouterr().err


# ---- undo


def test_changes_are_taken_back_one_by_one(toml: Path, capsys: Capture) -> None:
    fresh = toml.read_bytes()
    assert main(["config", "set", "aws_region", "eu-west-1"]) == 0
    first = toml.read_bytes()
    assert main(["spill", "on", "--at", "90"]) in (0, 78)
    assert main(["config", "set", "port", "4100"]) == 0
    verbs = listed(capsys)
    assert verbs[0] == "config set" and verbs[-2:] == ["config set", "init"]
    assert main(["undo", str(len(verbs) - 2), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would take back config set" in said and "-port = 4100" in said
    assert listed(capsys) == verbs
    assert main(["undo", str(len(verbs) - 2)]) == 0
    assert toml.read_bytes() == first
    assert main(["undo"]) == 0
    assert toml.read_bytes() == fresh and listed(capsys) == ["init"]
    assert main(["undo"]) == 0
    assert not toml.exists()
    assert main(["undo"]) == 66
    assert "nothing to take back" in capsys.readouterr().err


def test_the_verbs_own_undo_and_this_one_share_the_list(toml: Path, capsys: Capture) -> None:
    toml.write_text(toml.read_text() + "# mine\n")
    mine = toml.read_bytes()
    assert main(["init", "--preset", "fallback", "--force"]) == 0
    assert listed(capsys) == ["init", "init"]
    assert main(["init", "--undo"]) == 0
    assert toml.read_bytes() == mine and listed(capsys) == ["init"]


def test_a_file_that_was_changed_since_is_refused(toml: Path, capsys: Capture) -> None:
    assert main(["config", "set", "aws_region", "eu-west-1"]) == 0
    toml.write_text(toml.read_text() + "# mine\n")
    assert main(["undo"]) == 78
    assert "changed since" in capsys.readouterr().err and toml.read_text().endswith("# mine\n")
    assert main(["undo", "--force"]) == 0
    assert "aws_region = " not in [line[:13] for line in toml.read_text().splitlines()]


def test_mechanical_corrections_are_kept_too(
    toml: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ocd.stack import fix

    target = toml.parent / "litellm.yaml"
    before = target.read_text()
    monkeypatch.setattr(fix, "fix_all", lambda *_: {target: before + "# mended\n"})
    main(["config", "check", "--fix"])
    assert target.read_text().endswith("# mended\n") and listed(capsys)[0] == "config fix"
    assert main(["undo"]) in (0, 78)
    assert target.read_text() == before


def test_claude_codes_settings_are_in_the_list_as_long_as_they_are_ours(
    toml: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"statusLine": {"type": "command", "command": "mine"}}\n')
    before = settings.read_bytes()
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(settings.parent))
    assert main(["claude", "statusline", "on"]) == 0
    overlay = {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4000"}}
    folders = Folders.find()
    for _ in range(2):
        done = writing.configure(settings, folders.state, overlay)
        backup.note(folders, undo.CONFIGURE, str(done.path))
    assert listed(capsys) == ["claude configure", "claude statusline", "init"]
    assert main(["undo", "--dry-run"]) == 0
    assert "our settings would go out of" in capsys.readouterr().out
    assert main(["undo"]) == 0
    assert "ANTHROPIC_BASE_URL" not in settings.read_text() and b"mine" not in settings.read_bytes()
    assert listed(capsys) == ["claude statusline", "init"]
    assert main(["claude", "statusline", "off"]) == 0
    assert settings.read_bytes() == before and listed(capsys) == ["init"]


def test_the_list_for_people(toml: Path, capsys: Capture) -> None:
    assert main(["undo", "-l"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["n", "when", "what", "files"]
    assert row.split()[0] == "1" and row.split()[3] == "init" and "ocd.toml" in row
    assert row.split()[1] == time.strftime("%Y-%m-%d", time.localtime())


def test_what_stands_in_the_folder_besides_is_no_change(toml: Path, capsys: Capture) -> None:
    folder = Folders.find().state / "backups"
    for name, text in (
        ("x", "{}"),
        ("20990101T000000.000000001-init", "[]"),
        ("20990101T000000.000000002-init", "{"),
    ):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text(text)
    assert listed(capsys) == ["init"]


def test_keys_are_those_of_the_schema() -> None:
    assert tuple(entry.key for table in describe.tables() for entry in table.entries) == KEYS


def test_config_get_of_a_section_and_as_json(toml: Path, capsys: Capture) -> None:
    assert main(["config", "get", "logs", "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said["key"] == "logs" and "level" in said["value"]
    assert os.environ["OCD_PREFIX"]
