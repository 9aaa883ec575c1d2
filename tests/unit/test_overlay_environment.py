"""What Claude Code runs in a shell has the user's own variables: the script, run by real shells."""

import os
import shutil
import subprocess

import pytest

from ocd.claude import environment
from ocd.claude.overlay import Slots, build
from ocd.client import __main__ as client
from ocd.wire.messages import LaunchRequest

SHELLS = [name for name in ("sh", "bash", "zsh", "dash") if shutil.which(name)]
KEY = "sk-canary-31"


def overlay(env=None, user=None, extra=None):
    return build(
        LaunchRequest(pid=1, cwd="/", env=env or {}),
        user_settings={"env": user or {}},
        extra_settings={"env": extra or {}},
        managed={},
        slots=Slots("", "", "qwen-3-coder"),
        base_url="http://127.0.0.1:4000",
        key=KEY,
        env_file="/somewhere/overlay.sh",
    )


OF_THE_SHELL = ("PWD", "OLDPWD", "SHLVL", "_", "HOME", "LOGNAME")


def in_bash(shell, made, environ, tmp_path):
    """What a Bash call sees: openclaude's environment, the overlay's over it, then the script."""
    left = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    for name in made.unset:
        client._keep_own(left, name.encode())
        left.pop(name.encode(), None)
    for name, value in made.set.items():
        client._keep_own(left, name.encode())
        left[name.encode()] = value.encode()
    left |= {os.fsencode(name): os.fsencode(str(value)) for name, value in made.settings["env"].items()}
    (tmp_path / "overlay.sh").write_text(made.script)
    done = subprocess.run(
        [shell, "-c", ". ./overlay.sh && /usr/bin/env -0"],
        env=left,
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    seen = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    # What a shell sets by itself; zsh has two more.
    return {name: value for name, value in seen.items() if name not in OF_THE_SHELL or name in environ}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_sees_the_users_variables_and_none_of_ours(shell, tmp_path):
    own = {
        "PATH": "/usr/bin:/bin",
        "ANTHROPIC_API_KEY": 'it\'s "mine" $HOME\n`x`',
        "ANTHROPIC_BASE_URL": "https://gateway.example",
        "ANTHROPIC_MODEL": "",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "NO_PROXY": ".corp",
        "API_TIMEOUT_MS": "5",
    }
    assert in_bash(shell, overlay(env={"NO_PROXY": ".corp", "API_TIMEOUT_MS": "5"}), own, tmp_path) == own
    bare = in_bash(shell, overlay(), {"PATH": "/usr/bin:/bin"}, tmp_path)
    assert bare == {"PATH": "/usr/bin:/bin"}, "an emptied variable is not the user's own absent one"


def test_what_stands_in_the_users_settings_counts_before_the_shell(tmp_path):
    made = overlay(user={"ANTHROPIC_API_KEY": "settings", "MINE": "1"}, extra={"ANTHROPIC_BASE_URL": "extra"})
    seen = in_bash("sh", made, {"PATH": "/usr/bin:/bin", "ANTHROPIC_API_KEY": "shell"}, tmp_path)
    assert seen["ANTHROPIC_API_KEY"] == "settings" and seen["ANTHROPIC_BASE_URL"] == "extra"
    assert KEY not in str(seen) and "settings" not in made.script and KEY not in made.script


def test_the_users_own_script_has_the_last_word(tmp_path):
    theirs = tmp_path / "theirs.sh"
    theirs.write_text("export THEIRS=$ANTHROPIC_BASE_URL\n")
    own = {
        "PATH": "/usr/bin:/bin",
        "CLAUDE_ENV_FILE": str(theirs),
        "ANTHROPIC_BASE_URL": "https://gw.example",
    }
    assert in_bash("sh", overlay(), own, tmp_path) == {**own, "THEIRS": "https://gw.example"}


def test_a_session_within_a_session_sees_the_users_again(tmp_path):
    own = {"PATH": "/usr/bin:/bin", "ANTHROPIC_API_KEY": "mine"}
    inner = in_bash("sh", overlay(), own, tmp_path)
    assert in_bash("sh", overlay(), inner, tmp_path) == own


def test_a_stale_note_of_an_outer_session_does_not_come_back():
    environ = {b"OCD_OWN_ANTHROPIC_API_KEY": b"stale"}
    client._keep_own(environ, b"ANTHROPIC_API_KEY")
    assert environ == {}


def test_no_name_can_break_out_of_the_script():
    assert "rm" not in environment.script(["X; rm", "A-B", "$(rm)"])
