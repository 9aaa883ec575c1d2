"""Which ``claude`` openclaude becomes: never itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ocd.client import places
from ocd.client.__main__ import find_claude
from ocd.errors import OcdError

ROOT = Path(__file__).resolve().parents[2]


def _program(path, text="#!/bin/sh\n"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    path = _program(
        tmp_path / "bin" / "openclaude", "#!/usr/bin/python\nfrom ocd.client.__main__ import main\n"
    )
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr(places, "SYSTEM", ())
    return path


def _find(*folders, **more):
    path = b":".join(os.fsencode(folder) for folder in folders)
    return find_claude(
        {b"PATH": path, b"HOME": b"/nonexistent"}
        | {name.encode(): os.fsencode(value) for name, value in more.items()}
    )


def test_first_on_the_path(tmp_path, launcher):
    _program(tmp_path / "b" / "claude")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "claude").write_text("not executable")
    assert _find(tmp_path / "a", tmp_path / "b") == os.fsencode(tmp_path / "b" / "claude")


def test_links_to_and_copies_of_the_launcher_are_skipped(tmp_path, launcher):
    real = _program(tmp_path / "c" / "claude")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "claude").symlink_to(launcher)
    _program(tmp_path / "b" / "claude", launcher.read_text())
    assert _find(tmp_path / "a", tmp_path / "b", tmp_path / "c") == os.fsencode(real)
    with pytest.raises(OcdError) as caught:
        _find(tmp_path / "a", tmp_path / "b")
    assert caught.value.exit_code == 69
    assert "npm install -g" in caught.value.next_step


def test_explicit_one(tmp_path, launcher):
    other = _program(tmp_path / "a" / "claude-next")
    assert _find(OPENCLAUDE_CLAUDE=other) == os.fsencode(other)
    for bad in (tmp_path / "missing", launcher, tmp_path):
        with pytest.raises(OcdError) as caught:
            _find(OPENCLAUDE_CLAUDE=bad)
        assert caught.value.exit_code == 69


def test_folders_and_odd_path_entries(tmp_path, launcher):
    (tmp_path / "a" / "claude").mkdir(parents=True)
    with pytest.raises(OcdError):
        _find(tmp_path / "a", "/nonexistent", tmp_path / "a" / "claude")


def test_an_error_is_said_in_the_three_lines_of_every_command(tmp_path):
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "OPENCLAUDE_CLAUDE": "/nothing/here"}
    command = [sys.executable, "-m", "ocd.client", "-p", "x"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    what, why, step = done.stderr.splitlines()
    assert done.returncode == 69 and what == "openclaude: OPENCLAUDE_CLAUDE=/nothing/here cannot be used"
    assert why.startswith("  why:  there is no executable") and step.startswith("  next: Correct it")
