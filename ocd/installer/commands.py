"""The three commands, and links to their man pages and completions through ``current``: an upgrade changes none."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ocd import atomic
from ocd.errors import EX_CANTCREAT
from ocd.installer.failure import Failure
from ocd.installer.places import Places
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


def _paths(places: Places) -> list[Path]:
    return [places.bin / name for name in COMMANDS]


def refuse_foreign(places: Places) -> None:
    """Before anything is done rather than after a minute."""
    for path in _paths(places):
        present(path)


def write(places: Places, steps: Steps) -> None:
    """Commands, man pages and completions, where they are not there yet."""
    python, site = str(places.current / "bin" / "python"), str(places.current / "site")
    for path in _paths(places):
        text = launcher(path.name, places.prefix, python, site)
        if present(path) != text and steps.take(f"write {path}"):
            places.make(path.parent)
            atomic.replace(path, text, mode=0o755)
    for link, target in _links(places):
        was = os.readlink(link) if link.is_symlink() else ""
        if os.path.lexists(link) and not (_MANUALS in was or _COMPLETIONS in was):
            continue  # somebody else's; commands work without
        if was != target and steps.take(f"link {link}"):
            places.make(link.parent)
            atomic.link(link, target)


def ours(places: Places) -> list[Path]:
    """What of it is there and is ours."""
    found = [one for one in _paths(places) if one.is_file() and MARK in one.read_text("utf-8", "replace")]
    return found + [one for one, to in _links(places) if one.is_symlink() and os.readlink(one) == to]


def _links(places: Places) -> Iterator[tuple[Path, str]]:
    """Links to the version in use, where man, bash, zsh and fish look; and what they lead to."""
    share, site = places.bin.parent / "share", places.current / "site"
    for name in ("occtl.1", "openclaude.1", "ocd.1", "ocd.toml.5"):
        yield share / "man" / f"man{name[-1]}" / name, str(site / _MANUALS / name)
    for place in (
        "bash-completion/completions/occtl",
        "zsh/site-functions/_occtl",
        "fish/vendor_completions.d/occtl.fish",
    ):
        yield share / place, str(site / _COMPLETIONS / os.path.basename(place))
