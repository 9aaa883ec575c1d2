"""What all deployments have in common, and the user's own files as a server takes them."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ocd.errors import EX_CONFIG, EX_USAGE, OcdError
from ocd.mask import mask
from ocd.settings.schema import Settings

Identity = Literal["file", "workload", "instance"]

#: the user and group that the image runs as; in no image's list of users
USER = 10001
PORT, METRICS = 8443, 9464
#: seconds for which a server accepts after SIGTERM, and what it needs once the last answer has ended (``ocd.team``)
LINGER, AFTER = 5, 30
#: MB, measured (docs/team.md, "What it takes"): what a server needs, and where something is wrong with it
MEMORY, MOST_MEMORY = 640, 1536
#: where the image has and expects what
CONFIG, STATE, PYTHON = "/etc/ocd", "/var/lib/ocd", "/opt/ocd/app/bin/python"
LITELLM_FILE, SETTINGS_FILE = "litellm-bedrock.yaml", "ocd.toml"
CREDENTIALS = "/run/secrets/aws_credentials"

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*(@sha256:[0-9a-f]{64})?", re.IGNORECASE)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_SECRET_NAMES = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_NO_SECRETS = re.compile(r"tokens$|_(per|cost|limit)|key_(alias|header)", re.IGNORECASE)
_ENVIRON = "os.environ/"


@dataclass(frozen=True, slots=True)
class Deployment:
    """``image``: its name; ``drain``: seconds for answers to end; ``litellm`` and ``toml``: the two files' texts;
    ``identity``: who signs: a credentials file from the engine's store, what the platform puts into the environment
    (EKS, ECS), or the machine's role. ``postgres``: a database in the deployment, else an address in a secret."""

    image: str
    litellm: str
    toml: str
    replicas: int = 2
    drain: int = 600
    identity: Identity = "file"
    tls: bool = True
    postgres: bool = False
    role: str = ""

    @property
    def grace(self) -> int:
        """Seconds from SIGTERM until the engine may kill: never before the server itself has given up."""
        return LINGER + self.drain + AFTER

    def command(self, certificate: str, key: str) -> list[str]:
        """What the image is started with."""
        tls = ["--cert", certificate, "--key", key] if self.tls else ["--plain"]
        more = ["--linger", str(LINGER), "--drain", str(self.drain)]
        return ["--listen", f"0.0.0.0:{PORT}", *tls, "--metrics", f"0.0.0.0:{METRICS}", *more]

    def check(self) -> list[str]:
        """What an engine's health check runs in the container."""
        return [PYTHON, "-I", "-m", "ocd.team.ready", str(PORT), *([] if self.tls else ["--plain"])]


def checked(image: str, role: str) -> None:
    """Raises OcdError (exit 64) for what would be no name in a file of the engine's."""
    for what, text, form in (("image", image, _IMAGE), ("role", role, _ROLE)):
        if text and not form.fullmatch(text):
            raise OcdError(
                f"The {what} cannot be used",
                f"{text!r} is no name of an image" if what == "image" else f"{text!r} is no ARN of a role",
                "Correct --image" if what == "image" else "Write arn:aws:iam::ACCOUNT:role/NAME",
                exit_code=EX_USAGE,
                code=f"export-{what}",
            )


def flow(words: list[str]) -> str:
    """A list of texts as YAML in one line."""
    return "[" + ", ".join(json.dumps(word) for word in words) + "]"


def toml(settings: Settings, identity: Identity, drain: int) -> str:
    """The server's ``ocd.toml``: region and boundary are the user's; no profile, since no ``~/.aws`` is there."""
    lines = [
        "# Made by `occtl export` from the settings of who ran it. Every key: docs/configuration.md.",
        f"aws_region = {json.dumps(settings.aws_region)}",
        'aws_profile = ""',
        "",
        "[proxies.main]",
        "enabled = false",
        "",
        "[proxies.bedrock]",
        f'config = "{LITELLM_FILE}"',
        "",
        "[supervision]",
        "# LiteLLM finishes its answers for as long as the server in front of it",
        f"drain_timeout = {float(drain)}",
    ]
    if identity != "workload":
        name, value = ("AWS_SHARED_CREDENTIALS_FILE", CREDENTIALS)
        if identity == "instance":
            name, value = ("AWS_EC2_METADATA_DISABLED", "false")
        lines += ["", "[proxies.bedrock.env]", f"{name} = {json.dumps(value)}"]
    changed = settings.boundary.model_dump(exclude_defaults=True, mode="json")
    if changed:
        lines += ["", "[boundary]", *(f"{name} = {json.dumps(value)}" for name, value in changed.items())]
    return "\n".join(lines) + "\n"


def litellm(data: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The bedrock proxy's file (its includes merged) as a server takes it, and what was left out of it, in sentences.

    Raises OcdError (exit 78) where a credential, or a path of this machine, stands in it: neither may leave it.
    """
    secrets, paths = [], []
    for where, value in _texts(data, ""):
        name = where.rpartition(".")[2]
        named = _SECRET_NAMES.search(name) and not _NO_SECRETS.search(name)
        if mask(value) != value or mask(f"{name}: {value}") != f"{name}: {value}" or named:
            if not value.startswith(_ENVIRON):
                secrets.append(where)
        elif value.startswith(("/", "~", "file:")):
            paths.append(where)
    if secrets:
        raise OcdError(
            "The bedrock proxy's file cannot be exported",
            f"a credential stands in it, at {', '.join(secrets)}",
            "Take it out: the platform's identity, or a file from the engine's store, signs there",
            exit_code=EX_CONFIG,
            code="export-secret",
        )
    if paths:
        raise OcdError(
            "The bedrock proxy's file cannot be exported",
            f"a path of this machine stands in it, at {', '.join(paths)}",
            "Take it out: there is no such file in a container",
            exit_code=EX_CONFIG,
            code="export-path",
        )
    left: list[str] = []
    return _dump(_without_profiles({k: v for k, v in data.items() if k != "include"}, left)), left


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}[{number}]")
    elif isinstance(value, str):
        yield where, value


def _without_profiles(data: dict[str, Any], left: list[str]) -> dict[str, Any]:
    routes = []
    for route in data.get("model_list") or []:
        params = dict(route.get("litellm_params") or {}) if isinstance(route, dict) else {}
        profile = params.pop("aws_profile_name", "")
        if profile and not str(profile).startswith(_ENVIRON):
            left.append(
                f"{route.get('model_name')}: no profile {profile} there, the server's own login signs"
            )
        routes.append({**route, "litellm_params": params} if params else route)
    return {**data, "model_list": routes}


def _dump(data: Any) -> str:
    """YAML of the plainest kind; texts in quotes, so that none of them is read as something else."""
    return "# Made by `occtl export` from the bedrock proxy's own file.\n" + "\n".join(_block(data, 0)) + "\n"


def _block(value: Any, depth: int) -> Iterator[str]:
    space = "  " * depth
    if isinstance(value, Mapping):
        for name, inner in value.items():
            head = f"{space}{name if re.fullmatch(r'[A-Za-z_][A-Za-z_0-9]*', str(name)) else json.dumps(str(name))}:"
            if inner and isinstance(inner, Mapping | list):
                yield head
                yield from _block(inner, depth + 1)
            else:
                yield f"{head} {_scalar(inner)}"
        return
    for inner in value:
        if inner and isinstance(inner, Mapping | list):
            first, *rest = _block(inner, depth + 1)
            yield f"{space}- {first[len(space) + 2 :]}"
            yield from rest
        else:
            yield f"{space}- {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else json.dumps(str(value))
    if value is None or isinstance(value, bool | int | str | Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(str(value))
