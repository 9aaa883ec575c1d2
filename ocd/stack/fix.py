"""Apply what the rules can mend to a file's text; comments, order and everything else stay byte for byte.

Each edit is made in the text at the place that the reader found, the result is read again and compared with
what the edit should give; an edit that would do anything else is left out.
"""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ocd.settings.edits import REMOVED, Edit, Where
from ocd.settings.findings import ConfigError, Finding
from ocd.settings.folders import Folders
from ocd.settings.load import Settings, read_text
from ocd.stack.check import check
from ocd.stack.litellm_file import LARGEST, Document, Mark, compose

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n", "none"))


def fix(path: Path, findings: Iterable[Finding]) -> str:
    """The text of ``path`` with those edits of ``findings`` made that concern it.

    Edits to other files are left to a call for those. Raises ConfigError when ``path`` cannot be read.
    """
    text = read_text(path, LARGEST)
    wanted = [edit for finding in findings for edit in finding.edits if edit.file == path]
    # Indices must stay right: first what changes or adds, then what goes, from the end.
    changes = [edit for edit in wanted if edit.value is not REMOVED]
    removals = [edit for edit in wanted if edit.value is REMOVED]
    removals.sort(key=lambda edit: [str(part).zfill(9) for part in edit.where], reverse=True)
    for edit in [*_once(changes), *_once(removals)]:
        text = apply(path, text, edit)
    return text


def fix_all(folders: Folders, settings: Settings, site: Path | None, rounds: int = 5) -> dict[Path, str]:
    """Check and fix until nothing more can be mended: each changed file's new text. Nothing is written.

    The files are looked at in a private copy, since one fix may show the next; includes that lie outside the
    configuration folder are left alone.
    """
    import shutil
    import tempfile

    found: dict[Path, str] = {}
    with tempfile.TemporaryDirectory(prefix="ocd-fix-") as temporary:
        copied = Path(temporary) / "config"
        shutil.copytree(folders.config, copied, symlinks=False, ignore_dangling_symlinks=True)
        there = Folders(copied, folders.data, folders.state, folders.runtime, folders.bin)
        for _ in range(rounds):
            findings = [finding for finding in check(there, settings, site) if finding.edits]
            changed = False
            for path in {edit.file for finding in findings for edit in finding.edits}:
                if not path.is_relative_to(copied) or not path.is_file():
                    continue
                before, after = read_text(path, LARGEST), fix(path, findings)
                if after != before:
                    path.write_text(after, encoding="utf-8", newline="")
                    found[folders.config / path.relative_to(copied)] = after
                    changed = True
            if not changed:
                break
    return found


def apply(path: Path, text: str, edit: Edit) -> str:
    """``text`` with one edit made, or unchanged when it cannot be made exactly."""
    try:
        document = compose(path, text)
        expected = _on_data(document.data, edit)
        after = _in_text(document, edit)
        done = compose(path, after).data
    except (AttributeError, ConfigError, LookupError, TypeError, ValueError):
        return text
    return after if done == expected else text


def _once(edits: Iterable[Edit]) -> list[Edit]:
    kept: dict[str, Edit] = {}
    for edit in edits:
        kept.setdefault(
            repr((edit.where, edit.append, edit.value if edit.append else edit.value is REMOVED)), edit
        )
    return list(kept.values())


def _on_data(data: Any, edit: Edit) -> Any:
    """What the file should say afterwards."""
    root = copy.deepcopy(data) if data is not None else {}
    *above, last = edit.where
    here = root
    trail = []
    for part in above:
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        trail.append((here, part))
        here = here[part]
    if edit.append:
        if here.get(last) is None:
            here[last] = []
        here[last].append(copy.deepcopy(edit.value))
    elif edit.value is REMOVED:
        del here[last]
        while trail and not here:
            here, part = trail.pop()
            del here[part]
    else:
        here[last] = copy.deepcopy(edit.value)
    return root


def _in_text(document: Document, edit: Edit) -> str:
    where = edit.where
    for depth in range(1, len(where) + 1):
        mark = document.marks.get(where[:depth])
        if mark is not None and mark.shared:
            raise ValueError("the place is shared over an anchor")
    if edit.value is REMOVED:
        return _remove(document, where)
    if edit.append:
        mark = document.marks.get(where)
        if mark is None or not _at(document.data, where):
            return _set(document, where, [edit.value])
        return _append(document, where, edit.value)
    return _set(document, where, edit.value)


def _at(data: Any, where: Where) -> Any:
    for part in where:
        data = data[part]
    return data


def _end(document: Document, where: Where) -> int:
    """Where the value's last character stands; a block's mark ends only at the next token."""
    mark = document.marks[where]
    if mark.scalar or mark.flow:
        return mark.end
    value = _at(document.data, where)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    ends = [_end(document, (*where, key)) for key in keys if (*where, key) in document.marks]
    return max(ends, default=mark.start)


def _line_end(text: str, at: int) -> int:
    """The index after the line break that ends the line of ``at``."""
    if at > 0 and text[at - 1] == "\n":
        return at  # a block scalar ends after its last line
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _set(document: Document, where: Where, value: Any) -> str:
    text = document.text
    mark = document.marks.get(where)
    if mark is not None:
        if not mark.scalar:
            raise ValueError("only plain values are replaced")
        if mark.start == mark.end:
            # `key:` with nothing behind it
            if isinstance(value, dict | list) and not mark.flow:
                body = "".join(f"\n{line}" for line in _block(value, mark.column + 2))
            else:
                body = " " + _inline(value)
            at = text.index(":", mark.key_start) + 1
            return text[:at] + body + text[at:]
        return text[: mark.start] + _inline(value) + text[mark.end :]
    parent, key = where[:-1], where[-1]
    if parent and (parent not in document.marks or _at(document.data, parent) is None):
        return _set(document, parent, {key: value})
    above = document.marks.get(parent)
    if above is None or not (document.data or above.flow):
        return _insert(text, len(text), _block({key: value}, 0))
    if above.flow:
        return _into_flow(text, above, f"{_inline(key)}: {_inline(value)}", bool(_at(document.data, parent)))
    if not isinstance(_at(document.data, parent), dict):
        raise ValueError("no mapping")
    first = next(m for w, m in document.marks.items() if len(w) == len(where) and w[:-1] == parent)
    lines = _block({key: value}, first.column)
    if not parent:
        lines = ["", *lines]
    return _insert(text, _end(document, parent), lines)


def _append(document: Document, where: Where, value: Any) -> str:
    text, mark = document.text, document.marks[where]
    if mark.flow:
        return _into_flow(text, mark, _inline(value), True)
    first = document.marks[(*where, 0)]
    line_start = text.rfind("\n", 0, first.key_start) + 1
    dash = text[line_start : first.key_start].rindex("-")
    return _insert(text, _end(document, where), _block([value], dash))


def _insert(text: str, after: int, lines: list[str]) -> str:
    at = _after_comments(text, _line_end(text, after), lines)
    head = text[:at] if text[:at].endswith("\n") or not text[:at] else text[:at] + "\n"
    return head + "\n".join(lines) + "\n" + text[at:]


def _after_comments(text: str, at: int, lines: list[str]) -> int:
    """Past the comments that belong, by their indentation, to what stands before ``at``."""
    first = next((line for line in lines if line), "")
    deep = len(first) - len(first.lstrip()) + first.lstrip().startswith("- ")
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        line = text[at:end]
        if not line.lstrip().startswith("#") or len(line) - len(line.lstrip()) < max(deep, 1):
            break
        at = end
    return at


def _into_flow(text: str, mark: Mark, item: str, more: bool) -> str:
    at = mark.end - 1
    while more and text[at - 1] in " \t\r\n":
        at -= 1
    comma = ", " if more and text[at - 1] != "," else " " if more else ""
    return text[:at] + comma + item + text[at:]


def _remove(document: Document, where: Where) -> str:
    text = document.text
    while len(where) > 1 and len(_at(document.data, where[:-1])) == 1:
        where = where[:-1]
    mark = document.marks[where]
    siblings = [w for w in document.marks if len(w) == len(where) and w[:-1] == where[:-1]]
    siblings.sort(key=lambda w: document.marks[w].key_start)
    place = siblings.index(where)
    following = document.marks[siblings[place + 1]] if place + 1 < len(siblings) else None
    parent = document.marks.get(where[:-1])
    if parent is not None and parent.flow:
        if following is not None:
            return text[: mark.key_start] + text[following.key_start :]
        start = _end(document, siblings[place - 1]) if place else parent.start + 1
        return text[:start] + text[_end(document, where) :]
    line_start = text.rfind("\n", 0, mark.key_start) + 1
    end = _line_end(text, _end(document, where))
    before = text[line_start : mark.key_start]
    if isinstance(where[-1], int):
        if before.strip() != "-":
            raise ValueError("the item shares its line")
    elif before.strip():
        # the first key of a list item: what follows moves up behind the dash
        if following is None:
            raise ValueError("the key shares its line")
        return text[: mark.key_start] + text[following.key_start :]
    return text[:line_start] + text[end:]


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inline(k)}: {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _block(value: Any, indent: int) -> list[str]:
    """``value`` (a mapping or a list) as block lines."""
    space = " " * indent
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list) and inner:
                lines += [f"{space}{_inline(key)}:", *_block(inner, indent + 2)]
            else:
                lines.append(f"{space}{_inline(key)}: {_inline(inner)}")
        return lines
    for item in value:
        if isinstance(item, Mapping) and item:
            inner_lines = _block(item, indent + 2)
            lines += [f"{space}- {inner_lines[0].lstrip()}", *inner_lines[1:]]
        else:
            lines.append(f"{space}- {_inline(item)}")
    return lines
