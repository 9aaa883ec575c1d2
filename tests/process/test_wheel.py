"""From the wheel alone, as `uv tool install` and pipx have it: what docs/install.md prints, and then it serves."""

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

from ocd import provision
from ocd.installer.environments import BUILD
from tests.helpers.checkout import copy_sources
from tests.helpers.daemon import PREFIXES, ROOT, SLOW, free_ports

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | str = "/") -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400 * SLOW,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("tool")
    source = copy_sources(folder / "source")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    run(sys.executable, "-I", "-c", BUILD, site, source, folder / "wheels")
    [wheel] = (folder / "wheels").glob("*.whl")
    if uv := next(provision.find_uv(os.environ), ""):
        # As it is printed, into folders of its own.
        env = {**os.environ, "UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
        run(uv, "--no-config", "tool", "install", "--python", sys.executable, wheel, env=env)
        return folder / "bin"
    run(sys.executable, "-I", "-m", "venv", folder / "venv")
    pip = [folder / "venv/bin/python", "-I", "-m", "pip", "install", "--quiet", "--no-deps"]
    run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", ROOT / "requirements/ocd.txt")
    run(*pip, "--no-index", wheel)
    return folder / "venv/bin"


@pytest.fixture
def person(tool: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody whose HOME is new."""
    root = Path(tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp"))
    PREFIXES.add(str(root))
    (root / "run").mkdir(mode=0o700)
    env = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_CERT", "UV_"))}
    env |= {
        "PATH": f"{tool}:/usr/bin:/bin",
        "HOME": str(root),
        "XDG_RUNTIME_DIR": str(root / "run"),
        "OCD_PORT": str(free_ports()),
        "OCD_NO_SERVICE": "1",
    }
    try:
        yield env
    finally:
        subprocess.run([str(tool / "occtl"), "stop"], env=env, capture_output=True, timeout=120)
        shutil.rmtree(root, ignore_errors=True)


def printed() -> list[str]:
    """What docs/install.md says to type after `uv tool install`."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8").partition("## Without install.py")[2]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [re.split(r"\s{2,}", line)[0] for line in block[1].splitlines()]


def test_the_printed_commands_lead_to_a_daemon_that_serves(person: dict[str, str]) -> None:
    commands = printed()
    assert len(commands) == 1, "`uv tool install` and this: two commands"
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            env=person,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400 * SLOW,
        )
        # 3: neither Claude Code nor an AWS login is here, which it says
        assert done.returncode == 3, done.stdout[-2000:] + done.stderr[-2000:]
        assert "installed LiteLLM" in done.stdout and "Claude Code was not found" in done.stdout
        assert "aws configure" in done.stdout
    status = json.loads(run("occtl", "status", "--json", env=person))
    assert {proxy["state"] for proxy in status["proxies"].values()} == {"ready"}
    assert "ready" in run("occtl", "start", env=person) or "already" in run("occtl", "start", env=person)

    # and all of it goes again, but for the configuration and what uv or pipx installed
    home = Path(person["HOME"])
    run("occtl", "config", "set", "supervision.idle_minutes", "30", env=person)
    assert "uv tool uninstall" in run("occtl", "uninstall", "--yes", "--keep", home / "kept", env=person)
    left = {str(path.relative_to(home)) for path in home.rglob("*ocd*") if "kept" not in path.parts}
    assert left <= {".config/ocd", ".config/ocd/ocd.toml"}, left
    assert list((home / "kept/backups").glob("*-config-set"))
