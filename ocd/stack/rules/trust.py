"""Who may write to what decides what runs and where credentials go."""

import os
from collections.abc import Iterator

from ocd import paths
from ocd.settings.findings import Finding
from ocd.stack.stack import Stack


def _open_to_all(stack: Stack) -> Iterator[Finding]:
    """The files, and what leads to them. The path that is named is the one to be mended."""
    said: set[str] = set()
    for path in (stack.toml, *(file.path for _, file in stack.files())):
        place = paths.open_to_all(os.fspath(path))
        if place and place not in said:
            said.add(place)
            yield Finding(
                "error",
                "open-to-all",
                os.fspath(path),
                None,
                "",
                f"every user of this machine may write to {place}: whoever does decides where your credentials go",
                f"`chmod o-w {place}`, after a look at what is in it",
            )


RULES = (_open_to_all,)
