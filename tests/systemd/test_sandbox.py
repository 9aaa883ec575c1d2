"""Each directive of ocd.service that forbids or limits something, tried by a program run under that very unit."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.daemon import eventually
from tests.systemd.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.process, pytest.mark.timeout(120)]

SANDBOX = (
    "NoNewPrivileges",
    "LockPersonality",
    "Restrict",
    "SystemCall",
    "ProtectHostname",
    "KeyringMode",
    "UMask",
    "LimitNOFILE",
)


@pytest.fixture
def unit(machine: Machine) -> Iterator[Callable[..., str]]:
    """Start a unit made of ours: another program, no socket; returns its name when the start job is over."""
    folder = machine.home / ".config/systemd/user"
    shown = json.loads(machine.occtl("service", "show", "--json").stdout)
    text = shown[str(folder / "ocd.service")]
    folder.mkdir(parents=True)
    names: list[str] = []

    def start(program: str, drop: tuple[str, ...] = (), add: str = "") -> str:
        name = f"ocd-probe{len(names)}.service"
        lines = [
            line
            for line in text.splitlines()
            if not line.startswith(("Requires=", "After=", "ExecStart=", "ExecReload=", "WantedBy=", *drop))
        ]
        (folder / name).write_text(
            "\n".join(lines).replace("[Service]", f"[Service]\nExecStart={program}\n{add}")
        )
        names.append(name)
        machine.systemctl("daemon-reload")
        machine.systemctl("start", name)
        return name

    yield start
    for name in names:
        machine.systemctl("stop", name)
        (folder / name).unlink()
    machine.systemctl("reset-failed")
    machine.systemctl("daemon-reload")
    folder.rmdir()
    folder.parent.rmdir()


def probed(machine: Machine, unit: Callable[..., str], drop: tuple[str, ...] = ()) -> dict[str, object]:
    out = machine.root / "probe.json"
    probe = Path(__file__).with_name("probe.py")
    name = unit(f'"{sys.executable}" "{probe}" "{out}"', ("Type=", "Restart=", *drop), "Type=oneshot")
    assert machine.show("Result", name) == "success", machine.systemctl("status", name).stdout
    return dict(json.loads(out.read_text()))


def test_every_directive_of_the_sandbox_forbids_what_it_says(
    machine: Machine, unit: Callable[..., str]
) -> None:
    inside, outside = probed(machine, unit), probed(machine, unit, SANDBOX)
    assert outside["NoNewPrivileges"] == "0" and inside["NoNewPrivileges"] == "1"
    for name in ("LockPersonality", "RestrictRealtime", "RestrictSUIDSGID", "RestrictAddressFamilies"):
        free = "EINVAL" if name == "RestrictRealtime" else "allowed"
        assert outside[name] == free, f"{name}: without the directive the probe must be able to do it"
        assert inside[name] in ("EPERM", "EAFNOSUPPORT"), name
    if outside["SystemCallArchitectures"] == "allowed":  # a kernel may have no 32-bit door at all
        assert inside["SystemCallArchitectures"] == "signal 31", "SIGSYS"
    assert inside["RestrictNamespaces"] == "EPERM" and outside["RestrictNamespaces"] == "allowed"
    for name in ("ProtectHostname", "@debug", "@mount", "@clock", "@swap", "@privileged", "@reboot"):
        assert inside[name] == "EPERM" != outside[name], (name, outside[name])
    assert inside["KeyringMode"] != outside["KeyringMode"]
    assert dict(inside["status"])["Seccomp"] == "2"  # type: ignore[call-overload]
    for name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"):
        assert inside[name] == "allowed", name
    assert inside["UMask"] == "0077" != outside["UMask"]
    # A user's manager gives what it has itself, at most.
    assert inside["LimitNOFILE"][0] == min(65536, outside["LimitNOFILE"][1])
    assert str(inside["PATH"]).startswith(f"{machine.bin}:")
    assert inside["watchdog"] == "60000000"


@pytest.mark.parametrize(
    ("ending", "again"),
    [("exit 0", False), ("exit 1", True), ("exit 70", True), ("kill -KILL $$$$", True)]
    + [(f"exit {code}", False) for code in (75, 77, 78)],
)
def test_it_is_started_again_only_where_that_helps(
    ending: str, again: bool, machine: Machine, unit: Callable[..., str]
) -> None:
    program = f'/bin/sh -c "{ending}"'
    name = unit(program, ("Type=", "RestartSec="), "Type=simple\nRestartSec=20ms")
    if again:
        eventually(lambda: int(machine.show("NRestarts", name)) > 2, 20)
        return
    eventually(lambda: machine.show("ActiveState", name) in ("failed", "inactive"), 20)
    assert machine.show("NRestarts", name) == "0"


def test_a_program_that_is_not_there_is_not_tried_for_ever(
    machine: Machine, unit: Callable[..., str]
) -> None:
    name = unit("/nowhere/ocd")
    eventually(lambda: machine.show("ActiveState", name) == "failed", 20)
    assert machine.show("ExecMainStatus", name) == "203" and machine.show("NRestarts", name) == "0"


def test_nothing_in_the_unit_is_unknown_to_this_systemd(machine: Machine, unit: Callable[..., str]) -> None:
    name = unit("/bin/true", ("Type=",), "Type=oneshot\nNoSuchDirective=1")
    path = machine.home / ".config/systemd/user" / name
    done = machine.run("systemd-analyze", "--user", "--man=no", "verify", str(path))
    said = [line for line in done.stderr.splitlines() if "ocd-probe" in line]
    assert len(said) == 1 and re.search("Unknown key.*NoSuchDirective", said[0]), said


def test_the_exposure_is_what_the_document_says(machine: Machine, unit: Callable[..., str]) -> None:
    """As systemd-analyze counts it; docs/security.md has the figure, and why it is not lower."""
    name = unit("/bin/true", ("Type=",), "Type=oneshot")
    said = machine.run("systemd-analyze", "--user", "--no-pager", "security", name).stdout
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    document = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    told = re.search(r"exposure of (\d+\.\d)", document)
    assert found and told and found[1] == told[1], said[-300:]
