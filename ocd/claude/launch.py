"""One launch: read what the user has, build the overlay, write it, say how to start Claude Code."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ocd.claude import files, lasting, picking, separate
from ocd.claude.overlay import Auth, Overlay, Slots, build
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

    def __repr__(self) -> str:
        return f"Served({self.slots}, {self.base_url})"


def prepare(
    request: LaunchRequest,
    *,
    folder: str,
    served: Served,
    managed_root: str = "/",
    isolation: Literal["overlay", "separate"] = "overlay",
) -> LaunchReply:
    """The plan for one session. Blocks for about a millisecond on small files; call it off the event loop.

    ``folder`` takes the overlay file, which stays (``ocd.claude.lasting``); with ``isolation`` separate the session
    gets a folder of its own (``ocd.claude.separate``). Raises OcdError as ``overlay.build``, ``separate.prepare``,
    ``files.read_given`` and ``lasting.write`` do.
    """
    notices: list[str] = []
    given = files.read_given(request.settings, request.cwd)
    env, change = request.env, {}
    if isolation == "separate":
        own = separate.prepare(env, request.cwd, notices, needs_login=served.auth == "plan")
        change = {"CLAUDE_CONFIG_DIR": str(own)}
        env = {**env, **change}
    model = files.read_project_model(request.cwd, notices)
    recipe = lasting.Recipe.of(request, env, given, model)
    overlay = make(recipe, served, notices, folder=folder, request=request, managed_root=managed_root)
    path = lasting.write(folder, recipe, overlay.settings, overlay.script)
    return LaunchReply(
        ready=True,
        set={**overlay.set, **change},
        unset=overlay.unset,
        args=["--settings", path, *overlay.args],
        notices=[*notices, *overlay.notices],
    )


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
    return build(
        request or recipe.request(),
        user_settings=user,
        extra_settings=recipe.given,
        managed=managed,
        slots=served.slots,
        base_url=served.base_url,
        key=served.key,
        auth=served.auth,
        known_models=served.known_models,
        rows=served.rows,
        env_file=lasting.script_of(os.path.join(folder, recipe.name)),
    )
