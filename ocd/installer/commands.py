"""The three commands, and links to their man pages and completions through ``current``: an upgrade changes none."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CANTCREAT
from ocd.installer.failure import Failure
from ocd.installer.places import Made, Places
from ocd.installer.screen import Steps

#: the commands, and where their main() is
COMMANDS = {"ocd": "ocd.__main__", "occtl": "ocd.ctl.__main__", "openclaude": "ocd.client.__main__"}
MARK = "# written by ocd's install.py"
#: the man pages and what completes in shells, in a version's folder
_MANUALS, _COMPLETIONS = "ocd/man", "ocd/completions"


def launcher(command: str, prefix: str, python: str, site: str) -> str:
    """The text of one command.

    ``-I -S`` where nothing but our own code and the standard library is needed: that halves openclaude's start.
    """
    isolated = command == "openclaude"
    flags = "-IS" if isolated else "-I"
    if len(python) + len(flags) < 120 and not re.search(r"\s", python):
        head = f"#!{python} {flags}\n"
    else:
        # The kernel cuts long paths and splits at spaces; a shell does neither.
        head = f"#!/bin/sh\n'''exec' \"{python}\" {flags} \"$0\" \"$@\"\n' '''\n"
    lines = [head + MARK, "import sys"]
    if isolated:
        lines.append(f"sys.path.insert(0, {site!r})")
    if prefix:
        lines += ["import os", f'os.environ.setdefault("OCD_PREFIX", {prefix!r})']
    lines += [f"from {COMMANDS[command]} import main", "sys.exit(main())", ""]
    return "\n".join(lines)


def present(path: Path) -> str:
    """What is in a command's place: our launcher's text, or nothing. Raises Failure on anything else."""
    if not os.path.lexists(path):
        return ""
    text = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text()
    if MARK not in text:
        what, step = f"{path} is there already and is not ours", "Move it away, then run this again"
        raise Failure(what, "", step, EX_CANTCREAT)
    return text


class Commands:
    def __init__(self, places: Places, made: Made, steps: Steps) -> None:
        self.places = places
        self.made = made
        self.steps = steps
        self.paths = [places.bin / name for name in COMMANDS]

    def refuse_foreign(self) -> None:
        """Before anything is done rather than after a minute."""
        for path in self.paths:
            present(path)

    def write(self) -> None:
        """Commands, man pages and completions, where they are not there yet."""
        python, site = str(self.places.current / "bin" / "python"), str(self.places.current / "site")
        for path in self.paths:
            text = launcher(path.name, self.places.prefix, python, site)
            if present(path) != text and self.steps.take(f"write {path}"):
                self.made.folder(path.parent)
                atomic.replace(path, text, mode=0o755)
        for link, target in self._links():
            was = os.readlink(link) if link.is_symlink() else ""
            if os.path.lexists(link) and not (_MANUALS in was or _COMPLETIONS in was):
                continue  # somebody else's; commands work without
            if was != target and self.steps.take(f"link {link}"):
                self.made.folder(link.parent)
                atomic.link(link, target)

    def ours(self) -> list[Path]:
        """What of it is there and is ours."""
        found = [one for one in self.paths if one.is_file() and MARK in one.read_text("utf-8", "replace")]
        return found + [one for one, to in self._links() if one.is_symlink() and os.readlink(one) == to]

    def _links(self) -> Iterator[tuple[Path, str]]:
        """Links to the version in use, where man, bash, zsh and fish look; and what they lead to."""
        share, site = self.places.bin.parent / "share", self.places.current / "site"
        for name in ("occtl.1", "openclaude.1", "ocd.1", "ocd.toml.5"):
            yield share / "man" / f"man{name[-1]}" / name, str(site / _MANUALS / name)
        for place in (
            "bash-completion/completions/occtl",
            "zsh/site-functions/_occtl",
            "fish/vendor_completions.d/occtl.fish",
        ):
            yield share / place, str(site / _COMPLETIONS / os.path.basename(place))
