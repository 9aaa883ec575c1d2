"""Claude Code's slots: does each lead to a model of the main file?"""

from collections.abc import Iterator

from ocd.settings.edits import Edit
from ocd.settings.findings import Finding
from ocd.stack.families import SLOTS, without_1m
from ocd.stack.rules.routes import hop_params
from ocd.stack.stack import Stack, names, near, routes, serves


def _slots(stack: Stack) -> Iterator[Finding]:
    file = stack.main
    if file is None:
        return
    known = names(file)
    for slot, name in stack.settings.slots:
        plain = without_1m(name)
        if not plain or serves(known, plain) or (slot == "subagents" and plain in (*SLOTS, "inherit")):
            continue
        edits: tuple[Edit, ...] = ()
        params: dict[str, str] = {}
        if plain in names(stack.bedrock):
            params = hop_params(plain)
        elif plain.startswith("claude-") and (stack.ids is None or stack.ids.knows(plain)):
            params = {"model": f"anthropic/{plain}"}
        if params and isinstance(file.data.get("model_list"), list):
            edits = (Edit(file.path, ("model_list",), {"model_name": plain, "litellm_params": params}, True),)
        yield Finding(
            "error",
            "slot-without-route",
            str(file.path),
            file.line(("model_list",)),
            "model_list",
            f"the {slot} slot asks for {plain}, which no model_name here serves: every such request gets 400",
            f"Add a route of that name, or change {slot} under [slots] in ocd.toml. {near(plain, known)}",
            bool(edits),
            edits,
        )


def _profiles(stack: Stack) -> Iterator[Finding]:
    """The profiles of ocd.toml: only their sessions suffer, so it is a warning."""
    file = stack.main
    if file is None:
        return
    known = names(file)
    signing = {route.params.get("aws_profile_name") for route in routes(stack.bedrock)}
    for name, profile in stack.settings.profiles.items():
        for slot, value in profile.model_dump(exclude={"aws_profile"}).items():
            plain = without_1m(value or "")
            if (
                plain
                and not serves(known, plain)
                and not (slot == "subagents" and plain in (*SLOTS, "inherit"))
            ):
                yield Finding(
                    "warning",
                    "profile-without-route",
                    str(stack.toml),
                    None,
                    f"profiles.{name}.{slot}",
                    f"no model_name of {file.path.name} serves {plain}: `openclaude --profile {name}` does not start",
                    near(plain, known),
                )
        wanted = profile.aws_profile
        if (
            wanted
            and wanted not in signing
            and wanted != stack.settings.aws_profile
            and stack.bedrock is not None
        ):
            yield Finding(
                "warning",
                "profile-without-aws-route",
                str(stack.toml),
                None,
                f"profiles.{name}.aws_profile",
                f"no route of {stack.bedrock.path.name} signs with the AWS profile {wanted}",
                f"Run `occtl aws route {wanted}`",
            )


def _claude_wildcard(stack: Stack) -> Iterator[Finding]:
    file = stack.main
    if file is None or serves(names(file), "claude-some-model-1"):
        return
    edits: tuple[Edit, ...] = ()
    if isinstance(file.data.get("model_list"), list):
        entry = {"model_name": "claude-*", "litellm_params": {"model": "anthropic/claude-*"}}
        edits = (Edit(file.path, ("model_list",), entry, True),)
    yield Finding(
        "warning",
        "no-claude-wildcard",
        str(file.path),
        file.line(("model_list",)),
        "model_list",
        "a Claude model that somebody asks for by name, or a slot that a newer Claude Code brings, gets 400",
        "Add a route claude-* to anthropic/claude-*",
        bool(edits),
        edits,
    )


RULES = (_slots, _profiles, _claude_wildcard)
