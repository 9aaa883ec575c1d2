"""Canaries: made-up credentials, each different in every run, and the search for where they turned up.

Whatever a test sends as a credential is noted here. The search looks for a canary as it stands and in base64; what
it finds is told by the canary's name and the place, never by its value.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

#: bytes of one file that are looked at
LARGEST = 64 * 1024 * 1024

#: what this run must not leave anywhere: secret text → what it is
FORBIDDEN: dict[str, str] = {}
#: the proxies' own keys: secret text → what it is; these have places of their own
KEYS: dict[str, str] = {}
#: where a proxy's key may stand, relative to a daemon's folder: the key file, what Claude Code is given, and what a
#: test itself wrote as a user
KEY_PLACES = re.compile(
    r"(?:state/keys\.json$|state/overlays/|run/|config/|home/|\.claude/|\.claude\.json|\.openClaude/)"
)
#: environments that pip made, half a gigabyte each
INSTALLED = re.compile(r"(?:.*/)?envs(?:/|$)").match
#: what was found while the run went on: (what, where)
FOUND: set[tuple[str, str]] = set()

_SHORTEST = 12


def forbid(what: str, value: str) -> str:
    """From now on the run fails when ``value`` is found in a file or a command line. Returns ``value``."""
    secret = bare(value)
    if len(secret) >= _SHORTEST:
        FORBIDDEN[secret] = what
    return value


def bare(value: str) -> str:
    """The secret part: a token without the beginning by which its kind is known."""
    return re.sub(r"^(?:Bearer )?(?:sk-ant-(?:oat|api)\d\d-)?", "", value)


#: The plan's token of tests that need no special one.
TOKEN = forbid("plan token", f"sk-ant-oat01-canary-{secrets.token_hex(12)}")


@dataclass(frozen=True)
class Aws:
    """One set of temporary AWS credentials, shaped as AWS's own."""

    access: str
    secret: str
    session: str

    @classmethod
    def make(cls, name: str) -> Aws:
        made = cls(
            "ASIA" + secrets.token_hex(8).upper(), secrets.token_hex(20), "session" + secrets.token_hex(40)
        )
        for what, value in (("access key", made.access), ("secret", made.secret), ("session", made.session)):
            forbid(f"AWS {what} of {name}", value)
        return made


def spellings(secret: str) -> list[bytes]:
    """``secret`` as it stands, and as it looks inside base64 text at each of the three alignments."""
    found = [secret.encode()]
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + secret.encode())
        # The characters at both ends depend on the neighbours.
        found.append(coded[4 if shift else 0 : -4])
    return found


def needles(of: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return [(what, spelling) for secret, what in of.items() for spelling in spellings(secret)]


def within(data: bytes, wanted: Iterable[tuple[str, bytes]]) -> set[str]:
    """What of ``wanted`` stands in ``data``, by name."""
    return {what for what, needle in wanted if needle in data}


def in_files(
    root: Path, of: Mapping[str, str], but: Callable[[str], object] = lambda _path: False, since: float = 0.0
) -> set[tuple[str, str]]:
    """(what, path) of each canary below ``root``; ``but`` gets the relative path of what is not looked at.

    ``since``: only files that were changed after this time (seconds since the epoch). Names of files and folders and
    targets of links count too.
    """
    wanted, found = needles(of), set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not but(os.path.relpath(os.path.join(folder, name), root))]
        for name in [*names, *folders]:
            path = os.path.join(folder, name)
            if but(os.path.relpath(path, root)):
                continue
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                data = os.fsencode(name)
                if stat.S_ISLNK(status.st_mode):
                    data += os.fsencode(os.readlink(path))
                elif stat.S_ISREG(status.st_mode) and status.st_mtime >= since:
                    with open(path, "rb") as file:
                        data += b"\n" + file.read(LARGEST)
                found |= {(what, path) for what in within(data, wanted)}
    return found


def in_processes(
    processes: Iterable[psutil.Process], of: Mapping[str, str], environment: bool = True
) -> set[tuple[str, str]]:
    """(what, "arguments of NAME" or "environment of NAME"); a process that may not be read is passed over."""
    wanted, found = needles(of), set()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            texts = {"arguments": process.cmdline()}
            if environment:
                texts["environment"] = [f"{name}={value}" for name, value in process.environ().items()]
            for part, words in texts.items():
                data = "\0".join(words).encode("utf-8", "surrogateescape")
                found |= {(what, f"{part} of {process.name()}") for what in within(data, wanted)}
    return found


def look_into(prefix: Path) -> None:
    """A daemon's folder, just before it is removed: what it wrote, looked through for all that is forbidden.

    AWS's own files and the configuration are the user's, that is where such things belong; the snapshots of
    ``ocd.toml`` hold what it holds.
    """
    known = {secret: what for secret, what in FORBIDDEN.items() if not what.startswith("AWS")}
    FOUND.update(in_files(prefix, known, but=INSTALLED))
    aws = {secret: what for secret, what in FORBIDDEN.items() if what.startswith("AWS")}
    FOUND.update(in_files(prefix, aws, but=re.compile(r"\.aws/|config/|state/settings/").match))
    FOUND.update(in_files(prefix, KEYS, but=KEY_PLACES.match))


def look_at_arguments() -> None:
    """The command lines of all processes that there are now."""
    everything = FORBIDDEN | KEYS
    if everything:
        FOUND.update(in_processes(psutil.process_iter(), everything, environment=False))


def told() -> list[str]:
    """What was found, as lines for people."""
    return sorted(f"{what}: {where}" for what, where in FOUND)
