"""A keeper in this process whose supervisor is the test: its loop is turned by hand, in milliseconds."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ocd.ipc import frames, messages
from ocd.keeper.main import Keeper

#: a guest that says a word on each of its streams, then waits for the end of its control socket
GUEST = [
    sys.executable,
    "-ISc",
    "import os, sys, socket\n"
    's = socket.socket(fileno=int(sys.argv[2])); s.sendall(b\'{"ev":"waiting"}\\n\')\n'
    "os.write(1, b'out\\n'); os.write(2, b'err\\n')\n"
    "s.recv(1)",
]
ENV = {"PATH": os.defpath}


class Link:
    """The supervisor's end: what the keeper says, in order."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.reader = frames.Reader(sock)
        self.heard: list[tuple[dict[str, Any], list[int]]] = []

    def listen(self) -> None:
        while not self.reader.eof and select.select([self.sock], [], [], 0)[0]:
            self.heard += self.reader.feed()

    def close(self) -> None:
        for _message, fds in self.heard:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.reader.close()


class Keeping(Keeper):
    """The real one. Its supervisors are sleeping processes; what they would say the test says."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        sleeper = [sys.executable, "-ISc", "import time; time.sleep(600)"]
        super().__init__(sleeper, {"PYTHONPATH": "", **ENV})
        self.terminal.had = False

    def attach_supervisor(self, link: socket.socket) -> None:
        link.close()
        ours, theirs = socket.socketpair()
        super().attach_supervisor(ours)
        self.links.append(Link(theirs))

    # ---------------------------------------------------------------------------------------------- the test

    @property
    def spoken(self) -> Link:
        return self.links[-1]

    def say(self, message: Any, fds: list[int] | None = None) -> None:
        """Say something as the supervisor, a message or anything else, and have it followed."""
        if isinstance(message, bytes):
            self.spoken.sock.send(message)
        else:
            wire = message if isinstance(message, dict) else messages.wire(message)
            frames.send(self.spoken.sock, wire, fds or [])
        self.settle()

    def settle(self) -> None:
        """Turn the loop until nothing is left to do just now."""
        watched = [key.fileobj for key in self.selector.get_map().values()]
        while select.select(watched, [], [], 0)[0] and self.exit_code is None:
            self.turn(0)
            watched = [key.fileobj for key in self.selector.get_map().values()]
        self.spoken.listen()

    def until(self, condition: Callable[[], Any], timeout: float = 20.0) -> Any:
        """Turn the loop until something is so; children take their time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.reap()
            self.turn(0.005)
            if self.links:
                self.spoken.listen()
            if value := condition():
                return value
        raise AssertionError(f"did not happen: {self.told()}")

    def told(self, op: str = "") -> list[dict[str, Any]]:
        return [message for message, _fds in self.spoken.heard if op in ("", message["op"])]

    def fds(self, op: str) -> list[int]:
        """The descriptors of the latest message of that name."""
        return [fds for message, fds in self.spoken.heard if message["op"] == op][-1]

    def begin(self) -> None:
        self.start_supervisor()
        self.say(messages.Hello(messages.PROTOCOL, "test"))

    def guest(self, number: int = 1, tag: str = "t", argv: list[str] | None = None) -> int:
        """Start one; returns its pid."""
        self.say(messages.Spawn(number, tag, "exec", argv or GUEST, ENV))
        told = [message for message in self.told("spawned") if message["id"] == number]
        return int(told[-1]["pid"]) if told else 0

    def end(self) -> None:
        self.reserve.release()
        self.finish()
        self.drop_link()
        self.drop_host_link()
        for link in self.links:
            link.close()
        for process in self.processes.values():
            for fd in process.fds:
                os.close(fd)
        for fd in self.host_streams:
            os.close(fd)
        for _tag, ends in self.pending.values():
            ends.close()
        self.selector.close()


def forkserver(folder: Path, script: str) -> list[str]:
    """A program that plays the forkserver: ``say(message)``, ``hear()`` -> (message, fds), ``pid`` of the keeper."""
    path = folder / "forkserver.py"
    root = Path(__file__).resolve().parent.parent.parent
    path.write_text(
        f"import json, os, signal, socket, sys, time\nsys.path.insert(0, {json.dumps(str(root))})\n"
        "from ocd.ipc import frames\n"
        "keeper, sock = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))\n"
        "reader = frames.Reader(sock)\n"
        "def say(message): frames.send(sock, message)\n"
        "def hear():\n"
        "    while True:\n"
        "        for found in reader.feed(): return found\n"
        "        if reader.eof: os._exit(0)\n" + script
    )
    return [sys.executable, "-IS", str(path)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
