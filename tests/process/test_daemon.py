"""The real daemon with the real LiteLLM, twice: serving, ports, control, files."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import ROOT, Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


class AnswersAll(http.server.BaseHTTPRequestHandler):
    """The seeds' story: a web application that answers 200 to everything, /health included."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def foreign_server(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    """It runs in a process of its own, as a foreigner does."""
    code = (
        "import http.server,sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'ok')\n"
        "    do_POST = do_GET\n"
        "    def log_message(self, *a): pass\n"
        "class S(http.server.HTTPServer):\n"
        "    import socket\n"
        "    address_family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "server = S((sys.argv[1], int(sys.argv[2])), H); print('up', flush=True); server.serve_forever()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, host, str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_both_slots_reach_their_upstreams_with_their_own_credentials(
    daemon: Daemon, upstreams: Upstreams
) -> None:
    upstreams.reset()
    for model in ("claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder"):
        for stream in (False, True):
            answer = daemon.ask(model, stream)
            assert answer.status_code == 200, answer.text
            assert ("message_stop" in answer.text) == stream
    anthropic = upstreams.seen("anthropic")
    bedrock = upstreams.seen("bedrock")
    assert len(anthropic) == 4 and len(bedrock) == 2
    assert all("sk-ant-oat01-canary" in seen.header("authorization") for seen in anthropic)
    keys = daemon.keys()
    for seen in bedrock:
        assert seen.header("authorization").startswith("AWS4-HMAC-SHA256")
        assert not seen.where("sk-ant-")
    for seen in [*anthropic, *bedrock]:
        assert not seen.where(keys["main"]) and not seen.where(keys["bedrock"])


def test_who_was_forked_cold_is_exchanged_for_a_warm_one(daemon: Daemon) -> None:
    # The first test that asks for the shared daemon starts it; the file keeps more lines than the others write.
    def exchanged() -> list[dict[str, Any]]:
        every = daemon.events(100_000)
        return [e for e in every if e["kind"] == "drained" and "cold-start" in e["text"]]

    gone = eventually(lambda: len(found := exchanged()) > 1 and found, 30)
    assert [e["generation"] for e in gone] == [1, 1] and {e["proxy"] for e in gone} == {"main", "bedrock"}
    assert not [e for e in daemon.events(100_000) if e["generation"] == 1 and e["kind"] == "crashed"]


def test_a_port_in_use_without_a_listener_blocks_only_as_long_as_it_is(daemon: Daemon) -> None:
    """As an outgoing connection's would be: no listener is to be seen, and IPv4 alone cannot be had."""
    daemon.post("/v1/proxies/main/stop")
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", daemon.port))
        daemon.post("/v1/proxies/main/start")
        assert daemon.proxy()["state"] == "blocked"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://[::1]:{daemon.port}/health/liveliness", trust_env=False)
    eventually(lambda: daemon.proxy()["state"] == "ready", 20)
    assert daemon.ask().status_code == 200
    assert httpx.get(f"http://[::1]:{daemon.port}/health/liveliness", trust_env=False).status_code == 200


def test_it_listens_on_both_loopback_addresses_and_nowhere_else(daemon: Daemon) -> None:
    for url in (f"http://127.0.0.1:{daemon.port}", f"http://[::1]:{daemon.port}"):
        assert httpx.get(f"{url}/health/liveliness", trust_env=False).status_code == 200

    def listening() -> set[str]:
        # A process that was exchanged ends while we look: then we look again.
        return {
            c.laddr.ip
            for p in [psutil.Process(daemon.keeper), *psutil.Process(daemon.keeper).children()]
            for c in p.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        }

    assert eventually(listening) == {"127.0.0.1", "::1"}


def test_no_secret_in_any_argument_environment_or_readable_file(daemon: Daemon) -> None:
    secrets = list(daemon.keys().values())
    tree = [psutil.Process(daemon.keeper), *psutil.Process(daemon.keeper).children(recursive=True)]
    for process in tree:
        with contextlib.suppress(psutil.Error):
            text = " ".join(process.cmdline()) + str(process.environ())
            assert not any(secret in text for secret in secrets)
    for path in daemon.prefix.rglob("*"):
        if path.is_symlink() or daemon.config in path.parents or path == daemon.config:
            continue
        mode = path.lstat().st_mode
        if path.name != "output":
            assert not mode & 0o077, f"{path} has mode {oct(mode)}"
        if path.is_file() and path.name != "keys.json":
            assert not any(secret.encode() in path.read_bytes() for secret in secrets), path


def test_top_and_ps_show_what_each_process_is(daemon: Daemon) -> None:
    daemon.wait_ready()
    names = {
        Path(f"/proc/{child.pid}/comm").read_text().strip()
        for child in psutil.Process(daemon.keeper).children()
    }
    assert {"ocd: supervisor", "ocd: main", "ocd: bedrock", "ocd: litellm"} <= names


def test_a_second_daemon_says_who_runs_and_ends_with_75(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "ocd"], env=daemon.env, capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 75
    assert f"pid {daemon.keeper}" in second.stderr
    assert daemon.proxy()["state"] == "ready"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_foreign_server_on_the_port_blocks_and_is_named(host: str, daemon: Daemon) -> None:
    assert daemon.post("/v1/proxies/main/stop")["ok"]
    with foreign_server(daemon.port, host):
        outcome = daemon.post("/v1/proxies/main/start")
        assert not outcome["ok"]
        proxy = daemon.proxy()
        assert proxy["state"] == "blocked"
        assert proxy["holder"]["pid"] and proxy["holder"]["user"] and proxy["holder"]["since"]
        assert "http.server" in proxy["holder"]["command"]
        launch = daemon.post("/v1/launch", {"pid": os.getpid(), "cwd": "/", "wait": 0.1})
        assert "is taken" in launch["error"]["why"] and str(proxy["holder"]["pid"]) in launch["error"]["why"]
        assert daemon.proxy("bedrock")["state"] == "ready"
        assert psutil.pid_exists(proxy["holder"]["pid"]), "it is never killed"
    freed = time.monotonic()
    eventually(lambda: daemon.proxy()["state"] == "ready", 20)
    print(f"taken {time.monotonic() - freed:.2f} s after it was freed")
    assert "blocked" in daemon.kinds() and "unblocked" in daemon.kinds()


def test_a_request_that_is_no_json_or_far_too_long_or_cut_off_is_answered_and_harms_nobody(
    daemon: Daemon,
) -> None:
    with daemon.client() as client:
        bad = client.post("/v1/reload", content=b"\x00\xff not json")
        assert bad.status_code == 400 and bad.json()["error"]["exit"] == 65
        assert client.post("/v1/launch", content=b"[1,2]").status_code == 400
        assert client.post("/v1/proxies/nobody/stop").status_code == 404
        assert client.get("/v1/status?x=" + "y" * 1000).status_code == 200
        big = client.post("/v1/reload", content=b" " * (10 * 1024 * 1024))
        assert big.status_code == 413
    for garbage in (
        b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"\x16\x03\x01\x02",
        b"GET",
    ):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(daemon.socket))
        sock.sendall(garbage)
        sock.close()
    assert daemon.proxy()["state"] == "ready"


def test_status_has_the_shape_that_programs_rely_on(daemon: Daemon) -> None:
    status = daemon.status()
    assert status["version"] and status["litellm"]
    for name in ("main", "bedrock"):
        proxy = status["proxies"][name]
        for key in ("state", "pid", "port", "generation", "restarts", "since", "reason", "holder"):
            assert key in proxy


def test_a_changed_file_is_served_without_being_asked(daemon: Daemon) -> None:
    before = daemon.proxy()
    other = daemon.proxy("bedrock")["generation"]
    text = daemon.read("litellm.yaml")
    daemon.write("litellm.yaml", text + "\n# touched\n")
    after = eventually(
        lambda: (p := daemon.proxy())["revision"] != before["revision"] and p["state"] == "ready" and p, 60
    )
    assert after["generation"] > before["generation"]
    assert daemon.proxy("bedrock")["generation"] == other, "only what changed is reloaded"
    daemon.write("litellm.yaml", text)
    eventually(lambda: daemon.proxy()["revision"] == before["revision"], 60)


@pytest.mark.parametrize(
    "text",
    [b"model_list: [\n", b"", b"\xff\xfe\x00", b"model_list: 7\n", b"just words", b"a: &a [*a, *a]\n"],
    ids=["syntax", "empty", "not-utf8", "wrong-type", "words", "recursive"],
)
def test_a_file_that_is_no_good_changes_nothing_and_the_reason_is_told(text: bytes, daemon: Daemon) -> None:
    good = daemon.read("litellm.yaml")
    generation = daemon.proxy()["generation"]
    (daemon.config / "litellm.yaml").write_bytes(text)
    try:
        outcome = daemon.post("/v1/reload")
        assert not outcome["ok"] and outcome["reason"]
        proxy = daemon.proxy()
        assert proxy["state"] == "ready" and proxy["generation"] == generation
        assert proxy["rejected"] and "revisions/" not in proxy["rejected"], (
            "people know their own file's path"
        )
        assert daemon.ask().status_code == 200
    finally:
        daemon.write("litellm.yaml", good)
    eventually(lambda: not daemon.proxy()["rejected"], 60)


def test_after_a_broken_save_a_crash_comes_back_with_the_last_good_configuration(daemon: Daemon) -> None:
    good = daemon.read("litellm.yaml")
    daemon.write("litellm.yaml", "model_list: [\n")
    try:
        eventually(lambda: daemon.proxy()["rejected"], 60)
        for _ in range(2):
            pid = daemon.proxy()["pid"]
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: daemon.proxy()["pid"] not in (None, pid), 60)
            assert daemon.ask().status_code == 200
    finally:
        daemon.write("litellm.yaml", good)
    eventually(lambda: not daemon.proxy()["rejected"], 60)


@pytest.mark.parametrize(
    "text",
    [b"port = 'x'", b"prot = 4000", b"\xff\xfe", b"[[[", b"port = 99999999"],
    ids=["type", "unknown", "not-utf8", "syntax", "range"],
)
def test_a_mistake_in_ocd_toml_keeps_what_serves_and_names_file_and_line(text: bytes, daemon: Daemon) -> None:
    path = daemon.config / "ocd.toml"
    good = path.read_bytes()
    path.write_bytes(text)
    try:
        outcome = daemon.post("/v1/reload")
        assert not outcome["ok"] and "ocd.toml" in outcome["reason"]
        assert daemon.proxy()["state"] == "ready"
        assert daemon.status()["problems"]
    finally:
        daemon.write("ocd.toml", good.decode())
    assert daemon.post("/v1/reload")["ok"]
    assert not daemon.status()["problems"]


def test_sighup_reloads(daemon: Daemon) -> None:
    good = daemon.read("litellm-bedrock.yaml")
    before = daemon.proxy("bedrock")
    generation = before["generation"]
    daemon.write("litellm-bedrock.yaml", good + "\n# again\n")
    os.kill(daemon.keeper, signal.SIGHUP)
    eventually(lambda: daemon.proxy("bedrock")["generation"] > generation, 60)
    daemon.write("litellm-bedrock.yaml", good)
    eventually(lambda: daemon.proxy("bedrock")["revision"] == before["revision"], 60)


def test_a_dry_run_says_what_would_change_and_changes_nothing(daemon: Daemon) -> None:
    good = daemon.read("litellm-bedrock.yaml")
    before = daemon.proxy("bedrock")
    os.kill(daemon.supervisor_pid(), 0)
    (daemon.config / "litellm-bedrock.yaml").write_text(good + "\n# dry\n")
    outcome = daemon.post("/v1/reload", {"dry_run": True})
    assert outcome["ok"] and outcome["proxies"]["main"] == "unchanged"
    daemon.write("litellm-bedrock.yaml", good)
    eventually(lambda: daemon.proxy("bedrock")["revision"] == before["revision"], 60)


def test_logs_and_events_can_be_followed(daemon: Daemon) -> None:
    lines: list[dict[str, object]] = []

    def follow() -> None:
        with daemon.client() as client, client.stream("GET", "/v1/events?lines=0&follow=1") as answer:
            for line in answer.iter_lines():
                lines.append(json.loads(line))
                if lines[-1]["kind"] == "reload-done":
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    good = daemon.read("litellm.yaml")
    time.sleep(0)
    daemon.write("litellm.yaml", good + "\n# followed\n")
    daemon.post("/v1/reload")
    daemon.write("litellm.yaml", good)
    daemon.post("/v1/reload")
    thread.join(60)
    assert any(line["kind"] == "spawned" for line in lines)
    daemon.ask()
    with daemon.client() as client:
        text = client.get("/v1/logs/main?lines=50").text
    assert json.loads(text.splitlines()[-1])["proxy"] == "main"


def test_a_session_is_followed_by_its_process_and_its_overlay_stays(daemon: Daemon) -> None:
    session = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        reply = daemon.post(
            "/v1/launch", {"pid": session.pid, "cwd": "/", "env": {"HOME": str(daemon.prefix)}, "wait": 5}
        )
        assert reply["ready"], reply
        overlay = Path(reply["args"][1])
        assert overlay.stat().st_mode & 0o777 == 0o600
        settings = json.loads(overlay.read_text())
        assert settings["env"]["ANTHROPIC_BASE_URL"] == daemon.url()
        assert daemon.keys()["main"] in settings["env"]["ANTHROPIC_CUSTOM_HEADERS"]
        assert [s["pid"] for s in daemon.status()["sessions"]] == [session.pid]
    finally:
        session.communicate(b"\n")
    eventually(lambda: not daemon.status()["sessions"], 20)
    assert overlay.parent.parent == daemon.prefix / "state" and overlay.exists()


def test_the_runtime_folder_may_be_deleted_under_it(daemon: Daemon) -> None:
    import shutil

    pids = {name: daemon.proxy(name)["pid"] for name in ("main", "bedrock")}
    shutil.rmtree(daemon.runtime)
    eventually(lambda: daemon.socket.exists() and daemon.status(), 30)
    sockets = [
        f"guest-{name}-{member['generation']}.sock"
        for name in pids
        for member in daemon.proxy(name)["members"]
    ]
    eventually(lambda: all((daemon.runtime / name).exists() for name in sockets), 60)
    assert daemon.ask().status_code == 200 and daemon.ask("qwen-3-coder").status_code == 200
    now = {name: daemon.proxy(name)["pid"] for name in pids}
    assert now == pids, "a missing file is no hang"


@pytest.mark.parametrize("what", ["logs/daemon", "logs/main", "events", "requests"])
def test_followers_that_go_at_once_cost_nothing(daemon: Daemon, what: str) -> None:
    """A log of the daemon's that tells of a send that failed must not be sent there again."""
    size = (daemon.prefix / "state/logs/daemon.log").stat().st_size
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(daemon.socket))
            one.sendall(f"GET /v1/{what}?follow=1&lines=1000 HTTP/1.1\r\nhost: ocd\r\n\r\n".encode())
    supervisor = psutil.Process(daemon.supervisor_pid())
    for _ in range(20):
        assert daemon.status()["proxies"]["main"]["state"] == "ready"
    used = supervisor.cpu_times().user

    def calm() -> bool:
        nonlocal used
        before, used = used, supervisor.cpu_times().user
        time.sleep(0.5)
        return supervisor.cpu_times().user - used < 0.1 and used >= before

    eventually(calm, 20, "nothing goes round")
    assert supervisor.pid == daemon.supervisor_pid()
    assert (daemon.prefix / "state/logs/daemon.log").stat().st_size - size < 100_000


def test_a_model_that_is_gone_is_told_until_it_answers_again(daemon: Daemon, upstreams: Upstreams) -> None:
    upstreams.behave(Behaviour(upstream="anthropic", model="claude-sonnet", status=404))
    try:
        assert daemon.ask("claude-sonnet-9-9").status_code == 404
        (trouble,) = eventually(lambda: daemon.proxy()["troubles"], 10, "it is told")
        assert "claude-sonnet-9-9" in json.dumps(trouble) and trouble["next"], trouble
        assert daemon.ask("claude-opus-9-9").status_code == 200
        assert daemon.proxy()["troubles"], "another model's success says nothing of this one"
    finally:
        upstreams.behave()
    assert daemon.ask("claude-sonnet-9-9").status_code == 200
    eventually(lambda: not daemon.proxy()["troubles"], 10, "it is over")


def test_sigterm_drains_a_stream_and_leaves_nothing(addresses: dict[str, str], upstreams: Upstreams) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.start()
        upstreams.behave(Behaviour(chunks=12, delay=0.2))
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(daemon.ask(stream=True)))
        upstreams.reset()
        upstreams.behave(Behaviour(chunks=12, delay=0.2))
        thread.start()
        eventually(lambda: upstreams.seen("anthropic"), 20)
        tree = psutil.Process(daemon.keeper).children(recursive=True)
        assert daemon.stop() == 0
        thread.join(30)
        assert answers and "message_stop" in answers[0].text, answers
        _gone, left = psutil.wait_procs(tree, timeout=5)
        assert not left
        assert not list(daemon.runtime.glob("*.sock"))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", daemon.port))
    upstreams.behave()


def test_without_litellm_the_daemon_says_so(addresses: dict[str, str]) -> None:
    with Daemon(upstreams=addresses) as daemon:
        daemon.write("ocd.toml", f'port = {daemon.port}\n[litellm]\npython = "/nowhere/python"\n')
        daemon.start(wait=False)
        proxy = eventually(lambda: (p := daemon.proxy())["state"] in ("crash-loop", "failed") and p, 30)
        assert "/nowhere/python" in proxy["reason"]
        reply = daemon.post("/v1/launch", {"pid": os.getpid(), "cwd": "/", "wait": 0.1})
        assert "error" in reply or not reply["ready"]


def test_a_runtime_folder_of_somebody_else_is_refused(addresses: dict[str, str]) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to make a folder of somebody else's")
    with Daemon(upstreams=addresses) as daemon:
        daemon.runtime.mkdir()
        os.chown(daemon.runtime, 12345, 12345)
        process = subprocess.run(
            [sys.executable, "-m", "ocd"],
            env=daemon.env,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
        )
        assert process.returncode == 77, process.stderr
        assert str(daemon.runtime) in process.stderr
