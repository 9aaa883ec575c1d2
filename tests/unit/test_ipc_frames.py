"""Messages with descriptors over a socket: whatever arrives, nothing is mixed up and no descriptor stays open."""

from __future__ import annotations

import array
import errno
import json
import os
import random
import resource
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ocd.ipc import frames

Pair = tuple[socket.socket, frames.Reader, list[str]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    faults: list[str] = []
    reader = frames.Reader(theirs, faults.append)
    before = open_fds()
    yield ours, reader, faults
    assert open_fds() == before, "descriptors were left open"
    ours.close()
    reader.close()


def open_fds() -> set[str]:
    """Descriptors by what they are, so that one that was closed and another with its number differ."""
    found = set()
    # The suite looks at command lines from a thread of its own.
    theirs = os.stat("/proc/self").st_dev if os.path.exists("/proc/self") else -1
    for name in os.listdir("/dev/fd"):
        try:
            info = os.fstat(int(name))
        except OSError:
            continue
        if info.st_dev == theirs:
            continue
        found.add(f"{name}:{info.st_dev}:{info.st_ino}")
    return found


def pipes(count: int) -> tuple[list[int], list[int]]:
    """``count`` read ends and their write ends, each with its own number in it."""
    ends = [os.pipe() for _ in range(count)]
    for number, (_read, write) in enumerate(ends):
        os.write(write, bytes([number]))
    return [read for read, _ in ends], [write for _, write in ends]


def close(*lists: list[int]) -> None:
    for fds in lists:
        for fd in fds:
            os.close(fd)


def all_of(reader: frames.Reader) -> list[tuple[dict[str, Any], list[int]]]:
    found = []
    while select.select([reader.sock], [], [], 0)[0]:
        found += reader.feed()
    return found


def raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def test_each_message_gets_its_own_descriptors_and_no_other(pair: Pair) -> None:
    ours, reader, faults = pair
    reads, writes = pipes(6)
    frames.send(ours, {"op": "a"}, reads[:1])
    frames.send(ours, {"op": "b"})
    frames.send(ours, {"op": "c"}, reads[1:4])
    frames.send(ours, {"op": "d"}, reads[4:])
    found = all_of(reader)
    assert [message["op"] for message, _ in found] == ["a", "b", "c", "d"]
    assert [[os.read(fd, 1)[0] for fd in fds] for _, fds in found] == [[0], [], [1, 2, 3], [4, 5]]
    assert not faults
    assert not any(os.get_inheritable(fd) for _, fds in found for fd in fds)
    close(reads, writes, *(fds for _, fds in found))


def test_descriptors_are_sent_once_although_the_message_goes_in_pieces() -> None:
    """A message larger than the socket's buffer: what goes after a partial write goes without them."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    reads, writes = pipes(2)
    sender = threading.Thread(target=frames.send, args=(ours, {"op": "a", "text": "x" * 400_000}, reads))
    sender.start()
    data, came, pieces = b"", [], 0
    while not data.endswith(b"\n"):
        piece, ancillary, _flags, _address = theirs.recvmsg(4096, socket.CMSG_SPACE(64))
        data += piece
        pieces += 1
        for _level, _kind, payload in ancillary:
            came += array.array("i", payload)
    sender.join()
    assert pieces > 10 and len(came) == 2
    assert [os.read(fd, 1)[0] for fd in came] == [0, 1]
    close(reads, writes, came)
    ours.close()
    theirs.close()


def test_a_message_in_pieces_keeps_its_descriptors(pair: Pair) -> None:
    ours, reader, faults = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    reads, writes = pipes(2)
    large = {"op": "a", "text": "x" * 400_000}
    sender = threading.Thread(target=frames.send, args=(ours, large, reads))
    sender.start()
    found: list[Any] = []
    while sender.is_alive() or not found:
        found += reader.feed()
    sender.join()
    frames.send(ours, {"op": "b"}, reads[:1])
    found += all_of(reader)
    assert [(message["op"], len(fds)) for message, fds in found] == [("a", 2), ("b", 1)]
    assert [os.read(fd, 1)[0] for fd in found[0][1]] == [0, 1] and not faults
    close(reads, writes, found[0][1], found[1][1])


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1]\n",
        b'"fds"\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"op":"a","fds":"2"}\n',
        b'{"op":"a","fds":3}\n',
        b'{"op":"a","fds":-2}\n',
        b'{"op":"a","fds":{"x":1}}\n',
        b'{"op":"a"}\n',
        b'{"op":"a","fds":null}\n',
    ],
)
def test_descriptors_of_a_malformed_message_are_closed_and_the_next_one_has_its_own(
    line: bytes, pair: Pair
) -> None:
    ours, reader, faults = pair
    reads, writes = pipes(3)
    raw(ours, line, reads[:2])
    frames.send(ours, {"op": "next"}, reads[2:])
    found = all_of(reader)
    assert found[-1][0] == {"op": "next"} and [os.read(fd, 1)[0] for fd in found[-1][1]] == [2]
    assert all(not fds for _, fds in found[:-1])
    assert len(faults) == 1
    close(reads, writes, found[-1][1])


def test_a_message_without_the_descriptors_that_it_names_keeps_saying_so(pair: Pair) -> None:
    ours, reader, faults = pair
    ours.send(b'{"op":"accept","fds":2}\n')
    assert all_of(reader) == [({"op": "accept", "fds": 2}, [])]
    assert faults == ["a message should have brought 2 descriptors, 0 arrived"]


def test_who_is_out_of_descriptors_loses_no_other_message_and_takes_no_part_of_a_set(pair: Pair) -> None:
    ours, reader, faults = pair
    reads, writes = pipes(4)
    frames.send(ours, {"op": "a"}, reads[:3])
    frames.send(ours, {"op": "b"}, reads[3:])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # room for one more below the limit
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    highest = max(int(name) for name in os.listdir("/dev/fd"))
    fill = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        while True:
            try:
                fill.append(os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        os.close(fill.pop())
        first = reader.feed()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        close(fill)
    second = all_of(reader)
    assert first == [({"op": "a", "fds": 3}, [])]
    assert [m for m, _ in second] == [{"op": "b"}] and os.read(second[0][1][0], 1) == b"\x03"
    assert len(faults) == 1
    close(reads, writes, second[0][1])


def test_a_message_that_is_too_long_is_dropped_to_its_end_and_nothing_of_it_is_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, reader, faults = pair
    monkeypatch.setattr(frames, "MAX_LINE", 1000)
    reads, writes = pipes(1)
    raw(ours, b"x" * 1500, reads)
    assert reader.feed() == []
    # what follows looks like a message and is the rest of the long one
    ours.send(b'{"op":"exit"}\n{"op":"next"}\n')
    assert all_of(reader) == [({"op": "next"}, [])]
    assert faults == ["a message of more than 1000 bytes was dropped"]
    assert len(reader._buffer) == 0
    close(reads, writes)


def test_nothing_longer_than_a_receiver_takes_is_sent(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    ours, reader, _faults = pair
    monkeypatch.setattr(frames, "MAX_LINE", 1000)
    with pytest.raises(ValueError, match="too long"):
        frames.send(ours, {"op": "note", "text": "x" * 1000})
    with pytest.raises(ValueError, match="too many"):
        frames.send(ours, {"op": "a"}, range(frames.MAX_FDS + 1))
    assert reader.feed() == []


def test_one_that_takes_nothing_is_given_up_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _reader, _faults = pair
    monkeypatch.setattr(frames, "PATIENCE", 0.01)
    with pytest.raises(TimeoutError):
        frames.send(ours, {"op": "note", "text": "x" * 2_000_000})


def test_a_shortage_of_the_system_is_no_end_of_the_conversation() -> None:
    class Short:
        """A socket whose system is short of something twice, and then not."""

        def __init__(self) -> None:
            self.troubles = [errno.ENOBUFS, errno.ETOOMANYREFS]
            self.sent = b""

        def sendmsg(self, parts: list[bytes], rights: list[Any]) -> int:
            if self.troubles:
                number = self.troubles.pop()
                raise OSError(number, os.strerror(number))
            self.sent += parts[0]
            return len(parts[0])

        def recvmsg(self, *_: Any) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    sock: Any = Short()
    frames.send(sock, {"op": "a"})
    assert json.loads(sock.sent) == {"op": "a"}
    faults: list[str] = []
    reader = frames.Reader(sock, faults.append)
    assert reader.feed() == [] and not reader.eof and len(faults) == 1


def test_the_other_side_is_gone(pair: Pair) -> None:
    ours, reader, _faults = pair
    ours.send(b'{"op":"half')
    ours.shutdown(socket.SHUT_WR)
    assert reader.feed() == [] and not reader.eof
    assert reader.feed() == [] and reader.eof


def test_room_is_seen_beyond_the_1024th_descriptor() -> None:
    """select(2) ends at 1023: a supervisor with a thousand connections could not send a word."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        pytest.skip("the machine allows too few descriptors")
    ours, theirs = socket.socketpair()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    try:
        high = socket.socket(fileno=os.dup2(ours.fileno(), 1050, inheritable=False))
        assert frames.has_room(high)
        high.setblocking(False)
        frames.send(high, {"op": "a"})
        high.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        ours.close()
        theirs.close()


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_good_and_bad_leaves_nothing_open_and_every_good_one_whole(
    seed: int, pair: Pair
) -> None:
    rand = random.Random(seed)
    ours, reader, _faults = pair
    good = []
    found: list[Any] = []
    for number in range(60):
        reads, writes = pipes(rand.randrange(4))
        kind = rand.randrange(4)
        if kind == 0 and reads:
            raw(ours, rand.randbytes(rand.randrange(1, 200)).replace(b"\n", b" ") + b"\n", reads)
        elif kind == 1:
            ours.send(rand.choice([b"{}\n", b"null\n", b'{"fds":9}\n', b"[[[[\n"]))
        else:
            text = "x" * rand.choice([0, 1, 4000])
            frames.send(ours, {"op": "good", "n": number, "text": text}, reads)
            good.append((number, list(range(len(reads)))))
        close(reads, writes)
        if rand.random() < 0.4:
            found += reader.feed()
    found += all_of(reader)
    kept = [(m["n"], [os.read(fd, 1)[0] for fd in fds]) for m, fds in found if m.get("op") == "good"]
    close(*(fds for _, fds in found))
    assert kept == good
