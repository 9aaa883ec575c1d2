"""The project's own promises: locks, pins, import directions, nothing of this machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
#: those of the package, and those of the other LiteLLMs that the canaries are sent through
LOCKS = sorted([*(ROOT / "requirements").glob("*.txt"), *(ROOT / "tests" / "requirements").glob("*.txt")])
PIN = "1.106.12"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_requirement_is_exact_and_hashed_and_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text and "--index" not in text and "--find" not in text
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._\[\]-]+==\S+", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]


def test_litellm_has_one_pin_everywhere_and_is_in_no_other_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["litellm"] == [f"litellm[proxy]=={PIN}"]
    assert f"\nlitellm=={PIN} " in (ROOT / "requirements/litellm.txt").read_text()
    assert f"\nlitellm[proxy]=={PIN}\n" in (ROOT / "requirements/litellm.in").read_text()
    assert f"\nlitellm=={PIN} " in (ROOT / "requirements/litellm-full.txt").read_text()
    for name in ("ocd", "dev", "build", "uv"):
        assert "litellm==" not in (ROOT / f"requirements/{name}.txt").read_text()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            whole = node.module == "ocd"
            found |= {f"ocd.{alias.name}" for alias in node.names} if whole else {node.module}
    return found


#: package -> what of ocd it may import; the rest of the world is judged below
ALLOWED = {
    "keeper": {"ocd.keeper", "ocd.guest", "ocd.errors", "ocd.paths"},
    "guest": set(),
    "client": {"ocd.client", "ocd.errors", "ocd.paths", "ocd.API_VERSION"},
    "core": {"ocd.core"},
    "wire": {"ocd.API_VERSION"},
    "adapters": {"ocd.adapters", "ocd.core"},
    "config": {"ocd.config", "ocd.errors", "ocd.paths"},
    "claude": {"ocd.claude", "ocd.errors", "ocd.wire", "ocd.config"},
}
STDLIB_ONLY = ("keeper", "guest", "client")
#: of the guest, what others load too, or what must do without LiteLLM; the rest may use what LiteLLM brings
WITHOUT_LITELLM = ("__init__.py", "boundary.py", "frames.py", "lifeline.py", "sockets.py")


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / "ocd" / package).rglob("*.py"):
        for name in imports(path):
            if name.split(".")[0] == "ocd":
                allowed = ALLOWED[package]
                assert name in allowed or any(name.startswith(f"{a}.") for a in allowed), f"{path}: {name}"
            elif package in STDLIB_ONLY and (package != "guest" or path.name in WITHOUT_LITELLM):
                assert name.split(".")[0] in sys.stdlib_module_names, f"{path}: {name}"


@pytest.mark.parametrize(
    "module", ["ocd.__main__", "ocd.keeper.main", "ocd.client.__main__", "ocd.guest.frames"]
)
def test_a_fresh_interpreter_loads_nothing_but_the_standard_library_for(module: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    foreign = {m.split(".")[0] for m in out.split()} - set(sys.stdlib_module_names) - {"__main__", "ocd"}
    assert not foreign


def test_no_tracked_file_names_a_registry_or_a_path_of_a_machine() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    hosts = [
        ".".join(("pypi", "org")),
        ".".join(("files", "pythonhosted", "org")),
        ".".join(("registry", "npmjs", "org")),
    ]
    bad = [
        *hosts,
        *(
            "/".join(("", *parts))
            for parts in (("work", ""), ("tmp", "lab"), ("root", ""), ("opt", "wheels"))
        ),
    ]
    for name in files:
        path = ROOT / name
        if name and path.is_file() and path.suffix not in (".png", ".svg"):
            text = path.read_text("utf-8", "replace")
            for word in bad:
                assert word not in text, f"{name} names {word}"
