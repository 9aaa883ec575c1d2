"""The way past click, whose import alone takes longer than a look at the daemon may: known verbs and completion.

It understands plain, right command lines by the table ``ocd/ctl/words.py``. Whatever else there is (help, a mistake, an
option with a special meaning) it leaves to click, which knows every command and says what is wrong.
"""

import os
import sys

from ocd.ctl.words import COMMANDS, KEYS
from ocd.errors import EX_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Parameter = tuple[tuple[str, ...], str, str, str]

#: for click's scripts, which are in the users' shells
VARIABLE = "_OCCTL_COMPLETE"
_NAMES = {
    "proxy": (("main", "Claude's plan, to Anthropic"), ("bedrock", "AWS credentials, to Bedrock")),
    "log": (
        ("main", "Claude's plan, to Anthropic"),
        ("bedrock", "AWS credentials, to Bedrock"),
        ("daemon", "its own log"),
    ),
}


# ---- verbs


def _status(given: "dict[str, Any]") -> int | None:
    from ocd.ctl.look import status

    every = given.get("every", 1.0)
    return None if every < 0.1 else status.run(given.get("name"), "as_json" in given, "watch" in given, every)


def _version(given: "dict[str, Any]") -> int | None:
    from ocd.ctl.look import version

    return version.run("as_json" in given)


def _sessions(given: "dict[str, Any]") -> int | None:
    from ocd.ctl.look import sessions

    return sessions.run("as_json" in given)


def _config_path(given: "dict[str, Any]") -> int | None:
    from ocd.ctl.look import folder

    return folder.run(given.get("file"), "as_json" in given)


def _past(given: "dict[str, Any]") -> "tuple[Any, Any, Any, Any, Any]":
    get = given.get
    return get("name"), get("lines"), get("since"), get("until"), get("grep")


def _logs(given: "dict[str, Any]") -> int | None:
    if "follow" in given:
        return None
    from ocd.ctl.look import logs

    return logs.run_logs(*_past(given), "everything" in given, "as_json" in given)


def _events(given: "dict[str, Any]") -> int | None:
    if "follow" in given:
        return None
    from ocd.ctl.look import logs

    return logs.run_events(*_past(given), "as_json" in given)


#: verb → what runs it; None from it leaves the line to click after all
VERBS: "dict[str, Callable[[dict[str, Any]], int | None]]" = {
    "status": _status,
    "version": _version,
    "sessions": _sessions,
    "config path": _config_path,
    "logs": _logs,
    "events": _events,
}


def run(args: list[str]) -> int | None:
    """Run what ``args`` say and return the exit code; None: click has to."""
    path = next((verb for verb in VERBS if args[: len(verb.split())] == verb.split()), None)
    if path is None:
        return None
    given = parse(COMMANDS[path][1], args[len(path.split()) :])
    return None if given is None else VERBS[path](given)


def parse(parameters: "tuple[Parameter, ...]", args: list[str]) -> "dict[str, Any] | None":
    """The values by name; None where the line is not plain and right. A flag that is not given is not there."""
    options = {name: one for one in parameters for name in one[0]}
    waiting = [one for one in parameters if not one[0]]
    given: dict[str, Any] = {}
    left = list(args)
    while left:
        word = left.pop(0)
        if word[:1] == "-" and word != "-":
            name, equals, value = word.partition("=") if word[:2] == "--" else (word[:2], word[2:], word[2:])
            one = options.get(name)
            if one is None or one[1] in given or one[1].startswith("_click"):
                return None
            if one[2] == "flag":
                if equals:
                    return None
                given[one[1]] = True
                continue
            if not equals:
                if not left:
                    return None
                value = left.pop(0)
        elif waiting:
            one, value = waiting.pop(0), word
        else:
            return None
        try:
            given[one[1]] = _value(one[2], value)
        except ValueError:
            return None
    return given


def _value(kind: str, text: str) -> "Any":
    """Raises ValueError where click should look at it."""
    if kind == "int":
        if not (text.isascii() and text.isdigit()):
            raise ValueError(text)
        return int(text)
    if kind == "float":
        return float(text)
    if kind.startswith("choice:"):
        if text not in kind[7:].split("|"):
            raise ValueError(text)
        return text
    if kind in ("text", "proxy", "log"):
        return text
    raise ValueError(kind)


# ---- completion


def complete() -> int | None:
    """Answer the completion script's question (``_OCCTL_COMPLETE`` and its companions); None: click has to."""
    shell, _, what = os.environ[VARIABLE].partition("_")
    words = os.environ.get("COMP_WORDS", "")
    current = os.environ.get("COMP_CWORD", "")
    if what != "complete" or shell not in ("bash", "zsh", "fish") or any(one in "'\"\\#=$`" for one in words):
        return None
    parts = words.split()
    if shell == "fish":
        args, incomplete = parts[1:], current
        if len(incomplete.split()) > 1 or any(one in "'\"\\#=$`" for one in incomplete):
            return None
        if incomplete and args and args[-1] == incomplete:
            args.pop()
    else:
        if not current.isdigit():
            return None
        args, incomplete = parts[1 : int(current)], "".join(parts[int(current) : int(current) + 1])
    found = completions(args, incomplete)
    if found is None:
        return None
    lines = []
    for kind, value, text in found:
        if shell == "bash":
            lines.append(f"{kind},{value}")
        elif shell == "zsh":
            escaped = value.replace(":", r"\:") if text else value
            lines.append(f"{kind}\n{escaped}\n{text or '_'}")
        else:
            lines.append(f"{kind},{value}\t{text}" if text else f"{kind},{value}")
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "\n")
    return EX_OK


def completions(args: list[str], incomplete: str) -> list[tuple[str, str, str]] | None:
    """(type, value, help) of what may stand for ``incomplete`` behind ``args``; None: click has to find out."""
    path = ""
    given: set[str] = set()
    left = list(args)
    pending: Parameter | None = None
    places = 0
    while left:
        word = left.pop(0)
        options = {name: one for one in COMMANDS[path][1] for name in one[0]}
        if word[:1] == "-":
            one = options.get(word)
            if one is None:
                return None
            given.add(one[1])
            if one[2] != "flag":
                if left:
                    left.pop(0)
                else:
                    pending = one
        elif f"{path} {word}".strip() in COMMANDS and _below(path):
            path, given, places = f"{path} {word}".strip(), set(), 0
        elif _below(path):
            return None
        else:
            places += 1
    if pending is not None and not incomplete.startswith("-"):
        return _of_kind(pending[2], incomplete)
    if pending is not None:
        return None
    parameters = COMMANDS[path][1]
    if incomplete.startswith("-"):
        return [
            ("plain", name, text)
            for names, dest, _, text in parameters
            if dest not in given
            for name in names
            if name.startswith(incomplete)
        ]
    below = _below(path)
    if below:
        return [
            ("plain", name, COMMANDS[f"{path} {name}".strip()][0])
            for name in below
            if name.startswith(incomplete)
        ]
    arguments = [one for one in parameters if not one[0]]
    return _of_kind(arguments[places][2], incomplete) if places < len(arguments) else []


def _below(path: str) -> list[str]:
    """The commands of a group, in their order."""
    depth = len(path.split())
    return [
        one.split()[-1]
        for one in COMMANDS
        if len(one.split()) == depth + 1 and (not path or one.startswith(path + " "))
    ]


def _of_kind(kind: str, incomplete: str) -> list[tuple[str, str, str]] | None:
    if kind in _NAMES:
        return [("plain", name, text) for name, text in _NAMES[kind] if name.startswith(incomplete)]
    if kind.startswith("choice:"):
        return [("plain", one, "") for one in kind[7:].split("|") if one.startswith(incomplete)]
    if kind == "key":
        return [("plain", key, "") for key in KEYS if key.startswith(incomplete)]
    if kind in ("file", "dir"):
        return [(kind, incomplete, "")]
    return None if kind == "click" else []
