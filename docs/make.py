"""Writes what is made from the code: ``python docs/make.py``: man pages, JSON schemas, the list of error messages.

``python docs/make.py --check`` only says what is no longer true (exit code 1); the unit suite does the same.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from pydantic import BaseModel

from ocd import __main__ as daemon
from ocd.core.state import State
from ocd.ctl import completion, options
from ocd.ctl.app import VERBS, cli
from ocd.ctl.exits import EXITS
from ocd.settings import describe
from ocd.wire import messages

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "docs"

#: what JSON each verb prints; "lines" where it is one object a line
JSON_OUTPUT = {
    "Status": "`occtl status --json`, `GET /v1/status`",
    "LogLine": "`occtl logs --json` (one a line), `GET /v1/logs/{name}`",
    "Event": "`occtl events --json` (one a line), `GET /v1/events`",
    "Exchange": "`occtl top --once --json` (requests), `GET /v1/requests` (one a line)",
    "Session": "`occtl sessions --json` (a list of them)",
    "Outcome": "`occtl reload|start|stop|restart|wait --json`",
    "Version": "`GET /v1/version`",
    "ConfigReply": "`GET /v1/config`",
    "ErrorReply": "every error with `--json`, and every error of the API",
    "LaunchRequest": "`POST /v1/launch`",
    "LaunchReply": "`POST /v1/launch`",
    "ReloadRequest": "`POST /v1/reload`",
}

FILES = (
    ("~/.config/ocd/ocd.toml", "ports, slots, limits: ocd.toml(5)"),
    ("~/.config/ocd/litellm.yaml, litellm-bedrock.yaml", "the two proxies' LiteLLM configuration"),
    ("~/.local/state/ocd/logs/", "the daemon's log, the proxies' output, events"),
    ("$XDG_RUNTIME_DIR/ocd/control.sock", "the control API"),
)
OPENCLAUDE_OPTIONS = (
    (
        "--model litellm@NAME, --model ll@NAME",
        "use the model group NAME of the LiteLLM file for this session",
    ),
    ("--model-opus, --model-sonnet, --model-haiku litellm@NAME", "use another model group for one slot"),
    ("--default-provider litellm", "names without litellm@ are model groups, too"),
    (
        "--account NAME",
        "a login of its own: the folder ~/.claude-accounts/NAME (occtl account); default: ~/.claude",
    ),
    (
        "--profile NAME",
        "the slots and the AWS profile of [profiles.NAME] in ocd.toml(5); none: nor those of the project's .ocd.toml",
    ),
    (
        "--host ssh://[USER@]HOST[:PORT][/FOLDER]",
        "as the first argument: become ssh(1), which runs openclaude on that machine, in FOLDER",
    ),
    ("--settings FILE|JSON", "merged with the settings of the session; Claude Code takes only one"),
)
OPENCLAUDE_ENVIRONMENT = (
    ("OPENCLAUDE_CLAUDE", "the Claude Code to start, instead of claude on PATH"),
    ("OPENCLAUDE_VERBOSE", "1: say which settings of yours were neutralised, and why"),
    ("OPENCLAUDE_START_TIMEOUT", "seconds to wait for the proxies"),
    ("OPENCLAUDE_AWS_PROFILE, OPENCLAUDE_AWS_REGION, OPENCLAUDE_LITELLM_PORT", "as in ocd.toml(5)"),
)

# --------------------------------------------------------------------------------------------------- man pages


def roff(text: str) -> str:
    """Text for a page: nothing in it is an order to the formatter (groff_man_style(7))."""
    made = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    made = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in made).replace(" ,", ",")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in made.splitlines())


class Page:
    """One man page, built from above."""

    def __init__(self, name: str, section: int, about: str) -> None:
        self.lines = [
            f'.TH "{name.upper()}" "{section}" "" "ocd" "ocd"',
            ".SH NAME",
            f"{roff(name)} \\- {roff(about)}",
        ]

    def heading(self, text: str, level: str = "SH") -> None:
        self.lines.append(f".{level} {roff(text.upper() if level == 'SH' else text)}")

    def synopsis(self, command: str, rest: str) -> None:
        self.heading("synopsis")
        self.lines += [f".B {roff(command)}", roff(rest)]

    def text(self, text: str) -> None:
        for number, part in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
            if number:
                self.lines.append(".PP")
            self.lines.append(roff(" ".join(part.split())))

    def items(self, rows: Any) -> None:
        for name, what in rows:
            self.lines += [".TP", f".B {roff(str(name))}", roff(" ".join(str(what).split()))]

    def plain(self, text: str) -> None:
        self.lines += [".nf", roff(textwrap.dedent(text).strip("\n")), ".fi"]

    def end(self, *others: str) -> str:
        self.heading("see also")
        names = [re.sub(r"(.*)\((\d)\)", r"\\fB\1\\fR(\2)", roff(name)) for name in others]
        self.lines.append(", ".join(names))
        return "\n".join(self.lines) + "\n"


def _context(command: click.Command, parent: click.Context | None = None) -> click.Context:
    """A context as `occtl` itself would make it: click keeps what it once made of it (the help option) in the command,
    and with other settings the command would be another one for the rest of the process."""
    return click.Context(command, parent=parent, **command.context_settings)


def _options(ctx: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in ctx.command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and "--help" not in record[0]:
            yield record


def _usage(ctx: click.Context) -> str:
    return " ".join(ctx.command.collect_usage_pieces(ctx))


def _verbs(page: Page, ctx: click.Context, path: str) -> None:
    command = ctx.command
    page.heading(f"{path} {_usage(ctx)}", "SS")
    page.text((command.help or command.short_help or "").replace("\b", ""))
    page.items(_options(ctx))
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            if found is not None and not found.hidden:
                _verbs(page, _context(found, ctx), f"{path} {name}")


def occtl() -> str:
    page = Page("occtl", 1, "control the ocd daemon and its two LiteLLM proxies")
    page.synopsis("occtl", "[OPTIONS] VERB [ARGUMENTS]")
    page.heading("description")
    page.text(cli.help or "")
    root = _context(cli)
    page.items(_options(root))
    for title, verbs in VERBS.items():
        page.heading(title)
        for verb in verbs:
            command = cli.get_command(root, verb)
            assert command is not None
            if not command.hidden:
                _verbs(page, _context(command, root), verb)
    page.heading("exit status")
    page.items(EXITS)
    page.heading("files")
    page.items(FILES)
    return page.end("openclaude(1)", "ocd(1)", "ocd.toml(5)")


def openclaude() -> str:
    page = Page("openclaude", 1, "Claude Code through the two proxies of ocd")
    page.synopsis("openclaude", "[ARGUMENTS OF CLAUDE CODE]")
    page.heading("description")
    page.text(
        """Asks the ocd daemon for the settings of a session, starts the daemon where none runs, and becomes Claude
        Code with them: opus and sonnet go to Anthropic with your own login, the haiku slot to Bedrock.

        openclaude /path/to/claude ARGUMENTS starts that program: the form in which editors and Claude Code itself
        call a wrapper. docs/claude-code.md says which verbs of Claude Code take no settings and are started without,
        and which cannot work behind a gateway.

        Every argument is handed on as it stands, these apart:"""
    )
    page.items(OPENCLAUDE_OPTIONS)
    page.heading("environment")
    page.items(OPENCLAUDE_ENVIRONMENT)
    page.heading("exit status")
    page.text("Claude Code's own; or, when it was not started:")
    page.items(row for row in EXITS if row[0] >= 64)
    page.heading("files")
    page.items(FILES)
    return page.end("occtl(1)", "ocd.toml(5)")


def ocd() -> str:
    page = Page("ocd", 1, "keep two LiteLLM proxies up for Claude Code")
    page.synopsis("ocd", "[\\-\\-detach] [\\-\\-version] [\\-\\-help]".replace("\\", ""))
    page.heading("description")
    page.plain(daemon.USAGE)
    page.heading("signals")
    page.items(
        (
            ("SIGTERM, SIGINT", "finish the answers that are being given, then end"),
            ("SIGHUP", "reload the configuration"),
        )
    )
    page.heading("exit status")
    page.items(row for row in EXITS if row[0] in (0, 64, 75, 77, 78))
    page.heading("files")
    page.items(FILES)
    return page.end("occtl(1)", "openclaude(1)", "ocd.toml(5)")


def ocd_toml() -> str:
    page = Page("ocd.toml", 5, "settings of the ocd daemon")
    page.heading("description")
    page.text(
        """TOML, in ~/.config/ocd (occtl config path). Every key has a default; a saved change is served at once, a
        mistake is reported with its line and changes nothing. A key can also be set in the environment of the
        daemon, under the name that is given with it."""
    )
    for table in describe.tables():
        page.heading(
            f"[{'.'.join(table.path)}]" if table.path else "top of the file", "SH" if not table.path else "SS"
        )
        if table.description:
            page.text(table.description)
        for entry in table.entries:
            default = f" Default: {entry.default}." if entry.default else ""
            names = f" Environment: {', '.join(entry.variables)}." if entry.variables else ""
            page.items([(f"{entry.path[-1]} ({entry.kind})", f"{entry.description}{default}{names}")])
    page.heading("files")
    page.items(FILES[:2])
    return page.end("occtl(1)", "ocd(1)")


# ----------------------------------------------------------------------------------------------------- schemas


def schemas() -> dict[str, str]:
    """File name → JSON schema of every message that a program may read."""
    made = {}
    for name in JSON_OUTPUT:
        model = getattr(messages, name)
        assert issubclass(model, BaseModel)
        made[f"{name}.json"] = json.dumps(model.model_json_schema(mode="serialization"), indent=2) + "\n"
    rows = "\n".join(f"| [{name}]({name}.json) | {what} |" for name, what in JSON_OUTPUT.items())
    made["README.md"] = (
        "# JSON schemas\n\nMade from `ocd/wire/messages.py` by `python docs/make.py`. A newer daemon of the same API "
        "version may say more; fields are\nnever taken away or given another meaning inside one.\n\n"
        f"| schema | printed by |\n|---|---|\n{rows}\n"
    )
    return made


# ------------------------------------------------------------------------------------------------------ errors

#: where an error is made: class, and the arguments' names in order
_MAKERS = {
    "OcdError": ("what", "why", "next_step"),
    "Problem": ("code", "what", "why", "next"),
    "__init__": ("what", "why", "next_step"),
}


def _text(node: ast.expr | None) -> str:
    """An argument's words; what is put in when it happens is a dot-dot-dot."""
    match node:
        case ast.Constant(value=str(words)):
            return words
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body):
            return _text(body)
        case None:
            return ""
    return "…"


def errors() -> dict[str, set[tuple[str, str, str]]]:
    """Code → what, why, next step, as the source has them."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for path in sorted((ROOT / "ocd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = (
                called.id
                if isinstance(called, ast.Name)
                else called.attr
                if isinstance(called, ast.Attribute)
                else ""
            )
            if name not in _MAKERS or (name == "__init__" and not _raises(node)):
                continue
            given: dict[str, ast.expr] = dict(zip(_MAKERS[name], node.args, strict=False))
            if (
                name == "Problem"
                and len(node.args) > 1
                and _text(node.args[0]) in ("error", "warning", "note")
            ):
                given = dict(zip(("level", *_MAKERS[name]), node.args, strict=False))
            given |= {one.arg: one.value for one in node.keywords if one.arg}
            code = _text(given.get("code")) or "error"
            step = _text(given.get("next_step", given.get("next", given.get("cure"))))
            what = " ".join(_text(given.get("what")).split())
            if "…" in code or what.strip("… ") == "":
                continue
            found.setdefault(code, set()).add(
                (what, " ".join(_text(given.get("why")).split()), " ".join(step.split()))
            )
    return found


def _raises(node: ast.Call) -> bool:
    """``super().__init__(…, code=…)`` of one of our errors."""
    return any(one.arg == "code" for one in node.keywords) and "super()" in ast.unparse(node.func)


def error_page() -> str:
    lines = [
        "# Error messages",
        "",
        "Every message of `ocd`, `occtl` and `openclaude`, by code (`error.code` with `--json`): what it says, why,",
        "and what to do. `…` stands for what is named when it happens. Made from the code by `python docs/make.py`;",
        "longer explanations are in [troubleshooting.md](troubleshooting.md), the findings of `occtl config check` say",
        "file, line and cure themselves.",
        "",
    ]
    for code, messages_ in sorted(errors().items()):
        lines.append(f"## {code}")
        for what, why, step in sorted(messages_):
            text = f"- **{_escape(what)}**"
            if why.strip("… "):
                text += f": {_escape(why)}"
            text += "."
            if step.strip("… "):
                text += f" {_escape(step).rstrip('.')}."
            lines += textwrap.wrap(
                text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _escape(text: str) -> str:
    return re.sub(r"([*_<>|])", r"\\\1", text) if "`" not in text else text


# ------------------------------------------------------------------------------- tables for what must be quick

#: the messages that are read without pydantic (``ocd/ctl/look/records.py``), with what is in them
QUICK_MESSAGES = ("Status", "Version", "LogLine", "Event", "ErrorReply")
_KINDS = {str: "s", int: "i", float: "f", bool: "b", Any: "any", State: "state"}


def _kind(found: Any) -> str:
    if get_origin(found) is Annotated:
        found = get_args(found)[0]
    arguments = get_args(found)
    if get_origin(found) is Literal:
        return _kind(type(arguments[0]))
    if type(None) in arguments:
        (inner,) = (one for one in arguments if one is not type(None))
        return "?" + _kind(inner)
    if get_origin(found) in (list, dict):
        return f"{get_origin(found).__name__} {_kind(arguments[-1])}"
    return _KINDS.get(found) or str(found.__name__)


def fields() -> str:
    """``ocd/ctl/fields.py``: message → (field, kind, default if it has one)."""
    wanted = [*QUICK_MESSAGES]
    rows: dict[str, list[tuple[Any, ...]]] = {}
    while wanted:
        name = wanted.pop(0)
        if name in rows:
            continue
        rows[name] = []
        for field, info in getattr(messages, name).model_fields.items():
            kind = _kind(info.annotation)
            rows[name].append((field, kind) if info.is_required() else (field, kind, info.default))
            inner = kind.lstrip("?").split()[-1]
            if hasattr(messages, inner):
                wanted.append(inner)
    return _module(
        "What the daemon's messages hold: made from ``ocd/wire/messages.py`` by ``python docs/make.py``.",
        STATES=("tuple[str, ...]", tuple(str(state) for state in State)),
        FIELDS=(
            "dict[str, tuple[tuple[Any, ...], ...]]",
            {name: tuple(entries) for name, entries in rows.items()},
        ),
    )


def _parameters(command: click.Command) -> tuple[tuple[Any, ...], ...]:
    """(names, dest, kind, help) each; without names: an argument. kind: flag, int, float, text, file, dir,
    choice:…, proxy, log; ``click`` where click's own completion has to look at something."""
    made = []
    with _context(command, _context(cli) if command is not cli else None) as ctx:
        for one in command.get_params(ctx):
            if isinstance(one, click.Option) and one.hidden:
                continue
            made.append(
                (
                    tuple(one.opts) if isinstance(one, click.Option) else (),
                    one.name,
                    _of_parameter(one),
                    (one.help or "") if isinstance(one, click.Option) else "",
                )
            )
    return tuple(made)


def _of_parameter(one: click.Parameter) -> str:
    if isinstance(one, click.Option) and one.is_flag:
        return "flag"
    match one.type:
        case click.Choice(choices=choices):
            return "choice:" + "|".join(map(str, choices))
        case click.Path(file_okay=False):
            return "dir"
        case click.Path() | click.File():
            return "file"
    kind = {
        options.LogName: "log",
        options.ProxyName: "proxy",
        options.KeyName: "key",
        click.IntRange: "int",
        click.FloatRange: "float",
    }.get(type(one.type))
    return kind or ("text" if type(one.type) in (type(click.STRING), type(click.INT)) else "click")


def words() -> str:
    """``ocd/ctl/words.py``: every command by its path: (summary, parameters)."""
    made: dict[str, tuple[Any, ...]] = {}

    def add(command: click.Command, path: str) -> None:
        made[path] = (command.get_short_help_str(limit=1000), _parameters(command))
        if isinstance(command, click.Group):
            ctx = _context(command)
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                if found is not None and not found.hidden:
                    add(found, f"{path} {name}".strip())

    add(cli, "")
    return _module(
        "Commands and options: made from the commands themselves by ``python docs/make.py``.",
        KEYS=("tuple[str, ...]", tuple(entry.key for table in describe.tables() for entry in table.entries)),
        COMMANDS=("dict[str, tuple[str, tuple[tuple[tuple[str, ...], str, str, str], ...]]]", made),
    )


def _module(about: str, **tables: tuple[str, Any]) -> str:
    lines = [f'"""{about}"""', "", "# fmt: off", "# ruff: noqa: E501", "TYPE_CHECKING = False",
             "if TYPE_CHECKING:", "    from typing import Any", ""]  # fmt: skip
    if not any("Any" in kind for kind, _ in tables.values()):
        del lines[4:7]
    for name, (kind, table) in tables.items():
        if isinstance(table, dict):
            lines += [
                f'{name}: "{kind}" = {{',
                *(f"    {key!r}: {row!r}," for key, row in table.items()),
                "}",
            ]
        else:
            lines.append(f'{name}: "{kind}" = {table!r}')
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------------- all


def everything() -> dict[Path, str]:
    """Path → what should be in it."""
    made = {
        ROOT / "ocd" / "man" / "occtl.1": occtl(),
        ROOT / "ocd" / "man" / "openclaude.1": openclaude(),
        ROOT / "ocd" / "man" / "ocd.1": ocd(),
        ROOT / "ocd" / "man" / "ocd.toml.5": ocd_toml(),
        HERE / "errors.md": error_page(),
        ROOT / "ocd" / "ctl" / "fields.py": fields(),
        ROOT / "ocd" / "ctl" / "words.py": words(),
    }
    made |= {
        ROOT / "ocd" / "completions" / name: completion.script(shell, cli) + "\n"
        for shell, name in (("bash", "occtl"), ("zsh", "_occtl"), ("fish", "occtl.fish"))
    }
    return made | {HERE / "schemas" / name: text for name, text in schemas().items()}


def run() -> int:
    stale = []
    for path, text in everything().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "everything is as the code says")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(run())
