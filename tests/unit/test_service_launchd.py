"""launchd's side without a Mac: the plist against a table of keys and types, launchctl as it was recorded."""

from __future__ import annotations

import plistlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocd.errors import OcdError
from ocd.service import base as manager
from ocd.service.base import template
from ocd.service.launchd import LABEL, Launchd, parse_state

ROOT = Path(__file__).resolve().parent.parent.parent

#: key → type, a set of allowed words, or a table of its own. Source: launchd.plist(5), macOS 14, section "XML PROPERTY
#: LIST KEYS"; only keys that we use or might. What is not here is a misspelling: launchd ignores those in silence.
KEYS: dict[str, Any] = {
    "Label": str,
    "Program": str,
    "ProgramArguments": [str],
    "RunAtLoad": bool,
    "KeepAlive": {"SuccessfulExit": bool, "Crashed": bool},
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": {"Background", "Standard", "Adaptive", "Interactive"},
    "AbandonProcessGroup": bool,
    "LimitLoadToSessionType": [{"Aqua", "LoginWindow", "Background", "StandardIO", "System"}],
    "EnvironmentVariables": {str: str},
    "SoftResourceLimits": {"Core": int, "NumberOfFiles": int},
    "HardResourceLimits": {"Core": int, "NumberOfFiles": int},
    "Umask": int,
    "WorkingDirectory": str,
    "Sockets": {
        str: {
            "SockType": {"stream", "dgram", "seqpacket"},
            "SockFamily": {"IPv4", "IPv6", "IPv4v6", "Unix"},
            "SockPathName": str,
            "SockPathMode": int,
        }
    },
}


def faults(value: Any, rule: Any, where: str = "") -> list[str]:
    """What in ``value`` is not as ``rule`` says. ``bool`` is no ``int`` here, as it is none in a plist."""
    if isinstance(rule, set):
        return [] if value in rule else [f"{where}: {value!r} is none of {sorted(rule)}"]
    if isinstance(rule, list):
        if not isinstance(value, list) or not value:
            return [f"{where}: not an array with something in it"]
        return [f for index, item in enumerate(value) for f in faults(item, rule[0], f"{where}[{index}]")]
    if isinstance(rule, dict):
        if not isinstance(value, dict):
            return [f"{where}: not a dictionary"]
        found = []
        for key, item in value.items():
            inner = rule.get(key, rule.get(str))
            found += [f"{where}.{key}: unknown"] if inner is None else faults(item, inner, f"{where}.{key}")
        return found
    return [] if type(value) is rule else [f"{where}: {type(value).__name__}, not {rule.__name__}"]


class Mac:
    """launchctl with a memory. The answers are those that macOS gives, word for word, exit status included.

    Sources: `launchctl print` after boxen/puppet-boxen#104 (10.10), shortened; the errors after openclaw/openclaw
    #116875 and launchctl(1) (``launchctl error 5``).
    """

    def __init__(self, gui: bool = True, busy: int = 0) -> None:
        self.gui = gui
        self.busy = busy
        self.loaded = ""
        self.ending = 0
        self.asked: list[list[str]] = []
        self.state = "running"

    def __call__(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        self.asked.append(arguments)
        code, out, err = self.answer(*arguments)
        return subprocess.CompletedProcess(arguments, code, out, err)

    def answer(self, verb: str, target: str, *more: str) -> tuple[int, str, str]:
        domain = "/".join(target.split("/")[:2])
        if verb == "print" and target.count("/") == 1:
            there = self.gui or domain.startswith("user/")
            return (0, f"{domain} = {{\n\ttype = user\n}}\n", "") if there else (113, "", NO_DOMAIN)
        if verb == "print":
            if self.loaded == domain and self.ending:
                self.ending -= 1
                if not self.ending:
                    self.loaded = ""
            if self.loaded == domain:
                return 0, PRINTED.format(domain=domain, state=self.state), ""
            return 113, "", f'Could not find service "{LABEL}" in domain for user gui: 501\n'
        if verb == "bootstrap":
            if self.busy:
                self.busy -= 1
                return 5, "", "Bootstrap failed: 5: Input/output error\n"
            if self.loaded:
                return 37, "", "Bootstrap failed: 37: Operation already in progress\n"
            self.loaded = domain
        if verb == "bootout":
            self.ending = 3
            return 36, "", "Boot-out failed: 36: Operation now in progress\n"
        return 0, "", ""

    def verbs(self) -> list[str]:
        return [words[0] for words in self.asked]


NO_DOMAIN = "Could not print domain: 125: Domain does not support specified action\n"
PRINTED = """\
{domain}/io.github.ocd = {{
\tactive count = 1
\tpath = /Users/ada/Library/LaunchAgents/io.github.ocd.plist
\ttype = LaunchAgent
\tstate = {state}

\tprogram = /Users/ada/.local/bin/ocd
\targuments = {{
\t\t/Users/ada/.local/bin/ocd
\t}}

\tminimum runtime = 10
\texit timeout = 660
\truns = 2
\tpid = 24784
\tlast exit code = 0

\tsockets = {{
\t\t"control" = {{
\t\t\tstate = active
\t\t}}
\t}}
}}
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # not tmp_path: its names may be too long for a socket
    with tempfile.TemporaryDirectory(prefix="ocdl", dir="/tmp") as folder:
        yield from _home(Path(folder), monkeypatch)


def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in manager.TAKEN_ALONG:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    yield tmp_path


def launchd(mac: Mac) -> Launchd:
    return Launchd(mac, pause=lambda _seconds: None)


def rendered(bin_folder: str = "/Users/ada/.local/bin") -> dict[str, Any]:
    [data] = launchd(Mac()).files(Path(bin_folder)).values()
    return dict(plistlib.loads(data))


def test_the_plist_has_only_known_keys_of_the_right_types(home: Path) -> None:
    assert faults(plistlib.loads(template("plists", f"{LABEL}.plist").encode()), KEYS) == []
    assert faults(rendered(), KEYS) == []


def plant(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plist: plist.__setitem__(key, value)


@pytest.mark.parametrize(
    "mistake",
    [
        plant("KeepAliv", True),
        plant("ThrottleInterval", "10"),
        plant("RunAtLoad", 1),
        plant("ProcessType", "interactive"),
        plant("ProgramArguments", []),
        plant("Umask", "0077"),
        lambda plist: plist["Sockets"]["control"].__setitem__("SockPathMode", "0600"),
        lambda plist: plist["Sockets"]["control"].__setitem__("SockPath", "/x"),
        lambda plist: plist["LimitLoadToSessionType"].append("aqua"),
        lambda plist: plist["EnvironmentVariables"].__setitem__("OCD_PORT", 4000),
    ],
)
def test_the_table_notices_a_planted_mistake(home: Path, mistake: Callable[[dict[str, Any]], None]) -> None:
    plist = rendered()
    mistake(plist)
    assert len(faults(plist, KEYS)) == 1


def test_what_the_plist_must_say(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCD_PREFIX", '/a <b> & "c"')
    plist = rendered("/Users/Ada & Co/bin")
    assert plist["Label"] == LABEL and plist["ProgramArguments"] == ["/Users/Ada & Co/bin/ocd"]
    assert plist["EnvironmentVariables"]["OCD_PREFIX"] == '/a <b> & "c"'
    assert plist["KeepAlive"] == {"SuccessfulExit": False}, (
        "its keys are ORed: exit 0 must not start it again"
    )
    assert plist["Sockets"]["control"]["SockPathName"] == '/a <b> & "c"/run/control.sock'
    assert plist["Sockets"]["control"]["SockPathMode"] == 0o600 and plist["Umask"] == 0o077
    assert plist["ExitTimeOut"] > 600 and plist["ProcessType"] == "Interactive"
    assert not any("@" in str(value) for value in plist.values())
    from ocd.client import start

    assert start.LABEL == LABEL


def test_loaded_once_in_the_users_own_domain(home: Path) -> None:
    mac = Mac()
    service = launchd(mac)
    assert service.available() == "" and service.state() == "not installed"
    assert service.install(Path("/x"), dry_run=True).changed and not service.installed()
    assert not {"bootstrap", "enable", "bootout"} & set(mac.verbs())
    assert service.install(Path("/x")).changed
    assert mac.loaded.startswith("gui/") and service.state() == "running"
    order = [verb for verb in mac.verbs() if verb != "print"]
    assert order == ["enable", "bootstrap"]
    assert (home / "run/ocd").stat().st_mode & 0o777 == 0o700, "launchd makes no folder for the socket"
    assert not service.install(Path("/x")).changed


def test_over_ssh_there_is_no_gui_domain(home: Path) -> None:
    mac = Mac(gui=False)
    launchd(mac).install(Path("/x"))
    assert mac.loaded.startswith("user/")
    mac.gui = True
    assert launchd(mac).state() == "running", "loaded over ssh, asked at the screen"


def test_a_new_plist_is_loaded_anew_after_the_old_one_is_gone(home: Path) -> None:
    mac = Mac()
    service = launchd(mac)
    service.install(Path("/x"))
    mac.asked.clear()
    mac.busy = 3
    assert service.install(Path("/y")).changed
    order = [verb for verb in mac.verbs() if verb != "print"]
    assert order == ["bootout", "enable", *["bootstrap"] * 4], "bootout is asynchronous: wait, then try again"
    assert mac.loaded


def test_a_bootstrap_that_never_works_says_why(home: Path) -> None:
    with pytest.raises(OcdError, match="Input/output error") as caught:
        launchd(Mac(busy=10_000)).install(Path("/x"))
    assert caught.value.exit_code == 69


def test_a_daemon_that_still_drains_is_not_taken_for_gone(home: Path) -> None:
    mac = Mac()
    service = launchd(mac)
    service.install(Path("/x"))
    mac.answer = lambda verb, target, *more: (0, PRINTED, "")  # type: ignore[method-assign]
    with pytest.raises(OcdError) as caught:
        service.uninstall()
    assert caught.value.exit_code == 75 and service.installed()


def test_there_is_no_hardened_sandbox(home: Path) -> None:
    mac = Mac()
    with pytest.raises(OcdError) as caught:
        launchd(mac).install(Path("/x"), hardened=True)
    assert caught.value.code == "hardened-refused" and not (home / "Library/LaunchAgents").exists()


def test_uninstall_takes_everything_back(home: Path) -> None:
    mac = Mac()
    service = launchd(mac)
    assert not service.uninstall().changed
    service.install(Path("/x"))
    assert service.uninstall(dry_run=True).changed and mac.loaded and service.installed()
    assert service.uninstall().changed
    assert not mac.loaded and not service.installed() and service.state() == "not installed"


def test_start_and_stop_leave_it_installed(home: Path) -> None:
    mac = Mac()
    service = launchd(mac)
    service.install(Path("/x"))
    mac.asked.clear()
    service.stop()
    service.start()
    words = [words for words in mac.asked if words[0] != "print"]
    assert [word[0] for word in words] == ["kill", "kickstart"]
    assert words[1] == ["kickstart", f"{mac.loaded}/{LABEL}"], "without -k: one that runs is left alone"


def test_the_service_of_another_installation_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac = Mac()
    launchd(mac).install(Path("/x"))
    monkeypatch.setenv("OCD_PREFIX", "/p")
    assert not launchd(mac).uninstall().changed and mac.loaded
    with pytest.raises(OcdError):
        launchd(mac).install(Path("/z"))


@pytest.mark.parametrize("state", ["running", "waiting", "not running", "spawn scheduled"])
def test_the_services_own_state_is_read_and_not_its_sockets(state: str) -> None:
    assert parse_state(PRINTED.format(domain="gui/501", state=state)) == state


def test_an_output_that_nobody_has_seen_is_no_state() -> None:
    assert parse_state("") == parse_state("stately = no\n") == "unknown"


def test_without_launchctl_it_is_said(home: Path) -> None:
    def nobody(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 1, "", "No such file or directory: 'launchctl'")

    service = Launchd(nobody)
    assert "launchctl" in service.available()
    with pytest.raises(OcdError) as caught:
        service.install(Path("/x"))
    assert caught.value.exit_code == 69
