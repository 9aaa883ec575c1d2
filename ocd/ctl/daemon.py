"""The line to the running daemon: HTTP/1.1 and JSON over its UNIX socket. One object, opened per command.

Nothing here prints. Everything that can go wrong becomes an ``OcdError`` with the exit code to end with.
"""

import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from ocd import API_VERSION, __version__, paths
from ocd.errors import EX_NOPERM, EX_PROTOCOL, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.keeper.folders import state_dir
from ocd.keeper.lock import held

if TYPE_CHECKING:
    import httpx

    from ocd.wire.messages import Message

    M = TypeVar("M", bound=Message)

#: seconds for calls that the daemon answers at once; those that wait for an outcome have no limit of ours,
#: because the daemon has one and knows why it takes long
QUICK = 10.0

#: launchd's name of the agent
LABEL = "io.github.ocd"

#: the command that makes client and daemon one version again
CURE = "Run `occtl reexec`"


class NotRunning(OcdError):
    """No daemon of this user listens. Exit code 69."""

    def __init__(self, socket_path: str) -> None:
        super().__init__(
            "The daemon is not running",
            f"nothing listens on {socket_path}",
            "Run `occtl start`",
            exit_code=EX_UNAVAILABLE,
            code="not-running",
        )


def find_socket(connect_seconds: float = QUICK, starts: bool = False) -> str:
    """The path of the control socket on which this user's daemon listens.

    Where a service manager holds the socket, a connection would start the daemon: whoever only looks does not connect
    when no daemon runs. ``starts``: one that is just coming up is meant, and starting it is welcome.

    Raises NotRunning when none does, OcdError with exit 77 when the folder, the socket or the process behind
    it belongs to somebody else: such a socket is never spoken to.
    """
    foreign: OcdError | None = None
    folders = paths.runtime_dirs()
    if not starts and _activated() and not held(os.path.join(state_dir(), "lock")):
        raise NotRunning(paths.control_socket(folders[0]))
    for folder in folders:
        path = paths.control_socket(folder)
        try:
            _own(folder, stat.S_ISDIR, "a folder")
            _own(path, stat.S_ISSOCK, "a socket")
            _listening(path, connect_seconds)
        except OcdError as error:
            # Only where our daemon would be: in the other places anybody could stand in the way.
            if folder == folders[0]:
                foreign = error
        except TimeoutError:
            raise OcdError(
                "The daemon does not accept connections",
                f"{path} did not within {connect_seconds:g} s",
                "Try again; if it stays so, end the daemon's process and run `occtl start`",
                exit_code=EX_TEMPFAIL,
                code="no-answer",
            ) from None
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            continue
        except OSError as error:
            if folder == folders[0]:
                foreign = OcdError(
                    f"Cannot reach the control socket {path}",
                    error.strerror or str(error),
                    "Look at the folder's owner and mode",
                    exit_code=EX_NOPERM,
                    code="socket-unreachable",
                )
        else:
            return path
    if foreign:
        raise foreign
    raise NotRunning(paths.control_socket())


def _activated() -> bool:
    """Whether a service manager may hold the control socket for a daemon that does not run (systemd.socket(5))."""
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return os.path.exists(f"{home}/Library/LaunchAgents/{LABEL}.plist")
    config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return any(
        os.path.lexists(f"{folder}/systemd/user/ocd.socket")
        for folder in (config, "/etc", "/usr/lib", "/run")
    )


def _own(path: str, kind: Callable[[int], bool], name: str) -> None:
    found = os.lstat(path)
    if not kind(found.st_mode):
        raise _foreign(path, f"it is not {name}")
    if found.st_uid != _uid():
        raise _foreign(path, f"it belongs to user {found.st_uid}")
    if kind is stat.S_ISDIR and found.st_mode & 0o022:
        raise _foreign(path, "others may write to it")


def _uid() -> int:
    return os.getuid()


def _listening(path: str, seconds: float) -> None:
    """Connect once: raises ConnectionRefusedError on a stale socket, OcdError when another user answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(seconds)
        probe.connect(path)
        if sys.platform == "linux":
            # unix(7): the credentials of the process that called listen(2)
            _, uid, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != _uid():
                raise _foreign(path, f"a process of user {uid} listens on it")


def _foreign(path: str, why: str) -> OcdError:
    return OcdError(
        f"Cannot trust {path}",
        why,
        f"Remove {path}, or name another folder in OCD_RUNTIME_DIR",
        exit_code=EX_NOPERM,
        code="socket-not-ours",
    )


def is_running() -> bool:
    """Whether this user's daemon listens. Raises OcdError like ``find_socket`` for all but its absence."""
    try:
        find_socket()
    except NotRunning:
        return False
    return True


class Daemon:
    """An open line to the running daemon; use it in a ``with`` block. ``starts`` and errors as of ``find_socket``."""

    def __init__(self, starts: bool = False) -> None:
        import httpx

        self.socket = find_socket(starts=starts)
        self._http = httpx.Client(
            # No certificates: nothing is encrypted here, and SSL_CERT_FILE may name what is not there.
            transport=httpx.HTTPTransport(uds=self.socket, verify=False, trust_env=False),
            base_url="http://ocd",
            timeout=QUICK,
            # a proxy in the environment has no business with a UNIX socket
            trust_env=False,
            headers={"User-Agent": f"occtl/{__version__}"},
        )

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, model: "type[M]", path: str, *, slow: bool = False, **query: Any) -> "M":
        """``GET path``. ``slow``: the daemon answers when it is done, however long that takes.

        Raises OcdError: the daemon's own Problem, exit 69 when it went away, 75 when a quick call took longer
        than ten seconds, 76 when the answer is not a ``model``.
        """
        return self._call(model, "GET", path, slow, params=query)

    def post(self, model: "type[M]", path: str, body: "Message | None" = None, *, slow: bool = True) -> "M":
        """``POST path`` with ``body`` as JSON; otherwise like ``get``."""
        content = body.model_dump_json().encode() if body else None
        headers = {"Content-Type": "application/json"} if body else {}
        return self._call(model, "POST", path, slow, content=content, headers=headers)

    def lines(self, model: "type[M]", path: str, **query: Any) -> "Iterator[M]":
        """``GET path``, one JSON object a line; yields each as it comes, until the daemon ends the stream."""
        for line in self.raw_lines(path, **query):
            yield self._parse(model, line, path)

    def raw_lines(self, path: str, **query: Any) -> Iterator[str]:
        """Like ``lines``, without a look at what is in them."""
        import httpx

        timeout = httpx.Timeout(QUICK, read=None)
        try:
            with self._http.stream("GET", path, params=query, timeout=timeout) as reply:
                if reply.status_code >= 400:
                    reply.read()
                    raise self._refusal(reply)
                for line in reply.iter_lines():
                    if line.strip():
                        yield line
        except httpx.TransportError as error:
            raise self._broken(error, "GET", path) from None

    def _call(self, model: "type[M]", method: str, path: str, slow: bool, **request: Any) -> "M":
        import httpx

        timeout = httpx.Timeout(QUICK, read=None if slow else QUICK)
        try:
            reply = self._http.request(method, path, timeout=timeout, **request)
        except httpx.TransportError as error:
            raise self._broken(error, method, path) from None
        if reply.status_code >= 400:
            raise self._refusal(reply)
        return self._parse(model, reply.content, path)

    def _parse(self, model: "type[M]", content: bytes | str, path: str) -> "M":
        try:
            # A newer daemon of the same API may say more than we know: that is no reason to fail.
            return model.model_validate_json(content, extra="ignore")
        except ValueError:
            raise self._misunderstood(f"its answer to {path} is not a {model.__name__}") from None

    def _refusal(self, reply: "httpx.Response") -> OcdError:
        from ocd.wire.messages import ErrorReply

        try:
            problem = ErrorReply.model_validate_json(reply.content, extra="ignore").error
        except ValueError:
            return self._misunderstood(f"it answered {reply.status_code} to {reply.request.url.path}")
        code = problem.exit if 0 < problem.exit < 256 else EX_SOFTWARE
        return OcdError(problem.what, problem.why, problem.next, exit_code=code, code=problem.code)

    def _misunderstood(self, why: str) -> OcdError:
        other = self._other_version()
        if other:
            return OcdError(
                f"This is occtl {__version__}, the daemon is {other}",
                why,
                CURE,
                exit_code=EX_PROTOCOL,
                code="version",
            )
        return OcdError(
            "Cannot understand the daemon",
            why,
            "Run `occtl restart`; if it stays so, run `occtl stop`, then `occtl start`",
            exit_code=EX_PROTOCOL,
            code="protocol",
        )

    def _other_version(self) -> str:
        """The daemon's version when it differs from ours, else an empty string. Never raises."""
        import httpx

        try:
            said = self._http.get("/v1/version").json()
            version, api = str(said["version"]), said["api"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ""
        if api != API_VERSION:
            return f"{version} (API {api}, not {API_VERSION})"
        return version if version != __version__ else ""

    def _broken(self, error: "httpx.TransportError", method: str, path: str) -> OcdError:
        import httpx

        if isinstance(error, httpx.ConnectError):
            return NotRunning(self.socket)
        if isinstance(error, httpx.TimeoutException):
            return OcdError(
                "The daemon does not answer",
                f"no answer to {method} {path} within {QUICK:g} s",
                "Try again; `occtl events` says what it is doing",
                exit_code=EX_TEMPFAIL,
                code="no-answer",
            )
        return OcdError(
            "The daemon broke off its answer",
            f"{method} {path}: {str(error) or type(error).__name__}",
            "Run `occtl status` to see whether it still runs",
            exit_code=EX_PROTOCOL,
            code="broken-off",
        )


def differs(daemon_version: str) -> str:
    """What to tell a person when the daemon is of another version than this command, else an empty string."""
    if daemon_version == __version__:
        return ""
    return f"This is occtl {__version__}, the daemon is {daemon_version}. {CURE}."
