"""On which line of a TOML text does a key stand? ``tomllib`` does not say.

The text has been read by ``tomllib`` already, so this only has to find its way in a correct file; a key in an
inline table or an array is given its statement's line.
"""

import re

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")
#: what may open, close or hide a bracket: strings (longest first), comments, brackets
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{1,2}(?!"))?'
    r"|'''.*?'''"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}]|\n",
    re.S,
)


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    """Every key's and table's path → its line, from 1."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    at, line = 0, 1
    while at < len(text):
        header, key = _HEADER.match(text, at), _KEY.match(text, at)
        match = header or key
        if match:
            line += text.count("\n", at, match.start(1))
            path = _parts(match[1])
            if header:
                table = path
            else:
                path = table + path
            for depth in range(1, len(path) + 1):
                found.setdefault(path[:depth], line)
            line += text.count("\n", match.start(1), match.end())
            at = match.end()
        at, crossed = _statement_end(text, at)
        line += crossed
    return found


def _statement_end(text: str, at: int) -> tuple[int, int]:
    """The index after the statement's last line break, and how many line breaks it crosses."""
    depth = crossed = 0
    for token in _TOKEN.finditer(text, at):
        found = token[0]
        crossed += found.count("\n")
        if found in ("[", "{"):
            depth += 1
        elif found in ("]", "}"):
            depth -= 1
        elif found == "\n" and depth <= 0:
            return token.end(), crossed
    return len(text), crossed


def line_of(lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> int | None:
    """The line of ``path`` or of the nearest thing around it; None when nothing of it is in the file."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None
