"""Set keys in the text of ``ocd.toml``; comments, order and everything else stay as they are."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ocd.errors import EX_DATAERR, OcdError
from ocd.settings.tomllines import lines_of_keys

KeyPath = tuple[str, ...]
Value = str | bool | int | float


def set_keys(text: str, values: Mapping[KeyPath, Value | None]) -> str:
    """``text`` with each key (by its path) at its value; None takes the key out, so that its default holds.

    A key that already has the value, or that is to go and is not there, is left alone. Raises OcdError (exit
    65) when the text is not TOML or a key cannot be set without touching something else.
    """
    for path, value in values.items():
        text = _set(text, path, value)
    return text


def _set(text: str, path: KeyPath, value: Value | None) -> str:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        raise _refused(path) from None
    found = _at(data, path)
    if found == value and type(found) is type(value):
        return text
    wanted = _with(data, path, value)
    line = lines_of_keys(text).get(path)
    if found is not None and line is not None:
        after = _replaced(text, line, path[-1], value)
    elif value is not None:
        after = _added(text, path, value)
    else:
        after = text
    try:
        if after is not None and tomllib.loads(after) == wanted:
            return after
    except tomllib.TOMLDecodeError:
        pass
    raise _refused(path)


def _refused(path: KeyPath) -> OcdError:
    return OcdError(
        f"Cannot set {'.'.join(path)} in ocd.toml",
        "the file is not plain enough to change one key without touching the rest",
        f"Set {'.'.join(path)} there yourself (`occtl config edit`), then repeat the command",
        exit_code=EX_DATAERR,
        code="toml-not-plain",
    )


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        if not isinstance(data, dict):
            return None
        data = data.get(part)
    return data


def _with(data: dict[str, Any], path: KeyPath, value: Value | None) -> dict[str, Any]:
    copied = dict(data)
    if len(path) > 1:
        inner = copied.get(path[0])
        copied[path[0]] = _with(inner if isinstance(inner, dict) else {}, path[1:], value)
    elif value is None:
        copied.pop(path[0], None)
    else:
        copied[path[0]] = value
    return copied


def _lines(text: str) -> list[str]:
    """The lines with their ends, as TOML has them: a string may hold what only Python takes for an end (U+0085)."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def _replaced(text: str, line: int, name: str, value: Value | None) -> str | None:
    """The statement on ``line`` (from 1) changed or taken out; only one that fits on its line."""
    lines = _lines(text)
    found = re.match(
        rf"""(\s*)((?:[\w.-]+\.)?["']?{re.escape(name)}["']?)(\s*=\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s#\[{{"']+)"""
        r"""(\s*(?:#.*)?)$""",
        lines[line - 1].rstrip("\r\n"),
    )
    if found is None:
        return None
    end = lines[line - 1][len(lines[line - 1].rstrip("\r\n")) :]
    if value is None:
        del lines[line - 1]
    else:
        lines[line - 1] = f"{found[1]}{found[2]}{found[3]}{_toml(value)}{found[5]}{end}"
    return "".join(lines)


def _added(text: str, path: KeyPath, value: Value) -> str:
    """Behind the commented default of the same name in the same section, else at the section's beginning."""
    statement = f"{path[-1]} = {_toml(value)}\n"
    lines = _lines(text)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    header = f"[{'.'.join(path[:-1])}]"
    start, end = 0, len(lines)
    if len(path) > 1:
        places = [n for n, one in enumerate(lines) if re.sub(r"\s|#.*", "", one) == header]
        if not places:
            return "".join([*lines, *([] if not lines else ["\n"]), f"{header}\n", statement])
        start = places[0] + 1
    for number in range(start, len(lines)):
        if re.match(r"\s*\[", lines[number]):
            end = number
            break
    default = re.compile(rf"#\s*{re.escape(path[-1])}\s*=")
    for number in range(start, end):
        if default.match(lines[number]):
            return "".join([*lines[: number + 1], statement, *lines[number + 1 :]])
    if len(path) > 1:
        return "".join([*lines[:start], statement, *lines[start:]])
    # at the top of the file: behind its last key there, so before the comment that introduces a section
    keys = [number for number in range(end) if re.match(r"\s*[\w\"'-]", lines[number])]
    at = keys[-1] + 1 if keys else 0
    return "".join([*lines[:at], statement, *lines[at:]])


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's texts and numbers are TOML's, once DEL is escaped too
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
