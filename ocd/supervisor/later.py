"""OpenSSL only when somebody needs it: it costs a supervisor 5 MB that it has no use for.

asyncio, anyio and uvicorn import ``ssl`` for connections that nobody makes here, ``hashlib`` prefers OpenSSL's
functions to Python's own. Only an external LiteLLM server is asked over TLS; then ``ssl`` is loaded after all.
"""

import importlib
import sys
import types
from importlib.util import find_spec
from typing import Any

#: Python's own hash functions, by Python version; some distributions leave them out in favour of OpenSSL's
_OWN_HASHES = (("_md5", "_sha1", "_sha256", "_sha512"), ("_md5", "_sha1", "_sha2"))


class Later(types.ModuleType):
    """Stands for the module ``name`` until an attribute is used; ``known`` are those that are only looked at."""

    def __init__(self, name: str, known: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            # The import system looks for these; that is no use of the module.
            raise AttributeError(attribute)
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        real = importlib.import_module(name)
        self.__dict__.update({key: value for key, value in vars(real).items() if not key.startswith("__")})
        return getattr(real, attribute)


class _Context:
    """Stands for ssl.SSLContext, which anyio names and does not use."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        ssl: Any = importlib.import_module("ssl")
        _ = ssl.SSLSocket
        return ssl.SSLContext(*args, **options)


def without_openssl() -> None:
    """Call it before asyncio and hashlib are imported: they do then as in a Python that was built without OpenSSL."""
    if sys.modules.keys() & {"ssl", "asyncio", "hashlib"}:
        return
    if any(all(find_spec(name) for name in names) for names in _OWN_HASHES):
        sys.modules["_hashlib"] = None  # type: ignore[assignment]
    sys.modules["ssl"] = None  # type: ignore[assignment]
    importlib.import_module("asyncio")
    # ssl.CERT_NONE and PROTOCOL_TLS_SERVER: uvicorn's defaults for what we do not ask it for.
    known = {"CERT_NONE": 0, "PROTOCOL_TLS_SERVER": 17, "SSLContext": _Context}
    sys.modules["ssl"] = Later("ssl", known)
