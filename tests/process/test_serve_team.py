"""``ocd serve --team``: two real servers with TLS on one PostgreSQL, a colleague's real daemon, and what breaks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import SLOW, Daemon, eventually
from tests.helpers.team_servers import Server, Team, body, missing, running

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

needs = pytest.mark.skipif(bool(missing()), reason=missing())
pytest.importorskip("psycopg", reason="psycopg is not installed (requirements/team.txt)")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, upstreams: Upstreams) -> Iterator[Team]:
    with running(tmp_path_factory.mktemp("pki"), upstreams.bedrock, 2) as found:
        yield found


@pytest.fixture(scope="module")
def price(team: Team) -> float:
    """What one request of ``body`` costs, in US dollars."""
    assert team.servers[0].ask(team.invite("price")).status_code == 200
    mine = eventually(
        lambda: [one for one in team.servers[0].events("request") if one["person"] == "price"], 10
    )
    (request,) = mine
    assert request["units"] > 0
    return float(request["units"]) / 1e8


@needs
def test_budgets_are_exact_across_servers(team: Team, upstreams: Upstreams, price: float) -> None:
    upstreams.behave()
    # What is reserved is more than a request costs; nobody is admitted once the limit is spent or reserved, whichever
    # server is asked. So six are admitted in the end, the sixth of which crosses it.
    key = team.invite("budget", "--budget-day", f"{price * 5.5:.8f}")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(team.servers[n % 2].ask, key, max_tokens=1000) for n in range(24)]
        codes = [one.result().status_code for one in asked]
    assert set(codes) == {200, 424}, codes
    got = None
    while got is None or got.status_code == 200:
        team.settled("budget", price * codes.count(200))
        got = team.servers[len(codes) % 2].ask(key, max_tokens=1000)
        codes.append(got.status_code)
    assert got.status_code == 424 and "budget" in got.json()["error"]["message"]
    assert codes.count(200) == 6
    assert team.servers[len(codes) % 2].ask(key).status_code == 424
    team.settled("budget", price * 6)


@needs
def test_a_revoked_key_is_refused_everywhere(team: Team) -> None:
    key = team.invite("leaver")
    assert [server.ask(key).status_code for server in team.servers] == [200, 200]
    team.occtl("revoke", "leaver")
    assert [server.ask(key).status_code for server in team.servers] == [403, 403]
    trail = subprocess.run(
        [sys.executable, "-m", "ocd.ctl", "team", "list", "--audit"],
        env=team.env,
        capture_output=True,
        text=True,
    ).stdout
    assert "revoke  leaver" in trail and key not in trail


@needs
def test_a_database_that_is_away_stops_nobody_and_nothing_is_lost(team: Team, price: float) -> None:
    key, unknown = team.invite("steady"), "sk-ocdteam-" + "0" * 64
    # Both have read of whom they have not met yet.
    reads = [eventually(lambda s=server: s.ask(key).status_code == 200, 10) for server in team.servers]
    team.settled("steady", 2 * price)
    team.postgres.stop()
    try:
        for n in range(6):
            assert team.servers[n % 2].ask(key).status_code == 200
        assert team.servers[0].ask(unknown).status_code == 403
        assert all(server.ready() for server in team.servers) and all(reads)
        assert team.servers[0].events("database-away")
    finally:
        team.postgres.start()
    team.settled("steady", 8 * price)
    eventually(lambda: team.servers[0].events("database-back"), 10)


@needs
def test_figures_for_prometheus(team: Team, price: float) -> None:
    text = httpx.get(f"http://127.0.0.1:{team.servers[0].port + 1}/metrics", trust_env=False).text
    assert 'ocd_team_requests_total{model="qwen-3-coder",person="price",status="200"} 1.0' in text
    assert "sk-" not in text and "ocd_team_database_up 1.0" in text


@needs
def test_a_colleagues_ocd(team: Team, addresses: dict[str, str], upstreams: Upstreams, price: float) -> None:
    upstreams.behave()
    line = team.occtl("invite", "ada", "--url", "https://team.example")["line"]
    key = line.split("OCD_TEAM_KEY=")[1].split()[0]
    more = f'[team]\nurl = "{team.servers[1].url}"\n[proxies.bedrock]\nenabled = false\n'
    more += f'[proxies.main.env]\nNODE_EXTRA_CA_CERTS = "{team.pki / "authority.pem"}"\n'
    with Daemon(upstreams=addresses, settings=more) as daemon:
        daemon.env["OCD_TEAM_KEY"] = key
        daemon.start(wait=False)
        eventually(lambda: daemon.proxy()["state"] == "ready", 90)
        upstreams.reset()
        for stream in (False, True):
            got = daemon.ask("qwen-3-coder", stream=stream)
            assert got.status_code == 200, got.text
        assert len(upstreams.seen("bedrock")) == 2 and not upstreams.seen("anthropic")
        eventually(lambda: team.spent("ada") >= 2 * price - 1e-9, 10)
        team.occtl("revoke", "ada")
        assert daemon.ask("qwen-3-coder").status_code == 424, "no login is asked for"


@needs
def test_its_litellm_killed_is_started_again(team: Team) -> None:
    key, server = team.invite("again"), team.servers[0]
    pid = server.events("proxy-started")[-1]["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.events("proxy-ended"), 10)
    eventually(lambda: server.ready() and server.events("proxy-started")[-1]["pid"] != pid, 60)
    assert server.ask(key).status_code == 200
    # Somebody who says nothing is sent away (after 20 s).
    with ssl.create_default_context(cafile=str(team.pki / "authority.pem")).wrap_socket(
        socket.create_connection(("127.0.0.1", server.port)), server_hostname="127.0.0.1"
    ) as silent:
        silent.settimeout(40 * SLOW)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert silent.recv(1) == b""
    with pytest.raises(httpx.ConnectError):
        httpx.get(
            f"{server.url}/health/liveness", trust_env=False
        )  # its authority is not one of the system's


@needs
def test_killed_in_flight_it_is_counted_and_ended_gently_nothing_is_cut(
    team: Team, upstreams: Upstreams, price: float
) -> None:
    key = team.invite("flight")
    upstreams.behave(Behaviour(upstream="bedrock", chunks=40, delay=0.1))
    third = Server(team)
    try:
        eventually(third.ready, 120, "a third server is ready")
        ended: list[str] = []

        def stream(server: Server) -> None:
            with contextlib.suppress(httpx.HTTPError), server.client() as client:
                headers = {"authorization": f"Bearer {key}"}
                asked = client.stream("POST", "/v1/messages", headers=headers, json=body(stream=True))
                with asked as answer:
                    ended.append("")
                    ended[-1] = answer.read().decode()

        one = threading.Thread(target=stream, args=(third,))
        one.start()
        eventually(lambda: ended, 30, "the answer has begun")
        reserved = team.spent("flight")
        assert reserved > 0
        third.process.kill()
        third.process.wait()
        one.join(30)
        assert "message_stop" not in ended[0]
        booked = team.servers[0].events, team.servers[1].events
        eventually(lambda: any(events("reservations-expired") for events in booked), 30, "it expires")
        assert team.spent("flight") == reserved, "as it was reserved"
    finally:
        third.close()
    # Ended gently: a server finishes what it has begun.
    other = Server(team)
    try:
        eventually(other.ready, 120, "a fourth server is ready")
        ended.clear()
        two = threading.Thread(target=stream, args=(other,))
        two.start()
        eventually(lambda: ended, 30)
        other.process.send_signal(signal.SIGTERM)
        two.join(60)
        assert "message_stop" in ended[0]
        assert other.process.wait(30 * SLOW) == 0 and other.events("ended") and not other.events("not-booked")
    finally:
        other.close()
    assert team.spent("flight") > reserved
    upstreams.behave()
