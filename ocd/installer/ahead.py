"""LiteLLM's bytecode, compiled beside its first start: compiling is a third of that start, and it has one core only."""

import os
import subprocess
from pathlib import Path

from ocd import provision
from ocd.installer.places import Places

#: What LiteLLM's import comes to late, so that it finds it compiled; measured on the pinned version, the largest first.
#: A name that another version lacks is passed over.
LATE = (
    "litellm/proxy",
    "litellm/integrations",
    "redis",
    "mcp",
    "numpy/_core",
    "litellm/responses",
    "numpy/lib",
    "oauthlib",
    "mcp_types",
    "fastapi",
    "expression",
    "litellm/router_strategy",
    "httpx2",
    "numpy/ma",
    "litellm/llms/bedrock",
)
#: more than this many at once only wait for the disk
_MOST = 4
_CODE = """import compileall, os, sys
for name in sys.argv[2:]:
    compileall.compile_dir(os.path.join(sys.argv[1], name), quiet=2)
"""


class Ahead:
    def __init__(self, places: Places) -> None:
        self.places = places
        self._running: list[subprocess.Popen[bytes]] = []

    def begin(self, env: Path) -> None:
        """Start compiling what is in an environment that nothing has been imported from yet; returns at once."""
        for site in provision.site_folders(env):
            if (site / LATE[0] / "__pycache__").exists():
                continue
            count = min(_MOST, max(1, (os.cpu_count() or 1) - 1))
            for share in (LATE[nth::count] for nth in range(count)):
                command = [str(env / "bin" / "python"), "-I", "-c", _CODE, str(site), *share]
                self._running.append(
                    subprocess.Popen(
                        command,
                        env=self.places.environment(),
                        cwd=self.places.state,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                )

    def end(self) -> None:
        """What is not compiled by now has been imported, or will not be."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()
