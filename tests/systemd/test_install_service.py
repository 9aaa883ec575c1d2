"""install.py where a systemd user manager answers: a service from the start, upgraded in place, gone at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ocd.selftest.upstreams import Upstreams
from tests.helpers.checkout import copy_sources, edit
from tests.helpers.daemon import eventually, litellm_python
from tests.helpers.load import steady
from tests.systemd.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.process, pytest.mark.timeout(600)]


@pytest.fixture
def fresh(machine: Machine, upstreams: Upstreams) -> Iterator[Machine]:
    """A machine of its own, booted, with nothing installed. ``machine`` says whether that is possible here."""
    made = Machine({"anthropic": upstreams.anthropic, "bedrock": upstreams.bedrock})
    for script in made.bin.iterdir():
        script.unlink()
    try:
        made.boot()
        yield made
    finally:
        made.close()


def tree(machine: Machine) -> dict[str, str]:
    found = {}
    for path in sorted(machine.home.rglob("*")):
        content = path.read_bytes().hex() if path.is_file() else "folder"
        found[str(path.relative_to(machine.home))] = f"{path.lstat().st_mode:o} {content}"
    return found


def test_a_service_from_install_to_uninstall(fresh: Machine, tmp_path: Path, wheels: Path) -> None:
    old, new = copy_sources(tmp_path / "old"), copy_sources(tmp_path / "new", version="99.1")
    edit(new / "units" / "ocd.service", r"^Description=.*", "Description=A newer unit")
    before = tree(fresh)
    options = ("--wheels", str(wheels), "--litellm-python", litellm_python())

    done = fresh.run(sys.executable, str(old / "install.py"), *options, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "systemd runs it from now on" in done.stdout
    assert fresh.show("ActiveState") == "active"
    enabled = fresh.systemctl("is-enabled", "ocd.service", "ocd.socket").stdout.split()
    assert enabled == ["enabled", "enabled"]
    eventually(fresh.ready, 60)
    keeper, group = fresh.main_pid(), fresh.cgroup()

    with steady(fresh.port, fresh.headers(), rate=10) as load:
        done = fresh.run(sys.executable, str(new / "install.py"), *options, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert load.sent > 20 and not load.failed, load.failed[:3]
    assert fresh.status()["version"] == "99.1"
    assert fresh.main_pid() == keeper and fresh.show("NRestarts") == "0", "upgraded in place"
    assert fresh.show("ActiveState") == "active" and fresh.show("Description") == "A newer unit"
    group |= fresh.cgroup()

    done = fresh.run(sys.executable, str(new / "install.py"), "--uninstall", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree(fresh) == before, "only the configuration, which was there, remains"
    assert not [pid for pid in group if psutil.pid_exists(pid)]
    assert "could not be found" in fresh.systemctl("status", "ocd.service").stderr
