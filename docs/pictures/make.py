"""Makes the pictures of the README: ``python docs/pictures/make.py``. Their figures are made up, always the same."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ocd import __version__
from ocd.ctl.control_room.view import ControlRoom
from ocd.wire.messages import Exchange, Member, Outcome, ProxyStatus, Session, Status, Trouble

NOW = 1_800_000_000.0
HERE = Path(__file__).parent


class Made:
    """A morning's work."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def status(self) -> Status:
        main = ProxyStatus(
            state="ready",
            pid=48213,
            port=4000,
            generation=7,
            since=NOW - 9000,
            memory=331_000_000,
            spare="armed",
            members=[
                Member(generation=7, pid=48213, role="serving", since=NOW, memory=331_000_000, in_flight=2)
            ],
        )
        bedrock = ProxyStatus(
            state="ready",
            pid=48219,
            port=4001,
            generation=4,
            since=NOW - 9000,
            memory=312_000_000,
            restarts=1,
            spare="armed",
            troubles=[
                Trouble(
                    kind="aws-expired",
                    slot="haiku",
                    what="the AWS login has expired",
                    next="Run `occtl aws login`",
                    since=NOW - 60,
                    last=NOW,
                    count=2,
                )
            ],
        )
        home = os.path.expanduser("~")
        return Status(
            version=__version__,
            pid=2,
            keeper_pid=1,
            since=NOW - 9200,
            litellm="1.106.2",
            proxies={"main": main, "bedrock": bedrock},
            sessions=[
                Session(
                    pid=50111, cwd=f"{home}/code/parser", since=NOW - 3500, requests=214, last_slot="opus"
                ),
                Session(pid=51877, cwd=f"{home}/code/site", since=NOW - 640, requests=38, last_slot="sonnet"),
            ],
        )

    def requests(self) -> Iterator[Exchange]:
        shapes = (
            ("opus", "claude-opus-9-9", "api.anthropic.com", 0.83, 14.2, 61_400, 812, 200, ""),
            (
                "haiku",
                "qwen-3-coder",
                "bedrock-runtime.eu-west-1.amazonaws.com",
                0.31,
                1.9,
                2_100,
                64,
                200,
                "",
            ),
            ("sonnet", "claude-sonnet-9-9", "api.anthropic.com", 0.64, 8.8, 23_900, 401, 200, ""),
            ("opus", "claude-opus-9-9", "api.anthropic.com", None, 0.4, 0, 0, 529, "overloaded"),
            ("opus", "claude-opus-9-9", "api.anthropic.com", 1.02, 31.7, 88_000, 2_310, 200, ""),
        )
        for number in range(14):
            slot, model, upstream, first, seconds, put, out, status, trouble = shapes[number % len(shapes)]
            yield Exchange(
                time=NOW - 140 + number * 10,
                proxy="main",
                generation=7,
                path="/v1/messages",
                model=model,
                slot=slot,
                session=50111,
                upstream=upstream,
                first=first,
                seconds=seconds,
                input_tokens=put,
                output_tokens=out,
                status=status,
                trouble=trouble,
                stream=True,
            )
        self.over.wait()

    def log(self, name: str) -> Iterator[str]:
        yield from ()

    def events(self) -> Iterator[str]:
        yield from ()

    def reload(self) -> Outcome:
        return Outcome(ok=True)

    def restart(self, name: str) -> Outcome:
        return Outcome(ok=True)


async def top() -> str:
    """The control room as an SVG."""
    source = Made()
    app = ControlRoom(source, lambda: NOW)
    async with app.run_test(size=(100, 24)) as pilot:
        for _ in range(500):
            await pilot.pause(0.01)
            if len(app.room.requests) == 14 and app.room.status is not None:
                break
        await pilot.pause()
        source.over.set()
        return app.export_screenshot(title="occtl top")


def main() -> int:
    os.environ["TZ"] = "UTC"
    time.tzset()
    # No fonts from somebody's server: whoever looks has one of fixed width.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", asyncio.run(top()), flags=re.DOTALL)
    (HERE / "top.svg").write_text(re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
