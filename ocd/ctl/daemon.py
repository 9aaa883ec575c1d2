"""The line to the running daemon: HTTP/1.1 and JSON over its UNIX socket. One object, opened per command.

Nothing here prints. Everything that can go wrong becomes an ``OcdError`` with the exit code to end with. The standard
library alone: what only looks has no time for more (``ocd/ctl/look``).
"""

import os
import stat
import sys

from ocd import API_VERSION, __version__, paths
from ocd.ctl.look import http, records
from ocd.errors import EX_NOPERM, EX_PROTOCOL, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.keeper.folders import state_dir
from ocd.keeper.lock import held

try:
    import _socket as socket
except ImportError:  # another Python implementation
    import socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

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


def _own(path: str, kind: "Callable[[int], bool]", name: str) -> None:
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
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(seconds)
        probe.connect(path)
        if sys.platform == "linux":
            # unix(7): the credentials of the process that called listen(2): pid, uid, gid
            told = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            uid = int.from_bytes(told[4:8], sys.byteorder)
            if uid != _uid():
                raise _foreign(path, f"a process of user {uid} listens on it")
    finally:
        probe.close()


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
        self.socket = find_socket(starts=starts)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open: each call has a connection of its own."""

    def get(self, model: "type[M]", path: str, *, slow: bool = False, **query: "Any") -> "M":
        """``GET path``. ``slow``: the daemon answers when it is done, however long that takes.

        Raises OcdError: the daemon's own Problem, exit 69 when it went away, 75 when a quick call took longer
        than ten seconds, 76 when the answer is not a ``model``.
        """
        return self._parse(model, self._call("GET", http.target(path, query), None, slow), path)

    def record(self, name: str, path: str, **query: "Any") -> "Any":
        """Like ``get``, for the message of that name: a Record, and no time spent on pydantic."""
        return self._record(name, self._call("GET", http.target(path, query), None, False), path)

    def post(self, model: "type[M]", path: str, body: "Message | None" = None, *, slow: bool = True) -> "M":
        """``POST path`` with ``body`` as JSON; otherwise like ``get``."""
        content = body.model_dump_json().encode() if body else None
        return self._parse(model, self._call("POST", path, content, slow), path)

    def lines(self, model: "type[M]", path: str, **query: "Any") -> "Iterator[M]":
        """``GET path``, one JSON object a line; yields each as it comes, until the daemon ends the stream."""
        for line in self.raw_lines(path, **query):
            yield self._parse(model, line, path)

    def check(self, name: str, line: str, path: str) -> "Any":
        """The Record of a line that ``raw_lines(path)`` gave. Raises OcdError (exit 76) where it is none."""
        return self._record(name, line, path)

    def raw_lines(self, path: str, **query: "Any") -> "Iterator[str]":
        """Like ``lines``, without a look at what is in them."""
        try:
            with self._request("GET", http.target(path, query), None, None) as reply:
                if reply.status >= 400:
                    raise self._refusal(reply.status, reply.body(), path)
                for line in reply.lines():
                    yield line.decode("utf-8", "replace").rstrip("\r")
        except (OSError, http.BrokenOff, http.Unreachable) as error:
            raise self._broken(error, "GET", path) from None

    def _request(self, method: str, target: str, body: bytes | None, wait: float | None) -> http.Request:
        agent = f"occtl/{__version__}"
        return http.Request(self.socket, method, target, body, agent=agent, connect=QUICK, wait=wait)

    def _call(self, method: str, target: str, body: bytes | None, slow: bool) -> bytes:
        path = target.partition("?")[0]
        try:
            with self._request(method, target, body, None if slow else QUICK) as reply:
                content = reply.body()
        except (OSError, http.BrokenOff, http.Unreachable) as error:
            raise self._broken(error, method, path) from None
        if reply.status >= 400:
            raise self._refusal(reply.status, content, path)
        return content

    def _parse(self, model: "type[M]", content: bytes | str, path: str) -> "M":
        try:
            # A newer daemon of the same API may say more than we know: that is no reason to fail.
            return model.model_validate_json(content, extra="ignore")
        except ValueError:
            raise self._misunderstood(f"its answer to {path} is not a {model.__name__}") from None

    def _record(self, name: str, content: bytes | str, path: str) -> "Any":
        import json

        try:
            return records.read(name, json.loads(content))
        except (ValueError, RecursionError):
            raise self._misunderstood(f"its answer to {path} is not a {name}") from None

    def _refusal(self, status: int, content: bytes, path: str) -> OcdError:
        import json

        try:
            problem = records.read("ErrorReply", json.loads(content)).error
        except (ValueError, RecursionError):
            return self._misunderstood(f"it answered {status} to {path}")
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
        import json

        try:
            with self._request("GET", "/v1/version", None, QUICK) as reply:
                said = json.loads(reply.body())
            version, api = str(said["version"]), said["api"]
        except (OSError, http.BrokenOff, http.Unreachable, ValueError, KeyError, TypeError, RecursionError):
            return ""
        if api != API_VERSION:
            return f"{version} (API {api}, not {API_VERSION})"
        return version if version != __version__ else ""

    def _broken(self, error: Exception, method: str, path: str) -> OcdError:
        if isinstance(error, http.Unreachable):
            return NotRunning(self.socket)
        if isinstance(error, TimeoutError):
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
