"""LiteLLM's bytecode, compiled beside its first start: compiling is a third of that start, and it has one core only."""

import os
import subprocess
from pathlib import Path

from ocd import provision
from ocd.installer.places import Places

#: What LiteLLM's import comes to, in its order, measured on the pinned version. What it has imported before this gets
#: there is left out (pydantic, openai, aiohttp): compiling alone is faster than importing, so this stays ahead of it. A
#: name that another version lacks is passed over.
AHEAD = (
    *(
        "litellm/litellm_core_utils",
        "litellm/types",
        "litellm/utils.py",
        "litellm/caching",
        "litellm/main.py",
    ),
    *("litellm/llms/openai", "litellm/llms/anthropic", "litellm/llms/bedrock", "litellm/llms/vertex_ai"),
    *(
        "litellm/router.py",
        "litellm/router_utils",
        "litellm/router_strategy",
        "litellm/responses",
        "litellm/proxy",
    ),
    *(
        "redis",
        "mcp_types",
        "mcp",
        "fastapi",
        "starlette",
        "httpx2",
        "oauthlib",
        "expression",
        "cryptography",
    ),
)
#: what is in there and not imported: it would lie on the disk for nothing
NEVER = "/litellm/(proxy/(guardrails/guardrail_hooks|_experimental/mcp_server|client|roi_calculator))/"
#: more than this many at once only wait for the disk
_MOST = 4
_CODE = """import compileall, os, re, sys
for name in sys.argv[3:]:
    path = os.path.join(sys.argv[1], name)
    one = compileall.compile_file if name.endswith(".py") else compileall.compile_dir
    one(path, quiet=2, rx=re.compile(sys.argv[2]))
"""


class Ahead:
    def __init__(self, places: Places) -> None:
        self.places = places
        self._running: list[subprocess.Popen[bytes]] = []

    def begin(self, env: Path) -> None:
        """Start compiling what is in an environment that nothing has been imported from yet; returns at once."""
        for site in provision.site_folders(env):
            if (site / "litellm" / "types" / "__pycache__").exists():
                continue
            count = min(_MOST, max(1, (os.cpu_count() or 1) - 1))
            for share in (AHEAD[nth::count] for nth in range(count)):
                command = [str(env / "bin" / "python"), "-I", "-c", _CODE, str(site), NEVER, *share]
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
