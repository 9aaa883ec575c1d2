"""Ask botocore in LiteLLM's environment, with the environment that the bedrock proxy would get."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ocd.aws import look
from ocd.aws.judge import Verdict, Wanted, judge
from ocd.errors import EX_TEMPFAIL, EX_UNAVAILABLE, OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.inputs import config_path
from ocd.stack.litellm_file import load_litellm
from ocd.stack.stack import AWS, ENVIRON, Route, routes

#: seconds; reading a few files takes half a second
LIMIT = 20.0


@dataclass(frozen=True, slots=True)
class Report:
    """``verdicts``: one for each way in which the routes of the bedrock file ask for credentials."""

    verdicts: list[Verdict]
    botocore: str = ""
    shell: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return all(verdict.usable for verdict in self.verdicts)


def environment(settings: Settings) -> dict[str, str]:
    """What the bedrock proxy would get, its keys apart."""
    from ocd.supervisor.supervision import spec

    path = os.environ.get("PATH") or os.defpath
    home = os.environ.get("HOME") or os.path.expanduser("~")
    return spec.public_environment(settings, "bedrock", home, path)


def wanted(bedrock: list[Route], env: Mapping[str, str]) -> list[Wanted]:
    """The AWS routes of the bedrock file, those that ask for the same put together."""
    groups: dict[Wanted, list[str]] = {}
    for route in bedrock:
        if route.provider not in AWS:
            continue

        def value(name: str, variable: str, params: dict[str, Any] = route.params) -> str:
            given = params.get(name)
            if isinstance(given, str) and given.startswith(ENVIRON):
                given = env.get(given.removeprefix(ENVIRON))
            # LiteLLM: what the route leaves out is taken from the variable
            return str(given) if given else env.get(variable, "")

        own = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        have = {part: value(name, "") for name, part in zip(own, ("id", "secret", "token"), strict=True)}
        one = Wanted(
            routes=(),
            region=value("aws_region_name", "AWS_REGION_NAME") or env.get("AWS_REGION", ""),
            profile=value("aws_profile_name", "AWS_PROFILE_NAME"),
            keys=tuple(part for part, text in have.items() if text),
            key=have["id"][-4:] if len(have["id"]) >= 12 else "",
            role=value("aws_role_name", "AWS_ROLE_NAME"),
            web_identity=bool(value("aws_web_identity_token", "AWS_WEB_IDENTITY_TOKEN")),
        )
        groups.setdefault(one, []).append(route.name)
    return [
        Wanted(
            tuple(dict.fromkeys(names)),
            one.region,
            one.profile,
            one.keys,
            one.key,
            one.role,
            one.web_identity,
        )
        for one, names in groups.items()
    ]


def look_up(python: str, env: Mapping[str, str], profiles: list[str | None]) -> dict[str, Any]:
    """The facts of ``ocd.aws.look``. Raises OcdError: exit 69 without botocore, 75 when it takes too long."""
    try:
        done = subprocess.run(
            [python, "-I", str(Path(look.__file__))],
            input=json.dumps({"profiles": profiles}),
            env={**env, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise OcdError(
            "AWS's files could not be read in time",
            f"botocore took more than {LIMIT:g} s",
            "Try again; a home folder on a network may be slow",
            exit_code=EX_TEMPFAIL,
            code="aws-slow",
        ) from None
    except (OSError, ValueError):
        found = {"error": "no answer"}
    if "error" in found:
        raise OcdError(
            "Cannot ask botocore",
            f"{python} has none that works",
            "Run `python3 install.py` again, or correct litellm.python in ocd.toml",
            exit_code=EX_UNAVAILABLE,
            code="no-botocore",
        )
    return dict(found)


def report(folders: Folders, settings: Settings) -> Report:
    """The verdict on every AWS route. Raises ConfigError (78) for a broken file, OcdError like ``look_up``."""
    from ocd.supervisor.supervision import litellm_env

    if not settings.proxies.bedrock.enabled or settings.external.enabled:
        return Report([])
    env = environment(settings)
    asked = wanted(routes(load_litellm(config_path(folders, settings, "bedrock"))), env)
    if not asked:
        return Report([])
    profiles: list[str | None] = list(dict.fromkeys(one.profile or None for one in asked))
    found = look_up(litellm_env.python(settings, folders), env, profiles)
    facts = {lookup["asked"]: lookup for lookup in found["lookups"]}
    now = datetime.now(UTC)
    verdicts = [judge(one, facts[one.profile or None], now, found["regions"]) for one in asked]
    shell = tuple(sorted(name for name in os.environ if name.startswith("AWS_") and os.environ[name]))
    return Report(verdicts, found["botocore"], shell)
