"""From the user's files to something that may be served: load, check, snapshot. Changes nothing by itself."""

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocd import paths
from ocd.errors import OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.retire import Retirement, from_dicts
from ocd.supervisor.supervision import litellm_env, spec
from ocd.supervisor.supervision.config import Config
from ocd.text import printable

#: seconds; a hostile file must not hold up the daemon
CHECK_TIMEOUT = 30.0


@dataclass
class Candidate:
    """A proxy's configuration as the files have it now: to be served, or refused with the reason."""

    proxy: str
    config: Config | None
    reason: str = ""


@dataclass
class Examined:
    """What the files say now: a candidate for each enabled proxy, every file that they depend on, and the models
    that will be taken away."""

    candidates: dict[str, Candidate]
    inputs: set[Path]
    retiring: list[Retirement]
    #: what a person has to know of main's model groups (``ocd.stack.picker``)
    rows: list[dict[str, Any]]


async def candidates(
    folders: Folders, settings: Settings, settings_id: str, toml: Path, home: str, path: str, host: str
) -> Examined:
    """Check both proxies' files and take snapshots of those that pass. Never raises for a mistake in a file.

    ``settings_id`` names the settings' snapshot, ``toml`` is its file.
    """
    answer = await run_examination(folders, settings, toml)
    found = {}
    for proxy, taken in answer["revisions"].items():
        origin = config_path(folders, settings, proxy)
        wrong = [
            f
            for f in answer["findings"]
            if f.get("severity") == "error" and _concerns(f, origin, folders, settings, proxy)
        ]
        if wrong:
            found[proxy] = Candidate(proxy, None, "; ".join(sentence(f) for f in wrong[:3]))
        elif "error" in taken:
            found[proxy] = Candidate(proxy, None, taken["error"])
        else:
            revision = spec.revision(
                taken["id"], settings, proxy, home, path, host, spec.team_key(settings, folders)
            )
            config = Config(revision, Path(taken["config"]), Path(taken["origin"]), settings, settings_id)
            found[proxy] = Candidate(proxy, config)
    inputs = {Path(file) for files in answer["inputs"].values() for file in files}
    return Examined(found, inputs, from_dicts(answer.get("retiring")), answer.get("models") or [])


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


async def run_examination(folders: Folders, settings: Settings, toml: Path) -> dict[str, Any]:
    """``ocd.stack.examine`` in a process of its own; one that crashes or hangs refuses the configuration."""
    command = [*paths.program("ocd.stack.examine"), "--settings", str(toml)]
    with contextlib.suppress(OcdError):
        site = litellm_env.site_packages(litellm_env.python(settings, folders))
        if site is not None:
            command += ["--site", str(site)]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd="/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    reason = f"it took longer than {CHECK_TIMEOUT:.0f} s to read"
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            out, err = await process.communicate()
        said = err.decode("utf-8", "replace").strip().splitlines()
        reason = printable(said[-1]) if said else "no reason was given"
        return dict(json.loads(out))
    except (TimeoutError, TypeError, ValueError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    enabled = [proxy for proxy in spec.PROXIES if getattr(settings.proxies, proxy).enabled]
    error = f"the configuration could not be examined: {reason}"
    return {"findings": [], "revisions": {proxy: {"error": error} for proxy in enabled}, "inputs": {}}
