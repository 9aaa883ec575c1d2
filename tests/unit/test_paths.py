"""Where the runtime folder is: short enough for a socket's name, whatever the folder is called."""

from __future__ import annotations

import os

import pytest

from ocd import paths


def test_a_folder_that_is_too_deep_has_a_short_one_of_its_own() -> None:
    deep, other = "/home/" + "d" * 100, "/home/" + "e" * 100
    short = paths.runtime_below(deep)
    assert short.startswith(f"/tmp/ocd-{os.getuid()}-") and short == paths.runtime_below(deep)
    assert paths.runtime_below(other) != short
    assert paths.runtime_below("/home/you/ocd") == "/home/you/ocd/run"


def test_a_name_that_is_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system gives it: a byte that is no character comes as a surrogate (PEP 383)."""
    monkeypatch.setenv("OCD_PREFIX", "/srv/" + "d" * 100 + "\udce9")
    assert paths.runtime_dirs()[0].startswith("/tmp/ocd-")
