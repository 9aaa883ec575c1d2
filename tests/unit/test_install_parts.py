"""install.py's own decisions, without installing anything."""

from __future__ import annotations

import ast
import errno
import importlib.util
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ocd import atomic, paths, provision
from ocd.installer import commands, configuration, ground, programs
from ocd.installer.ahead import Ahead
from ocd.installer.commands import launcher
from ocd.installer.daemon import Daemon
from ocd.installer.environments import SOURCES, Environments, is_complete
from ocd.installer.failure import Failure, explain
from ocd.installer.main import parse
from ocd.installer.occtl import Occtl, complaint
from ocd.installer.places import LOCKS, Places
from ocd.installer.screen import Screen, Steps
from ocd.installer.uninstall import uninstall
from ocd.settings.folders import Folders
from tests.helpers.checkout import copy_sources

ROOT = Path(__file__).resolve().parent.parent.parent


#: what a stranger may have put where somebody stands, or into PYTHONPATH
HOSTILE = ("ocd", "json", "argparse", "subprocess", "sitecustomize", "usercustomize")


@pytest.mark.parametrize("options", [(), ("-I",), ("-P",), ("-S",)], ids=" ".join)
@pytest.mark.parametrize("through", ["the file", "a link", "a copy"])
def test_only_the_checkout_and_the_standard_library_are_imported(
    tmp_path: Path, options: tuple[str, ...], through: str
) -> None:
    place, checkout = tmp_path / "place", ROOT
    place.mkdir()
    for name in HOSTILE[:4] if options in ((), ("-P",)) else HOSTILE:
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write({name!r})\n")
    if through == "a copy":
        checkout = copy_sources(tmp_path / "a copy")
    script = checkout / "install.py"
    if through == "a link":
        script = place / "set up"
        script.symlink_to(checkout / "install.py")
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": f"{place}:", "PYTHONUSERBASE": str(place)}
    command = [sys.executable, *options, str(script), "--uninstall", "--prefix", str(tmp_path / "prefix")]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and "not installed here" in done.stdout
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert not (tmp_path / "prefix").exists()
    if through == "a copy":
        assert not list(checkout.rglob("__pycache__")), "a checkout may be read-only"


@pytest.mark.parametrize("prefix", ["", "/tmp/some where", "/x" * 60])
def test_the_folders_are_those_of_the_daemon(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if prefix:
        monkeypatch.setenv("OCD_PREFIX", prefix)
    places, folders = Places(prefix), Folders.find()
    assert (places.config, places.data, places.state, places.bin) == (
        folders.config,
        folders.data,
        folders.state,
        folders.bin,
    )
    if prefix:
        assert Path(paths.runtime_dir()) in places.runtime


def an_environment(folder: Path, litellm: str = "") -> Path:
    """What looks like a complete virtual environment, with a LiteLLM of that version if there is to be one."""
    site = folder / "lib" / "python3.11" / "site-packages"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    site.mkdir(parents=True)
    if litellm:
        (site / f"litellm-{litellm}.dist-info").mkdir()
    (site / "litellm_proxy_extras-0.4.1.dist-info").mkdir()
    (folder / ".complete").touch()
    return folder


class Parts:
    """The parts of an installation below ``prefix``."""

    def __init__(self, prefix: Path, wheels: str = "") -> None:
        self.places = Places(str(prefix))
        self.steps = Steps(Screen())
        self.occtl: Any = Occtl(self.places, self.steps.screen)
        self.daemon = Daemon(self.places, self.steps, self.occtl)
        self.run = programs.Programs(self.places, self.steps.screen).run
        lock = ROOT / "requirements" / "uv.txt"
        self.tools: Any = provision.Tools(
            sys.executable, self.places.build, lock, self.run, (Failure,), wheels
        )
        self.environments: Any = Environments(self.places, self.steps, self.tools)


@pytest.mark.parametrize(
    "version", ["1.82.7", "1.82.8", "1.82.8.0", "01.82.8", "v1.82.7", "1.82.8+local", "1.82.7.post1"]
)
def test_the_two_malicious_releases_are_refused_by_name(version: str, tmp_path: Path) -> None:
    lock = f"aiohttp==3.0\nlitellm=={version} \\\n    --hash=sha256:00\n"
    assert provision.locked(lock) == version
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "litellm.txt").write_text(lock)
    for refuse in (
        lambda: ground.known_bad_locks(tmp_path),
        lambda: ground.environment(an_environment(tmp_path / "theirs", version)),
    ):
        with pytest.raises(Failure, match=re.escape(version)) as caught:
            refuse()
        assert caught.value.exit_code == 64
    (tmp_path / "requirements" / "litellm.txt").write_text(lock.replace(version, "1.106.2"))
    ground.known_bad_locks(tmp_path)
    ground.environment(an_environment(tmp_path / "good", "1.106.2"))


def test_an_interpreter_without_litellm_is_refused(tmp_path: Path) -> None:
    for folder in (an_environment(tmp_path / "without"), tmp_path / "nowhere"):
        with pytest.raises(Failure, match="no LiteLLM") as caught:
            ground.environment(folder)
        assert caught.value.exit_code == 66


def test_a_file_that_runs_code_at_every_start_is_noticed(tmp_path: Path) -> None:
    site = an_environment(tmp_path / "env") / "lib" / "python3.11" / "site-packages"
    known = "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    known += "enabled and __import__('_distutils_hack').add_shim(); "
    (site / "distutils-precedence.pth").write_text(known)
    (site / "_virtualenv.pth").write_text("import _virtualenv")
    assert provision.runs_at_start(tmp_path / "env") == []
    # a byte order mark hides the word from a look at the line's beginning, not from Python
    (site / "litellm_init.pth").write_bytes(b"\xef\xbb\xbfimport base64; exec('')\n")
    assert provision.runs_at_start(tmp_path / "env") == ["litellm_init.pth"]
    with pytest.raises(Failure, match=r"litellm_init\.pth"):
        ground.trouble(tmp_path / "env", "", 71)
    # neither a known name with other content, nor what Python 3.15 calls such a file
    (site / "distutils-precedence.pth").write_text(known + "\nimport evil\n")
    (site / "evil.start").write_text("evil:main\n")
    names = ["distutils-precedence.pth", "evil.start", "litellm_init.pth"]
    assert provision.runs_at_start(tmp_path / "env") == names


def test_only_a_finished_environment_with_its_python_is_used(tmp_path: Path) -> None:
    env = an_environment(tmp_path / "env")
    assert is_complete(env)
    (env / "bin" / "python").unlink()
    (env / "bin" / "python").symlink_to(tmp_path / "an uninstalled python")
    assert not is_complete(env)


@pytest.mark.parametrize("ending", [Failure("no network"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_half_made_environment_is_taken_away(tmp_path: Path, ending: BaseException) -> None:
    one = Parts(tmp_path)

    def fill(python: str) -> None:
        raise ending

    one.tools.make = lambda folder: folder.mkdir()
    with pytest.raises(type(ending)):
        one.environments.make(one.places.envs / "ocd-1-a", fill, "install ocd 1")
    assert list(one.places.envs.iterdir()) == []


@pytest.mark.parametrize("program", ["/usr/bin/uv", ""])
def test_packages_come_by_hash_as_wheels_and_from_the_folder_alone_if_named(
    tmp_path: Path, program: str
) -> None:
    ran: list[list[str]] = []
    for wheels in ("", str(tmp_path)):
        one = Parts(tmp_path / "p", wheels)
        one.tools.run = lambda command, what: ran.append(command)
        one.tools.uv = lambda: program
        one.tools.install("/env/bin/python", LOCKS / "ocd.txt", "install")
    ran = [command for command in ran if "install" in command]
    online, offline = ran
    for command in ran:
        assert {"--require-hashes", "--no-deps"} < set(command)
        # a package built from its source would fetch build tools that no hash is known of
        assert command[command.index("--only-binary") + 1] == ":all:"
    assert "--no-index" not in online
    assert offline[offline.index("--no-index") :][1:3] == ["--find-links", str(tmp_path)]


def test_nothing_but_the_index_the_way_there_and_certificates_is_taken_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        *("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIREMENT", "PIP_CONSTRAINT"),
        "PYTHONPATH",
    ):
        monkeypatch.setenv(name, "/elsewhere")
    for name in ("UV_TARGET", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_PYTHON", "UV_CONFIG_FILE", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "/elsewhere")
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\ntarget = /elsewhere\nconstraint = /elsewhere\n"
        "[install]\nextra_index_url = https://more.example/simple\n  https://most.example/simple\n"
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in (
        "PIP_CONFIG_FILE",
        "UV_NO_CONFIG",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "PIP_INDEX_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("PIP_CERT", "/etc/ours.pem")
    env = Places("/tmp/x").environment()
    assert "/elsewhere" not in env.values() and env["PIP_USER"] == "0"
    assert env["PIP_CONFIG_FILE"] == os.devnull and env["UV_NO_CONFIG"] == "1"
    assert env["PIP_INDEX_URL"] == env["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert env["UV_INDEX"] == "https://more.example/simple https://most.example/simple"
    assert env["HTTPS_PROXY"] == "http://proxy.example:3128" and env["SSL_CERT_FILE"] == "/etc/ours.pem"
    assert env["OCD_PREFIX"] == "/tmp/x"
    monkeypatch.setenv("PIP_INDEX_URL", "https://nearer.example/simple")
    assert Places("/tmp/x").environment()["PIP_INDEX_URL"] == "https://nearer.example/simple"
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text(
        '[[index]]\nurl = "https://uv.example/simple"\ndefault = true\n[pip]\ntarget = "/elsewhere"\n'
    )
    env = Places("/tmp/x").environment()
    assert env["UV_DEFAULT_INDEX"] == "https://uv.example/simple" and "/elsewhere" not in env.values()


def test_no_code_of_the_current_folder_runs(tmp_path: Path) -> None:
    """Each Python is started with -I in a folder of ours: `venv.py` or `pip/` where somebody stands is not run."""
    one = Parts(tmp_path / "p")
    ran: list[list[str]] = []
    one.tools.run = lambda command, what: ran.append(command)
    one.tools.uv = lambda: ""
    one.tools.make(tmp_path / "env")
    one.tools.install("/env/bin/python", LOCKS / "ocd.txt", "install")
    assert len(ran) == 2 and all(command[1] == "-I" for command in ran), ran
    one.run([sys.executable, "-c", "import os; print(os.getcwd())"], "say where it runs")
    assert str(one.places.state) in one.places.log.read_text()


def test_a_uv_that_lies_in_the_current_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert list(provision.find_uv({"PATH": f".:{os.pathsep}bin:"})) == []
    # one that is too old to know what is asked of it is passed over
    assert list(provision.find_uv({"PATH": str(tmp_path)})) == [] and (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("said", "package"),
    [
        ("  cause: Because cryptography==50.0.2 has no usable wheels and you require", "cryptography"),
        (
            "Because pyroscope-io{sys_platform != 'win32'}==0.8.16 has no wheels with a matching",
            "pyroscope-io",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement orjson==3.13.0 (from versions: 3.11.0)",
            "orjson",
        ),
    ],
)
def test_a_platform_without_wheels_is_not_blamed_on_the_network(said: str, package: str) -> None:
    failure = programs.failure("install failed", ["error: No solution found", said], Path("/log"))
    assert f"no wheel of {package} " in str(failure)
    assert failure.exit_code == 69 and "network" not in str(failure)
    none = ["ERROR: No matching distribution found for x==1 (from versions: none)"]
    assert "no wheel" not in str(programs.failure("install failed", none, Path("/log")))


def test_a_prefix_in_the_environment_is_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCD_PREFIX", "/tmp/there")
    assert parse([]).prefix == "/tmp/there"
    assert parse(["--prefix", "/tmp/here"]).prefix == "/tmp/here"


def test_the_litellm_that_somebody_chose_stays(tmp_path: Path) -> None:
    one = Parts(tmp_path / "p").environments
    made: list[Path] = []
    one.make = lambda folder, fill, what: made.append(folder)
    pinned = one.litellm("", False, False)
    assert re.fullmatch(r"litellm-1\.\d+\.\d+-[0-9a-f]{12}", pinned.name) and made == [pinned]

    used = str(an_environment(one.envs / "litellm-1.99.4-abc", "1.99.4"))  # as `occtl litellm use` leaves it
    assert str(one.litellm(used, False, False)) == used
    assert one.litellm(used, True, False) == pinned, "the next ocd was tested with its own"
    own = str(an_environment(tmp_path / "own", "1.100.0"))  # as --litellm-python left it
    assert str(one.litellm(own, True, False)) == own
    assert one.litellm(str(tmp_path / "gone"), False, False) == pinned
    with pytest.raises(Failure, match=r"1\.82\.8"):
        one.litellm(str(an_environment(tmp_path / "bad", "1.82.8")), False, False)


@pytest.mark.parametrize("old_serves", [True, False])
def test_a_version_that_does_not_serve_gives_way_to_the_one_before(tmp_path: Path, old_serves: bool) -> None:
    one = Parts(tmp_path)
    one.places.envs.mkdir(parents=True)
    old, new = (an_environment(one.places.envs / name) for name in ("ocd-1-a", "ocd-2-b"))
    one.places.current.symlink_to(new)
    asked: list[Any] = []

    def occtl(_program: str, *arguments: str, **_: Any) -> Any:
        asked.append((*arguments, os.readlink(one.places.current)))
        code, out = (0, b'{"running": true}') if old_serves else (75, b"")
        return subprocess.CompletedProcess(arguments, code, out, b"")

    one.occtl._run = occtl
    before = {one.places.current: str(old), one.places.litellm: ""}
    with pytest.raises(Failure, match="does again" if old_serves else "neither") as caught:
        one.daemon.go_back(new, before, Failure("the new one", "is broken"))
    assert caught.value.exit_code == 69 and "the new one: is broken" in str(caught.value)
    assert os.readlink(one.places.current) == str(old)
    assert (("reexec" if old_serves else "start"), str(old)) in asked
    assert new.exists() is not old_serves


def test_what_occtl_says_becomes_one_line() -> None:
    done = subprocess.CompletedProcess(
        ["occtl"], 75, b"", b"occtl: It failed\n  why: of this\n  next: Run `x`\n"
    )
    assert complaint(done) == "occtl: It failed why: of this"


def test_two_installers_do_not_work_at_once(tmp_path: Path) -> None:
    with Parts(tmp_path).places.alone(), pytest.raises(Failure) as caught:  # noqa: SIM117
        with Parts(tmp_path).places.alone():
            pass
    assert caught.value.exit_code == 75
    with Parts(tmp_path).places.alone():
        pass


def test_uninstall_removes_nothing_while_a_broken_installation_serves() -> None:
    # not tmp_path: too deep for a socket on some systems
    with (
        tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp") as base,
        socket.socket(socket.AF_UNIX) as daemon,
    ):
        one = Parts(Path(base) / "p")
        one.places.data.mkdir(parents=True)
        (one.places.data / "made-folders").touch()
        folder = one.places.runtime[0]
        folder.mkdir()
        daemon.bind(str(folder / "control.sock"))
        daemon.listen()
        with pytest.raises(Failure, match="nothing was removed"):
            uninstall(one.places, one.steps, purge=False)
        assert one.places.data.exists()
        daemon.close()
        uninstall(one.places, one.steps, purge=False)
        assert os.listdir(base) == [], "a socket on which nobody listens is no daemon"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 74, "Free some disk space"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 77, "--prefix DIR"),
        (OSError(errno.EIO, "Input/output error"), 74, "still works"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(error: OSError, code: int, word: str) -> None:
    text, got = explain(error)
    assert got == code and word in text and text.endswith(".") and ".." not in text


class OldPython:
    """What the first lines of install.py ask of ``sys``, in a Python that is too old."""

    version_info, argv, executable = (3, 9), ["install.py", "--dry-run"], "/usr/bin/python3"

    def __init__(self) -> None:
        self.stderr = io.StringIO()

    def exit(self, code: int) -> None:
        raise SystemExit(code)


def in_an_old_python(path: str) -> tuple[str, Any]:
    """What the check says, and which program it goes on with or which code it ends with."""
    text = (ROOT / "install.py").read_text()
    check = compile(ast.get_source_segment(text, ast.parse(text).body[2]) or "", "install.py", "exec")
    old = OldPython()

    def execv(program: str, argv: list[str]) -> None:
        raise KeyboardInterrupt(program, argv)

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", path)
        patched.setattr(os, "execv", execv)
        try:
            exec(check, {"sys": old, "__file__": str(ROOT / "install.py")})
        except KeyboardInterrupt as went:
            return old.stderr.getvalue(), went.args
        except SystemExit as ended:
            return old.stderr.getvalue(), ended.code
    raise AssertionError("it went on with the old one")


def test_an_old_python_looks_for_a_newer_one_and_says_so(tmp_path: Path) -> None:
    for name, script in (
        ("python3.14", "#!/bin/sh\necho 'pyenv: python3.14: command not found' >&2\nexit 127\n"),
        ("python3.13", "#!/bin/sh\necho False\n"),
        ("python3.12", "#!/bin/sh\necho True\n"),
        ("python3.11", "#!/bin/sh\necho True\n"),
    ):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    said, went = in_an_old_python(f"relative:{tmp_path}")
    newer = str(tmp_path / "python3.12")
    assert went == (newer, [newer, str(ROOT / "install.py"), "--dry-run"])
    assert said == f"This is Python 3.9, too old for ocd: going on with {newer}.\n"


def test_an_old_python_alone_says_what_to_do(tmp_path: Path) -> None:
    said, code = in_an_old_python(str(tmp_path))
    assert code == 69 and "this is 3.9" in said and "uv run" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("freebsd14", "amd64", "on freebsd14 amd64"),
        ("linux", "riscv64", "on linux riscv64"),
        ("linux", "i686", "on linux i686"),
    ],
)
def test_a_system_without_packages_is_refused_before_anything_is_built(
    system: str, machine: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "uname", lambda: type("Name", (), {"machine": machine})())
    one = Parts(tmp_path)
    one.tools.run = lambda *_: pytest.fail("something was run")
    with pytest.raises(Failure, match=words):
        one.environments.ours()
    assert not (tmp_path / "share").exists()


@pytest.mark.parametrize(
    ("missing", "uv", "refused"),
    [("venv", True, True), ("ensurepip", False, True), ("ensurepip", True, False)],
)
def test_a_python_without_its_parts_is_refused_before_anything_is_built(
    missing: str, uv: bool, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    monkeypatch.setattr(sys, "platform", "linux")
    one = Parts(tmp_path)
    monkeypatch.setattr(one.tools, "has_uv", lambda: uv)
    if not refused:
        ground.system(one.tools)
        return
    with pytest.raises(Failure, match=f"no module {missing}.*python3-venv"):
        ground.system(one.tools)


@pytest.mark.parametrize(
    "output",
    [
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'",
        "error: dns error: failed to lookup address information: Temporary failure in name resolution",
        "Failed to establish a new connection: [Errno 101] Network is unreachable",
    ],
)
def test_no_network_is_its_own_sentence(output: str, tmp_path: Path) -> None:
    advice = programs.advice(output, tmp_path / "log")
    assert advice.startswith("There is no way to the package index") and "A Python for which" not in advice


@pytest.mark.parametrize("output", ["The virtual environment ... ensurepip is not", "No module named venv"])
def test_a_python_without_venv_names_the_package(tmp_path: Path, output: str) -> None:
    assert "python3-venv" in programs.advice(output, tmp_path / "log")


@pytest.mark.parametrize("arguments", [["--purge"], ["--nonsense"], ["--wheels", "/no/such/folder"]])
def test_wrong_usage_ends_with_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 64 and arguments[0] in capsys.readouterr().err


def test_what_the_wheel_needs_is_copied() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*wheel["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"], "ocd", "pyproject.toml"}
    needed |= {wheel["project"]["readme"], *wheel["project"]["license-files"]}
    assert set(SOURCES) == needed


def test_a_launcher_is_the_same_for_every_version(tmp_path: Path) -> None:
    one = Parts(tmp_path)
    commands.write(one.places, one.steps)
    text = (tmp_path / "bin" / "openclaude").read_text()
    assert str(one.places.current / "site") in text and "python3." not in text
    one.steps.changed = False
    commands.write(one.places, one.steps)
    assert not one.steps.changed


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
    text = launcher("openclaude", str(folder), str(python), str(site))
    path = tmp_path / "openclaude"
    path.write_text(text)
    path.chmod(0o755)
    assert "ocd.client" in text[:1024]
    done = subprocess.run([str(path), "a b", "--x"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 7, done.stderr
    assert done.stdout == f"{folder} ['a b', '--x']\n"


def test_a_link_is_swapped_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "current"
    atomic.link(link, "/one")
    atomic.link(link, "/two")
    assert os.readlink(link) == "/two"
    assert [p.name for p in tmp_path.iterdir()] == ["current"]


def test_an_old_python_gets_a_sentence() -> None:
    text = (ROOT / "install.py").read_text()
    tree = ast.parse(text, feature_version=(3, 6))
    names = [type(node).__name__ for node in tree.body]
    # docstring, `import sys`, the check; an old Python gets no further
    assert names[:3] == ["Expr", "Import", "If"]
    assert "sys.version_info < (3, 11)" in ast.get_source_segment(text, tree.body[2])  # type: ignore[operator]


@pytest.mark.parametrize(
    "line",
    [
        "litellm==1.82.7 \\\n    --hash=sha256:00",
        "litellm[proxy]==1.82.8",
        "LiteLLM [proxy] === 1.82.7 ; python_version > '3'",
    ],
)
@pytest.mark.parametrize("lock", ["litellm.txt", "ocd.txt"])
def test_a_malicious_release_is_refused_in_every_lock_and_spelling(
    tmp_path: Path, lock: str, line: str
) -> None:
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / lock).write_text("anyio==4.16.0\nlitellm-proxy-extras==1.82.7\nlitellm==1.82.70\n")
    ground.known_bad_locks(tmp_path)
    (folder / lock).write_text("anyio==4.16.0\n" + line + "\n")
    with pytest.raises(Failure, match=lock) as caught:
        ground.known_bad_locks(tmp_path)
    assert caught.value.exit_code == 64


def test_code_that_would_run_at_every_start_is_found_under_its_other_names(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    (site / "litellm").mkdir()
    assert provision.runs_at_start(tmp_path) == []
    (site / "sitecustomize.py").touch()
    (site / "usercustomize").mkdir()
    assert provision.runs_at_start(tmp_path) == ["sitecustomize.py", "usercustomize"]


def test_sudo_is_told_to_step_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ground.anothers_home()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(Failure, match="without sudo") as caught:
        ground.anothers_home()
    assert caught.value.exit_code == 77


# ---- a second user on the machine

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 100 0 0 10 0
   2: 0100007F:0FAB 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 3 1 0 100 0 0 10 0
"""


def test_whose_ports_are_whose() -> None:
    def read(name: str) -> str:
        if name == "tcp6":
            raise FileNotFoundError
        return TCP

    assert configuration.listening(1000, read) == ({4000}, {8080}), "one that is connected does not listen"


def test_the_real_table_is_read() -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("there is no /proc here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port in configuration.listening(os.getuid())[1]
        assert port in configuration.listening(os.getuid() + 1)[0]


@pytest.mark.parametrize(
    ("theirs", "ours", "port"),
    [
        (set(), set(), 4000),
        ({4000}, set(), 4010),
        ({4001}, set(), 4010),
        ({4000, 4001, 4011}, {4020}, 4030),
        (set(), {4000}, 4000),
    ],
)
def test_a_second_user_gets_a_pair_of_their_own(theirs: set[int], ours: set[int], port: int) -> None:
    assert configuration.pair(theirs, ours) == port


@pytest.mark.parametrize(("variable", "written"), [("", "port = 4010"), ("OCD_PORT", "#port = 4000")])
def test_it_is_written_down_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, written: str
) -> None:
    for name in ("OCD_PORT", "OPENCLAUDE_LITELLM_PORT", "OCD_BEDROCK_PORT"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "5000")
    monkeypatch.setattr(configuration, "listening", lambda _uid: ({4000}, set()))
    one = Parts(tmp_path)
    one.places.config.mkdir(parents=True)
    template = ROOT / "ocd/stack/templates/ocd.toml"
    (one.places.config / "ocd.toml").write_text(template.read_text())
    configuration.ports_of_our_own(one.places.config / "ocd.toml", one.steps)
    text = (one.places.config / "ocd.toml").read_text()
    assert f"\n{written}\n" in text
    assert len(text.splitlines()) == len(template.read_text().splitlines())


def test_two_environments_at_once_and_the_first_failure_is_the_one_that_is_told(tmp_path: Path) -> None:
    one = programs.Programs(Places(str(tmp_path / "p")), Screen())
    say = [sys.executable, "-I", "-c", "print('said')"]
    both = one.both(lambda: one.run(say, "say it"), lambda: one.run(say, "say it again"))
    assert both == ("said", "said")
    log = one.places.log.read_text()
    assert log.count("\nsaid\n(") == 2, "each program's output is in one piece, with its time"

    began = time.monotonic()
    wait = [sys.executable, "-I", "-c", "import time; time.sleep(100)"]
    fail = [sys.executable, "-I", "-c", "raise SystemExit('no network')"]
    for first, second in ((wait, fail), (fail, wait)):
        one = programs.Programs(Places(str(tmp_path / "p")), Screen())
        with pytest.raises(Failure, match="no network"):
            one.both(
                lambda command=first, run=one.run: run(command, "install"),  # type: ignore[misc]
                lambda command=second, run=one.run: run(command, "install"),  # type: ignore[misc]
            )
        assert not one._running
        with pytest.raises(Failure, match="given up"):
            one.run(say, "go on")
    assert time.monotonic() - began < 60, "what runs is ended when the other fails"


def test_ctrl_c_ends_what_runs_beside(tmp_path: Path) -> None:
    one = programs.Programs(Places(str(tmp_path / "p")), Screen())
    begun = threading.Event()

    def beside() -> str:
        begun.set()
        return one.run([sys.executable, "-I", "-c", "import time; time.sleep(100)"], "install")

    def interrupted() -> None:
        begun.wait(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.both(beside, interrupted)
    assert not one._running


def test_what_moves_is_said_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.live = True
    with screen.moving(lambda: "one"), screen.moving(lambda: "two"):
        end = time.monotonic() + 20
        said = ""
        while "one; two" not in said and time.monotonic() < end:
            time.sleep(0.05)
            said += capsys.readouterr().out
    assert "one; two" in said and screen._beat is None
    assert capsys.readouterr().out.endswith("\r\033[K")


def test_pip_is_that_of_pythons_own_wheel(tmp_path: Path) -> None:
    if not list(provision.bundled_pip()):
        pytest.skip("this Python comes without a wheel of pip")
    one = Parts(tmp_path / "p")
    one.tools.run = lambda *_: pytest.fail("nothing is installed for it")
    command = one.tools.pip()
    assert one.tools.pip() is command
    assert re.match(r"pip \d+\.\d+", one.run([*command, "--version"], "ask pip"))


def test_without_that_wheel_an_environment_has_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "bundled_pip", lambda: iter(()))
    one = Parts(tmp_path / "p")
    made: list[str] = []

    def run(command: list[str], what: str) -> str:
        made.append(what)
        site = Path(command[-1]) / "lib" / "python3.11" / "site-packages"
        site.mkdir(parents=True)
        return ""

    one.tools.run = run
    assert one.tools.pip()[-1].endswith("site-packages/pip/__pip-runner__.py")
    assert made == ["make an environment with pip"]


def test_bytecode_is_made_beside_the_first_start_and_never_twice(tmp_path: Path) -> None:
    env = an_environment(tmp_path / "env")
    (site,) = provision.site_folders(env)
    for name in ("litellm/types", "litellm/proxy", "litellm/proxy/client"):
        (site / name).mkdir(parents=True)
        (site / name / "one.py").write_text("ONE = 1\n")
    (site / "litellm" / "utils.py").write_text("not Python, which is no fault of set-up's")
    places = Places(str(tmp_path / "p"))
    places.make(places.state)
    ahead = Ahead(places)
    ahead.begin(env)
    running = list(ahead._running)
    assert running
    for process in running:
        process.wait(60)
    assert len(list((site / "litellm" / "proxy" / "__pycache__").glob("one.*.pyc"))) == 1
    assert not (site / "litellm/proxy/client/__pycache__").exists(), "nothing for the disk alone"
    ahead.begin(env)
    assert ahead._running == running, "what has been imported from is left alone"
    ahead.end()
    assert not ahead._running and all(process.returncode is not None for process in running)


def test_the_build_folders_of_killed_processes_go_and_those_of_others_stay(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (
        f".build-{gone.pid}",
        f".build-{os.getpid()}",
        ".build-99999999999999",
        ".build-x",
        "ocd-1.0",
    ):
        (tmp_path / name / "tools").mkdir(parents=True)
    provision.remove_abandoned(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {provision.build_folder(tmp_path).name, "ocd-1.0"}
    provision.remove_abandoned(tmp_path / "nothing")


def test_what_is_trimmed_is_no_module(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    pages = site / "litellm" / "proxy" / "_experimental" / "out"
    kept = ("litellm/proxy/main.py", "numpy/testing/__init__.py", "other/tests/__init__.py", "numpy/core.so")
    gone = ("numpy/lib/tests/test_a.py", "numpy/a.pyi", "numpy/include/b.h", "other/c.pyx")
    for name in (*kept, *gone):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("")
    (pages / "_next" / "static").mkdir(parents=True)
    (pages / "index.html").write_text("LiteLLM looks for it")
    (pages / "login.html").write_text("")
    (pages / "link").symlink_to(tmp_path)
    for _again in range(2):
        provision.trim(tmp_path)
        assert all((site / name).exists() for name in kept) and not any(
            (site / name).exists() for name in gone
        )
        assert sorted(one.name for one in pages.iterdir()) == ["_next", "index.html"]
        assert not list((pages / "_next").iterdir()) and tmp_path.exists()
