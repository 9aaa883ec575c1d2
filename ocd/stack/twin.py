"""Model groups that sign with another AWS profile: one beside each that a slot has on AWS. Texts; nothing is written.

LiteLLM's own form: a route of the bedrock file with ``aws_profile_name``. The new group of main is a hop like any
other; no address and no key is in either.
"""

from pathlib import Path

from ocd.errors import EX_CONFIG, EX_USAGE, OcdError
from ocd.settings.folders import Folders
from ocd.settings.load import Settings
from ocd.stack.families import SLOTS, made_up, without_1m
from ocd.stack.rules.routes import hop_params
from ocd.stack.stack import AWS, Route, Stack, names, routes, serves
from ocd.stack.swap import Editing, read_stack

_NOT_TAKEN = frozenset(
    ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_role_name", "aws_session_name")
)


def plan(
    folders: Folders, settings: Settings, profile: str, groups: tuple[str, ...] = ()
) -> tuple[dict[str, str], dict[Path, str]]:
    """Group → its twin that signs with ``profile``, and the new texts of the files that change.

    ``groups`` are groups of main on AWS; without any, those of the slots and of the profiles in ocd.toml. Raises
    OcdError: exit 64 for a group that is not on AWS, 78 when there is none or a file cannot be changed.
    """
    stack = read_stack(folders, settings)
    if stack.main is None or stack.bedrock is None:
        raise OcdError(
            "One of the proxies is switched off",
            "a route to AWS needs both",
            "Set enabled = true under [proxies.main] and [proxies.bedrock] in ocd.toml",
            exit_code=EX_CONFIG,
        )
    editing = Editing(folders, settings, stack)
    made: dict[str, str] = {}
    for group in groups or slot_groups(settings, names(stack.main)):
        target = _on_aws(stack, group)
        if target is None:
            if groups:
                raise OcdError(
                    f"{group} is not a model group on AWS",
                    "main's file has no route of that name to the bedrock proxy, or the bedrock file none to AWS",
                    "Run `occtl models`",
                    exit_code=EX_USAGE,
                    code="unknown-model",
                )
            continue
        if target.params.get("aws_profile_name") == profile:
            made[group] = group
            continue
        twin = f"{target.name if '*' in group else group}-{profile}"
        params = {name: value for name, value in target.params.items() if name not in _NOT_TAKEN}
        there = [route for route in routes(stack.bedrock) if route.name == twin]
        if not there:
            editing.add(editing.bedrock, twin, {**params, "aws_profile_name": profile})
        elif len(there) == 1 and there[0].params.get("aws_profile_name") == profile:
            if there[0].model != target.model:
                # the slot was given another model since
                editing.edit(editing.bedrock, there[0].at("model"), target.model)
        else:
            raise OcdError(
                f"The name {twin} is taken in the bedrock file",
                "what it stands for does not sign with that profile",
                f"Add aws_profile_name: {profile} there yourself, or rename it",
                exit_code=EX_CONFIG,
                code="name-taken",
            )
        if twin not in names(stack.main):
            editing.add(editing.main, twin, hop_params(twin))
        made[group] = twin
    if not made:
        raise OcdError(
            "No slot is on AWS",
            "neither [slots] nor a profile of ocd.toml names a model group that leads there",
            f"Name one: occtl aws route {profile} GROUP",
            exit_code=EX_CONFIG,
            code="no-aws-route",
        )
    return made, editing.changed()


def slot_groups(settings: Settings, known: list[str]) -> tuple[str, ...]:
    """What the slots and the profiles name, and what serves the slots that nothing is named for, once each."""
    named = [group for _, group in settings.slots]
    for slot in SLOTS:
        fitting = [one for one in known if "*" in one and serves([one], made_up(slot))]
        named.append(max(fitting, key=len, default=""))
    for profile in settings.profiles.values():
        named += [
            value or "" for key, value in profile.model_dump().items() if key != "aws_profile" and value
        ]
    return tuple(dict.fromkeys(without_1m(group) for group in named if group))


def _on_aws(stack: Stack, group: str) -> Route | None:
    """The route of the bedrock file behind a group of main; None: it does not lead there by one plain way."""
    mine = [route for route in routes(stack.main) if route.name == group]
    if len(mine) != 1 or not stack.is_hop(mine[0]) or "*" in mine[0].model:
        return None
    wanted = mine[0].model.partition("/")[2]
    theirs = [route for route in routes(stack.bedrock) if route.name == wanted]
    return theirs[0] if len(theirs) == 1 and theirs[0].provider in AWS else None
