"""The holder: a small process that keeps the ports when the daemon has gone while sessions live.

A living session sends its login to whoever listens on the port that it was told of. So the port must not become free
before the session has ended: while there is no daemon, this process listens on copies of its sockets and answers 503
(Claude Code tries again and finally shows the sentence). It ends with the last session, or when it has handed the
sockets to the next daemon (``holding.take_over``). Standard library only; reads no request beyond its head, keeps
nothing of it.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

from ocd.ipc import frames
from ocd.ipc.sockets import listen_unix
from ocd.keeper import limits, lock
from ocd.keeper.system import close_all, say

#: seconds between two looks at the instance lock, and at sessions where the kernel has no pidfd
LOOK = 1.0
#: seconds for a request's head, and for whoever takes over to say so
PATIENCE = 5.0
LARGEST_HEAD = 64 * 1024
#: connections at once
MOST = 64
#: seconds that another daemon may have the lock without asking for the sockets: it does not know of us
STRANGER = 30.0

SENTENCE = (
    "ocd is not running: run `occtl start`, then go on. Until this session ends, its port is kept for it"
)


class Holder:
    """``link`` comes from the keeper, ``lock_path`` says whether there is a daemon, the next one asks at ``door``."""

    def __init__(self, link: socket.socket, lock_path: str, door: str) -> None:
        link.setblocking(False)
        self.reader: frames.Reader | None = frames.Reader(link)
        self.lock_path = lock_path
        self.door_path = door
        self.listeners: dict[str, socket.socket] = {}
        #: pid → pidfd, -1 where there is none
        self.sessions: dict[int, int] = {}
        self.serving = False
        self.told = False
        self.stranger_since = 0.0
        self.over = False
        self.selector = selectors.DefaultSelector()
        self.selector.register(link, selectors.EVENT_READ, self.on_link)
        self.open_door()
        #: connection → when its time is over
        self.answering: dict[socket.socket, float] = {}

    # ------------------------------------------------------------------------------------------ what is held

    def on_link(self) -> None:
        if self.reader is None:
            return
        for message, fds in self.reader.feed():
            if message.get("op") == "hold":
                self.take(message, fds)
            else:
                close_all(fds)
        if self.reader is not None and self.reader.eof:
            self.selector.unregister(self.reader.sock)
            self.reader.close()
            self.reader = None

    def take(self, message: dict[str, Any], fds: list[int]) -> None:
        """What is to be held from now on; replaces what was said before."""
        self.listen(False)
        for sock in self.listeners.values():
            sock.close()
        self.told = True
        names = message.get("names") or []
        self.listeners = {name: socket.socket(fileno=fd) for name, fd in zip(names, fds, strict=False)}
        wanted = {int(pid) for pid in message.get("sessions") or []}
        for pid in self.sessions.keys() - wanted:
            self.forget(pid)
        for pid in wanted - self.sessions.keys():
            self.remember(pid)

    def remember(self, pid: int) -> None:
        """Follow a session's process, which lives now: the keeper has just said so."""
        try:
            fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        except ProcessLookupError:
            return
        except OSError:
            fd = -1
        self.sessions[pid] = fd
        if fd >= 0:
            self.selector.register(fd, selectors.EVENT_READ, lambda: self.forget(pid))

    def forget(self, pid: int) -> None:
        fd = self.sessions.pop(pid, -1)
        if fd >= 0:
            self.selector.unregister(fd)
            os.close(fd)

    # ----------------------------------------------------------------------------------------------- looking

    def look(self) -> None:
        """Is there a daemon? Does anybody still need us?"""
        for pid, fd in list(self.sessions.items()):
            if fd < 0:
                with contextlib.suppress(PermissionError):
                    try:
                        os.kill(pid, 0)
                    except ProcessLookupError:
                        self.forget(pid)
        if not self.sessions and (self.told or self.reader is None):
            self.over = True
        self.look_after_door()
        if self.reader is not None:
            return
        daemon = lock.held(self.lock_path)
        self.listen(not daemon)
        now = time.monotonic()
        self.stranger_since = (self.stranger_since or now) if daemon else 0.0
        if daemon and now - self.stranger_since > STRANGER:
            self.over = True
        for conn, until in list(self.answering.items()):
            if now >= until:
                self.hang_up(conn)

    def listen(self, on: bool) -> None:
        """Answer who connects, or leave it to the daemon."""
        if on == self.serving:
            return
        self.serving = on
        for name, sock in self.listeners.items():
            if name == "control":
                continue
            if on:
                sock.setblocking(False)
                self.selector.register(sock, selectors.EVENT_READ, lambda sock=sock: self.accept(sock))
            else:
                self.selector.unregister(sock)

    # --------------------------------------------------------------------------------------------- answering

    def accept(self, sock: socket.socket) -> None:
        try:
            conn, _address = sock.accept()
        except OSError:
            return
        if len(self.answering) >= MOST:
            self.hang_up(next(iter(self.answering)))
        conn.setblocking(False)
        self.answering[conn] = time.monotonic() + PATIENCE
        head = bytearray()
        self.selector.register(conn, selectors.EVENT_READ, lambda: self.read(conn, head))

    def read(self, conn: socket.socket, head: bytearray) -> None:
        """What comes is looked at for the end of its head alone; after the answer it is read so that it arrives."""
        try:
            data = conn.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hang_up(conn)
            return
        if len(head) > LARGEST_HEAD:
            return
        head += data
        if b"\r\n\r\n" in head or len(head) > LARGEST_HEAD:
            with contextlib.suppress(OSError):
                conn.sendall(answer())
                conn.shutdown(socket.SHUT_WR)
            head[:] = b"\0" * (LARGEST_HEAD + 1)

    def hang_up(self, conn: socket.socket) -> None:
        self.answering.pop(conn, None)
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(conn)
        conn.close()

    # ---------------------------------------------------------------------------------------------- handing on

    def open_door(self) -> None:
        """Listen where the next daemon asks. Raises OSError."""
        self.door = listen_unix(self.door_path, 4)
        self.door_file = _file(self.door_path)
        self.selector.register(self.door, selectors.EVENT_READ, self.on_door)

    def look_after_door(self) -> None:
        """Somebody may have removed the runtime folder. Another file there is the door of a later holder."""
        if _file(self.door_path) is not None:
            return
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self.door_path), mode=0o700, exist_ok=True)
            former = self.door
            self.open_door()
            self.selector.unregister(former)
            former.close()

    def on_door(self) -> None:
        """Whoever has the folder's permission gets the sockets, once there is no keeper of ours any more."""
        try:
            conn, _address = self.door.accept()
        except OSError:
            return
        with conn, contextlib.suppress(OSError, ValueError):
            # The keeper's end may have come just before: its last words, then the end of the link.
            self.on_link()
            self.on_link()
            if self.reader is not None:
                return
            conn.settimeout(PATIENCE)
            names = list(self.listeners)
            frames.send(
                conn, {"op": "held", "names": names}, [self.listeners[name].fileno() for name in names]
            )
            if conn.recv(1):
                self.over = True

    def run(self) -> None:
        """Hold until nobody needs it."""
        looked = 0.0
        while not self.over:
            for key, _mask in self.selector.select(LOOK):
                if key.fd in self.selector.get_map():
                    key.data()
            if self.reader is None or time.monotonic() - looked >= LOOK or not self.sessions:
                looked = time.monotonic()
                self.look()
        if _file(self.door_path) == self.door_file:
            with contextlib.suppress(OSError):
                os.unlink(self.door_path)


def _file(path: str) -> tuple[int, int] | None:
    """Which file has this name now; None: none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def answer() -> bytes:
    """A complete HTTP answer in the form of Anthropic's errors."""
    error = {"type": "error", "error": {"type": "api_error", "message": f"ocd: {SENTENCE}"}}
    body = json.dumps(error).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def main() -> int:
    """``holder FD LOCK DOOR``: FD is our end of the link; the first message on it says what to hold."""
    fd, lock_path, door = sys.argv[-3:]
    limits.no_core_files()
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        holder = Holder(socket.socket(fileno=int(fd)), lock_path, door)
    except OSError as error:
        say(f"the ports cannot be held: {error}")
        return 71
    if holder.reader is not None:
        with contextlib.suppress(OSError):
            frames.send(holder.reader.sock, {"op": "holding"})
    holder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
