"""From facts to a verdict: which source of credentials wins for a route, and what is wrong with it. Pure.

``facts`` are those of ``ocd.aws.look``. LiteLLM's own order (``base_aws_llm.py``, ``get_credentials``, 1.106.2): a
role, then a profile, then keys, then botocore's chain; what a route leaves out is taken from AWS_… variables.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
#: a login that ends sooner than this is worth a word
_SOON = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Problem:
    """What, why, and the next step. ``severity`` "error": the route's requests will fail."""

    severity: Severity
    code: str
    what: str
    why: str
    next: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one or more routes ask for. ``profile`` "": none is named. ``keys``: which of id, secret, token the
    route itself has; ``key`` is the id's end."""

    routes: tuple[str, ...]
    region: str
    profile: str = ""
    keys: tuple[str, ...] = ()
    key: str = ""
    role: str = ""
    web_identity: bool = False


@dataclass(slots=True)
class Verdict:
    """``source``: the way that wins, in words; ``over``: what it wins over; ``login``: the command that
    renews it, empty where there is none. ``usable`` as far as can be seen here."""

    routes: tuple[str, ...]
    region: str
    profile: str
    chosen_by: str
    source: str = ""
    key: str = ""
    expires: str = ""
    chain: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    login: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["usable"] = self.usable
        return found


def judge(wanted: Wanted, facts: Mapping[str, Any], now: datetime, regions: Sequence[str] = ()) -> Verdict:
    """The verdict on one lookup; ``now`` has a time zone, ``regions`` are those that botocore knows."""
    verdict = Verdict(wanted.routes, wanted.region, facts["profile"], str(facts["chosen_by"]))
    _region(verdict, regions)
    environment = facts["environment"]
    names = environment["names"]
    if "AWS_BEARER_TOKEN_BEDROCK" in names:
        verdict.source = "AWS_BEARER_TOKEN_BEDROCK"
        verdict.problems.append(
            Problem(
                "warning",
                "aws-bearer-token",
                "AWS_BEARER_TOKEN_BEDROCK beats every profile and key",
                "[proxies.bedrock.env] sets it for the bedrock proxy",
                "Remove it from [proxies.bedrock.env] in ocd.toml unless you mean it",
            )
        )
        return verdict
    if wanted.role:
        verdict.chain.append(f"role {wanted.role}")
    if wanted.web_identity and wanted.role:
        verdict.source = "the route's web identity token"
        return verdict
    if wanted.keys and not wanted.profile:
        _route_keys(verdict, wanted, names)
        return verdict
    if facts["error"]:
        _unreadable(verdict, facts)
        return verdict
    if not wanted.profile and (found := _environment_keys(environment)) is not None:
        _environment_wins(verdict, facts, found)
        return verdict
    if wanted.profile and "AWS_ACCESS_KEY_ID" in names:
        verdict.over.append("AWS_ACCESS_KEY_ID in [proxies.bedrock.env]: the route names a profile")
    if wanted.keys:
        verdict.over.append("the route's own keys: LiteLLM takes a profile first")
    _profile(verdict, facts, verdict.profile, now, wanted)
    return verdict


def _region(verdict: Verdict, regions: Sequence[str]) -> None:
    if not verdict.region:
        verdict.problems.append(
            Problem(
                "error",
                "aws-no-region",
                "There is no AWS region",
                f"{', '.join(verdict.routes)} name none and the proxy's environment has none",
                "Set aws_region in ocd.toml",
            )
        )
    elif regions and verdict.region not in regions:
        near = difflib.get_close_matches(verdict.region, regions, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        verdict.problems.append(
            Problem(
                "warning",
                "aws-region-unknown",
                f"The AWS region {verdict.region} is not known{hint}",
                "the installed botocore has no such region, so its address probably does not exist",
                "Correct aws_region in ocd.toml",
            )
        )


def _route_keys(verdict: Verdict, wanted: Wanted, names: Sequence[str]) -> None:
    verdict.source, verdict.key = "the keys in litellm-bedrock.yaml", wanted.key
    from_environment = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    have = {*wanted.keys, *(part for name, part in from_environment.items() if name in names)}
    missing = [part for part in ("id", "secret") if part not in have]
    if missing:
        part = {"id": "aws_access_key_id", "secret": "aws_secret_access_key"}[missing[0]]
        verdict.problems.append(
            Problem(
                "error",
                "aws-half-pair",
                "Half a pair of AWS keys",
                f"{', '.join(verdict.routes)} in litellm-bedrock.yaml have no {part}",
                f"Add {part}, or remove the other half and use a profile",
            )
        )


def _environment_keys(environment: Mapping[str, Any]) -> str | None:
    """ "" for a whole pair, the missing name for a half one, None for no key (botocore, EnvProvider)."""
    names = environment["names"]
    if "AWS_ACCESS_KEY_ID" not in names:
        return None
    return "" if "AWS_SECRET_ACCESS_KEY" in names else "AWS_SECRET_ACCESS_KEY"


def _environment_wins(verdict: Verdict, facts: Mapping[str, Any], missing: str) -> None:
    verdict.source = "AWS_ACCESS_KEY_ID in [proxies.bedrock.env]"
    verdict.key = str(facts["environment"].get("key", ""))
    if missing:
        verdict.problems.append(
            Problem(
                "error",
                "aws-half-pair",
                "Half a pair of AWS keys",
                f"[proxies.bedrock.env] has AWS_ACCESS_KEY_ID and no {missing}",
                f"Add {missing} to [proxies.bedrock.env] in ocd.toml, or remove the other half",
            )
        )
    if facts["profiles"].get(verdict.profile, {}).get("exists"):
        verdict.over.append(f"profile {verdict.profile}")
        verdict.problems.append(
            Problem(
                "warning",
                "aws-environment-overrides",
                f"Keys in the environment override the profile {verdict.profile}",
                "botocore takes AWS_ACCESS_KEY_ID before a profile that only AWS_PROFILE or the default names",
                "Remove AWS_ACCESS_KEY_ID from [proxies.bedrock.env] in ocd.toml, or name aws_profile_name in the"
                " route",
            )
        )


def _unreadable(verdict: Verdict, facts: Mapping[str, Any]) -> None:
    verdict.problems.append(
        Problem(
            "error",
            "aws-file-broken",
            "AWS's configuration files cannot be read",
            f"{facts['config_file']} or {facts['credentials_file']}: {facts['error']}",
            f"Correct the file's syntax and owner: `less {facts['config_file']}`",
        )
    )


def _profile(verdict: Verdict, facts: Mapping[str, Any], name: str, now: datetime, wanted: Wanted) -> None:
    """Walk the chain from profile ``name`` to where credentials come from."""
    seen: list[str] = []
    top = True
    while True:
        one = facts["profiles"].get(name)
        if name in seen:
            verdict.problems.append(
                Problem(
                    "error",
                    "aws-role-circle",
                    "The profiles take their credentials from each other",
                    " → ".join([*seen, name]),
                    f"Correct source_profile of [profile {name}] in {facts['config_file']}",
                )
            )
            return
        seen.append(name)
        if one is None or not one.get("exists"):
            _missing(verdict, facts, name, seen, wanted)
            return
        role = one.get("role_arn")
        if role and not top and _static(one):
            # botocore: a source profile with keys of its own is used for these, its own role is left alone
            role = None
        if role and "token_file" in one:
            verdict.source = f"profile {name}: web identity token for {role}"
            if not one["token_file"]:
                verdict.problems.append(
                    Problem(
                        "error",
                        "aws-token-file-missing",
                        f"The web identity token of profile {name} is not there",
                        "web_identity_token_file names a file that does not exist",
                        f"Correct [profile {name}] in {facts['config_file']}",
                    )
                )
            return
        if role and (one.get("source_profile") or one.get("credential_source")):
            verdict.chain.append(f"profile {name}: role {role}")
            if one.get("mfa"):
                verdict.problems.append(
                    Problem(
                        "error",
                        "aws-mfa",
                        f"Profile {name} asks for a code at every start",
                        "mfa_serial: a proxy has nobody to ask",
                        "Use a profile of single sign-on (`aws configure sso`), or one with temporary keys",
                    )
                )
            if one.get("source_profile"):
                if one["source_profile"] == name and _static(one):
                    _here(verdict, facts, name, {**one, "role_arn": None}, now)
                    return
                name, top = str(one["source_profile"]), False
                continue
            _credential_source(verdict, facts, name, str(one["credential_source"]))
            return
        _here(verdict, facts, name, one, now)
        return


def _static(one: Mapping[str, Any]) -> bool:
    return any(pair.get("key") is not None for pair in one.get("pairs", {}).values())


def _missing(
    verdict: Verdict, facts: Mapping[str, Any], name: str, seen: Sequence[str], wanted: Wanted
) -> None:
    if len(seen) > 1:
        verdict.problems.append(
            Problem(
                "error",
                "aws-source-profile-missing",
                f"The source profile {name} does not exist",
                f"[profile {seen[-2]}] names it in source_profile",
                f"`aws configure --profile {name}`, or correct source_profile in {facts['config_file']}",
            )
        )
        return
    if name == "default" and not wanted.profile and verdict.chosen_by == "default":
        _nothing(verdict, facts, name)
        return
    known = facts["known"]
    near = difflib.get_close_matches(name, known, 1)
    there = f"there are: {', '.join(known[:8])}" if known else "there are no profiles at all"
    verdict.problems.append(
        Problem(
            "error",
            "aws-profile-missing",
            f"The AWS profile {name} does not exist" + (f" (did you mean {near[0]}?)" if near else ""),
            f"{facts['config_file']} and {facts['credentials_file']} have no such section; {there}",
            f"`aws configure --profile {name}` (or `aws configure sso --profile {name}`), or set aws_profile in"
            " ocd.toml",
        )
    )


def _nothing(verdict: Verdict, facts: Mapping[str, Any], name: str) -> None:
    names = facts["environment"]["names"]
    if "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" in names or "AWS_CONTAINER_CREDENTIALS_FULL_URI" in names:
        verdict.source = "the container's credentials service (not asked here)"
        return
    verdict.problems.append(
        Problem(
            "error",
            "aws-no-credentials",
            "There are no AWS credentials",
            f"profile {name} has none, and the metadata service of EC2 is switched off for the proxy",
            f"`aws configure --profile {name}`, or name another profile in aws_profile in ocd.toml",
        )
    )


def _credential_source(verdict: Verdict, facts: Mapping[str, Any], name: str, source: str) -> None:
    verdict.source = f"profile {name}: credential_source {source}"
    names = facts["environment"]["names"]
    missing = ""
    if source == "Environment" and not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(names):
        missing = "the proxy's environment has no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif source == "Ec2InstanceMetadata":
        missing = "the metadata service of EC2 is switched off for the proxy"
    elif source == "EcsContainer" and not any(one.startswith("AWS_CONTAINER_CREDENTIALS_") for one in names):
        missing = "the proxy's environment has no AWS_CONTAINER_CREDENTIALS_… variable"
    elif source not in ("Environment", "Ec2InstanceMetadata", "EcsContainer"):
        missing = "botocore knows Environment, Ec2InstanceMetadata and EcsContainer"
    if missing:
        verdict.problems.append(
            Problem(
                "error",
                "aws-credential-source",
                f"The credential_source {source} of profile {name} gives nothing",
                missing,
                f"Use source_profile in [profile {name}] of {facts['config_file']}, or set the variables in"
                " [proxies.bedrock.env]",
            )
        )


def _here(
    verdict: Verdict, facts: Mapping[str, Any], name: str, one: Mapping[str, Any], now: datetime
) -> None:
    """The credentials of one profile itself, in botocore's order."""
    pairs = one.get("pairs", {})
    sso = one.get("sso_session") or one.get("sso_start_url")
    if sso:
        for method in pairs:
            verdict.over.append(f"the keys of profile {name} ({method})")
        _sso(verdict, facts, name, one, now)
        return
    for method, place in (
        ("shared-credentials-file", facts["credentials_file"]),
        ("login", ""),
        ("process", ""),
        ("config-file", facts["config_file"]),
    ):
        if method == "login" and one.get("login"):
            verdict.source = f"profile {name}: `aws login`"
            verdict.login = ["aws", "login", "--profile", name]
            return
        if method == "process" and one.get("process"):
            _process(verdict, facts, name, one["process"])
            return
        pair = pairs.get(method)
        if pair is None:
            continue
        verdict.source, verdict.key = f"profile {name} in {place}", str(pair.get("key", ""))
        if "key" not in pair:
            missing = pair.get("missing") or pair.get("error")
            verdict.problems.append(
                Problem(
                    "error",
                    "aws-half-pair",
                    f"Half a pair of AWS keys in profile {name}",
                    f"{place} has no {missing} beside the other half",
                    f"`aws configure --profile {name}` writes both",
                )
            )
        elif pair.get("temporary"):
            verdict.problems.append(
                Problem(
                    "note",
                    "aws-temporary-keys",
                    f"The keys of profile {name} are temporary",
                    "aws_session_token: they end at a time that the file does not say",
                    "Renew them when `occtl status` shows aws-expired",
                )
            )
        return
    _nothing(verdict, facts, name)


def _process(verdict: Verdict, facts: Mapping[str, Any], name: str, process: Mapping[str, Any]) -> None:
    verdict.source = f"profile {name}: credential_process {process['name']} (not run here)"
    if not process["found"]:
        verdict.problems.append(
            Problem(
                "error",
                "aws-process-missing",
                f"The credential_process of profile {name} cannot be run",
                f"there is no program {process['name']} on the proxy's PATH",
                f"Write its whole path into [profile {name}] of {facts['config_file']}",
            )
        )


def _sso(
    verdict: Verdict, facts: Mapping[str, Any], name: str, one: Mapping[str, Any], now: datetime
) -> None:
    session = one.get("sso_session")
    verdict.login = ["aws", "sso", "login", "--profile", name]
    verdict.source = f"profile {name}: single sign-on" + (f", session {session}" if session else "")
    login = "`occtl aws login`"
    if session and session not in facts["sessions"]:
        verdict.problems.append(
            Problem(
                "error",
                "aws-sso-session-missing",
                f"The sso_session {session} does not exist",
                f"[profile {name}] names it, {facts['config_file']} has no [sso-session {session}]",
                f"`aws configure sso-session`, or correct [profile {name}]",
            )
        )
        return
    if not one.get("sso_complete"):
        verdict.problems.append(
            Problem(
                "error",
                "aws-sso-incomplete",
                f"Profile {name} names no account or role for single sign-on",
                "sso_account_id or sso_role_name is missing",
                f"`aws configure sso --profile {name}`",
            )
        )
        return
    token = one.get("token", {"present": False})
    if not token["present"]:
        verdict.problems.append(
            Problem(
                "error",
                "aws-sso-login-missing",
                f"Nobody has logged in for profile {name}",
                "~/.aws/sso/cache has no token of this session",
                login,
            )
        )
        return
    verdict.expires = token["expires"]
    ends, until = _moment(token["expires"]), _moment(token.get("renewable_until", ""))
    renewable = until is not None and until > now
    if ends is None or ends <= now:
        if renewable:
            return
        verdict.problems.append(
            Problem(
                "error",
                "aws-sso-expired",
                f"The login of profile {name} has expired",
                f"its token ended at {token['expires'] or 'an unknown time'}",
                login,
            )
        )
    elif ends - now < _SOON and not renewable:
        verdict.problems.append(
            Problem(
                "warning",
                "aws-sso-ends-soon",
                f"The login of profile {name} ends soon",
                f"at {token['expires']}",
                login,
            )
        )


def _moment(text: str) -> datetime | None:
    """botocore writes ``2026-11-21T03:00:00Z``, older ones ``…UTC``."""
    try:
        found = datetime.fromisoformat(text.replace("UTC", "Z").replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
