"""``python -m ocd.team.ready PORT [--plain]``: an engine's health check, in the container. Standard library only.

Exit 0: the server is ready, or was so once and is alive. A rolling update goes on only when the new one is ready;
later, one that is not (its database is away) goes on with what it knows, and to kill it would lose that.
"""

import contextlib
import http.client
import os
import ssl
import sys

from ocd import paths

#: seconds
PATIENCE = 4.0


def asked(port: int, path: str, plain: bool) -> bool:
    """Whether the server of this container answers 200 to ``path``."""
    if plain:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    else:
        # Our own process behind loopback, whose certificate names another host; nothing is told to it.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(words: list[str]) -> int:
    port, plain = int(words[0]), "--plain" in words[1:]
    prefix = paths.prefix()
    mark = os.path.join(prefix, "state", f"was-ready-{port}") if prefix else ""
    if mark and os.path.exists(mark):
        return 0 if asked(port, "/health/liveness", plain) else 1
    if not asked(port, "/health/readiness", plain):
        return 1
    if mark:
        with contextlib.suppress(OSError):
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
