"""What a profile makes of the slots: which model group serves each, and with which AWS profile. Pure.

A profile moves no credential. ``aws_profile`` chooses among model groups that are there: the one that asks for the same
model and whose route in the bedrock file signs with that profile (``aws_profile_name``, LiteLLM's own key). The AWS
credentials stay where they are, in AWS's files and the bedrock proxy.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from ocd.claude.overlay import Slots
from ocd.claude.project import SLOTS
from ocd.errors import EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, OcdError
from ocd.settings.schema import Settings
from ocd.stack import families

#: what ``--profile`` says for: no profile, the project's neither
NONE = "none"

Row = Mapping[str, Any]


def named(settings: Settings) -> dict[str, dict[str, str]]:
    """The profiles of ocd.toml by name, each as ``key → name``."""
    return {
        # An empty slot is one that Claude Code chooses; an empty aws_profile is none.
        name: {
            key: value
            for key, value in profile.model_dump().items()
            if value is not None and (value or key in SLOTS)
        }
        for name, profile in settings.profiles.items()
    }


def combined(choice: Mapping[str, str], profiles: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A choice with the profile that it names below it. Raises OcdError (exit 64) when there is no such profile."""
    name = choice.get("profile", "")
    if not name:
        return dict(choice)
    if name not in profiles:
        near = difflib.get_close_matches(name, profiles, 3, 0.4) or sorted(profiles)[:8]
        raise OcdError(
            f"There is no profile {name!r}",
            f"ocd.toml has {', '.join(near)}" if near else "ocd.toml has none",
            f"Add [profiles.{name}] to ocd.toml (`occtl config edit`), or start with `openclaude --profile {NONE}`",
            exit_code=EX_USAGE,
            code="unknown-profile",
        )
    return {**profiles[name], **{key: value for key, value in choice.items() if key != "profile"}}


def resolve(
    choice: Mapping[str, str],
    profiles: Mapping[str, Mapping[str, str]],
    slots: Slots,
    known: Sequence[str] = (),
    rows: Sequence[Row] = (),
) -> tuple[Slots, list[str]]:
    """``slots`` as a choice has them, and what to tell the person.

    ``known`` are main's model groups (empty: they cannot be known), ``rows`` what is known of each
    (``ocd.stack.picker``). Raises OcdError: exit 64 for a profile or a group that is not there, 78 when no group signs
    with the AWS profile.
    """
    wanted = combined(choice, profiles)
    own = {slot: wanted[slot] for slot in SLOTS if slot in wanted}
    for slot, group in own.items():
        _see(slot, group, known)
    found = replace(slots, **own)
    profile = wanted.get("aws_profile", "")
    if not profile:
        return found, []
    if not rows:
        raise OcdError(
            f"The AWS profile {profile} cannot be chosen",
            "it is not known which model group signs with it: the files are being examined, or sessions use a LiteLLM"
            " that somebody else runs",
            f"Look at `occtl status`, or start with `openclaude --profile {NONE}`",
            exit_code=EX_UNAVAILABLE,
            code="no-aws-route",
        )
    moved = dict(_signed(found, profile, known, rows))
    notices = []
    if not moved:
        notices.append(
            f"the AWS profile {profile} changes nothing here: no slot of this session goes to AWS through the"
            " bedrock proxy of ocd (fallbacks and spill keep to the routes that they name)"
        )
    return replace(found, **moved), notices


def _see(slot: str, group: str, known: Sequence[str]) -> None:
    bare = families.without_1m(group)
    if not bare or not known or (slot == "subagents" and bare in (*families.SLOTS, "inherit")):
        return
    if any(bare == one or ("*" in one and fnmatchcase(bare, one)) for one in known):
        return
    near = difflib.get_close_matches(bare, known, 3, 0.4) or sorted(known)[:8]
    raise OcdError(
        f"There is no model {group!r} in the LiteLLM file of main",
        f"this session's profile has it in the {slot} slot",
        f"Nearest: {', '.join(near)}. Without a profile: openclaude --profile {NONE}",
        exit_code=EX_USAGE,
        code="unknown-model",
    )


def _signed(
    slots: Slots, profile: str, known: Sequence[str], rows: Sequence[Row]
) -> Iterator[tuple[str, str]]:
    """Slot → the group that signs with the AWS profile, for each slot that is on AWS, pinned or not."""
    for slot in SLOTS:
        group = getattr(slots, slot)
        # Where no route takes new names, a slot without one has the first group of its family (``overlay``).
        named = families.group_of(slot, group, known) if slot in families.SLOTS else group
        asked = families.without_1m(named)
        if asked in (*families.SLOTS, "inherit") or (not asked and slot not in families.SLOTS):
            continue
        # What Claude Code chooses in a slot that is not pinned goes where its names go.
        row = _row(asked or families.made_up(slot), rows)
        if row is None and asked:
            raise _no_route(slot, named, profile, f"nothing is known of {named}")
        if row is None or row.get("signs") is None:
            continue
        twin = group if row["signs"] == profile else twin_of(row, profile, rows)
        if not twin and row["signs"] != profile:
            shown = named or str(row["model"])
            why = f"the bedrock file has no route to the model of {shown} with aws_profile_name: {profile}"
            raise _no_route(slot, shown, profile, why)
        yield slot, twin


def _row(name: str, rows: Sequence[Row]) -> Row | None:
    """What is known of the group that serves a name: its own, else the longest pattern, as LiteLLM has it."""
    fitting = [row for row in rows if "*" in str(row["model"]) and fnmatchcase(name, str(row["model"]))]
    exact = next((row for row in rows if row["model"] == name), None)
    return exact or max(fitting, key=lambda row: len(str(row["model"])), default=None)


def _no_route(slot: str, group: str, profile: str, why: str) -> OcdError:
    return OcdError(
        f"No model group signs with the AWS profile {profile} for the {slot} slot ({group})",
        why,
        f"Run `occtl aws route {profile}`, which adds it",
        exit_code=EX_CONFIG,
        code="no-aws-route",
    )


def twin_of(row: Row, profile: str, rows: Sequence[Row]) -> str:
    """The group that asks for the same model as ``row``'s and signs with ``profile``, the one of the nearest name;
    empty: there is none."""
    same = [
        str(one["model"])
        for one in rows
        if one.get("signs") == profile
        and one.get("asks")
        and one.get("asks") == row.get("asks")
        and "*" not in str(one["model"])
    ]
    start = str(row["model"])
    return next((name for name in same if name.startswith(start)), same[0] if same else "")
