"""``occtl start``, ``stop``, ``restart``: one proxy, or everything."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning, is_running
from ocd.ctl.look import status as look
from ocd.ctl.options import PROXIES, STATES, examples, json_option, proxy_argument
from ocd.errors import EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.keeper import holding

if TYPE_CHECKING:
    from ocd.wire.messages import Outcome, Status

#: seconds between two looks at something that is coming or going
_LOOK = 0.1
_pause: Callable[[float], None] = time.sleep


@click.command(
    short_help="Start what does not run, and wait until it is ready.",
    epilog=examples("occtl start", "occtl start bedrock --timeout 30"),
)
@proxy_argument
@json_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Seconds to wait for ready.",
)
def start(name: str | None, as_json: bool, timeout: float) -> int:
    """Start one proxy or all, and the daemon if need be; wait until they are ready."""
    from ocd.wire.messages import Outcome

    deadline = time.monotonic() + timeout
    woke = _ensure_daemon(name)
    with Daemon(starts=True) as daemon:
        status = _status(daemon)
        names = select(status, name)
        said = {}
        changed = woke
        failed: Outcome | None = None
        for one in names:
            proxy = status.proxies[one]
            if proxy.wanted == "up" and proxy.state.well:
                said[one] = "already running" if not woke else "ready"
                continue
            changed = True
            if proxy.wanted != "up" or proxy.state.off or proxy.state.hopeless:
                with screen.progress(f"Starting {one}…"):
                    outcome = daemon.post(Outcome, f"/v1/proxies/{one}/start")
                if not outcome.ok:
                    failed = failed or outcome
                    said[one] = outcome.proxies.get(one) or outcome.reason or "not started"
        waiting = [one for one in names if one not in said]
        error = _failure(failed, "Could not start") if failed else None
        error = wait_until_ready(daemon, waiting, said, deadline, timeout) or error
    return report(Outcome(ok=error is None, changed=changed, proxies=said), as_json, error)


@click.command(
    epilog=examples("occtl stop bedrock", "occtl stop          end the daemon and everything it runs")
)
@proxy_argument
@click.option(
    "--now", is_flag=True, help="Without a name: also give up the ports that living sessions were told of."
)
@json_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=660.0,
    show_default=True,
    help="Seconds to wait until running answers are finished.",
)
def stop(name: str | None, now: bool, as_json: bool, timeout: float) -> int:
    """Stop one proxy; without a name, end the daemon. Answers that are being given are finished first.

    The ports that living sessions were told of stay taken, and answer 503, until the last of them has ended: whoever
    listened there next would be sent their login. --now gives the ports up all the same.
    """
    from ocd.wire.messages import Outcome

    try:
        with Daemon() as daemon:
            if name is None:
                return _end_daemon(daemon, now, as_json, timeout)
            status = _status(daemon)
            select(status, name)
            if status.proxies[name].state == "stopped" and status.proxies[name].wanted != "up":
                return report(Outcome(ok=True, proxies={name: "already stopped"}), as_json)
            with screen.progress(f"Stopping {name}: finishing what it is answering…"):
                outcome = daemon.post(Outcome, f"/v1/proxies/{name}/stop")
    except NotRunning:
        if name is not None:
            known(name)
        proxies = {name: "already stopped"} if name else {}
        reason = "the daemon is not running"
        if now and name is None and holding.let_go():
            reason += "; the ports that were kept for living sessions are free"
        return report(Outcome(ok=True, reason=reason, proxies=proxies), as_json)
    outcome.proxies.setdefault(name, "stopped" if outcome.ok else "not stopped")
    return report(outcome, as_json, None if outcome.ok else _failure(outcome, f"Could not stop {name}"))


@click.command(
    short_help="Replace a proxy's process without refusing a request.",
    epilog=examples("occtl restart main", "occtl restart       both, one after the other"),
)
@proxy_argument
@json_option
def restart(name: str | None, as_json: bool) -> int:
    """Replace one proxy's process, or each one's, without refusing a request.

    Starts the daemon if it is not running.
    """
    from ocd.wire.messages import Outcome

    if not is_running():
        context = click.get_current_context()
        return int(context.invoke(start, name=name, as_json=as_json, timeout=120.0))
    total = Outcome(ok=True, proxies={})
    failed: Outcome | None = None
    with Daemon() as daemon:
        for one in select(_status(daemon), name):
            with screen.progress(f"Restarting {one}…"):
                outcome = daemon.post(Outcome, f"/v1/proxies/{one}/restart")
            said = outcome.proxies.get(one, "")
            if outcome.ok and (not said or said in STATES):
                said = f"restarted, {said}" if said else "restarted"
            total.proxies[one] = said if outcome.ok else outcome.reason or said or "not restarted"
            total.changed = total.changed or outcome.changed
            total.problems += outcome.problems
            if not outcome.ok:
                total.ok = False
                total.reason = total.reason or outcome.reason
                failed = failed or outcome
    return report(total, as_json, _failure(failed, "Could not restart everything") if failed else None)


def known(name: str) -> None:
    """Raises OcdError, exit 64, when no proxy can be called ``name``; for use without a daemon."""
    look.known(name, PROXIES)


def select(status: "Status", name: str | None) -> list[str]:
    """The proxies that a verb is about: the named one, or all that the configuration has not switched off.

    Raises OcdError, exit 64, for another name.
    """
    if name is None:
        return [one for one, proxy in status.proxies.items() if proxy.state != "disabled"]
    look.known(name, status.proxies)
    return [name]


def report(outcome: "Outcome", as_json: bool, error: OcdError | None = None) -> int:
    """Print what a verb did, per proxy, and ``error`` if there is one. Returns the exit code."""
    if as_json:
        if error and not outcome.reason:
            outcome.reason = error.sentence()
        screen.out_json(outcome)
    else:
        if outcome.ok and outcome.reason:
            screen.out(screen.plain(outcome.reason[:1].upper() + outcome.reason[1:]).rstrip(".") + ".")
        for one, what in outcome.proxies.items():
            screen.out(f"{one}: {screen.plain(what)}")
    if error is None:
        return EX_OK
    screen.show_error(error)
    return error.exit_code


def _failure(outcome: "Outcome", what: str) -> OcdError:
    return screen.outcome_error(outcome, what, EX_UNAVAILABLE)


def _status(daemon: Daemon) -> "Status":
    from ocd.wire.messages import Status

    return daemon.get(Status, "/v1/status")


def _ensure_daemon(name: str | None) -> bool:
    """Start the daemon unless it runs; True when it had to be started."""
    if is_running():
        return False
    if name is not None:
        known(name)
    from ocd.client.start import start_daemon

    with screen.still("Starting the daemon…"):
        start_daemon()
    return True


def wait_until_ready(
    daemon: Daemon, names: list[str], said: dict[str, str], deadline: float, timeout: float
) -> OcdError | None:
    """Look until each of ``names`` is ready, is stuck, or ``deadline`` (monotonic seconds) has passed.

    Writes what became of each into ``said``; returns what to tell a person when not all are ready.
    """
    waiting = list(names)
    stuck: OcdError | None = None
    with screen.progress("Waiting for the proxies…") as progress:
        while True:
            status = _status(daemon)
            for one in list(waiting):
                proxy = status.proxies.get(one)
                if proxy is None or proxy.state.well:
                    said[one] = "ready"
                elif proxy.state.hopeless:
                    said[one] = f"{proxy.state}: {proxy.reason}" if proxy.reason else proxy.state
                    stuck = stuck or OcdError(
                        f"{one} is {proxy.state}",
                        proxy.reason,
                        proxy.next_step or f"Run `occtl logs {one}`",
                        exit_code=EX_UNAVAILABLE,
                        code=proxy.state,
                    )
                else:
                    continue
                waiting.remove(one)
            if not waiting:
                return stuck
            if time.monotonic() >= deadline:
                break
            words = (f"{one} {status.proxies[one].state}" for one in waiting)
            progress.say(f"Waiting: {', '.join(words)}…")
            _pause(_LOOK)
    for one in waiting:
        said[one] = f"still {status.proxies[one].state}"
    return stuck or OcdError(
        f"{' and '.join(waiting)} did not get ready",
        f"waited {timeout:g} s",
        "Run `occtl status`, then `occtl logs`",
        exit_code=EX_TEMPFAIL,
        code="timeout",
    )


def _end_daemon(daemon: Daemon, now: bool, as_json: bool, timeout: float) -> int:
    """POST /v1/shutdown, then wait until the keeper's process is gone.

    By process, not by socket: where a service manager holds the socket, a look at it would start the daemon
    again.
    """
    from ocd.wire.messages import Outcome

    deadline = time.monotonic() + timeout
    status = _status(daemon)
    gone = _Process(status.keeper_pid)
    with screen.progress("Stopping: finishing what is being answered…") as progress:
        outcome = daemon.post(Outcome, "/v1/shutdown")
        if not outcome.ok:
            return report(outcome, as_json, _failure(outcome, "The daemon did not stop"))
        begun = time.monotonic()
        while not gone.ended():
            if time.monotonic() >= deadline:
                error = OcdError(
                    "The daemon is still finishing",
                    f"waited {timeout:g} s for pid {status.keeper_pid}",
                    "Wait with `occtl stop`, or run `occtl events` to see what it is busy with",
                    exit_code=EX_TEMPFAIL,
                    code="timeout",
                )
                return report(Outcome(ok=False, changed=True, proxies={}), as_json, error)
            progress.say(
                f"Stopping: finishing what is being answered ({screen.duration(time.monotonic() - begun)})…"
            )
            _pause(_LOOK)
    outcome.changed = True
    outcome.reason = "stopped; `openclaude` or `occtl start` starts it again"
    if status.sessions:
        outcome.reason += f". {_about_sessions(status, now)}"
    return report(outcome, as_json)


def _about_sessions(status: "Status", now: bool) -> str:
    """What becomes of the sessions that live on."""
    main = status.proxies.get("main")
    port = main.port if main else 4000
    one = len(status.sessions) == 1
    many = "1 session lives" if one else f"{len(status.sessions)} sessions live"
    if now:
        holding.let_go()
    elif holding.is_held():
        until = "it ends" if one else "the last of them ends"
        return f"{many} on: its port is kept for it and answers 503 until {until} (--now gives it up)"
    return (
        f"{many} on and would send their login to whoever listens on port {port} next: end them, or start ocd again "
        "before they go on"
    )


class _Process:
    """One process, recognised by pid and start time, so that a later one with its pid is not waited for."""

    def __init__(self, pid: int) -> None:
        import psutil

        try:
            self._process: psutil.Process | None = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self._process = None
        if pid == os.getpid():
            raise OcdError("The daemon says that it is this command", code="protocol")

    def ended(self) -> bool:
        """Whether it is gone, or dead and only waiting for its parent to take note."""
        import psutil

        try:
            return (
                self._process is None
                or not self._process.is_running()
                or self._process.status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return True
