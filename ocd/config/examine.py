"""Everything about the two LiteLLM files that takes a YAML parser, in a process of its own.

``python -m ocd.config.examine [--site FOLDER]`` prints one JSON object: ``findings`` of the check; per proxy in
``revisions`` a snapshot (``id``, ``config``, ``origin``) or the ``error`` why there is none; in ``inputs`` the files
that each proxy depends on. The daemon runs it before each reload: YAML of any kind can neither slow it down nor fill
its memory, and the parser's own memory is not the daemon's.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ocd.config import pipe, snapshot
from ocd.config.check import check_all, limit_resources
from ocd.config.findings import Finding
from ocd.config.folders import Folders
from ocd.config.inputs import config_path, inputs
from ocd.config.litellm_file import LiteLLMFile, load_litellm
from ocd.config.rules.stack import Stack
from ocd.config.settings import FILE, Settings, load
from ocd.errors import OcdError

PROXIES = ("main", "bedrock")


def examine(folders: Folders, settings: Settings, site: Path | None) -> dict[str, Any]:
    """Check, take snapshots, list the inputs. A mistake in a file is part of the answer, never an exception."""
    try:
        findings = check_all(folders, os.environ, site)
    except MemoryError:
        what = "the configuration needs too much memory to read"
        findings = [
            Finding("error", "check-too-large", "", None, "", what, "Put back plain configuration files")
        ]
    revisions: dict[str, dict[str, str]] = {}
    files: dict[str, list[str]] = {}
    tables = routing(folders, settings)
    for proxy in PROXIES:
        if not getattr(settings.proxies, proxy).enabled:
            continue
        try:
            taken = snapshot.take(folders, settings, proxy, tables.get(proxy))
            revisions[proxy] = {"id": taken.id, "config": str(taken.config), "origin": str(taken.origin)}
        except (OcdError, MemoryError, RecursionError) as error:
            revisions[proxy] = {
                "error": error.sentence() if isinstance(error, OcdError) else "it cannot be read"
            }
        try:
            files[proxy] = [str(path) for path in inputs(folders, settings, proxy)]
        except (OcdError, MemoryError, RecursionError):
            # A broken file has no readable includes; the daemon watches the file itself anyway.
            files[proxy] = []
    return {"findings": [finding.as_dict() for finding in findings], "revisions": revisions, "inputs": files}


def routing(folders: Folders, settings: Settings) -> dict[str, dict[str, Any]]:
    """Each proxy's table of routes. A file that cannot be read has none, and is not served."""
    files: dict[str, LiteLLMFile | None] = {}
    for proxy in PROXIES:
        files[proxy] = None
        if getattr(settings.proxies, proxy).enabled:
            with contextlib.suppress(OcdError, MemoryError, RecursionError):
                files[proxy] = load_litellm(config_path(folders, settings, proxy))
    stack = Stack(settings, files["main"], files["bedrock"], folders.config / FILE, None, None)
    return {proxy: pipe.table(stack, proxy) for proxy in PROXIES}


def main(arguments: list[str]) -> int:
    """``[--site FOLDER]``: print the answer as one JSON object; exit code 0 whatever it says."""
    limit_resources()
    site = Path(arguments[arguments.index("--site") + 1]) if "--site" in arguments[:-1] else None
    folders = Folders.find()
    print(json.dumps(examine(folders, load(folders), site)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
