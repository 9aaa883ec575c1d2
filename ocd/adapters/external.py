"""Is what answers at an address a LiteLLM, and does it take our key? Not any HTTP server will do.

First without the key: ``GET /health/liveliness`` answers ``"I'm alive!"`` to anyone. Only then with it:
``GET /model/info`` lists the model groups of the key (LiteLLM's own form: ``model_name`` and ``litellm_params``).
Neither makes a billed call, and a redirection is not followed: it would carry the key elsewhere.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

#: bytes of an answer that are read
_LARGEST = 8 << 20
_ALIVE = b"I'm alive!"


class NotThere(Exception):
    """Nothing answers, or not in time."""


class NotLiteLLM(Exception):
    """Something answers that is no LiteLLM."""


class KeyRefused(Exception):
    """A LiteLLM answers and does not take the key."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The model groups that the key may use, in the order of the answer."""

    models: tuple[str, ...]


def identify(base_url: str, key: str, timeout: float) -> Identity:
    """Ask; blocks for at most twice ``timeout`` seconds. Raises NotThere, NotLiteLLM, KeyRefused."""
    status, body = _get(base_url, "/health/liveliness", None, timeout)
    if status != 200 or _ALIVE not in body[:200]:
        raise NotLiteLLM(f"it answers {status} to /health/liveliness, not as LiteLLM does")
    status, body = _get(base_url, "/model/info", key, timeout)
    if status in (401, 403):
        raise KeyRefused(f"it answers {status} to the key")
    if status == 400 and b"No connected db" in body:
        # what LiteLLM says to an unknown key when it has no database
        raise KeyRefused("it does not know the key")
    names = _names(body) if status == 200 else None
    if names is None:
        raise NotLiteLLM(f"it answers {status} to /model/info, not as LiteLLM does")
    return Identity(names)


def is_loopback(base_url: str) -> bool:
    """Whether the address never leaves this machine."""
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _names(body: bytes) -> tuple[str, ...] | None:
    try:
        listed = json.loads(body)["data"]
        names = [entry["model_name"] for entry in listed if isinstance(entry["litellm_params"], dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(dict.fromkeys(names))


def _get(base_url: str, path: str, key: str | None, timeout: float) -> tuple[int, bytes]:
    import http.client

    parts = urlsplit(base_url)
    headers = {"Accept": "application/json"}
    if key is not None:
        headers |= {"Authorization": f"Bearer {key}", "x-litellm-api-key": f"Bearer {key}"}
    host = parts.hostname or ""
    connection: Any
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_LARGEST)
    except http.client.HTTPException:
        raise NotLiteLLM("it does not speak HTTP") from None
    except (OSError, ValueError) as error:
        raise NotThere(getattr(error, "strerror", None) or type(error).__name__) from None
    finally:
        connection.close()
