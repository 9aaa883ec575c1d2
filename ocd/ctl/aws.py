"""``occtl aws``: the bedrock proxy's credentials: what they are, how to renew them, what they must be allowed."""

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CONFIG, EX_OK, EX_UNAVAILABLE, EX_USAGE, OcdError

if TYPE_CHECKING:
    from ocd.aws.ask import Report
    from ocd.aws.judge import Verdict

#: as `occtl status`: looked at, and not fit
EX_NOT_USABLE = 3


@click.group(short_help="Look at, renew and allow the bedrock proxy's AWS credentials.")
def aws() -> None:
    """Look at the bedrock proxy's AWS credentials, renew them, print the policy they need."""


@aws.command(epilog=examples("occtl aws status", "occtl aws status --json | jq '.lookups[].problems'"))
@json_option
def status(as_json: bool) -> int:
    """Say which credentials the bedrock proxy would use and why. Offline: AWS is not asked.

    Ends with 0 when they are usable as far as can be seen here, 3 when not, 69 when there is no LiteLLM to ask,
    78 when the configuration cannot be read. No credential_process is run; of a key its end is shown.
    """
    report = _report()
    if as_json:
        screen.out_json(
            {
                "usable": report.usable,
                "botocore": report.botocore,
                "lookups": [verdict.as_dict() for verdict in report.verdicts],
                "shell": list(report.shell),
            }
        )
        return EX_OK if report.usable else EX_NOT_USABLE
    if not report.verdicts:
        screen.out("No route of the bedrock proxy needs AWS credentials.")
    for verdict in report.verdicts:
        _show(verdict)
    if report.verdicts and report.shell:
        names = ", ".join(report.shell)
        screen.note(f"Not used: {names} of this shell; the proxies inherit nothing of it.")
    return EX_OK if report.usable else EX_NOT_USABLE


def _report() -> "Report":
    from ocd.aws.ask import report
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    folders = Folders.find()
    return report(folders, load(folders))


def _show(verdict: "Verdict") -> None:
    screen.out(
        f"{', '.join(map(screen.plain, verdict.routes))}: {'usable' if verdict.usable else 'not usable'}"
    )
    why = {"route": "the route names it", "default": "nobody names another"}.get(
        verdict.chosen_by, f"{verdict.chosen_by} names it"
    )
    rows = [
        ("region", verdict.region or "none"),
        ("profile", f"{verdict.profile} ({why})"),
        ("credentials", verdict.source or "none"),
        ("key", f"…{verdict.key}" if verdict.key else ""),
        ("roles", " → ".join(verdict.chain)),
        ("ends", verdict.expires),
        ("passed over", "; ".join(verdict.over)),
    ]
    for name, value in rows:
        if value:
            screen.out(f"  {name:<12} {screen.plain(value)}")
    for problem in verdict.problems:
        screen.out(f"  {problem.severity}: {screen.plain(problem.what)}")
        screen.sentence(f"    why:  {screen.plain(problem.why)}")
        screen.out(f"    next: {screen.plain(problem.next)}")


@aws.command(
    short_help="Add model groups that sign with another AWS profile.",
    epilog=examples(
        "occtl aws route work                     for each slot that is on AWS",
        "occtl aws route work GROUP               for one model group of litellm.yaml",
        "occtl aws route work --dry-run",
        "occtl undo",
    ),
)
@click.argument("profile")
@click.argument("groups", nargs=-1, metavar="[GROUP]...")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@json_option
def route(profile: str, groups: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Add, beside each model group on AWS, one for the same model that signs with the AWS profile PROFILE.

    For `aws_profile` in [profiles.NAME] of ocd.toml, or in a project's .ocd.toml. The new groups are called
    GROUP-PROFILE: a route of the bedrock file with `aws_profile_name`, and the way to it in main's. Credentials stay in
    AWS's own files. Ends with 78, and changes nothing, when the check finds a new error.
    """
    from ocd.ctl import diff, effect
    from ocd.settings import backup
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack import twin
    from ocd.stack.trial import try_out

    if not profile or not profile.isprintable() or set(profile) & set(" \"'`$\\<>|;&/"):
        raise OcdError(f"{profile!r} is not the name of an AWS profile", "", "Example: occtl aws route work",
                       exit_code=EX_USAGE)  # fmt: skip
    folders = Folders.find()
    made, texts = twin.plan(folders, load(folders), profile, groups)
    known = {(one.code, one.key) for one in effect.errors(try_out(folders, {}))}
    findings = try_out(folders, texts)
    fresh = [one for one in effect.errors(findings) if (one.code, one.key) not in known]
    if fresh:
        raise OcdError(
            f"No group can sign with {profile}",
            fresh[0].what,
            f"{fresh[0].fix.rstrip('.')}. Nothing was changed",
            exit_code=EX_CONFIG,
            code=fresh[0].code,
        )
    kept = None if dry_run else backup.change(folders, "aws route", texts)
    if not as_json:
        for group, one in made.items():
            screen.out(f"{group} with the AWS profile {profile}: {one}")
        for path in texts:
            screen.out(f"{'would change' if dry_run else 'changed'} {path}")
        if not texts:
            screen.out("It was so already.")
        if dry_run:
            diff.show(texts)
        if kept:
            screen.out(f"what was there is in {kept.folder} (`occtl undo` puts it back)")
    said = {"groups": made, "changed": [str(path) for path in texts], "dry_run": dry_run}
    said["backup"] = str(kept.folder) if kept else None
    return effect.finish(said, findings, as_json, reload=kept is not None)


@aws.command(
    short_help="Run the right `aws sso login`, then renew the bedrock proxy.",
    epilog=examples("occtl aws login", "occtl aws login --dry-run"),
)
@click.option("--dry-run", is_flag=True, help="Print the command, and run nothing.")
def login(dry_run: bool) -> int:
    """Run the right `aws sso login`, then renew the bedrock proxy if the daemon runs.

    Ends with the exit code of `aws` when that fails, with 78 when the profile has no login that could be renewed.
    """
    verdicts = _report().verdicts
    commands = list(dict.fromkeys(tuple(verdict.login) for verdict in verdicts if verdict.login))
    if not commands:
        raise _no_login(verdicts)
    for verdict in verdicts:
        for problem in verdict.problems:
            if verdict.login and problem.code in ("aws-sso-session-missing", "aws-sso-incomplete"):
                raise OcdError(
                    problem.what, problem.why, problem.next, exit_code=EX_CONFIG, code=problem.code
                )
    if dry_run:
        for command in commands:
            screen.out(" ".join(command))
        return EX_OK
    program = shutil.which("aws")
    if program is None:
        raise OcdError(
            "The command aws is not installed",
            "it writes the login into ~/.aws/sso/cache, from where the proxy takes it",
            f"Install the AWS command line (version 2), then run `{' '.join(commands[0])}`",
            exit_code=EX_UNAVAILABLE,
            code="no-aws-command",
        )
    for command in commands:
        screen.note(" ".join(command))
        code = subprocess.run([program, *command[1:]], env=_environment()).returncode
        if code:
            # a child that a signal ended, as a shell reports it
            return code if code > 0 else 128 - code
    return _renew()


def _environment() -> dict[str, str]:
    """The user's own, AWS's files where the bedrock proxy has them."""
    from ocd.aws.ask import environment
    from ocd.settings.folders import Folders
    from ocd.settings.load import load

    found = dict(os.environ)
    proxy = environment(load(Folders.find()))
    found.update({n: v for n, v in proxy.items() if n in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")})
    return found


def _no_login(verdicts: "list[Verdict]") -> OcdError:
    if not verdicts:
        return OcdError(
            "There is nothing to log in to",
            "no route of the bedrock proxy needs AWS credentials",
            "`occtl models` shows the routes",
            exit_code=EX_CONFIG,
            code="aws-no-login",
        )
    first = next((verdict for verdict in verdicts if not verdict.usable), verdicts[0])
    for problem in first.problems:
        if problem.severity == "error":
            return OcdError(problem.what, problem.why, problem.next, exit_code=EX_CONFIG, code=problem.code)
    return OcdError(
        f"Profile {first.profile} does not use single sign-on",
        f"the credentials come from {first.source or 'nowhere'}",
        f"Renew them where they come from, or run `aws configure sso --profile {first.profile}`",
        exit_code=EX_CONFIG,
        code="aws-no-login",
    )


def _renew() -> int:
    """A proxy that holds expired credentials takes the new ones with a new process."""
    from ocd.ctl.daemon import Daemon, NotRunning
    from ocd.wire.messages import Outcome

    try:
        with Daemon() as daemon, screen.progress("Renewing the bedrock proxy…"):
            outcome = daemon.post(Outcome, "/v1/proxies/bedrock/restart")
    except NotRunning:
        screen.note("The daemon is not running: `occtl start` uses the new login.")
        return EX_OK
    for name, what in outcome.proxies.items():
        screen.out(f"{name}: {screen.plain(what)}")
    if not outcome.ok:
        raise screen.outcome_error(outcome, "The bedrock proxy was not renewed", EX_UNAVAILABLE)
    return EX_OK


@aws.command(epilog=examples("occtl aws policy > policy.json", "occtl aws policy --json | jq .resources"))
@json_option
def policy(as_json: bool) -> int:
    """Print the least IAM policy that the configured models need. Reads the files, asks nobody."""
    from ocd.aws.policy import document, needs
    from ocd.ctl.stack import load_stack

    found = needs(load_stack())
    if not found:
        raise OcdError(
            "No model needs AWS",
            "neither LiteLLM file has a Bedrock route",
            "`occtl model set haiku bedrock/converse/…` makes one",
            exit_code=EX_CONFIG,
            code="aws-no-models",
        )
    if as_json:
        models: list[dict[str, Any]] = [one.as_dict() for one in found]
        resources = list(dict.fromkeys(arn for one in found for arn in one.resources))
        screen.out_json({"policy": document(found), "resources": resources, "models": models})
        return EX_OK
    screen.out(json.dumps(document(found), indent=2))
    for one in found:
        if one.remark:
            screen.note(f"{screen.plain(one.name)}: {screen.plain(one.remark)}.")
    screen.note("The account also needs access to each model (AWS console: Bedrock, Model access).")
    return EX_OK
