"""What a shell, the Agent SDK, a workflow or an editor needs to start Claude Code through the proxies. Pure.

Sources: Claude Code's reference of environment variables; the Agent SDK's options (``pathToClaudeCodeExecutable``,
``cli_path``: the TypeScript one replaces the environment where ``env`` is given, the Python one adds to it); the inputs
of Anthropic's GitHub action; the settings of the VS Code extension (``claudeCode.claudeProcessWrapper``).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ocd.claude.overlay import build
from ocd.claude.permanent import Target
from ocd.wire.messages import LaunchRequest

HIDDEN = "HIDDEN"
#: how a shell takes the variables
USE = {
    "sh": 'eval "$(occtl claude env)"',
    "bash": 'eval "$(occtl claude env)"',
    "zsh": 'eval "$(occtl claude env)"',
    "fish": "occtl claude env --shell fish | source",
}


@dataclass(frozen=True)
class Variables:
    """``set`` holds the proxy's key: ``repr`` hides it."""

    set: dict[str, str] = field(repr=False)
    unset: list[str]
    key: str = field(repr=False)


def variables(target: Target, environ: Mapping[str, str]) -> Variables:
    """The variables of a session with ``target``; ``unset``: those of ``environ`` that would lead elsewhere.

    Raises OcdError as ``overlay.build`` does.
    """
    made = build(
        LaunchRequest(pid=1, cwd="/", env=dict(environ)),
        user_settings={},
        extra_settings=None,
        managed={},
        slots=target.slots,
        base_url=target.base_url,
        key=target.key,
        auth=target.auth,
        known_models=target.known_models,
    ).settings["env"]
    values = {name: str(value) for name, value in made.items() if value != ""}
    return Variables(
        values, [name for name, value in made.items() if value == "" and environ.get(name)], target.key
    )


def hidden(made: Variables) -> Variables:
    """The same without the key."""
    return Variables(
        {name: value.replace(made.key, HIDDEN) for name, value in made.set.items()}, made.unset, HIDDEN
    )


def text(made: Variables, shell: str, *, unset: bool) -> str:
    """Lines that ``shell`` evaluates: sh (bash, zsh) or fish."""
    gone, there = ([*made.set], {}) if unset else (made.unset, made.set)
    if shell == "fish":
        lines = [f"set -e {name}" for name in gone]
        lines += [f"set -gx {name} {_fish(value)}" for name, value in there.items()]
    else:
        lines = [f"unset {name}" for name in gone]
        lines += [f"export {name}={_sh(value)}" for name, value in there.items()]
    return "".join(f"{line}\n" for line in lines)


def _sh(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _fish(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def sdk(openclaude: str) -> dict[str, str]:
    """A piece of code each for the Agent SDK's two languages and for a workflow; ``openclaude`` is its path."""
    path = json.dumps(openclaude)
    return {
        "typescript": (
            "// TypeScript: `env`, if you give it, replaces the environment: keep what was there\n"
            "for await (const message of query({\n"
            '  prompt: "…",\n'
            f"  options: {{ pathToClaudeCodeExecutable: {path}, env: {{ ...process.env }} }},\n"
            "})) { … }\n"
        ),
        "python": (
            "# Python: `env` is added to the environment\n"
            f"options = ClaudeAgentOptions(cli_path={path})\n"
            'async for message in query(prompt="…", options=options): …\n'
        ),
        "github": (
            "# GitHub: a runner of your own on which ocd is installed; the plan's token is a secret of the repository\n"
            "- uses: anthropics/claude-code-action@v1\n"
            "  with:\n"
            f"    path_to_claude_code_executable: {path}\n"
            "    claude_code_oauth_token: ${{ secrets.CLAUDE_CODE_OAUTH_TOKEN }}\n"
        ),
    }


def vscode(openclaude: str) -> dict[str, str]:
    """The settings of VS Code's extension: it puts the program in front of the Claude Code that it brings."""
    return {"claudeCode.claudeProcessWrapper": openclaude}


def vscode_text(openclaude: str) -> str:
    """The same as lines for VS Code's settings.json."""
    return json.dumps(vscode(openclaude), indent=2)
