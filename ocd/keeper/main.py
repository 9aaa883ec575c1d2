"""The keeper's loop: sockets, processes, and a link to the supervisor. Standard library only; decides nothing.

It is the parent of every process of ours. The messages are in ``ocd/ipc/messages.py``. Whatever it is told, it goes
on: an order that it does not understand or cannot follow is refused and reported, with nothing left open.
"""

import contextlib
import errno
import os
import selectors
import signal
import socket
import time
import traceback
from typing import Any

from ocd import __version__
from ocd.ipc import frames, messages
from ocd.keeper import holding, limits, notify, reexec
from ocd.keeper.system import (
    Ends,
    children,
    close_all,
    describe,
    is_child,
    next_exit,
    open_listener,
    say,
    spawn,
)
from ocd.keeper.terminal import Terminal

#: A supervisor that says nothing for this many seconds is hung: SIGABRT (it dumps its stack), then SIGKILL. Half of
#: the service manager's watchdog where that is less: a hung supervisor is no reason to end the keeper.
HEARTBEAT_LIMIT = 30.0
ABORT_PATIENCE = 2.0
#: A supervisor that dies at once is restarted after 0.1 s, 0.2 s … at most this many seconds.
SUPERVISOR_BACKOFF_MAX = 5.0
#: A supervisor that lived so long (seconds) had no failure that says something about the next.
SUPERVISOR_SETTLED = 30.0
#: After a stop signal the supervisor drains and then says ``exit``. One that dies meanwhile gets a successor, so often;
#: without one that answers, we end after so many seconds.
STOP_ATTEMPTS = 3
ORPHAN_STOP_LIMIT = 10.0
#: A terminal may send Ctrl-C twice for one press; the next one after this many seconds means "now".
SECOND_SIGNAL = 0.5
REMEMBERED_EXITS = 200
#: bytes; they come back with more around them in a message that has a limit
LONGEST_NOTES = frames.MAX_LINE - 1024 * 1024
LISTENERS = frames.MAX_FDS - 16


class Process:
    """One child: what the supervisor called it, and our ends of its sockets and pipes."""

    def __init__(self, pid: int, tag: str, fds: list[int], started: float) -> None:
        self.pid = pid
        self.tag = tag
        self.fds = fds
        self.started = started


class Keeper:
    """Everything that must outlive the supervisor."""

    def __init__(
        self, supervisor_argv: list[str], environment: dict[str, str], lock_fd: int = -1, lock_path: str = ""
    ) -> None:
        self.supervisor_argv = supervisor_argv
        self.environment = environment
        self.lock_fd = lock_fd
        self.holding = holding.Holding(lock_path, environment)
        self.listeners: dict[str, socket.socket] = {}
        self.processes: dict[int, Process] = {}
        #: who ended, until a supervisor has noted it
        self.exits: list[messages.Exited] = []
        self.exit_number = 0
        #: children of others that we reaped while a fork was under way: one of them may be that guest
        self.strays: dict[int, int] = {}
        self.notes = ""
        self.selector = selectors.DefaultSelector()
        self.reserve = limits.Reserve()
        self.terminal = Terminal()
        self.supervisor = 0
        self.link: frames.Reader | None = None
        #: what the supervisor speaks; of one that has not said hello, as little as possible
        self.protocol = 0
        self.supervisor_started = 0.0
        self.supervisor_failures = 0
        self.supervisor_restarts = 0
        self.start_supervisor_at = 0.0
        self.heard = 0.0
        self.heartbeat_limit = min(HEARTBEAT_LIMIT, notify.watchdog_seconds() / 2 or HEARTBEAT_LIMIT)
        self.aborted_at = 0.0
        self.host = 0
        self.host_link: frames.Reader | None = None
        self.host_streams: list[int] = []
        self.pending: dict[int, tuple[str, Ends]] = {}
        self.check: reexec.Check | None = None
        self.check_until = 0.0
        self.reexec_order: messages.Reexec | None = None
        self.stopping_since = 0.0
        self.stop_attempts = 0
        self.stop_alone_until = 0.0
        #: a supervisor has been up: from now on its end is a crash, not a reason to give up
        self.greeted = False
        self.exit_code: int | None = None

    # ------------------------------------------------------------------------------------------ listeners

    def listen(self, order: messages.Listen) -> None:
        try:
            sock = self.listeners.get(order.name)
            if sock is None:
                if len(self.listeners) >= LISTENERS:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                sock = self.reserve.use(lambda: open_listener(order))
        except (OSError, ValueError) as error:
            number = (error.errno if isinstance(error, OSError) else 0) or errno.EINVAL
            reason = os.strerror(number) if isinstance(error, OSError) else str(error)
            self.tell(messages.ListenFailed(order.name, number, reason))
            return
        self.listeners[order.name] = sock
        self.holding.follow(self.listeners)
        notify.store(order.name, sock.fileno())
        self.tell(messages.Listening(order.name), [sock.fileno()])

    def unlisten(self, order: messages.Unlisten) -> None:
        sock = self.listeners.pop(order.name, None)
        if sock is not None:
            notify.forget(order.name)
            self.holding.follow(self.listeners)
            sock.close()

    def adopt_listeners(self) -> None:
        """Sockets that the service manager kept for us (LISTEN_FDS, sd_listen_fds(3)), or a holder."""
        for name, sock in [*notify.inherited(), *holding.take_over()]:
            if name in self.listeners:
                sock.close()
            else:
                self.listeners[name] = sock

    # ------------------------------------------------------------------------------------------ supervisor

    def start_supervisor(self) -> None:
        try:
            self.supervisor, link = self.reserve.use(self._spawn_supervisor)
        except (OSError, ValueError) as error:
            say(f"the supervisor cannot be started: {error}")
            self.supervisor = 0
            self.schedule_supervisor()
            return
        self.attach_supervisor(link)

    def _spawn_supervisor(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        argv = [*self.supervisor_argv, str(os.getpid()), str(theirs.fileno())]
        try:
            return spawn(argv, self.environment, keep=[theirs.fileno()]), ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def attach_supervisor(self, link: socket.socket) -> None:
        """Listen to who is to be at the other end of ``link``."""
        # A supervisor that is stopped must not stop us: frames.PATIENCE bounds each message.
        link.setblocking(False)
        self.link = frames.Reader(link, lambda text: self.refuse("what came", text))
        self.protocol = 0
        self.selector.register(link, selectors.EVENT_READ, self.on_supervisor)
        self.supervisor_started = self.heard = time.monotonic()
        self.aborted_at = 0.0

    def schedule_supervisor(self) -> None:
        lived = time.monotonic() - self.supervisor_started
        self.supervisor_failures = 0 if lived > SUPERVISOR_SETTLED else self.supervisor_failures + 1
        self.supervisor_restarts += 1
        pause = (
            min(SUPERVISOR_BACKOFF_MAX, 0.1 * 2 ** min(self.supervisor_failures - 1, 10))
            if self.supervisor_failures
            else 0.0
        )
        self.start_supervisor_at = time.monotonic() + pause

    def drop_link(self) -> None:
        if self.link is not None:
            self.selector.unregister(self.link.sock)
            self.link.close()
            self.link = None

    def end_supervisor(self, number: int) -> None:
        # 0 would be our own process group.
        if self.supervisor:
            with contextlib.suppress(OSError):
                os.kill(self.supervisor, number)

    def supervisor_ended(self, code: int) -> None:
        self.supervisor = 0
        self.drop_link()
        if not self.greeted and 64 <= code <= 78:
            # It said on stderr what is wrong; starting it again would change nothing.
            self.exit_code = code
        elif self.exit_code is None:
            say(f"the supervisor ended ({describe(code)}); starting another")
        if self.stopping_since:
            self.stop_attempts += 1
            self.stop_alone_until = self.stop_alone_until or time.monotonic() + ORPHAN_STOP_LIMIT
        self.schedule_supervisor()

    # ------------------------------------------------------------------------------------------ processes

    def start_host(self, order: messages.StartHost) -> None:
        """The forkserver; what it says is passed on."""
        if self.host:
            return
        try:
            ends = self.reserve.use(Ends)
            try:
                argv = [*order.argv, str(os.getpid()), str(ends.theirs[0])]
                streams = (ends.theirs[1], ends.theirs[2])
                self.host = spawn(argv, order.env, keep=[ends.theirs[0]], streams=streams)
            except BaseException:
                close_all(ends.ours)
                raise
            finally:
                close_all(ends.theirs)
        except (OSError, ValueError, IndexError) as error:
            self.tell(messages.HostFailed(str(error)))
            return
        self._attach_host(ends.ours[0])
        self.host_streams = ends.ours[1:]
        self.tell(messages.HostStarted(self.host), self.host_streams)

    def _attach_host(self, fd: int) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self.host_link = frames.Reader(sock, lambda text: say(f"forkserver: {text}"))
        self.selector.register(sock, selectors.EVENT_READ, self.on_host)

    def drop_host_link(self) -> None:
        if self.host_link is not None:
            self.selector.unregister(self.host_link.sock)
            self.host_link.close()
            self.host_link = None

    def host_ended(self, code: int) -> None:
        self.host = 0
        self.drop_host_link()
        close_all(self.host_streams)
        self.host_streams = []
        pending, self.pending = self.pending, {}
        self.strays.clear()
        for number, (_tag, ends) in pending.items():
            ends.close()
            self.tell(messages.SpawnFailed(number, "the forkserver ended", transient=True))
        self.tell(messages.HostExited(code))

    def tell_host(self, message: messages.ToForkserver, fds: list[int] | None = None) -> bool:
        if self.host_link is None:
            return False
        try:
            frames.send(self.host_link.sock, messages.wire(message), fds or [])
        except OSError as error:
            # Half a message may be on its way: the next one would not be understood.
            say(f"the forkserver takes nothing any more: {error}")
            self._end_host()
            return False
        return True

    def _end_host(self) -> None:
        self.drop_host_link()
        if self.host:
            with contextlib.suppress(OSError):
                os.kill(self.host, signal.SIGKILL)

    def spawn(self, order: messages.Spawn) -> None:
        if order.how == "fork" and self.host_link is None:
            self.tell(messages.SpawnFailed(order.id, "no forkserver is running", transient=True))
            return
        try:
            ends = self.reserve.use(Ends)
        except OSError as error:
            self.tell(messages.SpawnFailed(order.id, str(error), transient=True))
            return
        if order.how == "fork":
            if order.id in self.pending or not self.tell_host(messages.Fork(order.id), ends.theirs):
                ends.close()
                self.tell(messages.SpawnFailed(order.id, "the forkserver ended", transient=True))
                return
            self.pending[order.id] = (order.tag, ends)
            return
        try:
            argv = [*order.argv, str(os.getpid()), str(ends.theirs[0])]
            pid = spawn(argv, order.env, keep=[ends.theirs[0]], streams=(ends.theirs[1], ends.theirs[2]))
        except (OSError, ValueError, IndexError) as error:
            ends.close()
            short = isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE)
            self.tell(messages.SpawnFailed(order.id, str(error), transient=short))
            return
        close_all(ends.theirs)
        self.started(order.id, pid, order.tag, ends.ours)

    def started(self, number: int, pid: int, tag: str, fds: list[int]) -> None:
        process = self.processes[pid] = Process(pid, tag, fds, time.time())
        self.tell(messages.Spawned(number, pid, tag, process.started), fds)
        status = self.strays.pop(pid, None)
        if not is_child(pid):
            # It was faster in dying than the forkserver in telling us of it. Only then: what we reaped under this
            # number may have been another process.
            self.ended(pid, status if status is not None else -signal.SIGKILL)

    def ended(self, pid: int, status: int) -> None:
        process = self.processes.pop(pid, None)
        if process is None:
            if self.pending:
                self.strays[pid] = status
            return
        # The supervisor has descriptors of its own; what is left in the pipes is still there for it.
        close_all(process.fds)
        self.exit_number += 1
        news = messages.Exited(pid, status, process.tag, time.time(), self.exit_number)
        # Told does not mean read: until a note says so, the next supervisor is told again. One of version 0.1 never
        # says so.
        if not self.tell(news) or self.protocol:
            self.exits = [*self.exits, news][-REMEMBERED_EXITS:]

    def reap(self) -> None:
        while (found := next_exit(self.before_reaping)) is not None:
            pid, code = found
            if self.check is not None and pid == self.check.pid:
                self.checked(code)
            elif pid == self.supervisor:
                self.supervisor_ended(code)
            elif pid == self.host:
                self.host_ended(code)
            elif pid == self.holding.pid:
                self.holding.ended(self.listeners)
            else:
                self.ended(pid, code)

    def before_reaping(self, pid: int) -> None:
        """The whole group ends, not only its leader: nothing may keep the port or the memory."""
        if pid in self.processes or pid in (self.host, self.supervisor):
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)

    def kill(self, order: messages.Kill) -> None:
        process = self.processes.get(order.pid)
        # Ours, and not reaped: the pid cannot be anybody else's. But it may be a later one of ours.
        if process is None and (not order.pid or order.pid != self.host):
            return
        if process is not None and order.started and order.started != process.started:
            return
        with contextlib.suppress(OSError):
            if order.group:
                os.killpg(order.pid, order.signal)
            else:
                os.kill(order.pid, order.signal)

    # ----------------------------------------------------------------------------------------------- talk

    def tell(self, message: messages.FromKeeper, fds: list[int] | None = None) -> bool:
        """Say something to the supervisor; returns whether it is on its way."""
        if self.link is None:
            return False
        try:
            frames.send(self.link.sock, messages.wire(message), fds or [])
        except OSError:
            # Stopped, or dead and not reaped yet: the heartbeat or SIGCHLD deals with it; half a message would
            # confuse it, so the conversation is over.
            self.end_supervisor(signal.SIGKILL)
            return False
        return True

    def refuse(self, what: str, why: str) -> None:
        """Report an order that came to nothing."""
        say(f"{what}: {why}")
        if self.protocol:
            self.tell(messages.Refused(what, why))

    def hello(self, order: messages.Hello) -> None:
        self.protocol = messages.common(order.protocol)
        self.greeted = True
        names = list(self.listeners)
        state = messages.State(
            pid=os.getpid(),
            listeners=names,
            notes=self.notes,
            exits=[messages.wire(news) for news in self.exits],
            restarts=self.supervisor_restarts,
            host=self.host,
            protocol=messages.PROTOCOL,
            version=__version__,
        )
        told = self.tell(state, [self.listeners[name].fileno() for name in names])
        if told and not self.protocol:
            self.exits = []
        for process in list(self.processes.values()):
            self.tell(messages.Process(process.pid, process.tag, process.started), process.fds)
        if self.host:
            self.tell(messages.HostStarted(self.host, old=True), self.host_streams)
        self.tell(messages.StateEnd())
        if self.stopping_since:
            # The one before did not live to end it.
            self.stop_alone_until = 0.0
            self.tell(messages.Signal("TERM"))

    def note(self, order: messages.Note) -> None:
        if len(order.text) > LONGEST_NOTES:
            self.refuse("note", f"{len(order.text)} characters are too many; the earlier ones stay")
            return
        self.notes = order.text
        self.exits = [news for news in self.exits if news.number > order.seen]

    def on_supervisor(self) -> None:
        link = self.link
        if link is None:
            return
        for message, fds in link.feed():
            close_all(fds)
            self.heard = time.monotonic()
            self.follow(message)
        if self.link is link and link.eof:
            self.drop_link()
            if self.supervisor:
                # It is ending, or it cannot hear us any more: then it must not stay.
                self.heard = min(self.heard, time.monotonic() - self.heartbeat_limit + ABORT_PATIENCE)

    def follow(self, message: messages.Wire) -> None:
        """Do what the supervisor says. Nothing that it says ends us, except ``exit``."""
        try:
            self.obey(messages.to_keeper(message))
        except messages.Misfit as error:
            self.refuse("a message", str(error))
        except Exception as error:
            # A mistake of ours in one order is no reason to let go of every socket.
            say(traceback.format_exc())
            self.refuse(f"{message.get('op')}", type(error).__name__)

    def obey(self, order: messages.ToKeeper) -> None:
        match order:
            case messages.Hello():
                self.hello(order)
            case messages.Listen():
                self.listen(order)
            case messages.Unlisten():
                self.unlisten(order)
            case messages.Spawn():
                self.spawn(order)
            case messages.StartHost():
                self.start_host(order)
            case messages.Warm():
                self.tell_host(order)
            case messages.Kill():
                self.kill(order)
            case messages.Alive():
                notify.watchdog()
            case messages.Note():
                self.note(order)
            case messages.Notify():
                notify.send(order.text)
            case messages.Reexec():
                self.try_new_code(order)
            case messages.Hold():
                self.holding.follow(self.listeners, order.sessions)
            case messages.Exit():
                self.exit_code = order.code & 0xFF

    def on_host(self) -> None:
        link = self.host_link
        if link is None:
            return
        for message, fds in link.feed():
            close_all(fds)
            try:
                self.host_says(messages.from_forkserver(message))
            except messages.Misfit as error:
                say(f"forkserver: {error}")
        if self.host_link is link and link.eof:
            self._end_host()

    def host_says(self, news: messages.FromForkserver) -> None:
        match news:
            case messages.Forked():
                tag, ends = self.pending.pop(news.id, ("", None))
                if ends is None:
                    return
                close_all(ends.theirs)
                if news.pid > 0:
                    self.started(news.id, news.pid, tag, ends.ours)
                else:
                    close_all(ends.ours)
                    self.tell(messages.SpawnFailed(news.id, news.error or "fork failed", transient=True))
                if not self.pending:
                    self.strays.clear()
            case messages.HostReady():
                self.tell(messages.HostNews("host-ready", news.version, news.seconds))
            case messages.HostWarm():
                self.tell(messages.HostNews("host-warm", seconds=news.seconds))

    # ----------------------------------------------------------------------------------------------- loop

    def on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self.reap()
            return
        if number == signal.SIGHUP and self.terminal.hung_up():
            say("the terminal is gone; draining, then ending")
            number = signal.SIGTERM
        name = signal.Signals(number).name.removeprefix("SIG")
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            now = time.monotonic()
            again = self.stopping_since and now - self.stopping_since > SECOND_SIGNAL
            if again or number == signal.SIGQUIT:
                say("stopping at once")
                self.exit_code = 0 if number == signal.SIGTERM else 128 + number
            elif not self.stopping_since and number == signal.SIGINT:
                say("draining, then ending; Ctrl-C again ends at once")
            self.stopping_since = self.stopping_since or now
            if not self.supervisor:
                self.stop_alone_until = self.stop_alone_until or now + ORPHAN_STOP_LIMIT
        if number != signal.SIGQUIT:
            self.tell(messages.Signal(name))

    def deadline(self) -> float:
        """Seconds until something must be looked at."""
        now = time.monotonic()
        times = []
        if not self.supervisor:
            times.append(self.start_supervisor_at)
        elif self.aborted_at:
            times.append(self.aborted_at + ABORT_PATIENCE)
        else:
            times.append(self.heard + self.heartbeat_limit)
        if self.check is not None:
            times.append(self.check_until)
        if self.stop_alone_until:
            times.append(self.stop_alone_until)
        return max(0.0, min(times) - now)

    def on_time(self) -> None:
        now = time.monotonic()
        if self.check is not None and now >= self.check_until:
            with contextlib.suppress(OSError):
                os.killpg(self.check.pid, signal.SIGKILL)
            self.check_until = now + reexec.CHECK_PATIENCE
        alone = bool(self.stopping_since) and not self.supervisor
        if alone and self.exit_code is None and (self.stop_attempts >= STOP_ATTEMPTS or not self.greeted):
            self.exit_code = 0
        if self.stop_alone_until and now >= self.stop_alone_until and self.exit_code is None:
            say(f"no supervisor came up within {ORPHAN_STOP_LIMIT:.0f} s to drain; ending")
            self.exit_code = 0
        if self.exit_code is not None:
            return
        if not self.supervisor:
            if now >= self.start_supervisor_at:
                self.start_supervisor()
        elif self.aborted_at:
            if now >= self.aborted_at + ABORT_PATIENCE:
                self.end_supervisor(signal.SIGKILL)
                self.aborted_at = now
        elif now >= self.heard + self.heartbeat_limit:
            say(f"the supervisor has said nothing for {self.heartbeat_limit:.0f} s; ending it")
            self.aborted_at = now
            self.end_supervisor(signal.SIGABRT)

    def turn(self, patience: float | None = None) -> None:
        """Wait for something to happen, at most ``patience`` seconds or until a deadline, and deal with it."""
        limit = self.deadline()
        for key, _mask in self.selector.select(limit if patience is None else min(limit, patience)):
            # One of them may have closed another's socket.
            if key.fd in self.selector.get_map():
                key.data()
            if self.exit_code is not None:
                return
        self.on_time()

    def run(self) -> int:
        """Serve until told to end; returns the exit code."""
        wake_r, wake_w = socket.socketpair()
        for end in (wake_r, wake_w):
            end.setblocking(False)

        def wake() -> None:
            with contextlib.suppress(BlockingIOError):
                for number in wake_r.recv(4096):
                    self.on_signal(number)

        old = signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
        for caught in reexec.HANDLED:
            signal.signal(caught, lambda *_: None)
        for stray in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(stray, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, reexec.HANDLED)
        self.selector.register(wake_r, selectors.EVENT_READ, wake)
        self.adopt_listeners()
        self.reap()
        if not self.supervisor and self.exit_code is None:
            self.start_supervisor()
        while self.exit_code is None:
            self.turn()
        signal.set_wakeup_fd(old)
        self.finish()
        return self.exit_code

    def finish(self) -> None:
        """End everything that is still ours. Nothing stays behind."""
        notify.send("STOPPING=1")
        self.holding.finish(
            {name: sock for name, sock in self.listeners.items() if sock.family != socket.AF_UNIX}
        )
        # Not taken out of the service manager's store: it lets go of them after a stop, and over a restart keeps
        # them, so that a connection made meanwhile waits instead of being refused.
        for name, sock in self.listeners.items():
            with contextlib.suppress(OSError, TypeError):
                if sock.family == socket.AF_UNIX and not notify.from_manager(name):
                    os.unlink(sock.getsockname())
            sock.close()
        self.listeners.clear()
        self.end_supervisor(signal.SIGTERM)
        others = [*self.processes, self.host, self.check.pid if self.check else 0]
        for pid in filter(None, others):
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        limit = time.monotonic() + 3
        while time.monotonic() < limit:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == self.supervisor:
                self.supervisor = 0
            if pid == self.holding.pid:
                self.holding.pid = 0
            if pid == 0:
                left = children()
                if left == [self.holding.pid]:
                    return
                if time.monotonic() > limit - 1.5:
                    for child in left:
                        if child != self.holding.pid:
                            with contextlib.suppress(OSError):
                                os.kill(child, signal.SIGKILL)
                time.sleep(0.01)

    # --------------------------------------------------------------------------------------------- re-exec

    def try_new_code(self, order: messages.Reexec) -> None:
        """Have a child try the new code; ``checked`` goes on when it has ended."""
        if self.check is not None:
            self.tell(messages.ReexecFailed("it is being tried already"))
            return
        try:
            self.check = self.reserve.use(lambda: reexec.Check(order.argv, dict(os.environ)))
        except (OSError, ValueError, IndexError) as error:
            self.reexec_failed(f"the interpreter does not start: {error}")
            return
        self.reexec_order = order
        self.check_until = time.monotonic() + reexec.CHECK_PATIENCE

    def checked(self, code: int) -> None:
        check, self.check = self.check, None
        order, self.reexec_order = self.reexec_order, None
        assert check is not None and order is not None
        complaint = check.complaint(code) if code else ""
        check.close()
        if complaint:
            self.reexec_failed(complaint)
        elif not self.stopping_since:
            self.replace(order)

    def reexec_failed(self, why: str) -> None:
        say(f"re-exec failed, going on with the old code: {why}")
        self.tell(messages.ReexecFailed(why))

    def replace(self, order: messages.Reexec) -> None:
        """Replace our own code by what is installed now; sockets, children and notes stay.

        The pid, and so every child, stays the same. The supervisor is replaced too, by the new code: it could not
        make sense of a successor's answers.
        """
        state = self.state(order)
        try:
            fd = reexec.write_state(state)
        except OSError as error:
            self.reexec_failed(f"the state cannot be handed over: {error}")
            return
        keep = [fd, *state["listeners"].values(), *state["host"][2]]
        keep += [fd for process in self.processes.values() for fd in process.fds]
        argv = [*order.argv, f"--resume={fd}"]
        if self.host_link is not None:
            keep.append(self.host_link.sock.fileno())
        if self.holding.link is not None:
            keep.append(self.holding.link.fileno())
        if self.lock_fd >= 0:
            keep.append(self.lock_fd)
            argv.append(f"--lock={self.lock_fd}")
        notify.send("RELOADING=1")
        try:
            reexec.replace(argv, keep, dict(os.environ))
        except (OSError, ValueError) as error:
            close_all([fd])
            notify.send("READY=1")
            self.reexec_failed(str(error))

    def state(self, order: messages.Reexec) -> dict[str, Any]:
        """What our successor needs to know."""
        return {
            "listeners": {name: sock.fileno() for name, sock in self.listeners.items()},
            "sockets": notify.remembered(),
            "processes": [[p.pid, p.tag, p.fds, p.started] for p in self.processes.values()],
            "exits": [messages.wire(news) for news in self.exits],
            "exit_number": self.exit_number,
            "notes": self.notes,
            "supervisor": self.supervisor,
            "host": [self.host, self.host_link.sock.fileno() if self.host_link else -1, self.host_streams],
            "holder": [
                self.holding.pid,
                self.holding.link.fileno() if self.holding.link else -1,
                self.holding.sessions,
            ],
            "restarts": self.supervisor_restarts,
            "environment": self.environment,
            "supervisor_argv": order.supervisor_argv or self.supervisor_argv,
        }

    def resume(self, fd: int) -> None:
        """Take over from the code before us, which may be that of version 0.1."""
        state = reexec.read_state(fd)
        self.greeted = True
        for name, number in state["listeners"].items():
            os.set_inheritable(number, False)
            self.listeners[name] = socket.socket(fileno=number)
        # A version before this one said "stored" alone.
        notify.remember(state.get("sockets") or {"stored": state.get("stored", [])})
        for pid, tag, fds, started in state["processes"]:
            for number in fds:
                os.set_inheritable(number, False)
            self.processes[pid] = Process(pid, tag, fds, started)
        self.exit_number = state.get("exit_number", 0)
        for told in state["exits"]:
            with contextlib.suppress(messages.Misfit):
                news = messages.from_keeper(told)
                if isinstance(news, messages.Exited):
                    self.exits.append(news)
        self.notes = state["notes"]
        # The supervisor comes from where we come from.
        self.environment = {**state["environment"], "PYTHONPATH": self.environment["PYTHONPATH"]}
        self.supervisor_argv = state["supervisor_argv"]
        self.supervisor_restarts = state["restarts"]
        self.host, link, self.host_streams = state["host"]
        for number in [*self.host_streams, *([link] if link >= 0 else [])]:
            os.set_inheritable(number, False)
        if link >= 0:
            self._attach_host(link)
        self.holding.pid, held, self.holding.sessions = state.get("holder") or (0, -1, [])
        if held >= 0:
            os.set_inheritable(held, False)
            self.holding.link = socket.socket(fileno=held)
        # Its link ended with the old code. No other may start while it still writes.
        self.supervisor = state.get("supervisor") or 0
        if self.supervisor and is_child(self.supervisor):
            self.heard = time.monotonic()
            self.end_supervisor(signal.SIGKILL)
        else:
            self.supervisor = 0
            self.supervisor_restarts += 1
