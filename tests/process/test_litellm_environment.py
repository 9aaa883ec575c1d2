"""LiteLLM's locked environment: everything that serves is in it, for every platform that the README names."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.setup import disk
from ocd import provision
from ocd.guest import preload
from ocd.selftest.run import run
from ocd.settings.schema import Settings
from tests.helpers.daemon import ROOT, litellm_python
from tests.process.test_selftest import folders

__all__ = ["folders"]
pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "aarch64-apple-darwin",
    "x86_64-apple-darwin",
)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LOCKS = ("ocd", "build", "uv", "litellm", "litellm-full")


def names(lock: str) -> set[str]:
    text = (ROOT / "requirements" / lock).read_text()
    return {name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def trimmed() -> Iterator[Path]:
    """The environment as an installation has it: ours of the tests, with what is taken away taken away."""
    with tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp") as folder:
        env = Path(folder, "env")
        shutil.copytree(Path(litellm_python()).parent.parent, env, symlinks=True)
        before = disk(env)
        provision.trim(env)
        assert 25e6 < before - disk(env) < 60e6
        yield env


def test_the_locked_environment_serves_every_route(folders, trimmed: Path) -> None:
    site = next(trimmed.glob("lib/python3*/site-packages"))
    installed = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        for one in importlib.metadata.distributions(path=[str(site)])
    }
    left_out = names("litellm-trim.in")
    assert left_out and not left_out & installed, "this environment is not made from requirements/litellm.txt"
    assert "httptools" in installed and "uvloop" in installed
    python = str(trimmed / "bin" / "python")
    report = asyncio.run(run(folders, Settings(), litellm_python=python, routes=True))
    assert report.problems == []
    assert [row for row in report.rows if not row.ok] == []
    asked = [row.check for row in report.rows if row.check.startswith(("GET ", "POST "))]
    assert len(asked) > 30, asked


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """uv as install.py gets it: its wheel, by hash."""
    where = tmp_path_factory.mktemp("uv")
    pip = [
        sys.executable,
        "-I",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    lock = str(ROOT / "requirements" / "uv.txt")
    subprocess.run([*pip, "--no-deps", "--target", str(where), "-r", lock], check=True, capture_output=True)
    return str(where / "bin" / "uv")


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_lock_has_wheels_for(uv: str, platform: str, python: str, tmp_path: Path) -> None:
    for lock in LOCKS:
        command = [
            uv,
            "--no-config",
            "pip",
            "install",
            "--dry-run",
            "--quiet",
            "--require-hashes",
            "--no-deps",
        ]
        command += ["--only-binary", ":all:", "--python-platform", platform, "--python-version", python]
        command += ["--target", str(tmp_path / "none"), "-r", str(ROOT / "requirements" / f"{lock}.txt")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{lock}: {done.stderr}"


REHEARSE = """
import json, sys, threading, types
package = types.ModuleType("ocd"); package.__path__ = [sys.argv[1]]; sys.modules["ocd"] = package
from ocd.guest import preload, rehearsal
version = preload.import_litellm()
rehearsal.own()
import litellm
def state():
    return [len(getattr(litellm, name)) for name in ("callbacks", "success_callback", "failure_callback", "model_cost")]
before = state()
failed = []
for number, step in enumerate(rehearsal.steps()):
    try:
        step()
    except Exception as error:
        failed.append(f"{number}: {error!r}")
import tiktoken
late = tiktoken.get_encoding("cl100k_base")
unread = "_core_bpe" not in late.__dict__
print(json.dumps({
    "version": version, "failed": failed, "threads": threading.active_count(), "unread": unread,
    "tokens": late.encode("hello world, 12345"), "counted": litellm.token_counter(model="gpt-4", text="hello world"),
    "missing": [name for name in rehearsal.OWN if f"ocd.guest.{name}" not in sys.modules],
    "state": [before, state()],
}))
"""


def test_the_rehearsal_knows_the_pinned_version_and_leaves_nothing_behind() -> None:
    ran = subprocess.run(
        [litellm_python(), "-I", "-c", REHEARSE, str(ROOT / "ocd")],
        capture_output=True,
        text=True,
        timeout=120,
        env=preload.IMPORT_ENVIRONMENT,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    pinned = f"litellm=={said['version']}" in (ROOT / "requirements" / "litellm.txt").read_text()
    assert said["failed"] == [] or not pinned, said["failed"]
    assert said["threads"] == 1, "a thread does not survive a fork"
    assert said["unread"] and said["missing"] == []
    assert said["tokens"] == [15339, 1917, 11, 220, 4513, 1774] and said["counted"] == 2
    assert said["state"][0] == said["state"][1]


ENCODINGS = """
import json, sys, types
package = types.ModuleType("ocd"); package.__path__ = [sys.argv[1]]; sys.modules["ocd"] = package
from ocd.guest.layers import decoders
import brotli
zstd = decoders._zstd()
text = b'data: {"usage": {"output_tokens": 7}}\\n\\n' * 500
found = {}
for name, raw in (("br", brotli.compress(text)), ("zstd", zstd.compress(text[:99]) + zstd.compress(text[99:]))):
    for size in (1, 13, 100000):
        one = decoders.decoder(name.encode())
        said = b"".join(one.decompress(raw[at:at + size]) for at in range(0, len(raw), size))
        found[f"{name} {size}"] = said == text
    broken = decoders.decoder(name.encode())
    found[f"{name} nonsense"] = broken.decompress(b"nonsense" * 9) == broken.decompress(raw) == b""
    bomb = brotli.compress(bytes(30000000)) if name == "br" else zstd.compress(bytes(30000000))
    found[f"{name} bomb"] = 0 < len(decoders.decoder(name.encode()).decompress(bomb)) < 2 * decoders.EXPANDED
print(json.dumps(found))
"""


def test_the_meter_reads_every_encoding_with_the_locked_libraries() -> None:
    ran = subprocess.run(
        [litellm_python(), "-I", "-c", ENCODINGS, str(ROOT / "ocd")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, (
        f"{ran.stderr[-500:]} (is this environment made from requirements/litellm.txt?)"
    )
    found = json.loads(ran.stdout)
    assert len(found) == 10 and all(found.values()), found
