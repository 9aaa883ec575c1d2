"""Which control socket openclaude trusts, and what it makes of a daemon's bytes."""

import socket
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.client import asking
from ocd.errors import OcdError


@pytest.fixture
def folders(monkeypatch):
    """Two runtime folders, short enough for a socket's path; the second has a listener."""
    with tempfile.TemporaryDirectory(prefix="oc") as base:
        pair = [Path(base, name) for name in ("a", "b")]
        for folder in pair:
            folder.mkdir(mode=0o700)
        monkeypatch.setattr(asking, "runtime_dirs", lambda: [str(folder) for folder in pair])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(pair[1] / "control.sock"))
            listener.listen()
            yield pair


def _connects():
    connection = asking.connect(5)
    if connection is None:
        return False
    connection.close()
    return True


def test_the_next_folder_is_tried(folders):
    assert _connects()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folders[0] / "control.sock"))
    assert _connects()


def test_a_later_folder_of_somebody_else_is_passed_over(folders):
    folders[1].chmod(0o777)
    assert not _connects()


def test_in_our_own_place_it_is_an_error(folders):
    folders[0].chmod(0o777)
    with pytest.raises(OcdError) as caught:
        asking.connect(5)
    assert caught.value.exit_code == 77


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_no_socket_is_an_error(folders, what):
    path = folders[0] / "control.sock"
    if what == "file":
        path.write_text("")
    else:
        path.symlink_to(folders[1] / "control.sock")
    with pytest.raises(OcdError) as caught:
        asking.connect(5)
    assert caught.value.exit_code == 77


def _answered(content):
    ours, theirs = socket.socketpair()

    def serve():
        with theirs:
            theirs.recv(65536)
            theirs.sendall(content)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return asking.post(ours, "/v1/launch", "x/y", b"{}")
    finally:
        thread.join()


def test_an_answer():
    head = b"HTTP/1.1 503 Later\r\nContent-Type: a/b\r\nCONTENT-LENGTH: 3\r\n\r\n"
    assert _answered(head + b"abc") == (503, "a/b", b"abc")
    assert _answered(b"HTTP/1.1 200 OK\r\n\r\nall of it") == (200, "", b"all of it")
    with pytest.raises(ConnectionError):
        _answered(head + b"ab")


@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
def test_any_bytes_are_an_answer_or_a_known_error(content):
    try:
        status, kind, _ = _answered(content)
    except ConnectionError:
        return
    except OcdError as error:
        assert error.exit_code == 76
        return
    assert isinstance(status, int) and isinstance(kind, str)
