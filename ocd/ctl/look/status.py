"""``occtl status``: what runs, since when, and what to do about what does not."""

import sys
import time

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning, differs
from ocd.ctl.look import records
from ocd.errors import EX_OK, EX_USAGE, OcdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocd.wire.messages import Holder, ProxyStatus, Status, Trouble

#: as systemctl's and LSB's "not running"
EX_NOT_READY = 3

#: the states of a proxy by what they mean, as ``ocd.core.state.State`` says it (whose import takes too long here)
WELL = ("ready", "idle")
OFF = ("disabled", "stopped", "draining")
HOPELESS = ("blocked", "crash-loop", "failed")

#: between two looks with --watch; a test replaces it
_pause: "Callable[[float], None]" = time.sleep

_COLUMNS = ("proxy", "state", "since", ">pid", ">port", ">memory", ">restarts", ">gen", "config")


def is_fit(status: "Status") -> bool:
    """Whether every proxy that is wanted serves, or will at the next connection (idle)."""
    return all(proxy.state in WELL or proxy.state in OFF for proxy in status.proxies.values())


def run(name: str | None, as_json: bool, watch: bool, every: float) -> int:
    """The verb itself; returns the exit code."""
    if watch:
        _watch(name, as_json, every)
        return EX_OK
    found = _ask(name)
    if as_json:
        screen.out_json(_object(found))
    else:
        for line in _lines(found):
            screen.out(line)
    return EX_OK if not isinstance(found, OcdError) and is_fit(found) else EX_NOT_READY


def _ask(name: str | None) -> "Status | NotRunning":
    try:
        with Daemon() as daemon:
            found: Status = daemon.record("Status", "/v1/status")
    except NotRunning as error:
        if name is not None:
            known(name, ("main", "bedrock"))
        return error
    if name is not None:
        known(name, found.proxies)
        found.proxies = {name: found.proxies[name]}
    return found


def known(name: str, names: "Any") -> None:
    """Raises OcdError, exit 64, when none of ``names`` is ``name``."""
    if name not in names:
        raise OcdError(
            f"No proxy is called {name}",
            f"there are {' and '.join(names) or 'none'}",
            "Run `occtl status` to see them",
            exit_code=EX_USAGE,
            code="unknown-proxy",
        )


def _object(found: "Status | OcdError") -> "dict[str, Any]":
    if isinstance(found, OcdError):
        return {"running": not isinstance(found, NotRunning), "proxies": {}, **screen.error_object(found)}
    return {"running": True, **records.plain(found)}


def _watch(name: str | None, as_json: bool, every: float) -> None:
    moving = not as_json and screen.is_terminal(sys.stdout)
    last = ""
    if moving:
        # the terminal's other page, without a cursor: what stood there comes back with the end
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        while True:
            try:
                found: Status | OcdError = _ask(name)
            except OcdError as error:
                if error.exit_code == EX_USAGE:
                    raise
                # A daemon that is being replaced may cut an answer off; the next look shows where it went.
                found = error
            if moving:
                # one line more would scroll the page away
                lines = [f"{line}\x1b[K" for line in _lines(found)[: screen.height()]]
                sys.stdout.write("\x1b[H" + "\r\n".join(lines) + "\x1b[J")
                sys.stdout.flush()
            elif str(found) != last:
                last = str(found)
                if as_json:
                    screen.out_json(_object(found), lines=True)
                else:
                    for line in _lines(found):
                        screen.out(line)
                    screen.out()
            _pause(every)
    finally:
        if moving:
            sys.stdout.write("\x1b[?25h\x1b[?1049l")
            sys.stdout.flush()


def _lines(found: "Status | OcdError") -> list[str]:
    width = screen.width()
    if isinstance(found, OcdError):
        what = "ocd is not running" if isinstance(found, NotRunning) else found.what
        texts = [(f"{what}: {found.why}.", "bold red"), (f"  next: {found.next_step}", "")]
        return [screen.styled(one, style) for text, style in texts for one in screen.wrapped(text, width)]
    below = remarks(found)
    lines = _table(found, None, files=True)
    if width is not None and max(map(screen.visible, lines)) > width:
        # Where nine columns do not fit, the files stand below the table.
        lines = _table(found, None, files=False)
        if max(map(screen.visible, lines)) > width:
            lines = _table(found, width, files=True)
        else:
            files = (
                f"{name}: {screen.home(proxy.config)}"
                for name, proxy in found.proxies.items()
                if proxy.config
            )
            below = [(screen.plain(file), "dim") for file in files] + below
    # a next step is left as it is: a command that is broken in the middle cannot be copied
    more = [
        screen.styled(one, style)
        for text, style in below
        for one in ([text] if text.startswith("  next: ") else screen.wrapped(text, width))
    ]
    top = [screen.styled(one, "dim") for one in screen.wrapped(headline(found), width)]
    return [*top, "", *lines, *(["", *more] if more else [])]


def headline(status: "Status") -> str:
    """``ocd 0.2.0, running for 2h 05m, pid 12, LiteLLM 1.106.2, fork mode, 1 session``."""
    parts = [f"ocd {status.version}", f"running for {screen.duration(time.time() - status.since)}"]
    parts.append(f"pid {status.keeper_pid}")
    if status.litellm:
        parts.append(f"LiteLLM {status.litellm}")
    parts.append(f"{status.mode} mode")
    if status.sessions:
        parts.append(f"{len(status.sessions)} session{'s' if len(status.sessions) > 1 else ''}")
    return screen.plain(", ".join(parts))


def _table(status: "Status", width: int | None, *, files: bool) -> list[str]:
    """One row a proxy; with ``files`` the last column is the configuration file."""
    rows, styles = [], []
    for name, proxy in status.proxies.items():
        row = [
            name,
            proxy.state,
            screen.duration(time.time() - proxy.since),
            str(proxy.pid) if proxy.pid is not None else "-",
            str(proxy.port),
            screen.size(proxy.memory),
            str(proxy.restarts),
            str(proxy.generation),
        ]
        style = ["bold", screen.STATE_STYLES.get(proxy.state, ""), *[""] * 6]
        rows.append([*row, screen.plain(screen.home(proxy.config)) or "-"] if files else row)
        styles.append([*style, "dim"] if files else style)
    return screen.table(_COLUMNS if files else _COLUMNS[:-1], rows, styles, width)


def remarks(status: "Status") -> list[tuple[str, str]]:
    """What needs a sentence, as (line, style): reasons and what to do, refused configurations, problems."""
    found: list[tuple[str, str]] = []
    if status.external:
        found.append(
            (f"Sessions use the LiteLLM at {status.external}; nothing of it is supervised here.", "")
        )
    for name, proxy in status.proxies.items():
        found += _about(name, proxy)
    found += [(text, style) for text, style in limit_lines(status, time.time())]
    found += budget_lines(status, time.time())
    if status.trace_until:
        found.append(
            (
                f"whole exchanges are kept until {screen.time_of_day(status.trace_until)}; `occtl trace off` ends that",
                "bold yellow",
            )
        )
    for problem in status.problems:
        why = f": {problem.why}" if problem.why else ""
        found.append((f"{problem.what}{why}.", "bold yellow"))
        if problem.next:
            found.append((f"  next: {problem.next}", ""))
    mismatch = differs(status.version)
    if mismatch:
        found.append((mismatch, "bold yellow"))
    return [(screen.plain(text), style) for text, style in found]


def limit_lines(status: "Status", now: float) -> list[tuple[str, str]]:
    """One line a login: each of its windows, the binding one first, and whether its requests go to AWS."""
    from ocd.core.accounts import full_until
    from ocd.core.pace import full_at

    lines = []
    named = len(status.limits) > 1 or any(login.accounts not in ([], ["default"]) for login in status.limits)
    for login in status.limits:
        windows = sorted(login.windows, key=lambda one: one.name != login.binding)
        parts = []
        for window in windows:
            again = f", resets in {screen.duration(window.reset - now)}" if window.reset else ""
            end = full_at(window.used, window.reset, window.name, now)
            full = f", full in {screen.duration(end - now)} at this pace" if end and end > now else ""
            parts.append(f"{window.name} {_percent(window.used)} used{again}{full}")
        who = f"plan {', '.join(login.accounts) or login.login[:6]}" if named else "plan"
        until = full_until(login, now)
        full = f"at its limit until {screen.time_of_day(until)}; " if until else ""
        lines.append((f"{who}: {full}{'; '.join(parts)}.", "bold yellow" if login.spilling or until else ""))
        if login.spilling:
            lines.append(("  its requests go to AWS until the reset; `occtl spill off` ends that", ""))
    return lines


def _percent(used: float) -> str:
    """``42 %``; never 100 % of what is not all used. As ``ocd.core.limits.percent``."""
    return f"{int(used * 100) if used < 1 else round(used * 100)} %"


def budget_lines(status: "Status", now: float) -> list[tuple[str, str]]:
    """One line a budget for AWS: how much of it is spent, when it begins again, and what is done when it is used up."""
    lines = []
    for one in status.budgets:
        when = "today" if one.period == "day" else "this month"
        text = f"AWS {when}: ${one.spent:,.2f} of ${one.limit:,.2f} (estimated)"
        text += f", begins again in {screen.duration(one.resets - now)}"
        if one.unpriced:
            text += f"; {one.unpriced:,} requests without a known price are not in it"
        lines.append((f"{text}.", "bold yellow" if one.near else ""))
        if one.used_up:
            done = {
                "refuse": "requests for AWS are refused until then",
                "plan": "requests for AWS go to the Claude plan until then",
            }.get(one.action, "nothing is stopped: [budget] action is warn")
            lines.append((f"  it is used up, {done}; raise [budget] in ocd.toml to go on", ""))
    return lines


def _about(name: str, proxy: "ProxyStatus") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    troubled = proxy.state in HOPELESS
    reason = proxy.reason
    if proxy.holder and (not reason or str(proxy.holder.pid) not in reason):
        reason = (reason.rstrip(".") + "; " if reason else "") + holder_sentence(proxy.port, proxy.holder)
    if reason or troubled:
        again = ""
        if proxy.retry_at is not None:
            again = f" Next try in {screen.duration(proxy.retry_at - time.time())}."
        known = reason or proxy.cause or "no reason is known"
        text = f"{name} is {proxy.state}: {known.rstrip('.')}.{again}"
        lines.append((text, "bold red" if troubled else ""))
        step = proxy.next_step or (f"occtl logs {name}" if troubled else "")
        if step:
            lines.append((f"  next: {step}", ""))
    if proxy.last_fallback_at is not None:
        ago = screen.duration(time.time() - proxy.last_fallback_at)
        text = f"{name} fell back {proxy.fallbacks} times, last {ago} ago: {proxy.last_fallback}."
        lines.append((text, "bold yellow"))
    for trouble in proxy.troubles:
        lines += _trouble(name, trouble)
    if proxy.rejected and proxy.rejected != reason:
        how = "keeps serving with" if proxy.state in WELL else "would serve with"
        lines.append(
            (
                f"{name} {how} its earlier configuration: {proxy.rejected.rstrip('.')}.",
                "bold yellow",
            )
        )
        lines.append(("  next: occtl config check", ""))
    return lines


def _trouble(name: str, trouble: "Trouble") -> list[tuple[str, str]]:
    """What happened, to which slot, when, how often, and the next step."""
    who = trouble.slot or trouble.model
    if trouble.slot and trouble.model:
        who = f"{trouble.slot} ({trouble.model})"
    now = time.time()
    often = f"last {screen.duration(now - trouble.last)} ago"
    if trouble.count > 1:
        often = f"{trouble.count} times in {screen.duration(now - trouble.since)}, {often}"
    lines = [(f"{f'{name}, {who}' if who else name}: {trouble.what}; {often}.", "bold yellow")]
    if trouble.next:
        lines.append((f"  next: {trouble.next}", ""))
    return lines


def holder_sentence(port: int, holder: "Holder") -> str:
    """Who has the port, with all that is known of them."""
    who = holder.command or "a process that we may not look at"
    known = []
    if holder.pid is not None:
        known.append(f"pid {holder.pid}")
    if holder.user:
        known.append(f"user {holder.user}")
    if holder.since is not None:
        known.append(f"for {screen.duration(time.time() - holder.since)}")
    place = f"{holder.address} " if holder.address else ""
    return f"port {port} {place}is held by {who}" + (f" ({', '.join(known)})" if known else "")
