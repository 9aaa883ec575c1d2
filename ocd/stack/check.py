"""Is the configuration fit to serve? ``python -m ocd.stack.check [--json]`` prints what is wrong, worst
first.

The daemon runs it in a process of its own before each reload, so that hostile or huge files cost it neither
memory nor time; the process limits itself. Exit code 78 when a finding is an error, else 0.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ocd.errors import EX_CONFIG
from ocd.settings.findings import ConfigError, Finding, worst_first
from ocd.settings.folders import Folders
from ocd.settings.load import FILE, Settings, load
from ocd.stack.inputs import config_path
from ocd.stack.litellm_file import LiteLLMFile, load_litellm
from ocd.stack.models import load_ids, site_packages
from ocd.stack.rules import ALL
from ocd.stack.stack import Stack

#: limits of the checking process: seconds, bytes
SECONDS = 20
MEMORY = 1 << 30
#: findings that are told; a broken file repeats itself
MOST = 200


def check(folders: Folders, settings: Settings, litellm_site: Path | None) -> list[Finding]:
    """What is wrong in the LiteLLM files of the enabled proxies, worst first; empty when nothing is.

    ``litellm_site`` is the site-packages folder of LiteLLM's environment
    (``ocd.stack.models.site_packages``); without it model ids and imports are not looked up. Never raises
    for what stands in a file.
    """
    return check_stack(folders, settings, litellm_site)[0]


def check_stack(
    folders: Folders, settings: Settings, litellm_site: Path | None
) -> tuple[list[Finding], Stack]:
    """``check``, and what it looked at."""
    findings: list[Finding] = []
    files: dict[str, LiteLLMFile | None] = {}
    for proxy in ("main", "bedrock"):
        files[proxy] = None
        if settings.proxy(proxy).enabled:
            try:
                files[proxy] = file = load_litellm(config_path(folders, settings, proxy))
                findings += file.findings
            except ConfigError as error:
                findings += error.findings
    stack = Stack(
        settings, files["main"], files["bedrock"], folders.config / FILE, litellm_site, load_ids(litellm_site)
    )
    for rule in ALL:
        try:
            findings += rule(stack)
        except Exception as error:
            # A check must not keep a good configuration from serving; the tests look for this code.
            name = f"{rule.__module__}.{rule.__name__}"
            what = f"the check {name} failed ({type(error).__name__}); the rest was checked"
            findings.append(Finding("note", "check-failed", str(folders.config), None, "", what, "Report it"))
    return worst_first(dict.fromkeys(findings))[:MOST], stack


def check_all(folders: Folders, environ: Mapping[str, str], site: Path | None = None) -> list[Finding]:
    """Like ``check``, ``ocd.toml`` included; ``site`` None: that of ``litellm.python``, if set."""
    try:
        settings = load(folders, environ)
    except ConfigError as error:
        return worst_first(error.findings)
    return check(folders, settings, site or own_site(settings))


def own_site(settings: Settings) -> Path | None:
    """The site-packages folder of ``litellm.python``; None when it is not set, or has no LiteLLM."""
    return site_packages(settings.litellm.python) if settings.litellm.python else None


def limit_resources() -> None:
    import resource
    import signal

    def late(*_: object) -> None:
        what = f"reading the configuration takes more than {SECONDS} seconds"
        finding = Finding("error", "check-too-slow", "", None, "", what, "Put back plain configuration files")
        _print([finding], "--json" in sys.argv)
        sys.stdout.flush()
        os._exit(EX_CONFIG)

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _print(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings]))
        return
    for finding in findings:
        print(f"{finding.severity}: {finding.sentence()}")


def main(arguments: list[str]) -> int:
    """``[--json] [--site FOLDER]``; prints the findings and returns the exit code."""
    limit_resources()
    site = Path(arguments[arguments.index("--site") + 1]) if "--site" in arguments[:-1] else None
    try:
        findings = check_all(Folders.find(), os.environ, site)
    except MemoryError:
        what = "the configuration needs too much memory to read"
        findings = [
            Finding("error", "check-too-large", "", None, "", what, "Put back plain configuration files")
        ]
    _print(findings, "--json" in arguments)
    return EX_CONFIG if any(finding.severity == "error" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
