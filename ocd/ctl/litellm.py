"""``occtl litellm``: which LiteLLM serves; another version in an environment of its own, rolled back if it fails."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE, OcdError

#: releases that carried credential-stealing code (BerriAI/litellm#24512, #24518)
REFUSED = ("1.82.7", "1.82.8")
#: before this one, a single proxy hands the plan's token to Bedrock (BerriAI/litellm#37905)
OLDEST = (1, 99)
_VERSION = re.compile(r"\d+\.\d+\.\d+([a-z0-9.+-]*)")


@click.group(epilog=examples("occtl litellm list", "occtl litellm use 1.99.4"))
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


@litellm.command(epilog=examples("occtl litellm remove 1.99.4"))
@click.argument("version", type=InstalledVersion())
@json_option
def remove(version: str, as_json: bool) -> int:
    """Remove the environment of a LiteLLM VERSION that does not serve (some 740 MB)."""
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
    import shutil

    # Without the stamp it is no installation any more, whatever happens to the rest.
    (folder / ".complete").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    (data / "envs" / f"litellm-{version}.lock").unlink(missing_ok=True)
    return _report(as_json, True, True, f"LiteLLM {version} is removed")


@litellm.command(epilog=examples("occtl litellm use 1.99.4", "occtl litellm use 1.106.12"))
@click.argument("version", type=InstalledVersion())
@click.option(
    "--wheels", type=click.Path(exists=True, file_okay=False), help="Install from this folder, offline."
)
@click.option(
    "--force", is_flag=True, help="Also a version that is known to leak the plan's token by itself."
)
@json_option
def use(version: str, wheels: str | None, force: bool, as_json: bool) -> int:
    """Serve with another LiteLLM VERSION. Needs no restart; if it does not boot, the old one serves on.

    The version is resolved once, written down with the hash of every file, and installed from that list into
    an environment beside the old one.
    """
    _judge(version, force)
    data = _data()
    folder = _installed(data).get(version)
    if folder is None:
        with screen.progress(f"Installing LiteLLM {version}…"):
            folder = _install(data, version, wheels)
    link = data / "litellm"
    before = os.readlink(link) if link.is_symlink() else ""
    if os.path.realpath(link) == os.path.realpath(folder):
        return _report(as_json, True, False, f"LiteLLM {version} is the one that serves already")
    _point(link, str(folder))
    try:
        with Daemon() as daemon, screen.progress(f"LiteLLM {version} is taking over…"):
            outcome = _reload(daemon)
    except NotRunning:
        return _report(as_json, True, True, f"LiteLLM {version} serves from the next start on")
    if outcome.ok:
        return _report(as_json, True, True, f"LiteLLM {version} serves")
    if before:
        _point(link, before)
        with Daemon() as daemon, screen.progress("Going back…"):
            _reload(daemon)
    raise OcdError(
        f"LiteLLM {version} does not serve",
        outcome.reason,
        "The one before serves on" if before else "Choose another version",
        exit_code=EX_TEMPFAIL,
        code="litellm-rejected",
    )


def _judge(version: str, force: bool) -> None:
    if not _VERSION.fullmatch(version):
        raise OcdError(
            f"{version!r} is no version", "one looks like 1.106.12", exit_code=EX_USAGE, code="usage"
        )
    if version in REFUSED:
        raise OcdError(
            f"LiteLLM {version} is refused",
            "this release carried code that steals credentials (BerriAI/litellm#24512)",
            "Choose another version",
            exit_code=EX_USAGE,
            code="refused-version",
        )
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < OLDEST and not force:
        raise OcdError(
            f"LiteLLM {version} is too old",
            "versions before 1.99 pass the plan's token on to Bedrock; only ocd's own boundary would hold it back",
            "Choose a newer one, or say --force",
            exit_code=EX_USAGE,
            code="old-version",
        )


def _install(data: Path, version: str, wheels: str | None) -> Path:
    """Resolve, lock with hashes, install from the lock; the stamp comes last. Raises OcdError."""
    envs = data / "envs"
    envs.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = envs / f"litellm-{version}.lock"
    source = ["--no-index", "--find-links", wheels] if wheels else []
    resolver = envs / f".resolver-{os.getpid()}"
    _run([os.path.realpath(sys.executable), "-m", "venv", str(resolver)], "make an environment")
    try:
        if not lock.exists():
            command = [str(resolver / "bin/python"), "-m", "pip", "install", "--quiet", "--dry-run", *source]
            command += ["--only-binary", ":all:"]
            report = _run(
                [*command, "--ignore-installed", "--report", "-", f"litellm[proxy]=={version}"], "resolve it"
            )
            lock.write_text(_lock(json.loads(report)))
        name = f"litellm-{version}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
        folder = envs / name
        _run([os.path.realpath(sys.executable), "-m", "venv", "--clear", str(folder)], "make an environment")
        pip = [
            str(folder / "bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--no-deps",
            # A source distribution runs its own code when it is built.
            "--only-binary",
            ":all:",
            *source,
        ]
        _run([*pip, "-r", str(lock)], "install it")
        strange = [
            p.name
            for p in folder.glob("lib/python*/site-packages/*.pth")
            if p.name != "distutils-precedence.pth"
        ]
        if strange:
            raise OcdError(
                f"LiteLLM {version} brings files that run code at every start",
                ", ".join(strange),
                "Do not use this version",
                exit_code=EX_DATAERR,
                code="strange-pth",
            )
        (folder / ".complete").touch()
        return folder
    finally:
        import shutil

        shutil.rmtree(resolver, ignore_errors=True)


def _lock(report: dict[str, Any]) -> str:
    """pip's report (its documented format 1) as a requirement file with hashes and without addresses."""
    lines = []
    for item in report["install"]:
        hashes = item["download_info"]["archive_info"]["hashes"]
        meta = item["metadata"]
        lines.append(f"{meta['name']}=={meta['version']} --hash=sha256:{hashes['sha256']}")
    return "\n".join(sorted(lines)) + "\n"


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise OcdError(
            f"Cannot {what}",
            last[0] if last else f"exit status {done.returncode}",
            "Check the version's number, the network and the disk",
            exit_code=EX_UNAVAILABLE,
            code="install-failed",
        )
    return done.stdout


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".litellm.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _reload(daemon: Daemon) -> Any:
    from ocd.wire.messages import Outcome, ReloadRequest

    return daemon.post(Outcome, "/v1/reload", ReloadRequest())


def _report(as_json: bool, ok: bool, changed: bool, text: str) -> int:
    if as_json:
        screen.out_json({"ok": ok, "changed": changed, "reason": text})
    else:
        screen.out(text + ".")
    return 0
