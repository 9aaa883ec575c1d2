"""``occtl config get``, ``set``, ``unset``: one key of ``ocd.toml``, its comments and order kept."""

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocd.ctl import diff, effect, screen
from ocd.ctl.words import KEYS
from ocd.errors import EX_CONFIG, EX_OK, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.settings.findings import Finding
    from ocd.settings.tomlset import Value

#: the verb under which a change is kept
VERB = "config set"


def get(key: str, settings: dict[str, Any], as_json: bool) -> int:
    """Print the value of ``key`` in ``settings`` (of ``config show``). Raises OcdError (exit 64) for an unknown key."""
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise _unknown(key)
        value = value[part]
    if as_json:
        screen.out_json({"key": key, "value": value})
    elif isinstance(value, str):
        screen.out(screen.plain(value))
    elif value is not None:
        import json

        screen.out(json.dumps(value, ensure_ascii=False))
    return EX_OK


def change(key: str, given: str | None, dry_run: bool, as_json: bool) -> int:
    """Set ``key`` to what ``given`` means for it; None: take it out. Returns the exit code.

    Raises OcdError: 64 for an unknown key or a value that it does not take, 65 for a file that is not plain enough, 78
    when the checks find a new error; nothing is changed then.
    """
    from ocd.settings import backup
    from ocd.settings.folders import Folders, private_folder
    from ocd.settings.load import FILE
    from ocd.stack.trial import try_out

    folders = Folders.find()
    path = folders.config / FILE
    if key not in KEYS:
        raise _unknown(key)
    before = _text(path)
    after = _changed(path, before, key, given)
    known = {(one.severity, one.code, one.file, one.key) for one in try_out(folders, {})}
    # what was so before is `config check`'s to say
    findings = [
        one
        for one in try_out(folders, {path: after})
        if (one.severity, one.code, one.file, one.key) not in known
    ]
    fresh = effect.errors(findings)
    if fresh:
        raise OcdError(
            f"{key} cannot be {'taken out' if given is None else given!r}",
            fresh[0].what,
            f"{fresh[0].fix.rstrip('.') or 'Look at `occtl config check`'}. Nothing was changed",
            exit_code=EX_CONFIG,
            code=fresh[0].code,
        )
    changes = after != before or not path.exists()
    if not as_json:
        if changes:
            diff.show({path: after})
        else:
            screen.out(f"{key} is {'not set' if given is None else 'so'} already.")
    kept = None
    if changes and not dry_run:
        private_folder(folders.config)
        kept = backup.change(folders, VERB, {path: after})
    if not as_json:
        if kept:
            screen.out(f"changed {path} (`occtl undo` puts back what was there)")
        elif changes:
            screen.note("Nothing was changed: --dry-run.")
        _overruled(key)
    said = {
        **{"key": key, "changed": kept is not None, "dry_run": dry_run, "file": str(path)},
        **{"diff": diff.lines(path, before, after), "backup": str(kept.folder) if kept else None},
    }
    return effect.finish(said, findings, as_json, reload=kept is not None)


def _changed(path: Path, before: str, key: str, given: str | None) -> str:
    """The file's new text: of the values that ``given`` may mean, the first that the key takes."""
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import parse
    from ocd.settings.tomlset import set_keys

    place = tuple(key.split("."))
    if given is None:
        return set_keys(before, {place: None})
    entry = _entry(key)
    if "list" in entry or "table" in entry or "section" in entry:
        raise OcdError(
            f"{key} is {entry}",
            "only a plain value can be set here",
            "Write it with `occtl config edit`",
            exit_code=EX_USAGE,
            code="setting-not-plain",
        )
    wrong: list[Finding] = []
    for value in _meanings(given):
        text = set_keys(before, {place: value})
        try:
            # The environment is another place with its own mistakes: the file is what is being written.
            parse(path, text, {})
            return text
        except ConfigError as error:
            mine = [one for one in error.findings if one.key == key]
            if not mine:
                # something else in the file is wrong, and was before
                return text
            wrong = wrong or mine
    raise OcdError(
        f"{key} cannot be {given!r}",
        f"it is {entry}" if entry else wrong[0].what,
        f"`occtl config get {key}` shows what it is now. Nothing was changed",
        exit_code=EX_USAGE,
        code="setting-value",
    )


def _meanings(given: str) -> "list[Value]":
    """What TOML may make of the words on a command line, the narrowest first."""
    found: list[Value] = []
    if given in ("true", "false"):
        found.append(given == "true")
    if given in ("on", "yes", "off", "no"):
        found += [given in ("on", "yes"), given]
    for kind in (int, float):
        try:
            found.append(kind(given))
        except ValueError:
            continue
    return [*found, given]


def _entry(key: str) -> str:
    from ocd.settings import describe

    field = describe.field_at(tuple(key.split(".")))
    return describe.kind(field) if field is not None else ""


def _overruled(key: str) -> None:
    """An environment variable of this shell that says otherwise is worth a word."""
    from ocd.settings import describe

    for name in describe.variables(tuple(key.split("."))):
        if os.environ.get(name):
            screen.note(f"{name} of this shell overrules it for what is started from here.")


def _text(path: Path) -> str:
    from ocd.settings.load import read_text
    from ocd.stack import presets

    return read_text(path) if path.exists() else presets.toml_template()


def _unknown(key: str) -> OcdError:
    near = difflib.get_close_matches(key, KEYS, 1) or [one for one in KEYS if one.split(".")[-1] == key][:1]
    return OcdError(
        f"There is no setting {key}",
        "docs/configuration.md and ocd.toml(5) have all of them",
        f"Did you mean {near[0]}?" if near else "Run `occtl config show` to see them",
        exit_code=EX_USAGE,
        code="setting-unknown",
    )
