"""The supervisor's composition: link, proxies, forkserver, files, sessions, control API."""

import asyncio
import contextlib
import datetime
import functools
import json
import os
import secrets
import signal
import socket
import time
from pathlib import Path
from typing import Any

from ocd import __version__, paths
from ocd.adapters.desktop import Desktop
from ocd.adapters.logs import LogFile
from ocd.adapters.mask import mask
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.core.state import State
from ocd.errors import EX_CONFIG, EX_TEMPFAIL, OcdError
from ocd.settings import aws_profiles
from ocd.settings import keys as config_keys
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack import pipe
from ocd.stack import renew as config_renew
from ocd.stack.inputs import aws_files
from ocd.stack.retire import Retirement, due
from ocd.supervisor import configuration, journal, litellm_env, spec, takeover
from ocd.supervisor.budget import Budget
from ocd.supervisor.configured import Configured
from ocd.supervisor.exchanges import Exchanges
from ocd.supervisor.exporter import Exporter
from ocd.supervisor.health import Health
from ocd.supervisor.history import History
from ocd.supervisor.host import Host
from ocd.supervisor.idle import Idle
from ocd.supervisor.limits import PlanLimits
from ocd.supervisor.link import KeeperLink
from ocd.supervisor.metrics import Counts
from ocd.supervisor.overlays import Overlays
from ocd.supervisor.places import Places
from ocd.supervisor.sessions import Sessions
from ocd.supervisor.settings_file import SettingsFile
from ocd.supervisor.statusfile import StatusFile
from ocd.supervisor.unit import Config, Unit, tag
from ocd.supervisor.usage import Usage
from ocd.supervisor.watch import Watch
from ocd.text import printable
from ocd.wire.messages import Outcome, Problem, Status

#: The keeper ends a supervisor that says nothing for 30 s, or for half of the service manager's watchdog.
HEARTBEAT = 5.0
#: seconds; the service manager's patience with a stop starts anew with each heartbeat while streams drain
DRAIN_EXTENSION = 60
#: seconds that the last usage figures may take at the end
USAGE_PATIENCE = 5.0
#: what the bedrock file names where our profile decides
PROFILE = "OCD_AWS_PROFILE"


class Daemon:
    """One loop, one writer: everything that changes state arrives here as a call on the loop."""

    def __init__(self, keeper_pid: int, sock: socket.socket) -> None:
        self.keeper_pid = keeper_pid
        self.folders = Folders.find().ensure()
        self.home = os.environ.get("HOME") or os.path.expanduser("~")
        self.path = os.environ.get("PATH") or os.defpath
        self.started = time.time()
        self.problems: dict[str, Problem] = {}
        self.exit_code = 0
        self.stopping = False
        self.ended = asyncio.Event()
        self.listeners: dict[str, socket.socket] = {}
        renewed = config_renew.renew(self.folders)
        self.settings_file = SettingsFile(self.folders)
        self.settings, problem = self._first_settings()
        if problem is not None:
            self.problems["settings"] = problem
        self.log, self.log_file = journal.open_log(self.folders, self.settings, self.on_log_trouble)
        self.history = History(self._log_file("events"))
        self.renewed = renewed
        self.keys = config_keys.load_or_create(self.folders)
        self.litellm_version = ""
        self.link = KeeperLink(sock, self.on_keeper, self.on_keeper_end, self.on_link_fault)
        self.units: dict[str, Unit] = {}
        self.host = Host(self)
        self.exchanges = Exchanges(self.event, lambda: self.settings.slots.pins())
        usage_path = self.folders.state / "usage.db"
        self.limits = PlanLimits(
            self.event,
            lambda order: self.order_main("spill", order),
            lambda: tuple(self.settings.plan.warn_at),
            lambda: self.settings.spill.at or None,
            self.spill_targets,
        )
        self.places = Places(lambda pid: self.sessions.folder(pid))
        self.usage = Usage(
            usage_path,
            self.exchanges.label,
            self.on_usage_trouble,
            self.on_usage_moved,
            lambda: self.settings.usage.keep,
            self.places,
        )
        self.budget = Budget(
            self.folders.state / "budget.json",
            lambda: self.settings.budget,
            self.event,
            lambda order: self.order_main("budget", order),
            self.note_soon,
        )
        self.metrics = Counts(self.exchanges.label)
        self.desktop = Desktop(lambda why: self.log.warning("no desktop notification", text=why))
        self.exporter = Exporter(self)
        self.line = StatusFile(self)
        self.configured = Configured(self)
        self.exchanges.listeners += [
            *(self.usage.take, self.metrics.take, self.limits.take, self.budget.take),
            self.line.news,
        ]
        self.sessions = Sessions(self.on_session_end)
        self.exchanges.owner = self.sessions.owner
        self.overlays = Overlays(self)
        self.health = Health(self)
        self.idle = Idle(self)
        warn = functools.partial(self.log.warning, "watching files")
        self.watch = Watch(self.watched, self.reload, lambda why: warn(error=why))
        self.orders: dict[int, tuple[Unit, int]] = {}
        #: begins anywhere: answers to a predecessor's orders may still come, and must not be taken for ours
        self.order_number = secrets.randbelow(1 << 52)
        self.reloading = asyncio.Lock()
        self.inputs: set[Path] = set()
        self.retiring: list[Retirement] = []
        self.notes_due = False
        self.notes_timer: asyncio.TimerHandle | None = None
        self.last_notes = ""
        self.last_told = ""
        self.keeper_state = asyncio.Event()
        self.handover: takeover.Handover | None = takeover.Handover()
        self.tasks: set[asyncio.Task[Any]] = set()

    # ----------------------------------------------------------------------------------------------- start

    def _first_settings(self) -> tuple[Settings, Problem | None]:
        """A mistake in ocd.toml does not stop the daemon: it serves with the last good ones and says so."""
        try:
            return self.settings_file.load(), None
        except ConfigError as error:
            return self.settings_file.last_good(), _problem(error)

    def _log_file(self, name: str) -> LogFile:
        logs = self.settings.logs
        line = {"proxy": name, "generation": 0, "pid": 0, "stream": "ocd"}
        return LogFile(
            self.folders.state / "logs" / f"{name}.log",
            journal.share(logs.max_mb, logs.keep, logs.total_mb),
            logs.keep,
            self.on_log_trouble,
            gap={"kind": "log-degraded"} if name == "events" else line,
        )

    async def run(self) -> int:
        """Serve until the keeper is gone or we are told to end; returns the exit code."""
        asyncio.get_running_loop().set_exception_handler(self.on_callback_error)
        self.link.start()
        for name in spec.PROXIES:
            self.units[name] = Unit(self, name, self._log_file(name))
        async with asyncio.timeout(10):
            await self.keeper_state.wait()
        restarted = takeover.restore(self)
        self.handover = None
        try:
            # Before anything else that takes time: the import of LiteLLM is what a cold start waits for.
            if self.anything_wanted():
                self.host.ensure()
        except OcdError as error:
            self.problems["litellm"] = _problem(error)
        await self._open_control()
        self._compare_versions()
        self.event("supervisor-restarted" if restarted else "daemon-started", text=f"version {__version__}")
        if self.renewed:
            self.event("config-changed", text=self.renewed)
        self.start(self._heartbeat())
        self.start(self.reload("start"))
        self.start(self.health.run())
        self.start(self.watch.run())
        self.start(self.idle.run())
        self.start(self.usage.run())
        self.start(self.budget.begin(self.usage.path))
        self.start(self.overlays.run())
        await self.ended.wait()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.exit_code

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        # A part of us that failed silently would be a lie: start over; the proxies do not notice.
        self.log.error("a task of the supervisor failed", exc_info=task.exception())
        os._exit(70)

    def on_callback_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback of the loop raised is logged with its traceback; if it was one of ours, start over."""
        error = context.get("exception")
        self.log.error("a callback failed", text=str(context.get("message", "")), exc_info=error)
        # A connection that broke names its transport; an awaited task tells whoever awaits it.
        if error is None or "handle" not in context:
            return
        self.notes_due = True
        with contextlib.suppress(Exception):
            self.flush_notes()
        os._exit(70)

    async def _open_control(self) -> None:
        from ocd.supervisor.control import Control

        self.control = Control(self)
        await self.control.open()

    def _compare_versions(self) -> None:
        """Code that was installed meanwhile: we understand the keeper that still runs, but it should be replaced."""
        keeper = self.link.keeper_version
        if keeper != __version__:
            self.problems["keeper-version"] = Problem(
                code="keeper-version",
                what="the daemon is of two versions",
                why=f"this supervisor is {__version__}, the keeper that started it is {keeper or 'older'}",
                next="Run `occtl reexec`; sessions go on",
                exit=EX_TEMPFAIL,
            )

    async def _heartbeat(self) -> None:
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        pause = min(HEARTBEAT, int(watchdog) / 12e6) if watchdog.isdigit() and int(watchdog) else HEARTBEAT
        while True:
            self.link.send("alive")
            if self.stopping:
                # The longest drain is the settings' business, not TimeoutStopSec's (sd_notify(3)).
                self.link.send("notify", text=f"EXTEND_TIMEOUT_USEC={DRAIN_EXTENSION * 1_000_000}")
            # What a request changes is noted with the heartbeat: it is worth no message of its own.
            self.notes_due |= self.exchanges.news()
            self.flush_notes()
            self.tell_manager()
            self.exporter.follow()
            self.limits.follow()
            self.budget.follow()
            self.line.look()
            self.configured.look()
            await asyncio.sleep(pause)

    # ------------------------------------------------------------------------------------------------ news

    def event(
        self, kind: str, proxy: str = "", generation: int | None = None, text: str = "", **data: Any
    ) -> None:
        """Something happened that people may want to know."""
        happened = self.history.record(kind, proxy, generation, text, data)
        self.log.info(kind, proxy=proxy or None, generation=generation, text=happened.text or None, **data)
        if self.settings.notifications.desktop:
            self.desktop.take(self.settings.notifications.kinds, kind, proxy, happened.text)

    def order_main(self, what: str, order: dict[str, Any]) -> None:
        """Tell every process of main where requests go near the plan's limit, or when a budget is used up."""
        if unit := self.units.get("main"):
            for member in unit.state.members:
                unit.tell(member.generation, what, **order)
        self.note_soon()

    def spill_targets(self) -> dict[str, str]:
        """Which groups of main can go to AWS, by the settings or by main's own fallbacks."""
        unit = self.units.get("main")
        config = unit.configs.get(unit.state.good) if unit is not None else None
        if config is None:
            return {}
        return pipe.spill_targets(spec.pipe_table(config.path), self.settings.spill.routes)

    def on_log_trouble(self, text: str) -> None:
        if hasattr(self, "history") and "log" not in self.problems:
            self.problems["log"] = Problem(
                code="log-degraded",
                what="logs cannot be written",
                why=text,
                next="Free some disk space",
                exit=74,
            )
            self.event("log-degraded", text=text)

    def on_usage_trouble(self, why: str) -> None:
        """The usage figures cannot be written, or (an empty text) can be again."""
        if not why:
            self.problems.pop("usage", None)
            return
        self.problems["usage"] = Problem(
            code="usage-degraded",
            what="usage figures cannot be written",
            why=why,
            next="Free some space, or make the state folder writable; requests are answered meanwhile",
            exit=74,
        )
        self.event("usage-degraded", text=why)

    def on_usage_moved(self, aside: str) -> None:
        """The usage file was broken: the figures start anew."""
        self.event(
            "usage-degraded", text=f"the usage file could not be read and is {aside} now; a new one begins"
        )

    def changed(self, unit: Unit) -> None:
        """A proxy's state changed: tell the service manager, and keep the notes for a successor."""
        self.line.news()
        self.idle.follow()
        self.note_soon()

    def note_soon(self) -> None:
        """Something that a successor must know: noted with the keeper at once, together with what comes with it."""
        self.notes_due = True
        if self.notes_timer is None:
            self.notes_timer = asyncio.get_running_loop().call_later(0.05, self.flush_notes)

    def flush_notes(self) -> None:
        if self.notes_timer is not None:
            self.notes_timer.cancel()
            self.notes_timer = None
        if self.notes_due:
            self.notes_due = False
            self.tell_manager()
            notes = takeover.notes(self)
            if notes == self.last_notes:
                return
            self.last_notes = notes
            self.link.send("note", text=notes)

    def tell_manager(self) -> None:
        """Say to the service manager what is serving. Started means: serving, or it will not for a reason we know."""
        states = {name: core.state_of(u.state) for name, u in self.units.items()}
        words = ", ".join(
            f"{name} {state} on {self.units[name].port}"
            for name, state in states.items()
            if state is not State.DISABLED
        )
        text = f"STATUS={words or 'no proxy is enabled'}"
        if State.STARTING not in states.values() and not self.stopping:
            text += "\nREADY=1"
        if text != self.last_told:
            self.last_told = text
            self.link.send("notify", text=text)

    def on_keeper_end(self) -> None:
        os._exit(69)

    def on_link_fault(self, text: str) -> None:
        """Something came over a link that is not a message: said, and passed over."""
        self.log.warning("a message was not understood", text=text)

    def on_keeper(self, message: dict[str, Any], fds: list[int]) -> None:
        match message.get("op"):
            case "state" | "process" | "state-end":
                if self.handover is not None:
                    self.handover.take(message, fds)
                    fds = []
                if message["op"] == "state-end":
                    self.keeper_state.set()
            case "host-started":
                if self.handover is not None and message.get("old"):
                    self.handover.host = (message["pid"], fds)
                else:
                    self.host.on_started(message["pid"], fds, bool(message.get("old")))
                fds = []
            case "listening":
                self._listening(message["name"], fds)
                fds = []
            case "listen-failed":
                self._listen_failed(message)
            case "spawned":
                unit, generation = self.orders.pop(message["id"], (None, 0))
                if unit is None:
                    # Nobody asked (any more): it must not stay behind.
                    self.link.send("kill", pid=message["pid"], signal=int(signal.SIGKILL), group=True)
                else:
                    unit.on_spawned(generation, message["pid"], fds)
                    fds = []
            case "spawn-failed":
                self.spawn_failed(message["id"], message.get("error", ""), bool(message.get("transient")))
            case "exit":
                self._exited(message)
            case "host":
                self.host.on_message(message)
            case "host-exit":
                self.host.on_exit(message["status"])
            case "host-failed":
                self.host.on_failed(message.get("error", ""))
            case "signal":
                self._signal(message["name"])
            case "reexec-failed":
                self.event("reexec-failed", text=message.get("error", ""))
            case "refused":
                self.log.warning("the keeper refused an order", text=f"{message['what']}: {message['why']}")
        for fd in fds:
            os.close(fd)

    def _signal(self, name: str) -> None:
        if name == "HUP":
            self.start(self.reload("signal"))
        else:
            self.start(self.shutdown())

    def _listening(self, name: str, fds: list[int]) -> None:
        for fd in fds[1:]:
            os.close(fd)
        if not fds:
            return
        old = self.listeners.pop(name, None)
        if old is not None:
            self.idle.unwatch(old.fileno())
            old.close()
        self.listeners[name] = socket.socket(fileno=fds[0])
        if name == "control":
            self.control.on_listening()
            return
        unit = self.units.get(name.split(":")[0])
        if unit is not None:
            unit.on_listening(name, None)

    def _listen_failed(self, message: dict[str, Any]) -> None:
        name = message["name"]
        if name == "control":
            self.control.on_failed(message.get("error", ""))
            return
        unit = self.units.get(name.split(":")[0])
        if unit is not None:
            unit.on_listening(name, int(message.get("errno") or 1), message.get("error", ""))

    def close_listener(self, name: str) -> None:
        sock = self.listeners.pop(name, None)
        if sock is not None:
            self.idle.unwatch(sock.fileno())
            sock.close()
        self.link.send("unlisten", name=name)

    def _exited(self, message: dict[str, Any]) -> None:
        try:
            known = json.loads(message["tag"])
            unit = self.units[known["proxy"]]
        except (ValueError, KeyError):
            return
        unit.on_exit(message["pid"], message["status"], known["generation"])

    # --------------------------------------------------------------------------------------------- spawning

    def spawn(self, unit: Unit, generation: int, revision: str) -> None:
        """Have a process started for a proxy; what comes of it arrives as an event."""
        self.order_number += 1
        number = self.order_number
        self.orders[number] = (unit, generation)
        spare = unit.state.accepting(fresh=True) >= unit.state.limits.workers
        trouble = self.host.spawn({"id": number, "tag": tag(unit.name, generation, revision)}, spare)
        if trouble:
            asyncio.get_running_loop().call_soon(self.spawn_failed, number, trouble, False)

    def on_warm(self) -> None:
        """The forkserver is warm: what it forked before that is exchanged, and new before old as always."""
        for unit in self.units.values():
            unit.feed(transitions.Warm())

    def spawn_failed(self, number: int, reason: str, transient: bool) -> None:
        unit, generation = self.orders.pop(number, (None, 0))
        if unit is not None:
            unit.feed(transitions.SpawnFailed(generation, reason, transient))

    def boot_message(self, unit: Unit, generation: int, config: Config) -> dict[str, Any]:
        # The settings that this revision passed the checks with, whatever they are by now.
        message = spec.boot(
            config.settings, self.keys, self.folders, unit.name, generation, config.path, self.home, self.path
        )
        if unit.name == "main":
            message["spill"] = self.limits.order()
            message["budget"] = self.budget.order()
        if unit.state.accepting() >= unit.state.limits.workers:
            # Nobody waits for this one: one request through LiteLLM's routes now, so that its first is not slow.
            message["warm"] = [{"method": "GET", "path": "/health/readiness"}]
        return message

    def on_guest_status(self, unit: Unit) -> None:
        self.idle.on_status(unit)

    def on_report(self, unit: Unit, generation: int, message: dict[str, Any]) -> None:
        """News from the boundary inside a proxy."""
        kind = str(message.get("kind", "report"))
        if kind == "credential-refused":
            unit.refused_credentials += 1
        elif kind == "fallback":
            unit.on_fallback(mask(str(message.get("where", ""))))
        text = printable(str(message.get("where", "")))
        if kind == "request-refused":
            text = printable(f"{message.get('why', '')}, {message.get('count', 1)} times")
        self.event(kind, unit.name, generation, text)

    def starting_reason(self) -> str:
        if self.host.mode == "fork" and not self.host.ready:
            return "LiteLLM is being imported"
        return ""

    def anything_wanted(self) -> bool:
        return any(u.state.wanted is core.Wanted.UP for u in self.units.values())

    # ---------------------------------------------------------------------------------------- configuration

    def watched(self) -> set[Path]:
        """Every file whose change may change what is served."""
        own = {self.folders.config / "ocd.toml", self.folders.config / ".env"}
        return own | {self.config_path(name) for name in self.units} | self.inputs

    def config_path(self, name: str) -> Path:
        return configuration.config_path(self.folders, self.settings, name)

    async def reload(self, why: str, only: str | None = None, dry_run: bool = False) -> Outcome:
        """Read the files; serve what changed and passes. Failure keeps what serves. Returns what was decided."""
        async with self.reloading:
            wrong: Outcome | None = None
            if not dry_run and self.watch.reading() & {str(path) for path in aws_files()}:
                # A profile or a login was written: what AWS refused before says nothing any more.
                for name in self.units:
                    self.exchanges.clear_troubles(name, kinds=frozenset({"aws-expired", "access-denied"}))
            try:
                settings = await asyncio.to_thread(self.settings_file.load)
            except ConfigError as error:
                problem = _problem(error)
                wrong = Outcome(ok=False, reason=error.sentence(), problems=[problem])
                if dry_run:
                    return wrong
                self.problems["settings"] = problem
                self.event("reload-rejected", text=error.sentence())
                if any(u.state.revision for u in self.units.values()):
                    return wrong
                settings = self.settings
            else:
                if not dry_run:
                    self.problems.pop("settings", None)
            settings_id = await asyncio.to_thread(self.settings_file.keep, settings)
            examined = await configuration.candidates(
                self.folders,
                settings,
                settings_id,
                self.settings_file.path(settings_id),
                self.home,
                self.path,
                self.host.identity(settings),
            )
            found = examined.candidates
            if examined.inputs:
                self.inputs = examined.inputs
            if dry_run:
                return self._would(found, only)
            self.retiring = examined.retiring
            self.overlays.take_rows(examined.rows)
            self._apply_settings(settings)
            outcome = self._apply(found, only, why)
            await asyncio.to_thread(self._look_for_aws, settings)
            takeover.forget_settings(self)
            return wrong or outcome

    def _look_for_aws(self, settings: Settings) -> None:
        """Nobody should learn from a request that fails that there is no AWS login at all."""
        self.problems.pop("aws", None)
        bedrock = self.units["bedrock"]
        config = bedrock.configs.get(bedrock.state.revision)
        if not settings.proxies.bedrock.enabled or config is None:
            return
        with contextlib.suppress(OSError):
            if PROFILE not in config.path.read_text("utf-8", "replace"):
                return
        own = {name: value.get_secret_value() for name, value in settings.proxies.bedrock.env.items()}
        why = aws_profiles.missing(self.home, own, settings.aws_profile)
        if why:
            name = settings.aws_profile or aws_profiles.DEFAULT
            self.problems["aws"] = Problem(
                code="aws-not-set-up",
                what="The haiku slot has no AWS login",
                why=why,
                next=f"Run `aws configure --profile {name}` or `aws configure sso --profile {name}`; it counts at once",
                exit=EX_CONFIG,
            )

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
            unit = self.units.get(name)
            same = unit is not None and candidate.config.revision == unit.state.revision
            outcome.changed |= not same
            outcome.proxies[name] = "unchanged" if same else "would be reloaded"
        return outcome

    def _apply_settings(self, settings: Settings) -> None:
        """Settings that take effect without a new process."""
        old, self.settings = self.settings, settings
        self.host.follow()
        self.exporter.follow()
        self.budget.follow()
        # Who was told of a port keeps it, also one who was told a moment ago.
        self.hold_ports()
        for name, unit in self.units.items():
            unit.feed(spec.adjust(settings, name))
        if old.slots != settings.slots:
            for name in self.units:
                self.exchanges.routes_changed(name)
        if old != settings:
            self.event("config-changed", text="ocd.toml")
            journal.set_level(settings.logs.level)

    def _apply(self, found: dict[str, configuration.Candidate], only: str | None, why: str) -> Outcome:
        outcome = Outcome(ok=True)
        for name, candidate in found.items():
            unit = self.units.get(name)
            if unit is None or only not in (None, name):
                continue
            if candidate.config is None:
                outcome.ok = False
                outcome.reason = outcome.reason or candidate.reason
                outcome.proxies[name] = f"rejected: {candidate.reason}"
                already = unit.state.rejected is not None and unit.state.rejected.reason == candidate.reason
                good = None if unit.state.revision else takeover.last_good(self, name)
                if good is not None:
                    unit.configs[good.revision] = good
                unit.feed(transitions.Refuse(candidate.reason, good.revision if good else ""))
                if not already:
                    self.event("reload-rejected", name, text=candidate.reason)
                continue
            revision = candidate.config.revision
            unit.configs[revision] = candidate.config
            changed = revision != unit.state.revision or unit.state.rejected is not None
            outcome.changed |= changed
            outcome.proxies[name] = "reloaded" if changed else "unchanged"
            if changed and why != "start":
                self.event("reload-started", name, text=why)
                # main answers for what the other one is asked over it
                for one in self.units:
                    self.exchanges.routes_changed(one)
            unit.feed(transitions.Configure(revision))
            unit.configs = {
                r: c
                for r, c in unit.configs.items()
                if r in {unit.state.good, unit.state.revision, *(m.revision for m in unit.state.members)}
            }
        self.watch.refresh()
        self.hold_ports()
        return outcome

    async def reload_and_wait(self, only: str | None) -> Outcome:
        """``occtl reload``: decide, then wait until it serves or is rejected."""
        before = {name: unit.state.revision for name, unit in self.units.items()}
        outcome = await self.reload("occtl reload", only)
        for name, unit in self.units.items():
            # Unchanged, but not serving yet: the watcher saw the file first, and its outcome is ours.
            under_way = outcome.proxies.get(name) == "unchanged" and unit.state.good != unit.state.revision
            if outcome.proxies.get(name) != "reloaded" and not under_way:
                continue
            wanted = unit.state.revision

            def decided(p: core.Proxy, wanted: str = wanted) -> bool:
                if p.wanted is not core.Wanted.UP:
                    return True
                done = p.good == wanted and core.settled(p)
                return p.revision != wanted or done or core.state_of(p).hopeless

            limit = 4 * self.settings.supervision.start_timeout
            done = await unit.wait(decided, limit)
            p = unit.state
            if p.wanted is not core.Wanted.UP:
                outcome.proxies[name] = (
                    f"the new configuration is used when it runs again; it is {p.wanted} now"
                )
            elif p.good == wanted and p.revision == wanted and done:
                outcome.proxies[name] = f"serves revision {wanted} (before: {before.get(name) or 'none'})"
            else:
                reason = p.rejected.reason if p.rejected else unit.status().reason
                reason = reason or f"not ready within {limit:.0f} s"
                outcome.ok = False
                outcome.reason = outcome.reason or reason
                serves = core.state_of(p) is State.READY
                kept = "rejected, the earlier one keeps serving" if serves else "it does not serve"
                outcome.proxies[name] = f"{kept}: {reason}"
        return outcome

    def on_serves(self, unit: Unit, revision: str, former: str) -> None:
        """A revision serves: it is the one to come back with, and what troubled the one before is over."""
        config = unit.configs.get(revision)
        if config is not None:
            takeover.remember_good(self, unit.name, config)
        if former:
            self.event("reload-done", unit.name, text=revision)
            # What the second proxy answers to the first is shown as the first one's.
            self.exchanges.clear_troubles("main", hop=unit.name != "main")
            self.exchanges.clear_troubles(unit.name)

    # --------------------------------------------------------------------------------------------- the verbs

    def status(self) -> Status:
        return Status(
            version=__version__,
            pid=os.getpid(),
            keeper_pid=self.keeper_pid,
            since=self.started,
            mode=self.host.mode,
            litellm=self.litellm_version,
            proxies={name: unit.status() for name, unit in self.units.items()},
            sessions=self.sessions.messages(self.exchanges.sessions),
            limits=self.limits.messages(),
            budgets=self.budget.messages(),
            problems=[
                *self.problems.values(),
                *litellm_env.worries(self.litellm_version),
                *_goodbyes(self.retiring, datetime.date.today()),
            ],
            external=self.settings.external.base_url if self.settings.external.enabled else "",
        )

    def on_session_end(self, pid: int) -> None:
        self.exchanges.forget_session(pid)
        self.event("session-ended", text=f"pid {pid}")
        self.note_soon()
        self.hold_ports()

    def hold_ports(self) -> None:
        """Tell each proxy which of its ports are still needed, by living sessions or by the other proxy's processes."""
        told = frozenset(session.port for session in self.sessions.living.values())
        main = self.units["main"]
        revisions = {main.state.good, main.state.revision, *(m.revision for m in main.state.members)}
        hops = {c.settings.ports()["bedrock"] for r, c in main.configs.items() if r in revisions}
        for unit, held in ((main, told), (self.units["bedrock"], frozenset(hops))):
            if unit.state.ports.held != held:
                unit.feed(transitions.PortsHeld(held))

    async def shutdown(self) -> None:
        """Drain and end everything."""
        if self.stopping:
            return
        self.stopping = True
        self.event("daemon-stopping")
        text = f"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={DRAIN_EXTENSION * 1_000_000}"
        self.link.send("notify", text=text)
        for unit in self.units.values():
            unit.feed(transitions.Want(core.Wanted.STOPPED))
        limit = self.settings.supervision.drain_timeout + 2 * self.settings.supervision.stop_timeout
        await asyncio.gather(*(unit.wait(lambda p: not p.members, limit) for unit in self.units.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(USAGE_PATIENCE):
                await self.usage.write()
        for pid in list(self.sessions.living):
            self.log.info("session outlives the daemon", pid=pid)
        self.overlays.keep()
        self.budget.write()
        self.line.remove()
        await self.control.close()
        self.link.send("exit", code=EX_CONFIG if self.exit_code == EX_CONFIG else 0)
        self.ended.set()

    def reexec(self) -> None:
        """Have the keeper replace its own code and ours by what is installed now."""
        self.notes_due = True
        self.flush_notes()
        self.event("reexec", text=f"from version {__version__}")
        self.link.send(
            "reexec",
            argv=paths.program("ocd"),
            supervisor_argv=paths.program("ocd.supervisor"),
        )


def _goodbyes(known: list[Retirement], today: datetime.date) -> list[Problem]:
    """A problem for each model that its provider takes away soon, or has taken."""
    return [
        Problem(code="model-retires", what=one.what(today), next=one.fix(), exit=EX_CONFIG)
        for one in due(known, today)
    ]


def _problem(error: OcdError) -> Problem:
    return Problem(
        code=error.code, what=error.what, why=error.why, next=error.next_step, exit=error.exit_code
    )
