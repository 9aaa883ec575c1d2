"""What differs between two conversations as they arrived upstream: pure, name by name, tool by tool.

A difference is a name, such as ``header anthropic-beta: effort-2025-11-24`` or ``body system[2].cache_control.scope``,
with both values; places in lists are left out where lists are long. What cannot be equal (identities, times) is
replaced first.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from tests.client.standins import Seen

_SAME = (
    (re.compile(r"(?:toolu_|tooluse_)?(?:msg|req)_standin\d+|tooluse_\d+"), "ID"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\bagentId: ?\w+|\ba[0-9a-f]{16}\b"), "AGENT"),
    (re.compile(r"\bcch=\w+"), "cch=HASH"),
    (re.compile(r"(cc_version=[\d.]+)\.\w+"), r"\1.HASH"),
    (re.compile(r"(?i)\b(?:duration_ms|total_tokens)(?:>|: ?)\d+|\b\w+=\d+$"), "COUNT"),
)
#: the length of the body and the address: they follow from everything else
_FOLLOWS = ("content-length", "host")


def kind(seen: Seen) -> str:
    """main, agent (a subagent's), aux (titles and the like: no tools) or search (Anthropic's own web search)."""
    types = [str(tool.get("type", "")) for tool in seen.json.get("tools") or []]
    if any(one.startswith("web_search") for one in types):
        return "search"
    if seen.header("x-claude-code-agent-id"):
        return "agent"
    return "main" if types else "aux"


def paired(requests: Iterable[Seen]) -> dict[str, Seen]:
    """Requests by a name that both conversations share: session, kind and which of its kind."""
    counts: dict[str, int] = defaultdict(int)
    found = {}
    for one in requests:
        name = f"{one.header('x-claude-code-session-id')[-2:]} {kind(one)}"
        counts[name] += 1
        found[f"{name} {counts[name]}"] = one
    return found


def differences(left: dict[str, Seen], right: dict[str, Seen]) -> dict[str, list[tuple[str, str, str]]]:
    """By the difference's name: (which request, left value, right value) of each place where it was seen."""
    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for name in sorted(left.keys() | right.keys()):
        if name not in right or name not in left:
            where = "only left" if name in left else "only right"
            found[f"request {name.split()[1]}: {where}"].append(
                (name, *_either(left.get(name), right.get(name)))
            )
            continue
        for what, a, b in _pair(left[name], right[name]):
            found[what].append((name, a, b))
    return dict(found)


def _either(a: Seen | None, b: Seen | None) -> tuple[str, str]:
    return str(a or "-"), str(b or "-")


def _pair(left: Seen, right: Seen) -> Iterator[tuple[str, str, str]]:
    if left.path != right.path:
        yield "path", left.path, right.path
    if left.query != right.query:
        yield "query", left.query, right.query
    a, b = _headers(left), _headers(right)
    for name in sorted(a.keys() | b.keys()):
        if name == "anthropic-beta":
            betas = [set(filter(None, one.get(name, "").split(","))) for one in (a, b)]
            for one in sorted(betas[0] ^ betas[1]):
                yield f"header {name}: {one}", *(("yes", "-") if one in betas[0] else ("-", "yes"))
            if betas[0] == betas[1] and a[name] != b[name]:
                yield f"header {name}: order", a[name], b[name]
        elif a.get(name) != b.get(name):
            yield f"header {name}", a.get(name, "-"), b.get(name, "-")
    names = [
        [name.lower() for name, _ in one.headers if name.lower() not in _FOLLOWS] for one in (left, right)
    ]
    if sorted(names[0]) == sorted(names[1]) and names[0] != names[1]:
        yield "header order", " ".join(names[0]), " ".join(names[1])
    spelled = {name.lower(): name for name, _ in left.headers}
    other = [name for name, _ in right.headers if spelled.get(name.lower(), name) != name]
    if other:
        yield "header letters", " ".join(spelled[name.lower()] for name in other), " ".join(other)
    one, two = dict(left.json), dict(right.json)
    tools = [{_tool(tool): tool for tool in body.pop("tools", None) or []} for body in (one, two)]
    for name in sorted(tools[0].keys() | tools[1].keys()):
        if name not in tools[0] or name not in tools[1]:
            yield f"tool {name}", *(("yes", "-") if name in tools[0] else ("-", "yes"))
        else:
            yield from _walk(f"tool {name}", tools[0][name], tools[1][name])
    if list(tools[0]) != list(tools[1]) and tools[0].keys() == tools[1].keys():
        yield "tools' order", " ".join(tools[0]), " ".join(tools[1])
    yield from _walk("body", one, two)
    if _is_compact(left) != _is_compact(right):
        yield "body bytes", left.body[:200].decode("latin-1"), right.body[:200].decode("latin-1")


def _is_compact(seen: Seen) -> bool:
    """Whether the body is written as JavaScript writes JSON: without spaces, no letter escaped that need not be."""
    return json.dumps(seen.json, separators=(",", ":"), ensure_ascii=False).encode() == seen.body


def _headers(seen: Seen) -> dict[str, str]:
    return {name.lower(): _text(value) for name, value in seen.headers if name.lower() not in _FOLLOWS}


def _tool(tool: dict[str, Any]) -> str:
    return str(tool.get("name") or tool.get("type") or "?")


def _walk(path: str, a: Any, b: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(one for one in b if one not in a)]:
            below = f"{path}.{name}" if path.partition(" ")[2] or path != "body" else f"body {name}"
            if name not in a or name not in b:
                yield below, _short(a.get(name, "-")), _short(b.get(name, "-"))
            else:
                yield from _walk(below, a[name], b[name])
        if a.keys() == b.keys() and list(a) != list(b):
            yield f"{path} order", " ".join(a), " ".join(b)
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{path}[]", f"{len(a)} entries", f"{len(b)} entries"
        for number, (one, two) in enumerate(zip(a, b, strict=False)):
            yield from _walk(f"{path}[{number}]", one, two)
    elif isinstance(a, str) and isinstance(b, str):
        if _text(a) != _text(b):
            yield path, *_where(_text(a), _text(b))
    elif a != b or type(a) is not type(b):
        yield path, _short(a), _short(b)


def _text(value: str) -> str:
    for pattern, name in _SAME:
        value = pattern.sub(name, value)
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else f"{text[:150]}… ({len(text)})"


def _where(a: str, b: str) -> tuple[str, str]:
    """Both texts from just before the first character that differs."""
    at = next((n for n, (one, two) in enumerate(zip(a, b, strict=False)) if one != two), min(len(a), len(b)))
    start = max(0, at - 30)
    return f"…{a[start : at + 110]}", f"…{b[start : at + 110]}"


def matching(name: str, table: Iterable[str]) -> str:
    """The first pattern of ``table`` that fits a difference's name, "" when none does.

    Patterns are shell patterns in which brackets stand for themselves.
    """
    for pattern in table:
        escaped = re.sub(r"\[", "[[]", pattern)
        if fnmatchcase(name, escaped):
            return pattern
    return ""


def told(found: dict[str, list[tuple[str, str, str]]]) -> str:
    """For people: each difference with the first place where it was seen."""
    return "\n".join(
        f"{name}   ({len(places)}×, {places[0][0]})\n      {places[0][1]!r}\n      {places[0][2]!r}"
        for name, places in sorted(found.items())
    )
