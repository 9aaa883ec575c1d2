"""Fixtures for tests that run the real daemon. A module shares one daemon; a test that spoils it takes its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ocd.selftest.upstreams import Upstreams, in_thread
from tests.helpers import one_context
from tests.helpers.daemon import Daemon

one_context.install()


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with in_thread() as up:
        yield up


@pytest.fixture(scope="module")
def addresses(upstreams: Upstreams) -> dict[str, str]:
    return {"anthropic": upstreams.anthropic, "bedrock": upstreams.bedrock}


@pytest.fixture(scope="module")
def shared(addresses: dict[str, str]) -> Iterator[Daemon]:
    """One daemon for a module's tests: each leaves it serving."""
    limits = "[supervision]\nrestart_intensity = 1000\nsustained_ready = 0.5\nbackoff_first = 0.05\n"
    with Daemon(upstreams=addresses, settings=limits) as daemon:
        daemon.start()
        yield daemon


@pytest.fixture
def daemon(shared: Daemon, upstreams: Upstreams) -> Daemon:
    upstreams.behave()
    if shared.keys_are_due():
        # A test before this one gave up a port: after a minute without a connection the proxies are put to sleep for
        # other keys, which would be in the middle of a test.
        shared.ask()
    shared.wait_ready(settled=True)
    return shared
