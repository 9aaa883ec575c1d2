"""occtl speaks over a UNIX socket: what the environment says of certificates and proxies makes no difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocd.ctl.daemon import Daemon


def test_certificates_that_cannot_be_read_and_proxies_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocd.ctl.daemon.find_socket", lambda starts: str(tmp_path / "control.sock"))
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with Daemon():
        pass
