"""What a person has to know of each model group to choose it: name, place, payer, window. Pure.

From the same two files as the routes, LiteLLM's table of models, and the user's own ``model_info`` (``display_name``,
``description``, ``max_input_tokens``), which wins. ``ocd.claude.picking`` makes Claude Code's ``modelPicker`` of it.
"""

import re
from collections.abc import Mapping
from typing import Any

from ocd.stack.abilities import bare_id, facts_of, family_of
from ocd.stack.litellm_file import LiteLLMFile
from ocd.stack.routes import Hop, find
from ocd.stack.stack import AWS, ENVIRON, Stack, names, routes

_LONGEST = 80
_MOST = 40
_VERSION = re.compile(r"(?:-v\d+)?(?::\d+)?$")
_SMALL = re.compile(r"claude-haiku-(\d{1,2}(?:-\d{1,2})?)$")
#: in the place of a profile's name, which has no space
_KEY_PAIR, _MIXED = "a key pair", "several ways"
_DATE = re.compile(r"-20\d{6}$")
_CLAUDE = re.compile(r"claude-[a-z]+-\d+(?:-\d{1,2})?(?![\d])|claude-\d-\d-[a-z]+")


def rows(stack: Stack, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each model group of main that has a name of its own: ``model``, ``label``, ``description``,
    ``window`` (tokens, or None), ``like`` (a Claude model whose handling by Claude Code fits, or empty), ``asks`` (the
    upstream's model) and ``signs`` (the AWS profile that it is asked with, see ``signs_of``). At most 40."""
    found = []
    for name in names(stack.main):
        ways = find(stack, name) if "*" not in name else []
        if ways and not any(way.broken for way in ways):
            row = _row(stack, name, ways[0].hops[-1], table)
            found.append(row | _signed(stack, [way.hops[-1] for way in ways]))
    return found[:_MOST]


def patterns(stack: Stack) -> list[dict[str, Any]]:
    """Main's groups for many names (``claude-*``): no picker has them, but who pays for them has to be known.
    ``model`` is the pattern; ``asks`` and ``signs`` as in ``rows``."""
    found = []
    for name in names(stack.main):
        ways = find(stack, name) if "*" in name else []
        if ways and not any(way.broken for way in ways):
            found.append({"model": name} | _signed(stack, [way.hops[-1] for way in ways]))
    return found[:_MOST]


def _row(stack: Stack, name: str, last: Hop, table: Mapping[str, Any]) -> dict[str, Any]:
    info = {**_info(stack.bedrock, last.group), **_info(stack.main, name)}
    if last.proxy == "main":
        info = _info(stack.main, name)
    facts = facts_of({"model": last.model}, info, table)
    window = facts["max_input_tokens"]
    signs = signs_of(stack, last)
    place = _place(last, signs if signs != stack.settings.aws_profile else "")
    said = info.get("description")
    described = said if isinstance(said, str) and said else ", ".join(filter(None, [*place, tokens(window)]))
    bare = bare_id(last.model)
    claude = _CLAUDE.search(bare) if family_of(bare) == "claude" else None
    return {
        "model": name,
        "label": _shown(
            next((info[key] for key in ("display_name", "label") if info.get(key)), title(last.model))
        ),
        "description": _shown(described),
        "window": window,
        "like": claude[0] if claude else plainest(window, table),
    }


def _signed(stack: Stack, lasts: list[Hop]) -> dict[str, Any]:
    """``asks`` and ``signs`` of a group, whose requests may take several ways in turn."""
    ways = {(last.model, signs_of(stack, last)) for last in lasts}
    if len(ways) == 1:
        ((asks, signs),) = ways
        return {"asks": asks, "signs": signs}
    return {"asks": "", "signs": _MIXED if any(signs is not None for _, signs in ways) else None}


def signs_of(stack: Stack, last: Hop) -> str | None:
    """The AWS profile that a way's requests are signed with; empty: AWS's default chain; None: they do not go to AWS.
    What cannot be said by a profile's name has a space in it."""
    if last.proxy != "bedrock":
        return None
    found: set[str] = set()
    for route in routes(stack.bedrock):
        if route.name != last.group or route.provider not in AWS:
            continue
        profile = route.params.get("aws_profile_name")
        if route.params.get("aws_access_key_id"):
            found.add(_KEY_PAIR)
        elif isinstance(profile, str) and profile and not profile.startswith(ENVIRON):
            found.add(profile)
        else:
            found.add(stack.settings.aws_profile)
    return _MIXED if len(found) > 1 else next(iter(found), None)


def plainest(window: int | None, table: Mapping[str, Any]) -> str:
    """The Claude model of the table that asks least of who serves it, and whose window is no larger: the first of the
    small family. No name of a version stands in our code: they are retired."""
    if not window:
        return ""
    fitting = []
    for name, said in table.items():
        found = _SMALL.match(name)
        size = said.get("max_input_tokens") if isinstance(said, dict) else None
        if found and isinstance(size, int) and size <= window:
            fitting.append(([int(part) for part in found[1].split("-")], name))
    return min(fitting, default=([], ""))[1]


def _info(file: LiteLLMFile | None, group: str) -> dict[str, Any]:
    """The ``model_info`` of the group's first route."""
    entries = file.data.get("model_list") if file is not None else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("model_name") == group:
            info = entry.get("model_info")
            return dict(info) if isinstance(info, dict) else {}
    return {}


def _place(last: Hop, profile: str | None) -> list[str]:
    provider = last.model.partition("/")[0]
    if provider in AWS or last.proxy == "bedrock":
        return ["Bedrock", _account(profile)]
    if "Claude plan" in last.credential:
        return ["Anthropic", "your plan"]
    return [last.upstream.partition("://")[2].partition("/")[0] or last.upstream]


def _account(profile: str | None) -> str:
    return f"AWS profile {profile}" if profile and " " not in profile else "your AWS account"


def title(model: str) -> str:
    """``bedrock/converse/qwen.qwen3-next-80b-a3b`` → ``Qwen3 Next 80B A3B``."""
    bare = bare_id(model)
    if bare.startswith("arn:"):
        return bare.rpartition("/")[2][:_LONGEST]
    plain = _DATE.sub("", _VERSION.sub("", bare.rpartition("/")[2].rpartition(".")[2] or bare))
    words = [word for word in re.split(r"[-_\s]+", plain) if word]
    said = " ".join(
        word.upper() if re.fullmatch(r"[a-z]?\d+[a-z]", word) else word[:1].upper() + word[1:]
        for word in words
    )
    return re.sub(r"(?<=\d) (?=\d{1,2}(?:\s|$))", ".", said)


def tokens(window: int | None) -> str:
    """``262k``, ``1M``; empty when it is not known."""
    if not window:
        return ""
    return f"{window / 1_000_000:.3g}M" if window >= 1_000_000 else f"{window // 1000}k"


def _shown(text: object) -> str:
    """On one line of a terminal."""
    return "".join(one if one.isprintable() else " " for one in str(text))[:_LONGEST]
