"""A listening UNIX socket that is its owner's alone. For the keeper and the guests: standard library only."""

import contextlib
import os
import socket


def listen_unix(path: str, backlog: int) -> socket.socket:
    """Listen at ``path``, mode 0600, not blocking. What is there already is stale, the caller knows, and is replaced.

    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old)
    return sock
