"""One launch: read what the user has, build the overlay, write it, say how to start Claude Code."""

from collections.abc import Sequence
from typing import Literal

from ocd.claude import files, separate
from ocd.claude.overlay import Auth, Slots, build
from ocd.wire.messages import LaunchReply, LaunchRequest


def prepare(
    request: LaunchRequest,
    *,
    folder: str,
    slots: Slots,
    base_url: str,
    key: str,
    auth: Auth = "plan",
    known_models: Sequence[str] = (),
    managed_root: str = "/",
    isolation: Literal["overlay", "separate"] = "overlay",
    counted: bool = False,
) -> LaunchReply:
    """The plan for one session. Blocks for about a millisecond on small files; call it off the event loop.

    ``folder`` takes the overlay files, ``base_url`` and ``key`` are main's, ``known_models`` its model
    groups; with ``isolation`` separate the session gets a folder of its own (``ocd.claude.separate``). ``counted``:
    our own proxy answers, and is told which session asks. The overlay belongs to ``request.pid``: remove it
    (``files.remove_overlay``) when that process is gone. Raises OcdError as ``overlay.build``,
    ``separate.prepare``, ``files.read_given`` and ``files.write_overlay`` do.
    """
    notices: list[str] = []
    given = files.read_given(request.settings, request.cwd)
    env, change = request.env, {}
    if isolation == "separate":
        own = separate.prepare(env, request.cwd, notices, needs_login=auth == "plan")
        change = {"CLAUDE_CONFIG_DIR": str(own)}
        env = {**env, **change}
    user = files.read_user(env, request.cwd, notices)
    model = files.read_project_model(request.cwd, notices)
    if model is not None:
        user = {**user, "model": model}
    managed = files.read_managed(managed_root, files.config_folder(env, request.cwd), notices)
    overlay = build(
        request,
        user_settings=user,
        extra_settings=given,
        managed=managed,
        slots=slots,
        base_url=base_url,
        key=key,
        auth=auth,
        known_models=known_models,
        session=request.pid if counted else 0,
    )
    path = files.write_overlay(folder, request.pid, overlay.settings)
    return LaunchReply(
        ready=True,
        set={**overlay.set, **change},
        unset=overlay.unset,
        args=["--settings", path, *overlay.args],
        notices=[*notices, *overlay.notices],
    )
