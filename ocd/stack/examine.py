"""Everything about the two LiteLLM files that takes a YAML parser, in a process of its own.

``python -m ocd.stack.examine [--site FOLDER]`` prints one JSON object: ``findings`` of the check; per proxy in
``revisions`` a snapshot (``id``, ``config``, ``origin``) or the ``error`` why there is none; in ``inputs`` the files
that each proxy depends on; in ``retiring`` the models whose end is known. The daemon runs it before each reload: YAML
of any kind can neither slow it down nor fill its memory, and the parser's own memory is not the daemon's.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from ocd.errors import OcdError
from ocd.settings.findings import ConfigError, Finding
from ocd.settings.folders import Folders
from ocd.settings.load import Settings, load
from ocd.stack import snapshot
from ocd.stack.abilities import FILE as CONTRACT
from ocd.stack.abilities import contract
from ocd.stack.check import check_stack, limit_resources, own_site
from ocd.stack.inputs import config_path, inputs
from ocd.stack.litellm_file import load_litellm
from ocd.stack.models import load_table
from ocd.stack.rules.retire import retirements

PROXIES = ("main", "bedrock")


def examine(folders: Folders, settings: Settings, site: Path | None) -> dict[str, Any]:
    """Check, take snapshots, list the inputs. A mistake in a file is part of the answer, never an exception."""
    retiring: list[dict[str, Any]] = []
    try:
        findings, stack = check_stack(folders, settings, site or own_site(settings))
        with contextlib.suppress(Exception):
            # told by the check already, as "check-failed"
            retiring = [one.as_dict() for one in retirements(stack)]
    except MemoryError:
        what = "the configuration needs too much memory to read"
        findings = [
            Finding("error", "check-too-large", "", None, "", what, "Put back plain configuration files")
        ]
    revisions: dict[str, dict[str, str]] = {}
    files: dict[str, list[str]] = {}
    for proxy in PROXIES:
        if not getattr(settings.proxies, proxy).enabled:
            continue
        try:
            taken = snapshot.take(
                folders, settings, proxy, _beside(folders, settings, proxy, site or own_site(settings))
            )
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
    return {"findings": [finding.as_dict() for finding in findings], "revisions": revisions, "inputs": files,
            "retiring": retiring}  # fmt: skip


def _beside(folders: Folders, settings: Settings, proxy: str, site: Path | None) -> dict[str, bytes]:
    """What bedrock's layers need to know of its models. A file that cannot be read is told by the check."""
    if proxy != "bedrock":
        return {}
    try:
        found = contract(load_litellm(config_path(folders, settings, proxy)), load_table(site))
    except ConfigError:
        return {}
    return {CONTRACT: json.dumps(found, sort_keys=True).encode()}


def main(arguments: list[str]) -> int:
    """``[--site FOLDER]``: print the answer as one JSON object; exit code 0 whatever it says."""
    limit_resources()
    site = Path(arguments[arguments.index("--site") + 1]) if "--site" in arguments[:-1] else None
    folders = Folders.find()
    print(json.dumps(examine(folders, load(folders), site)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
