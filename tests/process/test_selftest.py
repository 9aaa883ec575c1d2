"""The self-test as users run it: the real daemon, the real LiteLLM, nothing left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ocd.selftest import stack
from ocd.selftest.redirected import Turned
from ocd.selftest.run import Report, Row, _Check, run
from ocd.selftest.upstreams import Upstreams
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.defaults import write_defaults
from tests.helpers.daemon import ROOT, SLOW, Daemon, litellm_python


@pytest.fixture
def folders() -> Iterator[Folders]:
    with tempfile.TemporaryDirectory(prefix="ocd-t-") as name:
        root = Path(name)
        found = Folders(root / "config", root / "share", root / "state", root / "run", root / "bin")
        write_defaults(found)
        yield found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    # Somebody else's self-test may run on this machine, so what was there before does not count.
    folders, processes = _private_folders(), _private_processes()
    yield
    assert _private_folders() - folders == set()
    assert _private_processes() - processes == set()


def _private_folders() -> set[str]:
    return set(glob.glob(f"{tempfile.gettempdir()}/ocd-selftest-*"))


def _private_processes() -> set[int]:
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "/ocd-selftest-" in process.environ().get("OCD_PREFIX", ""):
                found.add(process.pid)
    return found


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_green_beside_a_live_daemon(daemon: Daemon, folders: Folders) -> None:
    before, live = fingerprint(folders.config.parent), daemon.status()
    # The live daemon's own ports: the private stack must take others.
    settings = Settings(port=daemon.port)
    said: list[str] = []
    report = asyncio.run(run(folders, settings, litellm_python=litellm_python(), progress=said.append))
    assert report.ok, report
    rows = {row.check: row for row in report.rows}
    assert all(row.ok for row in report.rows)
    for slot, upstream, credential in (
        ("opus", "Anthropic", "plan token"),
        ("sonnet", "Anthropic", "plan token"),
        ("haiku", "Bedrock", "AWS signature"),
    ):
        for manner in ("plain", "streaming"):
            row = rows[f"{slot}, {manner}"]
            assert (row.upstream, row.credential) == (upstream, credential)
    assert rows["opus, counting tokens"].upstream in ("none", "Anthropic")
    assert re.match(r"in (\d+) of \1 requests", rows["canary at Anthropic"].note)
    assert rows["canary in processes"].note.startswith("in none of ")
    assert report.litellm and said
    value = json.loads(json.dumps(report.as_dict()))
    assert value["ok"] is True and value["rows"][0]["check"] == "opus, plain"
    assert "canary-" not in json.dumps(value) and "sk-" not in json.dumps(value)
    assert fingerprint(folders.config.parent) == before, "the user's files are as they were"
    now = daemon.status()
    assert [p["pid"] for p in now["proxies"].values()] == [p["pid"] for p in live["proxies"].values()]


def test_an_unsafe_hop_is_not_green(folders: Folders) -> None:
    """The prefix anthropic/ for the hop hands the plan's token on; said with the user's own file and line."""
    path = folders.config / "litellm.yaml"
    path.write_text(path.read_text().replace("openai/qwen-3-coder", "anthropic/qwen-3-coder"))
    report = asyncio.run(run(folders, Settings(), litellm_python=litellm_python()))
    assert not report.ok and report.rows == []
    line = 1 + path.read_text()[: path.read_text().index("anthropic/qwen-3-coder")].count("\n")
    assert any(f"{path}:{line}:" in problem for problem in report.problems), report.problems


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("litellm.yaml", "model_list: [", "YAML"),
        ("litellm-bedrock.yaml", "", ""),
    ],
)
def test_files_that_do_not_pass(folders: Folders, name: str, text: str, says: str) -> None:
    (folders.config / name).write_text(text)
    report = asyncio.run(run(folders, Settings(), litellm_python=litellm_python()))
    assert not report.ok
    assert any(says in problem for problem in report.problems) or any(not row.ok for row in report.rows)


def test_without_litellm(folders: Folders) -> None:
    for python in ("", "/nonexistent/python"):
        report = asyncio.run(run(folders, Settings(), litellm_python=python))
        assert not report.ok and report.rows == []
        assert len(report.problems) == 1 and "LiteLLM" in report.problems[0]


@pytest.mark.parametrize("moment", ["Booting a private stack", "Sending requests"])
def test_interrupted(folders: Folders, moment: str) -> None:
    """Ctrl-C cancels the task, as asyncio.run does it; the fixture looks for leftovers."""

    async def interrupted() -> None:
        reached = asyncio.Event()

        def progress(text: str) -> None:
            if text == moment:
                reached.set()

        task: asyncio.Task[Report] = asyncio.ensure_future(
            run(folders, Settings(), litellm_python=litellm_python(), progress=progress)
        )
        await reached.wait()
        if moment.startswith("Booting"):
            # Far enough for the daemon to exist: its folder has a control socket.
            async with asyncio.timeout(60):
                while not glob.glob(f"{tempfile.gettempdir()}/ocd-selftest-*/run/control.sock"):
                    await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())


def test_ctrl_c_in_a_terminal(folders: Folders) -> None:
    """The real signal to a real process: it ends, and the private stack with it."""
    code = (
        "import asyncio, sys; from ocd.settings.folders import Folders\n"
        "from ocd.settings.schema import Settings; from ocd.selftest.run import run\n"
        "from pathlib import Path; root = Path(sys.argv[1])\n"
        "folders = Folders(*(root / name for name in ('config', 'share', 'state', 'run', 'bin')))\n"
        "say = lambda text: print(text, flush=True)\n"
        "asyncio.run(run(folders, Settings(), litellm_python=sys.argv[2], progress=say))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folders.config.parent), litellm_python()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"Sending"):
                process.send_signal(signal.SIGINT)
        assert process.wait(60 * SLOW) != 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_stand_ins_as_a_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ocd.selftest.upstreams", "--json"], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        where = json.loads(process.stdout.readline())
        body = {"model": "m", "messages": []}
        login = {"x-api-key": "sk-ant-api03-x"}
        told = {"behaviours": [{"status": 529, "times": 1}], "watch": {"key": "api03-x"}}
        assert httpx.post(where["control"], json=told, trust_env=False).status_code == 200
        url = where["anthropic"] + "/v1/messages"
        codes = [httpx.post(url, json=body, headers=login, trust_env=False).status_code for _ in range(2)]
        assert codes == [529, 200]
        summary = httpx.get(where["control"], trust_env=False).json()
        assert summary["canaries"]["key"]["anthropic"] == {"header x-api-key": 2}
        assert where["bedrock"].startswith("http://127.0.0.1:")
    finally:
        process.terminate()
        assert process.wait(30 * SLOW) == 0
        assert process.stdout is not None
        process.stdout.close()


# ---- that it would notice


def test_it_notices_the_canary_elsewhere() -> None:
    async def check() -> None:
        with stack.private_folders() as private:
            async with Upstreams() as up:
                made = _Check(private, Settings(), up, Turned())
                up.watch("canary", made.secret)
                clean = [made.elsewhere(), made.in_files()]
                assert [row.ok for row in clean] == [True, True], clean
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", int(up.bedrock.rpartition(":")[2])
                )
                writer.write(
                    f"GET /model/x/converse HTTP/1.1\r\nHost: x\r\nX-Y: {made.canary}\r\n\r\n".encode()
                )
                await reader.readline()
                writer.close()
                (private.folders.state / "a.log").write_text(f"said {made.secret}")
                (private.folders.state / "b.log").write_text(f"said {private.aws_secret}")
                rows = [made.elsewhere(), made.in_files(), made.at_anthropic()]
                assert [row.ok for row in rows[:2]] == [False, False]
                assert rows[0].note == "header x-y" and rows[1].note == "state/a.log, state/b.log"
                assert made.canary not in json.dumps([row.note for row in rows])

    asyncio.run(check())


def test_it_notices_a_key_in_the_environment() -> None:
    async def check() -> None:
        with stack.private_folders() as private:
            async with Upstreams() as up:
                made = _Check(private, Settings(), up, Turned())
                process = await asyncio.create_subprocess_exec(
                    *("sleep", "60"),
                    env={"OOPS": made.canary, "KEY": private.keys.main, "PATH": "/usr/bin:/bin"},
                )
                private.pid = process.pid
                try:
                    row: Row = await asyncio.to_thread(made.in_processes)
                finally:
                    process.kill()
                    await process.wait()
                assert not row.ok
                assert row.note == "canary in sleep, main key in sleep"

    asyncio.run(check())
