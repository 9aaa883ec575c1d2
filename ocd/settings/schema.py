"""What the user may set: ``ocd.toml`` and the environment, typed, bounded, every key described.

Order: environment over ``ocd.toml`` over the defaults. Variables are ``OCD_`` and the key's path, levels
joined by ``__`` (``OCD_PROXIES__MAIN__SPARE=false``), lists and tables as JSON; an empty variable counts as
unset. Names of the project's predecessor keep their meaning: see ``SEED_NAMES``. The template, the
manual and ``docs/configuration.md`` are made from the descriptions here (``ocd.settings.describe``).
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ocd.paths import is_name

#: environment variables of the seeds' launcher → the key that they set
SEED_NAMES = {
    "OPENCLAUDE_AWS_PROFILE": "aws_profile",
    "OPENCLAUDE_AWS_REGION": "aws_region",
    "OPENCLAUDE_LITELLM_PORT": "port",
    "LITELLM_BASE_URL": "external.base_url",
}

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Environment = dict[str, SecretStr]


class Section(BaseModel):
    """Unknown keys are errors; a text is no number; nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Slots(Section):
    """Which model group of litellm.yaml serves each of Claude Code's slots. An empty slot is not pinned:
    Claude Code itself chooses the model, and a route like claude-* takes the request."""

    opus: str = Field(
        default="",
        description="The model group that the opus slot is pinned to; empty: what Claude Code chooses.",
    )
    sonnet: str = Field(
        default="",
        description="The model group that the sonnet slot is pinned to; empty: what Claude Code chooses.",
    )
    haiku: str = Field(
        default="qwen-3-coder",
        description="The model group for the haiku slot and for Claude Code's background calls; empty: what "
        "Claude Code chooses.",
    )
    fable: str = Field(
        default="",
        description="The model group that the fable slot is pinned to; empty: what Claude Code chooses.",
    )
    subagents: str = Field(
        default="",
        description="The model of subagents that name none themselves: a slot (opus, sonnet, haiku, fable) or a model "
        "group; empty: what Claude Code chooses.",
    )

    def pins(self) -> dict[str, str]:
        """The slots themselves: slot → the group that it is pinned to, empty where it is not."""
        return self.model_dump(exclude={"subagents"})


class LiteLLM(Section):
    """The LiteLLM that serves."""

    python: str = Field(
        default="",
        description="Interpreter of an environment that has LiteLLM (another version, a patched one); "
        "empty: the one that was installed with ocd.",
    )
    mode: Literal["auto", "fork", "spawn"] = Field(
        default="auto",
        description="How proxies are started: fork (from a process that imported LiteLLM once: fast, shares "
        "memory), spawn (each from scratch), auto (fork on Linux, spawn elsewhere).",
    )
    args: list[str] = Field(
        default=[], description="Further options of the litellm command, for both proxies."
    )
    pipe: Literal["auto", "off"] = Field(
        default="auto",
        description="auto: requests to Anthropic and to the bedrock proxy pass untouched beside LiteLLM where the "
        "LiteLLM file allows it (occtl models says which and why); off: everything goes through LiteLLM.",
    )
    advisories: str = Field(
        default="https://api.osv.dev",
        description="Who is asked what is published against the installed packages, by `occtl sbom --advisories` "
        "and `occtl doctor --online` alone; empty: nobody.",
    )


class Proxy(Section):
    """One proxy."""

    enabled: bool = Field(default=True, description="Whether this proxy is run at all.")
    config: str = Field(
        default="", min_length=1, description="Its LiteLLM file; relative to the configuration folder."
    )
    spare: bool = Field(
        default=True,
        description="Keep a second process booted that takes over at once when the first ends "
        "(costs about 45 MB with mode fork, about 300 MB with spawn: there only when this is set).",
    )
    workers: int = Field(default=1, ge=1, le=32, description="Serving processes.")
    memory_limit_mb: int = Field(
        default=2048,
        ge=0,
        le=1_048_576,
        description="Above so much memory (MB, the process and its children) it is replaced without dropping "
        "a request; 0: no limit.",
    )
    env: Environment = Field(
        default={},
        description="Further environment variables for this proxy alone, DATABASE_URL for instance. "
        "It inherits nothing else.",
    )

    @field_validator("env")
    @classmethod
    def _names_are_usable(cls, value: Environment) -> Environment:
        for name in value:
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"{name!r} cannot be the name of an environment variable")
            if name.startswith("OCD_"):
                raise ValueError(f"{name} is set by ocd itself and cannot be set here")
            if "\0" in value[name].get_secret_value():
                raise ValueError(f"the value of {name} holds a NUL byte, which no environment can carry")
        return value


class MainProxy(Proxy):
    """The proxy that Claude Code talks to: it has the plan's token pass through and no AWS credentials."""

    config: str = Field(
        default="litellm.yaml",
        min_length=1,
        description="Its LiteLLM file; relative to the configuration folder.",
    )

    @field_validator("env")
    @classmethod
    def _no_aws(cls, value: Environment) -> Environment:
        for name in value:
            if name.upper().startswith("AWS_"):
                raise ValueError(f"{name} is refused here: AWS credentials belong to the bedrock proxy alone")
        return value


class BedrockProxy(Proxy):
    """The proxy with the AWS credentials: the plan's token never reaches it."""

    config: str = Field(
        default="litellm-bedrock.yaml",
        min_length=1,
        description="Its LiteLLM file; relative to the configuration folder.",
    )

    @field_validator("env")
    @classmethod
    def _no_anthropic(cls, value: Environment) -> Environment:
        for name in value:
            if name.upper().startswith("ANTHROPIC_"):
                raise ValueError(
                    f"{name} is refused here: Anthropic credentials belong to the main proxy alone"
                )
        return value


class Proxies(Section):
    """The two proxies."""

    main: MainProxy = Field(default=MainProxy(), description="The proxy that Claude Code talks to.")
    bedrock: BedrockProxy = Field(default=BedrockProxy(), description="The proxy with the AWS credentials.")


class Supervision(Section):
    """When a proxy counts as started, hung or broken, and what is done then. All times in seconds."""

    start_timeout: Seconds = Field(
        default=60.0, description="A process that is not ready after so long has failed to start."
    )
    drain_timeout: Seconds = Field(
        default=600.0,
        description="How long a process that was replaced may finish the answers that it is giving: since the last "
        "byte of any of them; since the beginning when it is stopped for good.",
    )
    stop_timeout: Seconds = Field(
        default=10.0, description="From the request to end until the process is killed."
    )
    liveness_interval: Seconds = Field(
        default=4.0, description="Between two looks at whether a proxy still answers."
    )
    liveness_timeout: Seconds = Field(
        default=2.0, description="An answer that takes longer counts as missed."
    )
    liveness_misses: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Missed answers in a row that mean a hang: another serves beside it.",
    )
    hang_timeout: Seconds = Field(
        default=30.0,
        description="A process that hangs and still has connections is ended after so long; until then another "
        "serves beside it.",
    )
    idle_minutes: float = Field(
        default=60.0,
        ge=0,
        le=525_600,
        allow_inf_nan=False,
        description="Minutes without a request after which a proxy's processes end until the next; 0: never.",
    )
    memory_interval: Seconds = Field(default=30.0, description="Between two looks at the memory in use.")
    max_draining: int = Field(
        default=8, ge=1, le=100, description="At most so many replaced processes finish side by side."
    )


class Logs(Section):
    """The log files in the state folder."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged."
    )
    max_mb: int = Field(
        default=10, ge=1, le=1024, description="A log file that grows beyond so many MB is rotated."
    )
    keep: int = Field(default=5, ge=0, le=100, description="Rotated files kept of each log.")
    total_mb: int = Field(
        default=100, ge=1, le=102_400, description="All logs together; the oldest go first."
    )


class External(Section):
    """A LiteLLM that somebody else runs: openclaude uses it, ocd supervises nothing. Its key is no setting:
    LITELLM_API_KEY in the daemon's environment, or what `occtl init --preset external` took from it."""

    enabled: bool = Field(
        default=False, description="Send Claude Code there instead of to the main proxy of ocd."
    )
    base_url: str = Field(
        default="", description="Its address without /v1, https://litellm.example.com for instance."
    )

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable or any(ord(character) <= 32 for character in value):
            raise ValueError("an address is expected: https://HOST or http://HOST:PORT")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("the address alone is expected; the key belongs into LITELLM_API_KEY")
        return value.rstrip("/").removesuffix("/v1")


class Team(Section):
    """A team's Bedrock proxy: what would go to the bedrock proxy of this machine goes there instead, with a key of its
    own, which is no setting: OCD_TEAM_KEY in the daemon's environment, or what `occtl init --preset team` took from it.
    The plan's login never goes along."""

    url: str = Field(
        default="",
        description="Its address without /v1, https://bedrock.team.example for instance (http only on this machine); "
        "empty: the bedrock proxy of ocd is asked.",
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value:
            return value
        plain = External(base_url=value).base_url
        parts = urlsplit(plain)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("https:// is needed: the key and the conversation go there")
        return plain


class Metrics(Section):
    """Figures for Prometheus; `occtl metrics` has them without any port."""

    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Serve OpenMetrics at http://127.0.0.1:PORT/metrics, to every program on this machine; "
        "0: on no port.",
    )


class Notifications(Section):
    """What is told on the desktop."""

    desktop: bool = Field(
        default=False, description="Show events as desktop notifications (notify-send, osascript)."
    )
    kinds: list[str] = Field(
        default=[
            "crash-loop",
            "blocked",
            "reload-rejected",
            "credential-refused",
            "upstream-trouble",
            "fallback",
            "log-degraded",
            "plan-limit-near",
            "spill-started",
            "spill-ended",
            "budget-near",
            "budget-used-up",
        ],
        description="The kinds of events that are shown (docs/api.md lists all); each at most once a minute.",
    )


class Usage(Section):
    """The figures of `occtl usage`, in usage.db in the state folder."""

    keep: Literal["details", "days", "off"] = Field(
        default="details",
        description="details: requests, tokens and cost by the hour, with folder, branch, session and subagent; days: "
        "by day, model group and slot alone; off: nothing. What is in the file stays there.",
    )


class Plan(Section):
    """The Claude plan's limits, as Anthropic states them with each answer."""

    warn_at: list[int] = Field(
        default=[75, 90],
        description="Per cents of a window (5 hours, 7 days) at which an event says so; an empty list: never.",
    )

    @field_validator("warn_at")
    @classmethod
    def _are_per_cents(cls, value: list[int]) -> list[int]:
        if any(not 1 <= one <= 100 for one in value):
            raise ValueError("whole per cents from 1 to 100 are expected")
        return sorted(set(value))


class StatusLine(Section):
    """What `occtl statusline` shows below Claude Code's prompt."""

    parts: list[Literal["state", "route", "tokens", "limits", "fallback", "troubles", "cost"]] = Field(
        default=["state", "route", "tokens", "limits", "fallback", "troubles"],
        description="state: proxies that do not serve; route: slot and upstream of the latest request; tokens: of the "
        "session; limits: the plan's binding window and budgets; fallback: one that was taken in the last ten minutes; "
        "troubles: what an upstream refuses; cost: what the session cost on AWS. In this order.",
    )

    @field_validator("parts")
    @classmethod
    def _are_named_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("a part is named twice")
        return value


class Spill(Section):
    """Requests that go to AWS while the plan's limit is nearly reached (`occtl spill on`)."""

    at: int = Field(
        default=0,
        ge=0,
        le=100,
        description="From so many per cent of the plan's binding window on, until its reset; 0: never.",
    )
    routes: dict[str, str] = Field(
        default={},
        description="Slot or model group of main -> model group of main with a route on AWS, "
        '{ opus = "claude-opus-bedrock" } for instance; empty: the groups\' own fallbacks on AWS.',
    )


class Search(Section):
    """Requests with a tool that only Anthropic's servers run (web search and the like), of a slot on AWS."""

    slot: str = Field(
        default="",
        description="The slot (opus, sonnet, haiku, fable) or model group on the Claude plan that answers them, with "
        "the session's own login; empty: they are refused, and Claude Code says so.",
    )


class Budget(Section):
    """What AWS may cost. Counted is every request that the bedrock proxy answers, in US dollars at the list price that
    LiteLLM's table has: an estimate, not the bill."""

    day: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="US dollars a day (local time); 0: no budget.",
    )
    month: float = Field(
        default=0.0, ge=0, le=1e6, allow_inf_nan=False, description="US dollars a month; 0: no budget."
    )
    warn_at: int = Field(
        default=80, ge=0, le=100, description="Per cent of a budget at which an event says so; 0: never."
    )
    action: Literal["warn", "refuse", "plan"] = Field(
        default="warn",
        description="When a budget is used up: warn: only say so; refuse: main answers what would go to AWS with an "
        "error (424) until the next day or month; plan: it sends that to plan_model on the Claude plan.",
    )
    plan_model: str = Field(
        default="",
        validate_default=True,
        description='With action = "plan": the model that answers instead, as it is asked for; main needs a route to '
        "Anthropic for it. A request without the plan's login is refused.",
    )

    @field_validator("plan_model")
    @classmethod
    def _plan_has_a_model(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("action") == "plan" and not value:
            raise ValueError('action = "plan" needs plan_model, the model that answers instead')
        return value


class Boundary(Section):
    """What of LiteLLM is reachable beside the routes that Claude Code needs."""

    pass_through: bool = Field(
        default=False,
        description="Open LiteLLM's pass-through routes (/anthropic/*, /openai/*, …), which call out.",
    )
    admin: bool = Field(
        default=False,
        description="Open LiteLLM's admin pages (installed by `install.py --full`) and key management.",
    )
    confine: bool = Field(
        default=True,
        description="Keep each proxy away from folders that it does not need (Landlock, Linux 5.13 or newer): "
        "main sees no credential of AWS, Google or Azure, bedrock no login of Claude's. Turn it off when code of "
        "your own beside the LiteLLM files must read other folders.",
    )


class Profile(Section):
    """Other slots, or another AWS profile, for the sessions that ask for it: `openclaude --profile NAME`, or a trusted
    `.ocd.toml` in their folder (docs/profiles.md). What is not set here is as under [slots]."""

    opus: str | None = Field(default=None, description="As [slots] opus, for these sessions.")
    sonnet: str | None = Field(default=None, description="As [slots] sonnet, for these sessions.")
    haiku: str | None = Field(default=None, description="As [slots] haiku, for these sessions.")
    fable: str | None = Field(default=None, description="As [slots] fable, for these sessions.")
    subagents: str | None = Field(default=None, description="As [slots] subagents, for these sessions.")
    aws_profile: str = Field(
        default="",
        description="The AWS profile that pays for their slots on AWS; the bedrock file needs groups that sign with it "
        "(`occtl aws route NAME` adds them). Empty: as for all others.",
    )


class KeyStore(Section):
    """Where our own keys are kept, and those for an external or a team's server."""

    store: Literal["files", "keyring"] = Field(
        default="files",
        description="files: in the state folder, readable by you alone; keyring: in the desktop's keyring (Secret "
        "Service, KWallet, Keychain), which needs the Python library keyring in ocd's environment and an unlocked "
        "desktop whenever the daemon starts. Keys move when it changes.",
    )


class Settings(BaseSettings):
    """Everything in ``ocd.toml``. ``ocd.settings.load.load`` makes it; ``Settings()``: the defaults."""

    model_config = SettingsConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        env_prefix="OCD_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    port: int = Field(
        default=4000,
        ge=1,
        le=65534,
        description="The main proxy's port, on 127.0.0.1 and ::1; Claude Code uses it.",
    )
    bedrock_port: Port | None = Field(
        default=None, description="The bedrock proxy's port; not set: the port after the main proxy's."
    )
    aws_profile: str = Field(
        default="openclaude",
        description="The AWS profile of the bedrock proxy; empty, or not set and no profile of the default's name: "
        "AWS's default chain.",
    )
    aws_region: str = Field(
        default="us-west-2",
        min_length=1,
        description="The AWS region of the bedrock proxy; not set: the profile's own, if it has one.",
    )
    auth: Literal["plan", "api-key", "none"] = Field(
        default="plan",
        description="What pays for the Anthropic side: the Claude plan's login, or an API key; none: nothing "
        "goes to Anthropic, and Claude Code sends the proxy's own key instead of a login.",
    )
    isolation: Literal["overlay", "separate"] = Field(
        default="overlay",
        description="overlay: Claude Code uses your own ~/.claude with a settings file on top; "
        "separate: a folder of its own, ~/.openClaude.",
    )
    slots: Slots = Field(default=Slots(), description="Model groups of Claude Code's slots.")
    profiles: dict[str, Profile] = Field(
        default={},
        description="Profiles for some sessions, a table [profiles.NAME] each: opus, sonnet, haiku, fable, subagents "
        "as under [slots], and aws_profile (docs/profiles.md).",
    )
    litellm: LiteLLM = Field(default=LiteLLM(), description="The LiteLLM that serves.")
    proxies: Proxies = Field(default=Proxies(), description="The two proxies.")
    supervision: Supervision = Field(
        default=Supervision(), description="Starting, watching, restarting; times in seconds."
    )
    logs: Logs = Field(default=Logs(), description="Log files.")
    metrics: Metrics = Field(default=Metrics(), description="Figures for Prometheus.")
    notifications: Notifications = Field(default=Notifications(), description="What is told on the desktop.")
    usage: Usage = Field(default=Usage(), description="The figures of occtl usage.")
    plan: Plan = Field(default=Plan(), description="The Claude plan's limits.")
    statusline: StatusLine = Field(default=StatusLine(), description="Claude Code's status line.")
    spill: Spill = Field(default=Spill(), description="What goes to AWS near the plan's limit.")
    search: Search = Field(default=Search(), description="Who searches the web for a slot on AWS.")
    budget: Budget = Field(default=Budget(), description="What AWS may cost.")
    boundary: Boundary = Field(default=Boundary(), description="What of LiteLLM is reachable.")
    keys: KeyStore = Field(default=KeyStore(), description="Where keys are kept.")
    external: External = Field(default=External(), description="A LiteLLM that somebody else runs.")
    team: Team = Field(default=Team(), description="A team's Bedrock proxy in the place of our own.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read behind the caller's back: ``ocd.settings.load.load`` joins the sources."""
        return (init_settings,)

    @field_validator("bedrock_port")
    @classmethod
    def _ports_differ(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError("both proxies cannot have the same port")
        return value

    @field_validator("profiles")
    @classmethod
    def _profiles_have_names(cls, value: dict[str, Profile]) -> dict[str, Profile]:
        for name in value:
            if not is_name(name) or name == "none":
                raise ValueError(
                    f"{name!r} cannot be a profile's name: letters, digits, dots, underscores and dashes are allowed, "
                    "40 at most; none means no profile"
                )
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics_have_their_own_port(cls, value: Metrics, info: ValidationInfo) -> Metrics:
        port = info.data.get("port", 0)
        if value.port and value.port in (port, info.data.get("bedrock_port") or port + 1):
            raise ValueError(f"port {value.port} is one of the proxies'; the metrics need another")
        return value

    def ports(self) -> dict[str, int]:
        """Each proxy's TCP port."""
        bedrock = self.port + 1 if self.bedrock_port is None else self.bedrock_port
        return {"main": self.port, "bedrock": bedrock}

    def proxy(self, name: str) -> Proxy:
        """The section ``[proxies.NAME]``; KeyError for any name but main and bedrock."""
        return {"main": self.proxies.main, "bedrock": self.proxies.bedrock}[name]
