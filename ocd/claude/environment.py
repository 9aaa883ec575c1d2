"""What Claude Code runs for the user (Bash) has the user's own variables, not ours. Pure.

Measured with 2.1.197 and 2.1.332: the script that ``CLAUDE_ENV_FILE`` names, in a settings file too, runs in the
shell of each Bash call before its command; one that is missing is no error. openclaude keeps what it takes out of the
environment under ``OCD_OWN_NAME`` (``ocd/client/__main__.py``), the overlay what it replaces of the user's settings;
the script puts them back, or takes ours out where the user had none. Hooks and MCP servers are not started by such a
shell: they see the session's own variables (docs/claude-environment.md).
"""

from collections.abc import Iterable

PREFIX = "OCD_OWN_"
VARIABLE = "CLAUDE_ENV_FILE"


def script(names: Iterable[str]) -> str:
    """POSIX shell text that puts the user's own values of ``names`` back. It holds no value."""
    lines = ["# Made by ocd: Bash calls of Claude Code see your own variables (docs/claude-environment.md)."]
    for name in sorted({*names} - {VARIABLE}):
        if name.isidentifier() and name.isascii():
            lines.append(
                f'if [ "${{{PREFIX}{name}+x}}" ]; then export {name}="${PREFIX}{name}"; unset {PREFIX}{name}; '
                f"else unset {name}; fi"
            )
    lines += [
        f'if [ "${{{PREFIX}{VARIABLE}+x}}" ]; then export {VARIABLE}="${PREFIX}{VARIABLE}"; unset {PREFIX}{VARIABLE}; '
        f"else unset {VARIABLE}; fi",
        # The user's own script, which ours took the place of, has the last word as it has without us.
        f'if [ -r "${{{VARIABLE}:-}}" ]; then . "${VARIABLE}"; fi',
    ]
    return "\n".join(lines) + "\n"
