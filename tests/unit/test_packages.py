"""The packages of other systems' managers: what is in them, and that set-up runs from them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ocd.installer.environments import SOURCES
from packages import NAME, ROOT, VERSION, deb, homebrew

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb here")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deb.build(tmp_path_factory.mktemp("deb"))


def dry_run(setup: Path, home: Path) -> str:
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(home)}
    command = [sys.executable, str(setup), "--dry-run"]
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_dpkg
def test_the_debian_package_is_one_that_dpkg_takes_and_takes_back(package: Path, tmp_path: Path) -> None:
    """With dpkg itself, in a root of its own: there are no maintainer scripts that would need a whole system."""
    assert package.name == f"{NAME}_{VERSION}_all.deb"
    root = tmp_path / "root"
    for folder in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (tmp_path / "home").mkdir()
    dpkg = ["dpkg", f"--root={root}", "--log=/dev/null", "--force-not-root", "--force-depends"]
    dpkg += ["--force-bad-path", "--force-script-chrootless"]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run([*dpkg, "-i", package], check=True, capture_output=True, env=env)
    setup = root / "usr/bin/ocd-setup"
    said = dry_run(setup, tmp_path / "home")
    assert f"would install ocd {VERSION}" in said and not list((tmp_path / "home").iterdir())
    installed = root / "usr/share" / NAME
    assert not list(installed.rglob("__pycache__")), "it is read, not written"
    assert {path.name for path in installed.iterdir()} == {*SOURCES, "install.py"}
    subprocess.run([*dpkg, "--purge", NAME], check=True, capture_output=True, env=env)
    assert not os.path.lexists(setup) and not installed.exists()


@needs_dpkg
def test_everything_in_it_is_roots_and_nobody_elses_to_write(package: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        mode, owner = line.split()[:2]
        assert owner == "root/root" and (mode.startswith("l") or mode[5] == mode[8] == "-"), line
    assert "__pycache__" not in listed and ".pyc" not in listed
    fields = subprocess.run(["dpkg-deb", "-f", package], capture_output=True, text=True, check=True).stdout
    assert "\nArchitecture: all\n" in fields and "\nDepends: python3 (>= 3.11), python3-venv\n" in fields
    scripts = subprocess.run(["dpkg-deb", "--ctrl-tarfile", package], capture_output=True, check=True).stdout
    (package.parent / "control.tar").write_bytes(scripts)
    with tarfile.open(package.parent / "control.tar") as tar:
        assert set(tar.getnames()) <= {".", "./control", "./md5sums"}, "nothing runs at its installation"


@needs_dpkg
def test_the_same_code_makes_the_same_package(package: Path, tmp_path: Path) -> None:
    assert deb.build(tmp_path).read_bytes() == package.read_bytes()


def test_the_formula_installs_its_archive_and_names_no_registry(tmp_path: Path) -> None:
    formula = homebrew.build(tmp_path)
    text = formula.read_text()
    packed = tmp_path / f"{NAME}-{VERSION}.tar.gz"
    assert f'sha256 "{hashlib.sha256(packed.read_bytes()).hexdigest()}"' in text
    assert re.findall(r'^  url "(.*)"$', text, re.MULTILINE) == [packed.as_uri()]
    assert "resource" not in text
    if ruby := shutil.which("ruby"):
        subprocess.run([ruby, "-c", formula], check=True, capture_output=True)
    # What its `install` does: everything into one folder, and a link to install.py.
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "ocd-setup").symlink_to(tmp_path / f"{NAME}-{VERSION}" / "install.py")
    assert os.access(tmp_path / "ocd-setup", os.X_OK)
    first = (tmp_path / "ocd-setup").read_text().splitlines()[0]
    assert f'inreplace "install.py", "{first}"' in text
    (tmp_path / "home").mkdir()
    assert f"would install ocd {VERSION}" in dry_run(tmp_path / "ocd-setup", tmp_path / "home")
    assert homebrew.build(tmp_path / "again").with_name(packed.name).read_bytes() == packed.read_bytes()
    assert (
        'url "https://here.example/x.tgz"'
        in homebrew.build(tmp_path, "https://here.example/x.tgz").read_text()
    )


def test_make_has_a_target_for_each() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "-m packages.deb" in makefile and "-m packages.homebrew" in makefile
