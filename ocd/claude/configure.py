"""Write the session's settings permanently into Claude Code's own ``settings.json``, and take them back.

Any number of settings files (a ``CLAUDE_CONFIG_DIR`` each) side by side. For each a record in the state folder (0600)
keeps the file's former bytes and mode, the hash of what was written, and each key of ours with what it was before.
Removing puts the former bytes back when nobody changed the file since; otherwise only those of our keys go that still
have our value. A key of ours that the user changed since is theirs: ``refresh`` leaves it alone from then on.
"""

import base64
import binascii
import contextlib
import copy
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ocd import atomic
from ocd.claude import alone
from ocd.claude.files import SIZE_LIMIT
from ocd.errors import EX_CANTCREAT, EX_DATAERR, EX_IOERR, EX_NOINPUT, OcdError

#: the folder of the records, one a settings file
RECORDS = "claude-settings"
#: where version 0.1.0 kept its only one
FORMER = "claude-settings.json"
#: the one key that is switched apart from the others
STATUS_LINE = "statusLine"
KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What ``configure`` did. ``before`` None: there was no file. It holds a key: ``repr`` hides the values.

    ``theirs``: keys that the user took over since.
    """

    path: Path
    before: bytes | None = field(repr=False)
    mode: int
    wrote: str
    ours: Mapping[KeyPath, tuple[Any, bool, Any]] = field(repr=False)
    theirs: frozenset[KeyPath] = frozenset()

    @property
    def leads(self) -> bool:
        """Whether it leads Claude Code to the proxies, and is not the status line alone."""
        return set(self.ours) != {(STATUS_LINE,)} or bool(self.theirs)


@dataclass(frozen=True, slots=True)
class Done:
    """``exact``: the file is byte for byte what it was; ``keys``: the names of those set or taken out."""

    path: Path
    changed: bool
    exact: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """One settings file that holds something of ours. ``address``: the base URL in it, empty: not ours (any more)."""

    path: Path
    address: str
    status_line: bool
    theirs: tuple[str, ...] = ()
    exists: bool = True


def read_base(path: Path, state: Path) -> dict[str, Any]:
    """The user's settings without ours. Raises OcdError as ``configure`` does."""
    return _parse(_without(path, _load(state, path), _bytes(path)), path)


def configure(path: Path, state: Path, overlay: Mapping[str, Any]) -> Done:
    """Put ``overlay`` (``ocd.claude.overlay.Overlay.settings``) over the settings in ``path``.

    Repeating it replaces what it did before; other settings files keep theirs. The file ends up 0600: it then holds
    the proxy's key. Raises OcdError: exit 65 when the file is no JSON object, 73/74 when a file cannot be written or
    read, 75 when another process changes the same files for long.
    """
    with _locked(state):
        record = _load(state, path)
        line = {name: value for name, value in _overlay_of(record).items() if name == STATUS_LINE}
        return _put(path, state, record, {**overlay, **line})


def known(state: Path) -> list[Known]:
    """The settings files that hold anything of ours, by their paths. Raises OcdError for a record that is broken."""
    found = []
    for record in _all(state):
        content: bytes | None = None
        with contextlib.suppress(OcdError):
            content = _bytes(record.path)
        changed = _changed(record, content)
        address = record.ours.get(("env", "ANTHROPIC_BASE_URL"), ("",))[0]
        found.append(
            Known(
                record.path,
                "" if ("env", "ANTHROPIC_BASE_URL") in changed else str(address),
                (STATUS_LINE,) in record.ours and (STATUS_LINE,) not in changed,
                tuple(sorted(".".join(one) for one in changed)),
                content is not None,
            )
        )
    return found


#: (settings file, the user's own settings in it, the ``env`` that we wrote before) → the overlay
Make = Callable[[Path, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


def refresh(state: Path, make: Make) -> list[Done | OcdError]:
    """Bring every configured settings file up to date; what cannot be is an OcdError in the answer.

    ``make`` returns the overlay for one file. What the user changed in between stays as it is, a key of ours that they
    changed or took out included, for good (until ``configure`` is run again); a file that was removed is not made
    again.
    """
    done: list[Done | OcdError] = []
    try:
        with _locked(state):
            for place in _places(state):
                # One that cannot be read or written keeps none of the others.
                try:
                    one = _refreshed(state, _read(place), make)
                except OcdError as error:
                    done.append(error)
                else:
                    done += [one] if one is not None else []
    except OcdError as error:
        done.append(error)
    return done


def _refreshed(state: Path, record: Record, make: Make) -> Done | None:
    now = _bytes(record.path) if record.leads else None
    if now is None:
        return None
    theirs = _changed(record, now)
    before = {key[1]: value[0] for key, value in record.ours.items() if key[0] == "env"}
    base = _parse(_without(record.path, record, now), record.path)
    overlay = dict(make(record.path, base, before))
    if (STATUS_LINE,) in record.ours:
        overlay[STATUS_LINE] = record.ours[(STATUS_LINE,)][0]
    return _put(record.path, state, record, overlay, theirs)


def status_line_on(path: Path, state: Path, command: str) -> Done:
    """Have Claude Code show what ``command`` prints as its status line; a status line of the user's is kept for
    ``status_line_off``. Raises OcdError as ``configure``."""
    # Every few seconds as well: a proxy that fails, or a fallback, comes without a message of Claude Code's.
    shown = {"type": "command", "command": command, "padding": 0, "refreshInterval": 5}
    with _locked(state):
        record = _load(state, path)
        theirs = _theirs(record) - {(STATUS_LINE,)}
        return _put(path, state, record, {**_overlay_of(record), STATUS_LINE: shown}, theirs)


def status_line_off(path: Path, state: Path) -> Done:
    """Put back the status line that the user had. Raises OcdError: exit 66 when ours is not on."""
    with _locked(state):
        record = _load(state, path)
        if record is None or (STATUS_LINE,) not in record.ours:
            raise OcdError(
                "The status line of ocd is not on",
                f"there is none of ours in {path}",
                "Run `occtl claude status` to see where it is",
                exit_code=EX_NOINPUT,
                code="not-configured",
            )
        rest = {name: value for name, value in _overlay_of(record).items() if name != STATUS_LINE}
        return _put(path, state, record, rest, _theirs(record)) if rest else _take_back(state, record)


def remove(path: Path, state: Path, *, status_line: bool = False) -> Done:
    """Take our settings out again; the status line too if ``status_line``. Raises OcdError: exit 66 when there are none
    of ours, else as ``configure``."""
    with _locked(state):
        record = _load(state, path)
        if record is None or not (record.leads or status_line):
            raise OcdError(
                f"There is nothing of ours in {path}",
                "`occtl claude configure` has not been run for it, or was taken back already",
                "Run `occtl claude status` to see where there is",
                exit_code=EX_NOINPUT,
                code="not-configured",
            )
        line = {name: value for name, value in _overlay_of(record).items() if name == STATUS_LINE}
        return _put(path, state, record, line) if line and not status_line else _take_back(state, record)


def _overlay_of(record: Record | None) -> dict[str, Any]:
    """What ``configure`` was given, from what it noted, without what somebody changed in the file since."""
    overlay: dict[str, Any] = {}
    if record is None:
        return overlay
    changed = _changed(record, _bytes(record.path))
    for where, (value, _was_there, _former) in record.ours.items():
        if where in changed:
            continue
        section = overlay
        for part in where[:-1]:
            section = section.setdefault(part, {})
        section[where[-1]] = value
    return overlay


def _theirs(record: Record | None) -> frozenset[KeyPath]:
    """What the user took over, where there is a file."""
    now = _bytes(record.path) if record is not None else None
    return _changed(record, now) if record is not None and now is not None else frozenset()


def _changed(record: Record, now: bytes | None) -> frozenset[KeyPath]:
    """Our keys that no longer have our value in the file, and those that were the user's already."""
    if now is None:
        return record.theirs | record.ours.keys()
    if _digest(now) == record.wrote:
        return record.theirs
    try:
        settings = _parse(now, record.path)
    except OcdError:
        return record.theirs
    changed = set(record.theirs)
    for where, (value, _was_there, _former) in record.ours.items():
        section: Any = settings
        for part in where[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or where[-1] not in section or section[where[-1]] != value:
            changed.add(where)
    return frozenset(changed)


def _put(
    path: Path,
    state: Path,
    record: Record | None,
    overlay: Mapping[str, Any],
    theirs: frozenset[KeyPath] = frozenset(),
) -> Done:
    now = _bytes(path)
    base = _without(path, record, now)
    settings = _parse(base, path)
    after, ours = _over(settings, overlay, theirs)
    names = tuple(".".join(one) for one in ours)
    text = _dump(after, base)
    if record is not None and now == text and _digest(now) == record.wrote and record.theirs == theirs:
        return Done(path, False, keys=names)
    mode = record.mode if record is not None else _mode(path)
    kept = Record(path, base, mode, _digest(text), ours, theirs)
    # First the record: what was written without one could not be taken back.
    _save(state, kept)
    if now == text:
        return Done(path, False, keys=names)
    try:
        # A status line alone is no secret: then the file keeps its mode, unless it may hold new ones.
        unchanged = base is not None and (record is None or base == record.before)
        _write(path, text, mode if set(overlay) == {STATUS_LINE} and unchanged else 0o600)
    except OcdError:
        if record is None:
            _forget(state, path)
        else:
            _save(state, record)
        raise
    return Done(path, True, keys=names)


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
    _forget(state, record.path)
    return Done(record.path, after != now, exact, tuple(".".join(one) for one in record.ours))


# ---- what goes where


def _over(
    settings: dict[str, Any], overlay: Mapping[str, Any], theirs: frozenset[KeyPath]
) -> tuple[dict[str, Any], dict[KeyPath, Any]]:
    after = copy.deepcopy(settings)
    ours: dict[KeyPath, tuple[Any, bool, Any]] = {}
    for name, value in overlay.get("env", {}).items():
        if ("env", name) in theirs:
            continue
        env = after.setdefault("env", {})
        ours[("env", name)] = (value, name in env, env.get(name))
        env[name] = value
    for name in ("apiKeyHelper", "model", STATUS_LINE):
        # An empty apiKeyHelper is only needed where there is one.
        if (name,) in theirs:
            continue
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


# ---- records


def _place(state: Path, path: Path) -> Path:
    return state / RECORDS / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"


def _save(state: Path, record: Record) -> None:
    said = {
        "path": str(record.path),
        "before": base64.b64encode(record.before).decode() if record.before is not None else None,
        "mode": record.mode,
        "wrote": record.wrote,
        "ours": [[list(where), *what] for where, what in record.ours.items()],
        "theirs": sorted(list(where) for where in record.theirs),
    }
    _write(_place(state, record.path), json.dumps(said).encode(), 0o600)
    former = state / FORMER
    if former.exists() and _read(former).path == record.path:
        former.unlink()


def _forget(state: Path, path: Path) -> None:
    _place(state, path).unlink(missing_ok=True)
    former = state / FORMER
    if former.exists() and _read(former).path == path:
        former.unlink()
    with contextlib.suppress(OSError):
        (state / RECORDS).rmdir()


def _load(state: Path, path: Path) -> Record | None:
    place = _place(state, path)
    if place.exists():
        return replace(_read(place), path=path)
    former = state / FORMER
    if former.exists():
        record = _read(former)
        return record if record.path == path else None
    return None


def _places(state: Path) -> list[Path]:
    """The records' files, that of version 0.1.0 unless it is taken over."""
    places: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        places = [one for one in (state / RECORDS).iterdir() if re.fullmatch(r"[0-9a-f]{16}\.json", one.name)]
    former = state / FORMER
    # Of two for one file (a power cut between two steps) the newer counts.
    return (
        [former, *places] if former.exists() and _place(state, _read(former).path) not in places else places
    )


def _all(state: Path) -> list[Record]:
    return sorted(map(_read, _places(state)), key=lambda record: str(record.path))


def _read(place: Path) -> Record:
    content = _bytes(place) or b""
    try:
        said = json.loads(content)
        before = base64.b64decode(said["before"], validate=True) if said["before"] is not None else None
        ours = {tuple(where): (value, bool(there), former) for where, value, there, former in said["ours"]}
        theirs = frozenset(tuple(where) for where in said.get("theirs", []))
        return Record(Path(said["path"]), before, int(said["mode"]), str(said["wrote"]), ours, theirs)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise OcdError(
            f"Cannot understand {place}",
            "it is not what ocd wrote there",
            "Take ANTHROPIC_BASE_URL and what belongs to it out of Claude Code's settings.json yourself, "
            f"then remove {place}",
            exit_code=EX_DATAERR,
            code="record",
        ) from None


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One process at a time: occtl and the daemon may both be at it."""
    try:
        held = alone.hold(state)
    except OSError as error:
        raise _unwritable(state, error) from None
    try:
        yield
    finally:
        os.close(held)
