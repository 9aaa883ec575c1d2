"""One launch: read what the user has, build the overlay, write it, say how to start Claude Code."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ocd import paths
from ocd.claude import files, lasting, picking, profiles, project, separate, trust
from ocd.claude.overlay import Auth, Overlay, Slots, build
from ocd.errors import OcdError
from ocd.wire.messages import LaunchReply, LaunchRequest


@dataclass(frozen=True)
class Served:
    """What the proxies are now, for every session: main's address and key, its model groups, the slots."""

    slots: Slots
    base_url: str
    key: str
    auth: Auth = "plan"
    #: main's model groups; empty: they cannot be known
    known_models: Sequence[str] = ()
    #: what Claude Code's picker says of them (``ocd.stack.picker``); empty: not known
    rows: Sequence[picking.Row] = ()
    #: who pays for main's groups for many names (``ocd.stack.picker.patterns``)
    patterns: Sequence[picking.Row] = ()
    #: the profiles of ocd.toml (``ocd.claude.profiles.named``)
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: the proxy is ours: it may be told whose session it is
    ours: bool = False

    def __repr__(self) -> str:
        return f"Served({self.slots}, {self.base_url})"


def prepare(
    request: LaunchRequest,
    *,
    folder: str,
    served: Served,
    managed_root: str = "/",
    isolation: Literal["overlay", "separate"] = "overlay",
    state: Path | None = None,
) -> LaunchReply:
    """The plan for one session. Blocks for about a millisecond on small files; call it off the event loop.

    ``folder`` takes the overlay file, which stays (``ocd.claude.lasting``); with ``isolation`` separate the session
    gets a folder of its own (``ocd.claude.separate``). ``state`` is the state folder, which has the trusted projects;
    None: no project's file is looked at. Raises OcdError as ``overlay.build``, ``separate.prepare``,
    ``files.read_given`` and ``lasting.write`` do.
    """
    notices: list[str] = []
    given = files.read_given(request.settings, request.cwd)
    env, change = request.env, {}
    if isolation == "separate" and account_of(request.env, request.cwd) in ("", paths.ORDINARY):
        own = separate.prepare(env, request.cwd, notices, needs_login=served.auth == "plan")
        change = {"CLAUDE_CONFIG_DIR": str(own)}
        env = {**env, **change}
    model = files.read_project_model(request.cwd, notices)
    choice = chosen(request, state, notices)
    recipe = lasting.Recipe.of(request, env, given, model, choice)
    overlay = make(recipe, served, notices, folder=folder, request=request, managed_root=managed_root)
    path = lasting.write(folder, recipe, overlay.settings, overlay.script)
    return LaunchReply(
        ready=True,
        set={**overlay.set, **change},
        unset=overlay.unset,
        args=["--settings", path, *overlay.args],
        notices=[*notices, *overlay.notices],
    )


def account_of(env: Mapping[str, str], cwd: str) -> str:
    """The account whose folder a session uses; empty: one without a name."""
    home = env.get("HOME") or os.path.expanduser("~")
    return paths.account_of(home, str(files.config_folder(env, cwd)))


def chosen(request: LaunchRequest, state: Path | None, notices: list[str]) -> dict[str, str]:
    """The profile that a launch asks for; else what the project's file says, if it is trusted.

    Raises OcdError (exit 65) when a trusted file cannot be understood.
    """
    if request.profile:
        return {} if request.profile == profiles.NONE else {"profile": request.profile}
    path = project.find(request.cwd) if state is not None else ""
    if not path or state is None:
        return {}
    try:
        file = project.read(path)
        how = trust.said(trust.known(state), file)
        if how != "trusted":
            raise trust.refusal(file, how)
    except OcdError as error:
        notices.append(three_lines(error))
        return {}
    return project.choices(file)


def three_lines(error: OcdError) -> str:
    """An error as a notice, in the lines that every error has."""
    why = f"\n  why:  {error.why}" if error.why else ""
    step = f"\n  next: {error.next_step}" if error.next_step else ""
    return f"{error.what}{why}{step}"


def make(
    recipe: lasting.Recipe,
    served: Served,
    notices: list[str],
    *,
    folder: str,
    request: LaunchRequest | None = None,
    managed_root: str = "/",
) -> Overlay:
    """The overlay of a recipe as it has to be now; ``request`` is the launch itself, where there is one.

    The user's own settings are read as they are now: a session that is started again finds them changed too.
    """
    user = files.read_user(recipe.env, "/", notices)
    if recipe.model is not None:
        user = {**user, "model": recipe.model}
    managed = files.read_managed(managed_root, files.config_folder(recipe.env, "/"), notices)
    slots, more = profiles.resolve(
        recipe.profile,
        served.profiles,
        served.slots,
        served.known_models,
        [*served.rows, *served.patterns],
    )
    notices += more
    return build(
        request or recipe.request(),
        user_settings=user,
        extra_settings=recipe.given,
        managed=managed,
        slots=slots,
        base_url=served.base_url,
        key=served.key,
        auth=served.auth,
        known_models=served.known_models,
        rows=served.rows,
        env_file=lasting.script_of(os.path.join(folder, recipe.name)),
        account=account_of(recipe.env, "/") if served.ours else "",
    )
