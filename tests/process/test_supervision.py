"""What supervision promises, with the real daemon on the shipped policy: one test for each way it was broken once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import SLOW, Daemon, eventually, free_ports
from tests.helpers.load import Load, steady, stream

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

#: seconds of one kill a second; ``make bench`` does it for a minute
KILLING = 20
STREAM = Behaviour(model="sonnet", chunks=100, delay=0.1)

#: A callback that blocks the event loop of the process that a file names, for as long as it says, once.
STALLING = """
import os, pathlib, time
from litellm.integrations.custom_logger import CustomLogger
class Stalling(CustomLogger):
    done = ""
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        file = pathlib.Path.cwd() / "stall"
        text = file.read_text() if file.exists() else ""
        if text != self.done and text.split()[0] == str(os.getpid()):
            self.done = text
            time.sleep(float(text.split()[1]))
        return data
handler = Stalling()
"""


def settle(daemon: Daemon) -> None:
    """Until both proxies are ready with a spare each and nothing drains any more."""
    daemon.wait_ready()

    def calm() -> bool:
        roles = [m["role"] for p in daemon.status()["proxies"].values() for m in p["members"]]
        return sorted(set(roles)) == ["serving", "spare"]

    eventually(calm, 90)


def test_one_sigkill_a_second_costs_no_request_but_those_it_was_answering(daemon: Daemon) -> None:
    settle(daemon)
    before = daemon.proxy()
    statuses: list[int] = []
    with steady(daemon.port, daemon.headers(), rate=20) as load:
        eventually(lambda: load.sent > 5, 30)
        end = time.monotonic() + KILLING
        killed = 0
        while time.monotonic() < end:
            due = time.monotonic() + 1.0
            pid = eventually(lambda: daemon.proxy()["pid"], 20)
            os.kill(pid, signal.SIGKILL)
            killed += 1
            eventually(lambda pid=pid: daemon.proxy()["pid"] not in (pid, None), 20)
            answer = httpx.get(f"{daemon.url()}/health/liveliness", timeout=30 * SLOW, trust_env=False)
            statuses.append(answer.status_code)
            while time.monotonic() < due:
                time.sleep(0.01)
    # A kill cuts those that this very process was answering; nobody is refused, and nobody is told 503.
    cut = ("RemoteDisconnected", "ConnectionReset", "IncompleteRead", "BrokenPipe")
    refused = [failure for failure in load.failed if not failure.startswith(cut)]
    print(f"{killed} kills, {load.sent} requests, {len(load.failed)} were on the killed process")
    assert killed > KILLING / 2 and not refused and set(statuses) == {200}
    after = daemon.proxy()
    assert after["state"] == "ready" and after["restarts"] - before["restarts"] == killed
    assert "crash-loop" not in daemon.kinds()
    crashed = [e["text"] for e in daemon.events() if e["kind"] == "crashed" and e["proxy"] == "main"]
    assert crashed and all(text.endswith("ended by SIGKILL") for text in crashed), (
        "what happened, not the log"
    )


def test_a_stall_of_six_seconds_cuts_no_stream_and_others_are_served(
    addresses: dict[str, str], upstreams: Upstreams
) -> None:
    settings = "[supervision]\nliveness_interval = 1.0\nliveness_timeout = 1.0\n"
    with Daemon(upstreams=addresses, settings=settings) as daemon:
        text = daemon.read("litellm.yaml")
        daemon.write("stalling.py", STALLING)
        daemon.write(
            "litellm.yaml",
            text.replace("litellm_settings: {", "litellm_settings: {callbacks: [stalling.handler], "),
        )
        daemon.start()
        settle(daemon)
        upstreams.reset()
        upstreams.behave(STREAM)
        load = Load()
        model = "claude-sonnet-9-9"
        arguments = (daemon.port, daemon.headers(), model, load)
        threads = [threading.Thread(target=stream, args=arguments) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(upstreams.seen("anthropic")) >= 3, 30)
        pid = daemon.proxy()["pid"]
        (daemon.config / "stall").write_text(f"{pid} 6")
        stalled = threading.Thread(target=daemon.ask)
        stalled.start()
        eventually(lambda: "hang" in daemon.kinds(), 30)
        # Somebody else answers on the same port meanwhile.
        assert daemon.ask().status_code == 200
        for thread in [*threads, stalled]:
            thread.join(60 * SLOW)
        assert load.streams == 3 and not load.cut, load.cut
        kinds = daemon.kinds()
        assert "recovered" in kinds and "hang-ended" not in kinds
        eventually(lambda: not psutil.pid_exists(pid) or daemon.proxy()["pid"] == pid, 30)
        upstreams.behave()


def test_a_stream_that_flows_outlives_the_drain_limit_when_we_exchange_its_process(
    addresses: dict[str, str], upstreams: Upstreams
) -> None:
    with Daemon(
        upstreams=addresses, settings="[supervision]\ndrain_timeout = 2\nstop_timeout = 1\n"
    ) as daemon:
        daemon.start()
        settle(daemon)
        upstreams.reset()
        upstreams.behave(Behaviour(model="sonnet", chunks=80, delay=0.1))
        load = Load()
        thread = threading.Thread(
            target=stream, args=(daemon.port, daemon.headers(), "claude-sonnet-9-9", load)
        )
        thread.start()
        eventually(lambda: upstreams.seen("anthropic"), 30)
        assert daemon.post("/v1/proxies/main/restart")["ok"]
        thread.join(60 * SLOW)
        assert load.streams == 1 and not load.cut, load.cut
        assert "drain-timeout" not in daemon.kinds()
        upstreams.behave()


def test_many_exchanges_in_a_row_are_no_hang(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses, settings="[supervision]\nliveness_interval = 0.3\n") as daemon:
        daemon.start()
        for _ in range(15):
            assert daemon.post("/v1/proxies/main/restart")["ok"]
        settle(daemon)
        kinds = daemon.kinds()
        assert "hang" not in kinds and "hang-ended" not in kinds
        assert daemon.proxy()["restarts"] == 0


def test_a_port_that_changes_while_the_proxies_sleep_is_there_and_wakes_them(
    addresses: dict[str, str],
) -> None:
    with Daemon(upstreams=addresses, settings="[supervision]\nidle_minutes = 0.05\n") as daemon:
        daemon.start(wait=False)
        eventually(lambda: all(p["state"] == "idle" for p in daemon.status()["proxies"].values()), 60)
        old, daemon.port = daemon.port, free_ports()
        daemon.write("ocd.toml", daemon.read("ocd.toml").replace(f"port = {old}", f"port = {daemon.port}"))
        eventually(lambda: daemon.proxy()["port"] == daemon.port and daemon.proxy()["state"] == "idle", 30)
        assert httpx.get(f"{daemon.url()}/health/liveliness", timeout=90, trust_env=False).status_code == 200
        eventually(lambda: daemon.ask("qwen-3-coder").status_code == 200, 60)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{old}/health/liveliness", trust_env=False)


@pytest.mark.parametrize("name", ["main", "bedrock"])
def test_what_the_configuration_switched_off_comes_back_by_the_configuration(
    name: str, daemon: Daemon
) -> None:
    settle(daemon)
    good = daemon.read("ocd.toml")
    daemon.write("ocd.toml", good + f"\n[proxies.{name}]\nenabled = false\n")
    try:
        eventually(lambda: daemon.proxy(name)["state"] == "disabled", 60)
        outcome = daemon.post(f"/v1/proxies/{name}/start")
        assert outcome["error"]["code"] == "disabled" and "ocd.toml" in outcome["error"]["next"]
        reply = daemon.post(
            "/v1/launch", {"pid": os.getpid(), "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
        )
        if name == "main":
            assert reply["error"]["code"] == "disabled" and "enabled = false" in reply["error"]["why"]
        else:
            assert reply["ready"], reply
        if name == "main":
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{daemon.url(name)}/health/liveliness", trust_env=False)
        else:
            # Main's processes still know it: nobody else may listen there and be sent their key.
            answer = httpx.get(f"{daemon.url(name)}/health/liveliness", trust_env=False)
            assert answer.status_code == 503 and "bedrock" in answer.text
    finally:
        daemon.write("ocd.toml", good)
    eventually(lambda: daemon.proxy(name)["state"] == "ready", 60)
    assert daemon.ask("qwen-3-coder").status_code == 200


def test_who_waits_for_what_cannot_come_is_told_at_once(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.write("litellm.yaml", "model_list: [\n")
        daemon.start(wait=False)
        eventually(lambda: daemon.proxy()["state"] == "failed", 60)
        eventually(lambda: daemon.proxy("bedrock")["state"] == "ready", 60)
        began = time.monotonic()
        outcome = daemon.post("/v1/proxies/main/start")
        assert not outcome["ok"] and "litellm.yaml" in outcome["reason"]
        reloaded = daemon.post("/v1/reload")
        assert "keeps serving" not in json.dumps(reloaded)
        assert time.monotonic() - began < 30
        answer = daemon.ask()
        assert answer.status_code == 503 and "litellm.yaml" in answer.json()["error"]["message"]


def test_a_mistake_in_ocd_toml_at_a_start_keeps_the_last_good_settings(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses, settings='[slots]\nopus = "claude-sonnet-9-9"\n') as daemon:
        daemon.start()
        daemon.stop()
        good = daemon.read("ocd.toml")
        daemon.write("ocd.toml", good + "\n[metrics]\nport = 'x'\n")
        daemon.start()
        assert daemon.proxy()["port"] == daemon.port
        assert daemon.ask().status_code == 200
        problems = daemon.status()["problems"]
        assert any("ocd.toml" in problem["what"] for problem in problems), problems
        assert daemon.get("/v1/config")["settings"]["slots"]["opus"] == "claude-sonnet-9-9"
        daemon.write("ocd.toml", good)
        eventually(lambda: not any("ocd.toml" in p["what"] for p in daemon.status()["problems"]), 30)


def test_a_refused_change_of_settings_does_not_reach_what_serves_in_its_place(daemon: Daemon) -> None:
    """The revision that comes back has the arguments that it has served with, not those that were refused."""
    settle(daemon)
    good = daemon.read("ocd.toml")
    before = daemon.proxy()
    daemon.write("ocd.toml", good.replace("[litellm]\n", '[litellm]\nargs = ["--no-such-option"]\n'))
    try:
        eventually(lambda: daemon.proxy()["rejected"], 60)
        os.kill(daemon.proxy()["pid"], signal.SIGKILL)
        settle(daemon)
        os.kill(daemon.supervisor_pid(), signal.SIGKILL)
        settle(daemon)
        os.kill(daemon.proxy()["pid"], signal.SIGKILL)
        settle(daemon)
        assert daemon.proxy()["revision"] == before["revision"]
    finally:
        daemon.write("ocd.toml", good)
    eventually(lambda: not daemon.proxy()["rejected"], 60)
    settle(daemon)


def test_a_folder_that_begins_to_exist_is_noticed(daemon: Daemon) -> None:
    """As after the first ``aws configure``."""
    settle(daemon)
    before = daemon.proxy("bedrock")["revision"]
    folder = daemon.prefix / ".aws"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text("[profile openclaude]\nregion = us-west-2\n")
    eventually(lambda: daemon.proxy("bedrock")["revision"] != before, 60)
    settle(daemon)


def test_settings_of_an_earlier_version_are_accepted(addresses: dict[str, str]) -> None:
    old = "[supervision]\nrestart_intensity = 3\nbackoff_first = 0.1\nsustained_ready = 1.0\n"
    with Daemon(upstreams=addresses, settings=old) as daemon:
        daemon.start()
        assert not any("ocd.toml" in problem["what"] for problem in daemon.status()["problems"])
        assert daemon.ask().status_code == 200
        check = subprocess.run(
            [sys.executable, "-m", "ocd.stack.check"],
            env=daemon.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "supervision.restart_intensity" in check.stdout and "ignored" in check.stdout


def test_a_supervisor_out_of_descriptors_blames_nobody(daemon: Daemon) -> None:
    settle(daemon)
    pids = {name: daemon.proxy(name)["pid"] for name in ("main", "bedrock")}
    supervisor = psutil.Process(daemon.supervisor_pid())
    if not hasattr(supervisor, "rlimit"):
        pytest.skip("no prlimit here")
    before = supervisor.rlimit(psutil.RLIMIT_NOFILE)

    def starved() -> bool:
        """No new descriptor below the limit, whatever was closed since the last look; has it said so?"""
        used = {int(name) for name in os.listdir(f"/proc/{supervisor.pid}/fd")}
        lowest = next(number for number in range(len(used) + 1) if number not in used)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (lowest, before[1]))
        return '"probe-failed"' in daemon.tail("events", 1000)

    try:
        eventually(starved, 60, "it says that it cannot ask")
        for path in range(20):
            # What it does meanwhile may fail; the proxies do not notice.
            assert httpx.get(f"{daemon.url()}/health/liveliness", trust_env=False).status_code == 200, path
    finally:
        supervisor.rlimit(psutil.RLIMIT_NOFILE, before)
    settle(daemon)
    assert {name: daemon.proxy(name)["pid"] for name in pids} == pids
