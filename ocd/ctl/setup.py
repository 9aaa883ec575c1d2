"""``occtl setup``: go through what is missing between an installation and the first prompt."""

import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples
from ocd.errors import EX_OK, EX_UNAVAILABLE, OcdError

if TYPE_CHECKING:
    from ocd.settings.folders import Folders

#: as `occtl doctor`: looked at, and something has to be done first
EX_NOT_FIT = 3
#: what a model of the shipped files is asked in where nobody names a region (ocd/settings/schema.py)
REGION = "us-west-2"
_OTHER = "none of them"


@dataclass(frozen=True, slots=True)
class Question:
    """One key of ocd.toml that is to be asked for. ``choices`` empty: any word."""

    key: str
    text: str
    choices: tuple[str, ...] = ()
    default: str = ""


def questions(
    missing: str, known: Mapping[str, str], profile: str, given: Mapping[str, Any]
) -> list[Question]:
    """What to ask about AWS. ``missing``: why nothing can be signed, empty when something may be.

    ``known``: name → region of the profiles that exist; ``profile``: the one in use, empty for AWS's default chain;
    ``given``: the keys that ocd.toml has already.
    """
    asked = []
    if missing and known:
        asked.append(
            Question("aws_profile", "Which AWS profile may pay for the haiku slot?", (*known, _OTHER))
        )
    elif not missing and "aws_region" not in given and not known.get(profile or "default"):
        asked.append(Question("aws_region", "In which AWS region are your models?", default=REGION))
    return asked


def region_of(known: Mapping[str, str], profile: str, given: Mapping[str, Any]) -> list[Question]:
    """Whether the profile that was just chosen needs a region, too."""
    return questions("", known, profile, given)


def no_profile(missing: str) -> list[str]:
    """What to do where there is no profile to choose from."""
    return [
        f"No AWS login: {missing}. With single sign-on: aws configure sso --profile openclaude",
        "With an access key:   aws configure --profile openclaude",
        "It counts at once. Without AWS, opus and sonnet work, the haiku slot does not.",
    ]


@click.command(
    epilog=examples("occtl setup", "occtl setup < /dev/null       change nothing that needs an answer")
)
def setup() -> int:
    """Go through what is missing: LiteLLM, configuration, service, AWS profile, region and login, model access.

    Asks only on a terminal, and only what cannot be found out; can be run again at any time. What it changes in
    ocd.toml is one key at a time, kept in a backup first. Ends with 0 when ocd is fit to run, with 3 when something is
    left to do, which it names.
    """
    from ocd.settings.folders import Folders

    folders = Folders.find().ensure()
    asking = sys.stdin.isatty() and sys.stdout.isatty()
    _files(folders)
    _litellm(folders)
    _daemon()
    _aws(folders, asking)
    return _rest(asking)


def _run(*words: str) -> int:
    """Another verb, as if it had been typed; its errors are shown and are no end of this one."""
    from ocd.ctl.app import cli

    try:
        code = cli.main(args=list(words), prog_name="occtl", standalone_mode=False)
        return code if isinstance(code, int) else EX_OK
    except OcdError as error:
        screen.show_error(error)
        return error.exit_code


def _files(folders: "Folders") -> None:
    from ocd.stack.defaults import write_defaults

    for path in write_defaults(folders):
        screen.out(f"wrote {screen.home(str(path))}")


def _litellm(folders: "Folders") -> None:
    """The proxies' environment, from the list that comes with this ocd, where there is none yet. Raises OcdError."""
    from ocd import provision
    from ocd.releases import Releases, locked
    from ocd.service.base import template
    from ocd.settings.load import load

    link = folders.data / "litellm"
    if (link / "bin" / "python").exists() or load(folders).litellm.python:
        return
    lock = template("requirements", "litellm.txt")
    what = f"LiteLLM {locked(lock)} ({provision.packages(lock)} packages)"
    with screen.progress(f"Installing {what}…"), Releases(folders.data / "envs") as releases:
        folder = releases.install(lock)
    from ocd.ctl.litellm import _point

    _point(link, str(folder))
    screen.out(f"installed {what}")


def _daemon() -> None:
    """Have it run, by the service manager where one answers and there is no other place for it."""
    import os

    from ocd import paths
    from ocd.service.manager import current

    manager = current()
    alone = paths.prefix() or os.environ.get("OCD_NO_SERVICE")
    if not alone and not manager.available() and not manager.installed():
        _run("service", "install")
    _run("start")


def _aws(folders: "Folders", asking: bool) -> None:
    from ocd.aws.ask import environment
    from ocd.settings import aws_profiles
    from ocd.settings.load import FILE, load

    settings = load(folders)
    proxy = environment(settings)
    home = proxy.get("HOME", "~")
    known = aws_profiles.profiles(home, proxy)
    why = aws_profiles.missing(home, proxy, settings.aws_profile)
    try:
        given = tomllib.loads((folders.config / FILE).read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        given = {}
    if why and not known:
        for line in no_profile(why):
            screen.out(line)
        return
    for question in questions(why, known, settings.aws_profile, given):
        answer = _answer(question, asking)
        if not answer:
            return
        _set(folders, question.key, answer)
        if question.key == "aws_profile":
            for more in region_of(known, answer, given):
                if region := _answer(more, asking):
                    _set(folders, more.key, region)
    _login(asking)


def _answer(question: Question, asking: bool, ask: Callable[..., Any] = click.prompt) -> str:
    """The answer; empty when there is none. Without a terminal the command that answers it is printed."""
    if not asking:
        some = f" ({', '.join(question.choices[:-1])})" if question.choices else ""
        screen.out(f"{question.text} Set {question.key} in ocd.toml{some}: occtl config edit")
        return ""
    if not question.choices:
        return str(ask(question.text, default=question.default or None)).strip()
    screen.out(question.text)
    for number, name in enumerate(question.choices, 1):
        screen.out(f"  {number}  {screen.plain(name)}")
    number = ask("Number", type=click.IntRange(1, len(question.choices)))
    found = question.choices[int(number) - 1]
    return "" if found == _OTHER else found


def _set(folders: "Folders", key: str, value: str) -> None:
    """One key of ocd.toml, kept in a backup first, and have the daemon take it. Raises OcdError."""
    from ocd.ctl.effect import reload_if_running
    from ocd.settings import backup
    from ocd.settings.load import FILE
    from ocd.settings.tomlset import set_keys

    path = folders.config / FILE
    text = set_keys(path.read_text("utf-8"), {(key,): value})
    kept = backup.change(folders, "setup", {path: text})
    outcome = reload_if_running()
    screen.out(
        f'{key} = "{value}" in {screen.home(str(path))}' + (f" (before: {kept.folder})" if kept else "")
    )
    if outcome is not None and not outcome.ok:
        screen.show_error(
            screen.outcome_error(outcome, "The new configuration is not serving", EX_UNAVAILABLE)
        )


def _login(asking: bool) -> None:
    """A login that is missing or over, where single sign-on gives one."""
    from ocd.ctl.aws import _report

    try:
        verdicts = _report().verdicts
    except OcdError as error:
        screen.show_error(error)
        return
    over = [verdict for verdict in verdicts if not verdict.usable and verdict.login]
    if over and (not asking or not click.confirm(f"Log in now ({' '.join(over[0].login)})?", default=True)):
        screen.out("The AWS login is missing or over: occtl aws login")
    elif over:
        _run("aws", "login")


def _rest(asking: bool) -> int:
    """What is left, as the doctor sees it; then, where somebody can say yes, whether the account may use the models."""
    from ocd.ctl.doctor import LIMIT, _show
    from ocd.doctor import report
    from ocd.doctor.gather import all_checks
    from ocd.settings.folders import Folders

    with screen.progress("Looking…"):
        rows = report.run(all_checks(Folders.find()), LIMIT)
    wrong = [row for row in rows if row.level in ("error", "warning")]
    for row in wrong:
        _show(row)
    if not report.fit(rows):
        return EX_NOT_FIT
    screen.out("Nothing is missing." if not wrong else "ocd runs; see above for the rest.")
    if asking and click.confirm(
        "Ask each slot once, to see that the account may? It costs a little", default=False
    ):
        return _run("doctor", "--online", "--yes")
    screen.out("Whether your accounts may use the models: occtl doctor --online. Then: openclaude")
    return EX_OK
