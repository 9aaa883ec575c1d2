"""The ``model`` of a request's body: found, and replaced in place, without writing the rest of the body anew.

Only the first level counts: tools, messages and metadata may hold a ``model`` of their own. A body may be megabytes, so
strings and brackets are passed over by pattern, and nothing is built.
"""

import json
import re
from typing import NamedTuple

#: How Claude Code writes it (and every JSON writer that keeps the order): first of all.
_FIRST = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"model"[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f]*)"')
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NESTED = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_PLAIN = re.compile(rb"[-+.\w]+")


class Place(NamedTuple):
    """A value of the body's ``model``: the text between start and end, quotes included."""

    start: int
    end: int
    name: str


def first(body: bytes) -> str:
    """The model that a body asks for; empty when it names none or is no JSON object.

    Of a key that stands twice the last counts, as for every JSON reader, unless it stands first: then the first does,
    and nothing is searched. ``replace`` replaces all of them.
    """
    if found := _FIRST.match(body):
        return found[1].decode("utf-8", "replace")
    places = find(body)
    return places[-1].name if places else ""


def find(body: bytes) -> list[Place]:
    """Every ``model`` of the first level that is a string; empty when the body is no JSON object."""
    found: list[Place] = []
    place = _after_space(body, 0)
    if body[place : place + 1] != b"{":
        return []
    place = _after_space(body, place + 1)
    if body[place : place + 1] == b"}":
        return []
    while True:
        key = _STRING.match(body, place)
        if key is None:
            return []
        place = _after_space(body, key.end())
        if body[place : place + 1] != b":":
            return []
        place = _after_space(body, place + 1)
        end = _value_end(body, place)
        if end < 0:
            return []
        if body[place : place + 1] == b'"' and _is_model(key[0]):
            name = _text(body[place:end])
            if name is None:
                return []
            found.append(Place(place, end, name))
        place = _after_space(body, end)
        after = body[place : place + 1]
        if after == b"}":
            return found
        if after != b",":
            return []
        place = _after_space(body, place + 1)


def replace(body: bytes, name: str) -> bytes | None:
    """The body with another ``model``, all other bytes as they were; None: it has none that could be replaced."""
    places = find(body)
    if not places:
        return None
    text = json.dumps(name).encode()
    pieces: list[bytes] = []
    done = 0
    for place in places:
        pieces += (body[done : place.start], text)
        done = place.end
    pieces.append(body[done:])
    return b"".join(pieces)


def _after_space(body: bytes, place: int) -> int:
    found = _SPACE.match(body, place)
    return found.end() if found else place


def _is_model(key: bytes) -> bool:
    return key == b'"model"' or (b"\\" in key and _text(key) == "model")


def _text(raw: bytes) -> str | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _value_end(body: bytes, place: int) -> int:
    """Where the value that begins at ``place`` ends; -1: it does not."""
    begins = body[place : place + 1]
    if begins == b'"':
        string = _STRING.match(body, place)
        return string.end() if string else -1
    if begins in (b"{", b"["):
        depth = 0
        for token in _NESTED.finditer(body, place):
            mark = body[token.start()]
            if mark in b"{[":
                depth += 1
            elif mark in b"}]":
                depth -= 1
                if not depth:
                    return token.end()
        return -1
    plain = _PLAIN.match(body, place)
    return plain.end() if plain else -1
