"""Read a LiteLLM YAML file: plain data, and for each value the line and the span of text where it stands.

The text is composed with ruamel.yaml under YAML 1.1, as LiteLLM (PyYAML) reads it: ``yes`` is true. Nothing
is constructed from tags, so a hostile file can make no object; size, depth and the number of values (after
anchors are followed) are bounded. Included files are merged as LiteLLM does
(``litellm/proxy/common_utils/config_includes.py`` of 1.106.2): next to the file that names them, lists are
joined, any other section replaces the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocd.settings.edits import Edit
from ocd.settings.findings import ConfigError, Finding

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

#: bytes of one file
LARGEST = 1 << 20
#: values in one file, anchors followed
MOST_VALUES = 50_000
DEEPEST = 40
#: files of one configuration
MOST_FILES = 50

Where = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands: ``line`` of its key (or of the list item) from 1, character offsets of the value,
    column and offset of the key. ``flow``: written in braces or brackets. ``shared``: reached over an
    alias."""

    file: Path
    line: int
    start: int
    end: int
    key_start: int
    column: int
    flow: bool
    scalar: bool
    own: Where
    shared: bool = False


@dataclass(slots=True)
class Document:
    """One YAML file. ``marks`` knows every path in ``data``, the empty path included."""

    path: Path
    text: str
    data: Any
    marks: dict[Where, Mark]
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class LiteLLMFile:
    """A LiteLLM configuration with its includes. ``data`` is merged; ``marks`` name the file of each value;
    ``wanted`` are the included files, those that are missing too."""

    path: Path
    data: dict[str, Any]
    marks: dict[Where, Mark]
    documents: list[Document]
    findings: list[Finding]
    wanted: list[Path] = field(default_factory=list)

    def line(self, where: Where) -> int | None:
        """The line of ``where``, or of the nearest thing around it."""
        mark = self.mark(where)
        return mark.line if mark else None

    def mark(self, where: Where) -> Mark | None:
        """The mark of ``where``, or of the nearest thing around it."""
        while where:
            if where in self.marks:
                return self.marks[where]
            where = where[:-1]
        return None

    def edit(self, where: Where, value: Any, *, append: bool = False) -> Edit:
        """The change that puts ``value`` at ``where``, in whichever file that stands."""
        for depth in range(len(where), 0, -1):
            mark = self.marks.get(where[:depth])
            if mark is not None:
                return Edit(mark.file, (*mark.own, *where[depth:]), value, append)
        return Edit(self.path, where, value, append)

    def file(self, where: Where) -> Path:
        """The file in which ``where`` stands."""
        mark = self.mark(where)
        return mark.file if mark else self.path

    def section(self, name: str) -> dict[str, Any]:
        """A top-level section, empty when it is missing or no mapping."""
        found = self.data.get(name)
        return found if isinstance(found, dict) else {}

    def routes(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Index, model_name and litellm_params of each usable entry of ``model_list``."""
        entries = self.data.get("model_list")
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            if not isinstance(entry, dict):
                continue
            name, params = entry.get("model_name"), entry.get("litellm_params")
            if isinstance(name, str) and isinstance(params, dict) and isinstance(params.get("model"), str):
                yield index, name, params


def dotted(where: Where) -> str:
    """``("model_list", 0, "model_name")`` → ``model_list[0].model_name``."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def compose(path: Path, text: str) -> Document:
    """Read ``text`` as the content of ``path``. Raises ConfigError when it is no YAML or too much of it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    try:
        root = yaml.compose(text)
    except RecursionError:
        raise _refuse(
            path, "yaml-too-deep", "the file is nested too deeply", "Put back a plain file"
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"this is not YAML: {error.problem or error.context or 'it cannot be read'}"
        line = mark.line + 1 if mark else None
        raise _refuse(path, "yaml-syntax", what, "Check indentation, quotes and colons there", line) from None
    except (YAMLError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
        # ruamel answers some broken texts with plain exceptions; whatever it is, it is not readable YAML
        what = f"this is not YAML: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}"
        raise _refuse(path, "yaml-syntax", what, "Save the file as plain UTF-8 YAML") from None
    builder = _Builder(path)
    data = builder.build(root, (), None, False, False) if root is not None else None
    return Document(path, text, data, builder.marks, builder.findings)


def _refuse(path: Path, code: str, what: str, fix: str, line: int | None = None) -> ConfigError:
    return ConfigError([Finding("error", code, str(path), line, "", what, fix)])


class _Builder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.marks: dict[Where, Mark] = {}
        self.findings: list[Finding] = []
        self._seen: set[int] = set()

    def build(self, node: Node, where: Where, key: Node | None, in_flow: bool, shared: bool) -> Any:
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        if len(self.marks) >= MOST_VALUES or len(where) > DEEPEST:
            what = "the file holds more values, or deeper ones, than any configuration has (anchors followed)"
            raise _refuse(self.path, "yaml-too-much", what, "Put back a plain file", node.start_mark.line + 1)
        shared = shared or id(node) in self._seen
        self._seen.add(id(node))
        flow = in_flow or bool(getattr(node, "flow_style", False))
        at = (key or node).start_mark
        self.marks[where] = Mark(
            self.path,
            at.line + 1,
            node.start_mark.index,
            node.end_mark.index,
            at.index,
            at.column,
            flow,
            isinstance(node, ScalarNode),
            where,
            shared,
        )
        if isinstance(node, SequenceNode):
            return [self.build(item, (*where, n), None, flow, shared) for n, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, where, flow, shared)
        return _scalar(node)

    def _mapping(self, node: Node, where: Where, flow: bool, shared: bool) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key, value in node.value:
            name = _scalar(key) if isinstance(key.value, str) else None
            if name is None or isinstance(name, float):
                name = str(key.value)[:80]
            if key.tag is not None and str(key.tag).endswith(":merge"):
                sources = value.value if isinstance(value.value, list) and value.id == "sequence" else [value]
                for source in sources:
                    inner = self.build(source, where, key, flow, True) if source.id == "mapping" else {}
                    merged = {**inner, **merged}
                continue
            if name in found:
                self.findings.append(
                    Finding(
                        "warning",
                        "duplicate-key",
                        str(self.path),
                        key.start_mark.line + 1,
                        dotted((*where, str(name))),
                        "the key stands twice; LiteLLM takes the last one",
                        "Remove one of the two",
                    )
                )
            found[name] = self.build(value, (*where, name), key, flow, shared)
        return {**merged, **found}


_TRUE = frozenset(("true", "yes", "on", "y"))


def _scalar(node: Node) -> Any:
    tag, text = str(node.tag or ""), str(node.value)
    kind = tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in _TRUE
    if kind in ("int", "float"):
        try:
            plain = text.replace("_", "")
            return int(plain, 0) if kind == "int" else float(plain)
        except ValueError:
            return text
    return text


def load_litellm(path: Path) -> LiteLLMFile:
    """Read ``path`` and what it includes.

    A missing or broken first file raises ConfigError; trouble in an included one is in ``findings``.
    """
    from ocd.settings.load import read_text

    if not path.exists():
        raise _refuse(
            path, "file-missing", "there is no such file", "Run `occtl init`, or name another in ocd.toml"
        )
    first = compose(path, read_text(path, LARGEST))
    if first.data is None:
        raise _refuse(
            path, "file-empty", "the file is empty: LiteLLM has no models to serve", "Run `occtl init`"
        )
    if not isinstance(first.data, dict):
        raise _refuse(
            path, "not-a-mapping", "sections like model_list: are expected", "Begin with `model_list:`", 1
        )
    merged = LiteLLMFile(path, {}, {}, [first], list(first.findings))
    _merge(merged, first)
    pending = [(entry, path, at) for entry, at in _includes(merged, first)]
    loaded = {_key(path)}
    while pending:
        entry, declared_in, line = pending.pop(0)
        target = declared_in.parent / entry
        if not target.exists() and (path.parent / entry).exists():
            target = path.parent / entry
        if _key(target) in loaded:
            continue
        loaded.add(_key(target))
        merged.wanted.append(target)
        try:
            if len(merged.documents) >= MOST_FILES:
                raise _refuse(target, "include-too-many", f"more than {MOST_FILES} files are included", "")
            if not target.exists():
                what = f"the included file {target} does not exist: LiteLLM does not start"
                finding = Finding(
                    "error",
                    "include-missing",
                    str(declared_in),
                    line,
                    "include",
                    what,
                    "Correct the name, or remove the entry",
                )
                raise ConfigError([finding])
            document = compose(target, read_text(target, LARGEST))
            if document.data is not None and not isinstance(document.data, dict):
                raise _refuse(target, "not-a-mapping", "sections like model_list: are expected", "", 1)
        except ConfigError as error:
            merged.findings += error.findings
            continue
        merged.documents.append(document)
        merged.findings += document.findings
        if isinstance(document.data, dict):
            _merge(merged, document)
            pending += [(e, target, at) for e, at in _includes(merged, document)]
    merged.data.pop("include", None)
    return merged


def _key(path: Path) -> str:
    return str(path.resolve())


def _includes(merged: LiteLLMFile, document: Document) -> list[tuple[str, int | None]]:
    entries = document.data.get("include")
    if entries is None:
        return []
    mark = document.marks[("include",)]
    if not isinstance(entries, list) or not all(isinstance(e, str) and e and "\0" not in e for e in entries):
        edits: tuple[Edit, ...] = ()
        if isinstance(entries, str):
            edits = (Edit(document.path, ("include",), [entries]),)
        merged.findings.append(
            Finding(
                "error",
                "include-not-a-list",
                str(document.path),
                mark.line,
                "include",
                "include must be a list of file names: LiteLLM does not start",
                "Write `include: [other.yaml]`",
                bool(edits),
                edits,
            )
        )
        return [(entries, mark.line)] if isinstance(entries, str) and "\0" not in entries else []
    return [(entry, document.marks[("include", n)].line) for n, entry in enumerate(entries)]


def _merge(merged: LiteLLMFile, document: Document) -> None:
    for name, value in document.data.items():
        base = merged.data.get(name)
        joined = isinstance(base, list) and isinstance(value, list) and name != "include"
        if name in merged.data and not joined and name != "include":
            merged.findings.append(
                Finding(
                    "warning",
                    "include-replaces",
                    str(document.path),
                    document.marks[(name,)].line,
                    str(name),
                    f"this section replaces the whole {name} of the file that includes it",
                    f"Keep {name} in one of the two files",
                )
            )
            for where in [w for w in merged.marks if w and w[0] == name]:
                del merged.marks[where]
        offset = len(base) if joined and isinstance(base, list) else 0
        for where, mark in document.marks.items():
            if where and where[0] == name:
                if joined and len(where) == 1:
                    continue
                if offset and isinstance(where[1], int):
                    where = (name, where[1] + offset, *where[2:])
                merged.marks[where] = mark
        merged.data[name] = [*base, *value] if joined and isinstance(base, list) else value
