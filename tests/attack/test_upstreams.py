"""Every upstream that behaves badly, on the way that plans take: what its client gets, and that nobody else notices."""

from __future__ import annotations

import pytest

from tests.attack.meeting import judge, meet
from tests.attack.ways import WAYS
from tests.helpers.pipes import SERVERS, run


@pytest.mark.parametrize("fallbacks", [False, True], ids=["alone", "fallback"])
@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("name", WAYS)
def test_an_upstream_harms_nobody_but_its_own_client(name: str, http: str, fallbacks: bool) -> None:
    assert judge(name, run(meet, name, http, fallbacks)) == []
