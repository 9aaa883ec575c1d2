"""``isolation = "separate"``: a folder of its own for Claude Code, ``~/.openClaude``, beside the user's.

What the user has in ``~/.claude`` is linked (memory, rules, agents, commands, skills, hooks, plugins, projects: all
that does not begin with a dot), so that both see the same. Two things are not: ``settings.json`` is derived, without
what would lead away from the proxy; and the login stays each folder's own, because Claude Code replaces a linked
``.credentials.json`` by a plain file at the next refresh and leaves the original with a dead token (FACTS).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocd import atomic
from ocd.claude.files import Settings, config_folder, own_alone, read_optional
from ocd.claude.variables import EMPTIED, REPLACED
from ocd.errors import EX_CANTCREAT, OcdError

NAME = ".openClaude"
_DERIVED = ".ocd-derived.json"
#: never linked: derived here, or belonging to one running Claude Code
_OWN = ("settings.json", "ide", "statsig", "shell-snapshots")
#: what a first start would ask for again; no credential and no account is among them
_ONBOARDING = (
    "hasCompletedOnboarding",
    "lastOnboardingVersion",
    "theme",
    "mcpServers",
    "installMethod",
    "autoUpdates",
)
#: settings that belong to another way of signing in
_DROPPED = ("apiKeyHelper", "awsAuthRefresh", "awsCredentialExport")


def folder(env: Mapping[str, str]) -> Path:
    """The separate folder."""
    return Path(env.get("HOME") or os.path.expanduser("~"), NAME)


def source(env: Mapping[str, str], cwd: str) -> Path:
    """The user's own folder, also when asked from inside a separate session."""
    found = config_folder(env, cwd)
    if os.path.realpath(found) == os.path.realpath(folder(env)):
        return folder(env).parent / ".claude"
    return found


def prepare(env: Mapping[str, str], cwd: str, notices: list[str], *, needs_login: bool) -> Path:
    """Make or refresh the separate folder and return it. Nothing in the user's own folder is changed.

    Links are made for what is new there and taken away for what is gone; what the separate folder has of its own
    under such a name stays. Raises OcdError: exit 77 when the folder is not the user's alone, 73 when it cannot be
    written.
    """
    target, own = folder(env), source(env, cwd)
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        own_alone(target)
        _link(own, target)
        _settings(own, target, notices)
        _onboarding(own, target, env)
    except OSError as error:
        raise OcdError(
            f"Cannot prepare {target}",
            error.strerror or str(error),
            'Free some space or set its permissions right, or set isolation = "overlay" in ocd.toml',
            exit_code=EX_CANTCREAT,
            code="separate-folder",
        ) from None
    if needs_login and not os.path.lexists(target / ".credentials.json") and os.uname().sysname != "Darwin":
        notices.append(f"the login of {own} does not count in {target}: run /login there once")
    return target


def _link(own: Path, target: Path) -> None:
    names = sorted(os.listdir(own)) if own.is_dir() else []
    for name in names:
        place = target / name
        if name.startswith(".") or name in _OWN or name.endswith((".lock", ".tmp")) or os.path.lexists(place):
            continue
        place.symlink_to(own / name)
    for place in target.iterdir():
        if place.is_symlink() and not place.exists() and Path(os.readlink(place)).parent == own:
            place.unlink()


def derive(user: Mapping[str, Any]) -> Settings:
    """The user's settings without what belongs to another way of signing in or leads away from the proxy."""
    kept = {name: value for name, value in user.items() if name not in _DROPPED}
    env = kept.get("env")
    if isinstance(env, dict):
        kept["env"] = {name: value for name, value in env.items() if name not in (*EMPTIED, *REPLACED)}
    model = kept.get("model")
    if isinstance(model, str) and (model.startswith("arn:") or "anthropic." in model):
        del kept["model"]
    return kept


def _settings(own: Path, target: Path, notices: list[str]) -> None:
    """Derive settings.json anew when the user's changed, unless the separate one was changed by itself."""
    place, note = target / "settings.json", target / _DERIVED
    origin = _digest(own / "settings.json")
    known = read_optional(note, notices)
    if place.is_symlink():
        # the seeds' launcher never linked it; whoever did would have Claude Code write into the user's own
        place.unlink()
    exists = os.path.lexists(place)
    if exists and (known.get("from") == origin or known.get("wrote") != _digest(place)):
        return
    text = json.dumps(derive(read_optional(own / "settings.json", notices)), indent=2) + "\n"
    atomic.replace(place, text)
    atomic.replace(note, json.dumps({"from": origin, "wrote": _digest(place)}))


def _onboarding(own: Path, target: Path, env: Mapping[str, str]) -> None:
    """A first start that does not ask again for what the user has answered; MCP servers come along."""
    place = target / ".claude.json"
    if os.path.lexists(place):
        return
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    known = read_optional(own / ".claude.json", []) or read_optional(home / ".claude.json", [])
    kept = {name: known[name] for name in _ONBOARDING if name in known}
    if kept:
        atomic.replace(place, json.dumps(kept, indent=2) + "\n")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
