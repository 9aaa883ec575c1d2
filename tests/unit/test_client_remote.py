"""``openclaude --host ssh://…``: what ssh is given, and what a shell there makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.client import remote
from ocd.errors import OcdError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "options", "host", "folder"),
    [
        (b"ssh://box", [], b"box", b""),
        (b"ssh://box/", [], b"box", b""),
        (b"ssh://ada@box:2222/srv/a%20b", [b"-p", b"2222", b"-l", b"ada"], b"box", b"/srv/a b"),
        (b"ssh://[fe80::1%25eth0]:22/~/x", [b"-p", b"22"], b"fe80::1%25eth0", b"x"),
        (b"ssh://[::1]", [], b"::1", b""),
        (b"ssh://a@b@box/~/", [b"-l", b"a@b"], b"box", b"."),
    ],
)
def test_a_url_is_read(url: bytes, options: list[bytes], host: bytes, folder: bytes) -> None:
    words = remote.command(url, [b"-p", b"hi"], terminal=True)
    assert words[:2] == [b"ssh", b"-t"] and words[2:-3] == options and words[-3:-1] == [b"--", host]
    assert words[-1].endswith(b" 'openclaude' '" + folder + b"' '-p' 'hi'")
    assert remote.command(url, [], terminal=False)[1] == b"-T"


@pytest.mark.parametrize(
    "url",
    [
        *(b"ssh://", b"ssh:///srv", b"ssh://@box", b"ssh://-oProxyCommand=x", b"ssh://-l@box", b"ssh://bo x"),
        *(
            b"ssh://box:0",
            b"ssh://box:65536",
            b"ssh://box:x",
            b"ssh://bo\nx",
            b"ssh://[]",
            b"ssh://a b@box",
            b"ssh://box/%00",
        ),
    ],
)
def test_what_names_no_machine_is_refused(url: bytes) -> None:
    with pytest.raises(OcdError) as caught:
        remote.command(url, [], terminal=True)
    assert caught.value.exit_code == 64 and "\n" not in caught.value.what


def test_another_host_option_is_claude_codes() -> None:
    assert remote.split([b"--host", b"0.0.0.0"]) is None
    assert remote.split([b"--hostage", b"ssh://box"]) is None
    assert remote.split([b"--host", b"ssh://box", b"x"]) == (b"ssh://box", [b"x"])
    assert remote.split([b"--host=ssh://box", b"--host"]) == (b"ssh://box", [b"--host"])
    with pytest.raises(OcdError):
        remote.split([b"--host"])


@pytest.fixture
def box(tmp_path: Path) -> dict[str, str]:
    """An ssh that does what sshd does with a command: the account's shell gets it as one string."""
    there, here = tmp_path / "home", tmp_path / "bin"
    (there / ".local/bin").mkdir(parents=True)
    here.mkdir()
    openclaude = there / ".local/bin/openclaude"
    openclaude.write_text('#!/bin/sh\npwd\nprintf "%s\\0" "$@"\ncat\nexit 7\n')
    ssh = here / "ssh"
    ssh.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\ncd "$THERE"\nHOME=$THERE exec $ACCOUNT -c "$*"\n'
    )
    for program in (openclaude, ssh):
        program.chmod(0o755)
    return {"PATH": f"{here}:/usr/bin:/bin", "THERE": str(there), "PYTHONPATH": str(ROOT), "HOME": "/nowhere"}


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish", "csh"])
def test_each_word_arrives_as_it_was(shell: str, box: dict[str, str], tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    words = ["-p", "it's", '"two  words"', "$HOME `id` \\ *", "", "é"]
    folder = tmp_path / "a 'folder"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "ocd.client", "--host", f"ssh://box{folder}", *words],
        env={**box, "ACCOUNT": program},
        input=b"on standard input",
        capture_output=True,
        cwd="/",
    )
    assert done.returncode == 7, done.stderr
    expected = f"{folder}\n" + "".join(f"{word}\0" for word in words) + "on standard input"
    assert done.stdout.decode() == expected


def test_a_folder_that_is_not_there_is_said(box: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ocd.client", "--host=ssh://box/nowhere/at/all", "hi"]
    done = subprocess.run(command, env={**box, "ACCOUNT": "/bin/sh"}, capture_output=True, cwd="/", text=True)
    assert done.returncode and "nowhere/at/all" in done.stderr and not done.stdout


def test_without_ssh_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocd.client", "--host", "ssh://box"]
    env = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, cwd="/", text=True)
    assert done.returncode == 69 and "no ssh on your PATH" in done.stderr and "Traceback" not in done.stderr


@given(st.lists(st.binary(max_size=20).filter(lambda word: b"\0" not in word), max_size=5))
def test_any_bytes_survive_the_shell(words: list[bytes]) -> None:
    said = remote.command(b"ssh://box", words, terminal=False)[-1]
    # What is executed in the end is the last command of that script; here it only says its words.
    said = said.replace(b"exec openclaude", b"exec printf '\\''%s\\0'\\''")
    done = subprocess.run(
        [b"/bin/sh", b"-c", said], capture_output=True, env={"HOME": "/", "PATH": os.defpath}
    )
    assert done.stdout == (b"".join(word + b"\0" for word in words) if words else b"\0")
