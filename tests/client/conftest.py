"""Fixtures for the tests that run the real Claude Code (tests/client/README.md).

They run inside ``python -m tests.client`` only: elsewhere each of them is skipped with the reason.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.client import clients, namespace
from tests.client.box import Box
from tests.client.standins import Standin
from tests.helpers import canaries
from tests.helpers.daemon import Daemon, eventually, litellm_python

#: made up, in the profile that the shipped settings name
AWS = canaries.Aws.make("the profile openclaude")


def inside() -> bool:
    return os.path.isabs(os.environ.get(namespace.MARK, "")) and namespace.alone()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: not in the short form that CI runs")
    if inside():
        # Ended by a time-out from outside: what was started is ended as at Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if inside():
        return
    skip = pytest.mark.skip(reason="runs in a network of its own: make client")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "client" in metafunc.fixturenames:
        try:
            found = clients.installed() if inside() else []
        except clients.NoClient:
            found = []
        metafunc.parametrize("client", found, ids=[one.version for one in found], scope="session")


@pytest.fixture(scope="session")
def names() -> Iterator[namespace.Names]:
    """The name server; ``asked``: the names that had no address here."""
    server = namespace.Names()
    yield server
    server.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return namespace.certificates(tmp_path_factory.mktemp("ca"), litellm_python())


@pytest.fixture(scope="session")
def _recorder(certificates: tuple[Path, Path], names: namespace.Names) -> Iterator[Standin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[1])
    standin = Standin("api.anthropic.com", "anthropic", 443, context)
    yield standin
    standin.close()


@pytest.fixture
def recorder(_recorder: Standin, names: namespace.Names) -> Iterator[Standin]:
    """In the place of api.anthropic.com and its neighbours: sees what goes past the proxies, and answers it."""
    _recorder.reset()
    names.asked.clear()
    yield _recorder
    _recorder.hang_up()


@pytest.fixture(scope="session")
def _upstreams() -> Iterator[tuple[Standin, Standin]]:
    both = Standin("anthropic", "anthropic"), Standin("bedrock", "bedrock")
    yield both
    for one in both:
        one.close()


@pytest.fixture
def anthropic(_upstreams: tuple[Standin, Standin]) -> Iterator[Standin]:
    """What main takes for Anthropic."""
    _upstreams[0].reset()
    yield _upstreams[0]
    _upstreams[0].hang_up()


@pytest.fixture
def bedrock(_upstreams: tuple[Standin, Standin]) -> Iterator[Standin]:
    """What the bedrock proxy takes for AWS."""
    _upstreams[1].reset()
    yield _upstreams[1]
    _upstreams[1].hang_up()


class Shipped(Daemon):
    """A daemon on the shipped defaults: nothing but the upstreams' addresses and the port is changed."""

    def __init__(self, anthropic: str, bedrock: str, settings: str = "") -> None:
        super().__init__(settings=settings)
        for name in ("litellm.yaml", "litellm-bedrock.yaml"):
            (self.config / name).unlink()
        aws = self.prefix / ".aws"
        aws.mkdir(mode=0o700)
        (aws / "credentials").write_text(
            f"[openclaude]\naws_access_key_id = {AWS.access}\naws_secret_access_key = {AWS.secret}\n"
            f"aws_session_token = {AWS.session}\n"
        )
        self.occtl("init")
        for name in ("litellm.yaml", "litellm-bedrock.yaml"):
            self.write(name, turned(self.read(name), anthropic, bedrock))

    def gone(self) -> None:
        """Wait until nothing runs of a daemon that ``occtl start`` or ``openclaude`` started."""
        if self.process is None or self.process.poll() is not None:
            eventually(lambda: not self.leftovers(), 30, "the daemon is gone")

    def restart(self) -> None:
        """``occtl stop; occtl start``: the new daemon is nobody's child. End it with ``occtl("stop")``."""
        self.occtl("stop")
        if self.process is not None:
            self.process.wait(60)
            self.process = None
        self.occtl("start")
        self.wait_ready()

    def occtl(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ocd.ctl", *arguments],
            env=self.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def turned(text: str, anthropic: str, bedrock: str) -> str:
    """A LiteLLM file with its upstreams' addresses replaced, and nothing else. JSON is YAML."""
    data = json.loads(json.dumps(YAML(typ="safe").load(text)))
    for route in data["model_list"]:
        params = route["litellm_params"]
        if params["model"].startswith("anthropic/"):
            params["api_base"] = anthropic
        elif params["model"].startswith("bedrock/"):
            params["aws_bedrock_runtime_endpoint"] = bedrock
    return json.dumps(data, indent=1)


@pytest.fixture(scope="session")
def _daemon(_upstreams: tuple[Standin, Standin]) -> Iterator[Shipped]:
    with Shipped(_upstreams[0].url, _upstreams[1].url) as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def daemon(_daemon: Shipped, anthropic: Standin, bedrock: Standin) -> Shipped:
    """The daemon of the whole run: whoever uses it leaves it serving."""
    _daemon.wait_ready()
    return _daemon


@pytest.fixture
def boxes(
    client: clients.Client,
    certificates: tuple[Path, Path],
    recorder: Standin,
    anthropic: Standin,
    bedrock: Standin,
) -> Iterator[Callable[..., Box]]:
    """Makes homes; everything that was started for one is gone when the test is over.

    Before the stand-ins hang up, therefore they are named: what runs in the background asks until it is ended.
    """
    made: list[Box] = []

    def make(daemon: Daemon | None = None, root: Path | None = None) -> Box:
        box = Box(client, certificates[0], daemon, **({"root": root} if root else {}))
        made.append(box)
        return box

    yield make
    left = [line for box in made for line in box.close()]
    assert not left, f"left behind: {left}"


@pytest.fixture
def box(boxes: Callable[..., Box], daemon: Shipped) -> Box:
    """A home with ``claude`` and ``openclaude``, the daemon serving."""
    return boxes(daemon)


@pytest.fixture
def own_stopped(
    _upstreams: tuple[Standin, Standin], anthropic: Standin, bedrock: Standin
) -> Iterator[Shipped]:
    """A configuration of the test's own whose daemon does not run yet."""
    with Shipped(anthropic.url, bedrock.url) as daemon:
        yield daemon
        daemon.gone()


@pytest.fixture
def own(own_stopped: Shipped) -> Shipped:
    """A running daemon of the test's own, for what spoils it."""
    own_stopped.start()
    return own_stopped
