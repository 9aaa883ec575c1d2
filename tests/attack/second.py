"""Another user of this machine: Python code that runs as somebody who is not us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

#: "nobody", by number: it needs no entry anywhere
NOBODY = 65534

#: as many idle connections, connections with half a body, and endless bodies, all without a key; who is hung up on
#: comes again at once. Until its input ends, then it says how many connections it made.
CROWD = """
import contextlib, resource, select, socket, threading
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
ports, idle, half, floods = given
made = [0]
HALF = b"POST /v1/messages HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nContent-Length: 60000000\\r\\n\\r\\n" + b"{" * 60000
FLOOD = b"GET /health/liveliness HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nContent-Length: 60000000\\r\\n\\r\\n"
over = threading.Event()

def crowd(many, first):
    mine = []
    while not over.is_set():
        mine = [one for one in mine if not gone(one)]
        while len(mine) < many and not over.is_set():
            try:
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", ports[len(mine) % len(ports)]))
                mine.append(sock)
                made[0] += 1
                if first:
                    sock.setblocking(True)
                    sock.settimeout(5)
                    with contextlib.suppress(OSError):
                        sock.sendall(first)
                    sock.setblocking(False)
            except OSError:
                break
        over.wait(0.05)

def gone(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True

def flood():
    while not over.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[0]), 5) as sock:
            sock.sendall(FLOOD)
            while not over.is_set():
                sock.sendall(b"x" * 1000000)

threads = [threading.Thread(target=crowd, args=(idle, b"")), threading.Thread(target=crowd, args=(half, HALF))]
threads += [threading.Thread(target=flood) for _ in range(floods)]
for one in threads:
    one.start()
print(json.dumps("started"), flush=True)
sys.stdin.read()
over.set()
for one in threads:
    one.join()
print(json.dumps(made[0]))
"""

needs_second_user = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become another user; run `make attack` as root in a container"
)


def python() -> str:
    """An interpreter that everybody may run; it needs the standard library alone."""
    return shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or os.path.realpath(sys.executable)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code as the second user; ``given`` in it is the list of arguments (JSON), what it prints is JSON."""
    whole = f"import json, sys\ngiven = json.loads(sys.argv[1])\n{code}"
    return subprocess.Popen(
        [python(), "-I", "-c", whole, json.dumps(arguments)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: object, timeout: float = 120) -> Any:
    """What the code printed as its last line."""
    process = start(code, *arguments)
    try:
        out, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])
