"""What the facts mean. Pure: each function takes what ``gather`` found and returns rows."""

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ocd.claude.variables import EMPTIED, REPLACED
from ocd.doctor.report import Level, Row
from ocd.provision import refused
from ocd.wire.messages import Status

#: bytes; below the first nothing can be written soon, below the second there is no room for an upgrade
FULL, TIGHT = 100 << 20, 1 << 30
_KEY = re.compile(r"sk-[0-9a-f]{64}")
_PROXIED = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def litellm(version: str, pinned: str, python: str) -> list[Row]:
    """``version`` of the LiteLLM in the environment of ``python``, empty: none there."""
    if not version:
        return [
            Row(
                "error",
                "installation",
                "no-litellm",
                "LiteLLM is not where it should be",
                f"the environment of {python} has none",
                "Run `python3 install.py` again, or correct litellm.python in ocd.toml",
            )
        ]
    if refused(version):
        return [
            Row(
                "error",
                "installation",
                "litellm-poisoned",
                f"LiteLLM {version} steals credentials",
                "this release was published by an attacker (BerriAI/litellm#24512)",
                f"`occtl litellm use {pinned or '1.106.12'}`, then change every key that this machine had",
            )
        ]
    if pinned and version != pinned:
        return [
            Row(
                "note",
                "installation",
                "litellm-other",
                f"LiteLLM is {version}, ocd was tested with {pinned}",
                "another version may treat credentials differently",
                f"`occtl selftest` shows whether it holds; `occtl litellm use {pinned}` goes back",
            )
        ]
    return [Row("ok", "installation", "litellm", f"LiteLLM {version}, {python}")]


@dataclass(frozen=True, slots=True)
class Service:
    """The service manager's answer; ``unavailable`` says why there is none."""

    name: str
    unavailable: str
    installed: bool
    state: str
    lingers: bool | None


def service(found: Service) -> list[Row]:
    if found.unavailable:
        what, fix = "No service manager starts ocd at login", "`occtl start` runs it without one"
        return [Row("note", "service", "no-service-manager", what, found.unavailable, fix)]
    if not found.installed:
        what, why = "ocd does not start at login", f"it is not installed as a service of {found.name}"
        return [Row("note", "service", "service-missing", what, why, "`occtl service install`")]
    rows = []
    if found.state in ("failed", "error"):
        what = f"{found.name} says that ocd has failed"
        rows.append(
            Row("error", "service", "service-failed", what, found.state, "`occtl start`, `occtl logs daemon`")
        )
    if found.lingers is False:
        what, why = "ocd ends with your last session", "lingering is off for this user"
        rows.append(Row("note", "service", "no-linger", what, why, "`loginctl enable-linger`"))
    return rows or [Row("ok", "service", "service", f"{found.name}: {found.state}")]


def command_path(folder: str, path: str, installed: bool) -> list[Row]:
    """Whether the commands in ``folder`` are found by their names."""
    if not installed or folder in path.split(":"):
        return []
    why = f"{folder} is not on the PATH of this shell"
    fix = f'`export PATH="{folder}:$PATH"` in your shell\'s start-up file'
    return [Row("warning", "installation", "not-on-path", "openclaude is not found by its name", why, fix)]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder that others must not read: ``mode`` as lstat gives it; ``mine``: it belongs to this user."""

    path: str
    mode: int
    mine: bool


def private(entries: Sequence[Entry]) -> list[Row]:
    """Folders 0700, files 0600, ours, no links (which their readers refuse)."""
    rows = []
    for entry in entries:
        if not entry.mine:
            what = f"{entry.path} belongs to somebody else"
            fix = f"Move {entry.path} away; it is made anew"
            rows.append(Row("error", "permissions", "not-ours", what, "ocd does not trust it", fix))
        elif stat.S_IMODE(entry.mode) & 0o077 and not stat.S_ISLNK(entry.mode):
            wanted = "700" if stat.S_ISDIR(entry.mode) else "600"
            what = f"Others may read {entry.path}"
            why = f"its mode is {stat.S_IMODE(entry.mode):o}, not {wanted}"
            rows.append(Row("error", "permissions", "readable", what, why, f"`chmod {wanted} {entry.path}`"))
    return rows or [Row("ok", "permissions", "private", "Keys, state and sockets are yours alone")]


def writable(entries: Sequence[Entry]) -> list[Row]:
    """Configuration files: whoever may write there decides where the login goes."""
    return [
        Row(
            "error",
            "permissions",
            "writable",
            f"Others may write to {entry.path}",
            "whoever changes it decides where your credentials go",
            f"`chmod go-w {entry.path}`",
        )
        for entry in entries
        if stat.S_IMODE(entry.mode) & 0o022 and not stat.S_ISLNK(entry.mode)
    ]


def disk(free: int, folder: str) -> list[Row]:
    """``free`` bytes where ``folder`` is."""
    if free >= TIGHT:
        return []
    why = f"{free >> 20} MB are free at {folder}"
    if free < FULL:
        return [
            Row(
                "error", "disk", "disk-full", "The disk is full", why, "Free some space: `du -xh ~ | sort -h`"
            )
        ]
    return [
        Row(
            "warning",
            "disk",
            "disk-tight",
            "Little space is left",
            why,
            "Free some space: `du -xh ~ | sort -h`",
        )
    ]


def clock(now: float, newest: float) -> list[Row]:
    """``now`` against the time ``newest`` at which a file of ours was written, seconds since 1970."""
    # an hour: a time zone that was set wrong at installation is no wrong clock
    if now + 3600 >= newest:
        return []
    why = "ocd's own files are of the future; AWS refuses signatures that are five minutes off"
    return [
        Row(
            "error",
            "clock",
            "clock-behind",
            "The clock of this machine is behind",
            why,
            "`timedatectl set-ntp true`",
        )
    ]


def keys(values: Mapping[str, object] | None) -> list[Row]:
    """The content of the keys' file; None: it is no JSON object."""
    fix = "`occtl stop`, remove the file, `occtl start`: new keys are made, sessions must be restarted"
    names = ("main", "bedrock")
    if values is None or not all(isinstance(values.get(name), str) for name in names):
        return [
            Row(
                "error", "keys", "keys-broken", "The proxies' keys cannot be used", "the file is damaged", fix
            )
        ]
    if any(not _KEY.fullmatch(str(values[name])) for name in names):
        what, why = "A key of the proxies is weak", "it is not the 256 random bits that ocd makes"
        return [Row("error", "keys", "keys-weak", what, why, fix)]
    if values["main"] == values["bedrock"]:
        why = "who has the main proxy's key could use AWS directly"
        return [Row("error", "keys", "keys-equal", "Both proxies have the same key", why, fix)]
    return []


def environment(names: Sequence[str], auth: str) -> list[Row]:
    """Variables of this shell, names only, that would lead Claude Code elsewhere, or that the proxies ignore."""
    rows = []
    ours = [
        name
        for name in (*EMPTIED, *REPLACED)
        if name in names and not (auth == "api-key" and name == "ANTHROPIC_API_KEY")
    ]
    if ours:
        what = f"Set in this shell: {', '.join(ours)}"
        why = "openclaude sets them aside for its sessions; claude itself uses them"
        rows.append(Row("note", "environment", "claude-variables", what, why, f"`unset {' '.join(ours)}`"))
    aws = [name for name in names if name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")]
    if aws:
        what = f"Not used by the proxies: {', '.join(aws)}"
        why = "they inherit nothing of a shell, so that what you see there is not what they have"
        rows.append(Row("note", "environment", "aws-variables", what, why, "Set aws_profile in ocd.toml"))
    proxied = [name for name in names if name.upper() in _PROXIED]
    if proxied:
        what = f"Set in this shell: {', '.join(proxied)}"
        why = "openclaude exempts this machine's addresses; the LiteLLM proxies do not use it at all"
        fix = "If LiteLLM has to go through it, set it in [proxies.main.env] and [proxies.bedrock.env] of ocd.toml"
        rows.append(Row("note", "environment", "http-proxy", what, why, fix))
    return rows


def budgets(found: Status) -> list[Row]:
    """Budgets for AWS that are near their end or used up."""
    rows = []
    for one in found.budgets:
        if not one.near:
            continue
        state = "used up" if one.used_up else "nearly used up"
        why = f"${one.spent:,.2f} of ${one.limit:,.2f} by an estimate at list prices"
        done = {"refuse": "; requests for AWS are refused", "plan": "; requests for AWS go to the plan"}
        why += done.get(one.action, "") if one.used_up else ""
        what = f"The AWS budget of the {one.period} is {state}"
        rows.append(Row("warning", "daemon", "budget", what, why, "Raise [budget] in ocd.toml, or wait"))
    return rows


def status(found: Status, version: str) -> list[Row]:
    """What the running daemon says of itself; ``version`` is this command's."""
    rows = []
    if found.version != version:
        what = f"The daemon is {found.version}, this command {version}"
        rows.append(
            Row(
                "warning",
                "daemon",
                "versions",
                what,
                "it was not replaced after an upgrade",
                "`occtl reexec`",
            )
        )
    for problem in found.problems:
        # logs, figures and metrics are a loss, but the proxies serve
        beside = problem.code.endswith("-degraded") or problem.code.startswith("metrics")
        level: Level = "warning" if beside else "error"
        fix = problem.next or "`occtl events`"
        rows.append(Row(level, "daemon", problem.code, problem.what, problem.why, fix))
    rows += budgets(found)
    for name, proxy in found.proxies.items():
        if proxy.state == "disabled":
            # The configuration says so, and other checks say whether that can work.
            pass
        elif proxy.wanted == "stopped":
            what = f"The {name} proxy is stopped"
            rows.append(
                Row(
                    "warning",
                    "proxies",
                    "stopped",
                    what,
                    proxy.reason or "stopped with `occtl stop`",
                    f"`occtl start {name}`",
                )
            )
        elif proxy.state.hopeless:
            who = f"; {proxy.holder.command} (pid {proxy.holder.pid})" if proxy.holder else ""
            why = (proxy.reason or proxy.cause or "no reason is known") + who
            fix = proxy.next_step or f"`occtl logs {name}`"
            rows.append(Row("error", "proxies", proxy.state, f"The {name} proxy is {proxy.state}", why, fix))
        elif proxy.state == "starting":
            rows.append(
                Row("note", "proxies", "starting", f"The {name} proxy is starting", "", "`occtl wait`")
            )
        if proxy.rejected:
            serves = "serves with" if proxy.state.well else "would serve with"
            what = f"The {name} proxy {serves} its earlier configuration"
            rows.append(Row("warning", "proxies", "rejected", what, proxy.rejected, "`occtl config check`"))
        for trouble in proxy.troubles:
            who = trouble.slot or trouble.model
            what = f"{name}{f', {who}' if who else ''}: {trouble.what}"
            why = f"{trouble.count} times, not answered well since"
            rows.append(Row("warning", "proxies", trouble.kind, what, why, trouble.next or "`occtl status`"))
    if not any(row.level in ("error", "warning") for row in rows):
        states = ", ".join(f"{name} {proxy.state}" for name, proxy in found.proxies.items())
        count = len(found.sessions)
        rows.append(Row("ok", "daemon", "running", f"ocd {found.version}: {states}; {count} sessions"))
    return rows
