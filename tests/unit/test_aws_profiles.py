"""Profile and region where ``ocd.toml`` leaves them open: as AWS's own tools have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocd.settings import aws_profiles
from ocd.settings.load import parse


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".aws").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def chosen(home: Path, text: str = "", **environ: str) -> tuple[str, str]:
    settings = parse(home / "ocd.toml", text, environ)
    return settings.aws_profile, settings.aws_region


def write(home: Path, config: str = "", credentials: str = "") -> None:
    (home / ".aws" / "config").write_text(config)
    (home / ".aws" / "credentials").write_text(credentials)


def test_without_any_file_it_is_the_default_chain_in_our_region(home: Path) -> None:
    assert chosen(home) == ("", "us-west-2")
    (home / ".aws").rmdir()
    assert chosen(home) == ("", "us-west-2")


def test_a_profile_of_our_name_counts_with_its_own_region(home: Path) -> None:
    write(home, "[default]\nregion = eu-west-1\n[profile openclaude]\nregion=ap-south-1 \n")
    assert chosen(home) == ("openclaude", "ap-south-1")
    write(home, "[default]\nregion = eu-west-1\n", "[openclaude]\naws_access_key_id = x\n")
    assert chosen(home) == ("openclaude", "us-west-2"), "the default profile's region is not its own"


def test_the_default_chain_has_the_default_profiles_region(home: Path) -> None:
    write(home, "# mine\n[default]\n  region = eu-west-1\n", "[default]\naws_access_key_id = x\n")
    assert chosen(home) == ("", "eu-west-1")
    write(home, "", "[default]\nregion = eu-central-1\n")
    assert chosen(home) == ("", "eu-central-1")


def test_what_is_set_is_what_counts(home: Path) -> None:
    write(home, "[profile openclaude]\nregion = ap-south-1\n[profile work]\nregion = eu-north-1\n")
    assert chosen(home, 'aws_profile = "work"\n') == ("work", "eu-north-1")
    assert chosen(home, 'aws_profile = "gone"\n') == ("gone", "us-west-2"), "named, and not there: a trouble"
    assert chosen(home, 'aws_region = "us-east-1"\n') == ("openclaude", "us-east-1")
    assert chosen(home, OPENCLAUDE_AWS_PROFILE="work", OPENCLAUDE_AWS_REGION="us-east-2") == (
        "work",
        "us-east-2",
    )
    assert chosen(home, 'aws_profile = ""\n')[0] == ""


def test_files_and_region_of_the_proxys_environment(home: Path) -> None:
    (home / "elsewhere").write_text("[profile openclaude]\nregion = sa-east-1\n")
    text = f'[proxies.bedrock.env]\nAWS_CONFIG_FILE = "{home}/elsewhere"\n'
    assert chosen(home, text) == ("openclaude", "sa-east-1")
    assert chosen(home, text + 'AWS_REGION = "eu-west-3"\n') == ("openclaude", "eu-west-3")


def test_unreadable_and_strange_files_are_no_trouble(home: Path) -> None:
    (home / ".aws" / "config").mkdir()
    (home / ".aws" / "credentials").write_bytes(
        b"\xff[\n[  ]\n[\x00]\nregion = x\n[profile 'a b']\nregion = y\n"
    )
    assert aws_profiles.profiles(str(home), {})["a b"] == "y"
    assert chosen(home)[0] == ""


def test_no_login_at_all_is_said_before_a_request_fails(home: Path) -> None:
    missing = aws_profiles.missing
    assert "neither" in missing(str(home), {}, "")
    assert "gone" in missing(str(home), {}, "gone")
    assert missing(str(home), {"AWS_BEARER_TOKEN_BEDROCK": "x"}, "gone") == ""
    write(home, "[default]\nregion = eu-west-1\n")
    assert missing(str(home), {}, "") == "" != missing(str(home), {}, "openclaude")
