"""Looking after what runs: liveness, memory, the runtime folder, and telling sleep from a hang."""

import asyncio
import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Collection, Iterable

from ocd.adapters import memory, ports, probe
from ocd.adapters.logs import LogFile
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.reporter import Reporter
from ocd.supervisor.supervision.runner import Runner
from ocd.wire.messages import Problem

#: A clock that counts sleep ran ahead of one that does not by this much (seconds): the machine slept.
SLEPT = 2.0
#: A probe that took so much longer than it may (seconds) was held up by ourselves.
OUR_OWN = 1.0
#: A process that started above its memory limit is replaced when it is so many times as large as then.
GROWN = 1.5
#: Spares and draining processes are asked every so many rounds.
SPARE_ROUNDS = 3


def sleep_clock() -> float:
    """Seconds that the machine has slept since some fixed moment: what a clock that counts sleep has more.

    Linux: CLOCK_BOOTTIME counts it, ``time.monotonic`` does not (clock_gettime(2)). macOS: CLOCK_MONOTONIC counts it
    and CLOCK_UPTIME_RAW does not (clock_gettime(3)); ``time.monotonic`` is the latter there (mach_absolute_time).
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    if hasattr(time, "CLOCK_UPTIME_RAW"):
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0


class Health:
    """Asks each process in turn; what comes of it are events for the state machine.

    ``logs`` are the files to be looked after, ``also`` is called in each round.
    """

    def __init__(
        self,
        folders: Folders,
        settings: Callable[[], Settings],
        runners: Collection[Runner],
        report: Reporter,
        logs: Iterable[LogFile],
        also: Callable[[], None],
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._runners = runners
        self._report = report
        self._logs = list(logs)
        self._also = also
        self.asleep = sleep_clock()
        self.no_socket: set[tuple[str, int]] = set()
        self.round = 0
        self.memory_due = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings().supervision.liveness_interval)
            if self.round == 1:
                give_back()
            self.notice_sleep()
            self.look_after_folder()
            await self.liveness()
            if time.monotonic() >= self.memory_due:
                self.memory_due = time.monotonic() + self._settings().supervision.memory_interval
                self.memory()
            for runner in self._runners:
                runner.feed(transitions.Tick())
            self._also()

    def notice_sleep(self) -> None:
        now = sleep_clock()
        slept, self.asleep = now - self.asleep, now
        if slept > SLEPT:
            self._report.log.info("the machine slept", seconds=round(slept))
            for runner in self._runners:
                # Monotonic deadlines did not run meanwhile; only misses of the moment before count no more.
                runner.feed(transitions.Slept())

    async def liveness(self) -> None:
        self.round += 1
        asked = []
        for runner in self._runners:
            for member in runner.state.members:
                serving = member.phase_is(core.Serving, core.Accepting)
                if serving or (member.phase_is(core.Armed, core.Draining) and self.round % SPARE_ROUNDS == 0):
                    asked.append(self._ask(runner, member.generation))
        await asyncio.gather(*asked)

    async def _ask(self, runner: Runner, generation: int) -> None:
        path = spec.socket_path(self._folders, runner.name, generation)
        timeout = self._settings().supervision.liveness_timeout
        before = self.asleep
        answer = probe.Answer.MISSED
        for _ in range(self._settings().supervision.liveness_misses):
            # A miss is asked again at once: the interval is for those that answer.
            asked = time.monotonic()
            answer = await probe.liveness(path, timeout)
            if abs(sleep_clock() - before) > SLEPT or time.monotonic() - asked > timeout + OUR_OWN:
                # The machine slept, or we did not get round to it ourselves: that says nothing of the process.
                return
            if answer is not probe.Answer.MISSED:
                break
            runner.feed(transitions.ProbeMissed(generation, self._busy(runner, generation)))
        else:
            return
        place = (runner.name, generation)
        if answer is probe.Answer.CANNOT_ASK:
            self.cannot_ask()
            return
        self._report.problems.pop("probe", None)
        if answer is probe.Answer.NO_SOCKET and place not in self.no_socket:
            # Somebody removed the file, which says nothing about the process: have it made again.
            self.no_socket.add(place)
            runner.guests.tell(generation, "rebind")
            return
        self.no_socket.discard(place)
        if answer is probe.Answer.ALIVE:
            runner.feed(transitions.ProbeAnswered(generation))
        else:
            runner.feed(transitions.ProbeMissed(generation, self._busy(runner, generation)))

    def _busy(self, runner: Runner, generation: int) -> bool:
        """Whether a process that does not answer has connections; one that cannot be looked into may have."""
        member = runner.state.member(generation)
        if member is None or member.pid is None or not member.ports:
            return member is not None and not member.phase_is(core.Armed)
        return ports.connected(member.pid, member.ports)

    def cannot_ask(self) -> None:
        """We are short of something ourselves: nobody is suspected for that, and it is told."""
        if "probe" not in self._report.problems:
            self._report.problems["probe"] = Problem(
                code="probe-failed",
                what="the daemon cannot ask its proxies whether they are alive",
                why="it has no file descriptors or no memory left",
                next="Run `occtl reexec`; see `occtl logs daemon`",
            )
            self._report.event("probe-failed", text="no file descriptors or no memory left")

    def memory(self) -> None:
        """Measure every process with its children; twice over the limit is too much."""
        for runner in self._runners:
            limit = self._settings().proxy(runner.name).memory_limit_mb * 1024 * 1024
            for member in runner.state.members:
                if member.pid is None:
                    continue
                found = memory.of_tree(member.pid)
                if found is None:
                    continue
                figures = runner.guests.of(member.generation)
                figures.memory = used = found.size
                if figures.fresh_memory is None:
                    # One that we took over may have leaked before we looked for the first time.
                    figures.fresh_memory = 0 if member.generation in runner.guests.adopted else used
                if not over_limit(used, figures.fresh_memory, limit):
                    figures.over_memory = False
                elif figures.over_memory:
                    text = f"{used // 2**20} MiB used, {limit // 2**20} MiB allowed"
                    runner.feed(transitions.MemoryOver(member.generation, text))
                else:
                    figures.over_memory = True
                    self.memory_due = 0.0
            self._limit_is_low(runner, limit)

    def _limit_is_low(self, runner: Runner, limit: int) -> None:
        key = f"memory-{runner.name}"
        needs = min(filter(None, (one.fresh_memory for one in runner.guests.figures.values())), default=0)
        if not limit or needs <= limit:
            self._report.problems.pop(key, None)
        elif key not in self._report.problems:
            self._report.problems[key] = Problem(
                code="memory-limit-low",
                what=f"memory_limit_mb of [proxies.{runner.name}] is lower than what the proxy needs",
                why=f"{limit // 2**20} MiB are allowed, and a process that has just started takes "
                f"{needs // 2**20} MiB; it is replaced only when it grows well beyond that",
                next=f"Set a higher memory_limit_mb for [proxies.{runner.name}] in ocd.toml, or 0 for no limit",
            )

    def look_after_folder(self) -> None:
        """Somebody may have removed the runtime folder (systemd-tmpfiles, a tidy user): make it again."""
        folder = self._folders.runtime
        if not folder.is_dir():
            with contextlib.suppress(Exception):
                self._folders.ensure()
        for log in self._logs:
            log.reopen_if_moved()
            if log.degraded:
                break
        else:
            self._report.problems.pop("log", None)


def over_limit(used: int, fresh: int, limit: int) -> bool:
    """Whether a process has to be replaced for its memory (bytes; ``fresh``: what it took at first, ``limit`` 0: none).

    Another process would not do better when a fresh one takes more than the limit already: then only growth counts,
    or it would be replaced again and again.
    """
    return bool(limit) and used > limit and (fresh <= limit or used > fresh * GROWN)


def give_back() -> None:
    """Return to the system what starting up needed and nobody needs any more (malloc_trim(3), glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
