"""``occtl model``: give a slot another model, and take that back."""

import click

from ocd.ctl import diff, effect, screen
from ocd.ctl.options import ModelName, examples, json_option
from ocd.errors import EX_CONFIG, OcdError

_SLOTS = ("opus", "sonnet", "haiku", "fable")


@click.group()
def model() -> None:
    """Give one of Claude Code's slots another model."""


@model.command(
    "set",
    epilog=examples(
        "occtl model set haiku bedrock/converse/meta.llama4-scout-17b-16e-instruct-v1:0",
        "occtl model set haiku bedrock/converse/amazon.nova-pro-v1:0 --name nova-pro",
        "occtl model set sonnet anthropic/MODEL",
        "occtl model set haiku GROUP                  a model group that litellm.yaml has",
        "occtl model unpin sonnet                     what Claude Code itself chooses",
        "occtl model undo",
    ),
)
@click.argument("slot", type=click.Choice(_SLOTS))
@click.argument("wanted", metavar="MODEL", type=ModelName())
@click.option("--name", default="", help="What the model group is called from now on.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@json_option
def set_(slot: str, wanted: str, name: str, dry_run: bool, as_json: bool) -> int:
    """Have MODEL serve SLOT: change your files, check them, reload. Nothing is sent outside.

    Comments and order in the files stay. For a Bedrock model the two actions and the resources are named that the
    AWS identity must be allowed. Ends with 78, and changes nothing, when the check finds a new error.
    """
    from ocd.settings import backup
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack import iam, swap
    from ocd.stack.trial import try_out

    folders = Folders.find()
    settings = load(folders)
    plan = swap.plan(folders, settings, slot, wanted, name)
    known = {(one.code, one.key) for one in effect.errors(try_out(folders, {}))}
    findings = try_out(folders, plan.texts)
    fresh = [one for one in effect.errors(findings) if (one.code, one.key) not in known]
    if fresh:
        raise OcdError(
            f"{wanted} cannot serve the {slot} slot",
            fresh[0].what,
            f"{fresh[0].fix.rstrip('.')}. Nothing was changed",
            exit_code=EX_CONFIG,
            code=fresh[0].code,
        )
    needs = iam.arns(plan.bedrock, settings.aws_region) if plan.bedrock else []
    kept = None if dry_run else backup.change(folders, "model set", plan.texts)
    said = {
        "slot": slot,
        "group": plan.group,
        "model": plan.model,
        "changed": [str(path) for path in plan.texts],
        "backup": str(kept.folder) if kept else None,
        "iam": {"actions": list(iam.ACTIONS), "resources": needs} if needs else None,
        "notes": plan.notes,
        "dry_run": dry_run,
    }
    if not as_json:
        would = "would be" if dry_run else "is"
        screen.out(
            f"{slot} {would} served by {plan.group}"
            + (f" ({plan.model})" if plan.model != plan.group else "")
        )
        for path in plan.texts:
            screen.out(f"{'would change' if dry_run else 'changed'} {path}")
        if not plan.texts:
            screen.out("It was so already.")
        if dry_run:
            diff.show(plan.texts)
        if kept:
            screen.out(f"what was there is in {kept.folder} (`occtl model undo` puts it back)")
        for line in plan.notes:
            screen.note(line[:1].upper() + line[1:] + ".")
        if needs:
            screen.out(f"the AWS identity needs {' and '.join(iam.ACTIONS)} on")
            for arn in needs:
                screen.out(f"  {arn}")
            screen.out("and the account needs access to the model (AWS console: Bedrock, Model access)")
    return effect.finish(said, findings, as_json, reload=kept is not None)


@model.command(
    short_help="Let Claude Code itself choose the model of SLOT.",
    epilog=examples("occtl model unpin opus", "occtl model undo"),
)
@click.argument("slot", type=click.Choice(_SLOTS))
@json_option
def unpin(slot: str, as_json: bool) -> int:
    """Let Claude Code choose the model of SLOT: its own alias decides, and newer models come by themselves.

    Takes the slot's name out of ocd.toml; the LiteLLM files stay. Main needs a route that takes any name, as claude-*
    does. `occtl model undo` takes it back.
    """
    from ocd.settings import backup
    from ocd.settings.folders import Folders
    from ocd.settings.load import load
    from ocd.stack import swap
    from ocd.stack.trial import try_out

    folders = Folders.find()
    plan = swap.unpin(folders, load(folders), slot)
    findings = try_out(folders, plan.texts)
    kept = backup.change(folders, "model set", plan.texts)
    said = {
        "slot": slot,
        "changed": [str(path) for path in plan.texts],
        "backup": str(kept.folder) if kept else None,
        "notes": plan.notes,
    }
    if not as_json:
        screen.out(
            f"{slot} is not pinned{'' if kept else ', and was not before'}: Claude Code chooses its model"
        )
        for path in plan.texts:
            screen.out(f"changed {path}")
        if kept:
            screen.out(f"what was there is in {kept.folder} (`occtl model undo` puts it back)")
        for line in plan.notes:
            screen.note(line[:1].upper() + line[1:] + ".")
    return effect.finish(said, findings, as_json, reload=kept is not None)


@model.command(
    short_help="Put back what the last `set` or `unpin` changed.",
    epilog=examples("occtl model undo", "occtl model undo --force"),
)
@click.option("--force", is_flag=True, help="Also when the files were changed since; what is there is kept.")
@json_option
def undo(force: bool, as_json: bool) -> int:
    """Put back what the last `occtl model set` or `unpin` changed, check, reload. Can be repeated."""
    from ocd.settings import backup
    from ocd.settings.folders import Folders

    folders = Folders.find()
    back = backup.restore(folders, backup.latest(folders, "model set"), force=force)
    if not as_json:
        for path in back:
            screen.out(f"put back {path}")
    said = {"restored": [str(path) for path in back]}
    return effect.finish(said, effect.after_undo(), as_json, reload=True)
