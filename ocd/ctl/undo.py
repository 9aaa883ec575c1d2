"""``occtl undo``: the changes that occtl made to files, in one list, and the latest of them taken back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ocd.ctl import diff, effect, screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_NOINPUT, EX_OK, OcdError

if TYPE_CHECKING:
    from ocd.settings.backup import Entry
    from ocd.settings.folders import Folders

#: these keep the former bytes in records of their own (``ocd.claude.configure``)
CONFIGURE, STATUS_LINE = "claude configure", "claude statusline"


@click.command(
    short_help="Take back the latest changes to files, or list them.",
    epilog=examples(
        "occtl undo --list            what was changed, the latest first",
        "occtl undo --dry-run         show what would be put back",
        "occtl undo                   take back the latest change",
        "occtl undo 3                 take back the latest three",
    ),
)
@click.argument("count", required=False, default=1, type=click.IntRange(min=1), metavar="[N]")
@click.option("-l", "--list", "listed", is_flag=True, help="List the changes; nothing is taken back.")
@click.option("--dry-run", is_flag=True, help="Show what would be put back, and change nothing.")
@click.option("--force", is_flag=True, help="Also where a file was changed since; what is there is kept.")
@json_option
def undo(count: int, listed: bool, dry_run: bool, force: bool, as_json: bool) -> int:
    """Take back the latest change, or the latest N, of init, migrate, config set, config check --fix, model, spill,
    setup, claude configure and claude statusline: the files are byte for byte what they were.

    Then the configuration is checked and the daemon reloads. Ends with 66 when there is nothing to take back, with 78
    when a file was changed since and --force is not given. `occtl init --undo`, `migrate --undo` and `model undo` take
    back the latest of their own; it is out of this list then.
    """
    from ocd.settings.folders import Folders

    folders = Folders.find()
    found = changes(folders)
    if listed:
        return _list(found, as_json)
    if not found:
        raise OcdError(
            "There is nothing to take back",
            "occtl has changed no file, or all of it was taken back already",
            exit_code=EX_NOINPUT,
            code="nothing-to-undo",
        )
    chosen = found[:count]
    rows: list[dict[str, Any]] = []
    former: dict[Path, str | bytes | None] = {}
    for entry in chosen:
        rows.append(_row(len(rows) + 1, entry))
        if dry_run:
            if not as_json:
                screen.out(f"would take back {entry.backup.verb} of {screen.moment(entry.time)}")
                former |= _former(entry)
            continue
        done = _take_back(folders, entry, force)
        if not as_json:
            for line in done:
                screen.out(f"{line} ({entry.backup.verb} of {screen.moment(entry.time)})")
    if dry_run:
        if as_json:
            screen.out_json({"ok": True, "dry_run": True, "undone": rows})
        else:
            diff.show(former)
        return EX_OK
    of_files = any(entry.backup.files for entry in chosen)
    findings = effect.after_undo() if of_files else []
    return effect.finish({"dry_run": False, "undone": rows}, findings, as_json, reload=of_files)


def changes(folders: "Folders") -> "list[Entry]":
    """What can be taken back, the newest first; Claude Code's settings as long as they hold something of ours."""
    from ocd.claude import configure as writing
    from ocd.settings import backup

    leads, lines = set(), set()
    if folders.state.is_dir():
        for one in writing.known(folders.state):
            if one.address:
                leads.add(str(one.path))
            if one.status_line:
                lines.add(str(one.path))
    found = []
    seen: set[tuple[str, str]] = set()
    for entry in backup.entries(folders):
        verb = entry.backup.verb
        if verb in (CONFIGURE, STATUS_LINE):
            # configured twice is taken back once, and `claude remove` may have done it
            if entry.of not in (leads if verb == CONFIGURE else lines) or (verb, entry.of) in seen:
                continue
            seen.add((verb, entry.of))
        elif not entry.backup.files:
            continue
        found.append(entry)
    return found


def _list(found: "list[Entry]", as_json: bool) -> int:
    rows = [_row(number, entry) for number, entry in enumerate(found, 1)]
    if as_json:
        screen.out_json(rows)
    elif not rows:
        screen.out("Nothing was changed that could be taken back.")
    else:
        cells = [
            [
                str(row["number"]),
                screen.moment(row["time"]),
                row["verb"],
                ", ".join(screen.plain(screen.home(one)) for one in row["files"]),
            ]
            for row in rows
        ]
        screen.show_table((">n", "when", "what", "files"), cells)
    return EX_OK


def _row(number: int, entry: "Entry") -> dict[str, Any]:
    files = [entry.of] if entry.of else [str(path) for path in entry.backup.files]
    return {"number": number, "time": round(entry.time, 3), "verb": entry.backup.verb, "files": files}


def _former(entry: "Entry") -> dict[Path, str | bytes | None]:
    """What would be in the files; of Claude Code's settings only which of them it is about."""
    if entry.of:
        screen.out(f"our settings would go out of {screen.plain(entry.of)}")
    return {
        path: kept.read_bytes() if kept is not None else None
        for path, (kept, _) in entry.backup.files.items()
    }


def _take_back(folders: "Folders", entry: "Entry", force: bool) -> list[str]:
    """One change; returns what was done, a line for each file. Raises OcdError as its parts do."""
    from ocd.claude import configure as writing
    from ocd.settings import backup

    if not entry.of:
        return [f"put back {path}" for path in backup.restore(folders, entry.backup, force=force)]
    path = Path(entry.of)
    if entry.backup.verb == STATUS_LINE:
        writing.status_line_off(path, folders.state)
        said = f"took the status line out of {path}"
    else:
        done = writing.remove(path, folders.state)
        said = (
            f"put back {path}" if done.exact else f"took our own keys out of {path}, which was changed since"
        )
    backup.settle(entry.backup)
    return [said]
