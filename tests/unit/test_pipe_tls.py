"""TLS, trust and proxies as the user's machine has them, and what is said when they are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ocd.guest.layers import upstream
from tests.helpers.pipes import (
    HOP_KEY,
    SECRET,
    Asked,
    Standin,
    answer,
    anthropic,
    chunked,
    request,
    run,
    saying,
    serving,
)

JSON = (b"content-type", b"application/json")
GOOD = answer(200, b'{"ok":1}', JSON)


OPENSSL = shutil.which("openssl")
HERE = "subjectAltName=IP:127.0.0.1,DNS:llm.example"
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command makes the certificates")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of our own and certificates of its: good, expired, of another name; one that signs itself."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name, extension in (("authority", "keyUsage=keyCertSign"), ("itself", HERE)):
        openssl(*new, "-x509", "-days", "2", "-subj", f"/CN={name}", "-addext", extension,
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name, names, days in (
        ("good", HERE, "2"),
        ("expired", HERE, "-1"),
        ("other", "subjectAltName=DNS:x", "2"),
    ):
        (folder / f"{name}.ext").write_text(names)
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
                "-CAcreateserial", "-days", days, "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    return folder


def context(pki: Path, name: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    return made


async def asked(pki: Path, name: str, environ: dict[str, str], play: Any = None) -> Any:
    up = Standin(play or saying(GOOD))
    table: dict[str, Any] = {"groups": {"claude-*": None}}
    async with up.serving(ssl=context(pki, name)):
        table["groups"]["claude-*"] = anthropic(up.url)
        async with serving(table, environ=environ) as setup:
            return await setup.ask(request()), await setup.heard(), up


@needs_openssl
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"])
def test_a_companys_own_authority(pki: Path, variable: str) -> None:
    got, _told, up = run(asked, pki, "good", {variable: str(pki / "authority.pem")})
    assert got.status == 200 and got.body == b'{"ok":1}' and len(up.asked) == 1


@needs_openssl
def test_a_stream_over_tls_passes_and_breaks_like_any_other(pki: Path) -> None:
    environ = {"NODE_EXTRA_CA_CERTS": str(pki / "authority.pem")}
    pieces = chunked(b"event: a\n\n", b"event: message_stop\ndata: {}\n\n")
    got, _told, _up = run(asked, pki, "good", environ, saying(*pieces))
    assert got.whole and got.body == b"event: a\n\nevent: message_stop\ndata: {}\n\n"
    got, told, _up = run(asked, pki, "good", environ, saying(*pieces[:-1], close=True))
    assert not got.whole and told["trouble"] == "cut"


@needs_openssl
@pytest.mark.parametrize("name", ["expired", "other", "itself", "untrusted"])
def test_a_certificate_that_is_not_to_be_trusted(pki: Path, name: str) -> None:
    """Nothing is sent, the answer says what to do, and the client does not try again for minutes."""
    environ = {} if name == "untrusted" else {"SSL_CERT_FILE": str(pki / "authority.pem")}
    got, told, up = run(asked, pki, "good" if name == "untrusted" else name, environ)
    error = json.loads(got.body)["error"]
    assert got.status == 502 and error["type"] == "api_error" and "is not trusted" in error["message"]
    assert "NODE_EXTRA_CA_CERTS" in error["message"] and got.header(b"x-should-retry") == b"false"
    assert up.asked == [] and told["trouble"] == "unreachable"
    assert SECRET not in got.raw.decode("latin-1") and str(pki) not in error["message"]


def test_certificates_that_cannot_be_read_are_named() -> None:
    for environ in ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, {"NODE_EXTRA_CA_CERTS": __file__}):

        async def one(environ: dict[str, str] = environ) -> Any:
            async with serving(
                {"groups": {"claude-*": anthropic("https://127.0.0.1:9")}}, environ=environ
            ) as setup:
                return await setup.ask(request())

        got = run(one)
        error = json.loads(got.body)["error"]["message"]
        assert got.status == 502 and next(iter(environ)) in error


def test_plain_http_where_tls_is_expected_is_an_error() -> None:
    async def one() -> Any:
        up = Standin(saying(GOOD))
        async with up.serving():
            table = {"groups": {"claude-*": anthropic(up.url.replace("http:", "https:"))}}
            async with serving(table, client=upstream.Client({}, connect=0.3)) as setup:
                return await setup.ask(request()), up

    got, up = run(one)
    assert got.status in (502, 504) and up.asked == []


# ----------------------------------------------------------------------------------------------- proxies


class Proxy:
    """A company's HTTP proxy: notes what is asked of it, and connects to where it is told to."""

    def __init__(self, status: bytes = b"200 Connection established", target: int = 0) -> None:
        self.status = status
        self.target = target
        self.asked: list[Asked] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.ensure_future(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(Asked(head, b""))
            if not head.startswith(b"CONNECT"):
                await reader.readexactly(int(self.asked[-1].header(b"content-length") or b"0"))
                writer.write(GOOD)
                return
            writer.write(b"HTTP/1.1 %b\r\nx-proxy: 1\r\n\r\n" % self.status)
            if not self.status.startswith(b"2"):
                writer.close()
                return
            there, onward = await asyncio.open_connection("127.0.0.1", self.target)

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                with contextlib.suppress(ConnectionError):
                    while piece := await source.read(65536):
                        sink.write(piece)
                sink.close()

            with contextlib.closing(onward):
                await asyncio.gather(pump(reader, onward), pump(there, writer))


async def through(pki: Path, environ: dict[str, str], **how: Any) -> Any:
    """A request for https://llm.example, which only the proxy knows."""
    up = Standin(saying(GOOD))
    async with up.serving(ssl=context(pki, "good")), Proxy(target=up.port, **how).serving() as proxy:
        environ = {name: value.replace("PORT", str(proxy.port)) for name, value in environ.items()}
        environ["SSL_CERT_FILE"] = str(pki / "authority.pem")
        table = {"groups": {"claude-*": anthropic("https://llm.example")}}
        client = upstream.Client(environ, connect=5.0)
        async with serving(table, environ=environ, client=client) as setup:
            return [await setup.ask(request()) for _ in range(2)], proxy, up


@needs_openssl
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_companys_proxy_gets_a_tunnel_and_nothing_else(pki: Path, variable: str) -> None:
    got, proxy, up = run(through, pki, {variable: "http://me:p%40ss@127.0.0.1:PORT"})
    assert [one.status for one in got] == [200, 200]
    (asked_,) = proxy.asked
    assert asked_.line == b"CONNECT llm.example:443 HTTP/1.1"
    assert asked_.header(b"proxy-authorization") == b"Basic bWU6cEBzcw=="
    assert SECRET.encode() not in asked_.head
    assert len(up.asked) == 2 and up.connections == 1, "the tunnel is kept"
    assert all(one.header(b"proxy-authorization") is None for one in up.asked)


@needs_openssl
def test_a_proxy_that_refuses_is_named(pki: Path) -> None:
    got, _proxy, up = run(lambda: through(pki, {"HTTPS_PROXY": "127.0.0.1:PORT"}, status=b"407 Login"))
    error = json.loads(got[0].body)["error"]["message"]
    assert got[0].status == 503 and "refuses llm.example (407)" in error and "HTTPS_PROXY" in error
    assert up.asked == []


def test_plain_http_goes_through_a_proxy_whole() -> None:
    async def one() -> Any:
        async with Proxy().serving() as proxy:
            environ = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
            table = {"groups": {"claude-*": anthropic("http://llm.example:8080/base")}}
            async with serving(table, environ=environ) as setup:
                return await setup.ask(request()), proxy

    got, proxy = run(one)
    assert got.status == 200
    assert proxy.asked[0].line == b"POST http://llm.example:8080/base/v1/messages?beta=true HTTP/1.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_stays_on_this_machine_never_goes_through_a_proxy(host: str) -> None:
    """D12: the conversation and the bedrock proxy's key went to the company's proxy."""

    async def one() -> Any:
        up = Standin(saying(GOOD))
        async with up.serving(), Proxy().serving() as proxy:
            url = f"http://{host}:{up.port}"
            names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY")
            environ = {name: f"http://127.0.0.1:{proxy.port}" for name in names}
            table = {"groups": {"claude-*": anthropic(url), "qwen": {"way": "hop", "model": "qwen"}}}
            async with serving(table, environ=environ | {"OCD_BEDROCK_URL": f"{url}/v1"}) as setup:
                got = [await setup.ask(request(model)) for model in ("claude-opus-9-9", "qwen")]
                return got, proxy.asked

    got, seen = run(one)
    assert [one.status for one in got] == [200, 200] and seen == []


@pytest.mark.parametrize(
    ("rule", "excepted"),
    [
        ("llm.example", True),
        (".example", True),
        ("*.example", True),
        ("*", True),
        ("other, llm.example:443", True),
        ("llm.example:444", False),
        ("m.example", False),
        ("example.com", False),
        ("10.0.0.0/8", False),
        ("", False),
    ],
)
def test_exceptions(rule: str, excepted: bool) -> None:
    found = upstream.Proxies({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": rule})
    assert (found.of(upstream.Origin.parse("https://llm.example")) is None) == excepted
    inside = upstream.Proxies({"HTTPS_PROXY": "proxy:1", "no_proxy": "10.0.0.0/8,fd00::/8"})
    assert inside.of(upstream.Origin.parse("https://10.1.2.3")) is None
    assert inside.of(upstream.Origin.parse("https://[fd00::1]")) is None
    assert inside.of(upstream.Origin.parse("https://11.1.2.3")) is not None


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http:///x", "http://x:99999", "ftp://x"])
def test_an_address_that_is_no_proxy_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY is not the address of an HTTP proxy") as found:
        upstream.Proxies({"HTTPS_PROXY": value})
    assert value not in str(found.value)


@pytest.mark.parametrize(
    "url", ["", "unix:relative", "ftp://x", "http://", "https://u:p@x", "https://x?y", "http://x:0x1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        upstream.Origin.parse(url)


def test_a_name_that_does_not_exist_and_a_port_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one(url: str) -> Any:
        async with serving({"groups": {"claude-*": anthropic(url)}}) as setup:
            return await setup.ask(request()), await setup.heard()

    for url in ("http://no-such-host.invalid", "http://127.0.0.1:9"):
        got, told = run(one, url)
        error = json.loads(got.body)["error"]
        assert got.status == 503 and error["type"] == "api_error" and got.header(b"x-should-retry") is None
        assert told["trouble"] == "unreachable" and "Check the network connection" in error["message"]


def test_who_does_not_begin_to_answer_in_time_is_given_up() -> None:
    async def silent(_standin: Any, _asked: Any, _writer: Any) -> None:
        await asyncio.Event().wait()

    async def one() -> Any:
        up = Standin(silent)
        async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url, timeout=0.05)}}) as setup:
            got = await setup.ask(request())
            await asyncio.wait_for(up.ended.wait(), 10)
            return got, await setup.heard()

    got, told = run(one)
    assert got.status == 504 and json.loads(got.body)["error"]["type"] == "timeout_error"
    assert told["trouble"] == "upstream-error"


def test_a_connection_that_takes_too_long_is_given_up() -> None:
    """An address that answers nothing at all: the handshake never ends."""

    async def one() -> Any:
        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(deaf, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = upstream.Client({}, connect=0.1)
        async with serving(
            {"groups": {"claude-*": anthropic(f"https://127.0.0.1:{port}")}}, client=client
        ) as setup:
            got = await setup.ask(request())
            server.close()
            return got, client.open

    got, left = run(one)
    assert got.status == 504 and b"no connection to 127.0.0.1 within" in got.body and left == 0


def test_too_many_at_once_are_refused_not_queued_for_ever() -> None:
    async def silent(_standin: Any, _asked: Any, _writer: Any) -> None:
        await asyncio.Event().wait()

    async def one() -> Any:
        up = Standin(silent)
        async with up.serving():
            client = upstream.Client({}, most=1)
            async with serving({"groups": {"claude-*": anthropic(up.url)}}, client=client) as setup:
                _reader, writer = await setup.send(request())
                await up.arrived.wait()
                got = await setup.ask(request())
                writer.close()
                return got

    got = run(one)
    assert got.status == 529 and json.loads(got.body)["error"]["type"] == "overloaded_error"


def test_redirects_are_answers() -> None:
    """E12: a credential never follows one to another host."""

    async def one() -> Any:
        trap = Standin(saying(GOOD))
        async with trap.serving():
            up = Standin(saying(answer(307, b"", (b"location", trap.url.encode() + b"/v1/messages"))))
            async with up.serving(), serving({"groups": {"claude-*": anthropic(up.url)}}) as setup:
                return await setup.ask(request()), trap

    got, trap = run(one)
    assert got.status == 307 and got.header(b"location") is not None
    assert trap.asked == [] and trap.connections == 0


# ------------------------------------------------------------------------------------------ a team's Bedrock proxy


async def over_the_hop(pki: Path, name: str, host: str = "127.0.0.1") -> Any:
    """A request for a group of the hop's, which leads over TLS to somebody with the certificate ``name``."""
    up = Standin(saying(GOOD))
    table: dict[str, Any] = {"groups": {"qwen": {"way": "hop", "model": "qwen", "provider": "hop"}}}
    async with up.serving(ssl=context(pki, name)):
        url = up.url.replace("127.0.0.1", host)
        environ = {"OCD_BEDROCK_URL": f"{url}/v1", "NODE_EXTRA_CA_CERTS": str(pki / "authority.pem")}
        async with serving(table, environ=environ) as setup:
            return await setup.ask(request("qwen")), await setup.heard(), up


@needs_openssl
def test_a_teams_proxy_gets_its_own_key_and_nothing_of_the_sessions(pki: Path) -> None:
    got, _told, up = run(over_the_hop, pki, "good")
    assert got.status == 200
    (seen,) = up.asked
    assert seen.header(b"authorization") == f"Bearer {HOP_KEY}".encode()
    assert (
        SECRET.encode() not in seen.head + seen.body and seen.line == b"POST /v1/messages?beta=true HTTP/1.1"
    )


@needs_openssl
@pytest.mark.parametrize(
    ("name", "host"),
    [("expired", "127.0.0.1"), ("other", "127.0.0.1"), ("itself", "127.0.0.1"), ("good", "localhost")],
)
def test_whoever_is_not_the_teams_proxy_hears_nothing(pki: Path, name: str, host: str) -> None:
    """Expired, of another name, unknown, reached under another name: no head, no body, no key."""
    got, told, up = run(over_the_hop, pki, name, host)
    assert got.status in (502, 503) and b"did not answer" in got.body
    assert up.asked == [] and told["trouble"] == "unreachable"
    assert HOP_KEY.encode() not in got.raw and SECRET.encode() not in got.raw
