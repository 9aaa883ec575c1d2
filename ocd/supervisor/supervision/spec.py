"""What a guest is started with: its environment, built from nothing, and its boundary's policy."""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from ocd.core.state import Limits
from ocd.core.step import Adjust
from ocd.errors import OcdError
from ocd.settings import aws_profiles
from ocd.settings.folders import Folders
from ocd.settings.keys import Keys
from ocd.settings.schema import Proxy, Settings
from ocd.settings.stored_key import TEAM
from ocd.stack import pipe
from ocd.stack.abilities import FILE as CONTRACT
from ocd.supervisor.supervision import confinement, litellm_env

PROXIES = ("main", "bedrock")
#: No credential of Google's or Azure's is to be found by accident, in either proxy. Names: google-auth's and Azure's
#: documentation of their default chains; what is not set here is not inherited either.
NO_CLOUD = {
    "GOOGLE_APPLICATION_CREDENTIALS": os.devnull,
    "CLOUDSDK_CONFIG": os.devnull,
    "NO_GCE_CHECK": "true",
    "AZURE_CONFIG_DIR": os.devnull,
}
#: The like for AWS (botocore's configuration variables), for the proxy that must never sign a request.
NO_AWS = {
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
HOSTS = ("127.0.0.1", "::1")
LOOPBACK = "localhost,127.0.0.1,::1"


def limits(settings: Settings, proxy: str) -> Limits:
    """The state machine's policy for one proxy."""
    s = settings.supervision
    p = getattr(settings.proxies, proxy)
    return Limits(
        workers=p.workers,
        spares=1 if _spare(settings, p) else 0,
        start_timeout=s.start_timeout,
        drain_timeout=s.drain_timeout,
        stop_timeout=s.stop_timeout,
        hang_timeout=s.hang_timeout,
        liveness_misses=s.liveness_misses,
        max_draining=s.max_draining,
    )


def _spare(settings: Settings, proxy: Proxy) -> bool:
    """Whether a second process is kept booted. Without a fork it shares nothing and costs as much as the first (300
    MB): there only who asks for one in ocd.toml gets it."""
    return proxy.spare and ("spare" in proxy.model_fields_set or litellm_env.mode(settings) == "fork")


def adjust(settings: Settings, proxy: str) -> Adjust:
    """What the settings say of a proxy and takes effect without another process."""
    return Adjust(limits(settings, proxy), settings.ports()[proxy], settings.proxy(proxy).enabled)


def public_environment(settings: Settings, proxy: str, home: str, path: str) -> dict[str, str]:
    """Everything but the keys. Nothing is inherited: what is not named here is not there (FACTS lists why)."""
    ports = settings.ports()
    given = {name: value.get_secret_value() for name, value in getattr(settings.proxies, proxy).env.items()}
    env = {
        "PATH": path,
        "HOME": home,
        "LANG": "C.UTF-8",
        **NO_CLOUD,
        # LiteLLM's own limit would cut a stream before ours.
        "GRACEFUL_SHUTDOWN_TIMEOUT": str(int(settings.supervision.drain_timeout)),
        "OCD_PROXY": proxy,
        "OCD_AWS_REGION": settings.aws_region,
    }
    if proxy == "main":
        # Whatever a request names, there is no AWS credential to be found from here.
        env.update(NO_AWS)
        env["OCD_BEDROCK_URL"] = f"{settings.team.url or 'http://127.0.0.1:' + str(ports['bedrock'])}/v1"
    else:
        env["AWS_EC2_METADATA_DISABLED"] = "true"
        env["AWS_REGION"] = env["AWS_DEFAULT_REGION"] = settings.aws_region
        if settings.aws_profile:
            env["OCD_AWS_PROFILE"] = settings.aws_profile
            if settings.aws_profile in aws_profiles.profiles(home, given):
                # For files that name no profile themselves. One that does not exist would make botocore refuse
                # even explicit keys.
                env["AWS_PROFILE"] = settings.aws_profile
    env.update(given)
    # What stays on this machine never goes through a proxy: neither a prompt nor the other proxy's key.
    without = env.get("no_proxy") or env.get("NO_PROXY")
    env["NO_PROXY"] = env["no_proxy"] = ",".join([*([without] if without else []), LOOPBACK])
    return env


def key_environment(keys: Keys, proxy: str, team: str | None = None) -> dict[str, str]:
    """The keys that this proxy needs: main has its own and the hop's, bedrock only its own. ``team``: the key for the
    team's proxy, where that is asked instead; then the local one stays behind."""
    if proxy == "main":
        return {"OCD_MAIN_KEY": keys.main, "OCD_BEDROCK_KEY": keys.bedrock if team is None else team}
    return {"OCD_BEDROCK_KEY": keys.bedrock}


def team_key(settings: Settings, folders: Folders) -> str | None:
    """The key for the team's proxy; None: there is none to be asked, empty: its key is missing (``occtl status`` says
    so, and each request that goes there is refused)."""
    if not settings.team.url:
        return None
    try:
        return TEAM.load(folders, os.environ)
    except OcdError:
        return ""


def policy(settings: Settings, keys: Keys, proxy: str) -> dict[str, Any]:
    """What the boundary in front of LiteLLM enforces."""
    return {
        "role": proxy,
        "key": keys.main if proxy == "main" else keys.bedrock,
        "pass_through": settings.boundary.pass_through,
        "admin": settings.boundary.admin,
    }


def revision(
    snapshot: str, settings: Settings, proxy: str, home: str, path: str, host: str, team: str | None = None
) -> str:
    """A name for everything that a generation depends on: the files' snapshot, what reaches it as environment, and
    the code that it runs (``host``, see ``litellm_env.identity``), and what there is for it to reach."""
    shared = {
        "host": host,
        "env": public_environment(settings, proxy, home, path),
        "args": settings.litellm.args,
        "boundary": settings.boundary.model_dump(),
    }
    if proxy == "main" and team is not None:
        # Another key is another process. Of the key itself nothing is in the name.
        shared["team"] = hashlib.sha256(team.encode()).hexdigest()
    if proxy == "bedrock" and settings.boundary.confine:
        shared["reach"] = [name for name in confinement.APPEARING if (Path(home) / name).exists()]
    return f"{snapshot}-{zlib.crc32(json.dumps(shared, sort_keys=True).encode()):08x}"


def boot(
    settings: Settings,
    keys: Keys,
    folders: Folders,
    proxy: str,
    generation: int,
    config: Path,
    home: str,
    path: str,
) -> dict[str, Any]:
    """The boot message for one guest. It holds keys: it goes over the guest's own socket and nowhere else."""
    public = public_environment(settings, proxy, home, path)
    if proxy == "main" and public["HOME"] == home:
        # Libraries look for credentials below HOME; this one has nothing in it. The guest makes it.
        public["HOME"] = str(folders.state / "homes" / proxy)
        public.setdefault("TMPDIR", public["HOME"])
    table = pipe_table(config)
    return {
        "env": {**public, **key_environment(keys, proxy, team_key(settings, folders))},
        "cwd": str(folders.config),
        "path": [str(config.parent), str(folders.config)],
        "config": str(config),
        "socket": socket_path(folders, proxy, generation),
        "policy": policy(settings, keys, proxy),
        "args": settings.litellm.args,
        "pipe": table,
        # Logins are told apart by a hash that nobody else can compute; no restart and no other key changes it.
        "salt": keys.login_salt,
        **({"contract": contract(config)} if proxy == "bedrock" else {}),
        "confine": confinement.plan(
            proxy,
            home=home,
            config=str(folders.config),
            revision=str(config.parent),
            runtime=str(folders.runtime),
            state=str(folders.state),
            env=public,
            upstreams=confinement.upstreams(table, public),
        )
        if settings.boundary.confine
        else None,
    }


def pipe_table(config: Path) -> dict[str, Any]:
    """The table of routes that was made with a revision; empty for one from before there were any."""
    try:
        found = json.loads((config.parent / pipe.FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def contract(config: Path) -> dict[str, Any]:
    """What bedrock's models can do, as the revision has it (``ocd.stack.abilities``). Without it every name passes,
    and LiteLLM's own stream is what is held to the contract."""
    try:
        found = json.loads((config.parent / CONTRACT).read_bytes())
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {"groups": {}, "open": True, "direct": False}


def socket_path(folders: Folders, proxy: str, generation: int) -> str:
    return str(folders.runtime / f"guest-{proxy}-{generation}.sock")


def host_environment(home: str, path: str) -> dict[str, str]:
    """The forkserver's: no key, no AWS, nothing of the user's."""
    env = {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
    if os.environ.get("TMPDIR"):
        env["TMPDIR"] = os.environ["TMPDIR"]
    return env
