"""What running an export again changes. What we wrote is known by its hash; what a person wrote since is theirs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: in the folder, beside what it lists
MANIFEST = ".ocd-export.json"


@dataclass(slots=True)
class Plan:
    """``write`` and ``remove``: what is to be done; ``edited``: changed by hand since we wrote them, or never
    ours; ``kept``: the user's for good."""

    write: dict[str, bytes] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest(target: str, files: Mapping[str, bytes]) -> bytes:
    """The list of what we wrote."""
    hashes = {path: hash_of(content) for path, content in sorted(files.items())}
    return (json.dumps({"version": 1, "target": target, "files": hashes}, indent=1) + "\n").encode()


def read(content: bytes | None) -> tuple[str, dict[str, str]]:
    """A manifest's target and hashes; empty where there is none, or none that can be read: then nothing is ours."""
    try:
        said = json.loads(content or b"")
        files = {path: one for path, one in said["files"].items() if isinstance(one, str) and inside(path)}
        return str(said["target"]), files
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", {}


def inside(path: str) -> bool:
    """Whether a path of a manifest stays in the folder: somebody else may have written that."""
    return not path.startswith("/") and not {"..", "", "."} & set(path.split("/")) and "\0" not in path


def plan(
    wanted: Mapping[str, bytes],
    there: Mapping[str, bytes],
    ours: Mapping[str, str],
    once: Iterable[str] = (),
) -> Plan:
    """``there``: what the folder has of ``wanted`` and of ``ours`` (path → hash of what we wrote); ``once``: paths
    that are written into a new folder alone, and the user's from then on."""
    made = Plan()
    first = set(once)
    for path, content in wanted.items():
        found = there.get(path)
        if path in first:
            if found is None and not ours:
                made.write[path] = content
            elif found is not None:
                made.kept.append(path)
        elif found == content:
            made.same.append(path)
        else:
            made.write[path] = content
            if found is not None and hash_of(found) != ours.get(path):
                made.edited.append(path)
    for path, was in ours.items():
        if path in wanted or path not in there:
            continue
        made.remove.append(path)
        if hash_of(there[path]) != was:
            made.edited.append(path)
    return made
