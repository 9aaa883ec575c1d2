"""What botocore finds in AWS's files. Runs under LiteLLM's Python (standard library and botocore), never in ours.

Started with the environment that the bedrock proxy gets. Standard input: ``{"profiles": [NAME or null, …], "regions":
[NAME, …]}``, null being botocore's default chain. Prints one JSON object of facts; what they mean is judged in
``ocd.aws.judge``. Asks nobody, runs no ``credential_process``, and prints of a key its last four characters only.

Order and rules: botocore, ``credentials.py``, ``create_credential_resolver`` and ``ProfileProviderBuilder``.
"""

import json
import os
import shlex
import shutil
import sys
from typing import Any

#: chains of roles longer than this are not followed
_DEEPEST = 8
#: values that are no secret and are needed to explain
_SHOWN = (
    "region",
    "sso_session",
    "sso_start_url",
    "sso_region",
    "role_arn",
    "source_profile",
    "credential_source",
)


def facts(asked: str | None) -> dict[str, Any]:
    """Everything about one lookup; ``asked`` is the profile that a route names, None: botocore decides."""
    import botocore.exceptions
    import botocore.session

    session = botocore.session.Session(profile=asked)
    name = session.get_config_variable("profile") or "default"
    found: dict[str, Any] = {
        "asked": asked,
        "profile": name,
        "chosen_by": "route" if asked else _first_set("AWS_PROFILE", "AWS_DEFAULT_PROFILE") or "default",
        "error": "",
        "profiles": {},
        "known": [],
        "sessions": {},
        "environment": _environment(),
        "config_file": _path(session.get_config_variable("config_file")),
        "credentials_file": _path(session.get_config_variable("credentials_file")),
    }
    try:
        config = session.full_config
    except botocore.exceptions.BotoCoreError as error:
        found["error"] = type(error).__name__
        return found
    except (OSError, UnicodeError) as error:
        found["error"] = f"unreadable: {type(error).__name__}"
        return found
    profiles = config.get("profiles", {})
    found["known"] = sorted(profiles)
    sessions = config.get("sso_sessions", {})
    next_name: str | None = name
    while next_name and next_name not in found["profiles"] and len(found["profiles"]) < _DEEPEST:
        one = _profile(session, next_name, profiles.get(next_name))
        found["profiles"][next_name] = one
        next_name = one.get("source_profile")
    for one in found["profiles"].values():
        wanted = one.get("sso_session")
        if wanted and wanted in sessions:
            found["sessions"][wanted] = {
                "sso_start_url": sessions[wanted].get("sso_start_url", ""),
                "sso_region": sessions[wanted].get("sso_region", ""),
            }
        if wanted or one.get("sso_start_url"):
            start = found["sessions"].get(wanted, {}).get("sso_start_url") or one.get("sso_start_url") or ""
            one["token"] = _token(start, wanted)
    return found


def _profile(session: Any, name: str, config: Any) -> dict[str, Any]:
    if not isinstance(config, dict):
        return {"exists": False}
    one: dict[str, Any] = {"exists": True}
    one.update({key: config[key] for key in _SHOWN if isinstance(config.get(key), str)})
    one["sso_complete"] = bool(config.get("sso_account_id") and config.get("sso_role_name"))
    one["mfa"] = bool(config.get("mfa_serial"))
    one["login"] = bool(config.get("login_session"))
    token_file = config.get("web_identity_token_file")
    if token_file:
        one["token_file"] = os.path.isfile(os.path.expanduser(str(token_file)))
    process = config.get("credential_process")
    if process:
        one["process"] = _program(str(process))
    one["pairs"] = _pairs(session, name)
    return one


def _pairs(session: Any, name: str) -> dict[str, Any]:
    """The static keys of both files, each as botocore reads it; a half pair is an error there too."""
    import botocore.credentials
    import botocore.exceptions

    credentials_file = session.get_config_variable("credentials_file")
    config_file = session.get_config_variable("config_file")
    found: dict[str, Any] = {}
    for provider in (
        botocore.credentials.SharedCredentialProvider(profile_name=name, creds_filename=credentials_file),
        botocore.credentials.ConfigProvider(profile_name=name, config_filename=config_file),
    ):
        try:
            keys = provider.load()
        except botocore.exceptions.PartialCredentialsError as error:
            found[provider.METHOD] = {"missing": str(error.kwargs.get("cred_var", ""))}
        except botocore.exceptions.BotoCoreError as error:
            found[provider.METHOD] = {"error": type(error).__name__}
        else:
            if keys is not None:
                found[provider.METHOD] = {"key": _last(keys.access_key), "temporary": bool(keys.token)}
    return found


def _program(command: str) -> dict[str, Any]:
    """The program's name alone: arguments may hold a secret."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    program = words[0] if words else ""
    return {"name": os.path.basename(program), "found": bool(program and shutil.which(program))}


def _token(start_url: str, session: str | None) -> dict[str, Any]:
    """The single sign-on token in the cache: when it ends and whether botocore can renew it by itself."""
    import botocore.exceptions
    import botocore.utils

    folder = os.path.expanduser(os.path.join("~", ".aws", "sso", "cache"))
    try:
        token = botocore.utils.SSOTokenLoader(cache=botocore.utils.JSONFileCache(folder))(start_url, session)
    except (botocore.exceptions.BotoCoreError, OSError, ValueError, KeyError, TypeError):
        return {"present": False}
    if not isinstance(token, dict):
        return {"present": False}
    renewable = bool(session) and all(
        token.get(name) for name in ("refreshToken", "clientId", "clientSecret")
    )
    return {
        "present": True,
        "expires": str(token.get("expiresAt", "")),
        "renewable_until": str(token.get("registrationExpiresAt", "")) if renewable else "",
    }


def _environment() -> dict[str, Any]:
    """What counts of the proxy's own environment: names, and of the key its end."""
    found: dict[str, Any] = {
        "names": sorted(name for name, value in os.environ.items() if name.startswith("AWS_") and value)
    }
    key = os.environ.get("AWS_ACCESS_KEY_ID")
    if key:
        found["key"] = _last(key)
    return found


def _first_set(*names: str) -> str:
    return next((name for name in names if os.environ.get(name)), "")


def _last(key: str) -> str:
    return key[-4:] if len(key) >= 12 else ""


def _path(value: Any) -> str:
    return os.path.expanduser(str(value)) if value else ""


def _regions() -> list[str]:
    import botocore.session

    session = botocore.session.Session()
    return sorted(
        {
            region
            for partition in session.get_available_partitions()
            for service in ("bedrock-runtime", "sts")
            for region in session.get_available_regions(service, partition)
        }
    )


def main() -> int:
    try:
        import botocore
        import botocore.exceptions
    except ImportError:
        print(json.dumps({"error": "no-botocore"}))
        return 0
    asked = json.load(sys.stdin)
    answer: dict[str, Any] = {
        "botocore": botocore.__version__,
        "lookups": [facts(profile) for profile in asked["profiles"]],
    }
    try:
        answer["regions"] = _regions()
    except botocore.exceptions.BotoCoreError:
        # a broken file; the lookups say so
        answer["regions"] = []
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
