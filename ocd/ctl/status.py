"""``occtl status``: what runs, since when, and what to do about what does not."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from ocd.core.blocks import full_at
from ocd.core.limits import percent
from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning, differs
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.wire.messages import Holder, ProxyStatus, Status, Trouble

#: as systemctl's and LSB's "not running"
EX_NOT_READY = 3

#: between two looks with --watch; a test replaces it
_pause: Callable[[float], None] = time.sleep

_COLUMNS = ("proxy", "state", "since", ">pid", ">port", ">memory", ">restarts", ">gen", "config")

#: columns of a terminal in which the table with the files' paths fits
_WIDE = 120


def is_fit(status: "Status") -> bool:
    """Whether every proxy that is wanted serves, or will at the next connection (idle)."""
    return all(proxy.state.well or proxy.state.off for proxy in status.proxies.values())


@click.command(
    epilog=examples(
        "occtl status",
        "occtl status --watch",
        "occtl status --json | jq -r '.proxies[] | [.state, .pid] | @tsv'",
    )
)
@json_option
@click.option("-w", "--watch", is_flag=True, help="Draw it anew until Ctrl-C; in a pipe, print each change.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between looks, with -w.",
)
def status(as_json: bool, watch: bool, every: float) -> int:
    """Show both proxies: state, since, pid, port, memory, restarts.

    Ends with 0 when every proxy that is wanted is ready (or idle until the next connection), with 3 when one
    is not or the daemon does not run.
    """
    if watch:
        _watch(as_json, every)
        return EX_OK
    found = _ask()
    if as_json:
        screen.out_json(_object(found))
    else:
        screen.print_rich(_group(found))
    return EX_OK if not isinstance(found, OcdError) and is_fit(found) else EX_NOT_READY


def _ask() -> "Status | NotRunning":
    from ocd.wire.messages import Status

    try:
        with Daemon() as daemon:
            return daemon.get(Status, "/v1/status")
    except NotRunning as error:
        return error


def _object(found: "Status | OcdError") -> dict[str, Any]:
    if isinstance(found, OcdError):
        return {"running": not isinstance(found, NotRunning), "proxies": {}, **screen.error_object(found)}
    return {"running": True, **found.model_dump(mode="json")}


def _watch(as_json: bool, every: float) -> None:
    moving = not as_json and screen.is_terminal(sys.stdout)
    live: AbstractContextManager[Any] = nullcontext()
    if moving:
        from rich.live import Live

        live = Live(console=screen.console(), auto_refresh=False, screen=True)
    last = ""
    with live as display:
        while True:
            try:
                found: Status | OcdError = _ask()
            except OcdError as error:
                # A daemon that is being replaced may cut an answer off; the next look shows where it went.
                found = error
            if moving:
                display.update(_group(found), refresh=True)
            elif str(found) != last:
                last = str(found)
                if as_json:
                    screen.out_json(_object(found), lines=True)
                else:
                    screen.print_rich(_group(found))
                    screen.out()
            _pause(every)


def _group(found: "Status | OcdError") -> Any:
    from rich.console import Group
    from rich.text import Text

    if isinstance(found, OcdError):
        what = "ocd is not running" if isinstance(found, NotRunning) else found.what
        return Group(Text(f"{what}: {found.why}.", "bold red"), Text(f"  next: {found.next_step}"))
    lines = [Text(text, style, overflow="fold") for text, style in remarks(found)]
    # Where nine columns do not fit, the files stand below the table instead of every column being cut.
    wide = not screen.is_terminal(sys.stdout) or screen.console().width >= _WIDE
    if not wide:
        files = (
            f"{name}: {screen.home(proxy.config)}" for name, proxy in found.proxies.items() if proxy.config
        )
        lines = [Text(screen.plain(file), "dim", overflow="fold") for file in files] + lines
    top = [Text(headline(found), "dim"), Text(), _table(found, files=wide)]
    return Group(*top, *([Text(), *lines] if lines else []))


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


def _table(status: "Status", *, files: bool) -> Any:
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
    return screen.table(_COLUMNS if files else _COLUMNS[:-1], rows, styles)


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
    lines = []
    for login in status.limits:
        windows = sorted(login.windows, key=lambda one: one.name != login.binding)
        parts = []
        for window in windows:
            again = f", resets in {screen.duration(window.reset - now)}" if window.reset else ""
            end = full_at(window.used, window.reset, window.name, now)
            full = f", full in {screen.duration(end - now)} at this pace" if end and end > now else ""
            parts.append(f"{window.name} {percent(window.used)} used{again}{full}")
        who = f"plan {login.login[:6]}" if len(status.limits) > 1 else "plan"
        lines.append((f"{who}: {'; '.join(parts)}.", "bold yellow" if login.spilling else ""))
        if login.spilling:
            lines.append(("  its requests go to AWS until the reset; `occtl spill off` ends that", ""))
    return lines


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
    troubled = proxy.state.hopeless
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
        how = "keeps serving with" if proxy.state.well else "would serve with"
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
