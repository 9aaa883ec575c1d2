"""The processes of one proxy as we hold them: control sockets, output, figures, by generation."""

import collections
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocd.adapters.logs import Capture, LogFile
from ocd.supervisor.supervision.link import Fault, GuestChannel
from ocd.supervisor.supervision.reason import CHARACTERS, TAIL, reason_from

#: signals after which what a process wrote last says nothing of why it ended
_SILENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(slots=True)
class Figures:
    """What was measured of one process; None: not yet. ``memory`` and ``fresh_memory`` are bytes."""

    connections: int | None = None
    accepted: int = 0
    memory: int | None = None
    #: what it took when it was measured for the first time; 0: it was taken over, nobody knows
    fresh_memory: int | None = None
    over_memory: bool = False


class Guests:
    """``socket_path`` says where a generation's private socket lies, ``on_message`` takes what they say."""

    def __init__(
        self,
        name: str,
        log: LogFile,
        socket_path: Callable[[int], str],
        on_message: Callable[[GuestChannel, dict[str, Any]], None],
        on_fault: Fault,
    ) -> None:
        self._name = name
        self._log = log
        self._socket_path = socket_path
        self._on_message = on_message
        self._on_fault = on_fault
        self._by_pid: dict[int, GuestChannel] = {}
        self.channels: dict[int, GuestChannel] = {}
        self.figures: dict[int, Figures] = {}
        #: generations that a former supervisor started
        self.adopted: set[int] = set()
        self._captures: dict[tuple[int, str], Capture] = {}
        self._tails: dict[int, collections.deque[str]] = {}

    def attach(self, generation: int, pid: int, fds: list[int]) -> GuestChannel:
        """Take a process's control socket and output."""
        channel = GuestChannel(generation, pid, fds, self._on_message, self._on_output, self._on_fault)
        self._by_pid[pid] = channel
        self.channels[generation] = channel
        self._tails.setdefault(generation, collections.deque(maxlen=TAIL))
        return channel

    def tell(self, generation: int, op: str, **fields: Any) -> None:
        """Say something to one process, if it is still there."""
        channel = self.channels.get(generation)
        if channel is not None:
            channel.send(op, **fields)

    def of(self, generation: int) -> Figures:
        """The figures of a process, to be filled in."""
        return self.figures.setdefault(generation, Figures())

    def end(self, pid: int, status: int, generation: int, folders: Iterable[tuple[Path, Path]]) -> str:
        """A process is gone (``status`` as ``Popen.returncode``); returns why, as its last lines say.

        ``folders`` are pairs of a snapshot's folder and the user's own: people know the latter.
        """
        channel = self._by_pid.pop(pid, None)
        if channel is not None:
            channel.drain()
            channel.close()
            self.channels.pop(channel.generation, None)
        for name in ("stdout", "stderr"):
            capture = self._captures.pop((generation, name), None)
            if capture is not None:
                capture.end()
        self.figures.pop(generation, None)
        self.adopted.discard(generation)
        with contextlib.suppress(OSError):
            os.unlink(self._socket_path(generation))
        tail = self._tails.pop(generation, collections.deque())
        if status < 0 and -status in _SILENT:
            return ""
        return _reason(list(tail), list(folders))

    def _on_output(self, channel: GuestChannel, stream: str, data: bytes) -> None:
        key = (channel.generation, stream)
        capture = self._captures.get(key)
        if capture is None:

            def emit(text: str, generation: int = channel.generation, pid: int = channel.pid) -> None:
                self._tails.setdefault(generation, collections.deque(maxlen=TAIL)).append(text[:CHARACTERS])
                self._log.write(
                    {
                        "time": round(time.time(), 3),
                        "proxy": self._name,
                        "generation": generation,
                        "pid": pid,
                        "stream": stream,
                        "text": text,
                    }
                )

            capture = self._captures[key] = Capture(emit)
        capture.feed(data, time.monotonic())


def _reason(tail: list[str], folders: list[tuple[Path, Path]]) -> str:
    """Why it ended, with the user's own file's place instead of its snapshot's."""
    text = reason_from(tail, tuple(f"{folder}/" for pair in folders for folder in pair))
    for snapshot, own in folders:
        text = text.replace(str(snapshot), str(own))
    return text
