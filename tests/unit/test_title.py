"""What ps and top show."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ocd.keeper.folders import package_root

SCRIPT = (
    "import sys; from ocd.ipc import title; %s; title.show(sys.argv[1]); "
    "print(open('/proc/self/comm').read(), end='')"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has prctl")
@pytest.mark.parametrize(
    ("platform", "name", "shown"),
    [
        ("linux", "ocd: bedrock", "ocd: bedrock"),
        ("linux", "ocd: supervisor", "ocd: supervisor"),
        ("linux", "ocd: more than fifteen", "ocd: more than "),
        ("darwin", "ocd: main", "python"),
    ],
)
def test_a_process_has_the_name_that_it_is_given(platform: str, name: str, shown: str) -> None:
    script = SCRIPT % f"sys.platform = {platform!r}"
    done = subprocess.run(
        [sys.executable, "-c", script, name],
        env={"PYTHONPATH": package_root()},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.rstrip("\n").startswith(shown) and len(done.stdout) <= 16
