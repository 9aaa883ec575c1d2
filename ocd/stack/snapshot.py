"""Revisions: what passed the check is copied, and proxies boot from the copy (docs/architecture.md: why)."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ocd.errors import EX_CANTCREAT, EX_CONFIG, OcdError
from ocd.settings.folders import Folders, private_folder
from ocd.settings.schema import Settings
from ocd.stack.inputs import aws_files, config_path, litellm_inputs

#: bytes of all files of a revision
LARGEST = 32 << 20


@dataclass(frozen=True, slots=True)
class Revision:
    """``id``: 12 hex digits of the content's hash; ``folder``: the copy; ``config``: the YAML file in it,
    in whose folder the custom modules lie; ``origin``: the user's file."""

    id: str
    folder: Path
    config: Path
    origin: Path


def take(
    folders: Folders, settings: Settings, proxy: str, beside: Mapping[str, bytes] | None = None
) -> Revision:
    """Copy what ``proxy`` boots from and say which revision it is; the same content gives the same revision.

    ``beside`` are files of ours (name → bytes) that the configuration's folder gets as well.

    The id covers the files' bytes, AWS's two files for bedrock (which are not copied), and those settings
    that only a new process takes up. A file that is included by an absolute path is covered but stays where
    it is. Raises OcdError: exit 73 when it cannot be written (nothing half-made stays), 78 when a file
    cannot be read.
    """
    origin = config_path(folders, settings, proxy)
    contents = _contents(origin)
    config = _config_name(origin, contents)
    for name, raw in (beside or {}).items():
        contents[os.path.join(os.path.dirname(config), name)] = raw
    identity = hashlib.sha256(json.dumps(_own_settings(settings, proxy), sort_keys=True).encode())
    for name in sorted(contents):
        _feed(identity, name.encode(), contents[name])
    if proxy == "bedrock":
        for file in aws_files():
            with contextlib.suppress(OSError):
                _feed(identity, file.name.encode(), file.read_bytes())
    revision = identity.hexdigest()[:12]
    parent = folders.state / "revisions" / proxy
    folder = parent / revision
    inside = {name: raw for name, raw in contents.items() if not os.path.isabs(name)}
    result = Revision(revision, folder, folder / config, origin)
    if not _whole(folder, inside):
        _write(parent, folder, inside)
    return result


def prune(folders: Folders, proxy: str, keep: set[str]) -> list[str]:
    """Remove all revisions of ``proxy`` but ``keep``; returns what went. Trouble waits for next time."""
    parent = folders.state / "revisions" / proxy
    removed = []
    with contextlib.suppress(OSError):
        for found in sorted(parent.iterdir()):
            if found.name not in keep:
                shutil.rmtree(found, ignore_errors=True)
                removed.append(found.name)
    return removed


def _feed(identity: "hashlib._Hash", name: bytes, raw: bytes) -> None:
    identity.update(len(name).to_bytes(8, "big") + name + len(raw).to_bytes(8, "big") + raw)


def _own_settings(settings: Settings, proxy: str) -> dict[str, object]:
    own = settings.proxy(proxy)
    found: dict[str, object] = {
        "proxy": proxy,
        "workers": own.workers,
        "env": {name: value.get_secret_value() for name, value in own.env.items()},
        "python": settings.litellm.python,
        "args": settings.litellm.args,
        "mode": settings.litellm.mode,
        "boundary": settings.boundary.model_dump(),
    }
    if proxy == "main":
        found["hop"] = settings.ports()["bedrock"]
    else:
        found["aws"] = [settings.aws_profile, settings.aws_region]
    return found


def _contents(origin: Path) -> dict[str, bytes]:
    """Each file's bytes under its name in the snapshot; an absolute name stays outside."""
    yaml_files, code = litellm_inputs(origin)
    base = _base(origin, yaml_files)
    contents: dict[str, bytes] = {}
    total = 0
    for file in dict.fromkeys([origin, *yaml_files, *code]):
        path = Path(os.path.normpath(file))
        name = str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and file != origin:
                continue  # a missing include: the check says so, and LiteLLM itself
            raise OcdError(
                f"Cannot read {path}",
                error.strerror or "",
                "Correct the file, or what names it",
                exit_code=EX_CONFIG,
                code="file-unreadable",
            ) from None
        total += len(raw)
        if total > LARGEST:
            raise OcdError(
                f"The code beside {origin} is too much to copy",
                f"more than {LARGEST >> 20} MiB",
                "Give the LiteLLM file a folder of its own",
                exit_code=EX_CONFIG,
                code="snapshot-too-large",
            )
        contents[name] = raw
    return contents


def _base(origin: Path, yaml_files: list[Path]) -> Path:
    """The folder that the names in the snapshot are relative to: the YAML file's own, or one above it when
    a file is included by a relative path that leads upwards (no further than two levels)."""
    own = Path(os.path.normpath(origin)).parent
    folders = [Path(os.path.normpath(file)).parent for file in yaml_files]
    for base in (own, *list(own.parents)[:2]):
        if all(folder.is_relative_to(base) for folder in folders):
            return base
    return own


def _config_name(origin: Path, contents: dict[str, bytes]) -> str:
    path = Path(os.path.normpath(origin))
    names = [name for name in contents if not os.path.isabs(name) and str(path).endswith("/" + name)]
    return max(names, key=len, default=path.name)


def _whole(folder: Path, contents: dict[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == raw for name, raw in contents.items())
    except OSError:
        return False


def _write(parent: Path, folder: Path, contents: dict[str, bytes]) -> None:
    private_folder(parent.parent)
    private_folder(parent)
    temporary = parent / f".new-{secrets.token_hex(6)}"
    try:
        temporary.mkdir(mode=0o700)
        for name, raw in contents.items():
            target = temporary / name
            for missing in reversed([p for p in target.parents if p.is_relative_to(temporary)]):
                missing.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            # damaged: out of the way in one step, so that no one sees it half removed
            folder.rename(parent / f".old-{secrets.token_hex(6)}")
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _whole(folder, contents):
            return
        raise OcdError(
            f"Cannot copy the configuration to {folder}",
            error.strerror or "",
            "Free some space in the state folder",
            exit_code=EX_CANTCREAT,
            code="snapshot-not-written",
        ) from None
    for old in parent.glob(".old-*"):
        shutil.rmtree(old, ignore_errors=True)
