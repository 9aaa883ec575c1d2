"""``occtl claude``: Claude Code started by something else than openclaude: `claude`, editors, SDK, CI, shells."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ocd import paths
from ocd.ctl import screen
from ocd.ctl.daemon import Daemon, NotRunning, is_running
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_NOINPUT, EX_OK, EX_UNAVAILABLE, OcdError

if TYPE_CHECKING:
    from ocd.claude.configure import Done
    from ocd.claude.permanent import Target
    from ocd.settings.folders import Folders


@click.group(short_help="Have `claude` itself, editors and other tools use the proxies.")
def claude() -> None:
    """Have `claude` itself, editors and other tools use the proxies; openclaude needs none of this."""


@claude.command(
    short_help="Write openclaude's settings into Claude Code's settings.json.",
    epilog=examples("occtl claude configure", "CLAUDE_CONFIG_DIR=~/.other occtl claude configure"),
)
@json_option
def configure(as_json: bool) -> int:
    """Write the settings that openclaude uses into Claude Code's settings.json, permanently.

    The file is replaced in one step and is 0600 afterwards, because it then holds the proxy's key; what it was is
    kept for `occtl claude remove`. Each CLAUDE_CONFIG_DIR is configured by itself. The daemon keeps them up to date
    when port, key, slots or models change; what you change in the file yourself stays as you put it.
    """
    from ocd.claude import configure as writing
    from ocd.claude import permanent
    from ocd.settings.folders import Folders

    folders = Folders.find().ensure()
    target = _target(folders)
    env = {name: os.environ[name] for name in permanent.TAKEN_ALONG if os.environ.get(name)}
    path = _settings_file()
    notices: list[str] = []
    base = writing.read_base(path, folders.state)
    done = writing.configure(path, folders.state, permanent.overlay(path, base, target, env, notices))
    _remember(folders, "claude configure", done)
    url = target.base_url
    said = f"{done.path} now leads to {url}" if done.changed else f"{done.path} leads to {url} already"
    return _report(done, said, notices, as_json)


@claude.command(
    short_help="Show the settings files that hold something of ours.",
    epilog=examples("occtl claude status", "occtl claude status --json"),
)
@json_option
def status(as_json: bool) -> int:
    """Show the settings files that `configure` and `statusline on` wrote into, and where they lead.

    Ends with 69 when one of them leads elsewhere than to what is served now.
    """
    from ocd.claude import configure as writing
    from ocd.settings.folders import Folders

    folders = Folders.find()
    known = writing.known(folders.state) if folders.state.is_dir() else []
    served = _target(folders).base_url if known else ""
    stale = [one for one in known if one.address and one.address != served]
    if as_json:
        rows = [
            {
                "path": str(one.path),
                "exists": one.exists,
                "address": one.address,
                "status_line": one.status_line,
                "yours": list(one.theirs),
            }
            for one in known
        ]
        screen.out_json({"ok": not stale, "served": served, "files": rows})
        return EX_UNAVAILABLE if stale else EX_OK
    if not known:
        screen.out("No settings file of Claude Code's holds anything of ocd's.")
    for one in known:
        what = [f"leads to {one.address}" if one.address else "", "status line" if one.status_line else ""]
        screen.out(f"{one.path}: {', '.join(filter(None, what)) or 'nothing of ours any more'}")
        if not one.exists:
            screen.note("The file is gone: `occtl claude configure` makes it again.")
        elif one.theirs:
            screen.note(f"Changed by you, and left alone: {', '.join(one.theirs)}.")
    for one in stale:
        screen.note(
            f"{one.path} leads to {one.address}, but {served} is served: run `occtl claude configure`."
        )
    return EX_UNAVAILABLE if stale else EX_OK


@claude.command(
    short_help="Have Claude Code show `occtl statusline`, or take that back.",
    epilog=examples(
        "occtl claude statusline on",
        "occtl claude statusline on --wrap    beside your own line",
        "occtl claude statusline off",
    ),
)
@click.argument("switch", type=click.Choice(("on", "off")))
@click.option("--wrap", is_flag=True, help="Show your own status line too, in front of ocd's.")
@json_option
def statusline(switch: str, wrap: bool, as_json: bool) -> int:
    """Have Claude Code show `occtl statusline` below its prompt, or take that back.

    `on` writes statusLine into Claude Code's settings.json; a status line of your own is kept, and put back by `off`,
    byte for byte when nothing else changed. Off ends with 66 when it is not on.
    """
    from ocd.claude import configure as writing
    from ocd.settings.folders import Folders

    folders = Folders.find().ensure()
    path = _settings_file()
    if switch == "off":
        on = [one.path for one in writing.known(folders.state) if one.status_line]
        done = writing.status_line_off(on[0] if path not in on and len(on) == 1 else path, folders.state)
        return _report(done, f"Claude Code's status line is as it was: {done.path}", [], as_json)
    theirs = writing.read_base(path, folders.state).get("statusLine")
    own = str(theirs.get("command") or "") if isinstance(theirs, dict) else ""
    wrapped = ["--with", own] if wrap and own else []
    done = writing.status_line_on(path, folders.state, _command(*wrapped))
    _remember(folders, "claude statusline", done)
    how = "shows" if done.changed else "shows already"
    notices = (
        ["your own status line is kept for `occtl claude statusline off`"] if theirs and not wrapped else []
    )
    if wrap and not own:
        notices.append("there is no status line of your own to show with it")
    return _report(done, f"Claude Code {how} the status line of ocd: {done.path}", notices, as_json)


def _remember(folders: "Folders", verb: str, done: "Done") -> None:
    """For `occtl undo`; the file's former bytes are in its own record."""
    from ocd.settings import backup

    if done.changed:
        backup.note(folders, verb, str(done.path))


def _command(*more: str) -> str:
    """How Claude Code's shell is to run `occtl statusline`: by this command's own path where it has one."""
    import shlex

    own = _beside("occtl")
    return shlex.join([*([own] if own else paths.program("ocd.ctl")), "statusline", *more])


def _beside(name: str) -> str:
    """The path of one of our commands: beside this one, else on the PATH; empty when there is none."""
    import shutil

    own = os.path.abspath(sys.argv[0])
    path = os.path.join(os.path.dirname(own), name)
    if os.path.basename(own) == "occtl" and os.access(path, os.X_OK):
        return path
    return shutil.which(name) or ""


@claude.command(
    short_help="Take back what `configure` wrote, byte for byte.",
    epilog=examples("occtl claude remove", "occtl claude remove ~/.other", "occtl claude remove --all"),
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("everything", "--all", is_flag=True, help="In every folder, the status line too.")
@json_option
def remove(folder: Path | None, everything: bool, as_json: bool) -> int:
    """Take back what `configure` wrote: the file byte for byte as it was.

    FOLDER is a CLAUDE_CONFIG_DIR; without it the one of this shell, or the only one that is configured. When somebody
    changed the file since, only our own keys go, and only where they still have our value. Ends with 66 when there is
    nothing to take back.
    """
    from ocd.claude import configure as writing
    from ocd.settings.folders import Folders

    state = Folders.find().state
    known = writing.known(state) if state.is_dir() else []
    path = (folder.expanduser().absolute() / "settings.json") if folder is not None else _settings_file()
    if everything:
        paths = [one.path for one in known]
    elif folder is None and path not in {one.path for one in known} and len(known) == 1:
        paths = [known[0].path]
    else:
        paths = [path]
    if not paths or not state.is_dir():
        raise OcdError(
            "There is nothing of ours in Claude Code's settings",
            "`occtl claude configure` has not been run, or was taken back already",
            exit_code=EX_NOINPUT,
            code="not-configured",
        )
    done = [writing.remove(one, state, status_line=everything) for one in paths]
    if as_json:
        files = [{"path": str(one.path), "exact": one.exact, "keys": list(one.keys)} for one in done]
        first = {
            "path": str(done[0].path),
            "changed": done[0].changed,
            "exact": all(one.exact for one in done),
        }
        screen.out_json({"ok": True, **first, "keys": list(done[0].keys), "notices": [], "files": files})
        return EX_OK
    for one in done:
        how = "is as it was" if one.exact else "was changed since: only our own keys were taken out"
        screen.out(f"{one.path} {how}")
    return EX_OK


# ---- what others need


@claude.command(
    short_help="Print the variables that lead Claude Code to the proxies.",
    epilog=examples(
        'eval "$(occtl claude env)"',
        "occtl claude env --shell fish | source",
        'eval "$(occtl claude env --unset)"',
    ),
)
@click.option(
    "--shell",
    type=click.Choice(("sh", "bash", "zsh", "fish")),
    default="sh",
    help="Whose syntax: sh unless named; bash and zsh understand it.",
)
@click.option("--unset", is_flag=True, help="Take the variables out of the shell again.")
@json_option
def env(shell: str, unset: bool, as_json: bool) -> int:
    """Print the variables that lead Claude Code, and what else reads them, to the proxies; for a shell to evaluate.

    Weaker than openclaude: settings files beat the environment, and everything that the shell starts sees the proxy's
    key. On a terminal the key is not printed.
    """
    from ocd.claude import shells
    from ocd.settings.folders import Folders

    made = shells.variables(_target(Folders.find().ensure()), os.environ)
    shown = made if not sys.stdout.isatty() else shells.hidden(made)
    if as_json:
        screen.out_json(
            {"ok": True, "set": {} if unset else shown.set, "unset": [*shown.set] if unset else shown.unset}
        )
        return EX_OK
    sys.stdout.write(shells.text(shown, shell, unset=unset))
    if sys.stdout.isatty():
        screen.note("The key is hidden here. Let the shell take it: " + shells.USE[shell])
    elif not unset and shown.unset:
        screen.note(f"Taken out of this shell, because they lead elsewhere: {', '.join(shown.unset)}.")
    return EX_OK


@claude.command(
    short_help="Print what the Agent SDK, or a GitHub workflow, needs.",
    epilog=examples("occtl claude sdk", "occtl claude sdk python"),
)
@click.argument("which", required=False, type=click.Choice(("typescript", "python", "github")))
@json_option
def sdk(which: str | None, as_json: bool) -> int:
    """Print how the Agent SDK (TypeScript, Python) and a GitHub workflow start Claude Code through the proxies.

    All of them can be told which program to start: openclaude. No key is in any of it.
    """
    from ocd.claude import shells

    texts = shells.sdk(_openclaude())
    chosen = {which: texts[which]} if which else texts
    if as_json:
        screen.out_json({"ok": True, "executable": _openclaude(), **chosen})
        return EX_OK
    screen.out("\n".join(chosen.values()).rstrip("\n"))
    return EX_OK


@claude.command(
    short_help="Print what VS Code's extension and JetBrains' plugin need.",
    epilog=examples("occtl claude vscode", "occtl claude vscode --json"),
)
@json_option
def vscode(as_json: bool) -> int:
    """Print the settings with which VS Code's extension, and JetBrains' plugin, start Claude Code through the proxies.

    They name openclaude as the program that starts Claude Code. No key is in them.
    """
    from ocd.claude import shells

    path = _openclaude()
    if as_json:
        screen.out_json({"ok": True, "executable": path, "settings": shells.vscode(path)})
        return EX_OK
    screen.out(shells.vscode_text(path))
    screen.note("VS Code: Preferences: Open User Settings (JSON), then reload the window.")
    screen.note(f"JetBrains: Settings, Tools, Claude Code: set the Claude command to {path}.")
    return EX_OK


def _openclaude() -> str:
    path = _beside("openclaude")
    if not path:
        raise OcdError(
            "openclaude was not found",
            "it is neither beside occtl nor on your PATH",
            "Run `python3 install.py`",
            exit_code=EX_UNAVAILABLE,
            code="no-openclaude",
        )
    return path


# ---- where to


def _settings_file() -> Path:
    """Claude Code's settings.json of this shell's user."""
    from ocd.claude import files
    from ocd.claude.permanent import TAKEN_ALONG

    env = {name: os.environ[name] for name in TAKEN_ALONG if os.environ.get(name)}
    return files.config_folder(env, os.getcwd()) / "settings.json"


def _target(folders: "Folders") -> "Target":
    """What Claude Code is to use: what the daemon serves; what the files say when none runs."""
    from ocd.claude.overlay import Slots
    from ocd.claude.permanent import Target
    from ocd.settings import keys
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load
    from ocd.settings.schema import Settings
    from ocd.settings.stored_key import EXTERNAL
    from ocd.stack.stack import names
    from ocd.stack.swap import read_stack
    from ocd.wire.messages import ConfigReply, Status

    port = 0
    try:
        with Daemon() as daemon:
            # Not the file: the daemon may have other variables, and may have refused what is in the file now.
            settings = Settings.model_validate(daemon.get(ConfigReply, "/v1/config").settings)
            main = daemon.get(Status, "/v1/status").proxies.get("main")
            port = main.port if main is not None else 0
    except NotRunning:
        settings = load(folders)
    slots = Slots(**settings.slots.model_dump())
    if settings.external.enabled:
        key = EXTERNAL.load(folders, os.environ)
        return Target(settings.external.base_url, key, settings.auth, slots)
    try:
        groups = names(read_stack(folders, settings).main)
    except ConfigError:
        # `occtl config check` says what is wrong there; the settings do not depend on it.
        groups = []
    key = keys.load_or_create(folders).main
    return Target(f"http://127.0.0.1:{port or settings.port}", key, settings.auth, slots, tuple(groups))


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
