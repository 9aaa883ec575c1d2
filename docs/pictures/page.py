"""Makes the pictures of the dashboard: ``python docs/pictures/page.py``. Its figures are made up; needs Chromium."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.pictures.make import Made
from ocd.adapters import usage_file
from ocd.dashboard.server import Dashboard
from ocd.wire.messages import BudgetUse, PlanLimit, PlanWindow
from tests.browser import cdp

HERE = Path(__file__).parent
SIZE = 1280, 800
LIVE = "document.querySelector('#connection')?.textContent === 'live'"
#: view → what is there when it is drawn
VIEWS = {
    "overview": "document.querySelectorAll('#limits .card').length > 2",
    "usage": "document.querySelector('#usage-plot canvas') && document.querySelectorAll('#usage-table tr').length > 3",
}


class Api:
    """A daemon after a morning's work, as far as the page asks."""

    def __init__(self) -> None:
        source, now = Made(), time.time()
        source.over.set()
        status = source.status()
        moved = now - status.since - 9200
        requests = [one.model_copy(update={"time": one.time + moved}) for one in source.requests()]
        windows = [
            PlanWindow(name="5h", used=0.62, reset=now + 2 * 3600, status="allowed"),
            PlanWindow(name="7d", used=0.31, reset=now + 4 * 86400, status="allowed"),
        ]
        limit = PlanLimit(login="1f2e3d", accounts=["default"], windows=windows, binding="5h", seen=now)
        budget = BudgetUse(period="month", spent=11.4, limit=40.0, resets=now + 5 * 86400)
        for proxy in status.proxies.values():
            proxy.since += moved
            for member in proxy.members:
                member.since = now - 3000
        sessions = [one.model_copy(update={"since": one.since + moved}) for one in status.sessions]
        changed = {"since": now - 9200, "sessions": sessions, "limits": [limit], "budgets": [budget]}
        self._status = status.model_copy(update=changed).model_dump_json().encode()
        self._requests = "".join(one.model_dump_json() + "\n" for one in requests).encode()

    async def ask(self, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        if path == "/v1/status":
            return 200, self._status
        return 200, self._requests if path == "/v1/requests" else b""

    async def follow(self, path: str, query: str, take: Callable[[str], None]) -> None:
        await asyncio.Event().wait()


def fill(file: Path) -> None:
    """Two weeks of usage."""
    dice, rows = random.Random(3), []
    for day in range(14):
        for slot, cost in (("opus", 9.0), ("sonnet", 4.0), ("haiku", 0.6)):
            hour = usage_file.hour_of(time.time() - day * 86400)
            provider = "bedrock" if slot == "haiku" else "anthropic"
            share = dice.uniform(0.3, 1.0)
            model = "qwen-3-coder" if slot == "haiku" else f"claude-{slot}-9-9"
            figures = [int(220 * share), int(2 * share), int(2e6 * share), int(3e5 * share)]
            figures += [int(3e7 * share), int(1e6 * share)]
            rows.append(
                [
                    hour,
                    model,
                    slot,
                    provider,
                    "/home/user/code/parser",
                    "main",
                    "1",
                    "",
                    *figures,
                    cost * share,
                    0,
                ]
            )
    usage_file.add(str(file), "made", rows)


async def pictures(program: str) -> None:
    """Both themes of each view, as files beside this one."""
    with tempfile.TemporaryDirectory(prefix="ocd-t-") as folder:
        fill(Path(folder, "usage.db"))
        served = Dashboard(Api(), Path(folder, "usage.db"), Path(folder))
        served.open()
        waiting = asyncio.ensure_future(served.wait())
        await asyncio.to_thread(draw, program, served.link())
        served.close()
        await waiting


def draw(program: str, link: str) -> None:
    with cdp.Browser(program) as browser:
        page = browser.page()
        page.size(*SIZE)
        page.go(link)
        page.until(LIVE)
        for theme in ("light", "dark"):
            page.theme(theme)
            for view, there in VIEWS.items():
                page.run(f"location.hash = '{view}'")
                page.until(there)
                page.picture(HERE / f"dashboard-{view}-{theme}.png")


def main() -> int:
    program: Any = cdp.found()
    if not program:
        print("no Chromium here: set OCD_TEST_BROWSER", file=sys.stderr)
        return 69
    asyncio.run(pictures(program))
    return 0


if __name__ == "__main__":
    sys.exit(main())
