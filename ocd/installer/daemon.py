"""The daemon through an installation: whose it is, the take-over by new code, the way back, the service, the end."""

import os
import time
from pathlib import Path
from typing import NoReturn

from ocd import atomic, provision
from ocd.core.state import State
from ocd.errors import EX_CONFIG, EX_NOINPUT, EX_TEMPFAIL, EX_UNAVAILABLE
from ocd.installer.failure import Failure
from ocd.installer.occtl import Occtl, answer, complaint
from ocd.installer.places import Places, listens
from ocd.installer.screen import Steps

READY_SECONDS = 90


class Daemon:
    def __init__(self, places: Places, steps: Steps, occtl: Occtl) -> None:
        self.places = places
        self.steps = steps
        self.screen = steps.screen
        self.occtl = occtl

    def running(self) -> bool:
        try:
            return bool(self.occtl.asked("status")[1].get("running"))
        except FileNotFoundError:
            # Neither the command nor its Python is there before the first installation.
            return False

    def refuse_anothers(self, environment: Path, step: str) -> None:
        """Raise Failure when the daemon that answers belongs to an installation in another HOME of this user's.

        There is one daemon for each user: to go on would mean to replace or to end what serves somebody's work.
        """
        if not (environment / "bin" / "python").exists():
            return
        folder = answer(self.occtl.of(environment, "config", "show", "--json")).get("folder")
        if not isinstance(folder, str):
            return  # what is wrong with it is said when it matters
        home = os.path.realpath(os.path.expanduser("~"))
        theirs, own = os.path.realpath(folder), os.path.realpath(self.places.config)
        # Below this HOME it is OCD_CONFIG_DIR or XDG_CONFIG_HOME of the daemon's that this shell does not have.
        if theirs != own and os.path.commonpath([home, theirs]) != home:
            raise Failure(
                "an ocd with another HOME is running; nothing was done to it",
                f"its configuration is {folder}, this one's is {self.places.config}",
                f"{step}, or end that one first (`occtl stop`)",
                EX_TEMPFAIL,
            )

    def accepts_configuration(self, old: Path, new: Path) -> bool:
        """Whether the configuration is good. Raises Failure when it was for ``old`` and is not for ``new``."""
        was, now = (self.occtl.of(env, "config", "check") for env in (old, new))
        if was.returncode == 0 and now.returncode == EX_CONFIG:
            lines = (now.stdout + now.stderr).decode("utf-8", "replace").strip().splitlines()
            raise Failure(
                "this version does not accept your configuration, so nothing was changed",
                " | ".join(line.strip() for line in lines[:3]),
                "Correct it, then run this again",
                EX_CONFIG,
            )
        return now.returncode == 0

    def start(self, running: bool, outdated: bool, suits: bool) -> None:
        """Have the daemon serve this version; ``outdated``: a running one may be of another. Raises Failure.

        ``suits``: the configuration is good, so that proxies which do not take over are the new version's fault.
        """
        before = self._renewed()
        try:
            if not running:
                self.steps.take("start the daemon")
                if not self._service():
                    self.occtl.run("start")
                self.wait_ready()
            elif outdated:
                self.steps.take("the new version takes over; nothing is interrupted")
                self.occtl.run("reexec", check=True)
                # The old proxies serve until new ones are ready; this waits for them and says what became of them.
                self.occtl.run("reload", check=suits)
                self.wait_ready()
                if self._has_service() and self.occtl.asked("service", "status")[1].get("state") == "active":
                    # Newer units; what runs is not touched by it. (launchd would have to start it anew.)
                    self.occtl.run("service", "install")
        finally:
            said = self._renewed()
            if said and said != before:
                self.screen.say(said)

    def _renewed(self) -> str:
        """What the daemon said when it brought files of a former version to today's (ocd/stack/renew.py)."""
        try:
            return next(self.places.state.glob("renewed-*")).read_text()
        except (OSError, StopIteration, ValueError):
            return ""

    def _has_service(self) -> bool:
        return not (self.places.prefix or os.environ.get("OCD_NO_SERVICE"))

    def _service(self) -> bool:
        """Have the service manager run it, where one answers; returns whether it does, and says why not."""
        if not self._has_service():
            return False
        found = self.occtl.asked("service", "status")[1]
        if not found.get("available"):
            # Why, and what to do about it: WSL, a container, no user bus (ocd/service/base.py, hint).
            why = f"{found.get('manager')}: {found.get('reason')}. {found.get('hint')}."
            self.screen.say(f"no service manager, so it is started by itself; {why}")
            return False
        done = self.occtl.run("service", "install")
        if done.returncode == 0:
            self.screen.say(f"{found.get('manager')} runs it from now on, at every login too")
            return True
        why = " ".join(done.stderr.decode("utf-8", "replace").split())
        self.screen.say(f"the service manager could not start it ({why}); it is started by itself")
        self.occtl.run("service", "uninstall")
        return False

    def wait_ready(self) -> None:
        """Wait until both proxies serve. Raises Failure, and shows how far they are, when they do not in time."""
        deadline = time.monotonic() + READY_SECONDS
        why = f"they were not ready within {READY_SECONDS} s; the table above says how far they are"
        hopeless = [state for state in State if state.hopeless]
        while time.monotonic() < deadline:
            self.screen.tick("waiting until both proxies serve")
            code, status = self.occtl.asked("status")
            if code == 0:
                self.screen.clear()
                return
            if any(proxy.get("state") in hopeless for proxy in status.get("proxies", {}).values()):
                why = "the table above says why"
                break
            time.sleep(0.2)
        self.screen.clear()
        self.occtl.show("status")
        raise Failure(
            "the proxies do not serve",
            why,
            "Everything is installed; see `occtl logs main` and `occtl logs daemon`, then run `occtl start`",
            EX_UNAVAILABLE,
        )

    def go_back(self, ours: Path, before: dict[Path, str], reason: Failure | KeyboardInterrupt) -> NoReturn:
        """Have the version before serve again after a failed take-over by ``ours``. Always raises.

        ``before``: where each link led; ``reason``: why ``ours`` does not serve.
        """
        self.screen.say("going back to the version before")
        for link, target in before.items():
            if target:
                atomic.link(link, target)
        try:
            self.occtl.run("reexec" if self.running() else "start", check=True)
            self.occtl.run("reload")
            self.wait_ready()
        except Failure as worse:
            raise Failure(
                "neither the new version nor the one before serves",
                f"{reason} {worse}",
                "See `occtl logs daemon`, then run `occtl stop` and `occtl start`",
                EX_UNAVAILABLE,
            ) from None
        # Else the next run would take it for old code that still runs.
        provision.remove(ours)
        if isinstance(reason, KeyboardInterrupt):
            raise reason
        what = "the new version does not serve, the one before does again"
        raise Failure(what, str(reason), "See `occtl logs daemon`", EX_UNAVAILABLE) from None

    def end(self) -> None:
        """Stop what runs. Raises Failure, before anything is removed, when it goes on running."""
        if not ((self.places.bin / "occtl").exists() and (self.places.current / "bin" / "python").exists()):
            # A broken installation (its Python is gone, say) cannot stop anything, but can be removed.
            if any(map(listens, self.places.runtime)):
                raise Failure(
                    "the daemon is running and cannot be stopped, so nothing was removed",
                    "this installation is incomplete",
                    "Run install.py without --uninstall first, or end the process `ocd`",
                    EX_TEMPFAIL,
                )
            return
        self.refuse_anothers(self.places.current, "Leave this one until later")
        self._give_back_claude_settings()
        self.screen.say("stop the daemon")
        if not self.places.prefix:
            self.occtl.run("service", "uninstall")
        done = self.occtl.run("stop")
        if done.returncode and self.running():
            raise Failure(
                "the daemon does not stop, so nothing was removed",
                complaint(done) or f"occtl stop ended with {done.returncode}",
                "Stop it with `occtl stop`, then run this again",
                EX_TEMPFAIL,
            )

    def _give_back_claude_settings(self) -> None:
        """What was written into Claude Code's settings.json, while the note of what it was is still there."""
        records = [self.places.state / name for name in ("claude-settings", "claude-settings.json")]
        if not any(path.exists() for path in records):
            return
        done = self.occtl.run("claude", "remove", "--all")
        if done.returncode not in (0, EX_NOINPUT):
            raise Failure(
                "Claude Code's settings cannot be put back as they were, so nothing was removed",
                complaint(done),
                "Run `occtl claude remove --all`, follow what it says, then run this again",
                EX_TEMPFAIL,
            )
