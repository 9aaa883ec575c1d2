"""A hostile current folder and a hostile environment: nothing of either decides what runs or where it goes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ocd import paths
from ocd.selftest.upstreams import Upstreams
from tests.helpers.daemon import Daemon

#: modules that something of ours, of LiteLLM's or of pip's imports early
MODULES = (
    *("sitecustomize", "usercustomize", "litellm", "ocd", "json", "asyncio", "runpy", "venv", "pip", "click"),
    *("uvicorn", "pydantic", "httpx", "yaml", "typing", "ssl", "custom_callbacks"),
)
#: leaves a file that says that it ran
RAN = "import os\nopen(os.path.join({place!r}, 'ran-' + {name!r}), 'w').close()\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name in MODULES:
        (folder / f"{name}.py").write_text(RAN.format(place=str(folder), name=name))
        (folder / name).mkdir()
        for file in ("__init__.py", "__main__.py"):
            (folder / name / file).write_text(RAN.format(place=str(folder), name=f"{name}-package"))
    (folder / "evil.pth").write_text(f"import os; open({str(folder / 'ran-pth')!r}, 'w').close()\n")
    (folder / ".env").write_text(
        "ANTHROPIC_BASE_URL=http://127.0.0.1:9\nAWS_PROFILE=evil\nLITELLM_MASTER_KEY=sk-1\n"
    )
    for name in ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml", "config.yaml"):
        (folder / name).write_text("port = 1\n")
    (folder / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/\n")
    (folder / "uv.toml").write_text('index-url = "http://127.0.0.1:9/"\n')
    return folder


def environment(folder: Path) -> dict[str, str]:
    """What a shell may have by then."""
    away = "http://127.0.0.1:9"
    return {
        **{"PYTHONPATH": str(folder), "PYTHONSTARTUP": str(folder / "json.py"), "PYTHONHOME": "/nonexistent"},
        **{"PYTHONUSERBASE": str(folder), "PYTHONWARNINGS": "error", "PYTHONBREAKPOINT": "litellm.run"},
        **{"PYTHONPLATLIBDIR": str(folder), "PYTHONPYCACHEPREFIX": str(folder / "cache")},
        **{"PIP_INDEX_URL": away, "PIP_REQUIREMENT": str(folder / "ocd.toml"), "PIP_TARGET": str(folder)},
        **{"UV_INDEX_URL": away, "UV_CONFIG_FILE": str(folder / "uv.toml"), "UV_PYTHON": "/bin/false"},
        **{
            "NODE_OPTIONS": f"--require {folder}/x.js",
            "HTTP_PROXY": away,
            "HTTPS_PROXY": away,
            "ALL_PROXY": away,
        },
        **{"http_proxy": away, "https_proxy": away, "NO_PROXY": "", "ANTHROPIC_BASE_URL": away},
        **{
            "AWS_PROFILE": "evil",
            "AWS_ENDPOINT_URL": away,
            "LITELLM_MASTER_KEY": "sk-1",
            "DATABASE_URL": "x",
        },
        **{"SSL_CERT_FILE": "/dev/null", "LITELLM_CONFIG": str(folder / "config.yaml")},
    }


@pytest.fixture(scope="module")
def daemon(addresses: dict[str, str], hostile: Path) -> Iterator[Daemon]:
    with Daemon(addresses) as daemon:
        daemon.command = paths.program("ocd")
        daemon.cwd = str(hostile)
        daemon.env |= environment(hostile)
        daemon.start()
        yield daemon


def ran(hostile: Path) -> list[str]:
    return sorted(path.name for path in hostile.glob("ran-*"))


def test_nothing_of_the_folder_or_the_environment_runs_in_the_daemon(
    daemon: Daemon, hostile: Path, upstreams: Upstreams
) -> None:
    for model in ("claude-opus-9-9", "qwen-3-coder"):
        assert daemon.ask(model).status_code == 200
    assert {one.upstream for one in upstreams.seen()} == {"anthropic", "bedrock"}
    assert daemon.post("/v1/reload")["ok"]
    assert ran(hostile) == []


def test_the_guests_have_nothing_of_the_environment(daemon: Daemon, hostile: Path) -> None:
    members = [m["pid"] for p in daemon.status()["proxies"].values() for m in p["members"]]
    for pid in [*members, daemon.host_pid()]:
        given = psutil.Process(pid).environ()
        assert not [name for name, value in given.items() if str(hostile) in value or "127.0.0.1:9" in value]


@pytest.mark.parametrize("words", [["status"], ["config", "check"], ["models"], ["--help"]], ids=" ".join)
def test_nothing_runs_in_the_commands(daemon: Daemon, hostile: Path, words: list[str]) -> None:
    env = {**daemon.env, **environment(hostile)}
    done = subprocess.run(
        [*paths.program("ocd.ctl"), *words], env=env, cwd=hostile, capture_output=True, text=True, timeout=60
    )
    # 78: the made-up configuration lacks some models, which is said.
    assert done.returncode in (0, 78) and done.stdout and "Traceback" not in done.stderr, done
    assert ran(hostile) == []


def test_the_folder_would_have_run_without_isolation(hostile: Path) -> None:
    """The traps are real: a Python that is not isolated runs into them."""
    env = {"PATH": os.defpath, "PYTHONPATH": str(hostile)}
    subprocess.run([sys.executable, "-c", "import litellm"], env=env, cwd=hostile, check=False, timeout=60)
    found = ran(hostile)
    for name in found:
        (hostile / name).unlink()
    assert found
