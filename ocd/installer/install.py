"""The order of an installation or an upgrade: judge, build beside what serves, swap the links, take over or go back."""

import argparse
import concurrent.futures
import contextlib
import functools
import os
import sys
from pathlib import Path

from ocd import atomic, provision
from ocd.installer import closing, commands, configuration, ground
from ocd.installer.ahead import Ahead
from ocd.installer.daemon import Daemon
from ocd.installer.environments import Environments
from ocd.installer.failure import Failure
from ocd.installer.occtl import Occtl, answer
from ocd.installer.places import LOCKS, Places
from ocd.installer.programs import Programs
from ocd.installer.screen import Steps


def install(options: argparse.Namespace, places: Places, steps: Steps) -> None:
    """Raises Failure; what was installed before still works then."""
    ground.foreign_folders(places)
    ground.known_bad_locks()
    if not places.prefix:
        ground.anothers_home()
    commands.refuse_foreign(places)
    # Not resolved: a virtual environment's interpreter is itself a link out of it.
    own = Path(os.path.abspath(options.litellm_python)).parent.parent if options.litellm_python else None
    if own:
        ground.environment(own)
    with contextlib.nullcontext() if steps.dry_run else places.alone():
        ahead = Ahead(places)
        if not steps.dry_run:
            provision.remove_abandoned(places.envs)
        try:
            fresh = _install_alone(options, own, places, steps, ahead)
        finally:
            ahead.end()
            provision.remove(places.build)
    occtl, started = Occtl(places, steps.screen), options.start and not steps.dry_run
    if fresh:
        _offer_migration(steps, occtl, started)
    _conclude(places, steps, occtl, started)


def _install_alone(
    options: argparse.Namespace, own: Path | None, places: Places, steps: Steps, ahead: Ahead
) -> bool:
    """``own``: a LiteLLM of the person's. Returns whether a configuration was written."""
    daemon = Daemon(places, steps, Occtl(places, steps.screen))
    programs = Programs(places, steps.screen)
    tools = provision.Tools(
        sys.executable, places.build, LOCKS / "uv.txt", programs.run, (Failure,), options.wheels
    )
    environments = Environments(places, steps, tools)
    before = {
        link: os.readlink(link) if link.is_symlink() else "" for link in (places.current, places.litellm)
    }
    replaced = before[places.current] not in ("", str(environments.ours_folder))

    def make_ours() -> Path:
        made = environments.ours()
        if options.start:
            daemon.refuse_anothers(made, "Give this one a folder of its own with --prefix DIR")
        return made

    def make_litellm() -> Path:
        made = own or environments.litellm(before[places.litellm], replaced, options.full)
        if options.start and not steps.dry_run and not own:
            ahead.begin(made)
        return made

    ours, litellm = programs.both(make_ours, make_litellm)
    running = not steps.dry_run and daemon.running()
    # A mistake that was in the configuration before is no fault of the new version.
    suits = running and replaced and daemon.accepts_configuration(Path(before[places.current]), ours)
    commands.write(places, steps)
    defaults = [str(ours / "bin" / "python"), "-I", "-m", "ocd.stack.defaults"]
    shipped = functools.partial(programs.run, defaults, "write the configuration")
    fresh = configuration.write(places, steps, shipped)
    wanted = {places.current: ours, places.litellm: litellm}
    swapped = [link for link, target in wanted.items() if before[link] != str(target)]
    try:
        for link in swapped:
            if steps.take(f"use {wanted[link].name}"):
                atomic.link(link, str(wanted[link]))
        if options.start and not steps.dry_run:
            # Older code may still run although the link is new: after --no-start, or an interrupted upgrade.
            outdated = bool(swapped) or any(one != ours for one in places.envs.glob("ocd-*"))
            daemon.start(running, outdated, suits)
            environments.prune(ours, litellm, Path(os.path.realpath(places.litellm)))
    except (Failure, KeyboardInterrupt) as reason:
        if running and replaced:
            daemon.go_back(ours, before, reason)
        # Nothing served before: then what is in the way (a busy port, say) is no fault of this version.
        raise
    if options.start and steps.dry_run and steps.changed:
        steps.screen.put("would start the daemon, wait until both proxies serve, and show the status")
    return fresh


def _offer_migration(steps: Steps, occtl: Occtl, started: bool) -> None:
    """Say that a set-up of before ocd can be brought in; ask where somebody can answer and it can be done now."""
    screen = steps.screen
    old = closing.older(Path(os.path.expanduser("~")))
    if not old:
        return
    screen.put(f"\nThere is a set-up of before ocd: {', '.join(map(str, old))}")
    asked = started and sys.stdin.isatty() and screen.live
    if asked and closing.wants("Bring it in now (the originals stay as they are)?"):
        occtl.show("migrate")
    else:
        screen.put("Bring it in with: occtl migrate     (occtl migrate --dry-run shows what that does)")


def _conclude(places: Places, steps: Steps, occtl: Occtl, started: bool) -> None:
    screen, nothing = steps.screen, "nothing to do: everything is installed and up to date"
    if steps.dry_run:
        if not steps.changed:
            screen.put(nothing)
        return
    screen.say("done" if steps.changed else nothing)
    lines = []
    if started:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            doctor = pool.submit(occtl.quietly, "doctor", "--json")
            occtl.show("status")
            # Nothing when the doctor cannot be had, which is no fault of set-up's.
            lines = closing.findings(answer(doctor.result()).get("rows", []))
    lines += closing.on_path(str(places.bin), os.environ, os.path.expanduser("~"), os.path.exists)
    for line in [*lines, "\nTry it: occtl selftest     Use it: openclaude     Look after it: occtl status"]:
        screen.put(line)
