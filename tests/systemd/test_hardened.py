"""``occtl service install --hardened``: each line of the drop-in proven from inside, and ocd at work under it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import eventually
from tests.helpers.load import Load, steady, stream
from tests.systemd.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.process, pytest.mark.timeout(300)]

SOMEBODY = 65533
PROBE = Path(__file__).with_name("probe_hardened.py")


@contextlib.contextmanager
def writable_by_all() -> Iterator[Path]:
    """A folder outside of home, runtime folder and /tmp in which anybody may write."""
    path = Path(f"/var/tmp/ocd-t-{os.getpid()}")
    path.mkdir()
    os.chown(path, SOMEBODY, SOMEBODY)
    path.chmod(0o777)
    try:
        yield path
    finally:
        for left in path.iterdir():
            left.unlink()
        path.rmdir()


@pytest.fixture
def probed(machine: Machine) -> Iterator[Callable[[str], dict[str, object]]]:
    """Run the probe under a unit with these directives; returns what it found."""
    folder = machine.home / ".config/systemd/user"
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    unit = folder / "ocd-hardened.service"

    def run(directives: str) -> dict[str, object]:
        out = machine.home / "hardened.json"
        with writable_by_all() as elsewhere:
            program = f'"{sys.executable}" "{PROBE}" "{out}" "{elsewhere}"'
            unit.write_text(f"{directives}\n[Service]\nType=oneshot\nExecStart={program}\n")
            machine.systemctl("daemon-reload")
            done = machine.systemctl("start", unit.name)
            assert done.returncode == 0, machine.systemctl("status", unit.name).stdout
        found = dict(json.loads(out.read_text()))
        out.unlink()
        return found

    yield run
    unit.unlink()
    machine.systemctl("daemon-reload")
    if made:
        folder.rmdir()
        folder.parent.rmdir()


def drop_in() -> str:
    text = (Path(__file__).parents[2] / "units/hardened.conf").read_text()
    # The test's home folder lies in /tmp anyway.
    return text.replace("@FOLDERS@\n", "")


def test_each_line_of_the_drop_in_takes_effect(
    machine: Machine, probed: Callable[[str], dict[str, object]]
) -> None:
    inside, outside = probed(drop_in()), probed("[Service]")
    assert int(str(outside["CapBnd"]), 16) and not int(str(inside["CapBnd"]), 16)
    assert not int(str(inside["CapEff"]), 16)
    assert outside["others"] == SOMEBODY and inside["others"] == 65534, "others' files are nobody's to it"
    assert inside["users"] == 1, "one user is mapped: itself"
    assert outside["elsewhere"] == "allowed" and inside["elsewhere"] == "EROFS"
    for name in ("home", "tmp", "runtime"):
        assert inside[name] == "allowed", name
    assert inside["mounts"] != outside["mounts"], "a mount namespace of its own"
    assert inside["devices"] != outside["devices"], "a /dev of its own"
    assert not set(map(str, inside["block"])) and inside["random"] == "allowed"  # type: ignore[call-overload]
    assert inside["cgroup"] in ("EROFS", "EACCES", "ENOENT")
    assert inside["modules"] in ("EACCES", "ENOENT")


def test_ocd_works_under_it_and_goes_back(machine: Machine, upstreams: Upstreams) -> None:
    done = machine.occtl("service", "install", "--json")
    assert done.returncode == 0, done.stderr
    eventually(machine.ready, 90)
    path = machine.home / ".config/systemd/user/ocd.service.d/hardened.conf"
    dry = machine.occtl("service", "install", "--hardened", "--dry-run")
    assert "would write" in dry.stdout and not path.exists()

    done = machine.occtl("service", "install", "--hardened", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"] and path.exists()
    assert any("restart" in notice for notice in told["notices"]), "what serves goes on under the old unit"
    assert machine.systemctl("restart", "ocd.service").returncode == 0
    eventually(machine.ready, 90)
    try:
        pids = machine.cgroup()
        assert len(pids) >= 6
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"CapBnd:\s+0+\n", status), (pid, psutil.Process(pid).cmdline())
            assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
        said = machine.run("systemd-analyze", "--user", "--no-pager", "security", "ocd.service").stdout
        found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
        document = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
        stated = re.search(r"--hardened`\s+brings it to (\d+\.\d)", document)
        assert found and stated, said[-300:]
        assert float(found[1]) < 3 and abs(float(found[1]) - float(stated[1])) <= 0.3, found[1]

        upstreams.reset()
        upstreams.behave(Behaviour(chunks=5, delay=0.01))
        load = Load()
        stream(machine.port, machine.headers(), "claude-opus-9-9", load)
        assert not load.failed and upstreams.seen("anthropic")
        upstreams.reset()
        with steady(machine.port, machine.headers(), rate=10) as through:
            assert machine.occtl("reload").returncode == 0
            assert machine.occtl("restart", "main").returncode == 0
            os.kill(int(str(machine.proxy()["pid"])), 9)
            eventually(machine.ready, 60)
        # The one that was killed may have had one in flight.
        assert through.sent >= 10 and len(through.failed) <= 1, through.failed[:3]
        for words in (("status",), ("sessions",), ("usage",), ("doctor",), ("selftest",), ("reexec",)):
            done = machine.occtl(*words)
            assert "Traceback" not in done.stderr + done.stdout, (words, done.stderr)
        eventually(machine.ready, 60)
        shown = json.loads(machine.occtl("service", "status", "--json").stdout)
        assert shown["hardened"] is True and shown["state"] == "active"
        again = json.loads(machine.occtl("service", "install", "--json").stdout)
        assert not again["changed"], "an upgrade leaves it as it is"
    finally:
        done = machine.occtl("service", "install", "--no-hardened")
        assert done.returncode == 0 and not path.parent.exists()
    try:
        assert machine.systemctl("restart", "ocd.service").returncode == 0
        eventually(machine.ready, 90)
        assert os.readlink(f"/proc/{machine.main_pid()}/ns/user") == os.readlink("/proc/self/ns/user")
    finally:
        # The machine is the session's: the next test finds it as this one did.
        assert machine.occtl("service", "uninstall").returncode == 0
    assert not (machine.home / ".config/systemd").exists()
