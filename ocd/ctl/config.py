"""``occtl config``: where the files are, what is in force, what is wrong with them, and an editor."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning, is_running
from ocd.ctl.finding import finding_line
from ocd.ctl.options import KeyName, examples, json_option
from ocd.errors import EX_CONFIG, EX_OK, EX_UNAVAILABLE, OcdError

if TYPE_CHECKING:
    from ocd.settings.findings import Finding
    from ocd.settings.folders import Folders
    from ocd.settings.schema import Settings
    from ocd.wire.messages import ConfigReply

#: what a person calls the three files
_FILES = ("ocd", "main", "bedrock")

_dry_run = click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")


@click.group()
def config() -> None:
    """Find, show, check and edit the configuration."""


@config.command(
    short_help="Print the configuration folder, or the path of a file.",
    epilog=examples("cd $(occtl config path)", "less $(occtl config path main)"),
)
@click.argument("file", required=False, type=click.Choice(_FILES))
@json_option
def path(file: str | None, as_json: bool) -> int:
    """Print the configuration folder, or the path of one of the three files."""
    folder, files = _local_files()
    if as_json:
        screen.out_json({"folder": folder, "files": files})
    else:
        screen.out(files[file] if file else folder)
    return EX_OK


@config.command(short_help="Print the settings in force; secrets are hidden.")
@json_option
def show(as_json: bool) -> int:
    """Print the settings in force: the running daemon's, else what the files give. Secrets are hidden."""
    found, where = _settings()
    if as_json:
        screen.out_json(found)
        return EX_OK
    screen.out(f"# {where}")
    for name, file in found.files.items():
        screen.out(f"# {name}: {screen.plain(file)}")
    for line in _toml(found.settings):
        screen.out(line)
    return EX_OK


@config.command(
    short_help="Say what is wrong in the three files, with line and cure.",
    epilog=examples("occtl config check", "occtl config check --fix", "occtl config check --json"),
)
@json_option
@click.option("--fix", "mend", is_flag=True, help="Correct in the files what can be corrected mechanically.")
def check(as_json: bool, mend: bool) -> int:
    """Say what is wrong in ocd.toml and the two LiteLLM files, with file, line and cure.

    Ends with 78 when something will not work or gives a credential away. Needs no running daemon.
    """
    fixed = _mend() if mend else []
    findings = _findings()
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        screen.out_json(
            {"ok": not errors, "fixed": fixed, "findings": [finding.as_dict() for finding in findings]}
        )
        return EX_CONFIG if errors else EX_OK
    for change in fixed:
        screen.out(f"fixed: {screen.plain(change)}")
    for finding in findings:
        screen.out(finding_line(finding))
    if not findings:
        screen.out("The configuration is in order.")
    elif not mend and any(finding.fixable for finding in findings):
        count = sum(finding.fixable for finding in findings)
        screen.note(f"`occtl config check --fix` corrects {count} of {len(findings)}.")
    return EX_CONFIG if errors else EX_OK


@config.command(
    short_help="Print one setting that is in force.",
    epilog=examples("occtl config get aws_region", "occtl config get proxies.main.port --json"),
)
@click.argument("key", type=KeyName())
@json_option
def get(key: str, as_json: bool) -> int:
    """Print the value of KEY: the running daemon's, else what the files give. Secrets are hidden.

    KEY is a dotted path, as `config show` has it. A key that is not set prints nothing.
    """
    from ocd.ctl import setting

    return setting.get(key, _settings()[0].settings, as_json)


@config.command(
    "set",
    short_help="Set one key of ocd.toml, check it, reload.",
    epilog=examples(
        "occtl config set aws_region eu-central-1",
        "occtl config set supervision.idle_minutes 30 --dry-run",
        "occtl undo",
    ),
)
@click.argument("key", type=KeyName())
@click.argument("value")
@_dry_run
@json_option
def set_(key: str, value: str, dry_run: bool, as_json: bool) -> int:
    """Set KEY in ocd.toml to VALUE; comments and order in the file stay.

    It is checked before it is written: a value that KEY does not take ends with 64, one with which something would not
    work with 78, and nothing is changed. What changes is shown, what was there is kept (`occtl undo`), and the daemon
    takes it at once.
    """
    from ocd.ctl import setting

    return setting.change(key, value, dry_run, as_json)


@config.command(
    short_help="Take one key out of ocd.toml: its default holds.",
    epilog=examples("occtl config unset aws_region", "occtl config unset slots.opus --dry-run"),
)
@click.argument("key", type=KeyName())
@_dry_run
@json_option
def unset(key: str, dry_run: bool, as_json: bool) -> int:
    """Take KEY out of ocd.toml, so that its default holds; otherwise like `config set`."""
    from ocd.ctl import setting

    return setting.change(key, None, dry_run, as_json)


@config.command(
    short_help="Open one of the three files in an editor, then check it.",
    epilog=examples("occtl config edit", "EDITOR=nano occtl config edit bedrock"),
)
@click.argument("file", default="ocd", type=click.Choice(_FILES))
def edit(file: str) -> int:
    """Open one of the three files (default: ocd.toml) in $VISUAL or $EDITOR, then check the configuration."""
    target = _local_files()[1][file]
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), target]).returncode
    except (OSError, ValueError) as error:
        raise OcdError(
            f"Cannot start the editor {editor}",
            str(getattr(error, "strerror", "") or error),
            "Set EDITOR to an editor that is installed",
            exit_code=EX_UNAVAILABLE,
            code="no-editor",
        ) from None
    if done:
        raise OcdError(
            f"The editor {editor} ended with {done}", exit_code=EX_UNAVAILABLE, code="editor-failed"
        )
    findings = _findings()
    for finding in findings:
        screen.out(finding_line(finding))
    if any(finding.severity == "error" for finding in findings):
        screen.note(
            "Until this is corrected, proxies that serve go on with the configuration that they have."
        )
        return EX_CONFIG
    if is_running():
        screen.note("Run `occtl reload` to see it take effect.")
    return EX_OK


def _findings() -> "list[Finding]":
    """Everything that the checks say, worst first; a settings file that does not load is a finding too."""
    from ocd.settings.findings import ConfigError, worst_first
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack.check import check

    folders = Folders.find()
    try:
        settings = load(folders)
    except ConfigError as error:
        return worst_first(error.findings)
    return worst_first(check(folders, settings, _litellm_site(folders, settings)))


def _litellm_site(folders: "Folders", settings: "Settings") -> Path | None:
    """LiteLLM's site-packages folder, from which the checks learn the model ids; None where it is missing."""
    from ocd.stack.models import site_packages

    return site_packages(settings.litellm.python or folders.data / "litellm" / "bin" / "python")


def _mend() -> list[str]:
    """Write the mechanical corrections, each file whole or not at all; returns the files' paths."""
    from ocd.settings import backup
    from ocd.settings.findings import ConfigError
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack.fix import fix_all

    folders = Folders.find()
    try:
        settings = load(folders)
    except ConfigError:
        # What is wrong in ocd.toml only its owner can know; the check that follows says where it is.
        return []
    changed = fix_all(folders, settings, _litellm_site(folders, settings))
    backup.change(folders, "config fix", changed)
    return [str(file) for file in changed]


def _local_files() -> tuple[str, dict[str, str]]:
    """The folder, and the three files by what a person calls them; ``ocd.toml`` may be wrong or missing."""
    from ocd.settings.findings import ConfigError
    from ocd.settings.folders import Folders
    from ocd.settings.load import FILE, load
    from ocd.settings.schema import Settings

    folders = Folders.find()
    try:
        settings = load(folders)
    except ConfigError:
        # To find the file is what one needs most when it is broken.
        settings = Settings()
    files = {"ocd": str(folders.config / FILE)}
    for name in ("main", "bedrock"):
        files[name] = str(folders.config / settings.proxy(name).config)
    return str(folders.config), files


def _settings() -> "tuple[ConfigReply, str]":
    from ocd.wire.messages import ConfigReply

    try:
        with Daemon() as daemon:
            return daemon.get(ConfigReply, "/v1/config"), "what the running daemon uses"
    except NotRunning:
        pass
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    settings = load(Folders.find())
    folder, files = _local_files()
    said = ConfigReply(folder=folder, files=files, settings=settings.model_dump(mode="json"))
    return said, "what the files say (the daemon is not running)"


def _toml(section: dict[str, Any], path: str = "") -> list[str]:
    """``section`` as TOML: plain keys, then sections below it."""
    lines = [f"{name} = {_value(value)}" for name, value in section.items() if not _is_section(value)]
    lines = [
        line if not line.endswith("= null") else f"#{line.removesuffix('= null')}= (not set)"
        for line in lines
    ]
    if path and lines:
        lines = ["", f"[{path}]", *lines]
    for name, value in section.items():
        if _is_section(value):
            lines += _toml(value, f"{path}.{name}" if path else name)
    return lines


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _value(value: Any) -> str:
    # JSON's texts, numbers, booleans and lists are TOML's too; an empty table is {} in both.
    return json.dumps(value, ensure_ascii=False)
