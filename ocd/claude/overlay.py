"""The settings that make Claude Code talk to our proxy for one session. Pure: no file is read or written
here.

Measured precedence in Claude Code: managed settings > ``--settings`` > project > the user's settings > the
process's environment. So what counts goes into the ``env`` of the overlay file, and only managed settings
can defeat it. Variable names and defaults: Claude Code's reference of environment variables
(code.claude.com/docs/en/env-vars); the capability names were measured with Claude Code 2.1.197 and 2.1.329.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from ocd.claude import environment, picking
from ocd.claude.notices import hooks
from ocd.claude.variables import DEFEATING, EMPTIED, MODELS, REPLACED
from ocd.errors import EX_CONFIG, EX_USAGE, OcdError
from ocd.stack import families
from ocd.wire.messages import LaunchRequest

#: "none": nothing is for Anthropic, the session's credential is the proxy's own key
Auth = Literal["plan", "api-key", "none"]

#: What pins each slot. Replaced where a slot is pinned; otherwise the user's own stays, if main has a route for it.
PINS = {
    "opus": ("ANTHROPIC_DEFAULT_OPUS_MODEL",),
    "sonnet": ("ANTHROPIC_DEFAULT_SONNET_MODEL",),
    "haiku": ("ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"),
    "fable": ("ANTHROPIC_DEFAULT_FABLE_MODEL",),
}
SUBAGENTS = "CLAUDE_CODE_SUBAGENT_MODEL"
#: Claude Code takes an unknown model for the newest Claude and sends it what no other model understands.
NOT_CAPABLE = (
    "-adaptive_thinking,-effort,-max_effort,-mid_conv_system,-mid_conv_tool_change,-context_management,"
    "-tool_loaded_text"
)
KEY_HEADER = "x-litellm-api-key"
#: the account's name (``openclaude --account``); it ends in our proxy (``ocd/guest/layers/meter.py``)
ACCOUNT_HEADER = "x-ocd-account"
#: what earlier versions told sessions apart by; a user's own line with that name would be taken for it
_FORMER_HEADER = "x-ocd-session"
#: A header of the user's with one of these names would travel instead of the plan's token.
_CREDENTIAL_HEADERS = ("authorization", "x-api-key")
_ALIASES = ("default", "best", "opus", "sonnet", "haiku", "fable", "opusplan", "inherit")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Claude Code's own defaults (network-config): not set where the user has none
_TIMEOUTS = {
    "API_TIMEOUT_MS": 600_000,
    "CLAUDE_STREAM_IDLE_TIMEOUT_MS": 300_000,
    "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": 300_000,
}
_LARGEST_MS = 2_147_483_647  # a longer timer fires at once


@dataclass(frozen=True)
class Slots:
    """The model group of main's LiteLLM file behind each of Claude Code's slots; empty: it is not pinned."""

    opus: str
    sonnet: str
    haiku: str
    fable: str = ""
    #: an alias or a group for subagents that name no model of their own; empty: Claude Code's own choice
    subagents: str = ""


@dataclass(frozen=True)
class Overlay:
    """``settings`` is the overlay file's content and holds the proxy key: never print it.

    ``set`` and ``unset`` change the process's environment; ``args`` follow ``--settings FILE``; ``notices``
    are for the person.
    """

    settings: dict[str, Any] = field(repr=False)
    set: dict[str, str]
    unset: list[str]
    notices: list[str]
    args: list[str] = field(default_factory=list)
    #: the variables of slots that this session sets or empties
    pins: tuple[str, ...] = ()
    #: what Claude Code's Bash calls have of the user's again: see ``ocd.claude.environment``
    script: str = field(default="", repr=False)


def build(
    request: LaunchRequest,
    *,
    user_settings: Mapping[str, Any],
    extra_settings: Mapping[str, Any] | None,
    managed: Mapping[str, Any],
    slots: Slots,
    base_url: str,
    key: str,
    auth: Auth = "plan",
    known_models: Sequence[str] = (),
    rows: Sequence[picking.Row] = (),
    env_file: str = "",
    account: str = "",
) -> Overlay:
    """The overlay for one session. Nothing in it belongs to a process: another session may use it as well.

    ``user_settings`` is the user's own settings.json, ``extra_settings`` what they gave with ``--settings``,
    ``managed`` the administrator's. ``known_models`` are the groups of main's LiteLLM file (``claude-*``
    stands for many); empty means that they cannot be known, and no name is refused. ``rows`` say more of them
    (``ocd.stack.picker``). ``account``: what a proxy of ours is to know the session's login by, empty: nothing.
    ``env_file``: where the overlay's ``script`` is going to be, empty: nowhere.
    Raises OcdError: exit 64 for a model that main does not have, 78 when managed settings keep Claude Code away
    from the proxy.
    """
    extra = extra_settings or {}
    notices = _managed_notices(managed, base_url, key, auth)
    levels = [_env(extra), _env(user_settings), request.env]

    used, args = _chosen(request.models, slots, known_models, notices)
    settings: dict[str, Any] = copy.deepcopy(dict(extra))
    env: dict[str, Any] = settings["env"] if isinstance(settings.get("env"), dict) else {}
    for name in EMPTIED:
        if not (auth == "api-key" and name == "ANTHROPIC_API_KEY"):
            env[name] = ""
    if auth == "none":
        # Any login of Claude's stays at home: with this variable it is not sent.
        env["ANTHROPIC_AUTH_TOKEN"] = key
    env["ANTHROPIC_BASE_URL"] = base_url
    env["ANTHROPIC_CUSTOM_HEADERS"] = _headers(levels, key, account, notices)
    pins = _pins(used, levels, known_models, base_url, notices)
    pins |= _models(used, levels, known_models, notices)
    env |= pins
    # A row of the picker says how a model is handled; what has none is still told apart by this variable (2.1.332).
    told = {str(row["model"]) for row in rows if picking.behaves_as(row)}
    names = [
        name
        for name in (*filter(None, pins.values()), *args[1:], *known_models)
        if families.without_1m(name) not in told
    ]
    own_capabilities = _first(levels[:2], "CLAUDE_CODE_MODEL_CAPABILITIES")
    env["CLAUDE_CODE_MODEL_CAPABILITIES"] = _capabilities(own_capabilities, names)
    smallest = picking.window(rows)
    if smallest and not _first(levels, "CLAUDE_CODE_MAX_CONTEXT_TOKENS"):
        env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(smallest)
    slots_of = {slot: getattr(used, slot) for slot in PINS}
    own_picker = extra.get("modelPicker", user_settings.get("modelPicker"))
    picker = picking.picker(slots_of, rows, auth, own_picker) if rows else None
    if picker is not None:
        settings["modelPicker"] = picker
    for name, value in _timeouts(levels).items():
        env[name] = value
    exempt = _no_proxy(levels)
    env["NO_PROXY"] = env["no_proxy"] = exempt
    script = ""
    if env_file:
        replaced = [name for name, value in env.items() if _env(extra).get(name) != str(value)]
        script = environment.script(replaced)
        env |= {
            f"{environment.PREFIX}{name}": own
            for name in (*replaced, environment.VARIABLE)
            if (own := _first(levels[:2], name))
        }
        env[environment.VARIABLE] = env_file
    settings["env"] = env
    settings["apiKeyHelper"] = ""
    if request.terminal:
        settings["hooks"] = hooks(settings.get("hooks"))

    wanted = extra["model"] if "model" in extra else user_settings.get("model")
    model = _session_model(wanted, known_models, notices)
    if model is not None:
        settings["model"] = model

    # From the environment the client sends the name alone, so it is the name that counts there.
    own_key = "ANTHROPIC_API_KEY" in request.env or _first(levels, "ANTHROPIC_API_KEY")
    if auth == "api-key" and not own_key:
        notices.append(
            'auth = "api-key", but ANTHROPIC_API_KEY is in neither your environment nor your settings'
        )
    if request.env.get("OPENCLAUDE_VERBOSE", "") not in ("", "0"):
        aside = _set_aside(request.env, user_settings, extra, auth, pins)
        if aside:
            notices.append(f"set aside for this session: {', '.join(aside)}")
    unset = [
        name
        for name in (*EMPTIED, *REPLACED, *pins)
        if not (auth == "api-key" and name == "ANTHROPIC_API_KEY")
    ]
    if env_file:
        # The overlay has its own of these; openclaude keeps the user's for what Claude Code runs.
        unset += [
            name
            for name in env
            if name not in (*unset, "NO_PROXY", "no_proxy")
            and name not in _env(extra)
            and not name.startswith("OCD_")
        ]
    exempted = {"NO_PROXY": exempt, "no_proxy": exempt}
    return Overlay(settings, exempted, unset, notices, args, tuple(pins), script)


def _env(settings: Mapping[str, Any]) -> dict[str, str]:
    """The ``env`` of a settings file as strings; what is no plain value is not there."""
    env = settings.get("env")
    if not isinstance(env, dict):
        return {}
    return {
        str(name): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in env.items()
        if isinstance(value, str | int | float)
    }


def _first(levels: Sequence[Mapping[str, str]], name: str) -> str:
    """The value of the highest level that has one."""
    return next((level[name] for level in levels if level.get(name)), "")


# ---- models


def _chosen(
    options: Mapping[str, str], slots: Slots, known: Sequence[str], notices: list[str]
) -> tuple[Slots, list[str]]:
    provider = options.get("default-provider", "litellm")
    if provider != "litellm":
        raise OcdError(
            f"There is no provider {provider!r}",
            "openclaude knows one: litellm",
            "Use --default-provider litellm",
            exit_code=EX_USAGE,
            code="unknown-provider",
        )
    named = {
        slot: _group(options[slot], known, notices, f"--model-{slot}")
        if slot in options
        else families.group_of(slot, getattr(slots, slot), known)
        for slot in PINS
    }
    named["subagents"] = slots.subagents
    args = []
    if "model" in options:
        wanted = options["model"]
        alias = families.without_1m(wanted) in _ALIASES
        args = ["--model", wanted if alias else _group(wanted, known, notices, "--model")]
    return Slots(**named), args


def _pins(
    used: Slots, levels: Sequence[Mapping[str, str]], known: Sequence[str], base_url: str, notices: list[str]
) -> dict[str, str]:
    """The variables that pin slots: ours where a slot is pinned, emptied where the user's leads nowhere."""
    found: dict[str, str] = {}
    # What `occtl claude configure` wrote at another time is nobody's choice: the slots as they are now count.
    ours = levels[1].get("ANTHROPIC_BASE_URL", "").rstrip("/") == base_url.rstrip("/")
    for slot, variables in PINS.items():
        pinned = getattr(used, slot)
        for variable in variables:
            own = _first(levels, variable)
            if pinned:
                found[variable] = pinned
            elif ours and own and own == levels[1].get(variable):
                found[variable] = ""
            elif own and not _usable(own, known):
                found[variable] = ""
                notices.append(
                    f"{variable} names {own}, for which main has no route: this session's {slot} slot is what "
                    "Claude Code chooses"
                )
    return found


def _models(
    used: Slots, levels: Sequence[Mapping[str, str]], known: Sequence[str], notices: list[str]
) -> dict[str, str]:
    """The user's other choices of a model, emptied where they lead nowhere; and the subagents' of the settings."""
    found: dict[str, str] = {}
    for variable in MODELS:
        own = _first(levels, variable)
        bare = own.partition("@")[2] if own.startswith(("litellm@", "ll@")) else own
        if own and not _usable(bare, known):
            found[variable] = ""
            notices.append(f"{variable} names {own}, for which main has no route: it does not count here")
        elif bare != own:
            found[variable] = bare
        elif variable == SUBAGENTS and not own and used.subagents:
            found[variable] = used.subagents
    return found


def _usable(name: str, known: Sequence[str]) -> bool:
    """Whether a model that the user chose can be asked of main: no other provider's, and with a route."""
    bare = families.without_1m(name)
    if bare.startswith("arn:") or "anthropic." in bare or "/" in bare:
        return False
    return bare in _ALIASES or not known or _is_known(bare, known)


def _group(text: str, known: Sequence[str], notices: list[str], option: str) -> str:
    """The model group that ``litellm@NAME``, ``ll@NAME`` or ``NAME`` means."""
    prefix, at, name = text.partition("@")
    if not at or prefix not in ("litellm", "ll"):
        name = text
    name = _without_1m(name, notices)
    if not name:
        raise OcdError(f"{option} names no model", "", f"Example: {option} litellm@NAME", exit_code=EX_USAGE)
    if known and not _is_known(families.without_1m(name), known):
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:8]
        raise OcdError(
            f"There is no model {name!r} in the LiteLLM file of main",
            "",
            f"Nearest: {', '.join(near)}. All of them: occtl config show",
            exit_code=EX_USAGE,
            code="unknown-model",
        )
    return name


def _is_known(name: str, known: Sequence[str]) -> bool:
    return any(name == group or ("*" in group and fnmatchcase(name, group)) for group in known)


def _without_1m(name: str, notices: list[str]) -> str:
    bare = families.without_1m(name)
    if bare == name or bare in _ALIASES or bare.startswith("claude-"):
        # Claude Code makes a window of a million tokens of it, and takes it off by itself.
        return name
    notices.append(f"the suffix [1m] was taken off {name}: only Claude's models have that window")
    return bare


def _session_model(wanted: Any, known: Sequence[str], notices: list[str]) -> str | None:
    """The ``model`` for the overlay; None leaves the user's own choice as it is."""
    if not isinstance(wanted, str) or not wanted.strip():
        return None
    if wanted.startswith(("litellm@", "ll@")):
        return _group(wanted, known, notices, "model in your settings")
    name = _without_1m(wanted, notices)
    if name.startswith("arn:") or "anthropic." in name:
        notices.append(
            f"the model in your settings, {name}, belongs to another provider; this session uses opus"
        )
        return "opus"
    if name.startswith("claude-") and known and not _is_known(families.without_1m(name), known):
        notices.append(f"the model in your settings, {name}, has no route in main; this session uses opus")
        return "opus"
    return name if name != wanted else None


def _capabilities(own: str, names: Sequence[str]) -> str:
    """Clauses ``model=…`` joined by semicolons; the last that matches wins, so the user's own come first."""
    others = dict.fromkeys(
        name
        for name in names
        if "claude" not in name.lower() and name not in _ALIASES and not set(name) & set("*;,=")
    )
    return ";".join([*([own] if own else []), *(f"{name}={NOT_CAPABLE}" for name in others)])


# ---- headers, proxies, time-outs


def _headers(levels: Sequence[Mapping[str, str]], key: str, account: str, notices: list[str]) -> str:
    """The user's own headers, of all levels, and ours: Claude Code replaces the variable whole."""
    lines: dict[str, str] = {}
    for level in levels:
        for line in level.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines():
            name, colon, value = (part.strip() for part in line.partition(":"))
            lowered = name.lower()
            if (
                not colon
                or not name
                or lowered in lines
                or lowered in (KEY_HEADER, _FORMER_HEADER, ACCOUNT_HEADER)
            ):
                continue
            if lowered in _CREDENTIAL_HEADERS:
                notices.append(
                    f"your custom header {name} was left out: it would replace the credential of the session"
                )
                continue
            lines[lowered] = f"{name}: {value}"
    # The key last: what reads a former version's line looks for its end.
    named = [f"{ACCOUNT_HEADER}: {account}"] if account else []
    return "\n".join([*lines.values(), *named, f"{KEY_HEADER}: Bearer {key}"])


def _no_proxy(levels: Sequence[Mapping[str, str]]) -> str:
    """What is not to go through an ``HTTP_PROXY``: the user's list and the loopback addresses."""
    own = _first(levels, "NO_PROXY"), _first(levels, "no_proxy")
    entries = [entry.strip() for text in own for entry in text.replace(" ", ",").split(",")]
    return ",".join(dict.fromkeys([*filter(None, entries), *_LOOPBACK]))


def _timeouts(levels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The user's time-outs in milliseconds, none shorter than Claude Code's own, which a long answer needs."""
    raised = {}
    for name, least in _TIMEOUTS.items():
        own = _first(levels, name)
        if own:
            raised[name] = _at_least(own, least)
    # Behind a proxy Claude Code otherwise ends a body that is silent for five minutes; a plain answer may be.
    raised["API_FORCE_IDLE_TIMEOUT"] = _first(levels, "API_FORCE_IDLE_TIMEOUT") or "0"
    return raised


def _at_least(text: str, least: int) -> str:
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        value = 0
    return str(min(max(value, least), _LARGEST_MS))


# ---- what stands against us


def _set_aside(
    environ: Mapping[str, str],
    user: Mapping[str, Any],
    extra: Mapping[str, Any],
    auth: Auth,
    pins: Mapping[str, str],
) -> list[str]:
    """Names of the user's that this session does without, each with its place. Never a value."""
    places = [("environment", environ), ("settings.json", _env(user)), ("--settings", _env(extra))]
    found = []
    for name in (*EMPTIED, *REPLACED, *pins):
        if auth == "api-key" and name == "ANTHROPIC_API_KEY":
            continue
        # The client sends names without values; in a settings file an empty value means nothing.
        where = [place for place, env in places if (name in env if place == "environment" else env.get(name))]
        if where:
            found.append(f"{name} ({', '.join(where)})")
    helper = [
        place
        for place, level in (("settings.json", user), ("--settings", extra))
        if level.get("apiKeyHelper")
    ]
    if helper:
        found.append(f"apiKeyHelper ({', '.join(helper)})")
    return found


def _managed_notices(managed: Mapping[str, Any], base_url: str, key: str, auth: Auth) -> list[str]:
    """Notices about managed settings that change the session; raises OcdError (exit 78) if they defeat it."""
    env = _env(managed)
    defeated = []
    if env.get("ANTHROPIC_BASE_URL", base_url).rstrip("/") != base_url.rstrip("/"):
        defeated.append("env.ANTHROPIC_BASE_URL")
    if (
        "ANTHROPIC_CUSTOM_HEADERS" in env
        and f"{KEY_HEADER}: Bearer {key}" not in env["ANTHROPIC_CUSTOM_HEADERS"]
    ):
        defeated.append("env.ANTHROPIC_CUSTOM_HEADERS")
    defeated += [
        f"env.{name}"
        for name in DEFEATING
        if env.get(name, "").lower() not in ("", "0", "false", "no", "off")
    ]
    if defeated:
        raise OcdError(
            "The managed settings of this machine keep Claude Code away from the proxy",
            f"they set {', '.join(defeated)}, and managed settings beat all others",
            "Ask your administrator, or run claude itself",
            exit_code=EX_CONFIG,
            code="managed-settings",
        )
    changed = [
        f"env.{name}"
        for name in (*EMPTIED, *REPLACED, *MODELS)
        if env.get(name)
        and name != "ANTHROPIC_BASE_URL"
        and name not in DEFEATING
        and not (auth == "api-key" and name == "ANTHROPIC_API_KEY")
    ]
    changed += [name for name in ("apiKeyHelper", "model", "availableModels") if managed.get(name)]
    if (
        auth != "none"
        and managed.get("forceLoginMethod")
        and managed["forceLoginMethod"] != ("claudeai" if auth == "plan" else "console")
    ):
        changed.append("forceLoginMethod")
    if not changed:
        return []
    return [f"managed settings of this machine beat openclaude's in: {', '.join(changed)}"]
