"""Bring ``ocd.toml`` and the environment together into Settings, or say which line is wrong.

The keys themselves are in ``ocd.settings.schema``; its models are offered here too.
"""

import difflib
import errno
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError
from pydantic_settings.sources.utils import parse_env_vars

from ocd.settings import aws_profiles
from ocd.settings.describe import field_at, fields_below, kind, section_of, sections_of, variables
from ocd.settings.findings import ConfigError, Finding, worst_first
from ocd.settings.folders import Folders
from ocd.settings.schema import SEED_NAMES, BedrockProxy, MainProxy, Proxy, Settings
from ocd.settings.tomllines import line_of, lines_of_keys

FILE = "ocd.toml"
#: bytes; a settings file has a few kilobytes
LARGEST = 1 << 20

__all__ = ["FILE", "BedrockProxy", "ConfigError", "MainProxy", "Proxy", "Settings", "load", "read_text"]

KeyPath = tuple[str, ...]


def load(folders: Folders, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force; a missing ``ocd.toml`` means the defaults.

    ``environ`` defaults to ``os.environ``. Raises ConfigError (exit 78) with one finding for each mistake.
    """
    path = folders.config / FILE
    return parse(path, read_text(path), environ)


def parse(path: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Like ``load``, with ``text`` as the content of ``path``."""
    environ = os.environ if environ is None else environ
    from_file = _parse(path, text)
    from_environ = _environment(environ)
    merged = _without_removed(_merge(from_file, from_environ))
    try:
        return _with_aws(Settings(**merged), merged)
    except ValidationError as error:
        lines = lines_of_keys(text)
        details = error.errors(include_url=False, include_context=False)
        found = [_finding(path, lines, from_environ, environ, detail) for detail in details]
        raise ConfigError(worst_first(found)) from None


def _with_aws(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """What ``given`` leaves open of profile and region is what AWS's own files say, as AWS's tools have it."""
    own = {name: value.get_secret_value() for name, value in settings.proxies.bedrock.env.items()}
    chosen = aws_profiles.choose(
        os.path.expanduser("~"), own, given.get("aws_profile"), given.get("aws_region")
    )
    return settings.model_copy(update=chosen) if chosen else settings


#: settings of earlier versions that mean nothing any more: accepted, ignored, told (``removed``)
REMOVED: dict[KeyPath, str] = {
    ("supervision", name): "how soon a process is started again is no setting any more (docs/decisions)"
    for name in (
        "backoff_first",
        "backoff_max",
        "backoff_jitter",
        "restart_intensity",
        "restart_period",
        "sustained_ready",
        "crash_loop_retry",
    )
}
REMOVED["litellm", "fidelity"] = "requests to Anthropic pass untouched now, see [litellm] pipe"


def removed(path: Path, text: str, environ: Mapping[str, str]) -> list[Finding]:
    """A warning for each setting in ``text`` or ``environ`` that an earlier version knew and this one ignores."""
    try:
        values = _parse(path, text)
    except ConfigError:
        return []
    lines = lines_of_keys(text)
    found = []
    for key, why in REMOVED.items():
        here: Any = values
        for part in key:
            here = here.get(part) if isinstance(here, dict) else None
        if here is not None:
            place = (str(path), line_of(lines, key), ".".join(key))
            found.append(Finding("warning", "setting-ignored", *place, f"{why}; it is ignored", "Remove it"))
        variable = "OCD_" + "__".join(key).upper()
        if environ.get(variable):
            place = (variable, None, ".".join(key))
            found.append(
                Finding("warning", "setting-ignored", *place, f"{why}; it is ignored", "Unset the variable")
            )
    return found


def _without_removed(values: dict[str, Any]) -> dict[str, Any]:
    kept = dict(values)
    for section, name in REMOVED:
        if isinstance(kept.get(section), dict):
            kept[section] = {key: value for key, value in kept[section].items() if key != name}
    return kept


def to_json(settings: Settings) -> str:
    """All of the settings, those of ``env`` in clear: for a private file."""
    values = settings.model_dump(mode="json")
    for name, proxy in values["proxies"].items():
        own = settings.proxy(name).env
        proxy["env"] = {key: value.get_secret_value() for key, value in own.items()}
    return json.dumps(values, sort_keys=True)


def from_json(text: str) -> Settings:
    """What ``to_json`` made, by this version or another. Raises ValueError."""
    return Settings(**_without_removed(json.loads(text)))


def read_text(path: Path, largest: int = LARGEST) -> str:
    """A configuration file's text, empty when there is no such file.

    Raises ConfigError for a folder, an unreadable file, one that is not UTF-8 or is too large (bytes).
    """

    def refuse(code: str, what: str, fix: str, line: int | None = None) -> ConfigError:
        return ConfigError([Finding("error", code, str(path), line, "", what, fix)])

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.EACCES:
            raise refuse("file-unreadable", "we may not read this file", f"Run `chmod u+r {path}`") from None
        raise refuse(
            "file-unreadable", f"cannot read it: {error.strerror}", "Put a plain file there"
        ) from None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise refuse("file-is-folder", "this is a folder, a file is expected", "Remove or rename it")
        if not stat.S_ISREG(mode):
            raise refuse("file-not-plain", "this is not a plain file", "Put a plain file there")
        with open(handle, "rb", closefd=False) as file:
            raw = file.read(largest + 1)
    except OSError as error:
        what = f"cannot read it: {error.strerror}"
        raise refuse("file-unreadable", what, "Put a plain file there") from None
    finally:
        os.close(handle)
    if len(raw) > largest:
        raise refuse(
            "file-too-large",
            f"the file is larger than {largest // 1024} KiB",
            "Put back a configuration file",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise refuse("file-not-utf8", "the text is not UTF-8", "Save the file as UTF-8", line) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        # TOML knows \n and \r\n only; a lone \r is an error there, and is one here.
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "nested too deeply"
        line = None
        head, _, place = message.rpartition(" (at ")
        if head:
            message = head
            if place.startswith("line "):
                line = int(place.removeprefix("line ").split(",")[0])
            else:
                line = text.count("\n") + 1
        what = f"this is not TOML: {message[:1].lower()}{message[1:]}"
        fix = "Texts need quotes, sections brackets: see `occtl config show`"
        raise ConfigError([Finding("error", "toml-syntax", str(path), line, "", what, fix)]) from None


class _Environ(EnvSettingsSource):
    """pydantic-settings' own rules for names, levels and JSON, over a given mapping."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        kept = {name: value for name, value in self._environ.items() if name.upper().startswith("OCD_")}
        return parse_env_vars(kept, self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the environment sets, texts turned into the keys' types where they can be."""
    try:
        values = _Environ(environ)()
    except SettingsError:
        what = "the value is not JSON, which lists, tables and sections need"
        place = next((name for name in sorted(environ) if _not_json(name, environ[name])), "OCD_… variables")
        raise ConfigError(
            [Finding("error", "env-not-json", place, None, "", what, "Correct or unset the variable")]
        ) from None
    for name, key in SEED_NAMES.items():
        if not environ.get(name):
            continue
        *above, last = key.split(".")
        here: Any = values
        for part in above:
            here = here.setdefault(part, {}) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here.setdefault(last, environ[name])
    return _typed(values, ())


def _not_json(name: str, value: str) -> bool:
    if not value or not name.upper().startswith("OCD_"):
        return False
    field = field_at(tuple(name[4:].lower().split("__")))
    if field is None or not kind(field).startswith(("a list", "a table", "a section", "sections")):
        return False
    try:
        json.loads(value)
    except ValueError:
        return True
    return False


def _typed(values: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """Every variable is a text, the settings are strict. What does not convert stays, to be reported."""
    typed: dict[str, Any] = {}
    for name, value in values.items():
        field = field_at((*path, name))
        if field is None:
            typed[name] = value
        elif section_of(field) is not None:
            typed[name] = _typed(value, (*path, name)) if isinstance(value, dict) else value
        else:
            try:
                adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or Any)
                typed[name] = adapter.validate_python(value)
            except ValidationError:
                typed[name] = value
    return typed


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _finding(
    file: Path,
    lines: dict[KeyPath, int],
    from_environ: Mapping[str, Any],
    environ: Mapping[str, str],
    detail: ErrorDetails,
) -> Finding:
    path = tuple(str(part) for part in detail["loc"] if not isinstance(part, int))
    line: int | None
    place, line = str(file), line_of(lines, path)
    known = path
    while known and field_at(known) is None:
        known = known[:-1]
    setter = _set_by(from_environ, environ, known if detail["type"] != "extra_forbidden" else path)
    if setter:
        place, line = setter, None
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return _unknown(place, line, path)
    field = field_at(known)
    if detail["type"] == "value_error":
        what = detail["msg"].removeprefix("Value error, ")
        return Finding("error", "setting-refused", place, line, key, what, "Change or remove it")
    expected = kind(field) if field is not None else "another value"
    if field is not None and section_of(field) is not None:
        expected = f"a section: [{'.'.join(known)}] on a line of its own"
    what = f"expected {expected}"
    given = detail.get("input")
    if "env" not in path and isinstance(given, str | int | float) and len(str(given)) <= 40:
        what += f", found {_shown(given)}"
    return Finding(
        "error", "setting-wrong", place, line, key, what, "Change it, or remove it to have the default"
    )


def _shown(value: str | int | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _set_by(values: Mapping[str, Any], environ: Mapping[str, str], path: KeyPath) -> str:
    """The environment variable that set ``path``, or an empty text."""
    here: Any = values
    for part in path:
        if not isinstance(here, Mapping) or part not in here:
            return ""
        here = here[part]
    given = {name.upper(): name for name, value in environ.items() if value}
    for depth in range(len(path), 0, -1):
        for name in variables(path[:depth]):
            if name in given:
                return given[name]
    return ""


def _unknown(place: str, line: int | None, path: KeyPath) -> Finding:
    *above, name = path
    siblings: type[BaseModel] | None = Settings
    if above:
        field = field_at(tuple(above))
        siblings = None
        if field is not None:
            siblings = section_of(field) or (sections_of(field) if len(above) > 1 else None)
    names = list(siblings.model_fields) if siblings is not None else []
    near = difflib.get_close_matches(name, names, 1, 0.6)
    elsewhere = [p for p in fields_below() if p[-1] == name]
    if near:
        fix = f"Did you mean {near[0]}?"
    elif elsewhere:
        best = elsewhere[0]
        where = (
            f"under [{'.'.join(best[:-1])}]"
            if len(best) > 1
            else "at the top of the file, above the first [section]"
        )
        fix = f"{name} belongs {where}"
    else:
        everywhere = {p[-1]: p for p in fields_below()}
        far = difflib.get_close_matches(name, list(everywhere), 1, 0.75)
        fix = f"Did you mean {'.'.join(everywhere[far[0]])}?" if far else f"Known here: {', '.join(names)}"
    return Finding("error", "setting-unknown", place, line, ".".join(path), "there is no such setting", fix)
