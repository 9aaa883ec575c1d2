"""``openclaude /path/to/claude ARGUMENTS``: the form in which an editor or Claude Code itself starts a wrapper.

VS Code's ``claudeProcessWrapper`` and ``CLAUDE_CODE_PROCESS_WRAPPER`` put the wrapper in front of the command that they
would have run: an absolute path to the program, or to an interpreter and its script (Claude Code's pages on VS Code
and on corporate launchers). A wrapper is put in front of a wrapped command too, so openclaude behind openclaude is one.
"""

import os

from ocd.errors import EX_UNAVAILABLE, OcdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: programs that run Claude Code's script, by their file name
_INTERPRETERS = (b"node", b"nodejs", b"bun", b"deno")
_SCRIPTS = (b".js", b".mjs", b".cjs")
#: file names under which Claude Code is started; a path that ends so is never meant as a prompt
_NAMES = (b"claude", b"claude.exe", b"cli.js", b"openclaude", *_INTERPRETERS)


def split(given: list[bytes], is_launcher: "Callable[[bytes], bool]") -> tuple[list[bytes], list[bytes]]:
    """The program that is to be run ([] when the first argument names none) and the arguments for Claude Code.

    ``is_launcher`` tells whether a path is openclaude. Raises OcdError (exit 69) for a path of Claude Code's that
    cannot be run.
    """
    rest = given
    while rest and rest[0][:1] == b"/":
        path = rest[0]
        if not os.path.isfile(path) or not os.access(path, os.X_OK):
            if os.path.basename(path) in _NAMES:
                raise OcdError(
                    f"{os.fsdecode(path)} cannot be run",
                    "there is no executable file of that name",
                    "Check the path; after an update of the editor's extension, reload its window",
                    exit_code=EX_UNAVAILABLE,
                    code="claude-missing",
                )
            break
        if is_launcher(path):
            rest = rest[1:]
            continue
        count = 1
        if os.path.basename(path).partition(b"-")[0] in _INTERPRETERS:
            # `node --max-old-space-size=4096 /path/cli.js …`: all up to the script belongs to the interpreter.
            count = next((at + 1 for at, word in enumerate(rest) if word.endswith(_SCRIPTS)), 1)
        return rest[:count], rest[count:]
    return [], rest
