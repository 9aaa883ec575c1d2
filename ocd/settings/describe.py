"""Every setting with its type, bounds, default and description: for template, documents and error texts."""

import inspect
import json
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ocd.settings.schema import SEED_NAMES, Settings


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. ``path`` from the top; ``default`` as TOML, empty where there is none; ``variables`` of the
    environment, the first one wins."""

    path: tuple[str, ...]
    kind: str
    default: str
    description: str
    variables: tuple[str, ...]

    @property
    def key(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Table:
    """One ``[section]``; the empty path is the top of the file."""

    path: tuple[str, ...]
    description: str
    entries: tuple[Entry, ...]


def fields_below(model: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key and section."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        inner = section_of(field)
        if inner is not None:
            yield from fields_below(inner, (*path, name))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model behind a field that is a section, None for a plain key."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def sections_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of each of a field's sections, whose names are the user's (``[profiles.NAME]``); None: it has none."""
    args = get_args(field.annotation) if get_origin(field.annotation) is dict else ()
    kind = args[1] if args else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def field_at(path: tuple[str, ...]) -> FieldInfo | None:
    """The field at ``path``; None when there is no such key. At the name of one of several sections it is the field
    that has them."""
    model: type[BaseModel] | None = Settings
    field: FieldInfo | None = None
    several: type[BaseModel] | None = None
    for name in path:
        if several is not None:
            model, several = several, None
            continue
        field = model.model_fields.get(name) if model is not None else None
        if field is None:
            return None
        model, several = section_of(field), sections_of(field)
    return field


def tables(model: type[BaseModel] = Settings, path: tuple[str, ...] = (), about: str = "") -> Iterator[Table]:
    """All sections in the file's order, the top of the file first."""
    entries = []
    inner: list[tuple[tuple[str, ...], type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        here = (*path, name)
        section = section_of(field)
        if section is not None:
            inner.append((here, section, inspect.cleandoc(section.__doc__ or "")))
            continue
        entries.append(
            Entry(here, kind(field), _toml(field.default), field.description or "", variables(here))
        )
    if entries:
        yield Table(path, about, tuple(entries))
    for here, section, text in inner:
        yield from tables(section, here, text)


def variables(path: tuple[str, ...]) -> tuple[str, ...]:
    """The environment variables that set the key at ``path``."""
    seeds = [name for name, key in SEED_NAMES.items() if tuple(key.split(".")) == path]
    return ("OCD_" + "__".join(path).upper(), *seeds)


def kind(field: FieldInfo) -> str:
    """What a field accepts, in words: "a whole number from 1 to 65534"."""
    limits: dict[str, Any] = {}

    def collect(metadata: Any) -> None:
        for item in metadata:
            if isinstance(item, FieldInfo):
                collect(item.metadata)
            for name in ("ge", "gt", "le", "lt", "min_length"):
                value = getattr(item, name, None)
                if value is not None:
                    limits[name] = value

    def words(annotation: Any) -> str:
        if hasattr(annotation, "__metadata__"):
            collect(annotation.__metadata__)
            return words(annotation.__origin__)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Union, types.UnionType):
            return words(next(arg for arg in args if arg is not type(None)))
        if origin is Literal:
            return "one of " + ", ".join(json.dumps(arg) for arg in args)
        if origin is list:
            return "a list of texts"
        if origin is dict:
            inner = args[1] if len(args) > 1 else None
            several = isinstance(inner, type) and issubclass(inner, BaseModel)
            return "sections, one for each name" if several else "a table of names and texts"
        plain = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "a text",
            SecretStr: "a text",
        }
        return plain.get(annotation, "a section" if isinstance(annotation, type) else "a value")

    collect(field.metadata)
    text = words(field.annotation)
    if limits.get("min_length") and text == "a text":
        text = "a text that is not empty"
    if "ge" in limits:
        text += f" from {limits['ge']}"
    if "gt" in limits:
        text += f" above {limits['gt']}"
    if "le" in limits:
        text += f"{' to' if 'ge' in limits else ', at most'} {limits['le']}"
    return text


def _toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "{}" if not value else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def render_template() -> str:
    """``ocd.toml`` as shipped: every key, commented out, with its default and what it does."""
    lines = [
        "# Settings of ocd. Every key stands here with its default; take the # off to change one.",
        "# An environment variable wins over this file (OCD_PORT=5000, OCD_LOGS__LEVEL=debug).",
        "# `occtl config check` explains mistakes; `occtl reload` makes changes take effect.",
    ]
    for table in tables():
        lines.append("")
        if table.path:
            lines += [*_comment(table.description), f"[{'.'.join(table.path)}]"]
        for entry in table.entries:
            names = ", ".join(entry.variables)
            lines += _comment(f"{entry.description} ({entry.kind}; {names})")
            lines.append(f"#{entry.path[-1]} = {entry.default or _EXAMPLES.get(entry.key, '')}")
    return "\n".join(lines) + "\n"


def render_document() -> str:
    """``docs/configuration.md``: every key with type, default, variables and what it does."""
    lines = [_INTRODUCTION]
    for table in tables():
        lines.append(f"\n## `[{'.'.join(table.path)}]`\n" if table.path else "\n## Top of the file\n")
        if table.description:
            lines.append(f"{table.description}\n")
        lines.append("| key | accepts | default | environment | |")
        lines.append("|---|---|---|---|---|")
        for entry in table.entries:
            cells = (
                f"`{entry.path[-1]}`",
                entry.kind,
                f"`{entry.default}`" if entry.default else "",
                "<br>".join(f"`{name}`" for name in entry.variables),
                entry.description,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", _ENDING])


_INTRODUCTION = """\
# Configuration

<!-- generated by `python -m ocd.settings.describe`; change the descriptions in ocd/settings/schema.py -->

Three files in the configuration folder (`occtl config path`): `ocd.toml`, `litellm.yaml` and
`litellm-bedrock.yaml`. Where two sources name a key, the environment wins over `ocd.toml`, and that over the
default. Lists and tables in a variable are JSON; an empty variable counts as unset. Unknown keys and values
of a wrong kind are errors that name the line and what was expected; nothing that serves is disturbed by
them.

`OCD_CONFIG_DIR` names another configuration folder, `OCD_RUNTIME_DIR` another one for the sockets,
`OCD_PREFIX` one folder for everything; they are no settings and stand in no file."""

_ENDING = """\
## The two LiteLLM files

Both are plain LiteLLM configurations and yours: ocd reads them and never rewrites them unasked
(`occtl config check --fix` asks). LiteLLM resolves `os.environ/NAME` in them; ocd provides

| name | in | is |
|---|---|---|
| `OCD_MAIN_KEY` | main | the main proxy's key, made at the first start |
| `OCD_BEDROCK_KEY` | both | the bedrock proxy's key, made at the first start |
| `OCD_BEDROCK_URL` | main | where the bedrock proxy answers, `http://127.0.0.1:4001/v1` |
| `OCD_AWS_REGION`, `OCD_AWS_PROFILE` | bedrock | `aws_region` and `aws_profile` from `ocd.toml` |

A proxy inherits nothing else from your shell; what your own callbacks need goes to `[proxies.NAME.env]`.

`occtl config check` reads both files the way LiteLLM does, included files and callback modules too, and
says for each mistake where it stands, what will happen and what to do. Before a reload the same check runs;
a file with an error changes nothing that is serving. The files are then copied, with their includes and the
Python modules beside them, into a snapshot from which the proxies start, so that a later half-saved file
cannot take a proxy down. Put modules that callbacks import beside the YAML file."""


#: what to show for keys without a default
_EXAMPLES = {"bedrock_port": "4001"}


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


if __name__ == "__main__":
    # for contributors, in a checkout: writes the two generated files
    from pathlib import Path

    here = Path(__file__).parent
    (here.parent / "stack" / "templates" / "ocd.toml").write_text(render_template(), encoding="utf-8")
    (here.parents[1] / "docs" / "configuration.md").write_text(render_document(), encoding="utf-8")
