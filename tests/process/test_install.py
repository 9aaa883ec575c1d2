"""install.py for real: a fresh HOME, a private prefix, the commands that it leaves, and nothing after uninstall."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.checkout import copy_sources
from tests.helpers.daemon import PREFIXES, eventually, free_ports, litellm_python
from tests.helpers.load import steady

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]


class Home:
    """An empty HOME with an installation below it."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.root = Path(tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp"))
        self.prefix = self.root / "ocd"
        PREFIXES.add(str(self.prefix))
        PREFIXES.add(str(self.root))
        self.port = free_ports()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "OCD_PORT": str(self.port),
            "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", os.path.expanduser("~/.cache/pip")),
        }
        self.env |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_CERT", "REQUESTS_CA"))}

    def install(self, *arguments: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str((root or self.checkout) / "install.py"),
            "--prefix",
            str(self.prefix),
            *arguments,
        ]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=300, cwd="/")

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.prefix / "bin" / command), *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def tree(self) -> dict[str, str]:
        """Everything below HOME with its content: what must be the same before and after."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            kind = (
                os.readlink(path)
                if path.is_symlink()
                else path.read_bytes().hex()
                if path.is_file()
                else "folder"
            )
            found[str(path.relative_to(self.root))] = f"{path.lstat().st_mode:o} {kind}"
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(copy_sources(tmp_path_factory.mktemp("tree") / "checkout"))
    try:
        yield made
    finally:
        if (made.prefix / "bin" / "occtl").exists():
            made.install("--uninstall", "--purge")
        shutil.rmtree(made.root, ignore_errors=True)


def test_a_dry_run_says_everything_and_does_nothing(home: Home) -> None:
    # a set-up of before ocd is offered to be brought in; nobody is asked where nobody can answer
    old = home.root / ".litellm" / "config.yaml"
    old.parent.mkdir()
    old.write_text("model_list: []\n")
    before = home.tree()
    done = home.install("--dry-run", "--litellm-python", litellm_python())
    assert done.returncode == 0, done.stderr
    for word in ("install ocd", "write", "configuration", "start the daemon"):
        assert word in done.stdout
    assert "occtl migrate" in done.stdout and str(old) in done.stdout
    assert home.tree() == before
    shutil.rmtree(old.parent)


def test_uninstall_of_nothing_is_no_error(home: Home) -> None:
    done = home.install("--uninstall")
    assert done.returncode == 0 and "not installed" in done.stdout


def test_the_whole_life_of_an_installation(home: Home, tmp_path: Path) -> None:
    (home.root / "something").write_text("of the user's own")
    before = home.tree()
    done = home.install("--litellm-python", litellm_python())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready" in done.stdout and str(home.port) in done.stdout
    for name in ("ocd", "occtl", "openclaude"):
        assert (home.prefix / "bin" / name).stat().st_mode & 0o777 == 0o755
    status = json.loads(home.run("occtl", "status", "--json").stdout)
    assert {p["state"] for p in status["proxies"].values()} == {"ready"}
    assert home.run("ocd", "--version").stdout.startswith("ocd ")
    launched = subprocess.run(
        [str(home.prefix / "bin" / "openclaude"), "-p", "hello there"],
        env={**home.env, "OPENCLAUDE_CLAUDE": "/bin/echo"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.fullmatch(r"--settings \S+ -p hello there\n", launched.stdout), launched

    # What is not code is in the installed copy too.
    for name in ("requirements/litellm.txt", "units/ocd.service", "plists/io.github.ocd.plist"):
        assert (home.prefix / "share/current/site/ocd/_data" / name).is_file()

    # Run twice: nothing changes, and it says so; the LiteLLM that was chosen need not be named again.
    again = home.install()
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert json.loads(home.run("occtl", "status", "--json").stdout)["pid"] == status["pid"]

    # A newer version takes over in place, under load.
    newer = copy_sources(tmp_path / "newer", version="99.1.0")
    keys = json.loads((home.prefix / "state" / "keys.json").read_text())
    headers = {"x-litellm-api-key": f"Bearer {keys['main']}"}
    with steady(home.port, headers, rate=20) as load:
        # In two goes: the first leaves the old code running, which the second has to notice.
        done = home.install("--no-start", root=newer)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(home.run("occtl", "status", "--json").stdout)["pid"] == status["pid"]
        done = home.install(root=newer)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = [failure for failure in load.failed if "Refused" in failure or "Reset" in failure]
    assert load.sent > 20 and not refused, refused[:3]
    now = json.loads(home.run("occtl", "status", "--json").stdout)
    assert now["version"] == "99.1.0" and now["keeper_pid"] == status["keeper_pid"]
    assert [env.name[:10] for env in (home.prefix / "share/envs").iterdir()] == ["ocd-99.1.0"], (
        "old ones are gone"
    )

    # Gone without a trace, but for the configuration, and without the checkout.
    said = home.run("occtl", "uninstall", "--dry-run").stdout
    assert f"would remove {home.prefix / 'share'}: the environments".replace(str(home.root), "~") in said
    done = home.run("occtl", "uninstall", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    after = home.tree()
    left = {path for path in after if after[path] != before.get(path)}
    assert left == {
        "ocd",
        "ocd/config",
        *(f"ocd/config/{n}" for n in ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml")),
    }
    eventually(lambda: not (home.prefix / "run").exists(), 10)
    assert home.install("--uninstall", "--purge").returncode == 0
    assert home.tree() == before


def test_no_network_is_a_sentence_and_leaves_no_half_environment(home: Home, tmp_path: Path) -> None:
    before = home.tree()
    # a folder without wheels fails as a network without packages does, but at once
    done = home.install("--wheels", str(tmp_path), "--litellm-python", litellm_python())
    assert done.returncode == 69 and "--wheels DIR" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "No matching distribution" in done.stderr
    assert list((home.prefix / "share/envs").iterdir()) == []
    assert home.install("--uninstall", "--purge").returncode == 0
    assert home.tree() == before


def test_a_foreign_file_in_the_way_is_left_alone(home: Home) -> None:
    foreign = home.prefix / "bin" / "openclaude"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("#!/bin/sh\necho mine\n")
    done = home.install("--dry-run", "--litellm-python", litellm_python())
    assert done.returncode == 73 and str(foreign) in done.stderr
    assert foreign.read_text() == "#!/bin/sh\necho mine\n"
    shutil.rmtree(home.prefix)
