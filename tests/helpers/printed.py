"""The commands that the project prints: in the README, docs/, man pages, ``--help`` and its own messages.

``everywhere()`` finds them, ``wrong(command)`` says what cannot work about one. What a person puts in is written in
capitals (NAME, SLOT) or as ``…``, what may be left out in brackets; all else has to exist.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ocd.ctl.__main__ import gathered
from ocd.ctl.app import VERBS, cli

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("occtl", "openclaude", "ocd", "make", "systemctl", "launchctl", "loginctl", "install.py")
DOCUMENTS = ("README.md", "SECURITY.md", "docs/*.md", "ocd/man/*")
#: docs about other programs' commands of the same name
NOT_OUR_MAKE = ("docs/seeds.md",)
SYSTEMCTL = {
    "status",
    "start",
    "stop",
    "restart",
    "reload",
    "enable",
    "disable",
    "cat",
    "is-active",
    "edit",
    "exit",
}
LAUNCHCTL = {"print", "bootstrap", "bootout", "kickstart", "kill", "enable", "disable"}
LOGINCTL = {"enable-linger", "disable-linger", "show-user"}
FILLED = re.compile(r"…|[A-Z][A-Z0-9_]*(=…)?|<[a-z-]+>|\{[a-z_]+\}")


@dataclass(frozen=True)
class Printed:
    """A command as printed. ``whole``: it is an example to type, not the name of a verb in a sentence."""

    where: str
    text: str
    whole: bool


# ------------------------------------------------------------------------------------------------ finding


def everywhere() -> list[Printed]:
    found = [*documents(), *helps(), *sources()]
    return list(dict.fromkeys(found))


def documents() -> Iterator[Printed]:
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            where = str(path.relative_to(ROOT))
            text = path.read_text(encoding="utf-8")
            if path.parent.name == "man":
                # roff has no backticks: headings of verbs, and commands between brackets.
                text = re.sub(r"\\f[BIRP]|\\&", "", text.replace("\\-", "-").replace("\\(aq", "'"))
                if path.name == "occtl.1":
                    for verb in re.findall(r"^\.SS ([a-z].*)$", text, re.MULTILINE):
                        yield Printed(where, "occtl " + re.sub(r"\[OPTIONS\]|[{}]", "", verb), False)
                for inline in re.findall(r"\((occtl [a-z-]+(?: [a-z]+)?)\)", text):
                    yield Printed(where, inline, False)
            yield from in_text(where, text)


def in_text(where: str, text: str) -> Iterator[Printed]:
    """Fenced lines that are commands, and inline code that begins with one of our programs."""
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command = re.split(r"\s{2,}", line.strip().removeprefix("$ "))[0]
            if begins(command) and "──▶" not in line:
                yield Printed(where, command, True)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for inline in re.findall(r"`([^`]+)`", text):
        if begins(inline) and " " in inline:
            yield Printed(where, " ".join(inline.split()), False)


def helps() -> Iterator[Printed]:
    """The examples below each verb's ``--help``."""
    for path, command in commands():
        where = f"occtl {path} --help"
        examples = (command.epilog or "").partition("Examples:\n")[2]
        for line in examples.splitlines():
            line = re.sub(r"^\s*[a-z]+:\s+", "", line.strip())
            # What it does stands beside it, after two spaces at least.
            line = re.split(r"\s{2,}", line)[0]
            if begins(line) or line.startswith(("eval ", "curl ")):
                yield Printed(where, line, True)
        yield from in_text(where, command.help or "")


def commands(command: click.Command = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        names = (
            [verb for verbs in VERBS.values() for verb in verbs] if command is cli else list(command.commands)
        )
        for name in names:
            found = command.get_command(context_of(command), name)
            assert found is not None
            yield from commands(found, f"{path} {name}".strip())


def context_of(command: click.Command) -> click.Context:
    """As ``occtl`` makes it: a command remembers the names of its option for help from the first one."""
    root = click.Context(cli, info_name="occtl", **cli.context_settings)
    return root if command is cli else click.Context(command, parent=root)


def sources() -> Iterator[Printed]:
    """What is advised in the code's own messages: commands between backticks in strings, docstrings left out."""
    for path in [ROOT / "install.py", *sorted((ROOT / "ocd").rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = str(path.relative_to(ROOT))
        inside = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                text = node.value
            else:
                continue
            if id(node) in docstrings:
                continue
            for inline in re.findall(r"`([^`\n]+)`", text):
                if begins(inline):
                    yield Printed(where, inline.replace("%s", "VALUE").replace("%d", "1"), False)


def begins(text: str) -> bool:
    words = text.split()
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:1] == ["python3"] or (words and re.fullmatch(r"python3\.\d+", words[0])):
        return words[1:2] == ["install.py"]
    # "ocd 0.2.0, running for …" is what status prints.
    return bool(words) and words[0] in PROGRAMS and not re.match(r"ocd \d", text)


# ------------------------------------------------------------------------------------------------ judging


def wrong(printed: Printed) -> str:
    """What cannot work about a printed command, or an empty string."""
    text = printed.text.replace("[", " ").replace("]", " ") if not printed.whole else printed.text
    try:
        parts = list(pieces(text))
    except ValueError as error:
        return str(error)
    for words in parts:
        if said := judge(words, printed):
            return said
    return ""


def pieces(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell line, their redirections and variables left out."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;()"):
            if words:
                yield words
            words = []
        elif not re.fullmatch(r"[A-Z_]+=\S*", word) or words:
            words.append(word)


def judge_serve(rest: list[str]) -> str:
    from ocd.team import serve

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        serve.arguments(["--team", "--help"])
    known = {*re.findall(r"--[a-z]+", said.getvalue()), "-h"}
    return next(
        (f"ocd serve has no {word}" for word in rest if word.startswith("-") and word not in known), ""
    )


def judge(words: list[str], printed: Printed) -> str:
    if "<" in words or ">" in words:
        words = words[: min(words.index(sign) for sign in "<>" if sign in words)]
    name, rest = words[0], words[1:]
    if name == "occtl" or name == "$(occtl":
        return judge_occtl([word.rstrip(")") for word in rest], printed.whole)
    if name == "ocd" and rest[:1] == ["serve"]:
        return judge_serve(rest[1:])
    if name == "ocd":
        known = {"--check", "--detach", "--version", "--help", "-h"}
        return "" if set(rest) <= known else f"ocd has no {rest}"
    if name.startswith("python3") or name == "install.py":
        return judge_install(rest[1:] if name != "install.py" else rest)
    # Where something is made after `occtl wait`, it is the reader's.
    if name == "make" and printed.where not in NOT_OUR_MAKE and not printed.where.startswith("occtl"):
        targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        asked = [word for word in rest if "=" not in word]
        return next((f"make has no {word}" for word in asked if word not in targets), "")
    if name == "systemctl":
        verbs = [word for word in rest if not word.startswith("-")]
        units = [word for word in verbs[1:] if word not in ("ocd", "ocd.service", "ocd.socket", "VALUE")]
        if "--user" not in rest or units or (verbs and verbs[0] not in SYSTEMCTL):
            return f"systemctl: {' '.join(rest)}"
    for program, known in (("launchctl", LAUNCHCTL), ("loginctl", LOGINCTL)):
        if name == program and rest and rest[0] not in known and not FILLED.fullmatch(rest[0]):
            return f"{program} has no {rest[0]}"
    return ""


def judge_occtl(words: list[str], whole: bool) -> str:
    words = gathered(words)[0]
    command: click.Command = cli
    path = "occtl"
    context = context_of(command)
    while True:
        try:
            given, rest, _ = command.make_parser(context).parse_args(list(words))
        except click.UsageError as error:
            # An option named for itself in a sentence has no value.
            if not whole and "requires an argument" in error.format_message():
                return ""
            return f"{path}: {error.format_message()}"
        for parameter in command.params:
            value = given.get(parameter.name)
            values = value if isinstance(value, list | tuple) else [value]
            if isinstance(parameter.type, click.Choice):
                for one in [part for value in values if isinstance(value, str) for part in value.split("|")]:
                    if not filled(one) and one not in parameter.type.choices:
                        return f"{path}: {parameter.name} cannot be {one}"
            if (
                whole
                and isinstance(parameter, click.Argument)
                and parameter.required
                and not (value and isinstance(value, str | tuple))
            ):
                return f"{path}: {parameter.name} is missing"
        if not isinstance(command, click.Group):
            return f"{path}: too many arguments: {rest}" if rest and not whole_text(rest) else ""
        if not rest or filled(rest[0]):
            return ""
        found = None
        # In a sentence: `occtl reload|start|stop`
        for name in rest[0].split("|"):
            with contextlib.suppress(click.UsageError):
                found = command.get_command(context, name)
            if found is None:
                return f"{path} has no {name}"
        assert found is not None
        path, command, words = f"{path} {rest[0]}", found, rest[1:]
        context = click.Context(command, info_name=path, parent=context)


def whole_text(rest: list[str]) -> bool:
    """Whether what is left are placeholders: ``occtl VERB NAME …``."""
    return all(filled(word) for word in rest)


def filled(word: str) -> bool:
    return all(FILLED.fullmatch(part) for part in re.split(r"[|,]", word) if part) or "VALUE" in word


def judge_install(words: list[str]) -> str:
    from ocd.installer.main import parse

    if any(word in ("-h", "--help") for word in words):
        return ""
    # A folder that the reader makes is there.
    kept = ["/" if before == "--wheels" else word for before, word in zip(["", *words], words, strict=False)]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            parse([word for word in kept if word != "…"])
        except SystemExit:
            return said.getvalue().strip().splitlines()[-1]
    return ""
