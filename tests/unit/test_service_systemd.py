"""systemd's side without a manager: rendering, quoting, whose unit it is, what is left when nobody answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ocd.errors import OcdError
from ocd.service import base as manager
from ocd.service.base import hint, launchers, overlooked, template
from ocd.service.systemd import UNITS, Systemd, render

#: what a program's path may hold, and what a variable may
FOLDER = "a b%h $HOME é"
AWKWARD = f'{FOLDER} "c\\d'


class Recorded:
    """Stands for systemctl: answers by the words after --user, and remembers what was asked."""

    def __init__(self, **answers: str) -> None:
        self.answers = {"is-system-running": "running", "show": "252 (252.38-1)", **answers}
        self.enabled = False
        self.active = False
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str], _seconds: float) -> subprocess.CompletedProcess[str]:
        words = command[2:] if command[0] == "systemctl" else command
        self.asked.append(words)
        text = self.answers.get(words[0], "")
        match words[0]:
            case "enable" | "disable":
                self.enabled = words[0] == "enable"
                self.active = self.active and self.enabled
            case "start":
                self.active = True
            case "is-enabled":
                text = "enabled\nenabled\n" if self.enabled else "disabled\ndisabled\n"
            case "is-active":
                text = "active\n" if self.active else "inactive\n"
        return subprocess.CompletedProcess(
            command, 0 if text or words[0] != "is-system-running" else 1, text, ""
        )

    def verbs(self) -> list[str]:
        return [words[0] for words in self.asked]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in manager.TAKEN_ALONG:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return tmp_path


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def words(line: str) -> str:
    """A quoted word of a unit file as systemd reads it (systemd.syntax(7))."""
    return re.sub(r"\\(.)", r"\1", line[1 : line.rindex('"')]).replace("%%", "%")


def test_whatever_is_in_a_path_comes_out_of_the_unit_as_it_was() -> None:
    variables = {"PATH": f"/bin:/{AWKWARD}", "OCD_PREFIX": f"/p/{AWKWARD}"}
    text = render(template("units", "ocd.service"), Path("/x") / FOLDER, variables, 252)
    found = directives(text)
    assert [words(line) for line in found["ExecStart"]] == [f"/x/{FOLDER}/ocd"]
    assert [words(line) for line in found["Environment"]] == [f"{n}={v}" for n, v in variables.items()]
    assert found["ExecReload"][0].endswith('/occtl" reload')
    assert not re.search("@[A-Z]+@", "".join("".join(values) for values in found.values()))
    with pytest.raises(OcdError, match="quotes"):
        render(template("units", "ocd.service"), Path("/x") / AWKWARD, variables, 252)


@pytest.mark.parametrize(
    ("version", "expected"),
    [(0, ["1s"]), (252, ["1s"]), (253, ["1s"]), (254, ["200ms"]), (257, ["200ms"])],
)
def test_the_back_off_uses_only_what_the_manager_knows(version: int, expected: list[str]) -> None:
    found = directives(render(template("units", "ocd.service"), Path("/x"), {"PATH": "/bin"}, version))
    assert found["RestartSec"] == expected
    assert ("RestartSteps" in found) == ("RestartMaxDelaySec" in found) == (version >= 254)


@pytest.mark.parametrize("version", [252, 257])
def test_a_placeholder_in_a_comment_breaks_no_line(version: int) -> None:
    """Every line that is no comment and no section is a directive; a value may look like a placeholder."""
    text = "# see @BACKOFF@ and @ENVIRONMENT@\n[Service]\n@BACKOFF@\n@ENVIRONMENT@\nEnvironment=@PATH@\n"
    for unit in (text, template("units", "ocd.service"), template("units", "ocd.socket")):
        done = render(unit, Path("/x"), {"PATH": "/@BACKOFF@", "OCD_PREFIX": "/p"}, version)
        for line in filter(None, done.splitlines()):
            assert re.match(r"#|\[[A-Z][a-z]+\]$|[A-Z][A-Za-z]+=", line), line
    assert 'Environment="PATH=/@BACKOFF@"' in render(text, Path("/x"), {"PATH": "/@BACKOFF@"}, version)


def test_every_directive_of_both_units_has_a_reason() -> None:
    for name in UNITS:
        lines = template("units", name).splitlines()
        for number, line in enumerate(lines):
            if "=" not in line or line.startswith(("#", "Description=", "WantedBy=")):
                continue
            above = [text for text in lines[:number] if text][-1]
            # A block of directives may share one comment.
            assert above.startswith("#") or "=" in above or above.startswith("@"), f"{name}: {line}"


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze, installed by tests/systemd"
)
@pytest.mark.parametrize("version", [252, 257])
def test_systemd_itself_reads_awkward_paths(
    home: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    folder = home / FOLDER
    folder.mkdir()
    for name in ("ocd", "occtl"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    units = home / "units"
    units.mkdir()
    for name in UNITS:
        text = render(
            template("units", name),
            folder,
            {"PATH": f"{folder}:/bin", "OCD_PREFIX": str(home / AWKWARD)},
            version,
        )
        (units / name).write_text(text)
    run = home / "run"
    run.mkdir(mode=0o700)
    command = ["systemd-analyze", "--user", "--man=no", "verify", *(str(units / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # A manager older than the one that a unit is for does not know these two, and nothing else.
    newer = re.compile(r"Unknown key (name )?'Restart(Steps|MaxDelaySec)'" if version > 252 else r"(?!)")
    said = [line for line in done.stderr.splitlines() if "ocd" in line and not newer.search(line)]
    assert not said, done.stderr
    (units / "ocd.service").write_text((units / "ocd.service").read_text().replace('/ocd"', '/nothing"'))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "nothing" in done.stderr, "verify looks whether the program is there"


def test_a_service_without_reach_of_its_manager_is_still_taken_away_whole(home: Path) -> None:
    run = Recorded()
    service = Systemd(run)
    assert service.install(Path("/x")).changed
    folder = home / ".config/systemd/user"
    for target, name in (("default.target.wants", "ocd.service"), ("sockets.target.wants", "ocd.socket")):
        (folder / target).mkdir()
        (folder / target / name).symlink_to(folder / name)

    def nobody(command: list[str], _seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Failed to connect to bus: No medium found")

    silent = Systemd(nobody)
    assert silent.available() == "Failed to connect to bus: No medium found"
    assert silent.uninstall(dry_run=True).changed and folder.exists()
    assert silent.uninstall().changed
    assert not folder.exists(), "no dangling link either"
    assert not silent.uninstall().changed


def test_install_does_only_what_is_missing(home: Path) -> None:
    run = Recorded()
    service = Systemd(run)
    dry = service.install(Path("/x"), dry_run=True)
    assert dry.changed and not (home / ".config").exists()
    assert not {"enable", "start", "daemon-reload"} & set(run.verbs())
    assert service.install(Path("/x")).did[-1] == "start ocd.service"
    for name in UNITS:
        assert (home / ".config/systemd/user" / name).stat().st_mode & 0o777 == 0o644
    run.asked.clear()
    again = service.install(Path("/x"))
    assert not again.changed and not {"enable", "start", "daemon-reload"} & set(run.verbs())
    moved = service.install(Path("/y"))
    assert "daemon-reload" in run.verbs() and "restart" not in run.verbs()
    assert any("systemctl --user restart ocd" in notice for notice in moved.notices)


def test_the_hardened_sandbox_comes_stays_and_goes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorded()
    service = Systemd(run)
    path = home / ".config/systemd/user/ocd.service.d/hardened.conf"
    service.install(Path("/x"))
    assert service.install(Path("/x"), dry_run=True, hardened=True).changed and not path.exists()
    [tried] = [words for words in run.asked if words[0] == "systemd-run"]
    assert "--property=PrivateUsers=yes" in tried and not any("ReadWritePaths" in word for word in tried)
    done = service.install(Path("/x"), hardened=True)
    assert path.stat().st_mode & 0o777 == 0o644 and service.hardened()
    assert run.verbs()[-3:].count("daemon-reload") == 1 and any("restart" in one for one in done.notices)
    assert not service.install(Path("/x"), hardened=True).changed
    assert not service.install(Path("/x")).changed, "what is not said stays as it is"
    monkeypatch.setenv("OCD_CONFIG_DIR", "/srv/with blanks/100%")
    service.install(Path("/x"))
    folders = directives(path.read_text())["ReadWritePaths"]
    assert folders[0] == "/tmp %h %t" and '"-/srv/with blanks/100%%"' in folders
    assert service.install(Path("/x"), hardened=False).changed
    assert not path.parent.exists() and not service.install(Path("/x"), hardened=False).changed
    service.install(Path("/x"), hardened=True)
    (path.parent / "mine.conf").write_text("[Service]\n")
    assert f"remove {path}" in service.uninstall().did
    assert [file.name for file in path.parent.iterdir()] == ["mine.conf"], "the user's own"


@pytest.mark.parametrize("fails", ["systemd-run", "start"])
def test_a_machine_that_does_not_grant_it_keeps_what_it_had(home: Path, fails: str) -> None:
    class Refuses(Recorded):
        def __call__(self, command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
            done = super().__call__(command, seconds)
            if fails in (command[0], self.asked[-1][0]):
                self.active = False
                return subprocess.CompletedProcess(command, 226, "", "Failed to set up namespacing\n")
            return done

    run = Refuses()
    with pytest.raises(OcdError) as caught:
        Systemd(run).install(Path("/x"), hardened=True)
    assert "namespacing" in caught.value.why
    folder = home / ".config/systemd/user"
    assert not (folder / "ocd.service.d").exists()
    if fails == "systemd-run":
        assert caught.value.exit_code == 69 and not folder.exists(), "nothing was changed"
    else:
        assert run.verbs()[-1] == "daemon-reload"


def test_the_service_of_another_installation_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Recorded()
    service = Systemd(run)
    service.install(Path("/x"))
    before = (home / ".config/systemd/user/ocd.service").read_bytes()
    monkeypatch.setenv("OCD_PREFIX", "/some where/100%")
    assert not service.installed() and service.state() == "not installed"
    assert not service.uninstall().changed
    with pytest.raises(OcdError) as caught:
        service.install(Path("/z"))
    assert caught.value.exit_code == 75 and "occtl service uninstall" in caught.value.next_step
    assert (home / ".config/systemd/user/ocd.service").read_bytes() == before
    monkeypatch.delenv("OCD_PREFIX")
    service.uninstall()
    monkeypatch.setenv("OCD_PREFIX", "/some where/100%")
    service.install(Path("/z"))
    assert service.installed(), "its own it knows again, whatever is in the path"
    socket = directives((home / ".config/systemd/user/ocd.socket").read_text())
    assert socket["ListenStream"] == ["/some where/100%%/run/control.sock"]


def test_the_environment_that_must_agree_is_taken_along_and_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    monkeypatch.setenv("OPENCLAUDE_AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    monkeypatch.setenv("OCD_PORT", "5000")
    [text] = [
        data.decode()
        for path, data in Systemd(Recorded()).files(Path("/x")).items()
        if path.suffix == ".service"
    ]
    assert '"XDG_STATE_HOME=/elsewhere"' in text and '"OPENCLAUDE_AWS_PROFILE=work"' in text
    assert "canary" not in text and "5000" not in text
    assert overlooked() == [
        "OCD_PORT is set in this shell, which the service does not see; put it into ocd.toml"
    ]


def test_a_detached_daemon_that_does_not_stop_is_not_run_beside_a_second_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocd.service.systemd.held", lambda _path: True)
    run = Recorded()

    def stubborn(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        if command[0].endswith("occtl"):
            return subprocess.CompletedProcess(command, 75, "", "still finishing")
        return run(command, seconds)

    with pytest.raises(OcdError, match="still finishing"):
        Systemd(stubborn).install(Path("/x"))
    assert "start" not in run.verbs()


def test_the_commands_are_found_where_an_upgrade_leaves_them(tmp_path: Path) -> None:
    ordinary, venv = tmp_path / "bin", tmp_path / "venv"
    with pytest.raises(OcdError) as caught:
        launchers(ordinary, str(venv / "occtl"))
    assert caught.value.exit_code == 78 and str(venv) in caught.value.why
    for folder in (venv, ordinary):
        folder.mkdir()
        for name in ("ocd", "occtl"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        assert launchers(ordinary, str(venv / "occtl")) == folder, (
            "pipx has its own; install.py's comes first"
        )
    assert launchers(ordinary, "-c") == ordinary


@pytest.mark.parametrize(
    ("environ", "file", "word"),
    [
        ({"WSL_DISTRO_NAME": "Debian"}, "", "systemd=true"),
        ({}, ".dockerenv", "main process"),
        ({}, "run/.containerenv", "main process"),
        ({}, "", "loginctl enable-linger"),
    ],
)
def test_what_to_do_without_a_manager(tmp_path: Path, environ: dict[str, str], file: str, word: str) -> None:
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    said = hint(environ, str(tmp_path))
    assert word in said and "occtl start" in said


def test_path_is_the_users_without_what_is_not_there(tmp_path: Path) -> None:
    there = tmp_path / "100% there"
    there.mkdir()
    path = manager.path_for_service(tmp_path, {"PATH": f"{there}:relative:{tmp_path}/gone::{there}:/usr/bin"})
    assert path.split(os.pathsep) == [str(tmp_path), str(there), "/usr/bin"]
