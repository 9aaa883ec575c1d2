"""axe-core, the accessibility checks that browsers' own tools use: by npm, below ``.axe/`` in the checkout."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.helpers.daemon import ROOT

PACKAGE = "axe-core@4.10.3"
FOLDER = ROOT / ".axe"
#: what it finds wrong, as a list of texts; awaited
_RUN = (
    "axe.run(document, {resultTypes: ['violations']})"
    ".then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html.slice(0, 120)))"
)


@functools.cache
def script() -> str:
    """An expression that checks the page; empty where axe-core cannot be had."""
    file = Path(os.environ.get("OCD_TEST_AXE") or FOLDER / "node_modules" / "axe-core" / "axe.min.js")
    npm = shutil.which("npm")
    if not file.exists() and npm:
        FOLDER.mkdir(exist_ok=True)
        command = [
            npm,
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(FOLDER),
            PACKAGE,
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    if not file.exists():
        return ""
    # Run once in each page: it is half a megabyte, and an expression of its own.
    return f"(window.axe || (() => {{ {file.read_text()}; return true; }})()) && {_RUN}"
