"""Write the session's settings permanently into Claude Code's own ``settings.json``, and take them back.

A record in the state folder (0600) keeps the file's former bytes and mode, the hash of what was written, and each
key of ours with what it was before. Removing puts the former bytes back when nobody changed the file since;
otherwise only those of our keys go that still have our value.
"""

import base64
import binascii
import copy
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocd import atomic
from ocd.claude.files import SIZE_LIMIT
from ocd.errors import EX_CANTCREAT, EX_DATAERR, EX_IOERR, EX_NOINPUT, OcdError

RECORD = "claude-settings.json"
#: the one key that is switched apart from the others
STATUS_LINE = "statusLine"
KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What ``configure`` did. ``before`` None: there was no file. It holds a key: ``repr`` hides the values."""

    path: Path
    before: bytes | None = field(repr=False)
    mode: int
    wrote: str
    ours: Mapping[KeyPath, tuple[Any, bool, Any]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """``exact``: the file is byte for byte what it was; ``keys``: the names of those set or taken out."""

    path: Path
    changed: bool
    exact: bool = False
    keys: tuple[str, ...] = ()


def read_base(path: Path, state: Path) -> dict[str, Any]:
    """The user's settings without ours. Raises OcdError as ``configure`` does."""
    return _parse(_without(path, _load(state), _bytes(path)), path)


def configure(path: Path, state: Path, overlay: Mapping[str, Any]) -> Done:
    """Put ``overlay`` (``ocd.claude.overlay.Overlay.settings``) over the settings in ``path``.

    Repeating it replaces what it did before. The file ends up 0600: it then holds the proxy's key. Raises
    OcdError: exit 65 when the file is no JSON object, 73/74 when a file cannot be written or read.
    """
    line = {name: value for name, value in _overlay_of(_load(state)).items() if name == STATUS_LINE}
    return _put(path, state, {**overlay, **line})


def configured_file(state: Path) -> Path | None:
    """The settings file that holds anything of ours, None when none does."""
    record = _load(state)
    return record.path if record is not None else None


def status_line_on(path: Path, state: Path, command: str) -> Done:
    """Have Claude Code show what ``command`` prints as its status line; a status line of the user's is kept for
    ``status_line_off``. Raises OcdError as ``configure``, and when another file holds settings of ours."""
    record = _load(state)
    if record is not None and record.path != path:
        raise OcdError(
            f"Claude Code's settings in {record.path} are configured, not those in {path}",
            "ocd keeps the former content of one settings file at a time",
            f"Run it with CLAUDE_CONFIG_DIR={record.path.parent}, or run `occtl claude remove` first",
            exit_code=EX_DATAERR,
            code="other-settings",
        )
    # Every few seconds as well: a proxy that fails, or a fallback, comes without a message of Claude Code's.
    shown = {"type": "command", "command": command, "padding": 0, "refreshInterval": 5}
    return _put(path, state, {**_overlay_of(record), STATUS_LINE: shown})


def status_line_off(state: Path) -> Done:
    """Put back the status line that the user had. Raises OcdError: exit 66 when ours is not on."""
    record = _load(state)
    if record is None or (STATUS_LINE,) not in record.ours:
        raise OcdError(
            "The status line of ocd is not on",
            "`occtl claude statusline on` has not been run, or was taken back already",
            exit_code=EX_NOINPUT,
            code="not-configured",
        )
    rest = {name: value for name, value in _overlay_of(record).items() if name != STATUS_LINE}
    return _put(record.path, state, rest) if rest else _take_back(state, record)


def _overlay_of(record: Record | None) -> dict[str, Any]:
    """What ``configure`` was given, from what it noted, without what somebody changed in the file since."""
    overlay: dict[str, Any] = {}
    if record is None:
        return overlay
    settings = _parse(_bytes(record.path), record.path)
    for where, (value, _was_there, _former) in record.ours.items():
        section, now = overlay, settings
        for part in where[:-1]:
            section = section.setdefault(part, {})
            now = now.get(part, {})
        if now.get(where[-1]) == value:
            section[where[-1]] = value
    return {name: value for name, value in overlay.items() if value != {}}


def _put(path: Path, state: Path, overlay: Mapping[str, Any]) -> Done:
    record = _load(state)
    if record is not None and record.path != path:
        _take_back(state, record)
        record = None
    now = _bytes(path)
    base = _without(path, record, now)
    settings = _parse(base, path)
    after, ours = _over(settings, overlay)
    text = _dump(after, base)
    if record is not None and now == text and _digest(now) == record.wrote:
        return Done(path, False, keys=tuple(".".join(one) for one in ours))
    mode = record.mode if record is not None else _mode(path)
    kept = Record(path, base, mode, _digest(text), ours)
    # First the record: what was written without one could not be taken back.
    _save(state, kept)
    try:
        # A status line alone is no secret: then the file keeps its mode, unless it may hold new ones.
        unchanged = base is not None and (record is None or base == record.before)
        _write(path, text, mode if set(overlay) == {STATUS_LINE} and unchanged else 0o600)
    except OcdError:
        if record is None:
            (state / RECORD).unlink(missing_ok=True)
        else:
            _save(state, record)
        raise
    return Done(path, True, keys=tuple(".".join(one) for one in ours))


def remove(state: Path) -> Done:
    """Take our settings out again. Raises OcdError: exit 66 when there are none of ours, else as ``configure``."""
    record = _load(state)
    if record is None or set(record.ours) == {(STATUS_LINE,)}:
        raise OcdError(
            "There is nothing of ours in Claude Code's settings",
            "`occtl claude configure` has not been run, or was taken back already",
            exit_code=EX_NOINPUT,
            code="not-configured",
        )
    line = {name: value for name, value in _overlay_of(record).items() if name == STATUS_LINE}
    return _put(record.path, state, line) if line else _take_back(state, record)


def _take_back(state: Path, record: Record) -> Done:
    now = _bytes(record.path)
    after = _without(record.path, record, now)
    exact = after == record.before
    if after is None:
        try:
            Path(os.path.realpath(record.path)).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(record.path, error) from None
    elif after != now:
        # The former mode only with the former bytes: a file that was changed since may hold new secrets.
        _write(record.path, after, record.mode if exact else 0o600)
    (state / RECORD).unlink(missing_ok=True)
    return Done(record.path, after != now, exact, tuple(".".join(one) for one in record.ours))


# ---- what goes where


def _over(settings: dict[str, Any], overlay: Mapping[str, Any]) -> tuple[dict[str, Any], dict[KeyPath, Any]]:
    after = copy.deepcopy(settings)
    ours: dict[KeyPath, tuple[Any, bool, Any]] = {}
    for name, value in overlay.get("env", {}).items():
        env = after.setdefault("env", {})
        ours[("env", name)] = (value, name in env, env.get(name))
        env[name] = value
    for name in ("apiKeyHelper", "model", STATUS_LINE):
        # An empty apiKeyHelper is only needed where there is one.
        if name in overlay and not (name == "apiKeyHelper" and name not in after):
            ours[(name,)] = (overlay[name], name in after, after.get(name))
            after[name] = overlay[name]
    return after, ours


def _without(path: Path, record: Record | None, now: bytes | None) -> bytes | None:
    """The file's bytes without what we wrote."""
    if record is None or record.path != path:
        return now
    if now is None:
        return None
    if _digest(now) == record.wrote:
        return record.before
    settings = _parse(now, path)
    for where, (value, was_there, former) in record.ours.items():
        section: Any = settings
        for part in where[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or section.get(where[-1]) != value or where[-1] not in section:
            continue
        if was_there:
            section[where[-1]] = former
        else:
            del section[where[-1]]
    if settings.get("env") == {} and b'"env"' not in (record.before or b""):
        del settings["env"]
    return _dump(settings, now)


def _dump(settings: Mapping[str, Any], like: bytes | None) -> bytes:
    """JSON with the indentation and the final line break of ``like``."""
    text = (like or b"{\n  }\n").decode("utf-8-sig", "replace")
    found = re.search(r"\n([ \t]+)\"", text)
    indent: str | int = found[1] if found else 2
    end = "\n" if text.endswith("\n") or not text.strip() else ""
    return (json.dumps(settings, indent=indent, ensure_ascii=False) + end).encode("utf-8", "surrogatepass")


def _parse(content: bytes | None, path: Path) -> dict[str, Any]:
    if content is None or not content.strip():
        return {}
    try:
        settings = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("env", {}), dict):
        raise OcdError(
            f"{path} cannot be changed",
            "it is not a JSON object as Claude Code writes it",
            "Correct it, or move it away",
            exit_code=EX_DATAERR,
            code="settings",
        )
    return settings


# ---- files


def _bytes(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or "") from None
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _unreadable(path, "it is not a file")
        content = file.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise _unreadable(path, f"it is larger than {SIZE_LIMIT >> 20} MiB")
    return content


def _unreadable(path: Path, why: str) -> OcdError:
    return OcdError(f"Cannot read {path}", why, "Correct it", exit_code=EX_IOERR, code="settings")


def _unwritable(path: Path, error: OSError) -> OcdError:
    return OcdError(
        f"Cannot write {path}",
        error.strerror or str(error),
        "Free some space, or make its folder writable",
        exit_code=EX_CANTCREAT,
        code="settings-not-written",
    )


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o600


def _write(path: Path, content: bytes, mode: int) -> None:
    """In one step; a link stays a link to the changed file."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.replace(target, content, mode=mode)
    except OSError as error:
        raise _unwritable(path, error) from None


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(content or b"").hexdigest() if content is not None else ""


def _save(state: Path, record: Record) -> None:
    said = {
        "path": str(record.path),
        "before": base64.b64encode(record.before).decode() if record.before is not None else None,
        "mode": record.mode,
        "wrote": record.wrote,
        "ours": [[list(where), *what] for where, what in record.ours.items()],
    }
    _write(state / RECORD, json.dumps(said).encode(), 0o600)


def _load(state: Path) -> Record | None:
    path = state / RECORD
    content = _bytes(path)
    if content is None:
        return None
    try:
        said = json.loads(content)
        before = base64.b64decode(said["before"], validate=True) if said["before"] is not None else None
        ours = {tuple(where): (value, bool(there), former) for where, value, there, former in said["ours"]}
        return Record(Path(said["path"]), before, int(said["mode"]), str(said["wrote"]), ours)
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise OcdError(
            f"Cannot understand {path}",
            "it is not what ocd wrote there",
            "Take ANTHROPIC_BASE_URL and what belongs to it out of Claude Code's settings.json yourself, "
            f"then remove {path}",
            exit_code=EX_DATAERR,
            code="record",
        ) from None
