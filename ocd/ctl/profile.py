"""``occtl profile``: what `.ocd.toml` in a project may choose, and the profiles of ocd.toml."""

import os
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_NOINPUT, EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.claude.project import File

#: `show`: there is one, and it is not used (as systemctl's "not running")
EX_NOT_USED = 3


@click.group(short_help="Other slots, or another AWS profile, for a project's sessions.")
def profile() -> None:
    """Other slots, or another AWS profile, for some sessions: [profiles.NAME] in ocd.toml, or .ocd.toml in a project.

    `openclaude --profile NAME` starts a session with one of them. A project's .ocd.toml is used once it is trusted, for
    this path and this content; it can name slots, a profile and an AWS profile, and nothing else (docs/profiles.md).
    """


@profile.command(
    "list",
    short_help="List profiles and trusted projects.",
    epilog=examples("occtl profile list", "occtl profile list --json | jq .projects"),
)
@json_option
def list_(as_json: bool) -> int:
    """List the profiles of ocd.toml, and the projects that are trusted."""
    from ocd.claude import profiles, trust
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    folders = Folders.find()
    named = profiles.named(load(folders))
    projects = [
        {"path": path, "state": _now(path, digest)} for path, digest in trust.known(folders.state).items()
    ]
    if as_json:
        screen.out_json({"profiles": named, "projects": projects})
        return EX_OK
    for name, chosen in named.items():
        screen.out(f"{name}: {_words(chosen)}")
    for one in projects:
        screen.out(f"{screen.plain(screen.home(one['path']))}: {one['state']}")
    if not named and not projects:
        screen.out("There is no [profiles.NAME] in ocd.toml, and no project is trusted.")
    return EX_OK


def _now(path: str, digest: str) -> str:
    from ocd.claude import project

    try:
        file = project.read(path)
    except OcdError as error:
        return "gone" if error.exit_code == EX_NOINPUT else f"not used: {error.why}"
    return "trusted" if file.digest == digest else "changed"


def _words(chosen: dict[str, str]) -> str:
    said = [f"{key} {value or 'as Claude Code chooses'}" for key, value in chosen.items()]
    return ", ".join(said) or "nothing"


@profile.command(
    short_help="Show a project's .ocd.toml, and whether it is used.",
    epilog=examples("occtl profile show", "occtl profile show ~/src/project --json"),
)
@click.argument("path", required=False, type=click.Path())
@json_option
def show(path: str | None, as_json: bool) -> int:
    """Show what PATH's .ocd.toml says (this folder's without PATH), and whether it is used.

    Ends with 0 when it is used, 3 when it is there and not trusted as it is now, 66 when there is none, 65 or 77 when
    it cannot be used at all.
    """
    from ocd.claude import profiles, project, trust
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    folders = Folders.find()
    file = _file(path)
    chosen = project.choices(file)
    state = trust.said(trust.known(folders.state), file)
    whole = profiles.combined(chosen, profiles.named(load(folders)))
    if as_json:
        screen.out_json({"path": file.path, "state": state, "says": chosen, "means": whole})
        return EX_OK if state == "trusted" else EX_NOT_USED
    screen.out(f"{screen.plain(screen.home(file.path))}: {_words(chosen)}")
    if whole != chosen:
        screen.out(f"with the profile {chosen['profile']}: {_words(whole)}")
    if state != "trusted":
        screen.show_error(trust.refusal(file, state))
    return EX_OK if state == "trusted" else EX_NOT_USED


def _file(path: str | None) -> "File":
    from ocd.claude import project

    place = os.path.abspath(os.path.expanduser(path)) if path else os.getcwd()
    if os.path.isdir(place):
        found = project.find(place)
        if not found:
            raise OcdError(
                f"There is no {project.FILE} in {screen.plain(place)}",
                "nor above it, up to the root of its git repository",
                "docs/profiles.md says what can stand in it",
                exit_code=EX_NOINPUT,
                code="no-project-file",
            )
        return project.read(found)
    return project.read(_real(place))


def _real(path: str) -> str:
    """The path as a session finds it: its folder without links, the file's own name."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


@profile.command(
    short_help="Use a project's .ocd.toml as it is now.",
    epilog=examples("occtl profile trust", "occtl profile trust ~/src/project"),
)
@click.argument("path", required=False, type=click.Path())
@json_option
def trust(path: str | None, as_json: bool) -> int:
    """Use PATH's .ocd.toml (this folder's without PATH) from now on, as long as its content stays what it is now.

    Says what is in it. A file that cannot be used is refused: one that others may write to, a link, one with a key that
    a project may not have.
    """
    from ocd.claude import project
    from ocd.claude import trust as trusting
    from ocd.settings.folders import Folders

    file = _file(path)
    if os.path.basename(file.path) != project.FILE:
        raise OcdError(
            f"{file.shown} is not a {project.FILE}",
            "no session looks at it",
            exit_code=EX_NOINPUT,
            code="no-project-file",
        )
    chosen = project.choices(file)
    news = trusting.add(Folders.find().ensure().state, file)
    if as_json:
        screen.out_json({"ok": True, "path": file.path, "changed": news, "says": chosen})
        return EX_OK
    screen.out(f"{screen.plain(screen.home(file.path))} is {'used from now on' if news else 'used already'}:")
    screen.out(f"  {_words(chosen)}")
    return EX_OK


@profile.command(
    short_help="Use a project's .ocd.toml no longer.",
    epilog=examples("occtl profile untrust", "occtl profile untrust ~/src/project"),
)
@click.argument("path", required=False, type=click.Path())
@json_option
def untrust(path: str | None, as_json: bool) -> int:
    """Use PATH's .ocd.toml (this folder's without PATH) no longer; it need not be there any more.

    Sessions that live keep what they were started with. Ends with 66 when it was not trusted.
    """
    from ocd.claude import project
    from ocd.claude import trust as trusting
    from ocd.settings.folders import Folders

    state = Folders.find().state
    place = os.path.abspath(os.path.expanduser(path)) if path else os.getcwd()
    known = trusting.known(state)
    tried = [_real(place), os.path.join(os.path.realpath(place), project.FILE)]
    if os.path.isdir(place):
        tried.append(project.find(place))
    gone = next((one for one in tried if one in known), "")
    if not gone:
        raise OcdError(
            f"No {project.FILE} of {screen.plain(place)} is trusted",
            "",
            "Run `occtl profile list`",
            exit_code=EX_NOINPUT,
            code="project-not-trusted",
        )
    trusting.remove(state, gone)
    said: dict[str, Any] = {"ok": True, "path": gone}
    if as_json:
        screen.out_json(said)
    else:
        screen.out(f"{screen.plain(screen.home(gone))} is not used any more")
    return EX_OK
