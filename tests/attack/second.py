"""Another user of this machine: Python code that runs as somebody who is not us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

#: "nobody", by number: it needs no entry anywhere
NOBODY = 65534

needs_second_user = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become another user; run `make attack` as root in a container"
)


def python() -> str:
    """An interpreter that everybody may run; it needs the standard library alone."""
    return shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or os.path.realpath(sys.executable)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code as the second user; ``given`` in it is the list of arguments (JSON), what it prints is JSON."""
    whole = f"import json, sys\ngiven = json.loads(sys.argv[1])\n{code}"
    return subprocess.Popen(
        [python(), "-I", "-c", whole, json.dumps(arguments)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: object, timeout: float = 120) -> Any:
    """What the code printed as its last line."""
    process = start(code, *arguments)
    try:
        out, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])
