"""``occtl uninstall``: says what it removes, asks, keeps what one may want, hands over to the installer."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from ocd.ctl import uninstall
from ocd.ctl.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """A prefix with what an installation has, without a daemon."""
    prefix = tmp_path / "ocd"
    monkeypatch.setenv("OCD_PREFIX", str(prefix))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["init"]) == 0
    (prefix / "share" / "envs").mkdir(parents=True)
    (prefix / "share" / "envs" / "file").write_bytes(b"x" * 3_000_000)
    (prefix / "state" / "usage.db").write_bytes(b"no database")
    (prefix / "bin").mkdir()
    (prefix / "bin" / "openclaude").write_text("somebody else's\n")
    capsys.readouterr()
    return prefix


def launcher(prefix: Path) -> None:
    (prefix / "bin" / "occtl").write_text(f"#!/bin/sh\n{uninstall._MARK}\n")


def test_dry_run_says_all_and_removes_nothing(installed: Path, capsys: Capture) -> None:
    launcher(installed)
    assert main(["uninstall", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for words in (
        "the environments (3 MiB)",
        "usage figures",
        "1 backup of changed files",
        "bin/occtl: a command",
    ):
        assert words in said
    assert "keeps ~/ocd/config" in said and "openclaude" not in said
    assert main(["uninstall", "--dry-run", "--purge"]) == 0
    assert "would remove ~/ocd/config: your configuration" in capsys.readouterr().out
    assert (installed / "share" / "envs" / "file").exists()


def test_nobody_who_could_be_asked_is_no_yes(
    installed: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["uninstall"]) == 64
    assert "--yes" in capsys.readouterr().err and (installed / "state").exists()


@pytest.mark.parametrize("answers", [[False], [True, True], [True, False]])
def test_it_asks_and_keeps_what_is_wanted(
    installed: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    launcher(installed)
    left = list(answers)
    became: list[Any] = []

    class Terminal:
        def isatty(self) -> bool:
            return True

    def become(*words: Any) -> None:
        became.append(words)
        raise click.exceptions.Exit(0)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(click, "confirm", lambda *_, **__: left.pop(0))
    monkeypatch.setattr(uninstall, "_become_installer", become)
    assert main(["uninstall"]) == (0 if answers[0] else 130)
    assert left == [] and bool(became) == answers[0]
    kept = list(tmp_path.glob("ocd-kept*"))
    assert len(kept) == (answers == [True, True])
    for folder in kept:
        assert sorted(os.listdir(folder)) == ["backups", "usage.db"] and folder.stat().st_mode & 0o077 == 0


def test_the_installer_is_told_what_is_wanted(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher(installed)
    ran: list[list[str]] = []

    def execv(program: str, line: list[str]) -> None:
        ran.append(line)
        raise click.exceptions.Exit(0)

    monkeypatch.setattr(os, "execv", execv)
    assert main(["uninstall", "--yes", "--purge"]) == 0
    ((_, *flags, code, first, second),) = ran
    assert flags == ["-B", "-I", "-c"] and "ocd.installer.main" in code
    assert (first, second) == ("--uninstall", "--purge")


def test_the_installer_runs_from_inside_the_package(tmp_path: Path) -> None:
    """As in the wheel: the interpreter below the environment has it, without anything beside the package."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "ocd", site / "ocd", ignore=shutil.ignore_patterns("__pycache__"))
    asked = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from ocd import paths; print(paths.program('x')[3])"
    )
    code = subprocess.run(
        [sys.executable, "-I", "-c", asked, str(site)], capture_output=True, text=True
    ).stdout
    code = code.strip().replace("'x'", "'ocd.installer.main'")
    command = [sys.executable, "-I", "-S", "-B", "-c", code, "--uninstall", "--prefix", str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0 and "not installed here" in done.stdout, done.stderr


def test_without_install_py_it_is_done_here(
    installed: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(line: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        ran.append(line[line.index("-c") + 2 :])
        return subprocess.CompletedProcess(line, 66 if "claude" in line else 1 if "service" in line else 0)

    monkeypatch.setattr(subprocess, "run", run)
    keep = tmp_path / "kept"
    assert main(["uninstall", "--yes", "--keep", str(keep)]) == 0
    assert ran == [["claude", "remove", "--all"], ["service", "uninstall"], ["stop"]]
    assert not (installed / "state").exists() and not (installed / "share").exists()
    assert (installed / "config" / "ocd.toml").exists() and (keep / "usage.db").exists()
    assert "uv tool uninstall" in capsys.readouterr().out
    assert main(["uninstall", "--yes"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_daemon_that_does_not_stop_keeps_everything(
    installed: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda line, **_: subprocess.CompletedProcess(line, 75))
    assert main(["uninstall", "--yes"]) == 75
    assert "nothing was removed" in capsys.readouterr().err and (installed / "state").exists()


def test_days_of_usage_are_counted(tmp_path: Path) -> None:
    assert uninstall._days(tmp_path / "usage.db") == 0
    sqlite3.connect(tmp_path / "usage.db").close()
    assert uninstall._days(tmp_path / "usage.db") in (0, 1)
