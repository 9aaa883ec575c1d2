"""``python -m tests.client.variables PATH_OF_CLAUDE…``: which of a client's variables nobody has classified yet.

``--write`` writes what ``openclaude`` sends (``ocd/client/variables.py``) anew from the table.
"""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

from ocd.claude import variables

ROOT = Path(__file__).resolve().parents[2]
MADE = ROOT / "ocd/client/variables.py"
#: Claude Code's own, and the few generic ones that decide where its requests go
_NAME = re.compile(
    rb"(?<![A-Z0-9_])(?:(?:ANTHROPIC|CLAUDE)_[A-Z0-9_]*[A-Z0-9]|(?:HTTPS?|ALL|NO)_PROXY|NODE_EXTRA_CA_CERTS|"
    rb"API_TIMEOUT_MS|API_FORCE_IDLE_TIMEOUT|ENABLE_TOOL_SEARCH)(?![A-Z0-9_])"
)


def names(claude: Path) -> set[str]:
    """The variables that a client's program knows, by what is written in it."""
    with claude.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {found.decode() for found in set(_NAME.findall(content))}


def made() -> str:
    """The text of ``ocd/client/variables.py``."""
    text = (
        '"""Which of the user\'s variables openclaude tells the daemon of. Made from ``ocd/claude/variables.py`` by\n'
        "``python -m tests.client.variables --write``; a unit test compares them. No imports: every start pays.\n"
        '"""\n'
    )
    for title, name, found in (
        ("what the overlay is made from; the values are sent", "WITH_VALUE", variables.WITH_VALUE),
        ("what the overlay sets aside: their values stay here", "NAME_ONLY", variables.NAME_ONLY),
    ):
        lines = "".join(f'    b"{one}",\n' for one in found)
        text += f"\n#: {title}\n{name} = (\n{lines})\n"
    return text


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        MADE.write_text(made())
        return 0
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 64
    code = 0
    for claude in map(Path, arguments):
        found = names(claude)
        new = variables.unclassified(found)
        for name in new:
            print(f"{claude}: {name} has no row in ocd/claude/variables.py")
        print(f"{claude}: {len(found)} names, {len(new)} of them unclassified")
        code |= bool(new)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
