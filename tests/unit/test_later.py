"""A supervisor without OpenSSL: smaller, and TLS is there all the same when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CODE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from ocd.supervisor import later
later.without_openssl()
sys.modules.setdefault("rich", None)
import ocd.supervisor.daemon, ocd.supervisor.api.control
from anyio.streams import tls
loaded = {{"_ssl", "_hashlib"}} & {{name for name, found in sys.modules.items() if found is not None}}
assert not loaded, loaded
assert "_sqlite3" not in sys.modules and "httpx" not in sys.modules
import hashlib, hmac
assert hashlib.sha256(b"a").hexdigest().startswith("ca978112")
assert hmac.new(b"k", b"m", "sha256").hexdigest()
import http.client, ssl
assert type(tls.SSLContext(ssl.PROTOCOL_TLS_SERVER)).__module__ == "ssl"
assert isinstance(http.client.HTTPSConnection("localhost")._context, ssl.SSLContext)
assert ssl.PROTOCOL_TLS_SERVER.name == "PROTOCOL_TLS_SERVER" and ssl.CERT_NONE == 0
import ssl as again
assert again.__file__ and again.PROTOCOL_TLS_SERVER == 17
"""


def test_openssl_is_loaded_when_it_is_used_and_not_before() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_does_nothing_when_it_comes_too_late() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import asyncio, ssl\n"
        "from ocd.supervisor import later; later.without_openssl()\n"
        "assert sys.modules['ssl'] is ssl and sys.modules.get('_hashlib', 1) is not None"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
