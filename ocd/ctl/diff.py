"""What a change does to files, line by line, before or after it is made."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from ocd.ctl import screen
from ocd.mask import mask

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def lines(path: Path, before: str | None, after: str | None) -> list[str]:
    """A unified diff with one line of context; None: there is no file. What looks like a credential is hidden."""
    found = difflib.unified_diff(
        (before or "").splitlines(),
        (after or "").splitlines(),
        str(path) if before is not None else "/dev/null",
        str(path) if after is not None else "/dev/null",
        n=1,
        lineterm="",
    )
    return [screen.plain(mask(line)) for line in found]


def show(texts: Mapping[Path, str | bytes | None]) -> None:
    """Print what writing ``texts`` (None: removing the file) changes; nothing for those that are so already."""
    for path, text in texts.items():
        after = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        for line in lines(path, _there(path), after):
            screen.out(
                screen.styled(line, "bold" if line[:3] in ("+++", "---") else _STYLES.get(line[:1], ""))
            )


def _there(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
