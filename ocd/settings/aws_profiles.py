"""What ``~/.aws/config`` and ``~/.aws/credentials`` say of a profile: that it is there, and its region; no secret.

Sections and keys as AWS's own tools read them (AWS SDKs and Tools Reference Guide, "Shared config and credentials").
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_SECTION = re.compile(r"^\s*\[\s*(?:profile\s+)?(.+?)\s*\]")
_REGION = re.compile(r"^\s*region\s*=\s*(\S+)")


def profiles(home: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Name → region (empty: none) of each profile; ``environ`` may name other files, as for AWS's tools."""
    found: dict[str, str] = {}
    for variable, name in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        path = Path(environ.get(variable) or os.path.join(home, ".aws", name))
        try:
            lines = path.expanduser().read_text("utf-8", "replace").splitlines()
        except (OSError, RuntimeError):
            continue
        section = ""
        for line in lines:
            if match := _SECTION.match(line):
                section = match[1].strip("'\"")
                found.setdefault(section, "")
            elif section and (match := _REGION.match(line)):
                found[section] = found[section] or match[1]
    return found


def choose(home: str, environ: Mapping[str, str], profile: str | None, region: str | None) -> dict[str, str]:
    """``aws_profile`` and ``aws_region`` where the settings leave one open (None), as far as the files decide them.

    No profile is named and there is none of the default's name: AWS's default chain (an empty name). No region: that
    of the profile.
    """
    known = profiles(home, environ)
    chosen = {}
    if profile is None and DEFAULT not in known:
        chosen["aws_profile"] = ""
    used = chosen.get("aws_profile", profile or (DEFAULT if profile is None else ""))
    own = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or known.get(used or "default", "")
    if region is None and own:
        chosen["aws_region"] = own
    return chosen


def missing(home: str, environ: Mapping[str, str], profile: str) -> str:
    """Why nothing can be signed for ``profile`` (empty: the default chain), as a sentence; empty: something may be."""
    if any(name in environ for name in _OTHERWISE):
        return ""
    known = profiles(home, environ)
    if profile:
        return "" if profile in known else f"~/.aws has no profile {profile}"
    return "" if "default" in known else f"~/.aws has neither a profile {DEFAULT} nor a default one"


#: what gives botocore a login without a profile
_OTHERWISE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
#: the profile that is used when there is one of this name
DEFAULT = "openclaude"
