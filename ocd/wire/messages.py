"""Every message of the control API, once. HTTP/1.1 and JSON over the control socket; ``docs/api.md`` has examples.

| call | body | answer |
|---|---|---|
| GET /v1/version | | Version |
| GET /v1/status | | Status |
| POST /v1/launch | LaunchRequest | LaunchReply; as an exec plan with ``Accept: text/x-ocd-exec`` |
| POST /v1/reload | ReloadRequest | Outcome |
| POST /v1/proxies/{name}/restart, stop, start | | Outcome |
| GET /v1/proxies/{name}/wait?for=ready&timeout=60 | | Outcome |
| GET /v1/logs/{name}?lines=100&follow=0 | | LogLine, one JSON object a line |
| GET /v1/events?lines=100&follow=0 | | Event, one JSON object a line |
| GET /v1/requests?lines=100&follow=0 | | Exchange, one JSON object a line |
| POST /v1/usage/write | | Outcome, when the figures so far are in the file |
| GET /v1/config | | ConfigReply |
| POST /v1/shutdown | | Outcome, then the daemon drains and ends |

An error is ``{"error": Problem}`` with a fitting HTTP status.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ocd import API_VERSION
from ocd.core.state import State
from ocd.errors import OcdError


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(Message):
    """What went wrong, why, what to do; ``exit`` is the exit code that a command should end with."""

    code: str
    what: str
    why: str = ""
    next: str = ""
    exit: int = 70

    @classmethod
    def of(cls, error: OcdError) -> "Problem":
        """The same as a message."""
        return cls(
            code=error.code, what=error.what, why=error.why, next=error.next_step, exit=error.exit_code
        )


class ErrorReply(Message):
    error: Problem


class Version(Message):
    api: int = API_VERSION
    version: str
    pid: int
    litellm: str = ""


class Holder(Message):
    """A foreign process that listens on a port of ours; empty fields could not be known without root."""

    pid: int | None = None
    user: str = ""
    command: str = ""
    since: float | None = None
    address: str = ""


class Member(Message):
    """One process of a proxy. ``role``: booting, spare, accepting, serving, hung, draining, stopping."""

    generation: int
    pid: int | None
    role: str
    since: float
    memory: int | None = None
    connections: int | None = None
    in_flight: int | None = Field(default=None, description="requests that it is answering now")


class Trouble(Message):
    """What an upstream answers instead of the model, until a request of that model group succeeds again.

    ``kind`` is one of the lasting words of ``Exchange.trouble``: login-expired, plan-limit, overloaded,
    access-denied, model-access, aws-expired, throttled, unreachable, model-gone.
    """

    kind: str
    model: str = ""
    slot: str = ""
    what: str
    next: str = ""
    since: float
    last: float
    count: int


def _known(state: object) -> object:
    """A state of another version's daemon is something to wait for: whoever reads it says that the versions differ."""
    return state if state in list(State) else State.STARTING


class ProxyStatus(Message):
    """``state``: disabled, stopped, draining, idle, starting, ready, blocked, crash-loop, failed."""

    state: Annotated[State, BeforeValidator(_known)]
    wanted: str = "up"
    pid: int | None = None
    port: int
    generation: int = 0
    restarts: int = 0
    since: float
    reason: str = ""
    next_step: str = ""
    cause: str = Field(
        default="",
        description="why the last process ended: crash, boot-failure, hang, memory, operator, reload",
    )
    holder: Holder | None = None
    memory: int | None = Field(
        default=None,
        description="bytes, the serving process and its children: PSS, or RSS where the system does not tell it",
    )
    config: str = Field(default="", description="the LiteLLM file")
    revision: str = Field(default="", description="content hash of the configuration that is serving")
    rejected: str = Field(default="", description="why a newer configuration is not serving")
    spare: str = Field(default="none", description="none, arming, armed")
    retry_at: float | None = None
    fallbacks: int = Field(
        default=0, description="requests that moved to another model group, since the supervisor started"
    )
    last_fallback: str = Field(default="", description="the latest of them: from, to, why, outcome")
    last_fallback_at: float | None = None
    troubles: list[Trouble] = Field(default=[], description="upstream troubles that last, the latest first")
    members: list[Member] = []


class Session(Message):
    pid: int
    cwd: str
    since: float
    requests: int = 0
    tokens: int = Field(default=0, description="input and output of those requests")
    last_slot: str = Field(default="", description="slot of the latest request, or its model group")
    last_upstream: str = Field(default="", description="the host that answered the latest request")
    last_request: float | None = None
    kind: str = Field(default="", description="background: Claude Code hosts it by itself; empty: openclaude")
    id: str = Field(default="", description="Claude Code's id of the session, as far as it is known")
    account: str = Field(default="", description="the account (openclaude --account) that it uses")


class PlanWindow(Message):
    """One of a plan's limits, as Anthropic states it with each answer."""

    name: str = Field(description="5h, 7d, …: Anthropic's own names")
    used: float = Field(description="share of the limit, 1.0: all of it")
    reset: float | None = Field(default=None, description="when it begins again, seconds since 1970")
    status: str = ""


class PlanLimit(Message):
    """What is known of one login's limits. ``login`` is a salted hash of it, always the same here."""

    login: str
    accounts: list[str] = Field(
        default=[], description="the accounts (openclaude --account) whose sessions used it last"
    )
    windows: list[PlanWindow]
    binding: str = Field(default="", description="the window that counts now")
    seen: float = Field(description="when Anthropic said so last")
    spilling: bool = Field(default=False, description="its requests go to AWS until the reset")


class BudgetUse(Message):
    """One of the budgets for AWS, in US dollars at list price."""

    period: str = Field(description="day or month")
    spent: float
    limit: float
    near: bool = Field(default=False, description="it is used to [budget] warn_at, or up")
    used_up: bool = False
    action: str = Field(default="warn", description="what is done then: warn, refuse, plan")
    resets: float = Field(description="when the next period begins, seconds since 1970")
    unpriced: int = Field(default=0, description="requests whose price is not known, and not in it")


class Status(Message):
    api: int = API_VERSION
    version: str
    pid: int
    keeper_pid: int
    since: float
    mode: str = Field(default="fork", description="fork or spawn")
    litellm: str = ""
    proxies: dict[str, ProxyStatus]
    sessions: list[Session] = []
    problems: list[Problem] = []
    limits: list[PlanLimit] = []
    budgets: list[BudgetUse] = Field(default=[], description="what AWS may cost, as far as it is set")
    trace_until: float | None = Field(
        default=None, description="whole exchanges are kept until then (occtl trace); none: they are not"
    )
    external: str = Field(
        default="", description="the external LiteLLM server that sessions use, empty: our own proxies"
    )


class LaunchRequest(Message):
    """What openclaude tells the daemon. ``env`` holds only the variables that the overlay needs to see."""

    pid: int = Field(ge=0, le=2**31 - 1)
    cwd: str
    env: dict[str, str] = {}
    settings: str | None = Field(
        default=None, description="the user's own --settings: a file's path or JSON text"
    )
    models: dict[str, str] = Field(
        default={}, description="model options: model, opus, sonnet, haiku, default-provider"
    )
    profile: str = Field(
        default="",
        description="the profile of ocd.toml that was asked for; none: not the project's either; empty: the project's",
    )
    wait: float = Field(
        default=1.0, ge=0, le=30, description="seconds to hold the answer while a proxy is starting"
    )
    terminal: bool = Field(default=False, description="a person looks at the session's terminal")
    client_api: int = API_VERSION


class LaunchReply(Message):
    """``set``/``unset`` change the environment, ``args`` stand before the user's own arguments."""

    ready: bool
    progress: str = ""
    set: dict[str, str] = {}
    unset: list[str] = []
    args: list[str] = []
    notices: list[str] = []


class ReloadRequest(Message):
    proxy: str | None = None
    dry_run: bool = False


class TraceRequest(Message):
    seconds: float = Field(ge=0, le=86400, description="keep the exchanges of so many seconds; 0: no longer")
    slot: str = Field(default="", pattern="^(opus|sonnet|haiku|fable|)$", description="of this slot only")


class Outcome(Message):
    """What a verb did. ``ok`` false: nothing was changed for the worse, ``reason`` says why."""

    ok: bool
    changed: bool = False
    reason: str = ""
    proxies: dict[str, str] = Field(default={}, description="per proxy: what happened, one sentence")
    problems: list[Problem] = []


class LogLine(Message):
    time: float
    proxy: str
    generation: int
    pid: int
    stream: str
    text: str


class Exchange(Message):
    """One request that a proxy answered, as the hook inside it saw it: no prompt, no header, no secret.

    ``trouble`` is empty when all went well, else one word of the list in ``docs/api.md``.
    """

    time: float = Field(description="when the answer was complete, seconds since 1970")
    proxy: str
    generation: int
    path: str = Field(description="/v1/messages, /v1/messages/count_tokens, …; never a query")
    model: str = Field(default="", description="the model group that was asked for")
    slot: str = Field(default="", description="opus, sonnet, haiku, fable, or empty: none of them")
    session: int | None = Field(default=None, description="pid of the openclaude session")
    hop: bool = Field(default=False, description="it came from the other proxy, and is counted there")
    probe: bool = Field(default=False, description="occtl doctor --online asked, its plan's login is made up")
    upstream: str = Field(default="", description="the host that answered, empty: none was asked")
    provider: str = Field(
        default="", description="who that is: anthropic, bedrock, or as LiteLLM names it; empty: not known"
    )
    answered_by: str = Field(default="", description="the model that answered, as the upstream names it")
    status: int
    stream: bool = False
    first: float | None = Field(default=None, description="seconds to the first token (plain: first byte)")
    first_byte: float | None = Field(
        default=None, description="seconds to the first byte of the answer's body"
    )
    seconds: float
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float | None = Field(default=None, description="US dollars at list price; None: not known")
    fallback: str = Field(default="", description="from, to, why; empty: none was taken")
    session_id: str = Field(default="", description="Claude Code's id of the session")
    agent_id: str = Field(default="", description="Claude Code's id of the subagent that asked")
    parent_agent_id: str = Field(default="", description="the agent that started that one")
    login: str = Field(
        default="", description="a salted hash of the client's own login, always the same for it"
    )
    account: str = Field(default="", description="the account (openclaude --account) whose session it is")
    limits: dict[str, str] = Field(
        default={}, description="what Anthropic says of the login's limits: anthropic-ratelimit-unified-NAME"
    )
    trouble: str = ""


class Event(Message):
    """``kind`` is a closed list in ``docs/api.md``; ``data`` never holds a secret."""

    time: float
    kind: str
    proxy: str = ""
    generation: int | None = None
    text: str = ""
    data: dict[str, Any] = {}


class ConfigReply(Message):
    folder: str
    files: dict[str, str]
    settings: dict[str, Any]
