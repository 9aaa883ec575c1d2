"""Every promise, measured beside its alternative.

``python -m bench [NAME…] [--quick] [--json] [--write-docs]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from bench.datapath import datapath
from bench.page import page
from bench.rows import ALL as OTHERS
from bench.rows import Row, Run
from bench.setup import setup
from bench.team import team
from tests.helpers.daemon import ROOT, litellm_python

ALL = {**OTHERS, "dashboard": page, "datapath": datapath, "setup": setup, "team": team}
HEAD = """# Benchmarks

Every row is measured in one run on real LiteLLM, beside the alternative it is compared with. Repeat it with
`make bench` (about half an hour; `python -m bench --quick` takes a few minutes, `--only NAME` one group). Absolute
times move with the machine; ratios hold. The stand-in upstreams run on the same cores.

"""


def machine() -> str:
    version = subprocess.run(
        [litellm_python(), "-c", "from importlib.metadata import version; print(version('litellm'))"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {memory:.0f} GB, "
        f"Python {platform.python_version()}, LiteLLM {version}, {time.strftime('%Y-%m-%d')}"
    )


def markdown(rows: list[Row]) -> str:
    lines = ["| what | measured | must reach | | beside it |", "|---|---|---|---|---|"]
    for row in rows:
        mark = {True: "yes", False: "**no**", None: ""}[row.ok]
        cells = (row.what, row.figure, row.target, mark, row.beside)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *sorted(ALL)], metavar="NAME", help="groups; default: all"
    )
    parser.add_argument("--only", action="append", choices=sorted(ALL), help="one group (repeatable)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write-docs", action="store_true", help="keep the table in docs/benchmarks.md")
    options = parser.parse_args()
    # Ended from outside, or begun where Ctrl-C is ignored (in the background of a script): nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    upstreams = subprocess.Popen(
        [sys.executable, "-m", "ocd.selftest.upstreams", "--json"], stdout=subprocess.PIPE, cwd=ROOT
    )
    rows: list[Row] = []
    try:
        assert upstreams.stdout is not None
        where = json.loads(upstreams.stdout.readline())
        with tempfile.TemporaryDirectory(prefix="ocd-bench-tools-") as tools:
            run = Run(
                {"anthropic": where["anthropic"], "bedrock": where["bedrock"]},
                where["control"],
                Path(tools),
                options.quick,
            )
            for name in options.names or options.only or ALL:
                print(f"# {name}", file=sys.stderr, flush=True)
                try:
                    for row in ALL[name](run):
                        rows.append(row)
                        mark = {True: "ok  ", False: "MISS", None: "    "}[row.ok]
                        print(
                            f"{mark} {row.what}: {row.figure}  [{row.target}]  {row.beside}",
                            file=sys.stderr,
                            flush=True,
                        )
                except (AssertionError, OSError, RuntimeError) as error:
                    rows.append(Row(name, f"could not be measured: {str(error)[:200]}", "", False))
                    print(f"MISS {name}: {error}", file=sys.stderr, flush=True)
    finally:
        upstreams.terminate()
        upstreams.wait(10)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(f"\n{machine()}\n\n{markdown(rows)}")
    if options.write_docs:
        (ROOT / "docs" / "benchmarks.md").write_text(f"{HEAD}{machine()}\n\n{markdown(rows)}")
    return 1 if any(row.ok is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
