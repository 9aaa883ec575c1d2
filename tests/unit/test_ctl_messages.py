"""The control API's messages against golden files: daemon and command of two versions understand each other.

Each file has ``least``, the fewest fields that an earlier version sent, and ``full``, every field. A new one
that is optional goes into ``full``; whatever else makes these tests fail is a new ``ocd.API_VERSION``.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ocd import API_VERSION
from ocd.errors import OcdError
from ocd.wire import messages

FILES = sorted((Path(__file__).parent / "golden").glob("*.json"))


def golden(file: Path) -> tuple[type[messages.Message], dict[str, Any], dict[str, Any]]:
    said = json.loads(file.read_text(encoding="utf-8"))
    return getattr(messages, said["message"]), said["least"], said["full"]


def test_every_message_has_a_golden_file() -> None:
    inside_others = {"Message", "Holder", "Member", "ProxyStatus", "Session", "Trouble"}
    inside_others |= {"PlanLimit", "PlanWindow", "BudgetUse"}
    all_of_them = {
        name
        for name, found in vars(messages).items()
        if isinstance(found, type) and issubclass(found, messages.Message)
    }
    assert {golden(file)[0].__name__ for file in FILES} == all_of_them - inside_others


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_full_goes_through_unchanged(file: Path) -> None:
    model, _, full = golden(file)
    assert json.loads(model.model_validate(full).model_dump_json()) == full


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_full_shows_every_field(file: Path) -> None:
    model, _, full = golden(file)
    _has_all(model.model_validate(full), full)


def _has_all(message: messages.Message, said: dict[str, Any]) -> None:
    assert set(type(message).model_fields) == set(said)
    for name in type(message).model_fields:
        value = getattr(message, name)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        raw = said[name]
        raws = raw.values() if isinstance(value, dict) else raw if isinstance(value, list) else [raw]
        for inner, inner_said in zip(values, raws, strict=True):
            if isinstance(inner, messages.Message):
                _has_all(inner, inner_said)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_least_is_understood_and_comes_back_inside(file: Path) -> None:
    model, least, _ = golden(file)
    back = json.loads(model.model_validate(least).model_dump_json())
    assert all(_inside(value, back[name]) for name, value in least.items())


def _inside(small: Any, large: Any) -> bool:
    if isinstance(small, dict) and isinstance(large, dict):
        return all(name in large and _inside(value, large[name]) for name, value in small.items())
    return bool(small == large)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_unknown_fields_are_errors_to_the_daemon_but_not_to_the_command(file: Path) -> None:
    model, _, full = golden(file)
    with pytest.raises(ValidationError):
        model.model_validate(full | {"of_a_later_version": 1})
    assert model.model_validate(full | {"of_a_later_version": 1}, extra="ignore") == model.model_validate(
        full
    )


def test_the_golden_files_are_of_this_api() -> None:
    assert messages.Version(version="1", pid=1).api == API_VERSION == 1


# ---- sudo


@pytest.mark.parametrize("code", ["socket-not-ours", "foreign-runtime-folder", "not-running"])
def test_root_through_sudo_is_told_whose_it_is_and_nothing_that_destroys(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    from ocd.client.failure import of_root

    error = OcdError("Cannot trust /run/user/1000/ocd", "it belongs to user 1000", "Remove it", code=code)
    monkeypatch.setattr("os.getuid", lambda: 0)
    said = of_root(error, {"SUDO_USER": "ada", "SUDO_UID": "1000"})
    assert "ada" in said.next_step and "sudo" in said.why and "emove" not in said.sentence()
    assert (said.exit_code, said.code) == (error.exit_code, code)
    assert of_root(error, {}) is error, "root by itself is as anybody"
    monkeypatch.setattr("os.getuid", lambda: 1000)
    assert of_root(error, {"SUDO_USER": "ada"}) is error
