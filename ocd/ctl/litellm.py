"""``occtl litellm``: which LiteLLM serves; another version in an environment of its own, rolled back if it fails."""

import contextlib
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ocd import atomic
from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_TEMPFAIL, EX_USAGE, OcdError


@click.group(epilog=examples("occtl litellm check", "occtl litellm use", "occtl litellm use 1.99.4"))
def litellm() -> None:
    """Show or change the LiteLLM that serves."""


def _data() -> Path:
    from ocd.settings.folders import Folders

    return Folders.find().data


def _installed(data: Path) -> dict[str, Path]:
    found = {}
    for folder in sorted((data / "envs").glob("litellm-*")):
        if (folder / ".complete").exists():
            found[folder.name.split("-")[1]] = folder
    return found


@litellm.command("list")
@json_option
def list_(as_json: bool) -> int:
    """The versions that are installed, and which one serves."""
    data = _data()
    current = os.path.realpath(data / "litellm")
    rows = [
        {"version": version, "folder": str(folder), "current": os.path.realpath(folder) == current}
        for version, folder in _installed(data).items()
    ]
    if as_json:
        screen.out_json({"current": current, "versions": rows})
        return 0
    for row in rows:
        screen.out(f"{'*' if row['current'] else ' '} {row['version']}  {screen.home(str(row['folder']))}")
    if not any(row["current"] for row in rows):
        screen.out(f"* {current}")
    return 0


class InstalledVersion(click.ParamType[str]):
    """A version's number; those that are installed are completed."""

    name = "version"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        with contextlib.suppress(OcdError, OSError):
            return [CompletionItem(one) for one in _installed(_data()) if one.startswith(incomplete)]
        return []


@litellm.command(
    short_help="Remove a LiteLLM that does not serve.", epilog=examples("occtl litellm remove 1.99.4")
)
@click.argument("version", type=InstalledVersion())
@json_option
def remove(version: str, as_json: bool) -> int:
    """Remove the environment of a LiteLLM VERSION that does not serve (some 340 MB)."""
    data = _data()
    folder = _installed(data).get(version)
    if folder is None:
        return _report(as_json, True, False, f"LiteLLM {version} is not installed")
    if os.path.realpath(data / "litellm") == os.path.realpath(folder):
        raise OcdError(
            f"LiteLLM {version} is the one that serves",
            "",
            "Choose another first: `occtl litellm use VERSION`",
            exit_code=EX_USAGE,
            code="litellm-in-use",
        )
    from ocd import provision

    provision.remove(folder)
    return _report(as_json, True, True, f"LiteLLM {version} is removed")


@litellm.command(
    short_help="Ask the package index for newer and for withdrawn LiteLLMs.",
    epilog=examples("occtl litellm check", "occtl litellm check --json"),
)
@json_option
def check(as_json: bool) -> int:
    """Ask the package index for newer LiteLLMs, and whether the one that serves was withdrawn.

    Nothing is installed. The index that pip and uv are set up with is asked. It says when a release was withdrawn
    (yanked), which is what happens to dangerous ones; `occtl sbom --advisories` asks for what is published beside that.
    """
    from ocd.releases import Releases

    data = _data()
    installed = _serving(data)
    with screen.progress("Asking the package index…"), Releases(data / "envs") as releases:
        answer = releases.ask(installed)
    said = {
        "installed": installed,
        "newest": answer.newest,
        "installable": answer.installable,
        "withdrawn": answer.yanked,
    }
    if as_json:
        screen.out_json(said)
        return 1 if answer.yanked else 0
    for line in check_lines(installed, answer.newest, answer.installable, answer.yanked):
        screen.out(line)
    return 1 if answer.yanked else 0


def check_lines(installed: str, newest: str, installable: str, yanked: str) -> list[str]:
    """What the index's answer means, a sentence each."""
    lines = [f"LiteLLM {installed or 'none'} serves."]
    if yanked:
        lines.append(f"It was withdrawn from the index: {yanked}. Run `occtl litellm use`.")
    if installable and installable != installed:
        lines.append(
            f"LiteLLM {installable} can be installed: `occtl litellm use` tests it before it serves."
        )
    if newest not in (installed, installable):
        lines.append(
            f"LiteLLM {newest} is the newest, but the index lacks packages that its proxy needs here."
        )
    if len(lines) == 1:
        lines.append("There is none that is newer.")
    return lines


def _serving(data: Path) -> str:
    """The version of the environment that serves; empty when there is none."""
    from ocd import provision

    return next(iter(provision.versions(data / "litellm")), "")


@litellm.command(epilog=examples("occtl litellm use", "occtl litellm use 1.99.4"))
@click.argument("version", type=InstalledVersion(), default="latest")
@click.option(
    "--wheels", type=click.Path(exists=True, file_okay=False), help="Install from this folder, offline."
)
@click.option("--full", is_flag=True, help="With all that LiteLLM has for other providers and reports.")
@click.option(
    "--force", is_flag=True, help="Also one that is known to leak by itself, or that fails the self-test."
)
@json_option
def use(version: str, wheels: str | None, full: bool, force: bool, as_json: bool) -> int:
    """Serve with another LiteLLM VERSION (default: the newest). If it fails, the one before keeps serving.

    The version is resolved once, with the hash of every file, and installed from that list into an environment
    beside the old one. There it is booted and tested with your own two files against stand-ins: the self-test and
    every route. What differs from the LiteLLM that serves is said, and only if nothing got worse it takes over,
    without a restart.
    """
    from ocd import provision
    from ocd.releases import LATEST, Releases, judge, locked

    if version != LATEST:
        judge(version, force)
    data = _data()
    folder = None if full else _installed(data).get(version)
    made = folder is None
    if folder is None:
        with (
            screen.progress(f"Resolving LiteLLM {version}…") as progress,
            Releases(data / "envs", wheels or "", full) as releases,
        ):
            lock = releases.lock(version)
            version = locked(lock)
            judge(version, force)
            there = None if full else _installed(data).get(version)
            made = there is None
            progress.say(f"Installing LiteLLM {version} ({provision.packages(lock)} packages)…")
            folder = there or releases.install(lock)
    link = data / "litellm"
    before = os.readlink(link) if link.is_symlink() else ""
    if os.path.realpath(link) == os.path.realpath(folder):
        return _report(as_json, True, False, f"LiteLLM {version} is the one that serves already")
    try:
        differs = _test(folder, link, version, force)
        _take_over(link, folder, before, version)
    except BaseException:
        if made:
            provision.remove(folder)
        raise
    if as_json:
        screen.out_json({"ok": True, "changed": True, "reason": _served(version), "differs": differs})
    else:
        for line in differs:
            screen.out(line)
        screen.out(_served(version) + ".")
    return 0


def _served(version: str) -> str:
    try:
        with Daemon() as daemon:
            from ocd.wire.messages import Version

            daemon.get(Version, "/v1/version")
    except NotRunning:
        return f"LiteLLM {version} serves from the next start on"
    return f"LiteLLM {version} serves"


def _test(folder: Path, link: Path, version: str, force: bool) -> list[str]:
    """Boot it against stand-ins, as the one that serves is booted; what differs. Raises OcdError when it is worse."""
    import asyncio

    from ocd.selftest.run import Report, run
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    folders = Folders.find()
    settings = load(folders)
    if settings.external.enabled:
        return []  # it serves nothing here, so there is nothing that could be tested

    def tested(python: Path, what: str) -> Report:
        with screen.progress(f"{what}: starting a private stack…") as progress:
            told = lambda text: progress.say(f"{what}: {text}…")  # noqa: E731
            return asyncio.run(run(folders, settings, litellm_python=str(python), routes=True, progress=told))

    new = tested(folder / "bin" / "python", f"Testing LiteLLM {version}")
    old = tested(link / "bin" / "python", "Testing the one that serves") if link.exists() else Report(True)
    differs, worse = differences(old, new)
    if worse and not force:
        raise OcdError(
            f"LiteLLM {version} fails the test, so nothing was changed",
            "; ".join(worse),
            "The one before keeps serving; `occtl litellm use VERSION` takes another, --force this one all the same",
            exit_code=EX_TEMPFAIL,
            code="litellm-rejected",
        )
    return differs


def differences(old: Any, new: Any) -> tuple[list[str], list[str]]:
    """(what differs between two self-tests, what of it is worse), a line each."""
    before = {(row.check, row.model): row for row in old.rows}
    differs, worse = [], []
    for row in new.rows:
        was = before.get((row.check, row.model))
        note = row.note if len(row.note) < 160 else row.note[:160] + "…"
        if was is None:
            text = "" if row.ok else f"{row.check}: {note}"
        elif (row.ok, row.upstream, row.credential) == (was.ok, was.upstream, was.credential):
            continue
        else:
            how = [f"{one.upstream or '-'} {'ok' if one.ok else 'FAILED'}" for one in (was, row)]
            text = f"{row.check}: {how[0]} → {how[1]}" + (f" ({note})" if note else "")
        if text:
            differs.append(text)
        if not row.ok and (was is None or was.ok):
            worse.append(text)
    fresh = [text for text in new.problems if text not in old.problems]
    return differs + fresh, worse + fresh


def _take_over(link: Path, folder: Path, before: str, version: str) -> None:
    """Switch the link and have the daemon reload; back again when that fails. Raises OcdError."""
    atomic.link(link, str(folder))
    try:
        with Daemon() as daemon, screen.progress(f"LiteLLM {version} is taking over…"):
            outcome = _reload(daemon)
    except NotRunning:
        return
    if outcome.ok:
        return
    if before:
        atomic.link(link, before)
        with Daemon() as daemon, screen.progress("Going back…"):
            _reload(daemon)
    raise OcdError(
        f"LiteLLM {version} does not serve",
        outcome.reason,
        "The one before keeps serving" if before else "Choose another version",
        exit_code=EX_TEMPFAIL,
        code="litellm-rejected",
    )


def _reload(daemon: Daemon) -> Any:
    from ocd.wire.messages import Outcome, ReloadRequest

    return daemon.post(Outcome, "/v1/reload", ReloadRequest())


def _report(as_json: bool, ok: bool, changed: bool, text: str) -> int:
    if as_json:
        screen.out_json({"ok": ok, "changed": changed, "reason": text})
    else:
        screen.out(text + ".")
    return 0
