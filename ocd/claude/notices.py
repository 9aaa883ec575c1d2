"""How a session's notices reach a person who looks at Claude Code's full-screen terminal. Pure.

What openclaude writes to stderr is covered by that terminal (2.1.332 draws on the alternate screen). A SessionStart
hook's ``{"systemMessage": …}`` is shown there, in 2.1.197 and 2.1.332, beside those of the user's own hooks, with its
line breaks; it is not part of any request (the body is the same byte for byte with and without the hook). The text
itself comes in the session's environment, from openclaude (``ocd/client/__main__.py``): so the hook is the same for
all sessions, there is no file to remove, and what has no such variable (a background session) shows nothing.

Only for a session on a terminal: with ``--output-format stream-json`` a hook shows as two messages of its own.
"""

from collections.abc import Mapping
from typing import Any

VARIABLE = "OCD_NOTICE"
#: not after /clear or a compaction; and never a failure, which the terminal would show as one
HOOK = {
    "matcher": "startup|resume",
    "hooks": [{"type": "command", "command": f"printf %s \"${VARIABLE}\"", "timeout": 5}],
}  # fmt: skip


def hooks(own: Any) -> dict[str, Any]:
    """The ``hooks`` of a settings file with ours after those that are there; what is not understood stays."""
    merged: dict[str, Any] = dict(own) if isinstance(own, Mapping) else {}
    there = merged.get("SessionStart", [])
    if isinstance(there, list) and HOOK not in there:
        merged["SessionStart"] = [*there, HOOK]
    return merged
