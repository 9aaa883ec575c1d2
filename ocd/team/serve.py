"""``ocd serve --team``: the process. Foreground, fit to be PID 1; JSON lines on standard output, nothing else there."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Mapping
from typing import Any

import uvicorn
from prometheus_client import start_http_server
from pydantic import SecretStr

from ocd.errors import EX_CONFIG, EX_OK, EX_UNAVAILABLE, EX_USAGE, OcdError
from ocd.guest.door import Door
from ocd.mask import mask
from ocd.settings.findings import ConfigError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.supervisor.files.settings_file import SettingsFile
from ocd.team import database
from ocd.team.front import Figures, Front
from ocd.team.gate import Gate
from ocd.team.proxy import Proxy
from ocd.team.store import Store

#: seconds in which a closing server tells the database what it has not been told
LAST_WORDS = 20.0
#: What an engine's platform puts into a container's environment: where its own identity is to be had (EKS's service
#: accounts and pod identity, ECS's task roles). A person's daemon inherits nothing; here nobody else sets these.
IDENTITY = (
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
)


def tell(what: str, **fields: Any) -> None:
    """One line of the log. Whoever reads it may be slow or gone: that stops nobody."""
    line = json.dumps({"time": round(time.time(), 3), "event": what, **fields}, default=str)
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)


class Lines(logging.Handler):
    """What libraries log becomes lines like all others; of an exception its name, which cannot quote a secret."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        tell(
            "log",
            level=record.levelname.lower(),
            logger=record.name,
            text=mask(record.getMessage()),
            error=error,
        )


def arguments(words: list[str]) -> argparse.Namespace:
    """Raises OcdError (exit 64); ``-h`` ends the process."""
    parser = argparse.ArgumentParser(
        prog="ocd serve",
        description="Serve the bedrock proxy to a team: personal keys, budgets in a database. See docs/team.md.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--team", action="store_true", help="serve a team (there is nothing else to serve)")
    add(
        "--listen",
        metavar="HOST:PORT",
        default="0.0.0.0:8443",
        help="where; [::]:8443 for IPv6 (%(default)s)",
    )
    add("--cert", metavar="FILE", default="", help="certificate chain (PEM)")
    add("--key", metavar="FILE", default="", help="its private key (PEM)")
    add("--plain", action="store_true", help="HTTP without TLS, for behind an engine's own proxy that has it")
    add("--database", metavar="URL", default="", help="sqlite:///FILE or postgresql://… without a password")
    add(
        "--metrics", metavar="HOST:PORT", default="", help="serve figures for Prometheus there, without a key"
    )
    add(
        "--linger",
        metavar="S",
        type=float,
        default=5.0,
        help="after SIGTERM accept for so long (%(default)s)",
    )
    add(
        "--drain",
        metavar="S",
        type=float,
        default=600.0,
        help="then finish answers for so long (%(default)s)",
    )
    add("--cache", metavar="S", type=float, default=10.0, help="read the people so often (%(default)s)")
    add(
        "--outage",
        metavar="S",
        type=float,
        default=60.0,
        help="go on without database for so long (%(default)s)",
    )
    add(
        "--hold",
        metavar="S",
        type=float,
        default=600.0,
        help="keep a dead server's reservations (%(default)s)",
    )
    try:
        found, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise usage(str(error)) from None
    if rest:
        raise usage(f"there is no {rest[0]}")
    if not found.team:
        raise usage("--team says what is served")
    if found.plain == bool(found.cert and found.key) or (found.plain and (found.cert or found.key)):
        raise usage("either --cert and --key are needed, or --plain")
    if min(found.cache, found.outage, found.hold) <= 0 or min(found.linger, found.drain) < 0:
        raise usage("seconds are more than 0")
    return found


def usage(why: str) -> OcdError:
    return OcdError(
        "ocd serve cannot be run like that", why, "Run `ocd serve --help`", exit_code=EX_USAGE, code="usage"
    )


def place(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises OcdError (exit 64)."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise usage(f"{text} is no HOST:PORT")
    return host.strip("[]"), int(port)


def with_identity(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The settings with the workload's identity for the proxy that signs; what ocd.toml says wins."""
    given = {name: SecretStr(environ[name]) for name in IDENTITY if environ.get(name)}
    bedrock = settings.proxies.bedrock
    bedrock = bedrock.model_copy(update={"env": {**given, **bedrock.env}})
    return settings.model_copy(update={"proxies": settings.proxies.model_copy(update={"bedrock": bedrock})})


class Server(uvicorn.Server):
    """SIGTERM or SIGINT: not ready any more, accept for ``linger`` seconds (until the engine has noticed), then finish
    what runs. A second signal ends at once."""

    def __init__(self, config: uvicorn.Config, front: Front, linger: float) -> None:
        super().__init__(config)
        self._front = front
        self._linger = linger
        self.signals = 0

    def on_signal(self) -> None:
        self.signals += 1
        if self.signals > 1:
            self.should_exit = self.force_exit = True
            return
        self._front.draining = True
        tell("draining", open=len(self._front.gate.open))
        asyncio.get_running_loop().call_later(self._linger, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Ours are on the loop already."""
        yield


def main(words: list[str]) -> int:
    """Returns the exit code. Raises OcdError."""
    try:
        options = arguments(words)
    except SystemExit as end:  # --help
        return int(end.code or 0)
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, handlers=[Lines()])
    folders = Folders.find().ensure()
    file = SettingsFile(folders)
    try:
        settings = with_identity(file.load(), os.environ)
    except ConfigError as error:
        raise OcdError(
            "ocd.toml cannot be used", str(error), "Correct it", exit_code=EX_CONFIG, code="team-settings"
        ) from None
    store = Store(database.Database(database.address(options.database, os.environ)))
    return asyncio.run(serve(options, folders, file, settings, store))


async def serve(
    options: argparse.Namespace, folders: Folders, file: SettingsFile, settings: Any, store: Store
) -> int:
    loop = asyncio.get_running_loop()
    host, port = place(options.listen)
    gate = Gate(store, options.cache, options.outage, options.hold, tell)
    figures = Figures()
    fronts: list[Front] = []
    proxy = Proxy(folders, settings, lambda fields: fronts[0].on_request(fields), tell)
    door = Door()
    front = Front(proxy, gate, figures, tell, door.known)
    fronts.append(front)
    settings_id = file.keep(settings)
    await proxy.examine(settings_id, file.path(settings_id))
    try:
        ran = await asyncio.to_thread(store.database.migrate)
    except database.Away as error:
        # The engine starts us again, until it is there.
        raise database.away(error) from None
    tell("database", kind=store.database.kind, migrations=ran)
    config = uvicorn.Config(
        front,
        host=host,
        port=port,
        ssl_certfile=options.cert or None,
        ssl_keyfile=options.key or None,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(options.drain)),
        ws="none",
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise OcdError(
            "The certificate cannot be used",
            getattr(error, "strerror", "") or str(error),
            "Correct --cert and --key",
            exit_code=EX_CONFIG,
            code="team-certificate",
        ) from None
    plain: Any = config.http_protocol_class
    # Strangers that open connections and stay silent: so many at most, and each for so long.
    config.http_protocol_class = lambda **given: door.watch(plain(**given))  # type: ignore[assignment]
    server = Server(config, front, options.linger)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.on_signal)
    if options.metrics:
        address, metrics = place(options.metrics)
        start_http_server(metrics, address, registry=figures.registry)
    tasks = [asyncio.ensure_future(gate.run()), asyncio.ensure_future(proxy.run())]
    tell("listening", address=options.listen, tls=not options.plain)
    try:
        await server.serve()
    except SystemExit:  # uvicorn's, when the address is taken
        pass
    finally:
        await front.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        proxy.kill()
        await gate.close(LAST_WORDS)
        tell("ended")
    return EX_OK if server.signals else EX_UNAVAILABLE


def run(words: list[str]) -> int:
    """``main`` with errors for people, on standard error."""
    try:
        return main(words)
    except OcdError as error:
        print(f"ocd: {error.sentence()}", file=sys.stderr)
        return error.exit_code
