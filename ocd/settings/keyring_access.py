"""The process that asks the keyring: one order on standard input, one answer on standard output (both JSON)."""

import contextlib
import json
import sys
from typing import Any

SERVICE = "ocd"
#: what the library falls back to when there is no keyring, and what only pretends to be one
NONE = ("keyring.backends.fail", "keyring.backends.null")
#: keyrings that write to plain files: those we have ourselves
PLAIN = ("keyrings.alt.",)


def answer(order: dict[str, Any]) -> dict[str, object]:
    """What the keyring says to one order (``get``, ``put``, ``drop``). ``why``: why not; ``missing``: there is none."""
    try:
        import keyring
        from keyring.errors import KeyringError, PasswordDeleteError
    except ImportError:
        return _no("the Python library keyring is not installed in ocd's environment", missing=True)
    found: Any = keyring.get_keyring()
    module = type(found).__module__
    if module.startswith(NONE) or module.startswith(PLAIN):
        return _no("this login has no keyring (Secret Service, KWallet, Keychain)")
    name = str(order["name"])
    try:
        match order["order"]:
            case "get":
                secret = keyring.get_password(SERVICE, name)
                return _no(f"it has no entry {name!r}") if secret is None else _yes(secret)
            case "put":
                keyring.set_password(SERVICE, name, str(order["secret"]))
            case "drop":
                with contextlib.suppress(PasswordDeleteError):
                    keyring.delete_password(SERVICE, name)
    except KeyringError as error:
        return _no(f"{type(error).__name__}: {error}".strip(": ")[:200])
    except Exception as error:
        # Of a backend nobody knows what it raises; its text may quote what it was given.
        return _no(f"its backend failed ({type(error).__name__})")
    return _yes("")


def _yes(secret: str) -> dict[str, object]:
    return {"why": "", "missing": False, "secret": secret}


def _no(why: str, missing: bool = False) -> dict[str, object]:
    return {"why": why, "missing": missing, "secret": ""}


def main() -> None:
    """Answer one order."""
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
