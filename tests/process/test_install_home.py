"""install.py in an ordinary HOME, without a prefix or a network, and against what goes wrong on real machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ocd.ipc.sockets import listen_unix
from ocd.selftest.upstreams import Upstreams
from tests.helpers import canaries
from tests.helpers.checkout import copy_sources, edit
from tests.helpers.daemon import BEDROCK, MAIN, SLOW, Daemon, eventually, free_ports, litellm_python
from tests.helpers.load import steady

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("tree") / "checkout")


class Person:
    """Somebody's HOME and runtime folder; no user bus, no network."""

    def __init__(self, wheels: Path) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ocd-t-", dir="/tmp"))
        self.home, self.runtime = self.root / "home", self.root / "run"
        self.home.mkdir()
        self.runtime.mkdir(mode=0o700)
        self.port = free_ports()
        self.wheels = wheels
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "OCD_PORT": str(self.port),
            "PIP_INDEX_URL": NOWHERE,
            "HTTPS_PROXY": NOWHERE,
            "HTTP_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1,localhost",
            "PIP_RETRIES": "0",
        }

    def command(self, checkout: Path, *arguments: str) -> list[str]:
        options = [] if "--uninstall" in arguments else ["--wheels", str(self.wheels)]
        if "--uninstall" not in arguments and "--litellm-python" not in arguments:
            options += ["--litellm-python", litellm_python()]
        return [sys.executable, str(checkout / "install.py"), *options, *arguments]

    def install(self, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(checkout, *arguments),
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300 * SLOW,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )

    def occtl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.home / ".local/bin/occtl"), *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120 * SLOW,
        )

    def status(self) -> dict[str, dict[str, dict[str, object]]]:
        found = json.loads(self.occtl("status", "--json").stdout)
        assert isinstance(found, dict)
        return found

    def tree(self) -> dict[str, str]:
        """Everything of the person's: path → mode and content."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            content = "folder"
            # A daemon that runs removes files of its own meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if path.is_symlink():
                    content = os.readlink(path)
                elif path.is_file():
                    content = path.read_bytes().hex()
                found[str(path.relative_to(self.root))] = f"{path.lstat().st_mode:o} {content}"
        return found

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def data(self) -> Path:
        return self.home / ".local/share/ocd"


@pytest.fixture
def person(wheels: Path, checkout: Path) -> Iterator[Person]:
    made = Person(wheels)
    try:
        yield made
    finally:
        canaries.look_into(made.root)
        made.install(checkout, "--uninstall", "--purge")
        _gone, alive = psutil.wait_procs(made.processes(), timeout=15)
        for process in alive:
            process.kill()
        shutil.rmtree(made.root, ignore_errors=True)
        assert not alive, f"left behind: {alive}"


def test_a_whole_life_in_an_ordinary_home_without_a_network(person: Person, checkout: Path) -> None:
    (person.home / ".profile").write_text("# mine\n")
    (person.home / ".claude").mkdir()
    (person.home / ".claude/settings.json").write_text('{"statusLine": {"command": "mine"}}')
    before = person.tree()
    done = person.install(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "no escape sequence in a pipe"
    assert "occtl start" in done.stdout or "loginctl" in done.stdout, "why there is no service is not said"
    assert {p["state"] for p in person.status()["proxies"].values()} == {"ready"}

    for page in ("man1/occtl.1", "man1/openclaude.1", "man1/ocd.1", "man5/ocd.toml.5"):
        assert (person.home / ".local/share/man" / page).read_text().startswith(".TH"), page

    unchanged = person.tree().keys()
    again = person.install(checkout)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stdout + again.stderr
    fresh = {p for p in person.tree().keys() - unchanged if not re.search(r"/state/ocd/|^run/", p)}
    assert not fresh, fresh

    for words in (("configure",), ("statusline", "on")):
        assert person.occtl("claude", *words).returncode == 0
    claudes = json.loads((person.home / ".claude/settings.json").read_text())
    assert claudes["statusLine"]["command"] == f"{person.home}/.local/bin/occtl statusline" and claudes["env"]
    assert "no AWS login" in person.occtl("statusline").stdout, "which is so in this home"

    gone = person.install(checkout, "--uninstall")
    assert gone.returncode == 0, gone.stderr
    assert not person.processes()
    after = person.tree()
    kept = {".config", ".config/ocd", *(f".config/ocd/{n}" for n in CONFIG)}
    assert after.keys() - before.keys() == {f"home/{name}" for name in kept}
    assert {path: after[path] for path in before} == before


CONFIG = ("ocd.toml", "litellm.yaml", "litellm-bedrock.yaml")


def test_killed_half_way_it_is_finished_by_the_next_run(person: Person, checkout: Path) -> None:
    process = subprocess.Popen(
        person.command(checkout, "--no-start"), env=person.env, stdout=subprocess.DEVNULL, cwd="/"
    )
    try:
        eventually(lambda: list(person.data.glob("envs/ocd-*/lib")), 60, "an environment is being made")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (person.data / "current").exists(), "a half-made environment is never used"
    # More than once: of a process that is just becoming another program nothing can be read.
    eventually(lambda: not any(person.processes() for _ in range(5)), 60, "pip has ended")
    (half,) = person.data.glob("envs/ocd-*")
    marker = half / "half-made"
    marker.touch()
    done = person.install(checkout, "--no-start")
    assert done.returncode == 0, done.stderr
    assert not marker.exists(), "the half-made environment was taken for a whole one"
    assert [p.name for p in person.data.glob("envs/*")] == [half.name]
    assert (person.data / "current/bin/python").exists()


def test_a_daemon_of_another_home_is_left_alone(person: Person, checkout: Path, daemon: Daemon) -> None:
    """One daemon for each user: what is tried out in another HOME must not replace or end it."""
    (person.runtime / "ocd").mkdir(mode=0o700)
    with listen_unix(str(person.runtime / "ocd/control.sock"), 1):
        nothing = person.install(checkout, "--uninstall", "--purge")
        assert nothing.returncode == 0 and "not installed" in nothing.stdout, nothing.stdout + nothing.stderr
        assert (person.runtime / "ocd/control.sock").exists(), "somebody listens there"
    shutil.rmtree(person.runtime / "ocd")
    person.env["OCD_RUNTIME_DIR"] = str(daemon.runtime)
    refused = person.install(checkout)
    assert refused.returncode == 75 and "another HOME" in refused.stderr, refused.stdout + refused.stderr
    assert not (person.home / ".local/bin").exists() and not (person.home / ".config").exists()
    assert person.install(checkout, "--no-start").returncode == 0
    refused = person.install(checkout, "--uninstall")
    assert refused.returncode == 75 and str(daemon.prefix) in refused.stderr, refused.stdout + refused.stderr
    assert (person.home / ".local/bin/occtl").exists() and daemon.ask().status_code == 200
    del person.env["OCD_RUNTIME_DIR"]  # what is left to the fixture is an installation like any other


def test_two_at_once_do_not_disturb_each_other(person: Person, checkout: Path) -> None:
    command = person.command(checkout, "--no-start")
    processes = [
        subprocess.Popen(command, env=person.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=300 * SLOW) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == [0, 75], answers
    assert len(list(person.data.glob("envs/ocd-*"))) == 1


def test_a_prefix_with_somebody_elses_files_loses_none_of_them(person: Person, checkout: Path) -> None:
    """``--prefix ~/.local`` names a folder whose ``share`` is everybody's."""
    theirs = person.home / ".local" / "share" / "mail" / "letters"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of them")
    before = person.tree()
    prefix = str(person.home / ".local")
    done = person.install(checkout, "--no-start", "--prefix", prefix)
    assert done.returncode in (64, 73) and prefix in done.stderr, done.stdout + done.stderr
    person.install(checkout, "--uninstall", "--purge", "--prefix", prefix)
    assert person.tree() == before


@pytest.mark.parametrize("name", ["a:b", 'a"b', "a$b", "a`b", "a\nb"])
def test_a_prefix_that_no_command_could_be_called_from_is_refused(
    person: Person, checkout: Path, name: str
) -> None:
    before = person.tree()
    done = person.install(checkout, "--no-start", "--prefix", str(person.root / name))
    assert done.returncode == 64 and "--prefix" in done.stderr, done.stderr
    assert person.tree() == before


def test_without_network_and_wheels_it_says_so_and_changes_nothing(person: Person, checkout: Path) -> None:
    command = [sys.executable, str(checkout / "install.py"), "--litellm-python", litellm_python()]
    env = {**person.env, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300 * SLOW, cwd="/")
    assert done.returncode == 69, done.stdout
    assert "network" in done.stderr and "--wheels" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (person.data / "current").exists() and not list(person.data.glob("envs/*"))


@pytest.fixture
def serving(person: Person, checkout: Path, upstreams: Upstreams) -> Person:
    """An installation that serves, with stand-ins instead of the real services."""
    addresses = {"anthropic": upstreams.anthropic, "bedrock": upstreams.bedrock}
    config = person.home / ".config/ocd"
    config.mkdir(parents=True, mode=0o700)
    (config / "litellm.yaml").write_text(MAIN.format(**addresses))
    (config / "litellm-bedrock.yaml").write_text(BEDROCK.format(**addresses))
    done = person.install(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    return person


def headers(person: Person) -> dict[str, str]:
    keys = json.loads((person.home / ".local/state/ocd/keys.json").read_text())
    return {"x-litellm-api-key": f"Bearer {keys['main']}", "authorization": f"Bearer {canaries.TOKEN}"}


def test_upgrades_good_bad_and_interrupted_refuse_nothing(
    serving: Person, checkout: Path, tmp_path: Path
) -> None:
    good, broken, halted = (copy_sources(tmp_path / v, version=v) for v in ("99.1", "99.2", "99.3"))
    # It starts, says so, and its proxies never do: the worst kind.
    guest = broken / "ocd" / "guest" / "guest.py"
    edit(guest, r"^import os$", "import os\nraise SystemExit('broken on purpose')")
    with steady(serving.port, headers(serving), rate=10) as load:
        done = serving.install(good)
        assert done.returncode == 0, done.stdout + done.stderr
        assert serving.status()["version"] == "99.1"
        done = serving.install(broken)
        assert done.returncode == 69, done.stdout + done.stderr
        assert "version before" in done.stdout + done.stderr
        now = serving.status()
        assert now["version"] == "99.1", done.stderr
        assert {p["state"] for p in now["proxies"].values()} == {"ready"}
        process = subprocess.Popen(
            serving.command(halted), env=serving.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
        )
        eventually(lambda: list(serving.data.glob("envs/ocd-99.3*/lib")), 60, "an environment is being made")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60 * SLOW)
        assert process.returncode == 130 and b"still works" in said, said
        assert serving.status()["version"] == "99.1"
        assert not list(serving.data.glob("envs/ocd-99.3*"))
    assert load.sent > 20 and not load.failed, load.failed[:3]
    # What the broken one wrote is gone with the next good run, and openclaude still finds its code.
    assert serving.occtl("version").stdout.startswith("occtl    99.1")
