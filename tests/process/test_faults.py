"""Never down: every process of ours is killed, stopped or starved under load; requests and streams go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import Daemon, eventually, litellm_python
from tests.helpers.load import steady

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

STREAM = Behaviour(model="sonnet", chunks=40, delay=0.1)


def settle(daemon: Daemon) -> None:
    """Until both proxies are ready with a spare each and nothing drains any more."""
    daemon.wait_ready()

    def calm() -> bool:
        roles = [m["role"] for p in daemon.status()["proxies"].values() for m in p["members"]]
        return sorted(set(roles)) == ["serving", "spare"]

    eventually(calm, 90)


@pytest.mark.parametrize("victim", ["supervisor", "forkserver", "spare"])
def test_no_request_notices_the_death_of(victim: str, daemon: Daemon, upstreams: Upstreams) -> None:
    settle(daemon)
    upstreams.behave(STREAM)
    serving = daemon.proxy()["pid"]
    with steady(daemon.port, daemon.headers(), streams=3) as load:
        eventually(lambda: load.sent > 10, 30)
        if victim == "supervisor":
            pid = daemon.supervisor_pid()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: daemon.supervisor_pid() != pid, 30)
        elif victim == "forkserver":
            pid = daemon.host_pid()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: daemon.host_pid() != pid, 30)
        else:
            pid = daemon.spare_pid()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: daemon.spare_pid() != pid, 30)
        sent = load.sent
        eventually(lambda: load.sent > sent + 20, 30)
    assert not load.failed and not load.cut, (load.failed[:3], load.cut[:3])
    assert load.streams == 3
    assert daemon.proxy()["pid"] == serving


def test_a_new_supervisor_knows_the_history(daemon: Daemon) -> None:
    settle(daemon)
    served = daemon.proxy()["pid"]
    os.kill(served, signal.SIGKILL)
    eventually(lambda: daemon.proxy()["pid"] not in (served, None), 30)
    settle(daemon)
    before = daemon.status()
    os.kill(before["pid"], signal.SIGKILL)
    after = eventually(lambda: (s := daemon.status())["pid"] != before["pid"] and s, 30)
    for name in ("main", "bedrock"):
        for key in ("pid", "generation", "restarts", "revision", "cause", "port"):
            assert after["proxies"][name][key] == before["proxies"][name][key], key
    assert abs(after["since"] - before["since"]) < 1
    assert "supervisor-restarted" in daemon.kinds()


def test_a_supervisor_killed_in_the_middle_of_a_reload_finishes_it(daemon: Daemon) -> None:
    settle(daemon)
    good = daemon.read("litellm.yaml")
    before = daemon.proxy()
    daemon.write("litellm.yaml", good + "\n# half-way\n")
    eventually(lambda: len(daemon.proxy()["members"]) > 2, 30)
    os.kill(daemon.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: (p := daemon.proxy())["state"] == "ready" and p["revision"] != before["revision"], 60)
    daemon.write("litellm.yaml", good)
    eventually(lambda: daemon.proxy()["revision"] == before["revision"], 60)
    settle(daemon)


def test_the_death_of_a_serving_proxy_refuses_no_connection(daemon: Daemon) -> None:
    settle(daemon)
    for _ in range(5):
        pid = daemon.proxy()["pid"]
        refused, gap = [], 0.0
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        # The very next connections: none may be refused; those that the dead had accepted may be reset.
        for _attempt in range(200):
            try:
                answer = httpx.get(f"{daemon.url()}/health/liveliness", timeout=30, trust_env=False)
                assert answer.status_code == 200
                gap = time.monotonic() - killed
                break
            except httpx.ConnectError as error:
                refused.append(repr(error))
            except httpx.TransportError:
                continue
        assert not refused, refused
        print(f"next good answer after {gap:.3f} s")
        eventually(lambda pid=pid: daemon.proxy()["pid"] not in (pid, None), 30)
        settle(daemon)
    assert daemon.proxy()["cause"] == "crash"


def test_a_reload_under_load_fails_nothing_and_cuts_no_stream(daemon: Daemon, upstreams: Upstreams) -> None:
    settle(daemon)
    upstreams.behave(STREAM)
    good = daemon.read("litellm.yaml")
    with steady(daemon.port, daemon.headers(), streams=5) as load:
        for number in range(3):
            daemon.write("litellm.yaml", good + f"\n# reload {number}\n")
            outcome = daemon.post("/v1/reload")
            assert outcome["ok"], outcome
        assert daemon.post("/v1/proxies/main/restart")["ok"]
        daemon.write("litellm.yaml", good)
        assert daemon.post("/v1/reload")["ok"]
        sent = load.sent
        eventually(lambda: load.sent > sent + 20, 30)
    assert not load.failed and not load.cut, (load.failed[:3], load.cut[:3])
    assert load.streams == 5 and load.sent > 40
    settle(daemon)


def test_a_keep_alive_client_moves_to_the_new_generation_without_an_error(daemon: Daemon) -> None:
    settle(daemon)
    body = {"model": "claude-opus-9-9", "max_tokens": 8, "messages": [{"role": "user", "content": "ok"}]}
    with httpx.Client(trust_env=False, timeout=30) as client:

        def ask() -> int:
            return client.post(f"{daemon.url()}/v1/messages", headers=daemon.headers(), json=body).status_code

        assert ask() == 200
        restart = threading.Thread(target=lambda: daemon.post("/v1/proxies/main/restart"))
        restart.start()
        while restart.is_alive():
            assert ask() == 200
        for _ in range(20):
            assert ask() == 200
    settle(daemon)


def test_a_hung_proxy_is_replaced_and_leaves_its_stack_in_the_log(daemon: Daemon) -> None:
    settle(daemon)
    pid = daemon.proxy()["pid"]
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        eventually(lambda: daemon.proxy()["pid"] not in (pid, None), 60)
        print(f"replaced after {time.monotonic() - stopped:.1f} s")
        assert daemon.ask().status_code == 200
        eventually(lambda: not psutil.pid_exists(pid), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert "hang" in daemon.kinds()
    settle(daemon)


def test_fifty_verbs_at_once_end_in_one_serving_process(daemon: Daemon) -> None:
    settle(daemon)

    def verb(number: int) -> None:
        path = ["/v1/proxies/main/restart", "/v1/reload", "/v1/proxies/main/stop", "/v1/proxies/main/start"][
            number % 4
        ]
        with contextlib.suppress(httpx.HTTPError):
            daemon.post(path)

    threads = [threading.Thread(target=verb, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    daemon.post("/v1/proxies/main/start")
    settle(daemon)
    living = [p for p in psutil.Process(daemon.keeper).children() if p.status() != psutil.STATUS_ZOMBIE]
    # supervisor, forkserver, and for each proxy one that serves and one spare
    assert len(living) == 6, living


def test_a_crash_loop_is_named_with_its_reason_and_ends_with_a_good_file(daemon: Daemon) -> None:
    settle(daemon)
    good = daemon.read("litellm.yaml")
    daemon.post("/v1/proxies/main/stop")
    bad = good + "\nlitellm_settings: {callbacks: [no_such_module.instance]}\n"
    bad = bad.replace(
        "litellm_settings: {drop_params: true,",
        "litellm_settings: {callbacks: [nowhere.hook], drop_params: true,",
        1,
    ).split("\nlitellm_settings: {callbacks: [no_such")[0]
    daemon.write("litellm.yaml", bad)
    try:
        outcome = daemon.post("/v1/reload")
        daemon.post("/v1/proxies/main/start")
        proxy = daemon.proxy()
        assert "nowhere" in (proxy["reason"] + proxy["rejected"] + outcome["reason"]), proxy
        if proxy["state"] == "crash-loop":
            answer = daemon.ask()
            assert answer.status_code == 503 and "nowhere" in answer.json()["error"]["message"]
    finally:
        daemon.write("litellm.yaml", good)
    daemon.post("/v1/reload")
    daemon.post("/v1/proxies/main/start")
    settle(daemon)


def test_a_port_changes_without_a_refused_connection(daemon: Daemon) -> None:
    from tests.helpers.daemon import free_ports

    settle(daemon)
    old = daemon.port
    toml = daemon.read("ocd.toml")
    session = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        daemon.post(
            "/v1/launch", {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
        )
        daemon.port = free_ports()
        daemon.write("ocd.toml", toml.replace(f"port = {old}", f"port = {daemon.port}"))
        daemon.post("/v1/reload")
        eventually(
            lambda: httpx.get(f"{daemon.url()}/health/liveliness", trust_env=False).status_code == 200, 60
        )
        # A session that was told the old address still finds it.
        assert httpx.get(f"http://127.0.0.1:{old}/health/liveliness", trust_env=False).status_code == 200
    finally:
        session.communicate(b"\n")

    def closed() -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{old}/health/liveliness", trust_env=False)
        except httpx.ConnectError:
            return True
        return False

    eventually(closed, 60)
    settle(daemon)


def test_a_flood_of_output_costs_neither_disk_nor_service(daemon: Daemon) -> None:
    settle(daemon)
    for _ in range(300):
        # Each makes LiteLLM print a traceback.
        httpx.post(
            f"{daemon.url()}/v1/messages",
            headers=daemon.headers(),
            json={"model": "nope" * 200},
            trust_env=False,
        )
    total = sum(path.stat().st_size for path in (daemon.prefix / "state" / "logs").iterdir())
    assert total < 100 * 1024 * 1024
    assert daemon.ask().status_code == 200


def test_the_death_of_the_keeper_leaves_nothing(addresses: dict[str, str]) -> None:
    with Daemon(
        upstreams=addresses, settings="[proxies.main]\nspare = false\n[proxies.bedrock]\nspare = false\n"
    ) as daemon:
        daemon.start()
        tree = psutil.Process(daemon.keeper).children(recursive=True)
        assert len(tree) >= 4
        assert daemon.process is not None
        os.kill(daemon.keeper, signal.SIGKILL)
        daemon.process.wait(10)
        _gone, left = psutil.wait_procs(tree, timeout=10)
        assert not left
        # And the next one starts beside the stale sockets and locks.
        daemon.start()
        assert daemon.ask().status_code == 200


def test_idle_stops_everything_and_a_connection_wakes_it(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses, settings="[supervision]\nidle_minutes = 0.05\n") as daemon:
        # Nobody comes: it may be idle before its spares are armed.
        daemon.start(wait=False)
        eventually(lambda: all(p["state"] == "idle" for p in daemon.status()["proxies"].values()), 60)
        eventually(
            lambda: len(psutil.Process(daemon.keeper).children()) == 1, 60, "only the supervisor is left"
        )
        answer = httpx.get(f"{daemon.url()}/health/liveliness", timeout=90, trust_env=False)
        assert answer.status_code == 200
        assert "woken" in daemon.kinds()


def test_the_keeper_and_the_supervisor_can_replace_their_code(daemon: Daemon, upstreams: Upstreams) -> None:
    settle(daemon)
    upstreams.behave(STREAM)
    before = daemon.status()
    with steady(daemon.port, daemon.headers(), streams=2) as load:
        eventually(lambda: load.sent > 5, 30)
        assert daemon.post("/v1/reexec")["ok"]
        after = eventually(lambda: (s := daemon.status())["pid"] != before["pid"] and s, 30)
        sent = load.sent
        eventually(lambda: load.sent > sent + 20, 30)
    assert not load.failed and not load.cut, (load.failed[:3], load.cut[:3])
    assert after["keeper_pid"] == before["keeper_pid"]
    assert after["proxies"]["main"]["pid"] == before["proxies"]["main"]["pid"]
    pid = daemon.proxy()["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: daemon.proxy()["pid"] not in (pid, None), 30)
    settle(daemon)


def test_several_workers_share_one_socket_and_each_is_replaced(addresses: dict[str, str]) -> None:
    settings = "[proxies.main]\nworkers = 3\nspare = false\n[proxies.bedrock]\nspare = false\n"
    with Daemon(upstreams=addresses, settings=settings) as daemon:
        daemon.start()

        def serving() -> list[int]:
            return [m["pid"] for m in daemon.proxy()["members"] if m["role"] == "serving"]

        eventually(lambda: len(serving()) == 3, 60)
        first = serving()
        with steady(daemon.port, daemon.headers(), rate=10) as load:
            assert daemon.post("/v1/proxies/main/restart")["ok"]
            eventually(lambda: len(serving()) == 3 and not set(serving()) & set(first), 60)
        assert not load.failed, load.failed[:3]
        os.kill(serving()[0], signal.SIGKILL)
        eventually(lambda: len(serving()) == 3, 60)
        assert daemon.ask().status_code == 200


def test_a_litellm_that_does_not_boot_changes_nothing_and_another_takes_over(
    addresses: dict[str, str], tmp_path: Path
) -> None:
    broken = tmp_path / "env" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho 'No module named litellm' >&2\nexit 1\n")
    broken.chmod(0o755)
    with Daemon(upstreams=addresses) as daemon:
        daemon.start()
        good = daemon.read("ocd.toml")
        before = daemon.proxy()
        with steady(daemon.port, daemon.headers(), rate=10) as load:
            daemon.write("ocd.toml", re.sub(r'python = ".*"', f'python = "{broken}"', good))
            outcome = daemon.post("/v1/reload")
            assert not outcome["ok"] and "litellm" in outcome["reason"], outcome
            assert daemon.proxy()["pid"] == before["pid"]
            daemon.write("ocd.toml", good)
            assert daemon.post("/v1/reload")["ok"]
            daemon.wait_ready()
        assert not load.failed, load.failed[:3]
        # The same LiteLLM by another road: another environment, so it is imported anew and takes over.
        link = tmp_path / "linked"
        link.symlink_to(Path(litellm_python()).parent.parent)
        os.kill(daemon.proxy()["pid"], signal.SIGKILL)
        daemon.wait_ready()
        assert daemon.ask().status_code == 200


def test_who_cannot_be_served_is_told_why(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.write(
            "litellm.yaml", daemon.read("litellm.yaml").replace("os.environ/OCD_MAIN_KEY", "sk-1234")
        )
        daemon.start(wait=False)
        proxy = eventually(lambda: (p := daemon.proxy())["state"] in ("failed", "crash-loop") and p, 60)
        assert proxy["reason"]
        eventually(lambda: daemon.proxy("bedrock")["state"] == "ready", 60)
        if daemon.proxy()["state"] == "crash-loop":
            answer = daemon.ask()
            assert answer.status_code == 503 and "does not serve" in answer.json()["error"]["message"]
        reply = daemon.post("/v1/launch", {"pid": os.getpid(), "cwd": "/", "wait": 0.1})
        assert reply["error"]["what"] == "the main proxy does not serve" and reply["error"]["next"]


def test_a_forkserver_killed_while_it_imports_is_started_again(daemon: Daemon) -> None:
    settle(daemon)
    serving = daemon.proxy()["pid"]
    for _ in range(3):
        pid = daemon.host_pid()
        os.kill(pid, signal.SIGKILL)
        # Its successor is killed as soon as it is there, long before it has imported anything.
        eventually(lambda pid=pid: daemon.host_pid() != pid, 30)  # type: ignore[misc]
    os.kill(daemon.spare_pid(), signal.SIGKILL)
    settle(daemon)
    assert daemon.proxy()["pid"] == serving and daemon.ask().status_code == 200


def _command(process: psutil.Process) -> list[str]:
    """Nothing, when it has gone meanwhile."""
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def test_fifty_first_launches_start_one_daemon_and_all_are_served(addresses: dict[str, str]) -> None:
    settings = "[proxies.main]\nspare = false\n[proxies.bedrock]\nspare = false\n"
    with Daemon(upstreams=addresses, settings=settings) as d:
        folder = d.prefix / "bin"
        folder.mkdir()
        root = str(Path(__file__).parents[2])
        (folder / "openclaude").write_text(
            f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {root!r})\n"
            "from ocd.client.__main__ import main\nsys.exit(main())\n"
        )
        (folder / "ocd").write_text(f'#!/bin/sh\nexec {sys.executable} -m ocd "$@"\n')
        for path in folder.iterdir():
            path.chmod(0o755)
        env = {**d.env, "OPENCLAUDE_CLAUDE": "/bin/true"}
        launches = [
            subprocess.Popen([str(folder / "openclaude"), "-p", "x"], env=env, stderr=subprocess.PIPE)
            for _ in range(50)
        ]
        ended = [(one.communicate(timeout=120)[1], one.returncode) for one in launches]
        d.keeper = d.status()["keeper_pid"]
        try:
            assert [code for _, code in ended] == [0] * 50, [text for text, code in ended if code][:3]
            running = [p.pid for p in d.leftovers() if _command(p)[1:3] == ["-m", "ocd"]]
            assert running == [d.keeper]
            assert [p["generation"] for p in d.status()["proxies"].values()] == [1, 1]
            assert d.ask().status_code == 200
        finally:
            d.post("/v1/shutdown")
            eventually(lambda: not psutil.pid_exists(d.keeper), 60)


def test_who_follows_events_goes_on_with_the_new_supervisor(daemon: Daemon) -> None:
    settle(daemon)
    command = [sys.executable, "-m", "ocd.ctl", "events", "-f", "-n", "1"]
    with subprocess.Popen(
        command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        try:
            assert one.stdout is not None and one.stdout.readline(), "the past"
            os.kill(daemon.supervisor_pid(), signal.SIGKILL)
            seen = [one.stdout.readline()]
            while seen[-1] and "supervisor-restarted" not in seen[-1]:
                seen.append(one.stdout.readline())
            assert "supervisor-restarted" in seen[-1], (seen, one.poll())
            assert len(seen) == len(set(seen)), "no line twice"
        finally:
            one.terminate()
