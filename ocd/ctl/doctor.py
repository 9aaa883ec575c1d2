"""``occtl doctor``: everything that can be wrong, in one report, worst first."""

import os
import sys
from typing import TYPE_CHECKING

import click

from ocd.ctl import screen
from ocd.ctl.options import examples, json_option
from ocd.errors import EX_OK

if TYPE_CHECKING:
    from ocd.doctor.report import Row

#: as `occtl status`: looked at, and not fit
EX_NOT_FIT = 3
#: seconds for each check; they run side by side
LIMIT = 30.0
_MARKS = {
    "error": ("✗", "\x1b[1;31m"),
    "warning": ("!", "\x1b[33m"),
    "note": ("·", ""),
    "ok": ("✓", "\x1b[32m"),
}


@click.command(
    short_help="Look at everything that can be wrong, worst first.",
    epilog=examples("occtl doctor", "occtl doctor --online", "occtl doctor --json | jq .fit"),
)
@click.option(
    "--online", is_flag=True, help="Also send one smallest real request per slot; it costs a little."
)
@click.option("-y", "--yes", is_flag=True, help="With --online: do not ask first.")
@json_option
def doctor(online: bool, yes: bool, as_json: bool) -> int:
    """Look at everything: installation, configuration, proxies, AWS, Claude Code. Worst first, each with its cure.

    Contacts only this machine unless --online is given. Ends with 0 when ocd is fit to run (warnings included),
    with 3 when something has to be mended first.
    """
    from ocd.doctor import report
    from ocd.doctor.gather import all_checks
    from ocd.settings.folders import Folders

    with screen.progress("Looking…"):
        rows = report.run(all_checks(Folders.find()), LIMIT)
    if online:
        rows = report.worst_first([*rows, *_online(yes)])
    fit = report.fit(rows)
    if as_json:
        screen.out_json({"fit": fit, "rows": [row.as_dict() for row in rows]})
    else:
        for row in rows:
            _show(row)
        counts = [
            f"{count} {level}{'' if count == 1 else 's'}"
            for level in ("error", "warning")
            if (count := sum(row.level == level for row in rows))
        ]
        screen.out(f"{'Fit to run' if fit else 'Not fit to run'}: {', '.join(counts) or 'nothing is wrong'}.")
    code = EX_OK if fit else EX_NOT_FIT
    if any(row.code == "check-slow" for row in rows):
        # a thread that hangs in the file system would hold up the end of the process
        sys.stdout.flush()
        os._exit(code)
    return code


def _show(row: "Row") -> None:
    mark, color = _MARKS[row.level]
    from_color, end = (color, "\x1b[0m") if color and screen.colors(sys.stdout) else ("", "")
    lines = screen.wrapped(f"{mark} {row.level}: {screen.plain(row.what)}", screen.width())
    screen.out(f"{from_color}{mark} {row.level}{end}{lines[0].removeprefix(f'{mark} {row.level}')}")
    for line in lines[1:]:
        screen.out(f"  {line}")
    if row.why:
        screen.sentence(f"    why: {screen.plain(row.why)}")
    if row.fix and row.level != "ok":
        screen.out(f"    fix: {screen.plain(row.fix)}")


def _online(yes: bool) -> "list[Row]":
    from ocd.doctor import online, published
    from ocd.doctor.report import Row, of_error
    from ocd.errors import OcdError

    try:
        plan = online.plan()
    except OcdError as error:
        return [of_error("online", error)]
    screen.note(online.costs(plan))
    if not yes:
        if not sys.stdin.isatty():
            return [
                Row(
                    "warning",
                    "online",
                    "not-asked",
                    "No request was sent",
                    "nobody could be asked",
                    "`occtl doctor --online --yes`",
                )
            ]
        if not click.confirm("Send them?", default=False, err=True):
            return [Row("note", "online", "not-sent", "No request was sent", "you said no", "")]
    with screen.progress("Asking each slot…"):
        rows = online.send(plan)
    with screen.progress("Asking for advisories…"):
        return [*rows, *published.rows()]
