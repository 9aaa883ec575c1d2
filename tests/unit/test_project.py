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


def test_no_name_or_number_is_made_from_the_clock() -> None:
    """The clock may be set back, or stand still between two looks: what has to be unique or in order needs more."""
    made = re.compile(r"time_ns\(|int\(time\.(?:time|monotonic)\(|time\.time\(\) \*|\{time\.")
    found = {
        str(path.relative_to(ROOT)) for path in (ROOT / "ocd").rglob("*.py") if made.search(path.read_text())
    }
    # It compares what the clock says with every name that is there.
    assert found == {"ocd/settings/backup.py"}


#: package -> what of ocd it may import; the rest of the world is judged below
ALLOWED = {
    "ipc": {"ocd.ipc"},
    "keeper": {"ocd.keeper", "ocd.ipc", "ocd.errors", "ocd.paths", "ocd.text", "ocd.__version__"},
    "guest": {"ocd.guest", "ocd.ipc", "ocd.atomic", "ocd.mask"},
    "client": {"ocd.client", "ocd.errors", "ocd.paths", "ocd.API_VERSION"},
    "core": {"ocd.core"},
    "wire": {"ocd.API_VERSION", "ocd.core", "ocd.errors"},
    "adapters": {"ocd.adapters", "ocd.core", "ocd.mask", "ocd.text"},
    "settings": {"ocd.settings", "ocd.atomic", "ocd.text", "ocd.errors", "ocd.paths"},
    "stack": {"ocd.stack", "ocd.atomic", "ocd.text", "ocd.settings", "ocd.errors", "ocd.paths"},
    "claude": {
        *(
            "ocd.claude",
            "ocd.atomic",
            "ocd.text",
            "ocd.errors",
            "ocd.paths",
            "ocd.wire",
            "ocd.settings",
            "ocd.stack",
        ),
    },
    "service": {
        "ocd.service",
        "ocd.settings.folders",
        "ocd.atomic",
        "ocd.errors",
        "ocd.paths",
        "ocd.keeper.notify",
        "ocd.keeper.folders",
        "ocd.keeper.launchd",
        "ocd.keeper.lock",
    },
    "supervisor": {
        *("ocd.supervisor", "ocd.core", "ocd.ipc", "ocd.wire", "ocd.adapters", "ocd.settings", "ocd.stack"),
        *(
            "ocd.claude",
            "ocd.client.statusline",
            "ocd.atomic",
            "ocd.mask",
            "ocd.text",
            "ocd.errors",
            "ocd.paths",
            "ocd.provision",
            "ocd.__version__",
            "ocd.API_VERSION",
        ),
    },
    "installer": {
        *("ocd.installer", "ocd.atomic", "ocd.errors", "ocd.paths", "ocd.provision", "ocd.core.state"),
        "ocd.__version__",
    },
    "dashboard": {"ocd.dashboard", "ocd.adapters", "ocd.core", "ocd.atomic", "ocd.paths"},
    "team": {
        *(
            "ocd.team",
            "ocd.supervisor.files",
            "ocd.supervisor.supervision",
            "ocd.stack",
            "ocd.settings",
        ),
        *("ocd.adapters", "ocd.mask", "ocd.core.budget", "ocd.guest.door", "ocd.errors", "ocd.text"),
        "ocd.paths",
    },
    "export": {"ocd.export", "ocd.mask", "ocd.errors", "ocd.settings"},
    "aws": {"ocd.aws", "ocd.errors", "ocd.settings", "ocd.stack", "ocd.supervisor"},
    "selftest": {
        *("ocd.selftest", "ocd.errors", "ocd.paths", "ocd.settings", "ocd.stack", "ocd.core"),
        "ocd.supervisor",
    },
    "doctor": {
        "ocd.paths",
        *("ocd.doctor", "ocd.aws", "ocd.adapters", "ocd.claude", "ocd.client", "ocd.service", "ocd.settings"),
        *(
            "ocd.mask",
            "ocd.text",
            "ocd.stack",
            "ocd.wire",
            "ocd.errors",
            "ocd.__version__",
            "ocd.supervisor",
            "ocd.ctl.daemon",
        ),
        "ocd.provision",
    },
    "ctl": {"ocd"},
}
STDLIB_ONLY = ("ipc", "keeper", "guest", "client", "installer")
#: of the guest, what others load too, or what must do without LiteLLM; the rest may use what LiteLLM brings
WITHOUT_LITELLM = ("__init__.py", "boundary.py")


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / "ocd" / package).rglob("*.py"):
        for name in imports(path):
            if name.split(".")[0] == "ocd":
                allowed = ALLOWED[package]
                whole = name == "ocd"  # its path or version
                assert whole or name in allowed or any(name.startswith(f"{a}.") for a in allowed), (
                    f"{path}: {name}"
                )
            elif package in STDLIB_ONLY and (package != "guest" or path.name in WITHOUT_LITELLM):
                assert name.split(".")[0] in sys.stdlib_module_names, f"{path}: {name}"


def every_import(path: Path, modules: set[str]) -> set[str]:
    """The modules of ocd that a file imports, in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= inner or {node.module}
    return found & modules


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected parts of more than one module (Tarjan, with a stack of our own)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for one in graph[todo.pop()] - seen:
                seen.add(one)
                todo.append(one)
        reach[start] = seen
    parts = {frozenset({a} | {b for b in reach[a] if a in reach[b]}) for a in graph if a in reach[a]}
    return sorted((set(part) for part in parts), key=sorted)


#: Circles that are still there; each is to go, none may join.
KNOWN_CIRCLES: tuple[str, ...] = ()


def test_no_module_imports_itself_over_others() -> None:
    files = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
        for path in sorted((ROOT / "ocd").rglob("*.py"))
    }
    graph = {name: every_import(path, set(files)) - {name} for name, path in files.items()}
    assert len(graph) > 100 and any(graph.values())
    new = [part for part in circles(graph) if not all(name.startswith(KNOWN_CIRCLES) for name in part)]
    assert new == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_the_table_of_directions_has_every_package() -> None:
    packages = {path.name for path in (ROOT / "ocd").iterdir() if (path / "__init__.py").exists()}
    assert packages == set(ALLOWED)


@pytest.mark.parametrize(
    "module",
    ["ocd.__main__", "ocd.keeper.main", "ocd.client.__main__", "ocd.ipc.frames", "ocd.installer.main"],
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
