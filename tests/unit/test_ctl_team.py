"""``occtl team``: an invitation is one line, shown once; what is changed is in the audit trail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl.__main__ import main

URL = "https://bedrock.team.example"


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCD_TEAM_DATABASE", f"sqlite://{tmp_path}/team.db")
    monkeypatch.setenv("SUDO_USER", "eve")


class Occtl:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str) -> str:
        assert main(["team", *words]) == 0
        return self.capsys.readouterr().out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def occtl(capsys: pytest.CaptureFixture[str]) -> Occtl:
    return Occtl(capsys)


def test_from_the_invitation_to_the_end(occtl: Occtl) -> None:
    said = occtl("invite", "ada", "--models", "haiku, qwen", "--budget-day", "5", "--url", URL)
    line = said.splitlines()[-1]
    assert line.startswith(f"OCD_TEAM_URL={URL} OCD_TEAM_KEY=sk-ocdteam-") and line.endswith(
        "occtl init --preset team"
    )
    key = line.split("OCD_TEAM_KEY=")[1].split()[0]
    (ada,) = occtl.json("list")
    assert ada["models"] == ["haiku", "qwen"] and ada["state"] == "active"
    assert ada["day"] == {"spent": 0.0, "limit": 5.0} and ada["month"]["limit"] is None
    assert occtl.json("budget", "ada", "--budget-month", "100")["month"]["limit"] == 100.0
    assert "of $5.00" in occtl("budget", "ada") and "of $100.00" in occtl("list")
    assert occtl.json("revoke", "ada") == {"name": "ada", "changed": True}
    assert "revoked before" in occtl("revoke", "ada") and "revoked" in occtl("list")
    trail = occtl.json("list", "--audit")
    assert [one["what"] for one in trail] == ["invite", "budget", "revoke"]
    assert trail[0]["who"].startswith("eve@") and key not in occtl("list", "--audit") + occtl("list")


def test_an_end_is_the_last_day(occtl: Occtl) -> None:
    occtl("invite", "ada", "--until", "2027-06-30", "--url", URL)
    assert "until 2027-07-01 00:00 UTC" in occtl("list")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("invite", "ada lovelace", "--url", URL), 64),
        (("invite", "ada"), 64),
        (("invite", "ada", "--url", "http://plain.example"), 64),
        (("revoke", "nobody"), 66),
        (("budget", "nobody"), 66),
        (("list", "--database", "postgresql://u:secret@h/d"), 64),
        (("list", "--database", "sqlite:///no/such/folder/team.db"), 69),
    ],
)
def test_what_is_refused(words: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["team", *words]) == code
    said = capsys.readouterr().err
    assert "secret" not in said and len(said.strip().splitlines()) == 3
