"""``occtl claude``: the proxies' settings in Claude Code's own settings.json, for those who start ``claude`` itself."""

import os
from typing import TYPE_CHECKING

import click

from ocd.ctl import screen
from ocd.ctl.daemon import is_running
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK

if TYPE_CHECKING:
    from ocd.claude.configure import Done
    from ocd.claude.overlay import Auth, Slots
    from ocd.settings.folders import Folders

#: of the environment, what the settings would otherwise replace
_TAKEN_ALONG = ("HOME", "CLAUDE_CONFIG_DIR", "NO_PROXY", "no_proxy")


@click.group()
def claude() -> None:
    """Have `claude` itself, editors and other tools use the proxies; openclaude needs none of this."""


@claude.command(
    epilog=examples("occtl claude configure", "CLAUDE_CONFIG_DIR=~/.other occtl claude configure")
)
@json_option
def configure(as_json: bool) -> int:
    """Write the settings that openclaude uses into Claude Code's settings.json, permanently.

    The file is replaced in one step and is 0600 afterwards, because it then holds the proxy's key; what it was is
    kept for `occtl claude remove`. Run it again when port, slots or models change.
    """
    from ocd.claude import configure as writing
    from ocd.claude import files
    from ocd.claude.overlay import build
    from ocd.settings.folders import Folders
    from ocd.wire.messages import LaunchRequest

    folders = Folders.find().ensure()
    base_url, key, auth, slots, known = _target(folders)
    env = {name: os.environ[name] for name in _TAKEN_ALONG if os.environ.get(name)}
    folder = files.config_folder(env, os.getcwd())
    path = folder / "settings.json"
    notices: list[str] = []
    overlay = build(
        LaunchRequest(pid=os.getpid(), cwd="/", env=env),
        user_settings=writing.read_base(path, folders.state),
        extra_settings=None,
        managed=files.read_managed("/", folder, notices),
        slots=slots,
        base_url=base_url,
        key=key,
        auth=auth,
        known_models=known,
    )
    done = writing.configure(path, folders.state, overlay.settings)
    said = (
        f"{done.path} now leads to {base_url}" if done.changed else f"{done.path} leads to {base_url} already"
    )
    return _report(done, said, [*notices, *overlay.notices], as_json)


@claude.command(epilog=examples("occtl claude statusline on", "occtl claude statusline off"))
@click.argument("switch", type=click.Choice(("on", "off")))
@json_option
def statusline(switch: str, as_json: bool) -> int:
    """Have Claude Code show `occtl statusline` below its prompt, or take that back.

    `on` writes statusLine into Claude Code's settings.json; a status line of your own is kept, and put back by `off`,
    byte for byte when nothing else changed. Off ends with 66 when it is not on.
    """
    from ocd.claude import configure as writing
    from ocd.claude import files
    from ocd.settings.folders import Folders

    folders = Folders.find().ensure()
    if switch == "off":
        done = writing.status_line_off(folders.state)
        said = "Claude Code's status line is as it was"
        return _report(done, f"{said}: {done.path}", [], as_json)
    env = {name: os.environ[name] for name in _TAKEN_ALONG if os.environ.get(name)}
    path = files.config_folder(env, os.getcwd()) / "settings.json"
    kept = "statusLine" in writing.read_base(path, folders.state)
    done = writing.status_line_on(path, folders.state, _command())
    how = "shows" if done.changed else "shows already"
    notices = ["your own status line is kept for `occtl claude statusline off`"] if kept else []
    return _report(done, f"Claude Code {how} the status line of ocd: {done.path}", notices, as_json)


def _command() -> str:
    """How Claude Code's shell is to run `occtl statusline`: by this command's own path where it has one."""
    import shlex
    import shutil
    import sys

    own = os.path.abspath(sys.argv[0])
    if os.path.basename(own) != "occtl" or not os.access(own, os.X_OK):
        own = shutil.which("occtl") or ""
    words = [own] if own else [sys.executable, "-m", "ocd.ctl"]
    return shlex.join([*words, "statusline"])


@claude.command(epilog=examples("occtl claude remove"))
@json_option
def remove(as_json: bool) -> int:
    """Take back what `configure` wrote: the file byte for byte as it was.

    When somebody changed the file since, only our own keys go, and only where they still have our value. Ends with
    66 when there is nothing to take back.
    """
    from ocd.claude import configure as writing
    from ocd.settings.folders import Folders

    done = writing.remove(Folders.find().state)
    how = "is as it was" if done.exact else "was changed since: only our own keys were taken out"
    return _report(done, f"{done.path} {how}", [], as_json)


def _target(folders: "Folders") -> "tuple[str, str, Auth, Slots, list[str]]":
    """Address, key, auth, slots and model groups of what Claude Code is to use."""
    from ocd.claude.overlay import Slots
    from ocd.settings import external_key, keys
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load
    from ocd.stack.stack import names
    from ocd.stack.swap import read_stack

    settings = load(folders)
    slots = Slots(**settings.slots.model_dump())
    if settings.external.enabled:
        key = external_key.load(folders, os.environ)
        return settings.external.base_url, key, settings.auth, slots, []
    try:
        known = names(read_stack(folders, settings).main)
    except ConfigError:
        # `occtl config check` says what is wrong there; the settings do not depend on it.
        known = []
    key = keys.load_or_create(folders).main
    return f"http://127.0.0.1:{settings.port}", key, settings.auth, slots, known


def _report(done: "Done", said: str, notices: list[str], as_json: bool) -> int:
    if as_json:
        screen.out_json({"ok": True, "path": str(done.path), "changed": done.changed, "exact": done.exact,
                         "keys": list(done.keys), "notices": notices})  # fmt: skip
        return EX_OK
    screen.out(said)
    for line in notices:
        screen.note(screen.plain(line[:1].upper() + line[1:]) + ".")
    if done.changed and not done.exact and not is_running():
        screen.note("The daemon is not running: `occtl service install` has it run from login on.")
    return EX_OK
