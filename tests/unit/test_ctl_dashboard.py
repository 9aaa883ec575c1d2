"""``occtl dashboard``: what it prints, what opens the browser, how it ends."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ocd.ctl import dashboard as command
from ocd.ctl.__main__ import main
from ocd.dashboard.server import Dashboard
from tests.unit.test_ctl_verbs import FakeDaemon, a_status

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn takes its own log of requests out of the way, for good: put back after each test."""
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # not tmp_path: its names are too long for a socket
    folder = Path(tempfile.mkdtemp(prefix="ocdctl", dir="/tmp"))
    for name in list(os.environ):
        if name.startswith(("OCD_", "OPENCLAUDE_")) or name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OCD_PREFIX", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fake(prefix: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(prefix / "run")
    made.on("GET", "/v1/status", a_status())
    yield made
    made.close()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Somebody comes while it serves, then Ctrl-C."""
    found: dict[str, Any] = {}
    wait = Dashboard.wait

    async def come(served: Dashboard) -> None:
        found["port"] = served.port
        found["file"] = served._file and served._file.read_text()
        async with httpx.AsyncClient(trust_env=False) as client:
            found["link"] = (await client.get(served.link())).status_code
            found["nothing"] = (await client.get(f"http://127.0.0.1:{served.port}/api/status")).status_code
        os.kill(os.getpid(), signal.SIGINT)
        await wait(served)

    monkeypatch.setattr(Dashboard, "wait", come)
    return found


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_prints_a_link_and_closes_with_ctrl_c(
    fake: FakeDaemon, looked: dict[str, Any], capsys: Capture
) -> None:
    assert main(["dashboard", "--no-browser"]) == 0
    said = capsys.readouterr()
    url = urlsplit(said.out.strip())
    assert (url.hostname, url.port, url.path) == ("127.0.0.1", looked["port"], "/open")
    assert url.query.startswith("once=") and "Ctrl-C" in said.err and "Closed." in said.err
    assert looked["link"] == 200 and looked["nothing"] == 403 and looked["file"] is None
    assert closed(looked["port"])


def test_json_is_one_object(fake: FakeDaemon, looked: dict[str, Any], capsys: Capture) -> None:
    assert main(["dashboard", "--no-browser", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert said["port"] == looked["port"] and said["url"].startswith(
        f"http://127.0.0.1:{said['port']}/open?once="
    )


def test_the_browser_is_given_a_file_and_no_word_in_its_arguments(
    fake: FakeDaemon, looked: dict[str, Any], prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    opener = prefix / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text('#!/bin/sh\necho "$@" > "' + str(prefix) + '/given"\n')
    opener.chmod(0o700)
    (opener.parent / "open").symlink_to(opener)
    monkeypatch.setenv("PATH", f"{opener.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":7")
    started: list[Any] = []
    popen = command.subprocess.Popen

    def start(*args: Any, **more: Any) -> Any:
        started.append(popen(*args, **more))
        return started[0]

    monkeypatch.setattr(command.subprocess, "Popen", start)
    assert main(["dashboard"]) == 0
    assert started[0].wait(20) == 0
    given = (prefix / "given").read_text().strip()
    assert Path(given).parent == prefix / "run" and not Path(given).exists(), "it goes in the end"
    assert "name=once" in looked["file"] and "once" not in given
    assert "Opening it in your browser" in capsys.readouterr().err


def test_without_a_daemon_or_its_port_it_says_so(prefix: Path, capsys: Capture) -> None:
    assert main(["dashboard", "--no-browser"]) == 69
    assert "occtl start" in capsys.readouterr().err
    fake = FakeDaemon(prefix / "run")
    try:
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            assert main(["dashboard", "--no-browser", "--port", str(number)]) == 69
            assert str(number) in capsys.readouterr().err
    finally:
        fake.close()


def test_nobody_comes(fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("ocd.dashboard.server.TURN", 0.005)
    monkeypatch.setattr("ocd.dashboard.server.LINGER", 0.0)
    monkeypatch.setattr("ocd.dashboard.access.LINK_SECONDS", 0.0)
    assert main(["dashboard", "--no-browser"]) == 0
    assert "nobody came" in capsys.readouterr().err
