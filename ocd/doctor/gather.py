"""Look at this machine: files, service manager, ports, the running daemon. Contacts nobody else, changes nothing."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx  # noqa: F401

from ocd import __version__, paths
from ocd.adapters.ports import holder
from ocd.aws.ask import report
from ocd.claude import files, overlay, variables
from ocd.client.__main__ import find_claude
from ocd.ctl.daemon import Daemon, NotRunning
from ocd.doctor import checks
from ocd.doctor.report import Check, Row, of_error
from ocd.errors import OcdError
from ocd.service import launchd, systemd  # noqa: F401
from ocd.service.base import overlooked, template
from ocd.service.manager import current
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.keys import load_or_create
from ocd.settings.load import FILE, Settings, load
from ocd.stack.inputs import config_path
from ocd.stack.migrate import find
from ocd.stack.presets import PRESETS
from ocd.stack.presets import files as files_of
from ocd.stack.trial import litellm_site
from ocd.supervisor.supervision import litellm_env, spec  # noqa: F401
from ocd.text import printable
from ocd.wire.messages import LaunchRequest, Status

# All imports stand here, those that other modules put off too: the checks are threads, and modules that import
# each other while several threads load them can lock each other out.

#: seconds for the check of the configuration, which limits itself to 20
_CONFIG_SECONDS = 25.0
_PIN = re.compile(r"^litellm==(\S+)", re.MULTILINE)
#: of a folder of logs or overlays that is looked at
_MOST_FILES = 200


def all_checks(folders: Folders) -> dict[str, Check]:
    """Every check by its name, ready to be run in any order."""
    try:
        settings = load(folders)
    except OcdError:
        # the configuration check tells; the others look at what the defaults say
        settings = Settings()
    return {
        "installation": partial(installation, folders, settings),
        "service": service,
        "permissions": partial(permissions, folders, settings),
        "disk": partial(disk, folders),
        "clock": clock,
        "configuration": partial(configuration, folders, settings),
        "daemon": partial(daemon, settings),
        "AWS": partial(aws, folders),
        "Claude Code": partial(claude, settings),
        "environment": partial(environment, settings),
        "keys": partial(keys, folders),
        "earlier set-up": partial(earlier, folders, settings),
    }


def installation(folders: Folders, settings: Settings) -> list[Row]:
    own = f"ocd {__version__}, Python {sys.version.split()[0]}, {sys.executable}"
    rows = [Row("ok", "installation", "ocd", own)]
    if settings.external.enabled:
        rows.append(
            Row(
                "ok",
                "installation",
                "external",
                f"an external LiteLLM server is used: {settings.external.base_url}",
            )
        )
    else:
        try:
            python = litellm_env.python(settings, folders)
        except OcdError as error:
            rows.append(of_error("installation", error))
        else:
            rows += checks.litellm(_litellm_version(python), _pinned(), python)
    try:
        environ = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
        rows.append(Row("ok", "installation", "claude", f"Claude Code: {printable(find_claude(environ))}"))
    except OcdError as error:
        rows.append(of_error("installation", error))
    there = (folders.bin / "openclaude").exists()
    rows += checks.command_path(str(folders.bin), os.environ.get("PATH", ""), there)
    return rows


def _litellm_version(python: str) -> str:
    """From the installed package's folder name: no interpreter is started for it."""
    site = litellm_env.site_packages(python)
    names = sorted(found.name for found in site.glob("litellm-*.dist-info")) if site else []
    return names[-1].removeprefix("litellm-").removesuffix(".dist-info") if names else ""


def _pinned() -> str:
    try:
        found = _PIN.search(template("requirements", "litellm.txt"))
    except OcdError:
        return ""
    return found[1] if found else ""


def service() -> list[Row]:
    manager = current()
    why = manager.available()
    if why:
        return checks.service(checks.Service(manager.name, why, False, "", None))
    return checks.service(
        checks.Service(manager.name, "", manager.installed(), manager.state(), manager.lingers())
    )


def permissions(folders: Folders, settings: Settings) -> list[Row]:
    own: list[Path] = [folders.state, folders.runtime]
    own += [folders.state / name for name in ("keys.json", "external-key", "team-key", "usage.db")]
    for folder in (folders.state / "logs", folders.runtime):
        with contextlib.suppress(OSError):
            own += sorted(found for found in folder.iterdir() if not found.is_socket())[:_MOST_FILES]
    config = [folders.config, folders.config / FILE]
    config += [config_path(folders, settings, name) for name in ("main", "bedrock")]
    return checks.private(_entries(own)) + checks.writable(_entries(config))


def _entries(paths: list[Path]) -> list[checks.Entry]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            seen = path.lstat()
            found.append(checks.Entry(str(path), seen.st_mode, seen.st_uid == os.getuid()))
    return found


def disk(folders: Folders) -> list[Row]:
    folder = folders.state
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return checks.disk(shutil.disk_usage(folder).free, str(folder))


def clock() -> list[Row]:
    return checks.clock(time.time(), Path(__file__).stat().st_mtime)


def configuration(folders: Folders, settings: Settings) -> list[Row]:
    """The findings of the check, run in a process of its own: a hostile file costs this report nothing."""
    command = [*paths.program("ocd.stack.check"), "--json"]
    site = litellm_site(folders, settings)
    if site is not None:
        command += ["--site", str(site)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CONFIG_SECONDS,
            cwd="/",
        )
        findings = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        what = "The configuration could not be examined"
        return [
            Row(
                "error",
                "configuration",
                "check-crashed",
                what,
                "the check itself failed",
                "`occtl config check`",
            )
        ]
    return _rows_of(findings) or [
        Row("ok", "configuration", "configuration", f"The configuration in {folders.config} is in order")
    ]


def _rows_of(findings: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for one in findings:
        place = f"{one['file']}:{one['line']}" if one["line"] else one["file"]
        where = f"{place}: {one['key']}" if one["key"] else place
        fix = "`occtl config check --fix`" if one["fixable"] else one["fix"] or "`occtl config check`"
        rows.append(Row(one["severity"], "configuration", one["code"], f"{where}: {one['what']}", "", fix))
    return rows


def daemon(settings: Settings) -> list[Row]:
    try:
        with Daemon() as line:
            return checks.status(line.get(Status, "/v1/status"), __version__)
    except NotRunning:
        why = "openclaude starts it by itself; nothing of its state is known here"
        rows = [Row("warning", "daemon", "not-running", "The daemon is not running", why, "`occtl start`")]
        return rows + ([] if settings.external.enabled else ports(settings))


def ports(settings: Settings) -> list[Row]:
    """Who has our ports while no daemon of ours does."""
    rows = []
    for name, port in settings.ports().items():
        found = holder(port) if settings.proxy(name).enabled else None
        if found is None:
            continue
        who = f"{found.command or 'a process'} (pid {found.pid or 'unknown'}, user {found.user or 'unknown'})"
        fix = (
            f"`kill {found.pid}`"
            if found.pid
            else f"End it, or set {'port' if name == 'main' else 'bedrock_port'} in ocd.toml"
        )
        if "litellm" in found.command:
            fix += "; `occtl migrate` brings its configuration along"
        rows.append(Row("error", "ports", "port-taken", f"Port {port} ({name}) is taken", who, fix))
    return rows


def aws(folders: Folders) -> list[Row]:
    try:
        settings = load(folders)
        found = report(folders, settings)
    except ConfigError:
        return []  # told by the check of the configuration
    except OcdError as error:
        return [] if error.code == "no-litellm" else [of_error("AWS", error, "warning")]
    rows = []
    for verdict in found.verdicts:
        for problem in verdict.problems:
            rows.append(Row(problem.severity, "AWS", problem.code, problem.what, problem.why, problem.next))
        if verdict.usable:
            rows.append(Row("ok", "AWS", "aws", f"{', '.join(verdict.routes)}: {verdict.source}"))
    return rows


def claude(settings: Settings) -> list[Row]:
    """What stands against us in Claude Code's own settings, the administrator's first."""
    notices: list[str] = []
    cwd = os.getcwd()
    folder = files.config_folder(os.environ, cwd)
    user = files.read_user(os.environ, cwd, notices)
    rows = [
        Row("warning", "Claude Code", "settings-unreadable", text, "", f"Correct it in {folder}")
        for text in notices
    ]
    told: list[str] = []
    managed = files.read_managed("/", folder, told)
    slots = overlay.Slots(**settings.slots.model_dump())
    made = overlay.build(
        LaunchRequest(pid=os.getpid(), cwd=cwd),
        user_settings={},
        extra_settings=None,
        managed=managed,
        slots=slots,
        base_url=f"http://127.0.0.1:{settings.port}",
        key="none",
        auth=settings.auth,
    )
    for text in made.notices:
        if "managed" in text:
            rows.append(Row("warning", "Claude Code", "managed-settings", text, "", "Ask your administrator"))
    env = user["env"] if isinstance(user.get("env"), dict) else {}
    names = [name for name in (*variables.EMPTIED, *variables.REPLACED, *made.pins) if env.get(name)]
    names += ["apiKeyHelper"] if user.get("apiKeyHelper") else []
    ours = env.get("ANTHROPIC_BASE_URL") == made.settings["env"]["ANTHROPIC_BASE_URL"]
    stale = [name for pins in overlay.PINS.values() for name in pins if env.get(name)]
    stale = [name for name in stale if env[name] != made.settings["env"].get(name, "")]
    if ours and stale:
        what = f"{folder / 'settings.json'} pins slots as they were at another time: {', '.join(stale)}"
        why = "claude itself asks for those models, whatever ocd.toml says now"
        rows.append(Row("warning", "Claude Code", "stale-settings", what, why, "`occtl claude configure`"))
    # `occtl claude configure` writes the same keys: those are ours
    if names and not ours:
        what = f"{folder / 'settings.json'} sets {', '.join(names)}"
        why = "openclaude sets them aside for its sessions; claude itself uses them"
        rows.append(
            Row(
                "note",
                "Claude Code",
                "own-settings",
                what,
                why,
                "Nothing, unless claude itself should change",
            )
        )
    return rows


def environment(settings: Settings) -> list[Row]:
    rows = checks.environment(sorted(name for name, value in os.environ.items() if value), settings.auth)
    manager = current()
    if not manager.available() and manager.installed():
        for text in overlooked():
            rows.append(Row("warning", "environment", "overlooked", text, "", "`occtl config edit`"))
    return rows


def keys(folders: Folders) -> list[Row]:
    path = folders.state / "keys.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        fix = f"Remove {path}; `occtl start` makes new ones"
        return [
            Row(
                "error",
                "keys",
                "keys-unreadable",
                "The proxies' keys cannot be read",
                error.strerror or "",
                fix,
            )
        ]
    except ValueError:
        found = None
    if isinstance(found, dict) and "keyring" in found:
        try:
            stored = load_or_create(folders)
        except OcdError as error:
            return [Row("error", "keys", error.code, error.what, error.why, error.next_step)]
        found = {"main": stored.main, "bedrock": stored.bedrock}
    return checks.keys(found if isinstance(found, dict) else None)


def earlier(folders: Folders, settings: Settings) -> list[Row]:
    """A set-up of before ocd that nobody has brought along."""
    found = find(Path.home())
    # with isolation = "separate" that folder is ours
    separate = found.separate if settings.isolation != "separate" else None
    places = ", ".join(str(path) for path in (found.main, found.bedrock, separate) if path)
    if not places:
        return []
    try:
        own = (folders.config / "litellm.yaml").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        own = ""
    if own and own != files_of(PRESETS["mixed"], settings.aws_region)["litellm.yaml"]:
        what, why = "A set-up of before ocd is still there", f"{places}; ocd does not use it"
        return [Row("note", "earlier set-up", "seeds-left", what, why, "`occtl migrate --dry-run` compares")]
    what = "A set-up of before ocd can be brought along"
    return [Row("warning", "earlier set-up", "seeds-found", what, places, "`occtl migrate`")]
