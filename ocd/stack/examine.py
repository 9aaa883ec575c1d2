"""Everything about the two LiteLLM files that takes a YAML parser, in a process of its own.

``python -m ocd.stack.examine [--settings FILE] [--site FOLDER]`` prints one JSON object: ``findings`` of the check;
per proxy in ``revisions`` a snapshot (``id``, ``config``, ``origin``) or the ``error`` why there is none; in
``inputs`` the files that each proxy depends on; in ``retiring`` the models whose end is known; in ``models`` what
a person has to know of main's model groups. The daemon runs it
before each reload: YAML of any kind can neither slow it down nor fill its memory, and the parser's own memory is not
the daemon's.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from ocd.errors import OcdError
from ocd.settings.findings import ConfigError, Finding
from ocd.settings.folders import Folders
from ocd.settings.load import Settings, from_json, load
from ocd.stack import picker, pipe, snapshot
from ocd.stack.abilities import FILE as CONTRACT
from ocd.stack.abilities import contract, efforts_of
from ocd.stack.check import check_stack, limit_resources, own_site
from ocd.stack.inputs import config_path, inputs
from ocd.stack.litellm_file import load_litellm
from ocd.stack.models import load_table
from ocd.stack.rules.retire import retirements

PROXIES = ("main", "bedrock")


def examine(folders: Folders, settings: Settings, site: Path | None) -> dict[str, Any]:
    """Check, take snapshots, list the inputs. A mistake in a file is part of the answer, never an exception."""
    retiring: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Any]] = {}
    models: list[dict[str, Any]] = []
    try:
        findings, stack = check_stack(folders, settings, site or own_site(settings))
        tables = {proxy: pipe.table(stack, proxy) for proxy in PROXIES}
        with contextlib.suppress(Exception):
            # told by the check already, as "check-failed"
            retiring = [one.as_dict() for one in retirements(stack)]
        with contextlib.suppress(Exception):
            # a file that the check refuses, too: what it could not say is not shown
            models = picker.rows(stack, load_table(site or own_site(settings)))
            tables["main"]["models"] = [
                {"id": row["model"], "display_name": row["label"], "description": row["description"]}
                for row in models
            ]
            models += picker.patterns(stack)
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
            beside = {pipe.FILE: json.dumps(tables.get(proxy, {}), sort_keys=True).encode()}
            beside |= _beside(folders, settings, proxy, site or own_site(settings))
            taken = snapshot.take(folders, settings, proxy, beside)
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
            "retiring": retiring, "models": models}  # fmt: skip


def _beside(folders: Folders, settings: Settings, proxy: str, site: Path | None) -> dict[str, bytes]:
    """What bedrock's layers need to know of its models. A file that cannot be read is told by the check."""
    if proxy != "bedrock":
        return {}
    try:
        found = contract(
            load_litellm(config_path(folders, settings, proxy)), load_table(site), efforts_of(site)
        )
    except ConfigError:
        return {}
    return {CONTRACT: json.dumps(found, sort_keys=True).encode()}


def main(arguments: list[str]) -> int:
    """``[--settings FILE] [--site FOLDER]``: print the answer as one JSON object; exit code 0 whatever it says.

    FILE: settings instead of ocd.toml, as ``Settings`` in JSON; ocd.toml may be broken just now.
    """
    limit_resources()
    given = {name: Path(arguments[i + 1]) for i, name in enumerate(arguments[:-1]) if name.startswith("--")}
    folders = Folders.find()
    kept = given.get("--settings")
    settings = load(folders) if kept is None else from_json(kept.read_text("utf-8"))
    print(json.dumps(examine(folders, settings, given.get("--site"))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
