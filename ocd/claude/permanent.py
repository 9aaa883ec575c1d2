"""What Claude Code's own settings.json needs to lead to the proxies, for one file or for all that are configured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocd.claude import configure, files
from ocd.claude.overlay import Auth, Slots, build
from ocd.errors import OcdError
from ocd.wire.messages import LaunchRequest

#: of the environment, what the settings would otherwise replace
TAKEN_ALONG = ("HOME", "CLAUDE_CONFIG_DIR", "NO_PROXY", "no_proxy")


@dataclass(frozen=True)
class Target:
    """Where Claude Code is to go: what the daemon serves, or would. ``known_models`` as in ``overlay.build``."""

    base_url: str
    key: str = field(repr=False)
    auth: Auth
    slots: Slots
    known_models: Sequence[str] = ()


def overlay(
    path: Path, base: Mapping[str, Any], target: Target, env: Mapping[str, str], notices: list[str]
) -> dict[str, Any]:
    """The settings for the file ``path``, which has ``base`` of the user's own; ``env`` has what of the user's
    environment they would otherwise replace (``TAKEN_ALONG``). Raises OcdError as ``overlay.build`` does."""
    made = build(
        LaunchRequest(pid=1, cwd="/", env=dict(env)),
        user_settings=base,
        extra_settings=None,
        managed=files.read_managed("/", path.parent, notices),
        slots=target.slots,
        base_url=target.base_url,
        key=target.key,
        auth=target.auth,
        known_models=target.known_models,
    )
    notices += made.notices
    return made.settings


def refresh(state: Path, target: Target) -> list[configure.Done | OcdError]:
    """Bring all configured settings files up to ``target``: see ``configure.refresh``. Blocks for some milliseconds."""

    def make(path: Path, base: Mapping[str, Any], before: Mapping[str, Any]) -> Mapping[str, Any]:
        # NO_PROXY was the shell's that configured it; this process may have another.
        env = {name: str(before[name]) for name in ("NO_PROXY", "no_proxy") if before.get(name)}
        return overlay(path, base, target, env, [])

    return configure.refresh(state, make)
