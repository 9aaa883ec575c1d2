"""Claude Code's environment variables that decide endpoint, provider, credential or model: one table. Pure.

Every name that the client knows and that looks as if it decided one of these has a row here, by its name or by its
family; ``tests/client/variables.py`` lists the names in a given client and fails on one that has no row. What the
overlay sets, empties and looks at, and what ``openclaude`` sends (``ocd/client/variables.py``, made from this table)
derive from it.

Sources: Claude Code's reference of environment variables (code.claude.com/docs/en/env-vars), its pages on
authentication, gateways and models; "client": the lists of names inside 2.1.197 and 2.1.332, where it decides which
variables route a session, hold a credential or belong to a host program; "measured": what the two did on loopback.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

#: ours: the overlay sets it · pin: ours where the slot is pinned, else the user's if main has a route for it · model:
#: the user's, if main has a route for it · emptied: leads away from the plan or the proxies · kept: the user's, and
#: it goes on working · read: kept, and its value takes part in the overlay · harmless: decides nothing of a
#: session's requests, or only together with a switch that is emptied
Kind = Literal["ours", "pin", "model", "emptied", "kept", "read", "harmless"]


@dataclass(frozen=True)
class Row:
    """``names``: exact names, or patterns with ``*`` (never for what is emptied or set: a name is written there)."""

    kind: Kind
    names: str
    why: str
    #: it leads past the base URL, whatever the credential
    past: bool = False

    def matches(self) -> Iterator[str]:
        yield from self.names.split()


# fmt: off
TABLE: tuple[Row, ...] = (
    # ---- endpoint and provider
    Row("ours", "ANTHROPIC_BASE_URL", "env-vars: where requests go"),
    Row("emptied", "ANTHROPIC_UNIX_SOCKET CLAUDE_CODE_RUNNER_MODEL_SOCKET",
        "measured: requests go over that socket instead; client: both are transport variables",
        past=True),
    Row("emptied", "CLAUDE_CODE_API_BASE_URL",
        "client: a second base URL beside ANTHROPIC_BASE_URL, of the programs that host it", past=True),
    Row("emptied", "CLAUDE_CODE_USE_ANTHROPIC_AWS CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD CLAUDE_CODE_USE_BEDROCK "
        "CLAUDE_CODE_USE_FOUNDRY CLAUDE_CODE_USE_GATEWAY CLAUDE_CODE_USE_MANTLE CLAUDE_CODE_USE_VERTEX",
        "env-vars: another provider, past the base URL", past=True),
    Row("emptied", "CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST",
        "measured: settings files no longer decide endpoint and credential, the session goes straight to Anthropic",
        past=True),
    Row("emptied", "CLAUDE_CODE_HOST_CREDS_FILE CLAUDE_CODE_HOST_AUTH_ENV_VAR CLAUDE_CODE_HOST_GATEWAY_LINEAGE "
        "CLAUDE_CODE_SDK_HAS_HOST_AUTH_REFRESH CLAUDE_CODE_HOST_AUTH_ASK_AT_START "
        "CLAUDE_CODE_HOST_AUTH_REFRESH_TIMEOUT_MS CLAUDE_CODE_LAUNCHER_RUNS_API_KEY_HELPER",
        "client: the kin of CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST, credentials that a host program hands over"),
    Row("harmless", "ANTHROPIC_AWS_* ANTHROPIC_BEDROCK_* ANTHROPIC_FOUNDRY_* ANTHROPIC_GOOGLE_CLOUD_* "
        "ANTHROPIC_VERTEX_* CLAUDE_CODE_SKIP_*_AUTH CLAUDE_CODE_SKIP_AWS_CRED_CACHE CLAUDE_CODE_AWS_* "
        "CLAUDE_CODE_DISABLE_BEDROCK_* CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK ANTHROPIC_SMALL_FAST_MODEL_AWS_REGION",
        "env-vars: read for its own provider alone, whose switch (CLAUDE_CODE_USE_…) is emptied"),
    # ---- credentials
    Row("emptied", "ANTHROPIC_API_KEY ANTHROPIC_AUTH_TOKEN CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR "
        "CLAUDE_CODE_GATEWAY_TOKEN CLAUDE_CODE_GATEWAY_TOKEN_FILE_DESCRIPTOR CLAUDE_CODE_HFI_BEARER_TOKEN",
        "authentication: sent instead of the plan's login"),
    Row("emptied", "ANTHROPIC_PROFILE ANTHROPIC_CONFIG_DIR ANTHROPIC_IDENTITY_TOKEN ANTHROPIC_IDENTITY_TOKEN_FILE "
        "ANTHROPIC_FEDERATION_RULE_ID ANTHROPIC_SERVICE_ACCOUNT_ID ANTHROPIC_ORGANIZATION_ID ANTHROPIC_WORKSPACE_ID "
        "ANTHROPIC_SCOPE CLAUDE_CODE_FEDERATION_CACHE_DIR CLAUDE_CODE_STOP_ON_UNUSABLE_PROFILE",
        "authentication: profiles and federation, used before the plan's login"),
    Row("kept", "CLAUDE_CODE_OAUTH_TOKEN CLAUDE_CODE_OAUTH_REFRESH_TOKEN CLAUDE_CODE_OAUTH_SCOPES "
        "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR CLAUDE_CODE_OAUTH_CLIENT_ID CLAUDE_CODE_OAUTH_401_WAIT_MS "
        "CLAUDE_CODE_CUSTOM_OAUTH_URL CLAUDE_CODE_SDK_HAS_OAUTH_REFRESH CLAUDE_CODE_SDK_HAS_SESSIONS_OAUTH_REFRESH "
        "CLAUDE_CODE_SESSIONS_OAUTH_TOKEN CLAUDE_CODE_SESSION_ACCESS_TOKEN CLAUDE_SESSION_INGRESS_TOKEN_FILE "
        "CLAUDE_LOCAL_OAUTH_* CLAUDE_AI_* CLAUDE_CODE_DESIGN_OAUTH_CLIENT_ID CLAUDE_TRUSTED_DEVICE_TOKEN",
        "authentication: the plan's own login, which is what openclaude keeps; where it is made and refreshed"),
    Row("kept", "CLAUDE_CODE_ACCOUNT_* CLAUDE_CODE_ORGANIZATION_UUID CLAUDE_CODE_API_KEY_HELPER_TTL_MS "
        "CLAUDE_CODE_AUTH_FAIL_EXIT_MS CLAUDE_CODE_DISABLE_AUTH_REFRESH_LOCK CLAUDE_CODE_DISABLE_EARLY_KEY_GUARD "
        "CLAUDE_SECURESTORAGE_CONFIG_DIR CLAUDE_CODE_PROFILE_QUERY CLAUDE_CODE_PROFILE_STARTUP",
        "client: names the account or times its refreshing, holds no credential"),
    Row("read", "ANTHROPIC_CUSTOM_HEADERS", "env-vars: replaced whole, so the user's lines are merged with ours"),
    # ---- models
    Row("pin", "ANTHROPIC_DEFAULT_OPUS_MODEL ANTHROPIC_DEFAULT_SONNET_MODEL ANTHROPIC_DEFAULT_HAIKU_MODEL "
        "ANTHROPIC_SMALL_FAST_MODEL ANTHROPIC_DEFAULT_FABLE_MODEL", "model-config: what an alias means"),
    Row("model", "ANTHROPIC_MODEL ANTHROPIC_DEFAULT_MODEL CLAUDE_CODE_SUBAGENT_MODEL "
        "CLAUDE_CODE_WORKFLOW_SUBAGENT_MODEL CLAUDE_CODE_AUTO_MODE_MODEL CLAUDE_CODE_BG_CLASSIFIER_MODEL "
        "ANTHROPIC_CUSTOM_MODEL_OPTION CLAUDE_CONTEXT_COLLAPSE_MODEL",
        "model-config, client: a model's name or alias, as good as main's route for it"),
    Row("emptied", "CLAUDE_CODE_SUBAGENT_MODEL_FORCE CLAUDE_CODE_COORDINATOR_FORCE_WORKER_INHERIT_MODEL",
        "measured: a subagent that asked for haiku runs on another slot"),
    Row("ours", "CLAUDE_CODE_MODEL_CAPABILITIES", "measured with 2.1.197 and 2.1.332; the user's clauses come first"),
    Row("kept", "ANTHROPIC_DEFAULT_*_MODEL_NAME ANTHROPIC_DEFAULT_*_MODEL_DESCRIPTION "
        "ANTHROPIC_DEFAULT_*_MODEL_SUPPORTED_CAPABILITIES* ANTHROPIC_CUSTOM_MODEL_OPTION_* ANTHROPIC_BETAS "
        "CLAUDE_CODE_MODEL_CATALOG CLAUDE_CODE_MODEL_CATALOG_URL CLAUDE_CODE_CLIENT_DATA_URL "
        "CLAUDE_CODE_ALLOW_OTHER_MODELS CLAUDE_CODE_MODEL_NOBODY_CHOSE CLAUDE_CODE_NO_MODEL_FALLBACK "
        "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP CLAUDE_CODE_DISABLE_MODEL_ACCESS_FALLBACK "
        "CLAUDE_CODE_SKIP_MODEL_ACCESS_MEMORY CLAUDE_CODE_DISABLE_UNKNOWN_MODEL_WINDOW_ENFORCEMENT "
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY CLAUDE_CODE_GATEWAY_MODEL_DISCOVERY_TIMEOUT_MS "
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS",
        "model-config, protocol: what is shown of models and asked of them; no endpoint, no credential"),
    Row("kept", "CLAUDE_CODE_MAX_CONTEXT_TOKENS CLAUDE_CODE_MAX_OUTPUT_TOKENS", "env-vars: the user's own limits"),
    Row("kept", "ENABLE_TOOL_SEARCH", "mcp: the user's choice, and Claude Code's own where there is none"),
    # ---- time-outs and proxies, whose values take part in the overlay
    Row("read", "API_TIMEOUT_MS API_FORCE_IDLE_TIMEOUT CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS "
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS", "network-config: raised where an answer would be cut off"),
    Row("read", "NO_PROXY no_proxy", "network-config: loopback is added"),
    Row("kept", "HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy CLAUDE_CODE_HTTP_PROXY "
        "CLAUDE_CODE_HTTPS_PROXY CLAUDE_CODE_PROXY_* CLAUDE_CODE_ENABLE_PROXY_AUTH_HELPER "
        "CLAUDE_CODE_DISABLE_PROXY_SCHEME_REPAIR CLAUDE_CODE_SIMULATE_PROXY_USAGE CLAUDE_CODE_CERT_STORE "
        "CLAUDE_CODE_CLIENT_CERT CLAUDE_CODE_CLIENT_KEY CLAUDE_CODE_CLIENT_KEY_PASSPHRASE "
        "CLAUDE_CODE_DISABLE_LOOPED_CROSS_CERT_DROP CLAUDE_CODE_DISABLE_SELF_NAMED_CERT_DROP NODE_EXTRA_CA_CERTS "
        "SSL_CERT_FILE SSL_CERT_DIR NODE_TLS_REJECT_UNAUTHORIZED CLAUDE_CODE_HOST_HTTP_PROXY_PORT "
        "CLAUDE_CODE_HOST_SOCKS_PROXY_PORT",
        "network-config: the way to other hosts; NO_PROXY keeps loopback out of it"),
    # ---- where settings are
    Row("read", "CLAUDE_CONFIG_DIR HOME", "env-vars: the user's folder"),
    Row("kept", "CLAUDE_CODE_MANAGED_SETTINGS_PATH CLAUDE_CODE_REMOTE_SETTINGS_* CLAUDE_CODE_MOCK_REMOTE_SETTINGS "
        "CLAUDE_CODE_DISABLE_HOME_SETTINGS_SEED CLAUDE_CODE_HIDE_SETTINGS_HINT",
        "settings: the administrator's settings beat ours wherever they are, and are looked at"),
    # ---- other features of the client that have hosts, keys or tokens of their own
    Row("harmless", "ANTHROPIC_API_HOST ANTHROPIC_ASSETS_HOST CLAUDE_API_KEY",
        "client: a constant's name or an example, no variable that is read"),
    Row("harmless", "ANTHROPIC_ENVIRONMENT_KEY ANTHROPIC_WEBHOOK_SIGNING_KEY CLAUDE_RUNNER_* CLAUDE_GATEWAY_* "
        "CLAUDE_CODE_CCR_* CLAUDE_CODE_USE_CCR_V2 CLAUDE_BRIDGE_* CLAUDE_CODE_BRIDGE_* CLAUDE_REMOTE_TOOLS_* "
        "CLAUDE_CODE_REMOTE_* CLAUDE_CODE_WEBFETCH_USE_CCR_PROXY CLAUDE_CODE_WEBSEARCH_USE_CCR_PROXY "
        "CLAUDE_CODE_WEBSOCKET_AUTH_FILE_DESCRIPTOR CLAUDE_CODE_AGENT_PROXY_* CLAUDE_CODE_USER_DELEGATED_SESSION_*",
        "client: cloud sessions, Remote Control, self-hosted runners and claude gateway"),
    Row("harmless", "CLAUDE_BG_* CLAUDE_PTY_HOST_* CLAUDE_CODE_SHELL_HANDOVER_KEY CLAUDE_CODE_MESSAGING_*",
        "client: set by Claude Code itself for its background sessions"),
    Row("harmless", "CLAUDE_CODE_HOST_* CLAUDE_CODE_HOSTED_DESKTOP CLAUDE_CODE_AUTOUPDATER_DISABLED_BY_HOST "
        "CLAUDE_CODE_IDE_HOST_OVERRIDE CLAUDE_CODE_WORKSPACE_HOST_PATHS CLAUDE_CODE_PROGRAM_* CLAUDE_SDK_*",
        "client: how a host program shows it and where it runs; its credentials are above, by name"),
    Row("harmless", "CLAUDE_CODE_ARTIFACT* CLAUDE_ARTIFACT_* CLAUDE_CODE_MEMORY_API_* CLAUDE_CODE_SLACK_TAG_TOKEN "
        "CLAUDE_CODE_MARKETPLACE_URL CLAUDE_CODE_PLUGIN_* CLAUDE_CODE_USE_COWORK_PLUGINS CLAUDE_CODE_MCP_* "
        "CLAUDE_CODE_GB_BASE_URL CLAUDE_CODE_DEV_RAW_CHANGELOG_URL CLAUDE_CODE_NOTIFICATIONS_HOST "
        "CLAUDE_CODE_OTEL_HEADERS_HELPER_DEBOUNCE_MS CLAUDE_CHROME_TAB_GROUP_KEY",
        "client: artifacts, memory, plugins, MCP, feature flags, telemetry: no model is asked there"),
    Row("harmless", "CLAUDE_CODE_USE_NATIVE_FILE_SEARCH CLAUDE_CODE_USE_POWERSHELL_TOOL CLAUDE_CODE_TOOL_USE_ID "
        "CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY CLAUDE_CODE_EMIT_TOOL_USE_SUMMARIES CLAUDE_CODE_ARG_KEY_SHAPE "
        "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS CLAUDE_CODE_IDLE_COMPACT_MIN_TOKENS CLAUDE_CODE_*TOKEN_THRESHOLD "
        "CLAUDE_CODE_TOTAL_TOKENS_REMINDER* CLAUDE_CODE_WORKFLOW_SIZE_WARNING_TOKENS "
        "CLAUDE_CODE_ENABLE_TOKEN_USAGE_ATTACHMENT",
        "env-vars: tools, files and reminders; the word is in the name only"),
)
# fmt: on

#: which names of a client are looked at: they have one of these words
_RELEVANT = re.compile(
    "MODEL|URL|HOST|SOCKET|TOKEN|KEY|AUTH|_USE_|PROVIDER|GATEWAY|BEDROCK|VERTEX|FOUNDRY|MANTLE|AWS|PROFILE|FEDERAT|"
    "CREDENTIAL|CREDS|OAUTH|ENDPOINT|ACCOUNT|ORGANIZATION|WORKSPACE|BETAS|HEADERS|PROXY|CERT|CONFIG_DIR|SETTINGS"
)


def _named(*kinds: Kind) -> tuple[str, ...]:
    return tuple(sorted(name for row in TABLE if row.kind in kinds for name in row.matches()))


#: emptied in the overlay and dropped from the process
EMPTIED = _named("emptied")
#: those of them that move the session past the proxies when an administrator sets them
DEFEATING = tuple(name for row in TABLE if row.past for name in row.matches())
#: replaced in the overlay and dropped from the process
REPLACED = _named("ours")
#: the user's own, where main has a route for the model that it names
MODELS = _named("model")
PINNED = _named("pin")
#: openclaude sends the values of these: names of models and limits, no credential
WITH_VALUE = tuple(sorted({*_named("pin", "model", "read"), "OPENCLAUDE_VERBOSE"}))
#: openclaude sends only that there is one
NAME_ONLY = tuple(sorted({*EMPTIED, *REPLACED}))


def row_of(name: str) -> Row | None:
    """The row that decides about a variable: by its name, else the first family; None: nobody has classified it."""
    for row in TABLE:
        if name in row.names.split():
            return row
    return next((row for row in TABLE if any(fnmatchcase(name, one) for one in row.matches())), None)


def unclassified(names: Iterable[str]) -> list[str]:
    """Those of a client's names that may decide where a session goes, and that have no row."""
    return sorted(name for name in set(names) if _RELEVANT.search(name) and row_of(name) is None)
