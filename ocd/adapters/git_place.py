"""Which project and branch a folder belongs to, from git's own files; git itself is not run."""

import os
import re
import stat
from typing import NamedTuple

from ocd.text import printable

#: levels upwards in which ``.git`` is looked for
MOST_LEVELS = 40
#: bytes of ``.git`` (a worktree's) and ``HEAD`` that are read
LARGEST = 4096
#: characters of a folder and of a branch that are kept
LONGEST_FOLDER, LONGEST_BRANCH = 300, 100

_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class Place(NamedTuple):
    """``project``: the repository's top folder, else the folder itself; ``branch``: empty where there is none, the
    commit's first ten digits where no branch is checked out."""

    project: str
    branch: str


def look(folder: str) -> Place:
    """The place of ``folder`` (absolute). What cannot be read is as if it were not there; it may take long where the
    folder's disk does."""
    here = os.path.normpath(folder)
    for _ in range(MOST_LEVELS):
        entry = os.path.join(here, ".git")
        try:
            mode = os.stat(entry).st_mode
        except (OSError, ValueError):
            mode = 0
        if stat.S_ISDIR(mode):
            return _place(here, _branch(entry))
        if stat.S_ISREG(mode):
            # A worktree, or a submodule: the file names the folder with its HEAD.
            text = _read(entry)
            if text.startswith("gitdir:"):
                return _place(here, _branch(os.path.join(here, text.removeprefix("gitdir:").strip())))
        above = os.path.dirname(here)
        if above == here:
            break
        here = above
    return _place(folder, "")


def _place(project: str, branch: str) -> Place:
    return Place(printable(project)[:LONGEST_FOLDER], printable(branch)[:LONGEST_BRANCH])


def _branch(git: str) -> str:
    head = _read(os.path.join(git, "HEAD")).strip()
    if head.startswith("ref:"):
        return head.removeprefix("ref:").strip().removeprefix("refs/heads/")
    return head[:10] if _COMMIT.fullmatch(head) else ""


def _read(path: str) -> str:
    """The file's beginning; empty when it is no plain file or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    with os.fdopen(fd, "rb") as file:
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            return file.read(LARGEST).decode("utf-8", "replace")
        except OSError:
            return ""
