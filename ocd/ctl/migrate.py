"""``occtl migrate``: bring in the set-up of before ocd, and take that back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import diff, effect, screen
from ocd.ctl.daemon import is_running
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_CONFIG, EX_NOINPUT, OcdError

if TYPE_CHECKING:
    from ocd.settings.folders import Folders
    from ocd.stack.migrate import Found, Plan


@click.command(
    short_help="Bring in the set-up of before ocd.",
    epilog=examples(
        "occtl migrate --dry-run                     say what would be brought in",
        "occtl migrate",
        "occtl migrate --undo",
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option(
    "--force", is_flag=True, help="Replace files that you changed, and write what does not pass the check."
)
@click.option("--undo", is_flag=True, help="Put back what the last migrate replaced.")
@json_option
def migrate(dry_run: bool, force: bool, undo: bool, as_json: bool) -> int:
    """Bring in ~/.litellm/config.yaml, config-bedrock.yaml and the slots of ~/.openClaude.

    They are copied, with the code and files that they name, and fixed; the originals stay as they are. Whatever is
    replaced here is kept first. A litellm that was started by hand on our ports is named, not ended. Ends with 66
    when there is nothing to bring in, with 78 (and changes nothing) when an error is left that cannot be mended
    mechanically, or a file of your own stands in the way and --force is not given.
    """
    from ocd.settings import backup
    from ocd.settings.folders import Folders, private_folder
    from ocd.stack import migrate as moving
    from ocd.stack.trial import try_out

    folders = Folders.find()
    if undo:
        back = backup.restore(folders, backup.latest(folders, "migrate"), force=force)
        if not as_json:
            for path in back:
                screen.out(f"put back {path}")
        said: dict[str, Any] = {"restored": [str(path) for path in back]}
        return effect.finish(said, effect.after_undo(), as_json, reload=True)
    found = moving.find(Path.home())
    running = [] if is_running() else _by_hand(folders)
    if not found:
        raise OcdError(
            "There is nothing to bring in",
            "neither ~/.litellm/config.yaml nor ~/.litellm/config-bedrock.yaml nor ~/.openClaude is there"
            + "".join(f"; {line}" for line in running),
            "Run `occtl init`",
            exit_code=EX_NOINPUT,
            code="nothing-to-migrate",
        )
    plan = moving.plan(folders, found)
    _refuse_own(plan, force)
    findings = try_out(folders, plan.texts)
    written = [str(path) for path, text in plan.texts.items() if _text(path) != text]
    said = {
        "found": {name: _shown(path) for name, path in _parts(found).items()},
        "running": running,
        "written": written,
        "notes": plan.notes,
        "backup": None,
        "dry_run": dry_run,
    }
    errors = effect.errors(findings)
    if not dry_run and (not errors or force):
        private_folder(folders.config)
        kept = backup.change(folders, "migrate", plan.texts)
        said["backup"] = str(kept.folder) if kept is not None else None
    if not as_json:
        _print(said, refused=bool(errors) and not force)
        if dry_run:
            diff.show({path: text for path, text in plan.texts.items() if _text(path) is not None})
    return effect.finish(said, findings, as_json, reload=bool(said["backup"]))


def _parts(found: "Found") -> dict[str, Path | None]:
    return {"main": found.main, "bedrock": found.bedrock, "separate": found.separate}


def _shown(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def _print(said: dict[str, Any], *, refused: bool) -> None:
    for name, path in said["found"].items():
        if path:
            screen.out(f"found {path}{' (its slots)' if name == 'separate' else ''}")
    verb = "would write" if said["dry_run"] or refused else "wrote"
    for path in said["written"]:
        screen.out(f"{verb} {path}")
    for line in said["notes"]:
        screen.note(screen.plain(line[:1].upper() + line[1:]) + ".")
    for line in said["running"]:
        screen.note(screen.plain(line[:1].upper() + line[1:]) + ".")
    if said["backup"]:
        screen.out(f"what was there is in {said['backup']} (`occtl migrate --undo` puts it back)")
        if said["found"]["separate"]:
            screen.note(
                '~/.openClaude is no longer needed; isolation = "separate" in ocd.toml goes on using it.'
            )
    elif not said["written"]:
        screen.out("Everything was brought in already.")
    elif refused:
        screen.note("Nothing was written: an error is left. --force writes it all the same.")


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def _refuse_own(plan: "Plan", force: bool) -> None:
    """A file of ours that somebody worked on is not replaced unasked; ``ocd.toml`` only has keys changed."""
    from ocd.stack.presets import is_shipped

    own = [
        str(path)
        for path, text in plan.texts.items()
        if path.suffix != ".toml"
        and (there := _text(path)) not in (None, text)
        and not is_shipped(there or "")
    ]
    if own and not force:
        raise OcdError(
            f"{' and '.join(own)} {'is' if len(own) == 1 else 'are'} your own work",
            "what is brought in has a file of that name",
            "Repeat with --force: your file is kept, and `occtl migrate --undo` puts it back",
            exit_code=EX_CONFIG,
            code="own-files",
        )


def _by_hand(folders: "Folders") -> list[str]:
    """Who listens on our ports and looks like a litellm that somebody started by hand."""
    from ocd.adapters.ports import holder
    from ocd.settings.findings import ConfigError
    from ocd.settings.load import load
    from ocd.settings.schema import Settings

    try:
        settings = load(folders)
    except ConfigError:
        settings = Settings()
    said = []
    for port in settings.ports().values():
        who = holder(port)
        if who is None:
            continue
        name = who.command or "a program that we may not look at"
        end = f"end it with `kill {who.pid}`" if who.pid and "litellm" in who.command else "it has to end"
        said.append(f"port {port} is held by {name[:120]}: {end}, ocd then takes the port at once")
    return said
