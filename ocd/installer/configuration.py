"""The first configuration: the shipped files, and ports that no other user of the machine has."""

import os
from collections.abc import Callable
from pathlib import Path

from ocd import atomic
from ocd.installer.places import CONFIGURATION, Places
from ocd.installer.screen import Steps

#: the main proxy's port where nothing says otherwise; the bedrock proxy's is the next one
USUAL_PORT = 4000


def write(places: Places, steps: Steps, shipped: Callable[[], object]) -> bool:
    """Write what is missing; returns whether anything was. ``shipped`` writes the files that are not there."""
    missing = [name for name in CONFIGURATION if not (places.config / name).exists()]
    if missing and steps.take(f"write the default configuration: {', '.join(missing)}"):
        places.make(places.config, 0o700)
        shipped()
        if "ocd.toml" in missing:
            ports_of_our_own(places.config / "ocd.toml", steps)
    return bool(missing)


def ports_of_our_own(path: Path, steps: Steps) -> None:
    """On a machine where another user has the usual ports: a pair of our own, written down in ocd.toml."""
    if any(os.environ.get(name) for name in ("OCD_PORT", "OPENCLAUDE_LITELLM_PORT", "OCD_BEDROCK_PORT")):
        return
    theirs, ours = listening(os.getuid())
    port = pair(theirs, ours)
    text, line = path.read_text("utf-8"), f"\n#port = {USUAL_PORT}\n"
    if port == USUAL_PORT or not theirs & {USUAL_PORT, USUAL_PORT + 1} or line not in text:
        return
    if steps.take(f"use the ports {port} and {port + 1}: the usual ones belong to another user here"):
        atomic.replace(path, text.replace(line, f"\nport = {port}\n", 1))


def listening(
    uid: int, read: Callable[[str], str] = lambda name: Path("/proc/net", name).read_text()
) -> tuple[set[int], set[int]]:
    """The TCP ports on which other users listen here, and those of user ``uid``: (theirs, ours). See proc(5).

    Two empty sets where the system does not tell (macOS): then the daemon says who has the port.
    """
    theirs: set[int] = set()
    ours: set[int] = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = read(name).splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if len(fields) > 7 and fields[3] == "0A":
                port = int(fields[1].rpartition(":")[2], 16)
                (ours if fields[7] == str(uid) else theirs).add(port)
    return theirs, ours


def pair(theirs: set[int], ours: set[int]) -> int:
    """The first port, from the usual one on in steps of ten, that is free together with the one after it.

    A port that a program of this same user's has is no reason to go elsewhere: that program is what `occtl migrate`, or
    the person, deals with; the daemon names it.
    """
    for port in range(USUAL_PORT, USUAL_PORT + 1000, 10):
        taken = theirs if port == USUAL_PORT else theirs | ours
        if not {port, port + 1} & taken:
            return port
    return USUAL_PORT
