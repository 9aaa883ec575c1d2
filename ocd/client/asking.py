"""The control socket, spoken by hand: ``http.client`` alone would cost more than all else in openclaude.

The socket module proper costs several milliseconds as well; its C half has all that is needed here.
"""

import os
import stat

from ocd.errors import EX_NOPERM, EX_PROTOCOL, OcdError
from ocd.paths import control_socket, runtime_dirs

try:
    from _socket import AF_UNIX, SOCK_STREAM, socket
except ImportError:  # another Python implementation
    from socket import AF_UNIX, SOCK_STREAM, socket  # type: ignore[assignment]


def _trusted(folder: str, path: str) -> bool:
    """Whether folder and socket are there; raises OcdError when they are not the user's own alone."""
    try:
        around = os.lstat(folder)
    except OSError:
        return False
    own = os.getuid()
    if around.st_uid != own or not stat.S_ISDIR(around.st_mode) or around.st_mode & 0o022:
        raise OcdError(
            f"The runtime folder {folder} is not yours alone",
            f"it must be a folder owned by user {own} that nobody else can write",
            "Remove it, or set XDG_RUNTIME_DIR to a folder of your own",
            exit_code=EX_NOPERM,
            code="foreign-runtime-folder",
        )
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if found.st_uid != own or not stat.S_ISSOCK(found.st_mode):
        raise OcdError(
            f"{path} is not a socket of yours",
            f"it must be a socket owned by user {own}",
            "Remove it and start again",
            exit_code=EX_NOPERM,
            code="foreign-socket",
        )
    return True


def connect(timeout: float) -> socket | None:
    """A connection to the running daemon, or None when none listens. ``timeout`` in seconds, for each
    operation.

    Raises OcdError (exit 77) when the folder or the socket belongs to somebody else, OSError for all that
    may pass.
    """
    for place, folder in enumerate(runtime_dirs()):
        path = control_socket(folder)
        try:
            if not _trusted(folder, path):
                continue
        except OcdError:
            # Anybody can make a folder in /tmp; only where our own daemon would be is that worth an error.
            if place:
                continue
            raise
        connection = socket(AF_UNIX, SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            continue
        except PermissionError:
            connection.close()
            raise OcdError(
                f"{path} does not let you in",
                "no permission to connect",
                "Look at its mode and owner",
                exit_code=EX_NOPERM,
                code="socket-permission",
            ) from None
        except BaseException:
            connection.close()
            raise
        return connection
    return None


def post(connection: socket, path: str, accept: str, body: bytes) -> tuple[int, str, bytes]:
    """Send one JSON request, close the connection; returns status, content type and body of the answer.

    Raises ConnectionError when the answer is cut off (the daemon was replaced meanwhile: asking again is
    safe), TimeoutError, and OcdError (exit 76) when the answer is not HTTP.
    """
    head = (
        f"POST {path} HTTP/1.1\r\nHost: ocd\r\nConnection: close\r\nAccept: {accept}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        connection.sendall(head.encode() + body)
        answer = b""
        while True:
            part = connection.recv(65536)
            if not part:
                break
            answer += part
            if _complete(answer):
                break
    finally:
        connection.close()
    if not _complete(answer, ended=True):
        raise ConnectionResetError("the answer was cut off")
    top, _, content = answer.partition(b"\r\n\r\n")
    first, *headers = top.decode("latin-1").split("\r\n")
    try:
        status = int(first.split(" ", 2)[1])
    except (IndexError, ValueError):
        raise OcdError(
            "The control socket does not speak HTTP",
            "",
            "Run: occtl status",
            exit_code=EX_PROTOCOL,
            code="protocol",
        ) from None
    kind = ""
    for header in headers:
        name, _, value = header.partition(":")
        if name.lower() == "content-type":
            kind = value.strip()
    return status, kind, content


def _complete(answer: bytes, ended: bool = False) -> bool:
    top, blank, content = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    for header in top.lower().split(b"\r\n"):
        if header.startswith(b"content-length:"):
            length = header[15:].strip()
            return length.isdigit() and len(content) >= int(length)
    return ended
