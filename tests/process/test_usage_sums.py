"""5,000 mixed requests with crashes and upgrades in between: usage says what the upstreams counted, to the token."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ocd.selftest import answers
from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

ROUNDS, EACH, AT_ONCE = 10, 500, 4
#: model, streamed, path; the plan's leg is asked four times as often as AWS
SHAPES = (
    *(("claude-opus-9-9", stream, "/v1/messages?beta=true") for stream in (True, True, False)),
    ("claude-sonnet-9-9", True, "/v1/messages?beta=true"),
    ("claude-sonnet-9-9", False, "/v1/messages/count_tokens"),
    ("qwen-3-coder", True, "/v1/messages?beta=true"),
)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """What the stand-ins answer with, in their own words: (provider, figure) → sum."""
    own: Counter[tuple[str, str]] = Counter()
    dice, lock = random.Random(15), threading.Lock()

    def counting(provider: str, plan: Callable[..., answers.Plan]) -> Callable[..., answers.Plan]:
        def made(asked: Any, model: str, _chunks: int) -> answers.Plan:
            with lock:
                output = dice.randint(1, 9)
                own.update({(provider, "input_tokens"): answers.TOKENS, (provider, "output_tokens"): output})
            return plan(asked, model, output)

        return made

    monkeypatch.setattr(answers, "plan_anthropic", counting("anthropic", answers.plan_anthropic))
    monkeypatch.setattr(answers, "plan_converse", counting("bedrock", answers.plan_converse))
    return own


def asking(daemon: Daemon, dice: random.Random, asked: Counter[tuple[str, str]]) -> None:
    model, stream, path = dice.choice(SHAPES)
    messages = [{"role": "user", "content": "Say ok"}]
    body = {"model": model, "messages": messages, "max_tokens": 64, "stream": stream}
    if path.endswith("count_tokens"):
        del body["max_tokens"], body["stream"]
    answer = httpx.post(daemon.url() + path, headers=daemon.headers(), json=body, timeout=60, trust_env=False)
    assert answer.status_code in (200, 529), answer.text
    if not path.endswith("count_tokens"):
        provider = "bedrock" if model == "qwen-3-coder" else "anthropic"
        asked.update({(provider, "requests"): 1, (provider, "failed"): int(answer.status_code != 200)})


def troubles(daemon: Daemon) -> Iterator[Callable[[], None]]:
    """One for each round, while its requests run."""

    def killed() -> None:
        former = daemon.supervisor_pid()
        # What it has heard and not noted is in the file, too.
        assert daemon.post("/v1/usage/write")["ok"]
        os.kill(former, signal.SIGKILL)
        eventually(lambda: daemon.supervisor_pid() != former, what="another supervisor")

    def reloaded() -> None:
        daemon.write("litellm.yaml", daemon.read("litellm.yaml") + "# another\n")
        assert daemon.post("/v1/reload")["ok"]

    def upgraded() -> None:
        former = daemon.supervisor_pid()
        assert daemon.post("/v1/reexec")["ok"]
        eventually(lambda: daemon.supervisor_pid() != former, what="the new code")
        daemon.wait_ready()

    def restarted() -> None:
        assert daemon.post("/v1/proxies/main/restart")["ok"]

    while True:
        yield from (killed, reloaded, upgraded, killed, restarted)


def figures(daemon: Daemon) -> Counter[tuple[str, str]]:
    """The same sums as ``occtl usage`` has them."""
    command = [sys.executable, "-m", "ocd.ctl", "usage", "--by", "provider", "--json"]
    said = subprocess.run(command, env=daemon.env, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    names = ("requests", "failed", "input_tokens", "output_tokens")
    return Counter(
        {(row["provider"], name): row[name] for row in json.loads(said.stdout)["rows"] for name in names}
    )


def test_sums_are_the_upstreams_own(
    daemon: Daemon, upstreams: Upstreams, counted: Counter[tuple[str, str]]
) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()

    def some(seed: int) -> None:
        mine: Counter[tuple[str, str]] = Counter()
        dice = random.Random(seed)
        for _ in range(EACH // AT_ONCE):
            asking(daemon, dice, mine)
        with lock:
            asked.update(mine)

    during = troubles(daemon)
    for number in range(ROUNDS):
        upstreams.behave(Behaviour(upstream="anthropic", status=529, times=7))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [pool.submit(some, number * AT_ONCE + which) for which in range(AT_ONCE)]
            next(during)()
            for one in running:
                one.result()
        # An answer that has arrived is told of a moment later; a proxy that is killed then takes nothing with it.
        with contextlib.suppress(AssertionError):
            eventually(lambda: figures(daemon) == asked + counted, 20)
        assert figures(daemon) == asked + counted, f"round {number}"
        os.kill(daemon.proxy("bedrock" if number % 2 else "main")["pid"], signal.SIGKILL)
        daemon.wait_ready()
    assert sum(asked[provider, "requests"] for provider in ("anthropic", "bedrock")) > ROUNDS * EACH * 0.7
    assert figures(daemon) == asked + counted
