"""The last lines: what the doctor finds, how a shell finds the commands, what a set-up of before ocd is offered."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: findings of the doctor's that set-up has said already, or that say that all is as set-up left it
_SAID = ("not-on-path", "starting", "stopped")
_MOST_FINDINGS = 6


def findings(rows: list[dict[str, Any]]) -> list[str]:
    """What stands between this and the first prompt, as lines: each with its reason and the command that helps."""
    wrong = [row for row in rows if row["level"] in ("error", "warning") and row["code"] not in _SAID]
    if not wrong:
        return []
    lines = ["", "What is missing or wrong now (`occtl setup` goes through it with you):"]
    for row in wrong[:_MOST_FINDINGS]:
        lines.append(f"  {'✗' if row['level'] == 'error' else '!'} {row['what']}")
        lines += [f"      why: {row['why']}"] if row["why"] else []
        lines += [f"      fix: {row['fix']}"] if row["fix"] else []
    if len(wrong) > _MOST_FINDINGS:
        lines.append(f"  and {len(wrong) - _MOST_FINDINGS} more: occtl doctor")
    return lines


def on_path(folder: str, environ: Mapping[str, str], home: str, exists: Callable[[str], bool]) -> list[str]:
    """How this shell and new ones find the commands in ``folder``, as lines; none when this one does already.

    ``exists`` tells whether a file is there. A new tab reads other files than a new login does: bash(1), INVOCATION;
    zsh(1), STARTUP/SHUTDOWN FILES. On macOS each tab of a terminal is a login.
    """
    if folder in environ.get("PATH", "").split(os.pathsep):
        return []
    shell = os.path.basename(environ.get("SHELL", "sh"))
    short = "$HOME" + folder[len(home) :] if folder.startswith(home + os.sep) else folder
    export = f'export PATH="{short}:$PATH"'
    lines = ["", f"{folder} is not on your PATH. For this shell, and for new ones:"]
    if shell == "fish":
        # It is remembered for all, this one too.
        return [*lines, f"    fish_add_path {shlex.quote(folder)}"]
    file = "~/.zshrc" if shell == "zsh" else "~/.profile"
    if shell == "bash" and sys.platform == "darwin":
        profiles = ("~/.bash_profile", "~/.bash_login", "~/.profile")
        file = next((one for one in profiles if exists(home + one[1:])), file)
    elif shell == "bash":
        file = "~/.bashrc"
    return [*lines, f"    {export}", f"    echo {shlex.quote(export)} >> {file}"]


def older(home: Path) -> list[Path]:
    """What there is of a set-up of before ocd."""
    files = [
        path for name in ("config", "litellm-config") for path in (home / ".litellm").glob(name + "*.y*ml")
    ]
    return sorted([*files, *(path for path in (home / ".openClaude",) if path.is_dir())])


def wants(question: str) -> bool:
    """Whether whoever sits there says yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
