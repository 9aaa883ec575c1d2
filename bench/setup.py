"""The set-up from nothing, as a new user runs it: time, disk, and what a look costs afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, Run, ms
from tests.helpers.checkout import copy_sources
from tests.helpers.daemon import free_ports


def disk(folder: Path) -> int:
    """Bytes on the disk, as du(1) counts: a file with two names once."""
    seen, found = set(), 0
    for path in folder.rglob("*"):
        try:
            about = path.lstat()
        except FileNotFoundError:
            # A file that was being written, under its temporary name.
            continue
        if (about.st_dev, about.st_ino) not in seen:
            seen.add((about.st_dev, about.st_ino))
            found += about.st_blocks * 512
    return found


def setup(run: Run) -> Iterator[Row]:
    """An empty HOME each time; the index of packages is as near as it is here."""
    seconds, used, looks, size = [], [], [], 0
    with tempfile.TemporaryDirectory(prefix="ocd-t-", dir="/tmp") as folder:
        checkout = copy_sources(Path(folder) / "checkout")
        for number in range(run.times(5, 1)):
            home = Path(folder) / f"home-{number}"
            home.mkdir()
            prefix = home / "ocd"
            env = {"PATH": os.environ["PATH"], "HOME": str(home), "OCD_PORT": str(free_ports())}
            env |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_CERT", "REQUESTS_CA"))}
            env["PIP_CACHE_DIR"] = os.environ.get("PIP_CACHE_DIR", os.path.expanduser("~/.cache/pip"))
            install = [sys.executable, str(checkout / "install.py"), "--prefix", str(prefix)]
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            done = subprocess.run(install, env=env, capture_output=True, text=True, cwd="/")
            seconds.append(time.monotonic() - began)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            try:
                assert done.returncode == 0, done.stdout + done.stderr
                # The rest of LiteLLM's bytecode is compiled beside the daemon's start.
                while (now := disk(home)) != size:
                    size = now
                    time.sleep(2)
                for _ in range(10):
                    began = time.monotonic()
                    subprocess.run([str(prefix / "bin" / "occtl"), "status"], env=env, capture_output=True)
                    looks.append(time.monotonic() - began)
            finally:
                subprocess.run([*install, "--uninstall", "--purge"], env=env, capture_output=True, cwd="/")
                shutil.rmtree(home)
    took = statistics.median(seconds)
    yield Row(
        "set-up from nothing to a daemon that serves, `python3 install.py`",
        f"{took:.1f} s",
        "at most 15 s",
        took <= 15,
        f"{statistics.median(used):.1f} s of CPU; {', '.join(f'{one:.1f}' for one in seconds)} s",
    )
    yield Row("disk after it, everything", f"{size / 1e6:.0f} MB", "at most 450 MB", size <= 450e6)
    yield Row(
        "`occtl status` of that installation",
        ms(statistics.median(looks)),
        "at most 60 ms",
        statistics.median(looks) <= 0.06,
    )
