"""Our two keys: renewed when a port was not ours and nobody can miss them; kept in files or in a keyring."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ocd import atomic
from ocd.claude import living
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.errors import OcdError
from ocd.settings import keyring_access, keyring_store, keys, stored_key
from ocd.settings.folders import Folders
from ocd.settings.schema import KeyStore, Settings
from ocd.settings.stored_key import EXTERNAL
from ocd.supervisor.supervision import key_renewal
from ocd.supervisor.supervision.key_renewal import KeyRenewal


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path, tmp_path, tmp_path / "state", tmp_path, tmp_path)


# ---- the file


def test_renewed_keys_are_other_ones_and_logins_keep_their_hashes(folders: Folders) -> None:
    first = keys.load_or_create(folders)
    due = keys.mark(folders, first, "port 4000 was given up")
    assert keys.load_or_create(folders) == due and (due.main, due.bedrock) == (first.main, first.bedrock)
    second = keys.renew(folders, due)
    assert keys.load_or_create(folders) == second and second.due == ""
    assert len({first.main, first.bedrock, second.main, second.bedrock}) == 4
    third = keys.renew(folders, second)
    assert first.login_salt == second.login_salt == third.login_salt not in first.main
    path = folders.state / "keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and os.listdir(folders.state) == ["keys.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_renewal_that_fails_half_way_leaves_the_old_keys(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    first = keys.mark(folders, keys.load_or_create(folders), "why")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, broken, fails)
        with pytest.raises(OcdError):
            keys.renew(folders, first)
    assert keys.load_or_create(folders) == first and os.listdir(folders.state) == ["keys.json"]


# ---- when


class Proxy:
    """A runner, as much as is looked at."""

    def __init__(self, port: int, members: int = 0) -> None:
        self.told: list[str] = []
        self.fed: list[object] = []
        self.refuses = False
        self.guests = SimpleNamespace(tell=lambda generation, op: self.told.append(op))
        self.state: Any = SimpleNamespace(
            members=[SimpleNamespace(generation=n) for n in range(members)],
            wanted=core.Wanted.UP,
            ports=SimpleNamespace(open=frozenset({port}), wanted=port, holder=None),
        )

    def feed(self, event: object) -> None:
        self.fed.append(event)
        assert isinstance(event, transitions.Want)
        if event.wanted is core.Wanted.IDLE and not self.refuses:
            self.state.wanted, self.state.members = core.Wanted.IDLE, []

    async def wait(self, condition: Any, timeout: float) -> bool:
        return bool(condition(self.state))


class House:
    def __init__(self, folders: Folders, members: int = 0, external: bool = False) -> None:
        self.events: list[tuple[str, str]] = []
        self.problems: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.log = SimpleNamespace(warning=lambda text, **_: self.warnings.append(text))
        self.settings = Settings.model_validate({"external": {"enabled": external}})
        self.lives = False
        self.last = time.monotonic() - 3600
        self.woken: list[str] = []
        self.tasks: list[Any] = []
        self.main, self.bedrock = Proxy(4000, members), Proxy(4001, members)
        house: Any = self
        self.renewal = KeyRenewal(
            folders,
            lambda: self.settings,
            house,
            self.living,
            lambda: self.last,
            self.woken.append,
            self.start,
        )
        runners: Any = {"main": self.main, "bedrock": self.bedrock}
        self.renewal.of(runners)
        self.renewal.changed()

    def event(self, kind: str, text: str = "") -> None:
        self.events.append((kind, text))

    async def living(self) -> bool:
        return self.lives

    def start(self, coroutine: Any) -> None:
        self.tasks.append(asyncio.ensure_future(coroutine))

    def look(self) -> bool:
        """Whether the keys are other ones afterwards."""
        before = self.renewal.keys

        async def looked() -> None:
            self.renewal.look()
            await asyncio.gather(*self.tasks)
            self.tasks.clear()

        asyncio.run(looked())
        return self.renewal.keys.main != before.main

    def begin(self, *held: int) -> bool:
        before = self.renewal.keys
        asyncio.run(self.renewal.begin([f"main:{port}:127.0.0.1" for port in held]))
        return self.renewal.keys.main != before.main


def test_at_the_start_of_a_daemon(folders: Folders) -> None:
    assert not House(folders).begin(), "nobody knows keys that were made a moment ago"
    assert not House(folders).begin(4000, 4001), "who kept the port let nobody else have it"
    house = House(folders)
    house.lives = True
    assert not house.begin() and house.renewal.keys.due, "a living session has them"
    again = House(folders)
    assert again.begin(4000), "they are due for the next daemon as well"
    assert [kind for kind, _ in again.events] == ["keys-renewed"] and "nobody kept the port" in again.events[
        0
    ][1]
    assert not House(folders, external=True).begin(), "nobody is given our key"


def test_a_port_that_was_given_up(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "settled", lambda _state: True)
    house = House(folders, members=2)
    assert not house.look() and not house.tasks and not house.main.told, "nothing is due: nothing is asked"
    house.main.state.ports.open = frozenset()
    house.renewal.changed()
    house.main.state.ports.open = frozenset({4000})
    house.renewal.changed()
    assert keys.load_or_create(folders).due == "port 4000 was given up"
    # somebody uses them
    house.lives = True
    assert not house.look() and house.main.state.wanted is core.Wanted.UP
    house.lives, house.last = False, time.monotonic()
    assert not house.look() and house.main.state.wanted is core.Wanted.UP, "there was a connection just now"
    # nobody does
    house.last -= 2 * key_renewal.QUIET
    assert house.look() and house.woken == ["the keys were renewed"]
    assert house.main.state.members == house.bedrock.state.members == []
    assert not house.look(), "once"


def test_a_connection_that_comes_meanwhile_calls_it_off(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "settled", lambda _state: True)
    house = House(folders, members=1)
    house.renewal._due("why")
    house.bedrock.refuses = True
    assert not house.look() and house.woken, "one process has the old ones: nobody gets new ones"
    assert keys.load_or_create(folders).due


def test_not_while_somebody_else_has_the_port(folders: Folders) -> None:
    house = House(folders)
    house.main.state.ports = SimpleNamespace(open=frozenset(), wanted=4000, holder=core.Holder(address="x"))
    house.renewal.changed()
    assert house.renewal.keys.due and not house.look()
    house.main.state.ports = SimpleNamespace(open=frozenset({4000}), wanted=4000, holder=None)
    assert house.look(), "nobody sleeps: no need to wake anybody"


def test_a_stopped_proxy_is_not_woken(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(folders)
    house.main.state.wanted = house.bedrock.state.wanted = core.Wanted.STOPPED
    house.renewal._due("why")
    assert house.look() and house.woken == [] and house.main.fed == []


def test_a_plain_claude_is_seen_by_its_note(tmp_path: Path) -> None:
    notes = tmp_path / "sessions"
    assert not living.any_in([tmp_path])
    notes.mkdir()
    (notes / "x.json").write_text("{}")
    (notes / "999999999.json").write_text("{}")
    assert not living.any_in([tmp_path])
    note = notes / f"{os.getpid()}.json"
    note.write_text("{}")
    assert living.any_in([tmp_path])
    os.utime(note, (1, 1))
    assert not living.any_in([tmp_path]), "of a process that had this number before"


# ---- the keyring


class Fake(ModuleType):
    """As much of the library as is used."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.entries: dict[tuple[str, str], str] = {}
        self.fails: Exception | None = None
        self.backend: Any = type("Keyring", (), {"__module__": "keyring.backends.SecretService"})()

    def get_keyring(self) -> Any:
        return self.backend

    def get_password(self, service: str, name: str) -> str | None:
        if self.fails:
            raise self.fails
        return self.entries.get((service, name))

    def set_password(self, service: str, name: str, secret: str) -> None:
        if self.fails:
            raise self.fails
        self.entries[service, name] = secret

    def delete_password(self, service: str, name: str) -> None:
        if (service, name) not in self.entries:
            raise sys.modules["keyring.errors"].PasswordDeleteError
        del self.entries[service, name]


class KeyringError(Exception):
    pass


class PasswordDeleteError(KeyringError):
    pass


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """The library in this process, and what would be asked in another one asked here."""
    fake, errors = Fake(), ModuleType("keyring.errors")
    vars(errors).update(KeyringError=KeyringError, PasswordDeleteError=PasswordDeleteError)
    monkeypatch.setitem(sys.modules, "keyring", fake)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)

    def run(_command: object, *, input: str, env: dict[str, str], **_more: Any) -> Any:
        assert "PYTHON_KEYRING_BACKEND" not in env
        return SimpleNamespace(stdout=json.dumps(keyring_access.answer(json.loads(input))))

    monkeypatch.setattr(keyring_store.subprocess, "run", run)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    yield fake
    stored_key._asked.clear()


def test_keys_move_into_the_keyring_and_back(folders: Folders, ring: Fake) -> None:
    first = keys.load_or_create(folders)
    inside = keys.settle(folders, first, "keyring")
    text = (folders.state / "keys.json").read_text()
    assert first.main not in text and first.bedrock not in text and len(ring.entries) == 1
    assert keys.load_or_create(folders) == inside
    assert (inside.main, inside.login_salt) == (first.main, first.login_salt)
    renewed = keys.renew(folders, keys.mark(folders, inside, "why"))
    assert keys.load_or_create(folders) == renewed and renewed.main != first.main
    assert len(ring.entries) == 1, "the former entry goes"
    back = keys.settle(folders, renewed, "files")
    assert keys.load_or_create(folders) == back and back.main == renewed.main and not ring.entries


def test_a_keyring_that_is_locked_leaves_the_keys_where_they_are(folders: Folders, ring: Fake) -> None:
    first = keys.load_or_create(folders)
    ring.fails = KeyringError("locked")
    with pytest.raises(OcdError) as caught:
        keys.settle(folders, first, "keyring")
    assert caught.value.exit_code == 75 and "locked" in caught.value.why and caught.value.next_step
    assert keys.load_or_create(folders) == first
    ring.fails = None
    inside = keys.settle(folders, first, "keyring")
    ring.fails = RuntimeError(first.main)
    with pytest.raises(OcdError) as caught:
        keys.load_or_create(folders)
    assert first.main not in caught.value.sentence(), "whatever a backend says of what it was given"
    # a write that fails takes its entry along
    ring.fails = None
    os.chmod(folders.state, 0o700)
    before = dict(ring.entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OcdError):
            keys.renew(folders, inside)
    assert ring.entries == before and keys.load_or_create(folders) == inside


@pytest.mark.parametrize("module", ["keyring.backends.fail", "keyring.backends.null", "keyrings.alt.file"])
def test_what_is_no_keyring_is_refused(folders: Folders, ring: Fake, module: str) -> None:
    ring.backend = type("Keyring", (), {"__module__": module})()
    first = keys.load_or_create(folders)
    with pytest.raises(OcdError):
        keys.settle(folders, first, "keyring")
    assert not ring.entries and keys.load_or_create(folders) == first


def test_an_external_key_in_the_keyring(folders: Folders, ring: Fake) -> None:
    EXTERNAL.save(folders, "sk-external-1")
    EXTERNAL.settle(folders, "keyring")
    path = folders.state / EXTERNAL.file
    assert "sk-external" not in path.read_text() and EXTERNAL.load(folders, {}) == "sk-external-1"
    EXTERNAL.save(folders, "sk-external-2", "keyring")
    assert EXTERNAL.load(folders, {}) == "sk-external-2" and len(ring.entries) == 1
    assert EXTERNAL.load(folders, {"LITELLM_API_KEY": "sk-of-the-shell"}) == "sk-of-the-shell"
    EXTERNAL.settle(folders, "files")
    assert path.read_text() == "sk-external-2" and not ring.entries
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_daemon_moves_them_as_the_settings_say(folders: Folders, ring: Fake) -> None:
    keys.load_or_create(folders)
    house = House(folders)
    house.settings = Settings(keys=KeyStore(store="keyring"))
    house.renewal.settle()
    assert house.renewal.keys.entry and not house.problems
    ring.fails = KeyringError("locked")
    house.settings = Settings()
    house.renewal.settle()
    assert house.renewal.keys.main and house.problems == {}, "they are known: no need to ask"
    house.settings = Settings(keys=KeyStore(store="keyring"))
    house.renewal.settle()
    assert house.problems["keys"].code == "keyring-failed" and not house.renewal.keys.entry


def test_without_the_library_a_sentence_says_so(folders: Folders) -> None:
    """The real process, where the library is not installed."""
    try:
        import keyring  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("the library keyring is installed here")
    first = keys.load_or_create(folders)
    with pytest.raises(OcdError) as caught:
        keys.settle(folders, first, "keyring")
    assert caught.value.exit_code == 78 and "not installed" in caught.value.why
    assert "pip install keyring" in caught.value.next_step and len(caught.value.sentence().splitlines()) <= 3
    assert keys.load_or_create(folders) == first


def test_the_secret_is_in_no_argument_and_no_variable(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        seen.append(repr(command) + repr(options["env"]))
        return real(command, **options)

    code = 'import json, sys; json.load(sys.stdin); print(\'{"why": "", "missing": false, "secret": ""}\')'
    monkeypatch.setattr(keyring_store, "COMMAND", [sys.executable, "-I", "-c", code])
    monkeypatch.setattr(keyring_store.subprocess, "run", run)
    first = keys.load_or_create(folders)
    keys.settle(folders, first, "keyring")
    assert seen and first.main not in "".join(seen) and first.bedrock not in "".join(seen)


def test_a_keyring_that_never_answers(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_store, "PATIENCE", 0.2)
    monkeypatch.setattr(keyring_store, "COMMAND", [sys.executable, "-I", "-c", "import time; time.sleep(60)"])
    with pytest.raises(OcdError) as caught:
        keyring_store.get("x")
    assert "did not answer" in caught.value.why
