"""The keeper's side of the holder (``holder.py``): started while sessions live, told what to hold, asked to hand it on.

Under systemd the service manager's store keeps the sockets when the keeper is killed, but not when it is stopped; and
what we leave behind in our unit is killed. So there the holder is started when we end, in a scope of its own. Elsewhere
it is there as long as sessions are, because nobody could start it after a SIGKILL.
"""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Mapping

from ocd import paths
from ocd.ipc import frames
from ocd.keeper.system import say, spawn

DOOR = "holder.sock"
#: seconds for the holder to begin (a scope is asked of systemd first), and to hand on
PATIENCE = 5.0


class Holding:
    """``lock_path`` is the instance lock's; ``environment`` what the holder gets."""

    def __init__(self, lock_path: str, environment: Mapping[str, str]) -> None:
        self.lock_path = lock_path
        self.environment = dict(environment)
        self.sessions: list[int] = []
        self.pid = 0
        self.started = 0.0
        self.link: socket.socket | None = None

    def follow(self, listeners: Mapping[str, socket.socket], sessions: list[int] | None = None) -> None:
        """The sockets or the sessions are others now; ``sessions`` None: as before."""
        if sessions is not None:
            self.sessions = sessions
        if _managed():
            return
        if self.sessions and self.link is None:
            self._start(listeners, [])
        else:
            self._tell(listeners)

    def finish(self, listeners: Mapping[str, socket.socket]) -> None:
        """We end. If sessions live, somebody else has what they were told of from now on."""
        if self.sessions and _managed() and self.link is None:
            run = shutil.which("systemd-run")
            if run is None:
                say("living sessions' ports become free: there is no systemd-run")
                return
            scope = [
                run,
                "--user",
                "--scope",
                "--quiet",
                "--collect",
                f"--unit=ocd-holder-{os.getpid()}",
                "--",
            ]
            self._start(listeners, scope)
        if self.link is not None:
            self._tell(listeners)
            with contextlib.suppress(OSError):
                self.link.settimeout(PATIENCE)
                if not self.link.recv(4096):
                    say("living sessions' ports become free: the holder did not begin")
            self.link.close()
            self.link = None

    def ended(self, listeners: Mapping[str, socket.socket]) -> None:
        """The holder's process is gone: with the last session, or because somebody ended it."""
        self.pid = 0
        self._drop()
        if time.monotonic() - self.started > PATIENCE:
            self.follow(listeners)

    def _drop(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def _start(self, listeners: Mapping[str, socket.socket], before: list[str]) -> None:
        ours, theirs = socket.socketpair()
        folder = paths.runtime_dir()
        with contextlib.suppress(OSError):
            # Somebody may have removed it.
            os.makedirs(folder, mode=0o700, exist_ok=True)
        door = os.path.join(folder, DOOR)
        command = [*before, *paths.program("ocd.keeper.holder"), str(theirs.fileno()), self.lock_path, door]
        try:
            self.pid = spawn(command, self.environment, keep=[theirs.fileno()])
            self.started = time.monotonic()
        except (OSError, ValueError) as error:
            say(f"the ports of living sessions cannot be held: {error}")
            ours.close()
            return
        finally:
            theirs.close()
        self.link = ours
        self._tell(listeners)

    def _tell(self, listeners: Mapping[str, socket.socket]) -> None:
        if self.link is None:
            return
        held = {name: sock for name, sock in listeners.items() if name != "control"}
        try:
            message = {"op": "hold", "names": list(held), "sessions": self.sessions}
            frames.send(self.link, message, [sock.fileno() for sock in held.values()])
        except (OSError, ValueError):
            # It has ended, as it does with the last session.
            self._drop()


def _managed() -> bool:
    return "NOTIFY_SOCKET" in os.environ


def take_over(folder: str = "") -> list[tuple[str, socket.socket]]:
    """The sockets that a holder keeps for the next daemon, with their names; the holder ends. None: an empty list."""
    found: list[tuple[str, socket.socket]] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(PATIENCE)
        door.connect(os.path.join(folder or paths.runtime_dir(), DOOR))
        reader = frames.Reader(door)
        deadline = time.monotonic() + PATIENCE
        while not reader.eof and time.monotonic() < deadline:
            for message, fds in reader.feed():
                names = message.get("names") or []
                found += [(str(name), socket.socket(fileno=fd)) for name, fd in zip(names, fds, strict=False)]
                door.sendall(b"\n")
                return found
    return found


def let_go(folder: str = "") -> bool:
    """Give up what a holder keeps (``occtl stop --now``); returns whether there was one."""
    found = take_over(folder)
    for _name, sock in found:
        sock.close()
    return bool(found)


def is_held(folder: str = "") -> bool:
    """Whether a holder is there."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(PATIENCE)
        door.connect(os.path.join(folder or paths.runtime_dir(), DOOR))
        return True
    return False
