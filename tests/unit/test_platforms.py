"""The README's table of platforms: what it names can be installed, and the public CI runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocd import provision

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = ("ocd", "litellm", "litellm-full", "build", "uv")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

#: the README's words → uv's names (uv's reference, --python-platform)
PLATFORMS = {
    ("Linux, glibc 2.28 or newer", "x86_64"): "x86_64-manylinux_2_28",
    ("Linux, glibc 2.28 or newer", "arm64"): "aarch64-manylinux_2_28",
    ("Linux, musl (Alpine)", "x86_64"): "x86_64-unknown-linux-musl",
    ("Linux, musl (Alpine)", "arm64"): "aarch64-unknown-linux-musl",
    ("macOS 13 or newer", "arm64"): "aarch64-apple-darwin",
    ("macOS 13 or newer", "x86_64"): "x86_64-apple-darwin",
}


def table() -> list[list[str]]:
    """The rows of the README's table of platforms."""
    text = (ROOT / "README.md").read_text()
    part = text.split("| system | processor |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:]]


def test_the_table_names_what_is_tested() -> None:
    found = {(row[0], processor) for row in table() for processor in row[1].split(", ")}
    assert found == set(PLATFORMS)
    assert {row[2] for row in table()} == {f"{PYTHONS[0]} to {PYTHONS[-1]}"}


def test_the_ci_runs_the_two_commands_of_the_readme_on_them() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    readme = (ROOT / "README.md").read_text()
    for command in ("python3 install.py", "make test"):
        assert f"\n{command}\n" in readme and command in text
    for version in PYTHONS:
        assert f'"{version}"' in text
    runners = re.search(r"os: \[(.*)\]", text)
    assert runners is not None
    assert {"macos-15", "macos-15-intel", "ubuntu-24.04"} <= set(runners[1].split(", "))
    assert "fedora:" in text and "alpine:" in text


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A uv, found or installed from our own lock; skips where neither can be had."""
    found = next(provision.find_uv(os.environ), "")
    folder = tmp_path_factory.mktemp("uv")
    if not found:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r"]
        done = subprocess.run([*command, ROOT / "requirements" / "uv.txt"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no uv here, and none can be installed: {done.stderr.strip()[-200:]}")
        found = str(folder / "bin" / "uv")
    yield found
    shutil.rmtree(folder, ignore_errors=True)


def resolve(uv: str, lock: str, platform: str, python: str, folder: Path) -> str:
    """Why a lock cannot be installed there, with wheels alone and by hash; empty when it can."""
    command = [uv, "--no-config", "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-platform", platform, "--python-version", python]
    command += ["--target", str(folder / "t"), "-r", str(ROOT / "requirements" / f"{lock}.txt")]
    env = {**provision.isolated(os.environ, folder), "UV_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    # Its lines are cut to a terminal's width.
    return " ".join(done.stderr.split()) if done.returncode else ""


@pytest.fixture(scope="module")
def folder(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where uv keeps what it fetched; skips where there is no index to ask."""
    folder = tmp_path_factory.mktemp("resolved")
    if why := resolve(uv, "build", PLATFORMS["Linux, glibc 2.28 or newer", "x86_64"], "3.11", folder):
        if re.search(r"fetch|connect|dns|not found in the package registry", why, re.IGNORECASE):
            pytest.skip(f"no package index answers: {why.strip()[-200:]}")
        pytest.fail(why)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_every_lock_can_be_installed_on_every_platform(uv: str, folder: Path, lock: str) -> None:
    faults = {
        (platform, python): why
        for platform in PLATFORMS.values()
        for python in PYTHONS
        if (why := resolve(uv, lock, platform, python, folder))
    }
    assert not faults


@pytest.mark.slow
def test_a_platform_without_wheels_is_found(uv: str, folder: Path) -> None:
    """The check can fail: there are no wheels of psutil for RISC-V."""
    why = resolve(uv, "ocd", "riscv64-unknown-linux", "3.11", folder)
    assert "psutil" in why and "wheels" in why
