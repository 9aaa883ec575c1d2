"""install.py's own decisions, without installing anything."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ocd import paths
from ocd.config.folders import Folders

ROOT = Path(__file__).resolve().parent.parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ocd_install", ROOT / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load()


@pytest.mark.parametrize("prefix", ["", "/tmp/some where", "/x" * 60])
def test_the_folders_are_those_of_the_daemon(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if prefix:
        monkeypatch.setenv("OCD_PREFIX", prefix)
    places, folders = install.Places(prefix), Folders.find()
    assert (places.config, places.data, places.state, places.bin) == (
        folders.config,
        folders.data,
        folders.state,
        folders.bin,
    )
    if prefix:
        assert Path(paths.runtime_dir()) in places.runtime


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
def test_the_two_malicious_releases_are_refused_by_name(version: str) -> None:
    with pytest.raises(install.Failure, match=version):
        install.refuse_known_bad(f"aiohttp==3.0\nlitellm=={version} \\\n    --hash=sha256:00\n")
    install.refuse_known_bad("litellm==1.106.2 \\\n")


def test_a_file_that_runs_code_at_every_start_is_noticed(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    (site / "distutils-precedence.pth").write_text("import os; pass\n")
    (site / "paths.pth").write_text("/only/a/path\n")
    assert install.strange_pth(tmp_path) == []
    (site / "litellm_init.pth").write_text("import base64; exec('')\n")
    assert install.strange_pth(tmp_path) == ["litellm_init.pth"]


def test_a_launcher_works_from_paths_that_a_shebang_cannot_hold(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    python = folder / "python"
    python.symlink_to(sys.executable)
    site = folder / "site"
    (site / "ocd" / "client").mkdir(parents=True)
    (site / "ocd" / "__init__.py").touch()
    (site / "ocd" / "client" / "__init__.py").touch()
    (site / "ocd" / "client" / "__main__.py").write_text(
        "import os, sys\ndef main():\n    print(os.environ.get('OCD_PREFIX'), sys.argv[1:])\n    return 7\n"
    )
    places = install.Places(str(folder))
    text = install.launcher("openclaude", places, str(python), str(site))
    path = tmp_path / "openclaude"
    path.write_text(text)
    path.chmod(0o755)
    assert "ocd.client" in text[:1024]
    done = subprocess.run([str(path), "a b", "--x"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 7, done.stderr
    assert done.stdout == f"{folder} ['a b', '--x']\n"


def test_a_link_is_swapped_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "current"
    install.replace_link(link, "/one")
    install.replace_link(link, "/two")
    assert os.readlink(link) == "/two"
    assert [p.name for p in tmp_path.iterdir()] == ["current"]


def test_an_old_python_gets_a_sentence() -> None:
    text = (ROOT / "install.py").read_text()
    compile(text, "install.py", "exec", dont_inherit=True)
    early = text.index("import argparse")
    assert text.index("sys.version_info < (3, 11)") < early
    assert 'f"' not in text and "match " not in text.split('"""')[0], "old Pythons must be able to read it"
