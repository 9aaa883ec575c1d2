"""``--uninstall``: the daemon ends first, then everything goes but the configuration; with ``--purge`` that too."""

import contextlib
import shutil
from pathlib import Path

from ocd.errors import EX_NOPERM
from ocd.installer import commands
from ocd.installer.daemon import Daemon
from ocd.installer.failure import Failure
from ocd.installer.occtl import Occtl
from ocd.installer.places import CONFIGURATION, Places, listens
from ocd.installer.screen import Steps


def uninstall(places: Places, steps: Steps, purge: bool) -> None:
    """Raises Failure, before anything is removed where that is possible."""
    screen = steps.screen
    root = [Path(places.prefix)] if places.prefix else []
    # Below a prefix without this record nothing is installed; a configuration of an earlier time may be left.
    foreign = bool(root) and not places.record.exists()
    ours = [] if foreign else commands.ours(places)
    folders = [] if foreign else [places.data, places.state]
    installed = bool(ours) or any(path.exists() for path in folders)
    if not foreign:
        # The runtime folder is the user's, whatever HOME is: without an installation who listens is not ours.
        folders += [folder for folder in places.runtime if installed or not listens(folder)]
    there = [path for path in folders if path.exists()] + ours
    look_for = [places.config / name for name in CONFIGURATION] if foreign else [places.config]
    if purge and any(path.exists() for path in look_for):
        there.append(places.config)
    if not there:
        screen.put("ocd is not installed here; nothing to do")
        return
    if steps.dry_run:
        if not foreign:
            screen.put("would stop the daemon")
        for path in there:
            screen.put(f"would remove {path}")
        return
    noted = places.made()
    if installed:
        with places.alone() if places.data.is_dir() else contextlib.nullcontext():
            Daemon(places, steps, Occtl(places, screen)).end()
    for path in ours:
        path.unlink()
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
    if purge:
        _purge_configuration(places, noted)
    remaining = [str(path) for path in there if path.exists()]
    if remaining and not foreign:
        step = "Make these folders and what is in them writable, then run this again"
        raise Failure("not everything could be removed", ", ".join(remaining), step, EX_NOPERM)
    for path in sorted({*noted, *root}, key=lambda one: -len(one.parts)):
        with contextlib.suppress(OSError):
            path.rmdir()
    kept = places.config.exists() and not purge
    screen.say(f"removed; your configuration is still in {places.config}" if kept else "removed")


def _purge_configuration(places: Places, made: list[Path]) -> None:
    """The whole folder where it is ours; of somebody else's only our files."""
    config = places.config
    if not places.prefix or config in made:
        shutil.rmtree(config, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        for name in CONFIGURATION:
            (config / name).unlink(missing_ok=True)
        config.rmdir()
