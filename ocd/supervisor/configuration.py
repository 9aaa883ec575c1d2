"""From the user's files to something that may be served: load, check, snapshot. Changes nothing by itself."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocd.config import snapshot
from ocd.config.folders import Folders
from ocd.config.schema import Settings
from ocd.errors import OcdError
from ocd.supervisor import spec
from ocd.supervisor.unit import Config

#: seconds; a hostile file must not hold up the daemon
CHECK_TIMEOUT = 30.0


@dataclass
class Candidate:
    """A proxy's configuration as the files have it now: to be served, or refused with the reason."""

    proxy: str
    config: Config | None
    reason: str = ""


async def candidates(
    folders: Folders, settings: Settings, home: str, path: str, host: str
) -> dict[str, Candidate]:
    """Check both proxies' files and take snapshots of those that pass. Never raises for a mistake in a file."""
    findings = await run_check(folders)
    found = {}
    for proxy in spec.PROXIES:
        if not getattr(settings.proxies, proxy).enabled:
            continue
        found[proxy] = await asyncio.to_thread(
            _candidate, folders, settings, proxy, findings, home, path, host
        )
    return found


def _candidate(
    folders: Folders,
    settings: Settings,
    proxy: str,
    findings: list[dict[str, Any]],
    home: str,
    path: str,
    host: str,
) -> Candidate:
    origin = config_path(folders, settings, proxy)
    wrong = [
        f for f in findings if f.get("severity") == "error" and _concerns(f, origin, folders, settings, proxy)
    ]
    if wrong:
        return Candidate(proxy, None, "; ".join(sentence(f) for f in wrong[:3]))
    try:
        taken = snapshot.take(folders, settings, proxy)
    except OcdError as error:
        return Candidate(proxy, None, error.sentence())
    revision = spec.revision(taken.id, settings, proxy, home, path, host)
    return Candidate(proxy, Config(revision, taken.config, taken.origin))


def _concerns(
    finding: dict[str, Any], origin: Path, folders: Folders, settings: Settings, proxy: str
) -> bool:
    """Findings name a file; one in a file that is nobody's own (an include, a module) concerns both proxies."""
    file = os.path.realpath(str(finding.get("file", "")))
    others = {
        os.path.realpath(config_path(folders, settings, other)) for other in spec.PROXIES if other != proxy
    }
    return file == os.path.realpath(origin) or file not in others


def sentence(finding: dict[str, Any]) -> str:
    place = (
        f"{finding.get('file', '')}:{finding['line']}"
        if finding.get("line")
        else str(finding.get("file", ""))
    )
    key = f" {finding['key']}:" if finding.get("key") else ""
    return f"{place}:{key} {finding.get('what', '')}".strip()


def config_path(folders: Folders, settings: Settings, proxy: str) -> Path:
    return Path(folders.config / getattr(settings.proxies, proxy).config)


async def run_check(folders: Folders) -> list[dict[str, Any]]:
    """``ocd.config.check`` in a process of its own: YAML of any kind can neither slow down nor fill the daemon.

    Returns its findings; a check that crashes or hangs is one finding of its own, a warning: the file is then
    judged by whether it boots.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ocd.config.check",
        "--json",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            out, _ = await process.communicate()
        answer = json.loads(out)
        return list(answer["findings"] if isinstance(answer, dict) else answer)
    except (TimeoutError, ValueError, KeyError, TypeError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return [
            {
                "severity": "warning",
                "code": "check-failed",
                "file": str(folders.config),
                "line": None,
                "key": "",
                "what": "the configuration could not be checked",
                "fix": "Run `occtl config check` to see why",
            }
        ]
