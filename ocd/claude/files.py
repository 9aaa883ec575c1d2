"""Claude Code's settings files, read. What is written for a session: ``ocd/claude/lasting.py``.

Reading is tolerant: a file that is broken costs a notice, not the session. Places of managed settings:
Claude Code's documentation of settings (code.claude.com/docs/en/settings); ``remote-settings.json`` in the
user's folder is where it keeps those that its server sent.
"""

import errno
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocd.errors import EX_DATAERR, EX_NOINPUT, EX_NOPERM, OcdError

SIZE_LIMIT = 1 << 20
Settings = dict[str, Any]


class Unreadable(Exception):
    """Why a settings file cannot be taken into account; never holds a part of its content."""


def config_folder(env: Mapping[str, str], cwd: str) -> Path:
    """Claude Code's folder of the user: ``CLAUDE_CONFIG_DIR``, else ``~/.claude``."""
    explicit = env.get("CLAUDE_CONFIG_DIR")
    if explicit:
        return Path(cwd, explicit)
    return Path(env.get("HOME") or os.path.expanduser("~"), ".claude")


def own_alone(folder: Path) -> None:
    """Be sure that a folder for Claude Code is the user's, and nobody else's to look into (0700).

    Raises OcdError (exit 77) when it is somebody else's or no folder, OSError when its mode cannot be set.
    """
    found = folder.stat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise OcdError(
            f"The folder {folder} belongs to somebody else",
            f"its owner is user {found.st_uid}",
            f"Move {folder} away",
            exit_code=EX_NOPERM,
            code="foreign-folder",
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def read_optional(path: Path, notices: list[str]) -> Settings:
    """A settings file as a dictionary; empty if there is none, empty with a notice if it cannot be used."""
    try:
        return _read(path)
    except FileNotFoundError:
        return {}
    except Unreadable as reason:
        notices.append(f"{path} is not taken into account: {reason}")
        return {}


def read_user(env: Mapping[str, str], cwd: str, notices: list[str]) -> Settings:
    """The user's own settings.json."""
    return read_optional(config_folder(env, cwd) / "settings.json", notices)


def read_project_model(cwd: str, notices: list[str]) -> Any:
    """The ``model`` that the project in ``cwd`` chooses, None if it does not.

    Only that: Claude Code asks before it trusts a project's settings, so the overlay must not carry them
    past it.
    """
    model = None
    for name in ("settings.json", "settings.local.json"):
        model = read_optional(Path(cwd, ".claude", name), notices).get("model", model)
    return model


def read_given(value: str | None, cwd: str) -> Settings | None:
    """What the user gave with ``--settings``: JSON text, or a file's path (relative to ``cwd``).

    Raises OcdError: exit 65 when it is not a JSON object, 66 when the file cannot be read.
    """
    if value is None:
        return None
    if value.lstrip().startswith("{"):
        try:
            return _parse(value.encode("utf-8", "surrogatepass"))
        except Unreadable as reason:
            raise OcdError(
                "The JSON text given with --settings cannot be used",
                str(reason),
                exit_code=EX_DATAERR,
                code="settings",
            ) from None
    path = Path(cwd, value)
    try:
        return _read(path)
    except (FileNotFoundError, ValueError):
        raise OcdError(
            f"The settings file {path} does not exist",
            "",
            "Check the path after --settings",
            exit_code=EX_NOINPUT,
            code="settings",
        ) from None
    except Unreadable as reason:
        raise OcdError(
            f"The settings file {path} cannot be used", str(reason), exit_code=EX_DATAERR, code="settings"
        ) from None


def read_managed(root: str, folder: Path, notices: list[str]) -> Settings:
    """The administrator's settings, all sources in one; ``root`` stands for ``/`` (tests), ``folder`` is the
    user's.

    Later sources win, the ``env`` of all is merged: what matters here is only whether anything stands
    against us.
    """
    if sys.platform == "darwin":
        base = Path(root, "Library/Application Support/ClaudeCode")
    else:
        base = Path(root, "etc/claude-code")
    paths = [base / "managed-settings.json", *_listed(base / "managed-settings.d")]
    found = [read_optional(path, notices) for path in paths]
    if sys.platform == "darwin":
        found += _managed_preferences(Path(root, "Library/Managed Preferences"), notices)
    found.append(read_optional(folder / "remote-settings.json", notices))
    merged: Settings = {}
    env: Settings = {}
    for settings in found:
        merged.update(settings)
        if isinstance(settings.get("env"), dict):
            env.update(settings["env"])
    if env:
        merged["env"] = env
    return merged


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith(".")
        )
    except OSError:
        return []


def _managed_preferences(folder: Path, notices: list[str]) -> list[Settings]:
    import getpass
    import plistlib

    found = []
    for path in (
        folder / "com.anthropic.claudecode.plist",
        folder / getpass.getuser() / "com.anthropic.claudecode.plist",
    ):
        try:
            settings = plistlib.loads(_bytes(path))
        except FileNotFoundError:
            continue
        except (Unreadable, ValueError, plistlib.InvalidFileException) as reason:
            notices.append(f"{path} is not taken into account: {reason}")
            continue
        if isinstance(settings, dict):
            found.append(settings)
    return found


def _read(path: Path) -> Settings:
    return _parse(_bytes(path))


def _bytes(path: Path) -> bytes:
    """The file's content. Raises FileNotFoundError, Unreadable; never waits, never reads without end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise FileNotFoundError from None
        raise Unreadable(error.strerror or "it cannot be opened") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("it is not a file")
        if found.st_size > SIZE_LIMIT:
            raise Unreadable(f"it is larger than {SIZE_LIMIT >> 20} MiB")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise Unreadable(error.strerror or "it cannot be read") from None
    finally:
        os.close(descriptor)


def _parse(content: bytes) -> Settings:
    if not content.strip():
        return {}
    try:
        settings = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except (ValueError, RecursionError):
        raise Unreadable("it is not valid JSON") from None
    if not isinstance(settings, dict):
        raise Unreadable("it is not a JSON object")
    if not isinstance(settings.get("env", {}), dict):
        raise Unreadable('its "env" is not a JSON object')
    return settings
