"""``python -m tests.client.verbs CLAUDE…``: the verbs and options of a Claude Code that nobody has classified.

``ocd/client/verbs.py`` lists the ways to start it that take no settings in front. Everything else is ``claude
--settings FILE ARGUMENTS``, and listed here once somebody has looked at it: a new version is one command and an honest
answer. Ends with 0 when every name is known, with 1 when one is not, with 69 when the program does not run.

The names come from ``--help``, and from the place in the program where it looks at its first argument: some verbs are
in no help.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ocd.client import verbs

#: Verbs that take settings in front of them (each run so with 2.1.197 and 2.1.332).
_VERBS = "agents auto-mode doctor import mcp plugin plugins project"
#: Options of a session; they may follow ``--settings FILE`` like any others.
# --ignore-persisted-trust is for runners of Anthropic's: in front of it, settings make Claude Code refuse it
_OPTIONS = """
--ignore-persisted-trust
--add-dir --agent --agents --allow-dangerously-skip-permissions --allowed-tools --allowedTools
--append-system-prompt --autocompact --ax-screen-reader --background --bare --betas --bg --brief --chrome
--continue --dangerously-skip-permissions --debug --debug-file --disable-slash-commands --disallowed-tools
--disallowedTools --effort --exclude-dynamic-system-prompt-sections --fallback-model --file --fork-session
--forward-subagent-text --from-pr --help --ide --include-hook-events --include-partial-messages --input-format
--json-schema --max-budget-usd --mcp-config --model --name --no-chrome --no-session-persistence --output-format
--permission-mode --permission-prompts --plugin-dir --plugin-url --print --prompt-suggestions --remote-control
--remote-control-session-name-prefix --replay-user-messages --restricted --resume --safe-mode --session-id
--setting-sources --settings --strict-mcp-config --system-prompt --system-prompt-snapshot --teleport --tmux
--tools --verbose --version --worktree -c -d -h -n -p -r -v -w
"""
ORDINARY = frozenset(f"{_VERBS} {_OPTIONS}".split())
#: where the program looks at its first argument, and how far around that
_ENTRY = b'"cli_bridge_path"'
_AROUND = 12_000
_FIRST = re.compile(
    rb'(?:\b[A-Za-z_$]{1,3}\[0\]|process\.argv\[2\]|\b[a-z]\[[a-z]\])==="(-{0,2}[a-z][a-z0-9-]+)"'
)


class NotClaude(Exception):
    """The program does not run, or what it says is not Claude Code's help."""


def of_help(text: str) -> tuple[set[str], set[str]]:
    """The verbs (aliases too) and the options in the output of ``claude --help``. Raises NotClaude."""
    _, options, rest = text.partition("\nOptions:\n")
    body, commands, listed = rest.partition("\nCommands:\n")
    if not options or not commands:
        raise NotClaude("its --help has no options and commands")
    found: set[str] = set()
    for line in body.splitlines():
        start = re.match(r" {2}(-.*?)(?: {2}|$)", line)
        if start:
            found |= set(re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", start[1]))
    names = {
        name
        for start in re.findall(r"^ {2}([a-z][\w|-]*)", listed, re.MULTILINE)
        for name in start.split("|")
    }
    return names, found


def of_program(content: bytes) -> set[str]:
    """The words that the program compares its first argument with; empty when the place is not found."""
    found: set[str] = set()
    for entry in re.finditer(re.escape(_ENTRY), content):
        around = content[max(0, entry.start() - _AROUND) : entry.start() + _AROUND]
        found |= {word.decode() for word in _FIRST.findall(around)}
    return found


def unknown(names: set[str], options: set[str], words: set[str]) -> list[str]:
    """Those that are in no list."""
    listed = verbs.FIRST | verbs.PLAIN | verbs.REMOTE | verbs.CLOUD | {b"--desktop"}
    known = {one.decode() for one in listed} | ORDINARY
    # the letters of a version's own options (-V) are compared there too
    return sorted((names | options | words) - known - {"-v", "-V", "--version", "--verbose"})


def look(program: Path) -> tuple[str, list[str]]:
    """The version of a client and what of it is not classified. Raises NotClaude."""
    with tempfile.TemporaryDirectory() as home:
        environ = {"HOME": home, "PATH": os.defpath, "DISABLE_AUTOUPDATER": "1"}
        try:
            said = [
                subprocess.run(
                    [program, option], env=environ, capture_output=True, text=True, timeout=60, check=True
                ).stdout
                for option in ("--version", "--help")
            ]
        except (OSError, subprocess.SubprocessError) as error:
            raise NotClaude(str(error)) from None
    names, options = of_help(said[1])
    return said[0].split()[0], unknown(names, options, of_program(program.resolve().read_bytes()))


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 64
    worst = 0
    for one in arguments:
        try:
            version, new = look(Path(one))
        except NotClaude as reason:
            print(f"{one}: {reason}")
            return 69
        news = f"not classified: {', '.join(new)}" if new else "every verb and option is classified"
        print(f"Claude Code {version}: {news}")
        worst = max(worst, 1 if new else 0)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
