"""A finding of the checks as one line."""

import sys
from typing import TYPE_CHECKING

from ocd.ctl import screen

if TYPE_CHECKING:
    from ocd.settings.findings import Finding

_STYLES = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "note": "\x1b[2m"}


def finding_line(finding: "Finding") -> str:
    """``file:line: severity: key: what; fix``, as editors and compilers' users expect it."""
    place = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    color, end = (_STYLES.get(finding.severity, ""), "\x1b[0m") if screen.colors(sys.stdout) else ("", "")
    key = f"{screen.plain(finding.key)}: " if finding.key else ""
    text = screen.plain(finding.what).rstrip(".")
    if finding.fix:
        text += f"; {screen.plain(finding.fix).rstrip('.')}"
    return f"{screen.plain(place)}: {color}{finding.severity}{end}: {key}{text}"
