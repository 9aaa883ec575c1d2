"""What each model group of the bedrock proxy can do: facts for the layer that speaks Anthropic's contract there.

Pure: LiteLLM's table of models, read from its JSON, and the user's own ``model_info``, which wins. A group with several
deployments can do what all of them can: LiteLLM takes turns. The answer is part of the revision and of the boot
message (``ocd.guest.layers.requests.Facts`` reads it).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ocd.stack.litellm_file import LiteLLMFile

#: Beside the configuration in a revision's folder.
FILE = "ocd-contract.json"

_PREFIXES = ("bedrock/", "bedrock_converse/", "converse/", "converse_like/", "invoke/")
_REGION = re.compile(r"^[a-z]{2}(?:-[a-z]+)+-\d/")
_PROFILE = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|global|ca|sa)\.")
#: the part of an id that says whose model it is → the family; Bedrock's ids begin with the maker's name
_FAMILIES = {
    "anthropic.": "claude",
    "claude": "claude",
    "amazon.nova": "nova",
    "meta.llama": "llama",
    "openai.gpt-oss": "gpt-oss",
    "openai.gpt": "gpt",
    "deepseek": "deepseek",
    "qwen": "qwen",
    "mistral": "mistral",
    "ai21": "ai21",
    "cohere": "cohere",
}
#: families whose models take stop sequences (Amazon Bedrock's user guide, inference parameters of each model). The
#: others answer "This model doesn't support the stopSequences field", 400, to every request that has one: gpt-oss,
#: Qwen 3 and DeepSeek V3 do (crewAI#3317, langchain-aws#664); those that are new are not asked to find out.
_STOPS = frozenset({"claude", "nova", "llama", "mistral", "ai21", "cohere"})
#: families that take a wish to think as an effort, and what LiteLLM's source has where it knows how each wants it
EFFORTS = frozenset({"gpt-oss", "gpt", "deepseek", "nova"})
_KNOWS = {
    "gpt": b"_is_openai_gpt_reasoning_model",
    "deepseek": b"_is_deepseek_model",
    "nova": b"_is_nova_2_model",
    "gpt-oss": b"gpt-oss",
}
#: Sections of a LiteLLM file whose presence means: something of the user's may change answers on their way. What only
#: logs them (``success_callback``) sees LiteLLM's own all the same.
_LOOKING = ("callbacks", "guardrails", "cache", "post_call_rules", "pre_call_rules")


def contract(
    file: LiteLLMFile, table: Mapping[str, Any], efforts: Collection[str] = EFFORTS
) -> dict[str, Any]:
    """The facts for one LiteLLM file: ``groups`` (name → facts), ``open`` (other names may be served), ``direct``
    (nothing wants to see or change answers on their way). ``efforts``: the families whose form of an effort this
    LiteLLM knows (``efforts_of``)."""
    routes: dict[str, list[dict[str, Any]]] = {}
    entries = file.data.get("model_list")
    for index, name, params in file.routes():
        entry = entries[index] if isinstance(entries, list) else {}
        info = entry.get("model_info")
        routes.setdefault(name, []).append(
            facts_of(params, info if isinstance(info, dict) else {}, table, efforts)
        )
    groups = {name: _least(facts) for name, facts in routes.items() if "*" not in name}
    router = file.section("router_settings")
    aliases = router.get("model_group_alias")
    for alias, target in (aliases if isinstance(aliases, dict) else {}).items():
        wanted = target.get("model") if isinstance(target, dict) else target
        if wanted in groups:
            groups[str(alias)] = groups[wanted]
    general, settings = file.section("general_settings"), file.section("litellm_settings")
    # Models that are added at run time, or by a name with a star, cannot be listed here.
    wild = any("*" in name for name in routes)
    opened = bool(wild or general.get("store_model_in_db") or general.get("database_url"))
    looking = any(settings.get(name) for name in _LOOKING) or bool(file.data.get("guardrails"))
    looking = looking or any(params.get("guardrails") for _index, _name, params in file.routes())
    return {"groups": groups, "open": opened, "direct": not looking}


def efforts_of(site: Path | None) -> frozenset[str]:
    """The families of ``EFFORTS`` whose form the LiteLLM in ``site`` knows: 1.99.4 gives DeepSeek Claude's."""
    if site is None:
        return EFFORTS
    try:
        source = (site / "litellm/llms/bedrock/chat/converse_transformation.py").read_bytes()
    except OSError:
        return EFFORTS
    unknown = {family for family, name in _KNOWS.items() if name not in source}
    return EFFORTS - unknown


def facts_of(
    params: Mapping[str, Any],
    info: Mapping[str, Any],
    table: Mapping[str, Any],
    efforts: Collection[str] = EFFORTS,
) -> dict[str, Any]:
    base = info.get("base_model")
    model = base if isinstance(base, str) and base else str(params["model"])
    bare = bare_id(model)
    known = _entry(model, bare, table)
    merged = {**known, **{name: value for name, value in info.items() if value is not None}}

    def able(name: str, otherwise: bool) -> bool:
        found = merged.get(f"supports_{name}")
        return found if isinstance(found, bool) else otherwise

    family = family_of(bare)
    arn = ":application-inference-profile/" in bare or bare.startswith("arn:")
    if arn and not family:
        # An inference profile's name says nothing; LiteLLM takes it for one of Claude's models.
        family = "claude"
    # LiteLLM makes a cachePoint of a cache_control where the id says Claude or is an ARN, and nowhere else: Nova by its
    # foundation model's ARN has prompt caching, by its name it has none (docs/fidelity.md).
    caching = family == "claude" or (arn and family == "nova")
    caching = caching and able("prompt_caching", arn) and able("prompt_cache_breakpoint", True)
    # Of an ARN it cannot see that Amazon's model takes its own form of that wish.
    reasoning = able("reasoning", arn) and not (arn and family == "nova")
    return {
        "model": bare[:120],
        "family": family,
        "max_input_tokens": _number(merged.get("max_input_tokens")),
        "max_output_tokens": _number(merged.get("max_output_tokens") or merged.get("max_tokens")),
        "caching": caching,
        "thinking": _thinking(family, bare, efforts) if reasoning else "",
        "adaptive": able("adaptive_thinking", False),
        "effort": able("output_config", False),
        # The table leaves out what a model cannot do, and has gaps for what it can: an unknown model is asked.
        "vision": able("vision", not known or _sees(bare)),
        "documents": able("pdf_input", not known),
        "tools": able("function_calling", True),
        "stop_sequences": able(
            "stop_sequences", family in _STOPS or (family == "deepseek" and ".r1" in bare)
        ),
    }


def _thinking(family: str, bare: str, efforts: Collection[str]) -> str:
    """In which form the model takes a wish to think; most that reason do so unasked, and refuse to be asked."""
    if family == "claude":
        return "claude"
    asked = {"nova": "nova-2" in bare, "deepseek": ".r1" not in bare}
    if family in efforts and asked.get(family, True):
        return "effort"
    return ""


def _sees(bare: str) -> bool:
    """Models with eyes that LiteLLM's table (1.106.2) has as blind: Meta's model cards, Mistral's Pixtral."""
    return "llama4" in bare or "pixtral" in bare or "llama3-2-11b" in bare or "llama3-2-90b" in bare


def _entry(model: str, bare: str, table: Mapping[str, Any]) -> dict[str, Any]:
    plain = bare.rpartition("/")[2] if bare.startswith("arn:") else bare
    for name in (model, bare, plain, _PROFILE.sub("", plain), f"bedrock/{bare}"):
        found = table.get(name)
        if isinstance(found, dict):
            return dict(found)
    return {}


def bare_id(model: str) -> str:
    """``bedrock/converse/us-east-1/us.x`` → ``us.x``; an ARN stays whole."""
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if model.startswith(prefix):
                model, changed = model[len(prefix) :], True
        if match := _REGION.match(model):
            model, changed = model[match.end() :], True
    return model


def family_of(bare: str) -> str:
    """Whose model it is, empty when the id does not say."""
    plain = _PROFILE.sub("", bare.rpartition("/")[2] if bare.startswith("arn:") else bare)
    return next((family for start, family in _FAMILIES.items() if plain.startswith(start)), "")


def _least(facts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What all deployments of a group can do."""
    first, *rest = facts
    found = dict(first)
    for other in rest:
        for name, value in other.items():
            mine = found[name]
            if isinstance(mine, bool):
                found[name] = mine and value
            elif isinstance(mine, int) or isinstance(value, int):
                found[name] = min((one for one in (mine, value) if one is not None), default=None)
            elif mine != value and name != "model":
                found[name] = ""
    return found


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
