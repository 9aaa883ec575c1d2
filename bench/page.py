"""What the dashboard costs: a week of heavy use until it is shown, and a page that stays open."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.rows import CALM, Row, Run, ms
from ocd.adapters import usage_file
from tests.browser import cdp
from tests.helpers.daemon import Daemon, eventually

#: a week of heavy use, in requests
REQUESTS = 200_000


def fill(file: Path) -> int:
    """A week of ``REQUESTS`` requests; returns in how many rows they stand."""
    dice = random.Random(15)
    sums: dict[tuple[Any, ...], list[float]] = {}
    begin = usage_file.hour_of(time.time() - 6.5 * 86400)
    for _ in range(REQUESTS):
        hour = usage_file.hour_of(begin + dice.randrange(int(6.5 * 24)) * 3600)
        slot = dice.choice(("opus", "sonnet", "haiku", "haiku"))
        session = dice.randrange(8)
        key = (
            *(hour, f"claude-{slot}-9-9", slot, "bedrock" if slot == "haiku" else "anthropic"),
            *(f"/home/user/project-{session % 5}", "main", f"session-{hour}-{session}"),
            f"agent-{dice.randrange(4)}" if dice.random() < 0.4 else "",
        )
        figures = sums.setdefault(key, [0.0] * len(usage_file.FIGURES))
        for place, value in enumerate((1, 0, 9000, 700, 60_000, 3000, 0.05, 0)):
            figures[place] += value
    usage_file.add(str(file), "bench", [[*key, *figures] for key, figures in sums.items()])
    return len(sums)


@contextlib.contextmanager
def dashboard(d: Daemon) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "ocd.ctl", "dashboard", "--json", "--no-browser"]
    with subprocess.Popen(command, env=d.env, cwd="/", stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            yield json.loads(serving.stdout.readline())["url"], psutil.Process(serving.pid)
        finally:
            serving.send_signal(signal.SIGINT)
            serving.wait(20)


def used(processes: list[psutil.Process]) -> float:
    """CPU seconds so far, ended children of theirs included."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def page(run: Run) -> Iterator[Row]:
    """Needs Chromium; without one nothing is measured."""
    program = cdp.found()
    if not program:
        yield Row("dashboard", "not measured: no Chromium here")
        return
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        (d.prefix / "state").mkdir(mode=0o700, exist_ok=True)
        rows = fill(d.prefix / "state" / "usage.db")
        d.start()
        supervisor = psutil.Process(d.supervisor_pid())
        with cdp.Browser(program) as browser:
            live = "document.querySelector('#connection')?.textContent === 'live'"
            shown = "document.querySelectorAll('#usage-table tbody tr').length > 2"
            first, usage = [], []
            for _ in range(run.times(9, 3)):
                with dashboard(d) as (url, _process):
                    opened = browser.page()
                    began = time.monotonic()
                    opened.go(url)
                    opened.until(live)
                    first.append(time.monotonic() - began)
                    began = time.monotonic()
                    opened.run("location.hash = 'usage'")
                    opened.until(shown)
                    usage.append(time.monotonic() - began)
                    opened.send("Page.close")
            yield Row(
                f"dashboard: open it, then its usage of {REQUESTS:,} requests in a week",
                f"{ms(statistics.median(first))}, {ms(statistics.median(usage))}",
                "at most 300 ms each",
                max(statistics.median(first), statistics.median(usage)) <= 0.3,
                f"{rows:,} rows in the file; the browser draws on the same cores",
            )
            seconds = run.times(60, 15)
            alone = _cost([supervisor], d, seconds)
            with dashboard(d) as (url, process):
                opened = browser.page()
                opened.go(url)
                opened.until(live)
                looked_at = _cost([supervisor, process], d, seconds)
                memory = process.memory_full_info().uss
                daemon = supervisor.memory_full_info().uss
            yield Row(
                "dashboard: a page that is open, 2 requests a second meanwhile",
                f"{looked_at:.1%} of a core, {memory / 2**20:.0f} MiB",
                "at most 2 % more than without",
                looked_at - alone <= 0.02,
                f"without: {alone:.1%}; it is a process of its own, which ends with the page (the daemon: "
                f"{daemon / 2**20:.0f} MiB)",
            )
        eventually(lambda: not process.is_running(), what="it ended")


def _cost(processes: list[psutil.Process], d: Daemon, seconds: int) -> float:
    """The share of a core that they take while two requests a second are answered."""
    began, before = time.monotonic(), used(processes)
    while time.monotonic() - began < seconds:
        assert d.ask().status_code == 200
        time.sleep(0.5)
    return (used(processes) - before) / (time.monotonic() - began)
