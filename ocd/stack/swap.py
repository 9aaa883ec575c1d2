"""Give a slot another model: the changes to the user's three files, as texts. Nothing is written here."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocd.errors import EX_CONFIG, EX_USAGE, OcdError
from ocd.settings.edits import Edit, Where
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.load import FILE, Settings, read_text
from ocd.settings.tomlset import set_keys
from ocd.stack.families import SLOTS, is_anybodys
from ocd.stack.fix import apply
from ocd.stack.inputs import config_path
from ocd.stack.litellm_file import LiteLLMFile, compose, load_litellm
from ocd.stack.routes import plain_name
from ocd.stack.rules.routes import hop_params
from ocd.stack.stack import AWS, ENVIRON, Route, Stack, names, routes, serves

_NAME = re.compile(r"[A-Za-z0-9][\w.@:+-]{0,127}")


@dataclass(frozen=True, slots=True)
class Swap:
    """``texts``: the new content of each file that changes. ``group`` serves the slot afterwards; ``bedrock``
    is the AWS model, empty when the request does not go to AWS. ``notes`` are for the person."""

    slot: str
    group: str
    model: str
    bedrock: str
    texts: dict[Path, str]
    notes: list[str] = field(default_factory=list)


def read_stack(folders: Folders, settings: Settings) -> Stack:
    """Both files, those of proxies that are switched on. Raises ConfigError when one cannot be read."""
    files: dict[str, LiteLLMFile | None] = {
        name: load_litellm(config_path(folders, settings, name)) if settings.proxy(name).enabled else None
        for name in ("main", "bedrock")
    }
    return Stack(settings, files["main"], files["bedrock"], folders.config / FILE, None, None)


def plan(folders: Folders, settings: Settings, slot: str, model: str, name: str = "") -> Swap:
    """What has to change so that ``slot`` is served by ``model``.

    ``model`` is a LiteLLM model (``bedrock/…``, ``anthropic/…``) or a model group that the main file has
    (``NAME``, ``litellm@NAME``). ``name``: what the group is to be called. A Bedrock model takes the place of the
    one in a group that only this slot uses; otherwise a group is added. Raises OcdError: exit 64 for a model or
    name that cannot be, 78 when a file cannot be changed without touching something else.
    """
    stack = read_stack(folders, settings)
    if stack.main is None:
        raise OcdError(
            "The main proxy is switched off", "", "Run `occtl init --preset mixed`", exit_code=EX_CONFIG
        )
    if name and not _NAME.fullmatch(name):
        raise OcdError(
            f"{name!r} cannot be a model's name", "", "Example: --name llama-scout", exit_code=EX_USAGE
        )
    editing = Editing(folders, settings, stack)
    provider, slash, rest = model.partition("/")
    if not slash:
        return editing.to_group(slot, plain_name(model), name)
    if not rest or any(ord(character) <= 32 for character in model):
        raise OcdError(f"{model!r} is no model", "", "Example: bedrock/converse/ID", exit_code=EX_USAGE)
    if provider in AWS:
        return editing.to_bedrock(slot, model, name)
    if provider == "anthropic":
        return editing.to_anthropic(slot, model, name)
    raise OcdError(
        f"A slot cannot be given {provider}/… by this command",
        "it knows bedrock/ and anthropic/, whose credentials it can keep apart",
        f"Add the route to litellm.yaml yourself, then run `occtl model set {slot} NAME`",
        exit_code=EX_USAGE,
        code="unknown-provider",
    )


def unpin(folders: Folders, settings: Settings, slot: str) -> Swap:
    """``ocd.toml`` without a model for ``slot``. Raises OcdError: exit 78 when main has no route for what Claude Code
    may then ask for, or the file cannot be changed."""
    stack = read_stack(folders, settings)
    if stack.main is not None and not is_anybodys(slot, names(stack.main)):
        raise OcdError(
            f"The main file has no route for what Claude Code chooses in the {slot} slot",
            "its model groups are all for one name each",
            "Add a route claude-* to it (`occtl config check --fix` can), then repeat the command",
            exit_code=EX_CONFIG,
            code="no-claude-wildcard",
        )
    toml = folders.config / FILE
    before = read_text(toml)
    default = getattr(Settings().slots, slot)
    after = set_keys(before, {("slots", slot): "" if default else None})
    return Swap(slot, "", "", "", {toml: after} if after != before else {})


class Editing:
    """Changes to the user's files, gathered as texts in ``texts``."""

    def __init__(self, folders: Folders, settings: Settings, stack: Stack) -> None:
        self.folders, self.settings, self.stack = folders, settings, stack
        self.texts: dict[Path, str] = {}

    def result(self, slot: str, group: str, model: str, bedrock: str = "", *notes: str) -> Swap:
        toml = self.folders.config / FILE
        before = read_text(toml)
        after = (
            set_keys(before, {("slots", slot): group})
            if getattr(self.settings.slots, slot) != group
            else before
        )
        if after != before:
            self.texts[toml] = after
        return Swap(slot, group, model, bedrock, self.changed(), list(notes))

    def changed(self) -> dict[Path, str]:
        """The new content of each file that is another than it was."""
        return {path: text for path, text in self.texts.items() if read_text(path, 1 << 20) != text}

    # ---- the three cases

    def to_group(self, slot: str, group: str, name: str) -> Swap:
        known = names(self.stack.main)
        if name:
            raise OcdError("--name is for a new model", f"{group} has its name", exit_code=EX_USAGE)
        if not serves(known, group):
            import difflib

            near = difflib.get_close_matches(group, known, 3, 0.4) or known[:8]
            raise OcdError(
                f"There is no model group {group!r} in the main file",
                "",
                f"There are: {', '.join(near)}; or name a model with its provider: bedrock/converse/ID",
                exit_code=EX_USAGE,
                code="unknown-model",
            )
        return self.result(slot, group, group)

    def to_anthropic(self, slot: str, model: str, name: str) -> Swap:
        group = name or model.partition("/")[2]
        there = [route for route in routes(self.stack.main) if route.name == group]
        if there and any(route.model != model for route in there):
            raise _taken(group, there[0].model)
        if not there:
            self.add(self.main, group, {"model": model})
        return self.result(slot, group, model)

    def to_bedrock(self, slot: str, model: str, name: str) -> Swap:
        if self.stack.bedrock is None:
            raise OcdError(
                "The bedrock proxy is switched off",
                "it alone has AWS credentials",
                "Set enabled = true under [proxies.bedrock] in ocd.toml",
                exit_code=EX_CONFIG,
            )
        old = getattr(self.settings.slots, slot)
        mine = self.own_hop(slot, old)
        if mine is None or (name not in ("", old) and self.named_elsewhere(old)):
            return self.new_bedrock(slot, model, name)
        hop, target = mine
        group = name or old
        notes = []
        if group != old:
            if group in names(self.stack.main) or group in names(self.stack.bedrock):
                raise _taken(group, "another model")
            self.edit(self.stack.main, (*hop.at(), "model_name"), group)
            self.edit(self.stack.main, hop.at("model"), f"{hop.model.partition('/')[0]}/{group}")
            self.edit(self.bedrock, (*target.at(), "model_name"), group)
        elif _family(model) and _family(model) != _family(target.model):
            notes.append(f"the group is still called {group}; --name gives it another name")
        self.edit(self.bedrock, target.at("model"), model)
        return self.result(slot, group, model, model, *notes)

    def own_hop(self, slot: str, group: str) -> tuple[Route, Route] | None:
        """The route of main and that of bedrock behind a group that no other slot, fallback or route uses."""
        if any(getattr(self.settings.slots, other) == group for other in SLOTS if other != slot):
            return None
        mine = [route for route in routes(self.stack.main) if route.name == group]
        if len(mine) != 1 or not self.stack.is_hop(mine[0]) or "*" in mine[0].model:
            return None
        wanted = mine[0].model.partition("/")[2]
        shared = [r for r in routes(self.stack.main) if r.index != mine[0].index and r.model == mine[0].model]
        theirs = [route for route in routes(self.stack.bedrock) if route.name == wanted]
        if shared or len(theirs) != 1 or theirs[0].provider not in AWS:
            return None
        return mine[0], theirs[0]

    def named_elsewhere(self, group: str) -> bool:
        """Whether fallbacks or aliases speak of the group, so that it must keep its name."""
        return group in json.dumps(self.main.section("router_settings"), default=str)

    def new_bedrock(self, slot: str, model: str, name: str) -> Swap:
        group = name or name_for(model)
        main = [route for route in routes(self.stack.main) if route.name == group]
        theirs = [route for route in routes(self.stack.bedrock) if route.name == group]
        if main and not (
            len(main) == 1 and self.stack.is_hop(main[0]) and main[0].model == f"openai/{group}"
        ):
            raise _taken(group, main[0].model)
        if theirs and theirs[0].model != model:
            raise _taken(group, theirs[0].model)
        if not theirs:
            params = {"model": model, "aws_region_name": f"{ENVIRON}OCD_AWS_REGION"}
            if self.settings.aws_profile:
                params["aws_profile_name"] = f"{ENVIRON}OCD_AWS_PROFILE"
            self.add(self.bedrock, group, params)
        if not main:
            self.add(self.main, group, hop_params(group))
        return self.result(slot, group, model, model)

    # ---- edits

    @property
    def main(self) -> LiteLLMFile:
        assert self.stack.main is not None
        return self.stack.main

    @property
    def bedrock(self) -> LiteLLMFile:
        assert self.stack.bedrock is not None
        return self.stack.bedrock

    def add(self, file: LiteLLMFile, group: str, params: Mapping[str, Any]) -> None:
        self.edit(file, ("model_list",), {"model_name": group, "litellm_params": dict(params)}, append=True)

    def edit(self, file: LiteLLMFile | None, where: Where, value: Any, *, append: bool = False) -> None:
        assert file is not None
        edit: Edit = file.edit(where, value, append=append)
        before = self.texts.get(edit.file) or read_text(edit.file, 1 << 20)
        after = apply(edit.file, before, edit)
        if after == before and not _says(edit, before):
            place = "the end of model_list" if append else ".".join(map(str, where))
            raise OcdError(
                f"Cannot change {edit.file}",
                f"{place} is written so that changing it would touch something else",
                "Change it there yourself (`occtl config edit`); `occtl config check` then looks at it",
                exit_code=EX_CONFIG,
                code="file-not-plain",
            )
        self.texts[edit.file] = after


def _says(edit: Edit, text: str) -> bool:
    """Whether the file has the value already."""
    try:
        here = compose(edit.file, text).data
        for part in edit.where:
            here = here[part]
    except (ConfigError, LookupError, TypeError):
        return False
    return bool(not edit.append and here == edit.value)


def _taken(group: str, model: str) -> OcdError:
    return OcdError(
        f"The name {group} is taken",
        f"it stands for {model}",
        "Choose another with --name",
        exit_code=EX_USAGE,
        code="name-taken",
    )


def name_for(model: str) -> str:
    """A short name: ``bedrock/converse/us.meta.llama4-scout-v1:0`` is ``llama4-scout``; Claude's end in -bedrock."""
    bare = re.sub(r"-v\d+(?::\d+)?$", "", model.rpartition("/")[2])
    if re.match(r"[a-z-]+\.[a-z]", bare):
        bare = bare.rpartition(".")[2]
    bare = re.sub(r"[^\w.-]", "-", bare)
    return f"{bare}-bedrock" if bare.startswith("claude") else bare


def _family(model: str) -> str:
    """The maker: meta, qwen, anthropic, …; empty for an ARN."""
    parts = model.rpartition("/")[2].split(".")
    if len(parts) < 2 or parts[0].startswith("arn:"):
        return ""
    return parts[1] if len(parts) > 2 and len(parts[0]) <= 6 and parts[0] in _REGIONS else parts[0]


_REGIONS = ("us", "eu", "apac", "jp", "au", "ca", "global", "us-gov")
