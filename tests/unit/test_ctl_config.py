"""``occtl config`` and ``occtl selftest``: files found, findings printed, exit codes; without a daemon."""

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ocd.selftest
import ocd.stack
from ocd.ctl.__main__ import main
from ocd.settings.findings import Finding

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ocdctl", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")) or name in ("NO_COLOR", "VISUAL", "EDITOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCD_PREFIX", str(folder))
    (folder / "config").mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the checks say from now on; they have tests of their own."""
    said: list[Finding] = []
    made: Any = ModuleType("ocd.stack.check")
    made.check = lambda folders, settings, site: list(said)
    monkeypatch.setitem(sys.modules, "ocd.stack.check", made)
    monkeypatch.setattr(ocd.stack, "check", made, raising=False)
    return said


BAD = Finding(
    "error", "hop-key", "/c/litellm.yaml", 7, "model_list.1", "the hop has no key", "Set api_key", True
)
HINT = Finding("note", "slot", "/c/litellm.yaml", None, "", "no route for fable")


def test_path(prefix: Path, capsys: Capture) -> None:
    assert main(["config", "path"]) == 0
    assert main(["config", "path", "bedrock"]) == 0
    folder = prefix / "config"
    assert capsys.readouterr().out == f"{folder}\n{folder / 'litellm-bedrock.yaml'}\n"
    assert main(["config", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["ocd"] == str(folder / "ocd.toml")


def test_path_follows_the_settings_and_survives_broken_ones(prefix: Path, capsys: Capture) -> None:
    settings = prefix / "config" / "ocd.toml"
    settings.write_text('[proxies.main]\nconfig = "other.yaml"\n')
    assert main(["config", "path", "main"]) == 0
    assert capsys.readouterr().out.endswith("/other.yaml\n")
    settings.write_text("not = [toml")
    assert main(["config", "path", "ocd"]) == 0
    assert capsys.readouterr().out == f"{settings}\n"


def test_show_is_toml_and_hides_secrets(prefix: Path, capsys: Capture) -> None:
    import tomllib

    settings = prefix / "config" / "ocd.toml"
    settings.write_text('port = 4100\n[proxies.main.env]\nDATABASE_URL = "postgres://u:canary@h/d"\n')
    assert main(["config", "show"]) == 0
    out = capsys.readouterr().out
    read = tomllib.loads(out)
    assert read["port"] == 4100 and read["supervision"]["start_timeout"] == 60.0
    assert "canary" not in out and "DATABASE_URL" in read["proxies"]["main"]["env"]
    assert main(["config", "show", "--json"]) == 0
    assert "canary" not in capsys.readouterr().out


def test_check_in_order(prefix: Path, capsys: Capture, findings: list[Finding]) -> None:
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "The configuration is in order.\n"
    findings.append(HINT)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "/c/litellm.yaml: note: no route for fable\n"


def test_check_with_errors(prefix: Path, capsys: Capture, findings: list[Finding]) -> None:
    findings += [HINT, BAD]
    assert main(["config", "check"]) == 78
    said = capsys.readouterr()
    first = "/c/litellm.yaml:7: error: model_list.1: the hop has no key; Set api_key\n"
    assert said.out == first + "/c/litellm.yaml: note: no route for fable\n"
    assert "--fix` corrects 1 of 2" in said.err
    assert main(["config", "check", "--json"]) == 78
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False and [one["code"] for one in found["findings"]] == ["hop-key", "slot"]


def test_fix_writes_what_changed_and_nothing_else(
    prefix: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, findings: list[Finding]
) -> None:
    real = prefix / "dotfiles.yaml"
    real.write_text("a: 1\n")
    real.chmod(0o640)
    file = prefix / "config" / "litellm.yaml"
    file.symlink_to(real)
    made: Any = ModuleType("ocd.stack.fix")
    made.fix_all = lambda folders, settings, site: {file: "a: 2\r\n"}
    monkeypatch.setitem(sys.modules, "ocd.stack.fix", made)
    assert main(["config", "check", "--fix"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"fixed: {file}"
    assert real.read_bytes() == b"a: 2\r\n" and file.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    # and what was there, for `occtl undo`
    assert sorted(os.listdir(prefix)) == ["config", "dotfiles.yaml", "state"]


def test_check_of_broken_settings_needs_no_luck(prefix: Path, capsys: Capture) -> None:
    (prefix / "config" / "ocd.toml").write_text("prot = 4000\n")
    assert main(["config", "check"]) == 78
    assert f"{prefix}/config/ocd.toml:1: error: prot: " in capsys.readouterr().out


def editor(prefix: Path, script: str) -> str:
    made = prefix / "an editor"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(made.stat().st_mode | stat.S_IXUSR)
    return f"'{made}' --wait"


def test_edit_runs_the_editor_and_checks(
    prefix: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, findings: list[Finding]
) -> None:
    monkeypatch.setenv("EDITOR", editor(prefix, 'echo "$1" > "$2"'))
    assert main(["config", "edit", "main"]) == 0
    assert (prefix / "config" / "litellm.yaml").read_text() == "--wait\n"
    findings.append(BAD)
    assert main(["config", "edit", "main"]) == 78
    assert "the hop has no key" in capsys.readouterr().out


def test_edit_without_an_editor(prefix: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", str(prefix / "nothing"))
    assert main(["config", "edit"]) == 69
    assert "Set EDITOR" in capsys.readouterr().err
    monkeypatch.setenv("VISUAL", editor(prefix, "exit 3"))
    assert main(["config", "edit"]) == 69
    assert "ended with 3" in capsys.readouterr().err


@pytest.mark.parametrize("ok", [True, False])
def test_selftest_prints_rows_and_a_verdict(
    prefix: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, ok: bool
) -> None:
    class Report:
        rows = ()

        def __init__(self) -> None:
            self.ok = ok

        def as_dict(self) -> dict[str, Any]:
            return {"ok": ok, "rows": [{"slot": "haiku", "kind": "stream", "upstream": "bedrock", "ok": ok}]}

    async def run(folders: Any, settings: Any, **_: Any) -> Report:
        return Report()

    made: Any = ModuleType("ocd.selftest.run")
    made.run = run
    monkeypatch.setitem(sys.modules, "ocd.selftest.run", made)
    monkeypatch.setattr(ocd.selftest, "run", made, raising=False)
    assert main(["selftest"]) == (0 if ok else 1)
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["haiku", "stream", "bedrock", "ok" if ok else "FAILED"]
    assert ("nowhere else" in out) is ok
    assert main(["selftest", "--json"]) == (0 if ok else 1)
    assert json.loads(capsys.readouterr().out)["ok"] is ok
