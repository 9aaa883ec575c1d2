"""Which folders and TCP ports a guest may reach. Pure: a plan for ``ocd.guest.confine``, nothing is opened here.

*main* gets a list of what it needs, and nothing else: no request can make it find a cloud credential, because the files
are not there for it, and the ports of metadata services are closed. *bedrock* gets the machine as its user has it (a
``credential_process`` may run anything), without the places where other credentials lie: Claude's login, Google's,
Azure's, the state of this installation with its keys.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

#: what programs read on every system; what does not exist is skipped
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/nix/store", "/proc", "/sys"),
    *(
        "/run/systemd/resolve",
        "/run/resolvconf",
        "/run/NetworkManager",
        "/run/nscd",
        "/var/lib/ca-certificates",
    ),
)
#: devices and shared memory; what is temporary goes into a folder of the proxy's own
SCRATCH = ("/dev", "/run/shm")
#: below HOME: what the bedrock proxy must not see
FOREIGN = (
    ".claude",
    ".claude.json",
    ".config/anthropic",
    ".config/gcloud",
    ".azure",
    ".config/ocd/external-key",
)
#: Below HOME, where AWS's own programs keep logins and caches: bedrock can reach only what there was when it started,
#: so one that begins to exist makes it a different revision.
APPEARING = (".aws", ".cache", ".config")
DNS, HTTPS = 53, 443
#: Variables whose values are addresses that requests may go to.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def plan(
    proxy: str,
    *,
    home: str,
    config: str,
    revision: str,
    runtime: str,
    state: str,
    env: Mapping[str, str],
    upstreams: Iterable[str] | None,
) -> dict[str, Any]:
    """The plan for one guest of ``proxy`` ("main" or "bedrock").

    ``config``, ``revision``, ``runtime`` and ``state`` are folders, ``env`` the guest's own environment.
    ``upstreams`` are the addresses that main's file names (URLs; see the function of that name); None when they cannot
    all be known: then no port is closed. The interpreter's own folders are added in the guest.
    """
    # Somebody may remove the runtime folder: the new one is another folder, and the socket in it is made again.
    sockets = [os.path.dirname(runtime)]
    if proxy == "bedrock":
        hidden = [*(os.path.join(home, name) for name in FOREIGN), state]
        return {"read": [revision], "write": ["/"], "sockets": sockets, "hide": hidden, "connect": None}
    named = [value for value in env.values() if value.startswith("/") and ":" not in value]
    return {
        "read": [*SYSTEM, config, revision, *named],
        "write": [*SCRATCH, runtime, *filter(None, [env.get("HOME"), env.get("TMPDIR")])],
        "sockets": sockets,
        "hide": [],
        "connect": None if upstreams is None else ports(env, upstreams),
    }


def upstreams(table: Mapping[str, Any], env: Mapping[str, str]) -> list[str] | None:
    """The addresses that main's requests can go to, by its table of routes (``ocd.stack.pipe.table``).

    None when one of its groups, or anything else, is LiteLLM's: what that connects to (providers, callbacks, a
    database) cannot be told from outside.
    """
    groups = table.get("groups") or {}
    if not groups or any(entry.get("way") not in ("anthropic", "hop") for entry in groups.values()):
        return None
    found = []
    for entry in groups.values():
        base = str(entry.get("base") or "")
        if base.startswith("os.environ/"):
            base = env.get(base.removeprefix("os.environ/"), "")
        if base:
            found.append(base if "://" in base else f"http://{base}")
    return found


def ports(env: Mapping[str, str], upstreams: Iterable[str]) -> list[int]:
    """The TCP ports of the addresses, of the proxies in ``env``, and those of HTTPS and DNS."""
    addresses = list(upstreams)
    for name, value in env.items():
        if name.lower() in _PROXIES or name.upper().endswith(("_BASE_URL", "_API_BASE", "_URL", "_ENDPOINT")):
            addresses.append(value if "://" in value else f"http://{value}")
    found = {DNS, HTTPS}
    for address in addresses:
        try:
            split = urlsplit(address)
            found.add(split.port or (80 if split.scheme == "http" else HTTPS))
        except ValueError:
            continue
    return sorted(found)
