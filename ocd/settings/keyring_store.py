"""Secrets in the desktop's keyring (Secret Service, KWallet, macOS's Keychain), asked by a process of its own.

What the ``keyring`` library brings (D-Bus, threads, a question to the user that waits for an answer) stays out of the
supervisor, and none of it is imported by who keeps keys in files. The secret goes through pipes, never through
arguments or the environment.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from ocd import paths
from ocd.errors import EX_CONFIG, EX_TEMPFAIL, OcdError

FILES, KEYRING = "files", "keyring"
#: seconds; somebody may have to type the password that opens the keyring
PATIENCE = 20.0
#: what the process is given of the environment: where the desktop is. No choice of a backend: a variable must not
#: decide that secrets go to a plain file.
PASSED = (
    *("HOME", "PATH", "USER", "LOGNAME", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"),
    *(
        "DBUS_SESSION_BUS_ADDRESS",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_CURRENT_DESKTOP",
    ),
)
#: the command of that process; tests put one with a keyring of their own in its place
COMMAND = paths.program("ocd.settings.keyring_access")


def entry(what: str, state: Path) -> str:
    """A name that no entry has, for ``what`` of the installation with this state folder."""
    return f"{what} {secrets.token_hex(4)} of {state}"


def get(name: str) -> str:
    """The secret of an entry. Raises OcdError: exit 78 without the library, 75 when the keyring fails."""
    return _ask("get", name)


def put(name: str, secret: str) -> None:
    """Make an entry. Raises OcdError as ``get`` does."""
    _ask("put", name, secret)


def drop(name: str) -> None:
    """Remove an entry; one that is not there is fine. Raises OcdError as ``get`` does."""
    _ask("drop", name)


def _ask(order: str, name: str, secret: str = "") -> str:
    environ = {key: os.environ[key] for key in PASSED if os.environ.get(key)}
    try:
        done = subprocess.run(
            COMMAND,
            input=json.dumps({"order": order, "name": name, "secret": secret}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd="/",
            env={**environ, "LANG": "C.UTF-8"},
        )
        said = json.loads(done.stdout)
        why, missing = str(said["why"]), bool(said["missing"])
    except subprocess.TimeoutExpired:
        why, missing = f"it did not answer within {PATIENCE:.0f} s", False
    except (OSError, ValueError, KeyError, TypeError):
        # Nothing of what it printed: there may be a secret in it.
        why, missing = "the process that asks it failed", False
    else:
        if not why:
            return str(said["secret"])
    if missing:
        raise OcdError(
            "The keyring cannot be used",
            why,
            f"Run `{sys.executable} -m pip install keyring`, or set store = 'files' under [keys] in ocd.toml"
            " and remove keys.json from the state folder",
            exit_code=EX_CONFIG,
            code="keyring-missing",
        )
    raise OcdError(
        "The keyring does not answer",
        why,
        "Log in to the desktop, which unlocks it, or set store = 'files' under [keys] in ocd.toml and remove"
        " keys.json from the state folder",
        exit_code=EX_TEMPFAIL,
        code="keyring-failed",
    )
