"""The examples of `--help` that change nothing which a test needs, as a person types them, with a real daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.helpers.daemon import Daemon
from tests.helpers.printed import everywhere

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

#: verbs that look, or whose effect the next test does not notice
HARMLESS = re.compile(
    r"occtl (status|logs|events|sessions|top --once|usage|metrics|statusline|models|explain|doctor|start|reload|spill"
    r"|aws (status|policy|login --dry-run)|config (check|show|path)|claude (status|env|sdk|vscode)|completion"
    r"|service (status|show|install --dry-run)|migrate --dry-run|selftest)\b"
)
#: what goes on until Ctrl-C, asks outside, or needs a shell that is not here
NOT_HERE = re.compile(r" -f\b| --watch| --online| --fix|--shell fish|completion (zsh|fish)")
#: 3: something is not as it should be (no AWS profile here), 66: there is nothing to bring in
FINE = {0, 3, 66}
#: 78: the profile of this home has no single sign-on; the preset has nothing that could spill; 69: no service manager
MORE = {"occtl aws login": {78}, "occtl spill on": {78}, "occtl service install": {69}}

EXAMPLES = sorted(
    {
        one.text
        for one in everywhere()
        if one.whole
        and one.where.endswith("--help")
        and HARMLESS.search(one.text)
        and not NOT_HERE.search(one.text)
    }
)


def test_there_are_such_examples() -> None:
    assert len(EXAMPLES) >= 40


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """With the files that are shipped: an example is for whoever has just set up."""
    with Daemon() as fresh:
        for name in ("litellm.yaml", "litellm-bedrock.yaml"):
            (fresh.config / name).unlink()
        command = [sys.executable, "-P", "-m", "ocd.stack.defaults"]
        subprocess.run(command, env=fresh.env, cwd="/", check=True, capture_output=True)
        yield fresh.start()


def test_they_work_as_printed(daemon: Daemon) -> None:
    assert shutil.which("jq"), "the examples use jq: install the package jq"
    bin_folder, here = daemon.prefix / "bin", daemon.prefix / "here"
    for folder in (bin_folder, here, daemon.prefix / "node_exporter"):
        folder.mkdir()
    for name, module in (("ocd", "ocd"), ("occtl", "ocd.ctl"), ("openclaude", "ocd.client")):
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m {module} "$@"\n')
        program.chmod(0o755)
    env = {**daemon.env, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    failed = []
    for text in EXAMPLES:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {text}"],
            env=env,
            cwd=here,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        fine = FINE | next((codes for verb, codes in MORE.items() if text.startswith(verb)), set())
        if done.returncode not in fine or "Traceback" in done.stderr:
            failed.append(f"{text}: exit {done.returncode}\n{done.stdout[-300:]}{done.stderr[-600:]}")
    assert not failed, "\n\n".join(failed)
    daemon.wait_ready()
