"""The supervisor's end of the link to the keeper."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from ocd import __version__
from ocd.ipc import frames, messages
from ocd.text import printable

Handler = Callable[[dict[str, Any], list[int]], None]
#: told what was received and not understood
Fault = Callable[[str], None]

#: descriptors that a message of the keeper brings
_BRINGS = {"listening": 1, "spawned": 3, "process": 3, "host-started": 2}
#: what a process said it had done, whatever became of it
_DONE = frozenset({"request", "report"})
OUT_OF_DESCRIPTORS = "the supervisor is out of descriptors"


class KeeperLink:
    """Sends orders to the keeper and hands its news to ``on_message`` (message, descriptors).

    Every message has been checked by then: what has no default is there, everything is of its kind. The descriptors
    belong to the handler. When the keeper is gone ``on_end`` is called: a supervisor without its keeper has nothing
    to supervise.

    The keeper may be of another version (``occtl reexec`` replaces both, a supervisor that died is replaced alone):
    ``protocol`` is what both speak, ``keeper_version`` empty until it has said it, or when it is of 0.1.
    """

    def __init__(
        self, sock: socket.socket, on_message: Handler, on_end: Callable[[], None], on_fault: Fault
    ) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.reader = frames.Reader(sock, on_fault)
        self.on_message = on_message
        self.on_end = on_end
        self.on_fault = on_fault
        self.protocol = 0
        self.keeper_version = ""
        #: number of the last exit that was dealt with: the keeper tells of those after it again
        self.seen = 0
        #: since when each process of ours runs: a pid may be used again
        self.started: dict[int, float] = {}

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self._read)
        self.send("hello", protocol=messages.PROTOCOL, version=__version__)

    def _read(self) -> None:
        for message, fds in self.reader.feed():
            self._take(message, fds)
        if self.reader.eof:
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
            self.on_end()

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            news = messages.from_keeper(message)
        except messages.Misfit as error:
            for fd in fds:
                os.close(fd)
            self.on_fault(str(error))
            return
        whole = {"op": message["op"], **news._asdict()}
        if isinstance(news, messages.State):
            self.protocol = messages.common(news.protocol)
            self.keeper_version = news.version
            if len(fds) != len(news.listeners):
                # We cannot take over without them. The next one begins with all of its descriptors.
                self.on_fault(OUT_OF_DESCRIPTORS)
                os._exit(70)
        elif isinstance(news, (messages.Spawned, messages.Process)):
            self.started[news.pid] = news.started
        if len(fds) < _BRINGS.get(message["op"], 0):
            whole, fds = self._without(news, whole, fds), []
        self.on_message(whole, fds)
        if isinstance(news, messages.Exited):
            self.started.pop(news.pid, None)
            self.seen = max(self.seen, news.number)

    def _without(self, news: messages.FromKeeper, whole: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """What a message comes to whose descriptors we could not take: nothing that has begun stays behind."""
        self.on_fault(OUT_OF_DESCRIPTORS)
        for fd in fds:
            os.close(fd)
        if isinstance(news, (messages.Spawned, messages.Process)):
            self.send("kill", pid=news.pid, signal=int(signal.SIGKILL), group=True)
        if isinstance(news, messages.Spawned):
            failed = messages.SpawnFailed(news.id, OUT_OF_DESCRIPTORS, transient=True)
            return {"op": "spawn-failed", **failed._asdict()}
        if isinstance(news, messages.Listening):
            self.send("unlisten", name=news.name)
            return {
                "op": "listen-failed",
                **messages.ListenFailed(news.name, errno.EMFILE, OUT_OF_DESCRIPTORS)._asdict(),
            }
        return {"op": ""} if isinstance(news, messages.Process) else whole

    def send(self, op: str, **fields: Any) -> None:
        """Give an order. A keeper that is gone is noticed by the reader."""
        if op == "kill":
            fields["started"] = self.started.get(fields["pid"], 0.0)
        elif op == "note":
            fields["seen"] = self.seen
        order = messages.to_keeper({"op": op, **fields})
        try:
            frames.send(self.sock, messages.wire(order))
        except OSError:
            pass
        except ValueError as error:
            self.on_fault(f"{op}: {error}")


def cleaned(value: Any) -> Any:
    """What a guest says, printable: model names, error texts and addresses are other people's."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(inner) for key, inner in value.items()}
    return [cleaned(inner) for inner in value] if isinstance(value, list) else value


class GuestChannel:
    """Our ends of one guest's control socket and output pipes."""

    def __init__(
        self,
        generation: int,
        pid: int,
        fds: list[int],
        on_message: Callable[["GuestChannel", dict[str, Any]], None],
        on_output: Callable[["GuestChannel", str, bytes], None],
        on_fault: Fault = lambda _text: None,
    ) -> None:
        self.generation = generation
        self.pid = pid
        self.control = socket.socket(fileno=fds[0])
        self.control.setblocking(False)
        self.on_fault = on_fault
        self.reader = frames.Reader(self.control, on_fault)
        self.streams = {"stdout": fds[1], "stderr": fds[2]}
        self.on_message = on_message
        self.on_output = on_output
        self.closed = False
        #: names of the listeners that it has been given
        self.given: set[str] = set()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.control.fileno(), self._read_control)
        for name, fd in self.streams.items():
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._read_stream, name, fd)

    def send(self, op: str, fds: list[int] | None = None, **fields: Any) -> bool:
        """Tell the guest; returns False when it is gone."""
        message = {"op": op, **fields}
        messages.to_guest(message)
        try:
            frames.send(self.control, message, fds or [])
        except OSError:
            return False
        except ValueError as error:
            self.on_fault(f"{op}: {error}")
            return False
        return True

    def has_room(self) -> bool:
        """Whether a message would be taken at once: one that hangs stops reading, and what can wait, does."""
        try:
            return frames.has_room(self.control)
        except (OSError, ValueError):
            return False

    def _read_control(self, wanted: frozenset[str] | None = None) -> None:
        for message, fds in self.reader.feed():
            for fd in fds:
                os.close(fd)
            try:
                messages.from_guest(message)
            except messages.Misfit as error:
                self.on_fault(str(error))
                continue
            if wanted is None or message.get("ev") in wanted:
                self.on_message(self, cleaned(message))
        if self.reader.eof and not self.closed:
            asyncio.get_running_loop().remove_reader(self.control.fileno())

    def _read_stream(self, name: str, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.on_output(self, name, data)
        else:
            asyncio.get_running_loop().remove_reader(fd)

    def drain(self) -> None:
        """Read what a guest that is gone has left in its socket and its pipes (bounded: a pipe holds a megabyte).

        What it did counts; what it said of its own state is no longer true.
        """
        for _ in range(64):
            if self.reader.eof:
                break
            self._read_control(_DONE)
        for name, fd in self.streams.items():
            for _ in range(64):
                try:
                    data = os.read(fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                self.on_output(self, name, data)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.control.fileno())
        for fd in self.streams.values():
            loop.remove_reader(fd)
            os.close(fd)
        self.reader.close()
