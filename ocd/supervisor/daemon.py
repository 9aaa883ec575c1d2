"""The supervisor's composition: what there is, and who is told what. Every part gets what it needs from here."""

import asyncio
import contextlib
import json
import os
import socket
import time
from typing import Any

from ocd import __version__, paths
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.errors import EX_CONFIG, EX_TEMPFAIL, OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack import pipe
from ocd.stack import renew as stack_renew
from ocd.supervisor.api.control import Control
from ocd.supervisor.api.daemon_verbs import DaemonVerbs
from ocd.supervisor.api.external_launch import ExternalLaunch
from ocd.supervisor.api.launching import Launching
from ocd.supervisor.api.proxy_verbs import ProxyVerbs
from ocd.supervisor.api.routes import routes
from ocd.supervisor.api.streams import Streams
from ocd.supervisor.api.trace_verbs import TraceVerbs
from ocd.supervisor.files import configuration
from ocd.supervisor.files.reload import Reload
from ocd.supervisor.files.revisions import Revisions
from ocd.supervisor.files.settings_file import SettingsFile
from ocd.supervisor.observation import journal, statusfile
from ocd.supervisor.observation.budget import Budget
from ocd.supervisor.observation.configured import Configured
from ocd.supervisor.observation.exchanges import Exchanges
from ocd.supervisor.observation.exporter import Exporter
from ocd.supervisor.observation.limits import PlanLimits
from ocd.supervisor.observation.metrics import Counts
from ocd.supervisor.observation.news import News
from ocd.supervisor.observation.overlays import Overlays
from ocd.supervisor.observation.overview import Overview
from ocd.supervisor.observation.places import Places
from ocd.supervisor.observation.report import Report
from ocd.supervisor.observation.session_finder import SessionFinder
from ocd.supervisor.observation.sessions import Sessions
from ocd.supervisor.observation.statusfile import StatusFile
from ocd.supervisor.observation.trace import Trace
from ocd.supervisor.observation.usage import Usage
from ocd.supervisor.supervision import handover, spec
from ocd.supervisor.supervision.config import Config
from ocd.supervisor.supervision.forkserver import Forkserver
from ocd.supervisor.supervision.handover import Handover
from ocd.supervisor.supervision.health import Health
from ocd.supervisor.supervision.idle import Idle
from ocd.supervisor.supervision.keeper_messages import KeeperMessages
from ocd.supervisor.supervision.key_renewal import KeyRenewal
from ocd.supervisor.supervision.link import KeeperLink
from ocd.supervisor.supervision.listeners import Listeners
from ocd.supervisor.supervision.notes import Notes
from ocd.supervisor.supervision.runner import Runner
from ocd.supervisor.supervision.service_manager import ServiceManager
from ocd.wire.messages import ConfigReply, Problem

#: seconds that the last usage figures may take at the end
USAGE_PATIENCE = 5.0
#: the first protocol of the keeper's that knows the order ``hold``
HOLDS = 2


class Daemon:
    """One loop, one writer: everything that changes state arrives here as a call on the loop."""

    def __init__(self, keeper_pid: int, sock: socket.socket) -> None:
        self.folders = folders = Folders.find().ensure()
        self.base = (os.environ.get("HOME") or os.path.expanduser("~"), os.environ.get("PATH") or os.defpath)
        self.started = time.time()
        self.exit_code = 0
        self.stopping = False
        self.ended = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        #: sessions that the keeper knows of
        self._held_for: list[int] | None = None
        self.renewed = stack_renew.renew(folders)
        self.settings_file = SettingsFile(folders)
        wrong = self.settings_file.first()
        self.report = Report(folders, self.settings)
        if wrong is not None:
            self.report.problems["settings"] = Problem.of(wrong)
        self.renewal = KeyRenewal(
            folders,
            self.settings,
            self.report,
            lambda: self.finder.anybody(),
            lambda: time.monotonic() if self.sessions.living else self.idle.last_activity,
            lambda why: self.idle.wake(why),
            self.start,
        )
        self.link = KeeperLink(
            sock, lambda said, fds: self.keeper.take(said, fds), self.on_keeper_end, self.on_link_fault
        )
        self.listeners = Listeners(self.link.send)
        self._supervision()
        self._observation(keeper_pid)
        self._files()
        self._api()

    # ----------------------------------------------------------------------------------------- composition

    def _supervision(self) -> None:
        send, report = self.link.send, self.report
        self.forkserver = Forkserver(
            self.folders, self.settings, self.base, send, report, self.anything_wanted, self.on_warm
        )
        self.runners = {
            name: Runner(
                name,
                report.open_file(name),
                self.folders,
                send,
                self.listeners,
                self.forkserver,
                report,
                self,
            )
            for name in spec.PROXIES
        }
        self.renewal.of(self.runners)
        self.main, self.bedrock = self.runners["main"], self.runners["bedrock"]
        self.service_manager = ServiceManager(send, self.runners, self.closing)
        self.notes = Notes(self._compose_notes, send, self.service_manager.tell)
        self.idle = Idle(
            self.settings,
            self.runners,
            self.listeners,
            lambda: bool(self.sessions.living) or self.stopping,
            report.event,
            self.forkserver.stop,
            self.start,
        )
        self.health = Health(
            self.folders,
            self.settings,
            self.runners.values(),
            report,
            [report.log_file, report.history.log, *(runner.log for runner in self.runners.values())],
            self._each_round,
        )

    def _observation(self, keeper_pid: int) -> None:
        report, settings = self.report, self.settings
        self.exchanges = Exchanges(report.event, lambda: settings().slots.pins())
        self.news = News(self.exchanges, report.event, self.idle.on_status, self._on_version)
        self.limits = PlanLimits(
            report.event,
            lambda order: self.order_main("spill", order),
            lambda: tuple(settings().plan.warn_at),
            lambda: settings().spill.at or None,
            self.spill_targets,
        )
        self.usage = Usage(
            self.folders.state / "usage.db",
            self.exchanges.label,
            report.usage_trouble,
            report.usage_moved,
            lambda: settings().usage.keep,
            Places(lambda pid: self.sessions.folder(pid)),
            self.notes.now,
        )
        self.budget = Budget(
            self.folders.state / "budget.json",
            lambda: settings().budget,
            report.event,
            lambda order: self.order_main("budget", order),
            self.notes.soon,
            self.notes.now,
        )
        self.trace = Trace(
            self.folders.state / "trace",
            report.event,
            report.log.warning,
            self._order_trace,
            lambda: settings().slots.pins(),
        )
        self.trace.begin()
        self.counts = Counts(self.exchanges.label)
        self.sessions = Sessions(self.on_session_end)
        self.exchanges.owner = self.sessions.owner
        self.overview = Overview(
            keeper_pid,
            lambda: self.started,
            settings,
            self._config_path,
            self.runners,
            self.forkserver,
            self.news,
            self.exchanges,
            self.sessions,
            self.limits,
            self.budget,
            report.problems,
            lambda: self.reload.retiring,
            self.trace,
        )
        self.exporter = Exporter(self._exposition, report.problems)
        self.line = StatusFile(self.folders.runtime, self._status_line)
        self.exchanges.listeners += [
            *(self.usage.take, self.counts.take, self.limits.take, self.budget.take),
            self.line.news,
            # Figures, limits and troubles come with the notes: a successor knows what was answered.
            lambda _exchange: self.notes.soon(),
        ]
        self.overlays = Overlays(
            self.folders, settings, self.main, lambda: self.renewal.keys.main, report.log
        )
        self.exchanges.of_profiles = lambda: self.overlays.pinned
        self.finder = SessionFinder(
            self.folders.state,
            self.overlays,
            self.sessions,
            self.exchanges,
            lambda: self.main.port,
            self.notes.soon,
            self.hold_ports,
            report.log,
        )
        self.configured = Configured(
            self.folders.state,
            settings,
            self.main,
            lambda: self.renewal.keys.main,
            self.overlays.models,
            report,
            self.start,
        )

    def _files(self) -> None:
        self.revisions = Revisions(
            self.folders,
            self.settings_file,
            self.runners,
            lambda name, why: self.report.log.warning(
                "the last good revision could not be noted", proxy=name, error=why
            ),
        )
        self.reload = Reload(
            self.folders,
            self.settings_file,
            self.base,
            self.forkserver.identity,
            self.runners,
            self.revisions,
            self.report,
            self._settings_followed,
            self._routes_changed,
            self.hold_ports,
            self._other_aws_login,
        )

    def _api(self) -> None:
        proxies = ProxyVerbs(self.runners, lambda: self.settings().supervision)
        verbs = DaemonVerbs(
            self.runners,
            proxies,
            self.reload,
            self.overview.status,
            self._exposition,
            self._config_reply,
            self.usage.write,
            self._begin_shutdown,
            self.reexec,
        )
        logs = {name: runner.log for name, runner in self.runners.items()}
        streams = Streams({"daemon": self.report.log_file, **logs}, self.report.history.log, self.exchanges)
        launching = Launching(
            self.settings,
            self.runners,
            self.idle,
            self.sessions,
            self.overlays,
            ExternalLaunch(self.folders, self.settings, self.sessions, self.overlays.folder),
            self.report.problems,
            self._on_session_begin,
            self.hold_ports,
            self.limits.messages,
            self.folders.state,
        )
        table = routes(verbs, proxies, streams, launching, TraceVerbs(self.trace, self._trace_changed))
        self.control = Control(str(self.folders.runtime), table, self.listeners, self.report.event)
        self.keeper = KeeperMessages(
            self.forkserver,
            self.runners,
            self.listeners,
            self.report,
            self.control.on_listening,
            self.control.on_failed,
            self.signalled,
        )

    def settings(self) -> Settings:
        """The settings that are followed now."""
        return self.settings_file.now

    def _config_path(self, name: str) -> str:
        return str(configuration.config_path(self.folders, self.settings(), name))

    def _config_reply(self) -> ConfigReply:
        files = {"ocd": str(self.folders.config / "ocd.toml")}
        files |= {name: self._config_path(name) for name in self.runners}
        return ConfigReply(
            folder=str(self.folders.config), files=files, settings=self.settings().model_dump(mode="json")
        )

    def _exposition(self) -> str:
        # Loaded when somebody asks: most people never do, and it is three megabytes.
        from ocd.supervisor.observation.exposition import exposition

        refused = {name: self.news.of(name).refused_credentials for name in self.runners}
        return exposition(self.overview.status(), self.counts, refused, self.exchanges.misunderstood)

    def _status_line(self) -> str | None:
        if self.stopping:
            return None
        return statusfile.compose(
            self.overview.status(),
            self.exchanges.sessions,
            self.report.problems.values(),
            self.settings().plan.warn_at,
            self.settings().statusline.parts,
        )

    # ------------------------------------------------------------------------------------------------- life

    async def run(self) -> int:
        """Serve until the keeper is gone or we are told to end; returns the exit code."""
        asyncio.get_running_loop().set_exception_handler(self.on_callback_error)
        self.link.start()
        found = await self.keeper.handover(timeout=10)
        restarted = self._take_over(found)
        try:
            # Before anything else that takes time: the import of LiteLLM is what a cold start waits for.
            if self.anything_wanted():
                self.forkserver.ensure()
        except OcdError as error:
            self.report.problems["litellm"] = Problem.of(error)
        await self.control.open()
        self._compare_versions()
        self.report.event(
            "supervisor-restarted" if restarted else "daemon-started", text=f"version {__version__}"
        )
        if self.renewed:
            self.report.event("config-changed", text=self.renewed)
        if not restarted:
            await self.renewal.begin(found.listeners)
        for part in (
            self._heartbeat(),
            self.reload.reload("start"),
            self.health.run(),
            self.reload.watch.run(),
            self.idle.run(),
            self.usage.run(),
            self.budget.begin(self.usage.path),
            self.finder.run(),
        ):
            self.start(part)
        await self.ended.wait()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.exit_code

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run a part of us; if it fails, the supervisor starts over."""
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        # A part of us that failed silently would be a lie: start over; the proxies do not notice.
        self.report.log.error("a task of the supervisor failed", exc_info=task.exception())
        os._exit(70)

    def on_callback_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback of the loop raised is logged with its traceback; if it was one of ours, start over."""
        error = context.get("exception")
        self.report.log.error("a callback failed", text=str(context.get("message", "")), exc_info=error)
        # A connection that broke names its transport; an awaited task tells whoever awaits it.
        if error is None or "handle" not in context:
            return
        with contextlib.suppress(Exception):
            self.notes.now()
        os._exit(70)

    def _compare_versions(self) -> None:
        """Code that was installed meanwhile: we understand the keeper that still runs, but it should be replaced."""
        keeper = self.link.keeper_version
        if keeper != __version__:
            self.report.problems["keeper-version"] = Problem(
                code="keeper-version",
                what="the daemon is of two versions",
                why=f"this supervisor is {__version__}, the keeper that started it is {keeper or 'older'}",
                next="Run `occtl reexec`; sessions go on",
                exit=EX_TEMPFAIL,
            )

    async def _heartbeat(self) -> None:
        while True:
            self.service_manager.alive()
            # What a request changes is noted with the heartbeat: it is worth no message of its own.
            self.notes.due |= self.exchanges.news()
            self.notes.flush()
            self.service_manager.tell()
            self.exporter.follow(self.settings().metrics.port)
            self.limits.follow()
            self.budget.follow()
            self.trace.follow()
            self.line.look()
            self.configured.look()
            self.renewal.look()
            await asyncio.sleep(self.service_manager.pause)

    def _each_round(self) -> None:
        self.control.check()
        self.hold_ports()

    def _begin_shutdown(self) -> None:
        self.start(self.shutdown())

    async def shutdown(self) -> None:
        """Drain and end everything."""
        if self.stopping:
            return
        self.stopping = True
        self.report.event("daemon-stopping")
        self.service_manager.ending()
        for runner in self.runners.values():
            runner.feed(transitions.Want(core.Wanted.STOPPED))
        times = self.settings().supervision
        limit = times.drain_timeout + 2 * times.stop_timeout
        await asyncio.gather(*(r.wait(lambda p: not p.members, limit) for r in self.runners.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(USAGE_PATIENCE):
                await self.usage.write()
        for pid in list(self.sessions.living):
            self.report.log.info("session outlives the daemon", pid=pid)
        self.finder.keep()
        self.budget.write()
        self.line.remove()
        await self.control.close()
        self.link.send("exit", code=EX_CONFIG if self.exit_code == EX_CONFIG else 0)
        self.ended.set()

    def reexec(self) -> None:
        """Have the keeper replace its own code and ours by what is installed now."""
        self.notes.now()
        self.report.event("reexec", text=f"from version {__version__}")
        self.link.send(
            "reexec",
            argv=paths.program("ocd"),
            supervisor_argv=paths.program("ocd.supervisor"),
        )

    # ------------------------------------------------------------------------------------------- hand-over

    def _compose_notes(self) -> str:
        """History and wishes; what the processes are is asked of themselves."""
        return json.dumps(
            {
                "started": self.started,
                "proxies": {name: handover.proxy_notes(runner) for name, runner in self.runners.items()},
                "sessions": self.sessions.notes(),
                "exchanges": self.exchanges.notes(),
                "limits": self.limits.notes(),
                "usage": self.usage.notes(),
                "budget": self.budget.notes(),
                "trace": self.trace.notes(),
                "litellm": self.forkserver.version,
                "host": self.forkserver.runs,
            }
        )

    def _take_over(self, found: Handover) -> bool:
        """Take over sockets, processes, history; returns whether there was somebody before us."""
        notes = found.notes
        self.started = notes.get("started", self.started)
        self.forkserver.version = notes.get("litellm", "")
        if found.host is not None:
            self.forkserver.on_started(*found.host, True)
            self.forkserver.runs = notes.get("host", "")
        exchanges = notes.get("exchanges", {})
        self.exchanges.restore(exchanges)
        handover.restore(
            found,
            self.runners,
            self.listeners,
            self.settings(),
            self.settings_file.kept,
            self.link.send,
            self.exchanges.numbers.upto if "numbers" in exchanges else None,
        )
        self.limits.restore(notes.get("limits", []))
        self.budget.restore(notes.get("budget"))
        self.trace.restore(notes.get("trace"))
        self.usage.restore(notes.get("usage", {}))
        self.finder.restore(notes)
        return bool(notes)

    # ----------------------------------------------------------------------------------- what the keeper says

    def on_keeper_end(self) -> None:
        os._exit(69)

    def on_link_fault(self, text: str) -> None:
        """Something came over a link that is not a message: said, and passed over."""
        self.report.log.warning("a message was not understood", text=text)

    def signalled(self, name: str) -> None:
        """The keeper was sent a signal that is for us."""
        self.start(self.reload.reload("signal") if name == "HUP" else self.shutdown())

    # ----------------------------------------------------------------------------------- what the proxies say

    def before_spawn(self) -> None:
        self.notes.now()

    def changed(self) -> None:
        """A proxy's state changed: tell the service manager, and keep the notes for a successor."""
        self.line.news()
        self.idle.follow()
        if not self.stopping:
            self.renewal.changed()
        self.notes.soon()

    def serves(self, proxy: str, revision: str, former: str) -> None:
        """A revision serves: it is the one to come back with, and what troubled the one before is over."""
        config = self.runners[proxy].configs.get(revision)
        if config is not None:
            self.revisions.remember(proxy, config)
        if former:
            self.report.event("reload-done", proxy, text=revision)
            # What the second proxy answers to the first is shown as the first one's.
            self.exchanges.clear_troubles("main", hop=proxy != "main")
            self.exchanges.clear_troubles(proxy)

    def boot_message(self, proxy: str, generation: int, config: Config) -> dict[str, Any]:
        # The settings that this revision passed the checks with, whatever they are by now.
        message = spec.boot(
            config.settings, self.renewal.keys, self.folders, proxy, generation, config.path, *self.base
        )
        if proxy == "main":
            message["spill"] = self.limits.order()
            message["budget"] = self.budget.order()
        self.trace.prepare(proxy, message)
        return message

    def heard(self, proxy: str, generation: int, message: dict[str, Any]) -> None:
        if not self.trace.heard(proxy, message):
            self.news.take(proxy, generation, message)

    def ended_process(self, proxy: str, generation: int) -> None:
        self.exchanges.on_guest_end(proxy, generation)

    def closing(self) -> bool:
        return self.stopping

    def anything_wanted(self) -> bool:
        """Whether a proxy is to run."""
        up = any(runner.state.wanted is core.Wanted.UP for runner in self.runners.values())
        return up and not self.stopping

    def on_warm(self) -> None:
        """The forkserver is warm: what it forked before that is exchanged, and new before old as always."""
        for runner in self.runners.values():
            runner.feed(transitions.Warm())

    def _on_version(self, version: str) -> None:
        self.forkserver.version = version

    # --------------------------------------------------------------------------------------- what follows what

    def _settings_followed(self, old: Settings, rows: list[dict[str, Any]]) -> None:
        now = self.settings()
        self.overlays.take_rows(rows)
        self.forkserver.follow()
        self.exporter.follow(now.metrics.port)
        self.budget.follow()
        # Who was told of a port keeps it, also one who was told a moment ago.
        self.hold_ports()
        if old.keys != now.keys:
            self.renewal.settle()
        if old != now:
            journal.set_level(now.logs.level)

    def _routes_changed(self) -> None:
        for name in self.runners:
            self.exchanges.routes_changed(name)

    def _other_aws_login(self) -> None:
        for name in self.runners:
            self.exchanges.clear_troubles(name, kinds=frozenset({"aws-expired", "access-denied"}))

    def order_main(self, what: str, order: dict[str, Any]) -> None:
        """Tell every process of main where requests go near the plan's limit, or when a budget is used up."""
        for member in self.main.state.members:
            self.main.guests.tell(member.generation, what, **order)
        self.notes.soon()

    def _order_trace(self, proxy: str, order: dict[str, Any]) -> None:
        runner = self.runners[proxy]
        for member in runner.state.members:
            runner.guests.tell(member.generation, "trace", **order)

    def _trace_changed(self) -> None:
        self.line.news()
        self.notes.soon()

    def spill_targets(self) -> dict[str, str]:
        """Which groups of main can go to AWS, by the settings or by main's own fallbacks."""
        config = self.main.configs.get(self.main.state.good)
        if config is None:
            return {}
        return pipe.spill_targets(spec.pipe_table(config.path), self.settings().spill.routes)

    def _on_session_begin(self, pid: int) -> None:
        self.report.event("session-started", text=f"pid {pid}")
        self.notes.soon()
        # A daemon after a SIGKILL must know it as well.
        self.finder.keep()

    def on_session_end(self, pid: int) -> None:
        """A session's process is gone."""
        self.exchanges.forget_session(pid)
        self.report.event("session-ended", text=f"pid {pid}")
        self.notes.soon()
        self.hold_ports()

    def hold_ports(self) -> None:
        """Tell each proxy which of its ports are still needed, by living sessions or by the other proxy's processes."""
        told = frozenset(session.port for session in self.sessions.living.values())
        state = self.main.state
        revisions = {state.good, state.revision, *(m.revision for m in state.members)}
        hops = {c.settings.ports()["bedrock"] for r, c in self.main.configs.items() if r in revisions}
        sessions = sorted(pid for pid, one in self.sessions.living.items() if one.port)
        if sessions != self._held_for and self.link.protocol >= HOLDS:
            self._held_for = sessions
            self.link.send("hold", sessions=sessions)
        for runner, held in ((self.main, told), (self.bedrock, frozenset(hops))):
            if runner.state.ports.held != held:
                runner.feed(transitions.PortsHeld(held))
