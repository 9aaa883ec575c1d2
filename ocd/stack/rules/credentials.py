"""Keys: ours, other people's, and switches that hand them on."""

from collections.abc import Iterator

from ocd.settings.findings import Finding
from ocd.stack.stack import AWS, ENVIRON, Stack, found, remove, routes, url_of

#: keys that stand in tutorials; LiteLLM 1.106.2 refuses the first (proxy/auth/master_key_boot_check.py)
_KNOWN = frozenset(("sk-1234", "sk-5678", "sk-12345", "sk-123456", "sk-test", "dummy"))
_WEAK_SWITCH = "dangerously_permit_weak_or_unset_master_key"


def _master_keys(stack: Stack) -> Iterator[Finding]:
    at = ("general_settings", "master_key")
    for proxy, file in stack.files():
        ours = f"{ENVIRON}OCD_{proxy.upper()}_KEY"
        key = file.section("general_settings").get("master_key")
        text = key if isinstance(key, str) else ""
        fix, change = f"Write `master_key: {ours}`", (at, ours)
        if key is None or key == "":
            yield found(
                "error",
                "master-key-missing",
                file,
                at if key == "" else at[:1],
                "there is no master key: LiteLLM refuses to start (exit 3)",
                fix,
                change,
            )
        elif text == ours:
            continue
        elif not text.startswith(ENVIRON) and (text in _KNOWN or len(text) < 16):
            yield found(
                "error",
                "master-key-weak",
                file,
                at,
                "the master key is one that everybody knows or can guess: LiteLLM refuses to start (exit 3)",
                fix,
                change,
            )
        elif proxy == "main":
            what = "another variable" if text.startswith(ENVIRON) else "a key written into the file"
            yield found(
                "error",
                "master-key-not-ours",
                file,
                at,
                f"{what} is the master key: openclaude sends ocd's own, so every request would be refused",
                fix,
                change,
            )
        elif not text.startswith(ENVIRON):
            yield found(
                "warning",
                "master-key-literal",
                file,
                at,
                "the master key is written into the file, where copies and backups of it have it too",
                fix,
                change,
            )
        else:
            yield found(
                "error",
                "master-key-not-ours",
                file,
                at,
                "another variable is the master key: the main proxy sends ocd's own and would be refused",
                fix,
                change,
            )


def _weak_switch(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        if file.section("general_settings").get(_WEAK_SWITCH) is True:
            yield found(
                "warning",
                "weak-key-permitted",
                file,
                ("general_settings", _WEAK_SWITCH),
                "LiteLLM would start with a weak key or none",
                "Remove it",
                remove("general_settings", _WEAK_SWITCH),
            )


def _key_header(stack: Stack) -> Iterator[Finding]:
    at = ("general_settings", "litellm_key_header_name")
    for _, file in stack.files():
        if file.section("general_settings").get(at[1]):
            yield found(
                "error",
                "key-header-renamed",
                file,
                at,
                "with another header for its key LiteLLM no longer passes the plan's token on",
                "Remove it: the header is x-litellm-api-key",
                remove(*at),
            )


def _keys_on_forwarding_routes(stack: Stack) -> Iterator[Finding]:
    if stack.settings.auth != "plan":
        return
    for route in routes(stack.main):
        if route.provider != "anthropic" or "api_key" not in route.params or stack.main is None:
            continue
        if stack.is_hop(route):
            continue
        yield found(
            "warning",
            "api-key-on-forwarding-route",
            stack.main,
            route.at("api_key"),
            "this route forwards the plan's login, which overrides the key written here",
            'Remove api_key (with an API key instead of a plan: auth = "api-key" in ocd.toml)',
            remove(*route.at("api_key")),
        )


def _provider_auth(stack: Stack) -> Iterator[Finding]:
    switch = "forward_llm_provider_auth_headers"
    for _, file in stack.files():
        for section in ("general_settings", "litellm_settings"):
            if file.section(section).get(switch):
                yield found(
                    "error",
                    "provider-auth-forwarded",
                    file,
                    (section, switch),
                    "a client's own x-api-key would be sent on to Bedrock as a Bearer token",
                    "Remove it: the plan's login is forwarded without it",
                    remove(section, switch),
                )


def _pass_through(stack: Stack) -> Iterator[Finding]:
    for _, file in stack.files():
        points = file.section("general_settings").get("pass_through_endpoints")
        for index, point in enumerate(points if isinstance(points, list) else []):
            if not isinstance(point, dict) or not point.get("forward_headers"):
                continue
            at = ("general_settings", "pass_through_endpoints", index)
            url = url_of(str(point.get("target") or ""))
            if url is not None and url.hostname == "api.anthropic.com" and file is stack.main:
                yield found(
                    "note",
                    "pass-through-closed",
                    file,
                    at,
                    "pass-through routes are closed in ocd, so this one answers nobody",
                    "Remove it, or set pass_through = true under [boundary] in ocd.toml",
                )
            else:
                yield found(
                    "error",
                    "pass-through-leaks",
                    file,
                    at,
                    "this route sends all headers, the plan's login among them, to that address",
                    "Remove it, or take forward_headers out",
                    remove(*at, "forward_headers"),
                )


def _aws_keys(stack: Stack) -> Iterator[Finding]:
    if stack.bedrock is None:
        return
    for route in routes(stack.bedrock):
        for name in ("aws_secret_access_key", "aws_session_token", "aws_bedrock_api_key"):
            value = route.params.get(name)
            if route.provider in AWS and isinstance(value, str) and value and not value.startswith(ENVIRON):
                yield found(
                    "warning",
                    "aws-secret-literal",
                    stack.bedrock,
                    route.at(name),
                    "an AWS secret is written into the file, where copies and backups of it have it too",
                    "Put it in ~/.aws/credentials and write aws_profile_name: os.environ/OCD_AWS_PROFILE",
                )


RULES = (
    _master_keys,
    _weak_switch,
    _key_header,
    _keys_on_forwarding_routes,
    _provider_auth,
    _pass_through,
    _aws_keys,
)
