"""Nothing that a client brings is unknown: its variables, verbs and options, each looked at by somebody once."""

from __future__ import annotations

import pytest

from tests.client import variables, verbs
from tests.client.clients import Client


@pytest.mark.thorough
def test_variables(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert variables.main([str(client.path)]) == 0, capsys.readouterr().out


def test_verbs_and_options(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.main([str(client.path)]) == 0, capsys.readouterr().out
