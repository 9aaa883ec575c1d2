"""``occtl setup`` asks what cannot be found out, on a terminal only; and install.py's last lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ocd.ctl import setup as verb
from ocd.ctl.__main__ import main
from ocd.ctl.setup import Question, questions
from ocd.settings.folders import Folders
from ocd.stack.defaults import write_defaults
from tests.unit.test_install_parts import install

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


# ---- what is asked


@pytest.mark.parametrize(
    ("missing", "known", "profile", "given", "keys"),
    [
        ("no profile", {"work": "", "home": "eu-west-1"}, "", {}, ["aws_profile"]),
        ("no profile", {}, "", {}, []),
        ("", {"work": "eu-west-1"}, "work", {}, []),
        ("", {"work": ""}, "work", {}, ["aws_region"]),
        ("", {"work": ""}, "work", {"aws_region": "us-east-1"}, []),
        ("", {"default": "eu-west-1"}, "", {}, []),
        ("", {"default": ""}, "", {}, ["aws_region"]),
    ],
)
def test_what_is_asked(missing: str, known: Any, profile: str, given: Any, keys: list[str]) -> None:
    assert [one.key for one in questions(missing, known, profile, given)] == keys


def test_a_profile_is_chosen_by_number_and_none_is_an_answer(capsys: Capture) -> None:
    question = Question("aws_profile", "Which?", ("work", "home", "none of them"))
    assert verb._answer(question, True, lambda *_, **__: 2) == "home"
    assert verb._answer(question, True, lambda *_, **__: 3) == ""
    assert "  1  work" in capsys.readouterr().out


def test_a_script_is_asked_nothing(capsys: Capture) -> None:
    def ask(*_: Any, **__: Any) -> None:
        pytest.fail("asked")

    assert verb._answer(Question("aws_region", "Where?"), False, ask) == ""
    assert "aws_region" in capsys.readouterr().out


# ---- the verb


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new home without a daemon; what would install, start or look at the machine is written down instead."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "OCD_", "OPENCLAUDE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OCD_PREFIX", str(tmp_path / "p"))
    monkeypatch.setattr(verb, "_litellm", lambda _folders: None)
    monkeypatch.setattr(verb, "_daemon", lambda: None)
    monkeypatch.setattr(verb, "_login", lambda _asking: None)
    monkeypatch.setattr(verb, "_rest", lambda _asking: 0)
    (tmp_path / ".aws").mkdir()
    return tmp_path


def terminal(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
    left = list(answers)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(verb._answer, "__defaults__", (lambda *_, **__: left.pop(0),))


def toml() -> str:
    return (Folders.find().config / "ocd.toml").read_text()


def test_the_profile_and_its_region_come_from_those_that_exist(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".aws/config").write_text("[profile work]\n[profile other]\nregion = eu-west-1\n")
    terminal(monkeypatch, 1, "eu-central-1")
    assert main(["setup"]) == 0
    assert 'aws_profile = "work"' in toml() and 'aws_region = "eu-central-1"' in toml()
    before = toml()
    terminal(monkeypatch)  # asks nothing a second time
    assert main(["setup"]) == 0 and toml() == before


def test_without_a_terminal_nothing_is_asked_and_nothing_changed(home: Path, capsys: Capture) -> None:
    (home / ".aws/config").write_text("[profile work]\n")
    write_defaults(Folders.find())
    before = toml()
    assert main(["setup"]) == 0
    assert toml() == before
    said = capsys.readouterr().out
    assert "aws_profile" in said and "work" in said


def test_without_any_profile_the_two_commands_are_named(home: Path, capsys: Capture) -> None:
    assert main(["setup"]) == 0
    said = capsys.readouterr().out
    assert "aws configure sso --profile openclaude" in said and "aws configure --profile openclaude" in said


def test_litellm_comes_from_the_list_that_comes_with_ocd(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OCD_PREFIX", str(home / "p"))
    made: list[str] = []

    def made_from(self: Any, lock: str) -> Path:
        made.append(lock)
        folder = Path(self.envs) / "litellm-1"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        return folder

    monkeypatch.setattr("ocd.releases.Releases.install", made_from)
    folders = Folders.find().ensure()
    write_defaults(folders)
    verb._litellm(folders)
    verb._litellm(folders)
    assert made == [(ROOT / "requirements/litellm.txt").read_text()]
    assert (folders.data / "litellm/bin/python").exists()


# ---- install.py's last lines


def row(level: str, code: str, what: str = "A thing is wrong", fix: str = "`do this`") -> dict[str, str]:
    return {"level": level, "code": code, "what": what, "why": "because", "fix": fix}


def test_install_says_what_is_wrong_now_with_its_command() -> None:
    lines = install.findings(
        [row("error", "claude-missing"), row("warning", "aws"), row("ok", "fine", "Fine")]
    )
    about = ["      why: because", "      fix: `do this`"]
    assert lines[2:] == ["  ✗ A thing is wrong", *about, "  ! A thing is wrong", *about]
    assert install.findings([row("note", "x"), row("ok", "y"), row("warning", "not-on-path")]) == []
    many = install.findings([row("error", str(number)) for number in range(9)])
    assert many[-1] == "  and 3 more: occtl doctor"


@pytest.mark.parametrize(
    ("shell", "there", "last"),
    [
        ("/bin/bash", (), "echo 'export PATH=\"$HOME/.local/bin:$PATH\"' >> ~/.bashrc"),
        ("/bin/zsh", (), "echo 'export PATH=\"$HOME/.local/bin:$PATH\"' >> ~/.zshrc"),
        ("/usr/bin/fish", (), "fish_add_path /home/ada/.local/bin"),
        ("/bin/sh", (), "echo 'export PATH=\"$HOME/.local/bin:$PATH\"' >> ~/.profile"),
    ],
)
def test_path_for_this_shell_and_for_new_ones(shell: str, there: tuple[str, ...], last: str) -> None:
    environ = {"PATH": "/usr/bin", "SHELL": shell}
    lines = install.on_path("/home/ada/.local/bin", environ, "/home/ada", lambda path: path in there)
    assert lines[-1].strip() == last
    assert shell.endswith("fish") or lines[-2].strip() == 'export PATH="$HOME/.local/bin:$PATH"'
    environ["PATH"] += ":/home/ada/.local/bin"
    assert install.on_path("/home/ada/.local/bin", environ, "/home/ada", lambda _path: True) == []


@pytest.mark.parametrize("there", [(), (".profile",), (".bash_profile", ".profile"), (".bash_login",)])
def test_on_a_mac_a_tab_is_a_login(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    environ = {"PATH": "/usr/bin", "SHELL": "/bin/bash"}
    lines = install.on_path("/h/.local/bin", environ, "/h", lambda path: path[3:] in there)
    assert lines[-1].endswith(f">> ~/{(*there, '.profile')[0]}"), "bash reads the first of the three alone"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_work_in_the_shell_itself(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    folder = tmp_path / ".local" / "bin"
    folder.mkdir(parents=True)
    (folder / "occtl").write_text("#!/bin/sh\necho found\n")
    (folder / "occtl").chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "SHELL": program, "HOME": str(tmp_path), "TERM": "dumb"}
    lines = install.on_path(str(folder), env, str(tmp_path), os.path.exists)

    def typed(text: str) -> str:
        done = subprocess.run(
            [program, "-i", "-c", text], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    assert "found" not in typed("occtl")
    assert "found" in typed("\n".join(line.strip() for line in lines[2:]) + "\nocctl"), "this shell"
    assert "found" in typed("occtl"), "a new one"


# ---- completion


@pytest.mark.parametrize(("shell", "name"), [("zsh", "_occtl"), ("bash", "occtl"), ("fish", "occtl.fish")])
def test_completion_starts_without_a_word_in_a_bare_shell(shell: str, name: str, tmp_path: Path) -> None:
    """zsh without compinit said an error at each start."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    bare = {"zsh": ["-f"], "bash": ["--norc", "--noprofile"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [program, *bare, "-c", f"source {ROOT}/ocd/completions/{name}"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_fish_shows_a_help_text_with_commas_whole(tmp_path: Path) -> None:
    program = shutil.which("fish")
    if program is None:
        pytest.skip("there is no fish here")
    stub = tmp_path / "occtl"
    stub.write_text("#!/bin/sh\nprintf 'plain,status\\tShow both: state, since, pid\\n'\n")
    stub.chmod(0o755)
    text = f"source {ROOT}/ocd/completions/occtl.fish; complete -C 'occtl st'"
    done = subprocess.run(
        [program, "--no-config", "-c", text],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "state, since, pid" in done.stdout, done.stderr
