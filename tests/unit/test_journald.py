"""What the journal gets, and that nothing depends on it."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.adapters import journald


def fields_of(data: bytes) -> dict[str, str]:
    """As a journal reads it."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        found[name.decode()] = value.decode()
        data = rest
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    # not tmp_path: its names are too long for a socket
    made = Path(tempfile.mkdtemp(prefix="ocdj", dir="/tmp"))
    yield made
    shutil.rmtree(made)


def test_an_event_arrives_with_its_fields(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(folder / "socket"))
        server.settimeout(10)
        journal = journald.Journal(str(folder / "socket"))
        assert journal.send(
            "main/3: crashed", "warning", {"event": "crashed", "proxy": "main", "generation": 3}
        )
        journal.sock.close()
        assert fields_of(server.recv(65536)) == {
            "MESSAGE": "main/3: crashed",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "ocd",
            "OCD_EVENT": "crashed",
            "OCD_PROXY": "main",
            "OCD_GENERATION": "3",
        }


@given(
    st.text(),
    st.sampled_from(["info", "x"]),
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(), max_size=5),
)
def test_no_text_can_forge_a_field(message: str, level: str, fields: dict[str, str]) -> None:
    found = fields_of(journald.entry(message, level, fields))
    assert set(found) <= {
        "MESSAGE",
        "PRIORITY",
        "SYSLOG_IDENTIFIER",
        *(n for n in found if n.startswith("OCD_")),
    }
    assert found["MESSAGE"].encode() == message.encode("utf-8", "replace")
    assert all(name.replace("_", "A").isalnum() and name.isupper() for name in found)


def test_without_a_journal_it_says_so(folder: Path) -> None:
    journal = journald.Journal(str(folder / "nobody"))
    assert not journal.send("x", "info", {})
    journal.sock.close()


def test_only_a_stream_that_goes_there_counts(folder: Path) -> None:
    with open(folder / "file", "w") as file:
        status = os.fstat(file.fileno())
        assert journald.connected(file.fileno(), f"{status.st_dev}:{status.st_ino}")
        assert not journald.connected(file.fileno(), "1:2") and not journald.connected(file.fileno(), "")
    assert not journald.connected(987654, "1:2")
