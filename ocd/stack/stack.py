"""What the rules look at: both files, the settings, and what LiteLLM makes of a route."""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ocd.settings.edits import REMOVED
from ocd.settings.findings import Finding, Severity
from ocd.settings.schema import Settings
from ocd.stack.litellm_file import LiteLLMFile, Where, dotted
from ocd.stack.models import ModelIds

AWS = frozenset(("bedrock", "bedrock_converse", "bedrock_mantle", "sagemaker", "sagemaker_chat"))
LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1", "0.0.0.0"))
ENVIRON = "os.environ/"
#: the variables that ocd gives each proxy beside those of [proxies.NAME.env]
PROVIDED = {
    "main": frozenset(("OCD_MAIN_KEY", "OCD_BEDROCK_KEY", "OCD_BEDROCK_URL", "PATH", "HOME")),
    "bedrock": frozenset(("OCD_BEDROCK_KEY", "OCD_AWS_REGION", "OCD_AWS_PROFILE", "PATH", "HOME")),
}
_BEDROCK_ID = re.compile(
    r"^(?:(?:us-gov|us|eu|apac|jp|au|global)\.)?(?:anthropic|amazon|meta|qwen|mistral|cohere)\."
)


@dataclass(frozen=True, slots=True)
class Route:
    """One usable entry of ``model_list``."""

    index: int
    name: str
    params: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.params["model"])

    @property
    def base(self) -> str:
        found = self.params.get("api_base") or self.params.get("base_url")
        return found if isinstance(found, str) else ""

    @property
    def base_key(self) -> str:
        return "api_base" if self.params.get("api_base") else "base_url"

    @property
    def url(self) -> SplitResult | None:
        """The address, None when there is none or it stands in a variable or is nonsense."""
        return url_of(self.base)

    @property
    def provider(self) -> str:
        """What LiteLLM takes for the provider (``get_llm_provider``), as far as the file tells."""
        explicit = self.params.get("custom_llm_provider")
        if isinstance(explicit, str) and explicit:
            return explicit
        head, slash, _ = self.model.partition("/")
        if slash:
            return head
        if _BEDROCK_ID.match(self.model) or self.model.startswith("arn:aws"):
            return "bedrock"
        return "anthropic" if self.model.startswith("claude") else ""

    def at(self, *key: str) -> Where:
        return ("model_list", self.index, "litellm_params", *key) if key else ("model_list", self.index)


def url_of(text: str) -> SplitResult | None:
    if not text or text.startswith(ENVIRON):
        return None
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        _ = url.port
    except ValueError:
        return None
    return url if url.hostname else None


def port_of(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


@dataclass(frozen=True, slots=True)
class Stack:
    """Both files, None where one cannot be read or its proxy is off. ``site``: LiteLLM's site-packages."""

    settings: Settings
    main: LiteLLMFile | None
    bedrock: LiteLLMFile | None
    toml: Path
    site: Path | None
    ids: ModelIds | None

    def files(self) -> Iterator[tuple[str, LiteLLMFile]]:
        """Name of the proxy and its file, those that can be read."""
        for name, file in (("main", self.main), ("bedrock", self.bedrock)):
            if file is not None:
                yield name, file

    def is_hop(self, route: Route) -> bool:
        """Whether a route of the main file leads to the bedrock proxy (or is meant to)."""
        if (
            route.base == ENVIRON + "OCD_BEDROCK_URL"
            or route.params.get("api_key") == ENVIRON + "OCD_BEDROCK_KEY"
        ):
            return True
        url = route.url
        if url is None or url.hostname not in LOOPBACK:
            return False
        ports = self.settings.ports()
        if port_of(url) == ports["bedrock"]:
            return True
        meant = route.provider in ("openai", "litellm_proxy", "anthropic") and self.bedrock is not None
        return meant and route.model.partition("/")[2] in names(self.bedrock)


def routes(file: LiteLLMFile | None) -> list[Route]:
    return [Route(*found) for found in file.routes()] if file is not None else []


def names(file: LiteLLMFile | None) -> list[str]:
    """What a request may ask for: model names and aliases."""
    if file is None:
        return []
    aliases = file.section("router_settings").get("model_group_alias")
    more = [str(name) for name in aliases] if isinstance(aliases, dict) else []
    return list(dict.fromkeys([route.name for route in routes(file)] + more))


def serves(known: Iterable[str], name: str) -> bool:
    """Whether one of the names or wildcards in ``known`` matches ``name``."""
    for pattern in known:
        if pattern == name:
            return True
        if "*" in pattern and re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name):
            return True
    return False


def near(name: str, known: Iterable[str]) -> str:
    """ "Did you mean …?" or what there is."""
    known = list(known)
    found = difflib.get_close_matches(name, known, 2, 0.6)
    if found:
        return f"Did you mean {' or '.join(found)}?"
    return f"There are: {', '.join(known[:8])}" if known else "The file has no models"


def found(
    severity: Severity,
    code: str,
    file: LiteLLMFile,
    where: Where,
    what: str,
    fix: str = "",
    *changes: tuple[Where, Any],
) -> Finding:
    """A finding at ``where``; ``changes`` are what ``--fix`` does in the same file."""
    possible = all(_reachable(file, at) for at, _ in changes)
    edits = tuple(file.edit(at, value) for at, value in changes) if possible else ()
    place, line = str(file.file(where)), file.line(where)
    return Finding(severity, code, place, line, dotted(where), what, fix, bool(edits), edits)


def _reachable(file: LiteLLMFile, where: Where) -> bool:
    """Whether something can be set there: no list in a section's place, nothing shared over an anchor."""
    here: Any = file.data
    for depth, part in enumerate(where, 1):
        mark = file.marks.get(where[:depth])
        if mark is not None and mark.shared:
            return False
        if here is None:
            return True
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            return False
    return True


def remove(*where: str | int) -> tuple[Where, Any]:
    return (where, REMOVED)
