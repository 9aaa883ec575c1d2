"""Reading the user's files again, and serving what changed and passes. Failure keeps what serves."""

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ocd.core import state as core
from ocd.core import step as transitions
from ocd.core.state import State
from ocd.errors import EX_CONFIG, OcdError
from ocd.settings import aws_profiles
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.settings.stored_key import TEAM
from ocd.stack.inputs import aws_files
from ocd.stack.retire import Retirement
from ocd.supervisor.files import configuration
from ocd.supervisor.files.revisions import Revisions
from ocd.supervisor.files.settings_file import SettingsFile
from ocd.supervisor.files.watch import Watch
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.reporter import Reporter
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Outcome, Problem

#: what the bedrock file names where our profile decides
PROFILE = "OCD_AWS_PROFILE"


class Reload:
    """One reload at a time.

    ``base`` is HOME and PATH of what is started, ``identity`` names the code that guests would run with these settings.
    ``adopted`` is told the settings before and the rows of ``ocd.stack.picker`` when new settings are followed,
    ``served`` when what a proxy is to serve has been decided; ``other_login`` of AWS's that was written meanwhile.
    """

    def __init__(
        self,
        folders: Folders,
        settings_file: SettingsFile,
        base: tuple[str, str],
        identity: Callable[[Settings], str],
        runners: Mapping[str, Runner],
        revisions: Revisions,
        report: Reporter,
        adopted: Callable[[Settings, list[dict[str, Any]]], None],
        routes_changed: Callable[[], None],
        served: Callable[[], None],
        other_login: Callable[[], None],
    ) -> None:
        self._folders = folders
        self._settings_file = settings_file
        self._base = base
        self._identity = identity
        self._runners = runners
        self._revisions = revisions
        self._report = report
        self._adopted = adopted
        self._routes_changed = routes_changed
        self._served = served
        self._other_login = other_login
        self._lock = asyncio.Lock()
        self._inputs: set[Path] = set()
        #: models that their provider takes away
        self.retiring: list[Retirement] = []
        self.watch = Watch(
            self._watched, self.reload, lambda why: report.log.warning("watching files", error=why)
        )

    def _watched(self) -> set[Path]:
        """Every file whose change may change what is served."""
        own = {self._folders.config / "ocd.toml", self._folders.config / ".env"}
        now = self._settings_file.now
        return own | self._inputs | {configuration.config_path(self._folders, now, n) for n in self._runners}

    async def reload(self, why: str, only: str | None = None, dry_run: bool = False) -> Outcome:
        """Read the files; serve what changed and passes. Failure keeps what serves. Returns what was decided."""
        async with self._lock:
            wrong: Outcome | None = None
            if not dry_run and self.watch.reading() & {str(path) for path in aws_files()}:
                # A profile or a login was written: what AWS refused before says nothing any more.
                self._other_login()
            try:
                settings = await asyncio.to_thread(self._settings_file.load)
            except ConfigError as error:
                problem = Problem.of(error)
                wrong = Outcome(ok=False, reason=error.sentence(), problems=[problem])
                if dry_run:
                    return wrong
                self._report.problems["settings"] = problem
                self._report.event("reload-rejected", text=error.sentence())
                if any(runner.state.revision for runner in self._runners.values()):
                    return wrong
                settings = self._settings_file.now
            else:
                if not dry_run:
                    self._report.problems.pop("settings", None)
            settings_id = await asyncio.to_thread(self._settings_file.keep, settings)
            examined = await configuration.candidates(
                self._folders,
                settings,
                settings_id,
                self._settings_file.path(settings_id),
                *self._base,
                self._identity(settings),
            )
            if examined.inputs:
                self._inputs = examined.inputs
            if dry_run:
                return self._would(examined.candidates, only)
            self.retiring = examined.retiring
            self._follow(settings, examined.rows)
            outcome = self._apply(examined.candidates, only, why)
            await asyncio.to_thread(self._look_for_aws, settings)
            self._look_for_team_key(settings)
            self._revisions.forget_settings()
            return wrong or outcome

    def _look_for_aws(self, settings: Settings) -> None:
        """Nobody should learn from a request that fails that there is no AWS login at all."""
        self._report.problems.pop("aws", None)
        bedrock = self._runners["bedrock"]
        config = bedrock.configs.get(bedrock.state.revision)
        if not settings.proxies.bedrock.enabled or config is None:
            return
        with contextlib.suppress(OSError):
            if PROFILE not in config.path.read_text("utf-8", "replace"):
                return
        own = {name: value.get_secret_value() for name, value in settings.proxies.bedrock.env.items()}
        why = aws_profiles.missing(self._base[0], own, settings.aws_profile)
        if why:
            name = settings.aws_profile or aws_profiles.DEFAULT
            self._report.problems["aws"] = Problem(
                code="aws-not-set-up",
                what="The haiku slot has no AWS login",
                why=why,
                next=f"Run `aws configure --profile {name}` or `aws configure sso --profile {name}`; it counts at once",
                exit=EX_CONFIG,
            )

    def _look_for_team_key(self, settings: Settings) -> None:
        """Without its key a team's proxy refuses every request: said before the first one."""
        self._report.problems.pop("team", None)
        if not settings.team.url:
            return
        try:
            TEAM.load(self._folders, os.environ)
        except OcdError as error:
            self._report.problems["team"] = Problem.of(error)

    def _would(self, found: dict[str, configuration.Candidate], only: str | None) -> Outcome:
        outcome = Outcome(ok=True)
        for name, candidate in found.items():
            if only not in (None, name):
                continue
            if candidate.config is None:
                outcome.ok = False
                outcome.reason = outcome.reason or candidate.reason
                outcome.proxies[name] = f"would be rejected: {candidate.reason}"
                continue
            runner = self._runners.get(name)
            same = runner is not None and candidate.config.revision == runner.state.revision
            outcome.changed |= not same
            outcome.proxies[name] = "unchanged" if same else "would be reloaded"
        return outcome

    def _follow(self, settings: Settings, rows: list[dict[str, Any]]) -> None:
        """Settings that take effect without a new process."""
        old, self._settings_file.now = self._settings_file.now, settings
        self._adopted(old, rows)
        for name, runner in self._runners.items():
            runner.feed(spec.adjust(settings, name))
        if old.slots != settings.slots:
            self._routes_changed()
        if old != settings:
            self._report.event("config-changed", text="ocd.toml")

    def _apply(self, found: dict[str, configuration.Candidate], only: str | None, why: str) -> Outcome:
        outcome = Outcome(ok=True)
        for name, candidate in found.items():
            runner = self._runners.get(name)
            if runner is None or only not in (None, name):
                continue
            if candidate.config is None:
                outcome.ok = False
                outcome.reason = outcome.reason or candidate.reason
                outcome.proxies[name] = f"rejected: {candidate.reason}"
                self._refuse(runner, candidate.reason)
                continue
            revision = candidate.config.revision
            runner.configs[revision] = candidate.config
            changed = revision != runner.state.revision or runner.state.rejected is not None
            outcome.changed |= changed
            outcome.proxies[name] = "reloaded" if changed else "unchanged"
            if changed and why != "start":
                self._report.event("reload-started", name, text=why)
                # main answers for what the other one is asked over it
                self._routes_changed()
            runner.feed(transitions.Configure(revision))
            used = {runner.state.good, runner.state.revision, *(m.revision for m in runner.state.members)}
            runner.configs = {r: c for r, c in runner.configs.items() if r in used}
        self.watch.refresh()
        self._served()
        return outcome

    def _refuse(self, runner: Runner, reason: str) -> None:
        already = runner.state.rejected is not None and runner.state.rejected.reason == reason
        good = None if runner.state.revision else self._revisions.last_good(runner.name)
        if good is not None:
            runner.configs[good.revision] = good
        runner.feed(transitions.Refuse(reason, good.revision if good else ""))
        if not already:
            self._report.event("reload-rejected", runner.name, text=reason)

    async def reload_and_wait(self, only: str | None) -> Outcome:
        """``occtl reload``: decide, then wait until it serves or is rejected."""
        before = {name: runner.state.revision for name, runner in self._runners.items()}
        outcome = await self.reload("occtl reload", only)
        for name, runner in self._runners.items():
            # Unchanged, but not serving yet: the watcher saw the file first, and its outcome is ours.
            under_way = (
                outcome.proxies.get(name) == "unchanged" and runner.state.good != runner.state.revision
            )
            if outcome.proxies.get(name) != "reloaded" and not under_way:
                continue
            wanted = runner.state.revision
            limit = 4 * self._settings_file.now.supervision.start_timeout
            done = await runner.wait(functools.partial(_decided, wanted), limit)
            p = runner.state
            if p.wanted is not core.Wanted.UP:
                outcome.proxies[name] = (
                    f"the new configuration is used when it runs again; it is {p.wanted} now"
                )
            elif p.good == wanted and p.revision == wanted and done:
                outcome.proxies[name] = f"serves revision {wanted} (before: {before.get(name) or 'none'})"
            else:
                reason = p.rejected.reason if p.rejected else runner.explain()[0]
                reason = reason or f"not ready within {limit:.0f} s"
                outcome.ok = False
                outcome.reason = outcome.reason or reason
                serves = core.state_of(p) is State.READY
                kept = "rejected, the earlier one keeps serving" if serves else "it does not serve"
                outcome.proxies[name] = f"{kept}: {reason}"
        return outcome


def _decided(wanted: str, p: core.Proxy) -> bool:
    """Whether it is known what has become of the revision ``wanted``."""
    if p.wanted is not core.Wanted.UP:
        return True
    done = p.good == wanted and core.settled(p)
    return p.revision != wanted or done or core.state_of(p).hopeless
