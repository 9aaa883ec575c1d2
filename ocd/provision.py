"""Private Python environments: made, filled from a lock, and judged before anything in them runs.

Standard library only: install.py works with it before anything is installed.
uv does the work where there is one (its own wheel is pinned by hash like everything else), pip where there is none.
"""

import configparser
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ocd import paths

#: releases of LiteLLM that carried credential-stealing code (BerriAI/litellm#24512, #24518)
REFUSED = ("1.82.7", "1.82.8")
WHY_REFUSED = "this release carried code that steals credentials (BerriAI/litellm#24512)"

_BUILD = ".build-"

# ------------------------------------------------------------------------------------------------ versions


def release(version: str) -> tuple[int, ...]:
    """The release part of a version without the zeros at its end: 01.82.8, v1.82.8.0 and 1.82.8+local are one.

    As packaging's rules have it (PEP 440: version epochs, leading "v", release segments, zero padding). Empty when it
    is not a version.
    """
    found = re.match(r"\s*v?(?:\d+!)?(\d+(?:\.\d+)*)", version, re.IGNORECASE)
    if found is None:
        return ()
    numbers = [int(part) for part in found.group(1).split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def refused(version: str) -> bool:
    """Whether this LiteLLM, however its version is written, is one that steals credentials."""
    return release(version) in {release(one) for one in REFUSED}


# --------------------------------------------------------------------------------------------- environments

#: What runs at every start and is known, by name and content: setuptools' own, and that of virtualenv and uv.
_KNOWN = {
    "distutils-precedence.pth": re.compile(
        rb"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; "
        rb"enabled = os\.environ\.get\(var, '(local|stdlib)'\) == 'local'; "
        rb"enabled and __import__\('_distutils_hack'\)(\.[a-z_]+\(\))?;?\s*"
    ),
    "_virtualenv.pth": re.compile(rb"import _virtualenv\s*"),
}


#: packages that bring their tests along
_TESTED = ("numpy", "regex", "referencing")
_FOR_COMPILERS = (".pyi", ".pyx", ".pxd", ".h", ".a", ".lib")


def site_folders(env: Path) -> list[Path]:
    """Where an environment keeps its packages."""
    return sorted({folder.resolve() for folder in env.glob("lib*/python3*/site-packages")})


def runs_at_start(env: Path) -> list[str]:
    """Names of files that Python runs at every start in an environment and that are not known.

    ``.pth`` files (site's documentation), ``.start`` files (PEP 829, Python 3.15), sitecustomize and usercustomize.
    """
    found = []
    for site in site_folders(env):
        for path in [*site.glob("*.pth"), *site.glob("*.start")]:
            known = _KNOWN.get(path.name)
            try:
                content = b"" if known is None else path.read_bytes()
            except OSError:
                known = None
            if known is None or not known.fullmatch(content):
                found.append(path.name)
        found += [path.name for path in site.glob("*customize*") if path.name.startswith(("site", "user"))]
    return sorted(found)


def trim(env: Path) -> None:
    """Take from LiteLLM's environment what its two proxies never read: 31 MB of 420. No module is among it.

    LiteLLM's admin pages, which the boundary refuses (``[boundary] admin``; they need a database besides) but for the
    two names that LiteLLM looks for at its start, the tests of other packages, and what compilers and editors read.
    """
    for site in site_folders(env):
        pages = site / "litellm" / "proxy" / "_experimental" / "out"
        if (pages / "_next").is_dir():
            for entry in pages.iterdir():
                if entry.name != "index.html":
                    _remove_any(entry)
            (pages / "_next").mkdir()
        for package in _TESTED:
            for folder in [*(site / package).rglob("tests")]:
                shutil.rmtree(folder, ignore_errors=True)
        for where, _folders, files in os.walk(site):
            for name in files:
                if name.endswith(_FOR_COMPILERS):
                    os.unlink(os.path.join(where, name))


def _remove_any(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def versions(env: Path, name: str = "litellm") -> list[str]:
    """The versions of a package that an environment says it has. Nothing in it is run."""
    return [
        folder.name[len(name) + 1 : -len(".dist-info")]
        for site in site_folders(env)
        for folder in sorted(site.glob(f"{name}-*.dist-info"))
    ]


def trouble(env: Path) -> tuple[str, str]:
    """What is wrong with an environment that has LiteLLM, as (what, why); two empty strings when nothing is."""
    for version in versions(env):
        if refused(version):
            return f"LiteLLM {version} is refused", WHY_REFUSED
    place = paths.open_to_all(os.fspath(env))
    if place:
        return (
            f"every user of this machine may write to {place}",
            f"they decide what runs; `chmod o-w {place}`",
        )
    strange = runs_at_start(env)
    if strange:
        return "LiteLLM's environment has files that can run code at every start", ", ".join(strange)
    return "", ""


# ------------------------------------------------------------------------- what pip and uv are told from outside

#: pip's settings that say where packages come from and how to get there; the others are not obeyed
_PIP = (
    *(
        "index-url",
        "extra-index-url",
        "no-index",
        "find-links",
        "trusted-host",
        "cert",
        "client-cert",
        "proxy",
    ),
    *("timeout", "default-timeout", "retries", "cache-dir", "no-cache-dir", "keyring-provider"),
)
#: the like of uv's
_UV = re.compile(
    r"UV_(INDEX(_URL|_STRATEGY)?|DEFAULT_INDEX|EXTRA_INDEX_URL|FIND_LINKS|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|OFFLINE"
    r"|KEYRING_PROVIDER|HTTP_TIMEOUT|CACHE_DIR|NO_CACHE|LINK_MODE|CONCURRENT_[A-Z]+|INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD))"
)
_DROPPED = re.compile(r"PIP_|UV_|PYTHON|VIRTUAL_ENV|CONDA_PREFIX|__PYVENV_LAUNCHER__")


def isolated(environ: Mapping[str, str], work: Path) -> dict[str, str]:
    """An environment for Python, pip and uv: nothing that the user has set but the index, proxies and certificates.

    Settings files are not read by the programs (a file could name another target, more requirements, constraints);
    what they say about the index is taken out of them here. Whoever has no cache of uv's or pip's gets none: what uv
    needs lies below ``work``.
    """
    env = {name: value for name, value in environ.items() if not _DROPPED.match(name)}
    pip = {name: environ[_variable(name)] for name in _PIP if _variable(name) in environ}
    for name, value in _pip_files(environ).items():
        pip.setdefault(name, value)
    env |= {_variable(name): value for name, value in pip.items()}
    env |= {name: value for name, value in environ.items() if _UV.fullmatch(name)}
    for name, value in _uv_files(environ).items():
        env.setdefault(name, value)
    if not {"UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL"} & set(env):
        # uv does not read what pip was told.
        if "index-url" in pip:
            env["UV_DEFAULT_INDEX"] = pip["index-url"]
        if "extra-index-url" in pip:
            env |= {"UV_INDEX": " ".join(pip["extra-index-url"].split())}
            env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    home = environ.get("HOME", "/nonexistent")
    cache = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    if "UV_CACHE_DIR" not in env and not os.path.isdir(f"{cache}/uv"):
        env["UV_CACHE_DIR"] = str(work / "uv-cache")
    pips = (f"{cache}/pip", f"{home}/Library/Caches/pip")
    if "PIP_CACHE_DIR" not in env and not any(map(os.path.isdir, pips)):
        env["PIP_NO_CACHE_DIR"] = "1"
    if "find-links" in pip:
        env.setdefault("UV_FIND_LINKS", ",".join(pip["find-links"].split()))
    if "trusted-host" in pip:
        env.setdefault("UV_INSECURE_HOST", " ".join(pip["trusted-host"].split()))
    if "cert" in pip:
        env.setdefault("SSL_CERT_FILE", pip["cert"])
    if "proxy" in pip:
        env.setdefault("ALL_PROXY", pip["proxy"])
    return env | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_USER": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
    }


def _variable(name: str) -> str:
    return "PIP_" + name.upper().replace("-", "_")


def _pip_files(environ: Mapping[str, str]) -> dict[str, str]:
    """What pip's settings files say about the index (pip's documentation, "Configuration": later ones win)."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return {}
    home = environ.get("HOME", "/nonexistent")
    systems = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    files = [f"{folder}/pip/pip.conf" for folder in systems.split(":") if os.path.isabs(folder)]
    files += ["/Library/Application Support/pip/pip.conf", "/etc/pip.conf", f"{home}/.pip/pip.conf"]
    files += [f"{home}/Library/Application Support/pip/pip.conf"]
    files += [f"{environ.get('XDG_CONFIG_HOME') or home + '/.config'}/pip/pip.conf", named]
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for file in files:
            parser = configparser.RawConfigParser(strict=False)
            with contextlib.suppress(OSError, ValueError, configparser.Error):
                parser.read(file, encoding="utf-8")
            if parser.has_section(section):
                for name, value in parser.items(section):
                    if (plain := name.replace("_", "-")) in _PIP:
                        found[plain] = value
    return found


def _uv_files(environ: Mapping[str, str]) -> dict[str, str]:
    """What uv's settings files say about the index, as its environment variables."""
    home = environ.get("HOME", "/nonexistent")
    user = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = ["/etc/uv/uv.toml", f"{user}/uv/uv.toml", environ.get("UV_CONFIG_FILE", "")]
    said: dict[str, Any] = {}
    for file in files if not environ.get("UV_NO_CONFIG") else []:
        with contextlib.suppress(OSError, ValueError):
            read = tomllib.loads(Path(file).read_text(encoding="utf-8"))
            said |= read.get("pip", {}) | read
    found: dict[str, str] = {}
    indexes = [one for one in said.get("index", []) if isinstance(one, dict) and "url" in one]
    first = [one["url"] for one in indexes if one.get("default")] or [said.get("index-url")]
    more = [one["url"] for one in indexes if not one.get("default")] or said.get("extra-index-url", [])
    if isinstance(first[0], str):
        found["UV_DEFAULT_INDEX"] = first[0]
    if more:
        found["UV_INDEX"] = " ".join(map(str, more))
    if said.get("allow-insecure-host"):
        found["UV_INSECURE_HOST"] = " ".join(map(str, said["allow-insecure-host"]))
    if said.get("native-tls"):
        found["UV_NATIVE_TLS"] = "1"
    return found


# ------------------------------------------------------------------------------------------------ installing


def locked(lock: str) -> str:
    """LiteLLM's version in a requirement file's text; empty when it has none."""
    found = re.search(r"^litellm==([^\s;\\]+)", lock, re.MULTILINE)
    return found[1] if found else ""


def packages(lock: str) -> int:
    """How many packages a requirement file's text names."""
    return len(re.findall(r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[^\]]*\])?==", lock, re.MULTILINE))


class Tools:
    """uv or pip, found or made when first needed, below ``work``, which the caller removes.

    ``run(command, what)`` runs a command with ``isolated``'s environment in a folder that holds no code, returns its
    output, and raises one of ``failures``. ``wheels`` is a folder to install from without a network. Two threads may
    install at once; uv is looked for by one of them.
    """

    def __init__(
        self,
        python: str,
        work: Path,
        uv_lock: Path,
        run: Callable[[list[str], str], str],
        failures: tuple[type[Exception], ...],
        wheels: str = "",
    ) -> None:
        self.python = python
        self.work = work
        self.uv_lock = uv_lock
        self.run = run
        self.failures = failures
        self.source = ["--no-index", "--find-links", wheels] if wheels else []
        self._uv: str | None = None
        self._pip: list[str] = []
        self._lock = threading.RLock()

    def environment(self, folder: Path, fill: Callable[[str], None]) -> None:
        """A whole environment; what is left of an earlier try goes first. ``fill`` gets its interpreter's path.

        Its stamp comes last, so a half-made one is never used; nothing is left of it when anything is raised.
        """
        remove(folder)
        try:
            fill(self.make(folder))
            (folder / ".complete").touch()
        except BaseException:
            remove(folder)
            raise

    def make(self, folder: Path) -> str:
        """An empty environment; returns its interpreter. It needs no pip, and so no package python3-venv either."""
        self.run([self.python, "-I", "-m", "venv", "--without-pip", str(folder)], "make an environment")
        return str(folder / "bin" / "python")

    def pip(self) -> list[str]:
        """pip's command: that of the wheel which comes with Python, since our environments have none."""
        with self._lock:
            if not self._pip:
                self._pip = [self.python, "-I", *self._unpacked_pip()]
            return self._pip

    def _unpacked_pip(self) -> list[str]:
        """What Python is given to run that pip.

        Unpacking the wheel takes a tenth of the three seconds in which the modules venv and ensurepip install it. Where
        it is not found they do that.
        """
        folder = self.work / "pip"
        with contextlib.suppress(OSError, zipfile.BadZipFile, StopIteration):
            with zipfile.ZipFile(next(bundled_pip())) as wheel:
                wheel.extractall(folder)
            if (folder / "pip" / "__pip-runner__.py").exists():
                return [str(folder / "pip" / "__pip-runner__.py")]
        remove(folder)
        self.run([self.python, "-I", "-m", "venv", str(folder)], "make an environment with pip")
        (site,) = site_folders(folder)
        return [str(site / "pip" / "__pip-runner__.py")]

    def uv(self) -> str:
        """uv's path, empty when there is none and none can be had."""
        with self._lock:
            if self._uv is None:
                self._uv = next(find_uv(os.environ), "") or self._uv_wheel()
            return self._uv

    def has_uv(self) -> bool:
        """Whether there is a uv already: then nothing needs pip, nor the module ensurepip that makes it."""
        return bool(self._uv) or next(find_uv(os.environ), None) is not None

    def _uv_wheel(self) -> str:
        target = self.work / "uv"
        exact = [
            "--quiet",
            "--no-compile",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-deps",
            *self.source,
        ]
        command = [*self.pip(), "install", *exact, "--target", str(target), "-r", str(self.uv_lock)]
        try:
            self.run(command, "install uv")
        except self.failures:
            return ""  # pip does all that is needed, slower
        found = target / "bin" / "uv"
        return str(found) if can(str(found)) else ""

    def install(self, python: str, lock: Path, what: str, *where: str) -> None:
        """Install a lock into the environment of ``python``. Wheels only, each by its hash, nothing else."""
        exact = ["--require-hashes", "--only-binary", ":all:", "--no-deps", *self.source, *where]
        self.run([*self.installer(python), *exact, "-r", str(lock)], what)

    def installer(self, python: str) -> list[str]:
        if uv := self.uv():
            return [uv, "--no-config", "pip", "install", "--python", python]
        return [*self.pip(), "--python", python, "install"]


def bundled_pip() -> Iterator[Path]:
    """The wheels of pip that come with this Python: in its module ensurepip, or where a distribution keeps them."""
    found = importlib.util.find_spec("ensurepip")
    folders = [Path(place) / "_bundled" for place in (found and found.submodule_search_locations) or ()]
    kept = sysconfig.get_config_var("WHEEL_PKG_DIR")
    for folder in [*folders, *([Path(kept)] if kept else [])]:
        yield from sorted(folder.glob("pip-*.whl"), reverse=True)


def find_uv(environ: Mapping[str, str]) -> Iterator[str]:
    """Each uv on PATH that can do what is asked of it. Folders relative to the current one do not count."""
    for folder in environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, "uv")
        if os.path.isabs(folder) and os.access(path, os.X_OK) and can(path):
            yield path


def can(uv: str) -> bool:
    """Whether this uv runs here and knows the options that we use."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [uv, "--no-config", "pip", "compile", "--help"],
            env={"PATH": os.defpath, "HOME": os.environ.get("HOME", "/")},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
        )
        return done.returncode == 0 and b"--excludes" in done.stdout and b"--overrides" in done.stdout
    return False


def build_folder(envs: Path) -> Path:
    """Where this process keeps what it needs while it makes environments below ``envs``."""
    return envs / f"{_BUILD}{os.getpid()}"


def remove_abandoned(envs: Path) -> None:
    """Take away the build folders of processes that were killed."""
    for folder in envs.glob(f"{_BUILD}*"):
        pid = folder.name.removeprefix(_BUILD)
        try:
            os.kill(int(pid), 0)
        except (ValueError, OverflowError, OSError):
            # Of another user's process the number is, too, only the same.
            remove(folder)


def remove(folder: Path) -> None:
    """Take an environment away; without its stamp it is not one, whatever happens to the rest."""
    with contextlib.suppress(OSError):
        (folder / ".complete").unlink()
    shutil.rmtree(folder, ignore_errors=True)
